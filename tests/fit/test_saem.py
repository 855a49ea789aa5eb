"""Stochastic approximation EM: exact where the model is linear, references found, failures, resumed runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import qspjax as qsp
from qspjax.fit import (
    SAEM,
    Additive,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    Quadrature,
    RandomEffects,
    marginal,
    nlme,
)
from qspjax.fit.mixed._chains import Proposal, initial_chains, swept
from qspjax.fit.mixed._modes import modes
from qspjax.fit.mixed._references import references
from tests.systems.marks import slow_for
from tests.systems.mixed import TIMES, Level, decays, exact, levels

KEY = jax.random.key(0)


@pytest.mark.slow
def test_saem_finds_the_greatest_likelihood_of_a_linear_model():
    """With a mean that is estimated by regression, one that is not (its effect is absent), and correlated effects."""
    mixed, values = levels(subjects=12)
    fit = nlme(mixed, method=SAEM(exploration=100, smoothing=400, chains=20, key=KEY))
    truth = minimize(lambda x: exact(mixed, values, x), mixed.start, method="BFGS")
    errors = np.sqrt(np.diag(2.0 * truth.hess_inv))
    np.testing.assert_array_less(np.abs(fit.x - truth.x), 0.1 * errors)
    np.testing.assert_allclose(fit.objective, truth.fun, atol=0.02)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance_of_estimates(qsp.fit.Hessian())))[0], errors[0], rtol=0.1)


@pytest.mark.slow
def test_saem_finds_parameters_without_random_effects_and_variances():
    mixed = decays(
        method=qsp.solve.MatrixExponential(),
        parameters={"tCL": Free(2.5), "V": Free(20.0), "power": 1.0, "cv": Free(0.3)},
    )
    assert references(mixed).referenced.tolist() == [True, False, False]
    fit = nlme(mixed, method=SAEM(exploration=150, smoothing=300, key=KEY))
    assert fit.found.all()
    near = modes(mixed, jnp.asarray(fit.x), jnp.zeros_like(fit.u)).u
    np.testing.assert_allclose(fit.u, near, atol=1e-4)
    found = [
        marginal(mixed, fit.x + step * direction, Quadrature(7)).objective
        for direction in np.eye(fit.x.size)
        for step in (-0.02, 0.02)
    ]
    behind, ahead = np.reshape(found, (-1, 2)).T
    here = marginal(mixed, fit.x, Quadrature(7)).objective
    newton = (ahead - behind) / (2.0 * 0.02) / ((ahead + behind - 2.0 * here) / 0.02**2)
    np.testing.assert_allclose(newton, 0.0, atol=0.05)  # the log of each, how far it is from its optimum


def test_references_are_found_however_they_are_written():
    people = {
        f"{i}": Experiment(Measurements(TIMES, TIMES, output="level"), set={"WT": 50.0 + 10.0 * i, "SEX": float(i % 2)})
        for i in range(4)
    }
    names = ("tbase", "tslope", "power", "shift", "free", "factor", "sigma")
    mixed = MixedModel(
        Level(base=5.0, slope=0.3),
        people,
        {"level": Output("level + factor", Additive("sigma"))},
        parameters={name: Free(1.5) for name in names},
        individual={
            "base": "tbase * exp(eta_base) * (WT / 70)^power * (1 + free * SEX)",
            "slope": "tslope + shift * SEX + eta_slope",
        },
        random=[RandomEffects({"eta_base": 0.1, "eta_slope": 0.1})],
    )
    found = references(mixed)
    assert dict(zip(mixed.free, found.referenced.tolist(), strict=True)) == {
        "tbase": True, "tslope": True, "power": True, "shift": True, "free": False, "factor": False, "sigma": False
    }  # fmt: skip
    weights = dict(zip(mixed.free, np.swapaxes(found.weight, 0, 1), strict=True))
    sex, weight = np.array([0.0, 1.0, 0.0, 1.0]), np.array([50.0, 60.0, 70.0, 80.0])
    np.testing.assert_allclose(weights["tbase"], np.stack([np.ones(4), np.zeros(4)], axis=1), atol=1e-12)
    np.testing.assert_allclose(weights["tslope"], np.stack([np.zeros(4), np.ones(4)], axis=1), atol=1e-12)
    np.testing.assert_allclose(weights["shift"], np.stack([np.zeros(4), sex], axis=1), atol=1e-12)
    # power is searched by its logarithm, so that its natural value is the coefficient
    np.testing.assert_allclose(weights["power"], np.stack([np.log(weight / 70.0), np.zeros(4)], axis=1), atol=1e-12)
    assert dict(zip(mixed.free, found.natural.tolist(), strict=True))["tbase"] is False
    assert dict(zip(mixed.free, found.simulating.tolist(), strict=True))["free"] is True


@pytest.mark.parametrize("again", slow_for([False, True], True), ids=["remembered", "simulated again"])
def test_chains_have_the_distribution_of_the_random_effects_given_the_data(again):
    """The linear model: normal, with a known mean and covariance."""
    mixed, values = levels(subjects=2)
    x = jnp.asarray(mixed.start)
    known, omega = mixed.values(x), np.asarray(mixed.covariance(x))
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    covariance = np.linalg.inv(np.linalg.inv(omega) + A.T @ A / float(known["sigma"]) ** 2)
    middle = (values - float(known["mu"]) - float(known["slope"]) * TIMES) @ A @ covariance / float(known["sigma"]) ** 2
    root, scale = np.linalg.cholesky(covariance), np.sqrt(np.diag(covariance))
    around = Proposal(jnp.asarray(middle + scale), jnp.broadcast_to(1.5 * root, (2, 2, 2)), jnp.ones(2))
    start = initial_chains(mixed, jnp.broadcast_to(around.middle, (4000, 2, 2)))
    program = jax.jit(lambda keys: swept(mixed, x, jnp.zeros((2, 2)), start, around, keys, sweeps=40, again=again))
    chains, later = program(jax.random.split(jax.random.key(1)))
    assert (np.abs(later.width - 1.0) < 0.5).all()
    for i in range(2):
        drawn = np.asarray(chains.psi[:, i])
        np.testing.assert_allclose((drawn.mean(axis=0) - middle[i]) / scale, 0.0, atol=0.06)
        np.testing.assert_allclose(
            np.cov(drawn.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.08
        )


@pytest.mark.slow
def test_a_stochastic_estimation_goes_on_from_where_it_was(tmp_path):
    (mixed, _), file, method = levels(), tmp_path / "state.npz", SAEM(exploration=5, smoothing=8, key=KEY)
    whole = nlme(mixed, method=method)
    seen = []
    first = nlme(mixed, method=method, iterations=7, checkpoint=file, progress=seen.append)
    assert (first.status, len(first.path)) == ("iterations used up", 8)
    assert [one.done for one in seen] == [*range(1, 8)]
    later = nlme(mixed, method=method, checkpoint=file)
    assert later.status == "all iterations done"
    np.testing.assert_array_equal(later.path, whole.path)
    np.testing.assert_array_equal(later.u, whole.u)


def test_bad_numbers():
    with pytest.raises(ValueError, match="smoothing"):
        SAEM(smoothing=0, key=KEY)
    with pytest.raises(ValueError, match="chains"):
        SAEM(chains=0, key=KEY)
