"""Programs evaluated with the lanes last, against `vmap`; scatters and sums that are loops, against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax  # noqa: F401
from qspjax._jaxpr._lanes import evaluate
from qspjax._jaxpr._rows import pick, put, total

LANES = 5
INDEX = jnp.array([3, 0, 3, 2])
MATRIX = np.arange(12.0).reshape(3, 4) / 7.0

FUNCTIONS = {
    "arithmetic": lambda a, y: jnp.exp(-a * y) / (1.0 + y**2) - 2.0 + jnp.maximum(y, a[0]),
    "a scalar with lanes beside an array without": lambda a, y: jnp.sum(y) * a,
    "select": lambda a, y: jnp.where(y > 0.3, a, y[0]),
    "select a number": lambda a, y: jnp.stack([jax.lax.select(y[0] > 0.3, jnp.asarray(2.0), y[1]), y[2]]),
    "clip": lambda a, y: jnp.clip(y, 0.1, a),
    "gather": lambda a, y: a[INDEX] * y[INDEX],
    "gather of rows": lambda a, y: y.reshape(2, 2)[jnp.array([1, 0, 1])].ravel() * a[0],
    "gather at an index of each lane": lambda a, y: y[jnp.argmax(y)] * a,
    "scatter": lambda a, y: jnp.zeros(4).at[INDEX].add(a * y),
    "scatter into itself": lambda a, y: y.at[INDEX].add(a),
    "scatter with the last": lambda a, y: y.at[jnp.array([-1, 1])].add(a[:2]),
    "scatter, clipped": lambda a, y: y.at[jnp.array([9, 1])].add(a[:2], mode="clip"),
    "scatter, dropped": lambda a, y: y.at[jnp.array([9, 1])].add(a[:2], mode="drop"),
    "scatter of rows": lambda a, y: jnp.zeros((3, 2)).at[jnp.array([2, 0])].add(y.reshape(2, 2)).ravel()[:4] * a,
    "set": lambda a, y: y.at[INDEX[:1]].set(a[1]),
    "slices": lambda a, y: jnp.concatenate([y[1:3], a[:1], y[::3]]),
    "reshaped": lambda a, y: (y.reshape(2, 2).T * a.reshape(2, 2)).sum(axis=0),
    "broadcast": lambda a, y: jnp.sum(y[:, None] * a[None, :], axis=1) + jnp.max(y) + jnp.flip(y),
    "stack and split": lambda a, y: jnp.stack(list(jnp.split(y, 2)))[1] + jnp.cumsum(y)[:2],
    "padded": lambda a, y: jnp.pad(y, (1, 2)) * jnp.pad(a, (0, 3)),
    "matrix": lambda a, y: MATRIX @ y + a[:3],
    "loop": lambda a, y: jax.lax.fori_loop(0, 3, lambda i, y: y * a + i, y),
    "nested": lambda a, y: jax.nn.relu(y - a) + jax.jit(jnp.tanh)(y),
    "roots": lambda a, y: jnp.sqrt(y) + jnp.cbrt(y) + jnp.log1p(y) + jax.nn.sigmoid(y) + y ** a[0],
    "without lanes": lambda a, y: a + 0.0 * y[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("batched", [False, True], ids=["shared", "own"])
def test_lanes_last_is_vmap(name, batched):
    function = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.uniform(0.1, 1.0, (4, LANES) if batched else 4))
    y = jnp.asarray(rng.uniform(0.1, 1.0, (4, LANES)))
    traced = jax.make_jaxpr(function)(a[:, 0] if batched else a, y[:, 0])
    jaxpr = traced.jaxpr
    variables = [*jaxpr.constvars, *jaxpr.invars]

    def lanes_last(a, y):
        flags = [*[False] * len(traced.consts), batched, True]
        (out,) = evaluate(variables, [*traced.consts, a, y], flags, jaxpr.eqns, jaxpr.outvars)
        return out

    mapped = jax.vmap(function, in_axes=(-1 if batched else None, -1), out_axes=-1)
    np.testing.assert_allclose(lanes_last(a, y), mapped(a, y), rtol=1e-14)
    got, expected = (jax.jacrev(f, argnums=(0, 1))(a, y) for f in (lanes_last, mapped))
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14), got, expected)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("add", [False, True])
def test_put_is_scatter(shape, add):
    rng = np.random.default_rng(0)
    target, rows = (jnp.asarray(rng.normal(size=(n, *shape))) for n in (6, 4))
    slot = jnp.array([2, 6, 0, 9])
    at = target.at[slot]
    expected = (at.add if add else at.set)(rows, mode="drop")
    np.testing.assert_array_equal(put(target, slot, rows, add=add), expected)
    np.testing.assert_array_equal(put(target, jnp.array([-1, -7, 6, 7]), rows, add=add), target)
    np.testing.assert_array_equal(put(target, jnp.array([6, 6, 1, 6]), rows, add=True)[1], target[1] + rows[2])


def test_derivatives_of_put_are_those_of_scatter():
    """In both modes, of second order, batched, with indices that are shared or each lane's own, some out of range."""
    rng = np.random.default_rng(0)
    slot = jnp.array([2, 6, 2, -1, 5, -7])
    slots = slot + jnp.arange(LANES)[:, None] - 2
    target, rows, dt, dr = (jnp.asarray(rng.normal(size=(LANES, 6))) for _ in range(4))

    def derivatives(add):
        def value(target, rows, slot):
            return add(target**2, slot, jnp.sin(rows)) ** 3

        def all_of(target, rows, slot, dt, dr):
            def gradient(target, rows):
                return jax.grad(lambda *x: jnp.sum(value(*x, slot)), (0, 1))(target, rows)

            ahead = jax.jvp(lambda *x: value(*x, slot), (target, rows), (dt, dr))
            second = jax.jvp(gradient, (target, rows), (dt, dr))
            back = jax.grad(lambda rows: jnp.sum(jnp.sin(gradient(target, rows)[1])))(rows)
            return ahead, second, back

        shared = jax.vmap(all_of, in_axes=(0, None, None, 0, None))(target, rows[0], slot, dt, dr[0])
        own = jax.vmap(all_of, in_axes=(0, None, 0, 0, 0))(target, rows[0], slots, dt, dr)
        outside = jax.grad(lambda *x: jnp.sum(jax.vmap(value, in_axes=(None, 0, 0))(*x, slots)), (0, 1))
        return shared, own, outside(target[0], rows)

    got = jax.jit(lambda: derivatives(lambda target, slot, rows: put(target, slot, rows, add=True)))()
    expected = jax.jit(
        lambda: derivatives(
            lambda target, slot, rows: target.at[slot].add(rows, mode="drop", wrap_negative_indices=False)
        )
    )()
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-13, atol=1e-13), got, expected)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_pick_is_gather_and_its_transpose_scatter(own):
    rng = np.random.default_rng(0)
    index = jnp.stack([jnp.asarray(rng.permutation(6)[:4]) for _ in range(LANES)]) if own else jnp.array([5, 0, 3, 1])
    back = jnp.full((*index.shape[:-1], 6), 4)
    back = jax.vmap(lambda i, b: b.at[i].set(jnp.arange(4)))(index, back) if own else back.at[index].set(jnp.arange(4))
    rows, tangent = (jnp.asarray(rng.normal(size=(LANES, 6))) for _ in range(2))

    def derivatives(gather):
        def both(rows, tangent, index, back):
            return jax.jvp(jax.grad(lambda rows: jnp.sum(gather(rows, index, back) ** 3)), (rows,), (tangent,))

        axes = 0 if own else None
        out = jax.vmap(gather, in_axes=(0, axes, axes))(rows, index, back)
        return out, jax.vmap(both, in_axes=(0, 0, axes, axes))(rows, tangent, index, back)

    got, expected = derivatives(pick), derivatives(lambda rows, index, back: rows[index])
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_reverse_of_put_keeps_no_target_for_each_row():
    """A loop would store the target after every row: the only large arrays here are the target and its cotangent."""
    target, rows, slot = jnp.zeros(1000), jnp.ones(100), jnp.arange(100)
    pulled = jax.make_jaxpr(jax.grad(lambda rows: jnp.sum(put(target, slot, rows, add=True) ** 2)))(rows)
    assert "100,1000" not in str(pulled)


def test_total_is_the_sum_of_rows():
    rows = np.random.default_rng(0).normal(size=(7, LANES))
    np.testing.assert_allclose(total(jnp.asarray(rows)), rows.sum(0), rtol=1e-14)
    np.testing.assert_array_equal(total(tuple(jnp.asarray(rows))), total(jnp.asarray(rows)))
