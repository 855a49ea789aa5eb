"""Functions that are mapped natively have the values and derivatives of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _mapped
from qspjax.solve.native._mapped import natively

TIMES = jnp.linspace(0.0, 3.0, 7)
STATES = jnp.arange(5 * 7 * 3.0).reshape(5, 7, 3) / 50 + 0.1
PARAMETERS = {"a": jnp.linspace(1.0, 2.0, 5), "b": jnp.linspace(0.1, 0.3, 5), "c": jnp.asarray(2.0)}
AXES = {"a": 0, "b": 0, "c": None}


def observed(p, t, y):
    many = [p["a"] * jnp.exp(-p["b"] * t) + y[i] * y[(i + 1) % 3] / (1 + p["a"]) for i in range(12)]
    return {
        "array": jnp.stack(many) * p["c"],
        "number": jnp.log(many[0] + 2),
        "mask": t > 1.0,
        "itself": p["b"],
        "whole": jnp.sum(jnp.stack(many[:4])).astype(int),
    }


def everywhere(function):
    """Return a function of parameters and states of all patients at all times."""
    at_times = jax.vmap(function, in_axes=(None, 0, 0))
    return jax.vmap(lambda p, y: at_times(p, TIMES, y), in_axes=(AXES, 0))


def total(function):
    def of(p, y):
        values = everywhere(function)(p, y)
        return jnp.sum(jnp.sin(values["array"])) + jnp.sum(values["number"] * TIMES) + jnp.sum(values["itself"])

    return of


def by_xla(p, t, y):
    return observed(p, t, y)


def by_us(p, t, y):
    return natively(observed, p, t, y)


DERIVATIVES = {
    "values": lambda f: everywhere(f)(PARAMETERS, STATES),
    "reverse": lambda f: jax.grad(total(f), argnums=(0, 1))(PARAMETERS, STATES),
    "forward": lambda f: jax.jacfwd(lambda a: everywhere(f)(PARAMETERS | {"a": a}, STATES)["array"])(PARAMETERS["a"]),
    "second": lambda f: jax.hessian(lambda c: total(f)(PARAMETERS | {"c": c}, STATES))(PARAMETERS["c"]),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_jax(name):
    found, expected = (jax.jit(lambda f=f: DERIVATIVES[name](f))() for f in (by_us, by_xla))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13 * np.abs(np.asarray(b, float)).max())


def test_it_is_one_call_of_native_code():
    text = jax.jit(lambda p, y: everywhere(by_us)(p, y)["array"]).lower(PARAMETERS, STATES).as_text()
    assert text.count("stablehlo.custom_call @qspjax_") == 1
    assert "stablehlo.exponential" not in text


def test_numbers_that_are_not_finite_stay_with_their_patient():
    spoilt = STATES.at[2, 3].set(jnp.nan)
    whole, one = (jax.jit(lambda y: everywhere(by_us)(PARAMETERS, y)["array"])(y) for y in (STATES, spoilt))
    assert jnp.isnan(one[2, 3]).all()
    others = np.arange(5) != 2
    assert np.array_equal(np.asarray(whole)[others], np.asarray(one)[others])


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_bits_do_not_depend_on_lanes(lanes, monkeypatch):
    usual = jax.jit(lambda y: everywhere(by_us)(PARAMETERS, y)["array"])(STATES)
    monkeypatch.setattr(_mapped._engine, "widest", lambda: lanes)
    other = jax.jit(lambda y: everywhere(by_us)(PARAMETERS, y)["array"])(STATES)
    assert np.array_equal(np.asarray(usual), np.asarray(other))


def test_many_elements_go_over_chunks_and_threads():
    a = jnp.linspace(0.1, 3.0, 3 * _mapped.THREADED + 5)
    found, expected = (
        jax.jit(lambda a, f=f: jax.vmap(lambda a: f(PARAMETERS | {"a": a, "b": 0.1}, 1.0, jnp.ones(3))["array"])(a))(a)
        for f in (by_us, by_xla)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_what_is_called_again_is_traced_once():
    count = []

    def function(x):
        count.append(1)
        return sum(jnp.sin(x * k) for k in range(60))

    native = _mapped.Native(function)
    values = [float(native(jnp.asarray(x))) for x in (0.1, 0.2, 0.1)]
    assert len(count) == 1
    assert values[0] == values[2] == pytest.approx(sum(np.sin(0.1 * k) for k in range(60)))


@jax.custom_jvp
def straight_through(x):
    return x


straight_through.defjvp(lambda primals, tangents: (primals[0], 3.0 * tangents[0]))


def test_what_has_the_value_of_an_input_keeps_derivatives_of_its_own():
    def function(x):
        return straight_through(x), sum(jnp.sin(k * x) for k in range(60))

    assert float(jax.jit(jax.grad(lambda x: natively(function, x)[0]))(0.3)) == 3.0


def test_what_a_function_prints_is_printed(capfd):
    def function(x):
        jax.debug.print("x = {}", x)
        return sum(jnp.sin(k * x) for k in range(60))

    jax.block_until_ready(jax.jit(lambda x: natively(function, x))(0.5))
    jax.effects_barrier()
    assert "x = 0.5" in capfd.readouterr().out


def test_what_depends_on_nothing_is_a_number():
    known = jnp.linspace(0.0, 1.0, 3)

    def function(x):
        return sum(jnp.sin(k * known) for k in range(60)), jnp.ones(2) * len(x)

    for mapped in (function, lambda x: natively(function, x)):
        found = jax.jit(jax.vmap(mapped))(jnp.ones((2, 4)))
        np.testing.assert_allclose(found[0], [function([0.0] * 4)[0]] * 2, rtol=1e-13)


def test_keys_are_left_alone():
    def function(key, x):
        return jax.random.normal(key), sum(jnp.sin(k * x) for k in range(60))

    found, expected = (jax.jit(f)(jax.random.key(1), 0.5) for f in (lambda *x: natively(function, *x), function))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_more_axes_than_native_code_knows_are_left_to_xla():
    def function(x, y, z, u, v):
        return sum(jnp.sin(k * x * y) + z * u * v for k in range(60))

    operands = [jnp.linspace(0.1, 1.0, 2)] * 5
    found = jax.jit(_mapped_over_each(lambda *x: natively(function, *x)))(*operands)
    np.testing.assert_allclose(found, _mapped_over_each(function)(*operands), rtol=1e-13)


def _mapped_over_each(function):
    for axis in range(5):
        function = jax.vmap(function, in_axes=[0 if k == axis else None for k in range(5)])
    return function


def test_what_a_model_observes_is_native_in_gradients():
    model = qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=10.0, koff=1.0, kdeg=10.0, kint=5.0, R0=1.0)

    def exposure(CL):
        patient = qsp.at(model, "CL").set(CL)
        solution = qsp.simulate(patient, qsp.bolus(100.0, to="central"), jnp.linspace(0.0, 24.0, 9))
        return sum(jnp.sum(values) for values in solution.observed.values())

    native = float(jax.jit(jax.grad(exposure))(0.2))
    step = 1e-6
    assert native == pytest.approx((float(exposure(0.2 + step)) - float(exposure(0.2 - step))) / (2 * step), rel=1e-4)
