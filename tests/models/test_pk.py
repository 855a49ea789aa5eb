"""Compartment models: mass balance, hand-derived flows, closed forms, state order, and errors in the user's words."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from qspjax import models
from qspjax._names import names, state_names

CASES = {
    models.OneCompartment: ({"CL": 3.0, "V": 30.0}, "central"),
    models.OneCompartmentOral: ({"CL": 3.0, "V": 30.0, "ka": 1.2}, "depot central"),
    models.TwoCompartment: ({"CL": 3.0, "V1": 30.0, "Q": 6.0, "V2": 60.0}, "central peripheral"),
    models.TwoCompartmentOral: ({"CL": 3.0, "V1": 30.0, "Q": 6.0, "V2": 60.0, "ka": 1.2}, "depot central peripheral"),
    models.ThreeCompartment: (
        {"CL": 3.0, "V1": 30.0, "Q2": 6.0, "V2": 60.0, "Q3": 1.0, "V3": 100.0},
        "central peripheral peripheral2",
    ),
    models.ThreeCompartmentOral: (
        {"CL": 3.0, "V1": 30.0, "Q2": 6.0, "V2": 60.0, "Q3": 1.0, "V3": 100.0, "ka": 1.2},
        "depot central peripheral peripheral2",
    ),
    models.TransitAbsorption: (
        {"CL": 3.0, "V": 30.0, "ka": 1.2, "mtt": 2.0, "transits": 3},
        "transit[0] transit[1] transit[2] transit[3] absorption central",
    ),
}
PARAMETER_UNITS = {"CL": "L/h", "Q": "L/h", "V": "L", "k": "1/h", "m": "h", "t": "h", "F": ""}


def filled(model, seed=0):
    """A state of the model with every amount different."""
    leaves, tree = jax.tree.flatten(model.initial())
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.uniform(1.0, 100.0, jnp.shape(leaf))) for leaf in leaves])


@pytest.mark.parametrize("kind", CASES)
def test_states_are_in_nonmem_order_and_start_empty(kind):
    arguments, expected = CASES[kind]
    start = kind(**arguments).initial()
    assert " ".join(state_names(start)) == expected
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(start))


@pytest.mark.parametrize("kind", CASES)
def test_only_clearance_takes_mass_away(kind):
    arguments, _ = CASES[kind]
    model = kind(**arguments)
    y = filled(model)
    change = model.vector_field(0.0, y)
    assert jax.tree.structure(change) == jax.tree.structure(y)
    total = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(change))
    concentration = model.observe(0.0, y)["concentration"]
    assert concentration == pytest.approx(float(y.central) / 30.0, rel=1e-15)
    assert total == pytest.approx(-3.0 * float(concentration), rel=1e-12)


def test_flows_of_three_compartments_by_hand():
    model = models.ThreeCompartmentOral(**CASES[models.ThreeCompartmentOral][0])
    y = type(model.initial())(depot=10.0, central=60.0, peripheral=90.0, peripheral2=50.0)
    # concentrations 2, 1.5 and 0.5 mg/L: absorbed 12, lost 6, q2 = 6 * 0.5 = 3, q3 = 1 * 1.5 = 1.5 mg/h
    np.testing.assert_allclose(model.vector_field(0.0, y), [-12.0, 12.0 - 6.0 - 3.0 - 1.5, 3.0, 1.5], rtol=1e-14)


@pytest.mark.parametrize("kind", CASES)
def test_every_parameter_and_state_has_a_unit_and_a_meaning(kind):
    arguments, _ = CASES[kind]
    model = kind(**arguments)
    listed = names(model)
    assert {p.name for p in listed} >= set(arguments) - {"transits"}
    for p in listed:
        assert p.doc
        assert p.unit == PARAMETER_UNITS[p.name if p.name in PARAMETER_UNITS else p.name[0]]
        assert p.value.dtype == jnp.float64
        assert not p.value.weak_type
    assert model.units.time == "h"
    assert model.units.dose == "mg"
    assert set(model.units.states) == set(model.initial()._fields)
    assert set(model.units.observed) == set(model.observe(0.0, model.initial()))


@pytest.mark.parametrize("kind", [k for k in CASES if "depot" in CASES[k][1]])
def test_a_depot_has_lag_and_bioavailability(kind):
    arguments, _ = CASES[kind]
    delivery = kind(**arguments, tlag=0.5, F=0.7).deliveries()
    assert list(delivery) == ["depot"]
    assert [float(x) for x in (delivery["depot"].scale, delivery["depot"].lag)] == [1.0, 0.5]
    assert float(delivery["depot"].bioavailability) == 0.7
    assert float(kind(**arguments, tlag=0.0, F=0.0).F) == 0.0


@pytest.mark.parametrize("transits", [1, 3, 10])
def test_the_chain_delivers_the_input_of_savic(transits):
    arguments = CASES[models.TransitAbsorption][0] | {"transits": transits}
    model = models.TransitAbsorption(**arguments)
    ktr, n, dose = (transits + 1) / 2.0, transits, 100.0
    assert model.deliveries()["oral"].state == "transit[0]"

    def chain(t, y):
        state = type(model.initial())(transit=jnp.asarray(y[: n + 1]), absorption=y[n + 1], central=y[n + 2])
        change = model.vector_field(t, state)
        return np.concatenate([change.transit, [change.absorption, change.central]])

    def savic(t, y):
        enters = dose * ktr * (ktr * t) ** n * math.exp(-ktr * t) / math.factorial(n)
        return [enters - 1.2 * y[0], 1.2 * y[0] - 0.1 * y[1]]

    options = {"rtol": 1e-9, "atol": 1e-9, "method": "LSODA"}
    ours = solve_ivp(chain, (0, 6), [dose] + [0.0] * (n + 2), **options).y[-2:, -1]
    np.testing.assert_allclose(ours, solve_ivp(savic, (0, 6), [0.0, 0.0], **options).y[:, -1], rtol=1e-6)


def test_wrong_numbers_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"^Argument `CL` must be positive, but is -3\.$"):
        models.OneCompartment(CL=-3.0, V=30.0)
    with pytest.raises(ValueError, match=r"^Argument `tlag` must be at least 0, but is -1\.$"):
        models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.0, tlag=-1.0)
    with pytest.raises(ValueError, match=r"^Argument `V2` must be finite, but is nan\.$"):
        models.TwoCompartment(CL=3.0, V1=30.0, Q=6.0, V2=float("nan"))
    for transits in (0, True):
        with pytest.raises(ValueError, match=rf"^Argument `transits` must be a whole .* 1 .*, but is {transits}\.$"):
            models.TransitAbsorption(CL=3.0, V=30.0, ka=1.0, mtt=2.0, transits=transits)


@pytest.mark.parametrize("kind", CASES)
def test_models_are_built_inside_jit_and_vmap(kind):
    arguments, _ = CASES[kind]

    def change(CL):
        model = kind(**(arguments | {"CL": CL}))
        return model.vector_field(0.0, filled(model)).central

    CL = jnp.array([1.0, 3.0, 5.0])
    together = jax.jit(jax.vmap(change))(CL)
    np.testing.assert_allclose(together, [change(x) for x in CL], rtol=1e-14)
    gradient = eqx.filter_grad(lambda m: m.vector_field(0.0, filled(m)).central)(kind(**arguments))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_no_concrete_model_inherits_from_another():
    for kind in vars(models).values():
        if isinstance(kind, type) and issubclass(kind, eqx.Module) and dataclasses.is_dataclass(kind):
            assert not [
                p for p in kind.__mro__[1:] if "qspjax" in p.__module__ and not p.__name__.startswith("Abstract")
            ]
