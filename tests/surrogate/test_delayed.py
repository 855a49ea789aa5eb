"""Delayed acceptance: draws from the exact posterior, whatever the surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Proportional, sample
from qspjax.fit.bayes import _sample
from qspjax.fit.bayes._density import Density
from qspjax.surrogate import DelayedAcceptance, Ensemble, Training
from tests.systems.mixed import TIMES, Level, levels

KEY = jax.random.key(0)
VALUE = np.array([4.1, 4.6, 6.2])


def line():
    """Return a straight line with normal priors, and the mean and covariance of its posterior."""
    mean, spread, sd = np.array([3.0, 0.0]), np.array([2.0, 1.0]), 0.4
    priors = {
        name: Free(start, transform=qsp.Identity(), prior=qsp.Normal(mean[k], sd=spread[k]))
        for k, (name, start) in enumerate({"base": 4.0, "slope": 0.1}.items())
    }
    problem = Problem(
        Level(base=4.0, slope=0.1),
        Experiment(Measurements(TIMES, VALUE, output="level")),
        {"level": Output("level", Additive(sd))},
        priors,
    )
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    covariance = np.linalg.inv(np.diag(spread**-2) + A.T @ A / sd**2)
    return problem, covariance @ (mean / spread**2 + A.T @ VALUE / sd**2), covariance


def thinned(draws, by):
    return draws[:, ::by].ravel()


def test_draws_are_those_of_the_exact_posterior():
    problem, mean, covariance = line()
    method = DelayedAcceptance(250, warmup=10, steps=15, simulations=48, rounds=2, key=KEY)
    posterior = sample(problem, method)
    for k, name in enumerate(problem.names):
        draws = thinned(posterior.parameters[name], 2)
        law = stats.norm(mean[k], np.sqrt(covariance[k, k]))
        assert stats.kstest(draws, law.cdf).pvalue > 0.01
    assert posterior.stats["acceptance_rate"].mean() > 0.9
    assert posterior.stats["exact"].max() == 1
    assert posterior.summary()["ess_bulk"].min() > 0.3 * 1000


def decay():
    value = 10.0 * np.exp(-0.1 * TIMES) * [1.05, 0.93, 1.1]
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(Measurements(TIMES, value, output="concentration"), qsp.bolus(300.0, to="central")),
        {"concentration": Output("concentration", Proportional(0.1))},
        {"CL": Free(2.5, prior=qsp.LogNormal(3.0, cv=0.5)), "V": Free(28.0, prior=qsp.LogNormal(30.0, cv=0.5))},
    )


def marginals(problem, cells=200):
    """Return the distribution functions of both coordinates of z, by quadrature."""
    density = Density(problem)
    middle = np.asarray(density.start)
    edges = [np.linspace(m - 1.6, m + 1.6, cells) for m in middle]
    grid = np.stack([part.ravel() for part in np.meshgrid(*edges, indexing="ij")], axis=1)
    value = np.asarray(jax.jit(jax.vmap(density))(jnp.asarray(grid))).reshape(cells, cells)
    weight = np.exp(value - value.max())
    found = []
    for k, edge in enumerate(edges):
        mass = np.cumsum(weight.sum(axis=1 - k))
        assert mass[0] + mass[-1] - mass[-2] < 1e-6 * mass[-1]
        step = edge[1] - edge[0]
        found.append(lambda z, edge=edge, mass=mass, step=step: np.interp(z - 0.5 * step, edge, mass / mass[-1]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 30])
@pytest.mark.parametrize("kind", ["process", "bad networks"])
def test_a_bad_surrogate_costs_acceptance_not_correctness(kind, steps):
    emulator = {} if kind == "process" else {"emulator": Ensemble(2, Training(width=8, steps=60, batch=32))}
    problem = decay()
    method = DelayedAcceptance(4000, warmup=200, steps=steps, simulations=96, key=KEY, **emulator)
    posterior = sample(problem, method)
    if kind == "process" and steps == 30:
        assert posterior.stats["acceptance_rate"].mean() > 0.9
    if kind != "process":
        assert posterior.stats["acceptance_rate"].mean() < 0.95
    for k, marginal in enumerate(marginals(problem)):
        effective = posterior.summary()["ess_bulk"].iloc[k]
        draws = thinned(posterior.z[..., k], int(np.ceil(16000 / effective)) + 1)
        assert stats.kstest(draws, marginal).pvalue > 0.01


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(_sample, "SAVED_EVERY", 0.0)
    problem, file = line()[0], tmp_path / "run.npz"
    method = DelayedAcceptance(75, warmup=25, steps=5, simulations=24, rounds=1, key=KEY)

    def stop(standing):
        if standing.done >= 75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(problem, method, checkpoint=file, progress=stop)
    again, unbroken = sample(problem, method, checkpoint=file), sample(problem, method)
    np.testing.assert_array_equal(again.z, unbroken.z)


def test_models_with_random_effects_are_refused():
    with pytest.raises(ValueError, match=r"Argument `problem` must be a `Problem` for DelayedAcceptance\(\)"):
        sample(levels()[0], DelayedAcceptance(key=KEY))
    with pytest.raises(ValueError, match="Argument `steps` must be a whole number of at least 1, but is 0"):
        DelayedAcceptance(steps=0, key=KEY)
