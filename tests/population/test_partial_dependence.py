"""Partial dependence on a model whose endpoint is a formula; patients who fail are left out of all values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import partial_dependence

PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
POPULATION = qsp.Population(PATIENT, between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)})
COHORT = POPULATION.sample(key=jax.random.key(3), size=40)
DOSE, AFTER = qsp.bolus(100.0, to="central"), qsp.endpoints.Value("concentration", at=5.0)
TRACES = []


def exact(CL, V):
    return 100.0 / V * np.exp(-CL / V * 5.0)


def test_it_is_the_mean_of_the_formula_with_one_parameter_set():
    CL, V = np.asarray(COHORT.model.CL), np.asarray(COHORT.model.V)
    weights = np.linspace(0.0, 2.0, 40)
    found = partial_dependence(COHORT, DOSE, [5.0], name="CL", endpoint=AFTER, weights=weights)
    np.testing.assert_allclose(found.values, np.linspace(*np.quantile(CL, [0.05, 0.95]), 9))
    wanted = exact(found.values[:, None], V)
    np.testing.assert_allclose(found.individual, wanted, rtol=1e-6)
    np.testing.assert_allclose(found.mean, wanted @ weights / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.own, CL)
    table = found.to_dataframe()
    assert [*table] == ["CL", "mean", "low", "high"]
    assert (table["low"] < table["high"]).all()


def test_correlated_parameters_do_not_confound_it():
    between = {"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.3)}
    population = qsp.Population(PATIENT, between=between, correlation={("CL", "V"): 0.9})
    cohort = population.sample(key=jax.random.key(1), size=30)
    start = qsp.endpoints.Value("concentration", at=0.0)
    found = partial_dependence(cohort, DOSE, [0.0], name="CL", endpoint=start, values=[1.0, 5.0])
    np.testing.assert_allclose(found.mean, np.mean(100.0 / np.asarray(cohort.model.V)), rtol=1e-12)


def test_a_parameter_that_all_share_is_varied_as_well():
    cohort = qsp.Cohort.of(PATIENT, {"V": np.linspace(20.0, 40.0, 7)})
    found = partial_dependence(cohort, DOSE, [5.0], name="CL", endpoint=AFTER, values=[2.0, 3.0, 4.0])
    np.testing.assert_allclose(found.individual[1], exact(3.0, np.linspace(20.0, 40.0, 7)), rtol=1e-6)
    with pytest.raises(ValueError, match="`values` must be given, since all patients have the same `CL`"):
        partial_dependence(cohort, DOSE, [5.0], name="CL", endpoint=AFTER)


class Brittle(qsp.AbstractModel):
    """Ends where its parameter is too great."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate constant")
    a: jax.Array = qsp.parameter(unit="1", doc="a number")

    def initial(self):
        return {"x": 1.0}

    def vector_field(self, t, y):
        TRACES.append(t)
        return {"x": jnp.where(self.k * self.a > 6.0, jnp.nan, -self.k * y["x"])}

    def observe(self, t, y):
        return {"x": y["x"]}


def test_who_fails_anywhere_is_left_out():
    cohort = qsp.Cohort.of(Brittle(k=1.0, a=1.0), {"a": [1.0, 4.0, 2.0]})
    last = qsp.endpoints.Value("x", at=1.0)
    found = partial_dependence(cohort, qsp.no_doses(), [1.0], name="k", endpoint=last, values=[1.0, 2.0])
    assert np.isnan(found.individual[:, 1]).all()
    np.testing.assert_allclose(found.mean, np.exp([-1.0, -2.0]), rtol=1e-6)
    TRACES.clear()
    partial_dependence(cohort, qsp.no_doses(), [1.0], name="k", endpoint=last, values=[0.5, 1.5, 2.5])
    assert not TRACES  # other values are no other program


def test_errors_and_the_picture(tmp_path):
    with pytest.raises(ValueError, match="CL"):
        partial_dependence(COHORT, DOSE, [5.0], name="Cl", endpoint=AFTER)
    with pytest.raises(ValueError, match="`values` must be finite numbers"):
        partial_dependence(COHORT, DOSE, [5.0], name="CL", endpoint=AFTER, values=[[1.0]])
    found = partial_dependence(COHORT, DOSE, [5.0], name="CL", endpoint=AFTER)
    axes = qsp.plot.partial_dependence(found, label="concentration (mg/L)", unit="L/h")
    np.testing.assert_array_equal(axes.lines[40].get_ydata(), found.mean)
    axes.figure.savefig(tmp_path / "dependence.png")
    assert eqx.tree_equal(found, found)
