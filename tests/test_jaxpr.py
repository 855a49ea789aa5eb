"""Reading traced programs: one walk, and calls that are looked into wherever values or derivatives allow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax  # noqa: F401
from qspjax._jaxpr._comparisons import watched
from qspjax._jaxpr._guarded import guarded
from qspjax._jaxpr._known import computed
from qspjax._jaxpr._linearity import linear_structure
from qspjax._jaxpr._regular import regular, under_roots
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax._jaxpr._walk import bind, called, compute_all, equations, walk_all

CALLS = {"jit": jax.jit, "checkpoint": jax.checkpoint, "both": lambda f: jax.jit(jax.checkpoint(f))}
Y = jnp.array([0.0, 2.0])


@jax.custom_jvp
def clipped(x):
    return jnp.where(x > 1.0, 1.0, x)


clipped.defjvps(lambda tangent, _, x: tangent)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_reading_looks_into_calls(call):
    def field(t, y):
        return call(lambda y: jnp.stack([2.0 * y[1], y[1] + y[0]]))(y)

    program = jax.make_jaxpr(field)(0.0, Y)
    assert {eqn.primitive.name for eqn in equations(program.jaxpr)}.isdisjoint({"jit", "pjit", "checkpoint", "remat2"})
    np.testing.assert_array_equal(compute_all(program, [0.0, Y])[0], field(0.0, Y))
    assert linear_structure(program, [1]).pattern.tolist() == [[True, True], [True, True]]
    assert jacobian_pattern(lambda y: field(0.0, y), Y).tolist() == [[False, True], [True, True]]

    def root(y):
        return call(lambda y: jnp.sqrt(y[0]) * y[1])(y)

    assert jax.grad(regular(root))(Y).tolist() == [0.0, 0.0]
    assert under_roots(jax.make_jaxpr(root)(Y), [{"y"}]) == {"y"}

    def share(y):
        return call(lambda y: jnp.stack([y[0] / (y[0] * y[0]), y[1] ** 2]))(y)

    assert jax.jacrev(guarded(share))(Y).tolist() == [[0.0, 0.0], [0.0, 4.0]]
    seen = watched(lambda t, y: call(lambda t, y: (y[0] > 1.0) & (t < 3.0))(t, y), 1.0, Y)
    assert seen.gaps.tolist() == [-1.0, -2.0]
    assert seen.timed.tolist() == [False, True]


def test_gaps_that_are_straight_lines_in_time_are_told_from_those_that_curve():
    def compared(t, y):
        hour = t - 24.0 * jnp.floor(t / 24.0)
        lines = (t < 5.0), (2.0 * t - y[0] > 1.0), (hour < 12.0), (jnp.where(t < 2.0, t, 3.0) < y[0]), (y[0] ** 2 > 1.0)
        curves = (jnp.cos(t) > 0.4), (t * t < y[0]), (y[0] / t > 1.0)
        return jnp.stack([*lines, *curves])

    seen = watched(compared, 1.0, Y)
    curved = [gap for gap, curve in zip(seen.gaps.tolist(), seen.curved, strict=True) if curve]
    np.testing.assert_allclose(curved, [np.cos(1.0) - 0.4, 1.0 - float(Y[0]), float(Y[0]) - 1.0])
    assert not (seen.curved & ~seen.timed).any()


def test_derivatives_of_ones_own_are_kept_where_they_matter():
    (eqn,) = jax.make_jaxpr(clipped)(2.0).eqns
    assert called(eqn) is None
    assert called(eqn, derivatives=False) is not None
    for wrap in (guarded, regular):
        assert jax.grad(lambda x: wrap(clipped)(x))(2.0) == 1.0  # noqa: B023
    assert watched(lambda t, y: clipped(y), 0.0, jnp.asarray(2.0)).gaps.tolist() == [1.0]


def _known_program(x, table):
    index = jnp.where(x < 0, x + 5, x)
    rows = table[index]
    inside = table.at[x].get(mode="fill", fill_value=-1.0)
    dropped = table.at[x].get(mode="fill")
    window = jax.lax.dynamic_slice(table, (x[1], 0), (2, 2))
    batched = jax.vmap(lambda row, k: row[k])(table, jnp.array([0, 2, 1, 1, 0]))
    joined = jnp.concatenate([rows, inside, dropped, window.repeat(2, axis=1)[:, :3]])
    return joined.T[::-1, 1:], jnp.stack([x, x]) * jnp.arange(4), batched, (table > 1.5).astype(int).sum()


def test_what_is_known_is_computed_in_numpy_as_jax_computes_it():
    x, table = jnp.array([0, -1, 3, 7]), jnp.arange(15.0).reshape(5, 3)
    seen = set()

    def apply(eqn, operands):
        inner = called(eqn)
        if inner is not None:
            return walk_all(inner, operands, apply, lambda value: value)
        seen.add(eqn.primitive.name)
        expected, found = bind(eqn, operands), computed(eqn, operands)
        for want, got in zip(expected, found, strict=True):
            assert np.asarray(want).dtype == np.asarray(got).dtype
            np.testing.assert_array_equal(want, got)
        return expected

    results = walk_all(jax.make_jaxpr(_known_program)(x, table), [x, table], apply, lambda value: value)
    for got, want in zip(results, _known_program(x, table), strict=True):
        np.testing.assert_array_equal(got, want)
    assert {"gather", "select_n", "concatenate", "iota", "broadcast_in_dim", "transpose"} <= seen
