"""Target-mediated drug disposition: rest, balances of drug and target, equilibrium, doses in mg, errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qspjax import models
from qspjax._model import as_state
from qspjax._names import names, state_names

ARGUMENTS = {
    "CL": 0.2, "V1": 3.0, "Q": 0.5, "V2": 4.0, "kon": 1.5, "koff": 0.3, "kdeg": 0.6, "kint": 0.1, "R0": 10.0
}  # fmt: skip
IV = models.TMDD(**ARGUMENTS)
SC = models.TMDDSubcutaneous(**ARGUMENTS, ka=0.25, tlag=0.1, F=0.7)
BOTH = pytest.mark.parametrize("model", [IV, SC], ids=["iv", "sc"])


def state(model, **values):
    return model.initial()._replace(**values)


def test_states_are_in_order():
    assert state_names(as_state(IV, None)) == ("central", "peripheral", "target", "complex")
    assert state_names(as_state(SC, None)) == ("depot", "central", "peripheral", "target", "complex")


@BOTH
def test_the_baseline_stays(model):
    assert all(float(leaf) == 0.0 for leaf in model.vector_field(0.0, as_state(model, None)))
    observed = model.observe(0.0, as_state(model, None))
    assert {name: float(value) for name, value in observed.items()} == {
        "concentration": 0.0, "free": 0.0, "total": 0.0, "target_free": 10.0, "target_total": 10.0, "occupancy": 0.0
    }  # fmt: skip


@BOTH
def test_drug_and_target_are_lost_only_as_the_equations_say(model):
    y = state(model, central=5.0, peripheral=2.0, target=4.0, complex=3.0)
    if model is SC:
        y = y._replace(depot=8.0)
    change = model.vector_field(0.0, y)
    drug = 3.0 * (change.central + change.complex) + 4.0 * change.peripheral + (change.depot if model is SC else 0.0)
    assert float(drug) == pytest.approx(-0.2 * 5.0 - 3.0 * 0.1 * 3.0, rel=1e-12)
    assert float(change.target + change.complex) == pytest.approx(0.6 * (10.0 - 4.0) - 0.1 * 3.0, rel=1e-12)
    assert float(change.complex) == pytest.approx(1.5 * 5.0 * 4.0 - (0.3 + 0.1) * 3.0, rel=1e-12)
    assert float(change.peripheral) == pytest.approx(0.5 / 4.0 * 3.0, rel=1e-12)


def test_the_steady_state_under_a_held_concentration_is_that_of_the_paper():
    # With L held: C = R L / Kss with Kss = (koff + kint) / kon, and R = kdeg R0 / (kdeg + kint L / Kss).
    L, Kss = 2.0, 0.4 / 1.5
    R = 0.6 * 10.0 / (0.6 + 0.1 * L / Kss)
    change = IV.vector_field(0.0, state(IV, central=L, peripheral=L, target=R, complex=R * L / Kss))
    np.testing.assert_allclose([change.peripheral, change.target, change.complex], 0.0, atol=1e-12)


def test_doses_in_mg_become_nmol_and_nM():
    # 150 mg of 150 kDa are 1000 nmol, in 3 L.
    assert 150.0 * float(IV.deliveries()["central"].scale) == pytest.approx(1000.0 / 3.0)
    depot, central = (SC.deliveries()[target] for target in ("depot", "central"))
    assert 150.0 * float(depot.scale) == pytest.approx(1000.0)
    assert (float(depot.lag), float(depot.bioavailability)) == (0.1, 0.7)
    assert (float(central.lag), float(central.bioavailability)) == (0.0, 1.0)
    small = models.TMDD(**ARGUMENTS, molar_mass=50.0)
    assert float(small.deliveries()["central"].scale) == pytest.approx(20.0 / 3.0)


@BOTH
def test_the_assay_measures_what_the_user_says(model):
    y = state(model, central=5.0, target=4.0, complex=3.0)
    observed = model.observe(0.0, y)
    assert (observed["free"], observed["total"], observed["concentration"]) == (5.0, 8.0, 8.0)
    assert float(observed["occupancy"]) == pytest.approx(3.0 / 7.0)
    arguments = ARGUMENTS | ({"ka": 0.25} if model is SC else {})
    assert type(model)(**arguments, assayed="free").observe(0.0, y)["concentration"] == 5.0
    with pytest.raises(
        ValueError, match=r"^Argument `assayed` must name what the assay measures \(free, total\), but is `bound`\.$"
    ):
        type(model)(**arguments, assayed="bound")


@BOTH
def test_every_parameter_and_state_has_a_unit_and_a_meaning(model):
    for p in names(model):
        assert p.doc
        assert (p.unit == "") == (p.name == "F")
    assert (model.units.time, model.units.dose) == ("d", "mg")
    assert set(model.units.states) == set(model.initial()._fields)
    assert set(model.units.observed) == set(model.observe(0.0, model.initial())) - {"occupancy"}


def test_wrong_numbers_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"^Argument `kon` must be positive, but is 0\.$"):
        models.TMDD(**(ARGUMENTS | {"kon": 0.0}))


@BOTH
def test_gradients_are_finite_without_drug_and_models_are_built_inside_jit_and_vmap(model):
    gradient = eqx.filter_grad(lambda m: m.observe(0.0, as_state(m, None))["occupancy"])(model)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))

    def start(R0):
        arguments = ARGUMENTS | ({"ka": 0.25} if model is SC else {}) | {"R0": R0}
        return type(model)(**arguments).initial().target

    np.testing.assert_array_equal(jax.jit(jax.vmap(start))(jnp.array([1.0, 2.0])), [1.0, 2.0])
