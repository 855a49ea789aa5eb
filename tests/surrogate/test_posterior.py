"""Neural posteriors: a conjugate posterior is found, ranks are uniform, and data decide what is drawn."""

import importlib.util

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    Additive,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    Problem,
    Proportional,
    RandomEffects,
)
from qspjax.surrogate import Flow, SubjectMoments
from tests.systems.mixed import TIMES, Level

pytestmark = pytest.mark.skipif(importlib.util.find_spec("flowjax") is None, reason="flowjax is not installed")
KEY = jax.random.key(0)
SHORT = Flow(layers=2, width=16, steps=300, batch=128, rate=5e-3)
VALUE = np.array([4.1, 4.6, 6.2])


def line():
    priors = {
        "base": Free(4.0, transform=qsp.Identity(), prior=qsp.Normal(3.0, sd=2.0)),
        "slope": Free(0.1, transform=qsp.Identity(), prior=qsp.Normal(0.0, sd=1.0)),
    }
    return Problem(
        Level(base=4.0, slope=0.1),
        Experiment(Measurements(TIMES, VALUE, output="level")),
        {"level": Output("level", Additive(0.4))},
        priors,
    )


def conjugate(value):
    """Return mean and standard deviation of the posterior of the line."""
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    covariance = np.linalg.inv(np.diag([0.25, 1.0]) + A.T @ A / 0.4**2)
    return covariance @ (np.array([3.0 / 4.0, 0.0]) + A.T @ value / 0.4**2), np.sqrt(np.diag(covariance))


def test_a_conjugate_posterior():
    trained = qsp.surrogate.posterior(line(), SHORT, simulations=3000, key=KEY)
    assert "posterior of base, slope from 3000 simulations" in str(trained)
    assert trained.loss[-50:].mean() < trained.loss[:50].mean()
    for value in (VALUE, VALUE - 2.0):
        mean, sd = conjugate(value)
        rough = trained.draws([value], key=jax.random.key(1), size=1000)
        exact, effective = trained.corrected([value], key=jax.random.key(2), size=1000)
        assert effective > 400
        for k, name in enumerate(trained.names):
            assert rough[name].mean() == pytest.approx(mean[k], abs=1.0 * sd[k])
            assert exact[name].mean() == pytest.approx(mean[k], abs=4.0 * sd[k] / np.sqrt(min(effective, 1000) / 2.0))
            assert exact[name].std() == pytest.approx(sd[k], rel=0.2)
    with pytest.raises(ValueError, match=r"Argument `values` must have shapes \[\(3,\)\], output by output"):
        trained.draws([VALUE[:2]], key=KEY, size=10)


@pytest.mark.slow
def test_ranks_of_a_patient_are_uniform():
    data = Measurements([0.5, 2.0, 6.0, 12.0, 24.0], [9.5, 8.1, 5.6, 3.2, 1.0], output="c")
    problem = Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(data, qsp.bolus(300.0, to="central")),
        {"c": Output("concentration", Proportional(0.15))},
        {"CL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.4)), "V": Free(30.0, prior=qsp.LogNormal(30.0, cv=0.3))},
    )
    trained = qsp.surrogate.posterior(problem, key=KEY)
    calibration = trained.calibration(key=jax.random.key(3), simulations=1000)
    assert min(calibration.p_values.values()) > 0.01
    assert calibration.ranks()["COUNT"].sum() == 2 * 1000


def decays():
    times = [1.0, 6.0, 20.0]
    people = {
        f"{i}": Experiment(Measurements(times, [9.0, 5.0, 1.0], output="c"), qsp.bolus(300.0, to="central"))
        for i in range(12)
    }
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        {"c": Output("concentration", Proportional(0.1))},
        parameters={
            "tCL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.4)),
            "tV": Free(30.0, prior=qsp.LogNormal(30.0, cv=0.3)),
        },
        individual={"CL": "tCL * exp(eta_CL)", "V": "tV"},
        random=[RandomEffects({"eta_CL": 0.09}, sd_prior=qsp.LogNormal(0.3, cv=0.5))],
    )


@pytest.mark.slow
def test_ranks_of_a_population_are_uniform():
    trained = qsp.surrogate.posterior(decays(), simulations=20_000, key=KEY)
    calibration = trained.calibration(key=jax.random.key(3), simulations=500)
    assert len(trained.names) == 3
    assert min(calibration.p_values.values()) > 0.01
    with pytest.raises(ValueError, match="Argument `problem` must be a `Problem`, whose likelihood is known"):
        trained.corrected(key=KEY, size=10)


def test_what_cannot_be_drawn_from_is_refused():
    problem = Problem(
        Level(base=4.0, slope=0.1),
        Experiment(Measurements(TIMES, VALUE, output="level")),
        {"level": Output("level", Additive(0.4))},
        {"base": Free(4.0, transform=qsp.Identity())},
    )
    with pytest.raises(ValueError, match="Argument `problem` must have priors that are distributions"):
        qsp.surrogate.posterior(problem, key=KEY)
    with pytest.raises(ValueError, match=r"Argument `method` must be a Flow\(...\)"):
        qsp.surrogate.posterior(line(), "flow", key=KEY)
    assert isinstance(SubjectMoments(), qsp.surrogate.AbstractSummary)
