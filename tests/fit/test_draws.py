"""Measurements at random have the distribution of their error model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qspjax.fit import Additive, Binary, DoubleExponential, LogNormalError, Ordinal, Poisson, StudentT, TimeToEvent

MANY = jnp.ones(20_000)
CONTINUOUS = [
    (Additive(0.5), {"sd": 0.5}, stats.norm(2.0, 0.5)),
    (Additive(0.5, distribution=DoubleExponential()), {"sd": 0.5}, stats.laplace(2.0, 0.5)),
    (Additive(0.5, distribution=StudentT(4)), {"sd": 0.5}, stats.t(4, 2.0, 0.5)),
    (LogNormalError(0.5), {"sd": 0.5}, stats.lognorm(0.5, scale=2.0)),
    (LogNormalError(0.5, base=10.0), {"sd": 0.5}, stats.lognorm(0.5 * np.log(10.0), scale=2.0)),
]
DISCRETE = [
    (Poisson(), {}, 2.0 * MANY, stats.poisson(2.0).pmf(np.arange(5))),
    (Binary(), {}, 0.3 * MANY, np.array([0.7, 0.3])),
    (
        Ordinal(-1.0, 1.5),
        {"thresholds[0]": -1.0, "thresholds[1]": 1.5},
        0.5 * MANY,
        np.diff([0.0, stats.logistic.cdf(-1.5), stats.logistic.cdf(1.0), 1.0]),
    ),
]


@pytest.mark.parametrize(("error", "given", "law"), CONTINUOUS)
def test_numbers(error, given, law):
    found = error.draw(jax.random.key(1), error.predictors(2.0 * MANY, given))
    assert stats.kstest(np.asarray(found), law.cdf).pvalue > 0.01


@pytest.mark.parametrize(("error", "given", "prediction", "shares"), DISCRETE)
def test_categories(error, given, prediction, shares):
    found = np.asarray(error.draw(jax.random.key(1), error.predictors(prediction, given)))
    seen = [(found == k).mean() for k in range(len(shares))]
    np.testing.assert_allclose(seen, shares, atol=4 * 0.5 / np.sqrt(MANY.size))


def test_what_cannot_be_drawn():
    with pytest.raises(TypeError, match=r"Nothing can be drawn from TimeToEvent\."):
        TimeToEvent("hazard").draw(jax.random.key(1), (MANY,))
