"""Counterfactuals: closed forms where everything is linear and normal, coverage where the truth is simulated."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Laplace, Measurements, Output, Particles, Proportional, Twin

KEY = jax.random.key(4)


class Amount(NamedTuple):
    given: jax.Array


class Straight(qsp.AbstractModel):
    """What was given stays, and the effect is a straight line in it: B + S given."""

    B: jax.Array = qsp.parameter(unit="", doc="baseline", above=None)
    S: jax.Array = qsp.parameter(unit="", doc="slope", above=None)

    def initial(self):
        return Amount(0.0)

    def vector_field(self, t, y):
        return Amount(0.0 * y.given)

    def observe(self, t, y):
        return {"effect": self.B + self.S * y.given}


def given(amount):
    return qsp.bolus(amount, to="given", at=1.0)


SD, CORRELATION, SIGMA = np.array([0.7, 0.5]), 0.5, 0.4
TIMES, VALUES = [0.0, 0.5, 2.0, 3.0], np.array([5.9, 6.3, 10.4, 10.1])
POPULATION = qsp.Population(
    Straight(B=5.0, S=2.0),
    between={"B": qsp.Normal(sd=SD[0]), "S": qsp.Normal(sd=SD[1])},
    correlation={("B", "S"): CORRELATION},
)


def posterior():
    """Return the exact mean and covariance of baseline and slope."""
    omega = np.diag(SD) @ [[1.0, CORRELATION], [CORRELATION, 1.0]] @ np.diag(SD)
    mean, design = np.array([5.0, 2.0]), np.column_stack([np.ones(4), [0.0, 0.0, 2.0, 2.0]])
    covariance = np.linalg.inv(np.linalg.inv(omega) + design.T @ design / SIGMA**2)
    return mean + covariance @ design.T @ (VALUES - design @ mean) / SIGMA**2, covariance


def twin(method):
    before = Twin(POPULATION, {"E": Output("effect", Additive(SIGMA))}, method)
    return before.update(Measurements(TIMES, VALUES, output="E"), given(2.0))


@pytest.mark.parametrize("method", [Laplace(), Particles(4000, key=KEY)], ids=["Laplace", "Particles"])
def test_the_contrast_has_its_own_interval(method):
    answer = twin(method).counterfactual([0.0, 2.0], instead=given(5.0), key=KEY, size=8000)
    (mean, covariance), bands = posterior(), answer.bands(0.9)
    exact = {
        "factual": (mean[0] + 2.0 * mean[1], np.array([1.0, 2.0])),
        "counterfactual": (mean[0] + 5.0 * mean[1], np.array([1.0, 5.0])),
        "difference": (3.0 * mean[1], np.array([0.0, 3.0])),  # the baseline is that of the same patient
    }
    for name, (middle, along) in exact.items():
        half = 1.6448536 * np.sqrt(along @ covariance @ along)
        found = [bands[name][edge][-1] for edge in ("LOWER", "MEDIAN", "UPPER")]
        np.testing.assert_allclose(found, [middle - half, middle, middle + half], atol=0.08)
    assert bands["difference"]["UPPER"][0] == 0.0  # before the dose
    assert bands["difference"]["COUNT"][0] == 8000


def test_what_is_set_is_set_in_every_draw():
    known = twin(Laplace())
    answer = known.counterfactual([2.0], do={"S": 1.0}, key=KEY, size=4000)
    draws, difference = known.patients(key=KEY, size=4000), answer.difference["effect"][:, 0]
    np.testing.assert_allclose(difference, 2.0 * (1.0 - np.asarray(draws.model.S)))
    assert difference.std() == pytest.approx(2.0 * np.sqrt(posterior()[1][1, 1]), rel=0.05)
    assert str(answer).endswith("\ndo(S=1)")
    assert answer.factual.interventions is None
    assert qsp.plot.prediction(answer.bands()["difference"]).get_ylabel() == "effect"


def test_mistakes_are_named():
    known = twin(Laplace())
    with pytest.raises(ValueError, match="must have doses in `instead`, or something that is set by `do`"):
        known.counterfactual([0.0], key=KEY)
    with pytest.raises(ValueError, match=r"parameter of the model \(B, S\), but is `SS`"):
        known.counterfactual([0.0], do={"SS": 1.0}, key=KEY)


def test_what_would_have_been_of_patients_whose_truth_is_simulated():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0), between={"CL": qsp.LogNormal(cv=0.4), "V": qsp.LogNormal(cv=0.2)}
    )
    patients, times, ts = population.sample(key=jax.random.key(0), size=40), [1.0, 8.0, 24.0], np.array([36.0, 48.0])
    dose, other = qsp.bolus(100.0, to="central"), qsp.bolus(50.0, to="central").every(12.0, doses=4)
    exact = np.asarray(qsp.simulate_cohort(patients, dose, times).observed["concentration"])
    data = exact * (1.0 + 0.2 * np.random.default_rng(0).standard_normal(exact.shape))
    was = qsp.simulate_cohort(patients, dose, ts).observed["concentration"]
    contrast = np.asarray(qsp.simulate_cohort(qsp.do(patients, V=20.0), other, ts).observed["concentration"] - was)
    before, covered = Twin(population, {"C": Output("concentration", Proportional(0.2))}, Laplace()), []
    for row, truth in zip(data, contrast, strict=True):
        known = before.update(Measurements(times, row, output="C"), dose)
        answer = known.counterfactual(ts, instead=other, do={"V": 20.0}, key=KEY, size=400)
        band = answer.bands(0.9)["difference"]
        covered.append((band["LOWER"] <= truth) & (truth <= band["UPPER"]))
    assert 0.8 <= np.mean(covered) <= 0.98
