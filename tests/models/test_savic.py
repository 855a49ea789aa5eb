"""Absorption through any number of transit compartments, against the integral of Savic's input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln

import qspjax as qsp
from qspjax.models import SavicAbsorption, TransitAbsorption

FIXED = {"CL": 3.0, "V": 30.0, "ka": 1.2, "mtt": 2.0}
TIMES = np.array([0.3, 1.0, 2.0, 5.0, 6.5, 9.0, 24.0])
DOSES = {0.0: 300.0, 4.0: 150.0, 6.0: 200.0}  # the input of each overlaps with the next
METHOD = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
SETTINGS = {"stages": 5}


def exact(n, *, mtt=2.0, ka=1.2, k=0.1, V=30.0):
    """Return the sum over doses of the input, convolved with the response to a unit amount."""
    ktr = (n + 1.0) / mtt

    def enters(s):
        return np.exp(np.log(ktr) + n * np.log(ktr * s) - ktr * s - gammaln(n + 1.0))

    def one(t):
        if t <= 0.0:
            return 0.0
        response = lambda s: ka / (ka - k) * (np.exp(-k * (t - s)) - np.exp(-ka * (t - s)))  # noqa: E731
        near = [min(0.05, 0.5 * t), min(n / ktr, 0.9 * t)] if n else None
        return quad(lambda s: enters(s) * response(s), 0.0, t, epsabs=1e-13, epsrel=1e-11, limit=300, points=near)[0]

    return np.array([sum(dose * one(t - at) for at, dose in DOSES.items()) / V for t in TIMES])


@jax.jit
def found(n, mtt=2.0):
    model = SavicAbsorption(**FIXED | {"mtt": mtt}, transits=n, **SETTINGS)
    regimen = sum((qsp.bolus(dose, to="oral", at=at) for at, dose in DOSES.items() if at), qsp.bolus(300.0, to="oral"))
    return qsp.simulate(model, regimen, TIMES, method=METHOD).observed["concentration"]


@pytest.mark.parametrize(("n", "within"), [(0.4, 1e-6), (1.5, 2e-8), (3.7, 2e-8), (4.999, 2e-8)])
def test_doses_overlap_for_any_number_of_transits(n, within):
    np.testing.assert_allclose(found(n), exact(n), rtol=within, atol=within * 10.0)


@pytest.mark.slow
def test_slopes_in_the_number_of_transits():
    step = 1e-4
    for n in (1.5, 3.0, 3.7):
        differences = (exact(n + step) - exact(n - step)) / (2.0 * step)
        np.testing.assert_allclose(jax.jacfwd(found)(n), differences, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_slopes_in_both_modes():
    np.testing.assert_allclose(jax.jacrev(found)(3.7), jax.jacfwd(found)(3.7), rtol=1e-9)


def test_whole_numbers_are_the_chain():
    regimen = qsp.bolus(300.0, to="oral") + qsp.infusion(100.0, to="oral", over=3.0, at=4.0)
    chain, any_number = (
        qsp.simulate(model, regimen, TIMES, method=METHOD).observed["concentration"]
        for model in (TransitAbsorption(**FIXED, transits=3), SavicAbsorption(**FIXED, transits=3.0, **SETTINGS))
    )
    np.testing.assert_allclose(any_number, chain, rtol=1e-8)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"^Argument `transits` must be at most `stages`, 5, but is 6\.5\.$"):
        SavicAbsorption(**FIXED, transits=6.5, **SETTINGS)
    with pytest.raises(
        ValueError, match=r"`transits` must be a whole number of at least 1 \(SavicAbsorption takes any\)"
    ):
        TransitAbsorption(**FIXED, transits=2.5)
    assert jnp.all(jnp.isfinite(found(0.0)))
