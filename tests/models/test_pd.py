"""Responses: values by hand, rest without drug, derivatives at C = 0, and the coupling to pharmacokinetics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qspjax import models
from qspjax._declared import declared
from qspjax._model import as_state
from qspjax._names import at, names, state_names

PK = models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2, tlag=0.5, F=0.7)
TURNOVER = {
    models.InhibitionOfProduction: ({"Imax": 0.8, "IC50": 2.0}, lambda kin, kout, R, h: kin * (1 - 0.8 * h) - kout * R),
    models.InhibitionOfLoss: ({"Imax": 0.8, "IC50": 2.0}, lambda kin, kout, R, h: kin - kout * (1 - 0.8 * h) * R),
    models.StimulationOfProduction: (
        {"Smax": 3.0, "SC50": 2.0},
        lambda kin, kout, R, h: kin * (1 + 3.0 * h) - kout * R,
    ),
    models.StimulationOfLoss: ({"Smax": 3.0, "SC50": 2.0}, lambda kin, kout, R, h: kin - kout * (1 + 3.0 * h) * R),
}


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("C", [1e-6, 0.5, 2.0, 1e4])
def test_sigmoid_emax_is_the_hill_equation(gamma, C):
    effect = models.SigmoidEmax(E0=1.0, Emax=-4.0, EC50=2.0, gamma=gamma)
    assert float(effect(C)) == pytest.approx(1.0 - 4.0 / (1.0 + (2.0 / C) ** gamma), rel=1e-12)


@pytest.mark.parametrize(("gamma", "slope"), [(0.3, 0.5), (1.0, 0.5), (1.5, 0.0), (3.0, 0.0)])
def test_without_drug_the_effect_is_exact_and_its_derivatives_finite(gamma, slope):
    def hill(C, EC50, gamma):
        return models.SigmoidEmax(E0=0.0, Emax=1.0, EC50=EC50, gamma=gamma)(C)

    assert float(hill(0.0, 2.0, gamma)) == 0.0
    for differentiate in (jax.grad, jax.jacfwd):
        assert [float(g) for g in differentiate(hill, (0, 1, 2))(0.0, 2.0, gamma)] == [slope, 0.0, 0.0]
    for C in (0.0, 1e-310, 1e-102, 1e-12):
        for order in (jax.grad(hill, 2), jax.grad(jax.grad(hill, 2), 0), jax.grad(jax.grad(jax.grad(hill, 2), 2), 2)):
            assert np.isfinite(order(C, 2.0, gamma))


def test_emax_is_sigmoid_emax_of_one_with_its_slope():
    for C in (0.0, 1e-9, 0.7, 50.0):
        plain = jax.value_and_grad(models.Emax(E0=1.0, Emax=5.0, EC50=2.0))(C)
        np.testing.assert_allclose(
            plain, jax.value_and_grad(models.SigmoidEmax(E0=1.0, Emax=5.0, EC50=2.0, gamma=1.0))(C), rtol=1e-12
        )


@pytest.mark.parametrize("kind", TURNOVER)
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_indirect_responses_by_hand_and_at_rest(kind, gamma):
    arguments, expected = TURNOVER[kind]
    response = kind(kin=10.0, kout=0.5, gamma=gamma, **arguments)
    y = response.initial()
    assert float(y.response) == 20.0
    assert float(response.vector_field(0.0, y, 0.0).response) == 0.0
    moved = type(y)(response=7.0)
    h = 3.0**gamma / (2.0**gamma + 3.0**gamma)
    assert float(response.vector_field(0.0, moved, 3.0).response) == pytest.approx(expected(10.0, 0.5, 7.0, h))
    assert response.observe(0.0, moved, 3.0) == {"response": 7.0}


def test_effect_compartment_follows_the_concentration():
    response = models.EffectCompartment(ke0=0.5, effect=models.Emax(E0=1.0, Emax=10.0, EC50=2.0))
    y = type(response.initial())(Ce=2.0)
    assert float(response.vector_field(0.0, y, 5.0).Ce) == 1.5
    assert float(response.vector_field(0.0, y, 2.0).Ce) == 0.0
    observed = response.observe(0.0, y, 5.0)
    assert (float(observed["effect_concentration"]), float(observed["effect"])) == (2.0, 6.0)


@pytest.mark.parametrize("kind", [*TURNOVER, models.Emax, models.SigmoidEmax])
def test_every_parameter_has_a_meaning_and_states_its_dimension(kind):
    known = {"[effect]", "[concentration]", "[response]/[time]", "1/[time]", ""}
    values = {"E0": 0.0, "Emax": 1.0, "EC50": 2.0, "gamma": 1.0}
    fields = [field.name for field in dataclasses.fields(kind)]
    response = (
        kind(kin=1.0, kout=1.0, **TURNOVER[kind][0])
        if kind in TURNOVER
        else kind(**{name: values[name] for name in fields})
    )
    for p in names(response):
        assert p.doc
        assert p.unit in known
        assert (p.unit == "") == (p.name in ("Imax", "Smax", "gamma"))


def test_coupled_joins_states_fields_observations_doses_and_units():
    patient = models.Coupled(PK, models.InhibitionOfLoss(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0))
    y = as_state(patient, None)
    assert state_names(y) == ("pk.depot", "pk.central", "pd.response")
    y = type(y)(pk=type(y.pk)(depot=10.0, central=60.0), pd=type(y.pd)(response=20.0))
    change = patient.vector_field(0.0, y)
    assert [float(leaf) for leaf in jax.tree.leaves(change)] == pytest.approx([-12.0, 6.0, 4.0])
    assert patient.observe(0.0, y) == {"concentration": 2.0, "response": 20.0}
    assert list(declared(patient).deliveries()) == ["depot"]
    delivery = declared(patient).deliveries()["depot"]
    assert (delivery.state, float(delivery.lag), float(delivery.bioavailability)) == ("pk.depot", 0.5, 0.7)
    assert (patient.units.time, patient.units.dose) == ("h", "mg")
    assert patient.units.states == {"pk.depot": "mg", "pk.central": "mg"}
    assert patient.units.observed == {"concentration": "mg/L"}
    assert "pd.kout" in [p.name for p in names(patient)]
    assert float(at(patient, "pk.CL").set(6.0).pk.CL) == 6.0


def test_a_direct_effect_adds_no_state_and_coupled_models_nest():
    effect = models.SigmoidEmax(E0=0.0, Emax=1.0, EC50=2.0, gamma=2.0)
    one = models.Coupled(models.OneCompartment(CL=3.0, V=30.0), effect)
    assert state_names(one.initial()) == ("pk.central",)
    assert declared(one).deliveries() == {}
    assert jax.tree.structure(one.vector_field(0.0, one.initial())) == jax.tree.structure(one.initial())
    cascade = models.Coupled(
        models.Coupled(PK, effect), models.StimulationOfProduction(kin=1.0, kout=1.0, Smax=1.0, SC50=0.5), "effect"
    )
    assert state_names(cascade.initial()) == ("pk.pk.depot", "pk.pk.central", "pd.response")
    assert declared(cascade).deliveries()["depot"].state == "pk.pk.depot"
    y = cascade.initial()
    y = type(y)(pk=type(y.pk)(pk=type(y.pk.pk)(0.0, 60.0), pd=()), pd=y.pd)  # effect 0.5, so half of Smax
    assert float(cascade.vector_field(0.0, y).pd.response) == pytest.approx(0.5)


def test_coupled_is_driven_by_what_an_antibody_model_observes():
    drug = models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)
    patient = models.Coupled(drug, models.Emax(E0=0.0, Emax=1.0, EC50=2.0), driver="free")
    assert patient.units.time == "d"
    assert float(declared(patient).deliveries()["central"].scale) == float(drug.deliveries()["central"].scale)


class Hourly(models.AbstractEffect):
    """An effect that says it computes in hours."""

    units = models.TMDD.units.__class__(time="h")

    def __call__(self, C):
        return C


def test_what_does_not_fit_together_is_refused_in_one_sentence():
    effect = models.Emax(E0=0.0, Emax=1.0, EC50=2.0)
    with pytest.raises(
        ValueError, match=r"^Argument `driver` must name a value that `pk` observes \(concentration\), but is `free`\.$"
    ):
        models.Coupled(PK, effect, driver="free")
    with pytest.raises(ValueError, match=r"^Argument `pd` must not observe .* too, but both observe `effect`\.$"):
        models.Coupled(models.Coupled(PK, effect), effect)
    drug = models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)
    with pytest.raises(ValueError, match=r"^Argument `pd` must compute .* of `pk`, `d`, but computes in `h`\.$"):
        models.Coupled(drug, Hourly())
    with pytest.raises(ValueError, match=r"^Argument `Imax` must be at most 1, but is 1\.2\.$"):
        models.InhibitionOfLoss(kin=1.0, kout=1.0, Imax=1.2, IC50=1.0)
    with pytest.raises(ValueError, match=r"^Argument `Smax` must be at least 0, but is -1\.$"):
        models.StimulationOfLoss(kin=1.0, kout=1.0, Smax=-1.0, SC50=1.0)
    with pytest.raises(ValueError, match=r"^Argument `EC50` must be positive, but is 0\.$"):
        models.Emax(E0=0.0, Emax=1.0, EC50=0.0)


def test_coupled_is_built_inside_jit_and_vmap():
    def rest(kin):
        patient = models.Coupled(PK, models.InhibitionOfLoss(kin=kin, kout=0.5, Imax=0.8, IC50=2.0))
        return patient.initial().pd.response

    np.testing.assert_allclose(jax.jit(jax.vmap(rest))(jnp.array([1.0, 2.0])), [2.0, 4.0])


def test_a_leaf_of_a_coupled_model_may_be_set_to_one_value_a_patient():
    drug = models.TransitAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=2.0, transits=3)
    patient = models.Coupled(drug, models.Emax(E0=0.0, Emax=1.0, EC50=2.0))
    for name in ("pk.mtt", "pk.V", "pd.EC50"):
        patient = at(patient, name).set(jnp.array([1.0, 2.0, 3.0]))
    assert patient.pk.V.shape == patient.pd.EC50.shape == (3,)


def test_a_placebo_has_a_finite_gradient_in_every_parameter():
    patient = models.Coupled(PK, models.InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0, gamma=0.5))
    gradient = jax.grad(lambda m: m.vector_field(0.0, as_state(m, None)).pd.response)(patient)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))
