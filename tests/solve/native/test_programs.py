"""Random programs, compiled natively, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qspjax.solve.events._system import bounded as bounded_loop
from qspjax.solve.native._changes import looped as looped_backwards
from qspjax.solve.native._outlined import Outlined
from qspjax.solve.native._translate import UnsupportedError
from tests.solve.native.compiled import native

LANES = 4


def bounded(x):
    return x / (1.0 + jnp.abs(x))


def looped(x, y, limit):
    """Newton's method with a number of iterations that differs between lanes."""
    return jax.lax.while_loop(
        lambda now: (now[0] < limit) & (jnp.abs(now[1]) > 1e-3),
        lambda now: (now[0] + 1, 0.7 * now[1] + 0.1 * y),
        (0, x),
    )[1]


STEPS = {
    "add": lambda x, y, i: x + y,
    "sub": lambda x, y, i: x - 0.5 * y,
    "mul": lambda x, y, i: bounded(x) * y,
    "div": lambda x, y, i: x / (2.0 + jnp.abs(y)),
    "exp": lambda x, y, i: jnp.exp(-jnp.abs(x)) + y,
    "log": lambda x, y, i: jnp.log(1.0 + jnp.abs(x)) - y,
    "pow": lambda x, y, i: jnp.power(1.0 + jnp.abs(x), bounded(y)),
    "tanh": lambda x, y, i: jnp.tanh(x) + jnp.sin(y),
    "where": lambda x, y, i: jnp.where(x > y, bounded(x), y * 2.0),
    "max": lambda x, y, i: jnp.maximum(x, jnp.minimum(y, 0.5)),
    "flip": lambda x, y, i: x[::-1] + y,
    "sum": lambda x, y, i: x - y.sum() / 3.0,
    "total": lambda x, y, i: bounded(jnp.cumsum(x)) + y.max(),
    "dot": lambda x, y, i: bounded(x @ jnp.outer(y, x)),
    "stack": lambda x, y, i: jnp.stack([x, y])[1] + jnp.concatenate([x[1:], y[:1]]),
    "set": lambda x, y, i: x.at[1].set(y[2]).at[jnp.array([0, 0])].add(0.25),
    "element": lambda x, y, i: x + y[jnp.clip(i, 0, 2)],
    "update": lambda x, y, i: jax.lax.dynamic_update_index_in_dim(x, y[0], i, 0),
    "slice": lambda x, y, i: x + jax.lax.dynamic_slice(y, (i,), (1,)),
    "index": lambda x, y, i: x + jnp.argmax(y) * 0.125,
    "cond": lambda x, y, i: jax.lax.cond(x[0] > y[0], lambda: bounded(x) + y, lambda: y - 0.5),
    "switch": lambda x, y, i: jax.lax.switch(i, [lambda: x, lambda: y, lambda: bounded(x * y)]),
    "while": lambda x, y, i: x.at[0].set(looped(x[0], y[1], 1 + jnp.abs(i))),
    "scan": lambda x, y, i: jax.lax.scan(lambda c, v: (bounded(c) + v, c), x[0], y)[1],
    "fori": lambda x, y, i: jax.lax.fori_loop(0, 3, lambda k, v: bounded(v) + y[k], x),
    "single": lambda x, y, i: (x.astype(jnp.float32) * y.astype(jnp.float32)).astype(float) + y,
    "whole": lambda x, y, i: x + (jnp.clip(y, -99.0, 99.0).astype(jnp.int32) // 2) * 0.5,
    "even": lambda x, y, i: x + (i % 3 - (i & 1)),
    "linear": lambda x, y, i: bounded(jnp.linalg.norm(x) * y),
}  # fmt: skip


def program(rng):
    names = rng.choice(list(STEPS), rng.integers(2, 9))
    order = rng.permutation(2)

    def function(x, y, i):
        now = [x, y]
        for name in names:
            new = bounded(STEPS[name](now[order[0]], now[order[1]], i)) * 2.0
            now = [now[1], new]
        return now

    return names.tolist(), function


def compare(seed):
    rng = np.random.default_rng(seed)
    names, function = program(rng)
    x, y = rng.normal(size=(2, LANES, 3)) * 2.0
    i = rng.integers(-2, 5, LANES)
    try:
        found = native(function, x, y, i, lanes=LANES)
    except UnsupportedError as error:
        return f"{error}"
    # op by op, as `jax.core.eval_jaxpr` does; a tiny change of the input says how sensitive the program is
    results = [np.asarray(v) for v in jax.vmap(function)(x, y, i)]
    nearby = [np.asarray(v) for v in jax.vmap(function)(x * (1 + 4e-16), y * (1 - 4e-16), i)]
    for a, b, c in zip(found, results, nearby, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13 + 1e3 * np.abs(b - c).max(), err_msg=f"{seed} {names}")
    return None


@pytest.mark.parametrize("block", range(4))
def test_random_programs(block):
    reasons = [compare(1000 * block + k) for k in range(25)]
    assert all(reason is None for reason in reasons), set(reasons)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_many_random_programs(block):
    reasons = [compare(100_000 + 1000 * block + k) for k in range(50)]
    assert all(reason is None for reason in reasons), set(reasons)


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_results_do_not_depend_on_the_number_of_lanes(lanes):
    rng = np.random.default_rng(5)
    x, y, i = rng.normal(size=(16, 3)), rng.normal(size=(16, 3)), rng.integers(0, 3, 16)
    for seed in range(6):
        _, function = program(np.random.default_rng(seed))
        one, other = (native(function, x, y, i, lanes=width) for width in (4, lanes))
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_reason_is_given_for_what_is_not_translated():
    with pytest.raises(UnsupportedError, match="sort"):
        native(lambda x: jnp.sort(x), np.ones((4, 3)))


def many_operations(y):
    for k in range(20):
        y = jnp.sin(y) * (1.0 + 0.1 * k) - 0.1 * y
    return y


def test_functions_are_called_within_loops_and_branches():
    outlined = Outlined(lambda y: [many_operations(y)])

    def function(x, y, many):
        z = 2.0 * y
        looped = jax.lax.while_loop(lambda now: now[0] < 3, lambda now: (now[0] + 1, many(now[1])), (0, z))[1]
        return looped, jax.lax.cond(x[0] > 0.0, many, lambda v: v - 1.0, z)

    x, y = np.random.default_rng(6).normal(size=(2, LANES, 3))
    results = native(lambda x, y: function(x, y, lambda y: outlined(y)[0]), x, y, lanes=LANES)
    expected_results = jax.vmap(lambda x, y: function(x, y, many_operations))(x, y)
    for found, expected in zip(results, expected_results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["backwards", "forwards"])
def test_a_loop_is_differentiated(mode):
    """Its number of rounds differs between lanes; functions that call others are called in it."""
    inner = Outlined(lambda v: [many_operations(v)])
    outer = Outlined(lambda v, y: [many_operations(y) * inner(v)[0] + v])

    def ended(loop, twice, x, y, limit):
        def body(now):
            v, count, shift, most = now
            return twice(v, y) * jnp.where(count + limit > 3, 0.9, 1.1), count + 1, shift + 0.1 * v[0], most

        start = x, jnp.zeros((), int), y[1], limit[0]
        v, count, shift, _ = loop(lambda now: now[1] < now[3], body, start, 8)
        return v * shift + count

    def derivative(loop, twice):
        def function(x, y, limit):
            if mode == "forwards":
                return jax.jvp(lambda x, y: ended(loop, twice, x, y, limit), (x, y), (y, x))[1]
            return jax.grad(lambda x, y: jnp.sum(ended(loop, twice, x, y, limit) ** 2), (0, 1))(x, y)

        return function

    x, y = np.random.default_rng(8).normal(size=(2, LANES, 3))
    limit = np.array([[0], [1], [4], [2]])
    found = native(derivative(looped_backwards, lambda v, y: outer(v, y)[0]), x, y, limit, lanes=LANES)
    plain = derivative(bounded_loop, lambda v, y: many_operations(y) * many_operations(v) + v)
    for one, expected in zip(found, jax.tree.leaves(jax.vmap(plain)(x, y, limit)), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-11)


TABLE = np.random.default_rng(7).normal(size=100)
LOOKUPS = {
    "a table": lambda x, i: jnp.asarray(TABLE)[i] + jnp.asarray(TABLE.reshape(10, 10))[i, i // 2],
    "what is computed": lambda x, i: jnp.sin(x)[i] + jnp.cos(x)[jnp.stack([i, -i, i + 1])],
    "whole numbers": lambda x, i: (jnp.arange(40) + i).at[i].get(mode="fill") + (x > 0.1)[i],
    "filled": lambda x, i: x.at[i].get(mode="fill") + x.at[i].get(mode="fill", fill_value=5.0),
    "filled, known": lambda x, i: x.at[jnp.array([0, 70, -1])].get(mode="fill"),
    "whole, known": lambda x, i: (jnp.arange(40, dtype=jnp.int32) * i).at[jnp.array([0, 70])].get(mode="fill"),
    "a slice": lambda x, i: jax.lax.dynamic_slice(x, (i,), (3,)),
    "sorted": lambda x, i: jnp.searchsorted(jnp.linspace(-2.0, 2.0, 70), x, side="right") + jnp.searchsorted(x, 0.3),
    "interpolated": lambda x, i: jax.value_and_grad(
        lambda v: jnp.interp(v, jnp.linspace(-4.0, 4.0, 90), jnp.asarray(TABLE[:90]))
    )(x[0]),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_elements_are_looked_up(name):
    rng = np.random.default_rng(8)
    x, i = rng.normal(size=(24, 40)), rng.integers(-5, 120, 24)
    expected = jax.tree.leaves(jax.vmap(LOOKUPS[name])(x, i))
    for a, b in zip(native(LOOKUPS[name], x, i, lanes=LANES), expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_a_loop_of_known_length_within_another():
    coefficients = np.linspace(0.0, 1.0, 16)

    def series(x, y):
        def again(now):
            inner = jax.lax.scan(lambda p, c: (bounded(p * x) + c, None), now[1], coefficients)[0]
            return now[0] + 1, inner

        return jax.lax.while_loop(lambda now: now[0] < 2.0 + x[0], again, (0.0, y))[1]

    x, y = np.random.default_rng(2).normal(size=(2, 6, 3))
    (got,) = native(series, x, y)
    np.testing.assert_allclose(got, jax.vmap(series)(x, y), rtol=1e-13)
