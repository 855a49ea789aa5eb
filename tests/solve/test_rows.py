"""Programs evaluated with the lanes last, against `vmap`; scatters and sums that are loops, against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax  # noqa: F401
from qspjax._jaxpr._lanes import evaluate, put, total

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


def test_total_is_the_sum_of_rows():
    rows = np.random.default_rng(0).normal(size=(7, LANES))
    np.testing.assert_allclose(total(jnp.asarray(rows)), rows.sum(0), rtol=1e-14)
    np.testing.assert_array_equal(total(tuple(jnp.asarray(rows))), total(jnp.asarray(rows)))
