"""Fractional kinetics against numerical inversion of Laplace transforms in high precision."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.special import gamma

import qspjax as qsp
from qspjax.models._fractional import power_law_memory

TS = np.array([0.01, 1.0, 30.0, 1000.0])


def inverted(transform):
    return np.array([float(mpmath.invertlaplace(transform, t, method="talbot")) for t in TS])


def one_compartment(alpha, k=0.5):
    """The Mittag-Leffler function E_alpha(-k t^alpha)."""
    return inverted(lambda s: s ** (mpmath.mpf(alpha) - 1) / (s**alpha + k))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 0.99])
def test_the_memory_is_that_of_a_power_law(alpha):
    memory = power_law_memory(alpha, 0.01, 1000.0)
    assert memory.rates.shape == (29,)
    assert (np.diff(memory.rates) > 0.0).all()
    times = np.geomspace(0.01, 1000.0, 101)
    found = np.sum(memory.weights * np.exp(-memory.rates * times[:, None]), axis=1)
    np.testing.assert_allclose(found, times ** (alpha - 1.0) / gamma(alpha), rtol=1e-5)


def simulated(alpha, dose=1.0, ts=TS):
    patient = qsp.models.FractionalOneCompartment(k=0.5, alpha=alpha, V=2.0)
    return 2.0 * qsp.simulate(patient, qsp.bolus(dose, to="central"), ts).observed["concentration"]


@pytest.mark.parametrize("alpha", [0.1, 0.6, 0.99])
def test_one_compartment_is_a_mittag_leffler_function(alpha):
    np.testing.assert_allclose(simulated(alpha), one_compartment(alpha), rtol=0.0, atol=1e-6)


@pytest.mark.slow
def test_the_order_has_derivatives_in_both_modes():
    step = 1e-4
    exact = (one_compartment(0.6 + step) - one_compartment(0.6 - step)) / (2.0 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(simulated))(0.6), exact, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.jacrev(simulated))(0.6), exact, rtol=1e-4)


def test_doses_add_up():
    patient = qsp.models.FractionalOneCompartment(k=0.5, alpha=0.6, V=2.0)
    dose = qsp.bolus(2.0, to="central")
    both = qsp.simulate(patient, dose.every(10.0, doses=2), [5.0, 15.0, 40.0]).observed["concentration"]
    one = qsp.simulate(patient, dose, [5.0, 15.0, 30.0, 40.0]).observed["concentration"]
    np.testing.assert_allclose(both, [one[0], one[1] + one[0], one[3] + one[2]], rtol=1e-8)


def test_two_compartments_with_a_trap():
    patient = qsp.models.FractionalTwoCompartment(CL=60.0, V1=40.0, k12=3.0, k21=0.5, alpha=0.6)
    solution = qsp.simulate(patient, qsp.bolus(40.0, to="central"), TS)

    def transform(s):
        back = mpmath.mpf(0.5) * s ** mpmath.mpf(0.4)
        return 1 / (s + mpmath.mpf(4.5) - 3 * back / (s + back))

    np.testing.assert_allclose(solution.observed["concentration"], inverted(transform), rtol=0.0, atol=1e-6)
    held = solution.states.central + solution.states.peripheral
    assert (np.diff(held) < 0.0).all()


def test_fractional_kinetics_without_memory_or_times_are_refused():
    with pytest.raises(ValueError, match=r"Argument `alpha` must be less than 1 \(of order 1 is `OneCompartment`"):
        qsp.models.FractionalOneCompartment(k=0.5, alpha=1.0, V=2.0)
    with pytest.raises(ValueError, match=r"Argument `shortest` must be positive and less than `longest` \(1\), but"):
        qsp.models.FractionalTwoCompartment(CL=1.0, V1=1.0, k12=1.0, k21=1.0, alpha=0.5, shortest=2.0, longest=1.0)


@pytest.mark.slow
def test_orders_may_differ_between_patients():
    patient = qsp.models.FractionalOneCompartment(k=0.5, alpha=0.6, V=1.0)
    cohort = qsp.Cohort.of(patient, {"alpha": jnp.array([0.5, 0.6])})
    solution = qsp.simulate_cohort(cohort, qsp.bolus(1.0, to="central"), [1.0])
    np.testing.assert_allclose(solution.observed["concentration"][1], simulated(0.6, ts=[1.0]), rtol=1e-8)
