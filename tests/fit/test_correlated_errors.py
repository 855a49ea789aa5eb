"""Residual errors that are correlated between outputs and in time, against the multivariate normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import (
    FO,
    FOCEI,
    M3,
    SAEM,
    Additive,
    BoxCoxError,
    Combined,
    Correlated,
    Experiment,
    Free,
    LogNormalError,
    Measurements,
    MixedModel,
    Output,
    Poisson,
    Problem,
    Proportional,
    RandomEffects,
    StudentT,
    diagnostics,
    nlme,
    visual_predictive_check,
)
from qspjax.fit.data._dependence import draws, given_earlier
from qspjax.fit.mixed._approximations import subject_objectives
from qspjax.fit.mixed._diagnostics import simulated
from tests.systems.marks import slow_for
from tests.systems.mixed import Level

PARENT, METABOLITE = np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 5.0, 9.0])
KEY = jax.random.key(0)


def kernel(times, outputs, tau, rho):
    """Return the correlation of residuals: rho between outputs, exp(-|dt| / tau) in time (tau 0: at equal times)."""
    apart = np.abs(np.subtract.outer(times, times))
    in_time = np.exp(-apart / tau) if tau else (apart == 0.0).astype(float)
    return np.where(np.equal.outer(outputs, outputs), 1.0, rho) * in_time


def errors(parent, metabolite, *, time="tau"):
    return {
        "parent": Output("concentration", Correlated(parent, time=time, between={"metabolite": "rho"})),
        "metabolite": Output("share * concentration", Correlated(metabolite, time=time)),
    }


def parent_and_metabolite(outputs, seed=0, **parameters):
    """Return a problem of two experiments, one of which lacks a metabolite."""
    rng, people = np.random.default_rng(seed), {}
    for name, times in {"one": METABOLITE, "two": METABOLITE[:1]}.items():
        level = 10.0 * np.exp(-0.1 * np.concatenate([PARENT, times])) * np.repeat([1.0, 0.4], [3, times.size])
        values = level * (1.0 + 0.1 * rng.normal(size=level.size))
        data = Measurements([*PARENT, *times], values, output=["parent"] * 3 + ["metabolite"] * times.size)
        people[name] = Experiment(data, qsp.bolus(300.0, to="central"))
    free = {"CL": Free(2.5), "share": Free(0.5), "cv": Free(0.2), "sd": Free(0.3), "rho": Free(0.6, bounds=(-1.0, 1.0))}
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        outputs,
        free | parameters,
        method=qsp.solve.MatrixExponential(),
    )


def exact(problem, x, tau=0.0, *, log=False):
    """Return the log likelihood by the dense covariance of each experiment, and its whitened residuals."""
    p = {name: float(value) for name, value in problem.values(x).items()}
    total, white = 0.0, []
    for one in problem.experiments.values():
        data = one.measurements
        which = (np.array(data.output) == "metabolite").astype(int)
        f = 300.0 / 30.0 * np.exp(-p["CL"] / 30.0 * data.time) * np.where(which, p["share"], 1.0)
        scale = np.where(which, p["sd"], p["cv"] * (1.0 if log else f))
        y, at = (np.where(which, v, np.log(v)) for v in (data.value, f)) if log else (data.value, f)
        R = kernel(data.time, which, p.get("tau", tau), p["rho"]) * np.outer(scale, scale)
        total += stats.multivariate_normal(at, R).logpdf(y) - (np.log(data.value[which == 0]).sum() if log else 0.0)
        order = np.lexsort((which, data.time))
        white.append(np.linalg.solve(np.linalg.cholesky(R[np.ix_(order, order)]), (y - at)[order]))
    return total, np.concatenate(white)


CASES = {
    "in time": (errors(Proportional("cv"), Additive("sd")), {"tau": Free(3.0)}, False),
    "at equal times": (errors(Proportional("cv"), Additive("sd"), time=None), {}, False),
    "of the logarithm": (errors(LogNormalError("cv"), Additive("sd")), {"tau": 3.0}, True),
}


@pytest.mark.parametrize("name", slow_for(CASES, *[*CASES][1:]))
def test_the_likelihood_is_multivariate_normal(name):
    outputs, parameters, log = CASES[name]
    problem = parent_and_metabolite(outputs, **parameters)
    x = problem.start
    total, white = exact(problem, x, log=log)

    @jax.jit
    def program(x):
        residuals = jnp.concatenate([residual for *_, residual in problem.predictions(x)])
        return *jax.value_and_grad(problem.log_likelihood)(x), problem.quadratic(x).gradient, residuals

    value, backward, forward, residuals = program(x)
    np.testing.assert_allclose(value, total, rtol=1e-10)
    np.testing.assert_allclose(np.sort(residuals), np.sort(white), rtol=1e-8)
    step = 1e-5 * np.eye(x.size)
    central = [(exact(problem, x + h, log=log)[0] - exact(problem, x - h, log=log)[0]) / 2e-5 for h in step]
    np.testing.assert_allclose(forward, central, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backward, central, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_information_is_that_of_generalised_least_squares():
    """J^T R^-1 J of what moves predictions alone, with constant scales."""
    outputs = errors(Additive("cv"), Additive("sd"))
    fixed = {"tau": 3.0, "cv": 0.2, "sd": 0.3, "rho": 0.6}
    problem = parent_and_metabolite(outputs, **fixed)
    found = 0.0
    for one in problem.experiments.values():
        time, which = one.measurements.time, (np.array(one.measurements.output) == "metabolite").astype(int)

        def predicted(x, time=time, which=which):
            CL, share = problem.natural(x)
            return 10.0 * jnp.exp(-CL / 30.0 * time) * jnp.where(which, share, 1.0)

        J = np.asarray(jax.jacfwd(predicted)(problem.start))
        scale = np.where(which, 0.3, 0.2)
        found += J.T @ np.linalg.solve(kernel(time, which, 3.0, 0.6) * np.outer(scale, scale), J)
    np.testing.assert_allclose(jax.jit(problem.quadratic)(problem.start).curvature, found, rtol=1e-9)


def test_a_correlation_of_0_changes_nothing_and_one_of_1_has_a_cause():
    rows = parent_and_metabolite(errors(Proportional("cv"), Additive("sd")), tau=Free(1e-3)).rows
    given = {"cv": 0.1, "sd": 0.1, "time": 1e-3, "between[metabolite]": 0.0}
    own = [one.output.error.predictors(jnp.ones(one.value.shape), given) for one in rows]
    for before, after in zip(own, given_earlier(rows, own), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-12)
    outputs = errors(Proportional("cv"), Additive("sd"), time=None)
    problem = parent_and_metabolite(outputs, rho=Free(1.5))
    assert jax.jit(problem.log_likelihood)(problem.start) == -np.inf
    assert (
        "`between[metabolite]` of output `parent` is 1.5 at time 1 (record 1), but must be between -1 and 1."
        in (problem.failures(problem.start)[0])
    )


def test_draws_have_the_covariance():
    problem = parent_and_metabolite(errors(Additive("cv"), Additive("sd")), tau=2.0)
    rows = problem.rows
    own = [
        one.output.error.predictors(jnp.zeros(one.value.shape), {**given, "time": 2.0})
        for one, given in zip(rows, ({"sd": 0.5, "between[metabolite]": 0.6}, {"sd": 0.2}), strict=True)
    ]
    many = jax.jit(jax.vmap(lambda key: jnp.concatenate(draws(rows, key, own))))(jax.random.split(KEY, 20_000))
    which = np.repeat([0, 1], [rows[0].value.size, rows[1].value.size])
    experiment, time = (np.concatenate([getattr(one, name) for one in rows]) for name in ("experiment", "time"))
    scale = np.where(which, 0.2, 0.5)
    expected = kernel(time, which, 2.0, 0.6) * np.equal.outer(experiment, experiment) * np.outer(scale, scale)
    np.testing.assert_allclose(
        np.cov(np.asarray(many), rowvar=False), expected, atol=4.0 * 0.25 * np.sqrt(2.0 / 20_000)
    )


# --- populations ------------------------------------------------------------------------------------------------------

TIMES = np.array([1.0, 2.0, 4.0, 8.0])


def levels(subjects=4, *, truth=(0.7, 3.0), **settings):
    """Return a linear mixed-effects model of two outputs with correlated errors, its data, and their design."""
    rng = np.random.default_rng(4)
    time, which = np.tile(TIMES, 2), np.repeat([0, 1], TIMES.size)
    scale = np.where(which, 0.4, 0.2)
    root = np.linalg.cholesky(kernel(time, which, truth[1], truth[0]) * np.outer(scale, scale))
    values = 5.0 + which * 1.0 + rng.normal(size=(subjects, 1)) + (root @ rng.normal(size=(time.size, subjects))).T
    people = {
        f"{i}": Experiment(Measurements(time, row, output=["low"] * TIMES.size + ["high"] * TIMES.size))
        for i, row in enumerate(values)
    }
    outputs = {
        "low": Output("level", Correlated(Additive("sd_low"), time="tau")),
        "high": Output("level + 1", Correlated(Additive("sd_high"), time="tau", between={"low": "rho"})),
    }
    mixed = MixedModel(
        Level(base=5.0, slope=0.0),
        people,
        outputs,
        parameters={
            "mu": Free(4.5, transform=qsp.Identity()),
            "sd_low": Free(0.3),
            "sd_high": Free(0.3),
            "tau": Free(2.0),
            "rho": Free(0.5, bounds=(-1.0, 1.0)),
        },
        individual={"base": "mu + eta"},
        random=[RandomEffects({"eta": 0.8})],
        **settings,
    )
    return mixed, values, (time, which)


def marginal(mixed, values, design, x):
    """Return the objective and V = A Omega A^T + R."""
    known, (time, which) = {name: float(value) for name, value in mixed.values(x).items()}, design
    scale = np.where(which, known["sd_high"], known["sd_low"])
    R = kernel(time, which, known["tau"], known["rho"]) * np.outer(scale, scale)
    V = float(mixed.covariance(x)[0, 0]) + R
    law = stats.multivariate_normal(known["mu"] + which, V)
    return -2.0 * law.logpdf(values).sum() - values.size * np.log(2.0 * np.pi), V


@pytest.mark.parametrize("method", [FO(), pytest.param(FOCEI(), marks=pytest.mark.slow)], ids=["FO", "FOCEI"])
def test_the_objective_of_a_linear_model_is_exact(method):
    mixed, values, design = levels()
    x = np.asarray(mixed.start)
    program = jax.jit(lambda x, u: subject_objectives(mixed, method, x, u)[:2])
    found, slopes = program(jnp.asarray(x), jnp.zeros((mixed.count, 1)))
    np.testing.assert_allclose(np.sum(found), marginal(mixed, values, design, x)[0], rtol=1e-9)
    step = 1e-5 * np.eye(x.size)
    ends = [[marginal(mixed, values, design, x + s * h)[0] for s in (1.0, -1.0)] for h in step]
    np.testing.assert_allclose(np.sum(slopes, axis=0), np.array(ends) @ [0.5e5, -0.5e5], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [FOCEI(), SAEM(key=KEY, exploration=150, smoothing=100)], ids=["FOCEI", "SAEM"])
def test_correlations_are_found_and_diagnosed(method):
    mixed, values, design = levels(subjects=60)
    fit = nlme(mixed, method=method)
    for name, truth, most in (("rho", 0.7, 0.15), ("tau", 3.0, 1.0), ("sd_low", 0.2, 0.04), ("sd_high", 0.4, 0.08)):
        assert abs(fit.parameters[name] - truth) < most, (name, fit.parameters[name])
    table = diagnostics(fit, key=KEY, replicates=1000)
    V = marginal(mixed, values, design, fit.x)[1]
    for k, name in enumerate(mixed.outputs):
        mine, part = table["OUTPUT"] == name, slice(4 * k, 4 * k + 4)
        eigenvalues, vectors = np.linalg.eigh(V[part, part])
        root = vectors / np.sqrt(eigenvalues) @ vectors.T
        expected = (values[:, part] - fit.parameters["mu"] - k) @ root
        np.testing.assert_allclose(table["CWRES"][mine].reshape(-1, 4), expected, rtol=1e-6, atol=1e-8)
        assert stats.kstest(table["NPDE"][mine], "norm").pvalue > 0.01
        assert np.abs(np.corrcoef(table["NPDE"][mine].reshape(-1, 4).T) - np.eye(4)).max() < 0.4
    check = visual_predictive_check(fit, key=KEY, output="high", replicates=200)
    assert ((check["LOWER"] <= check["OBSERVED"]) & (check["OBSERVED"] <= check["UPPER"])).mean() > 0.8
    samples = np.concatenate(simulated(mixed, fit.x, key=KEY, replicates=2000), axis=1).reshape(2000, 2, 60, 4)
    pairs = np.moveaxis(samples, 1, 2).reshape(-1, 8)
    np.testing.assert_allclose(np.cov(pairs, rowvar=False), V, rtol=0.1, atol=0.02)


# --- refusals ---------------------------------------------------------------------------------------------------------


def measured(outputs, names=("a", "b"), times=(1.0, 2.0), **columns):
    data = [Measurements(times, np.ones(len(times)), output=name, **columns) for name in names]
    people = {f"{k}": Experiment(one, qsp.bolus(300.0, to="central")) for k, one in enumerate(data)}
    return Problem(qsp.models.OneCompartment(CL=3.0, V=30.0), people, outputs, {"CL": Free(3.0)})


PAIR = {"a": Output("concentration", Correlated(Additive(0.1), time=2.0))}
REFUSED = [
    (lambda: Correlated(Poisson(), time=1.0), "Argument `error` must be an error model with a location and a scale"),
    (
        lambda: measured({"a": Output("concentration", Correlated(Additive(0.1)))}, ["a"]),
        "say what errors are correlated with, by `time` or `between`, but those of `a` are correlated with nothing",
    ),
    (lambda: Correlated(Additive(0.1, StudentT()), time=1.0), "must have normal residuals to be correlated, but is"),
    (lambda: Correlated(PAIR["a"].error, time=1.0), "Argument `error` must be one that is not correlated yet"),
    (lambda: Correlated(Additive(0.1), time=-1.0), "Argument `time` must be positive, but is -1"),
    (
        lambda: Correlated(Additive(0.1), between={"b": 1.0}),
        r"Argument `between\[b\]` must be between -1 and 1, but is 1",
    ),
    (
        lambda: measured(PAIR | {"b": Output("concentration", Correlated(Additive(0.1), between={"a": 0.5}))}),
        "must have one time constant of correlated errors, but those of `b` and `a` differ.",
    ),
    (
        lambda: measured(
            PAIR | {"b": Output("concentration", Correlated(Additive(0.1), time=2.0, between={"c": 0.5}))}
        ),
        "must have Correlated errors of another output `c` that is measured, with which `b` is correlated",
    ),
    (
        lambda: measured({"a": Output("concentration", PAIR["a"].error, below=M3(0.1))}, ["a"]),
        r"have no censored measurements where errors are correlated, but `a` has: leave them out, as with M1\(\).",
    ),
    (
        lambda: measured(PAIR, ["a"], times=[1.0, 1.0, 2.0]),
        "must have no replicates where errors are correlated, but `a` has: average them, or move one in time.",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_every_scale_and_transform_can_be_correlated():
    for error in (Proportional(0.1), Combined(0.1, 0.2), LogNormalError(0.1), BoxCoxError("sd", "shape")):
        own = Correlated(error, time=2.0)
        given = {"cv": 0.1, "sd": 0.1, "shape": 0.5, "time": 2.0}
        alone, together = (one.predictors(jnp.asarray(2.0), given) for one in (error, own))
        assert len(together) == len(alone) + 1
        np.testing.assert_allclose(own.log_density(2.1, together), error.log_density(2.1, alone))
        assert len(own.information(together).weight) == len(together)
        assert own.power == 0.0
