"""Likelihoods at the edge of where they are defined: values, slopes in both modes, and what is said of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import qspjax as qsp
from qspjax.fit import (
    FO,
    FOCE,
    FOCEI,
    M3,
    NUTS,
    SAEM,
    Additive,
    Binary,
    Experiment,
    Free,
    Laplace,
    LogNormalError,
    Measurements,
    MixedModel,
    Ordinal,
    Output,
    Poisson,
    Problem,
    Proportional,
    Quadrature,
    RandomEffects,
    TimeToEvent,
    bootstrap,
    estimate,
    marginal,
    nlme,
    sample,
)
from tests.systems.mixed import Level

KEY = jax.random.key(0)

# error model, its formulas, measurement, prediction -> log density and its slope in the prediction
EDGES = {
    "no event, none expected": (Poisson(), {}, 0, 0.0, 0.0, -1.0),
    "no event": (Poisson(), {}, 0, 2.0, -2.0, -1.0),
    "no, surely": (Binary(), {}, 0, 0.0, 0.0, -1.0),
    "yes, surely": (Binary(), {}, 1, 1.0, 0.0, 1.0),
    "least category, surely": (Ordinal(0.0), {"thresholds[0]": 0.0}, 0, -800.0, 0.0, 0.0),
    "greatest category, surely": (Ordinal(0.0), {"thresholds[0]": 0.0}, 1, 800.0, 0.0, 0.0),
    "no hazard, no event": (TimeToEvent("H"), {"cumulative": 0.0}, 0, 0.0, 0.0, 0.0),
    "middle category, far below": (
        Ordinal(0.0, 1.0),
        {"thresholds[0]": 0.0, "thresholds[1]": 1.0},
        1,
        -700.0,
        -700.0 + np.log1p(-np.exp(-1.0)),
        1.0,
    ),
    "middle category, far above": (
        Ordinal(0.0, 1.0),
        {"thresholds[0]": 0.0, "thresholds[1]": 1.0},
        1,
        700.0,
        -699.0 + np.log1p(-np.exp(-1.0)),
        -1.0,
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_nothing_times_the_log_of_nothing_is_nothing(name):
    error, given, y, at, value, slope = EDGES[name]
    given = {field: jnp.asarray(one) for field, one in given.items()}

    def density(f):
        return error.log_density(y, error.predictors(f, given))

    f = jnp.asarray(at)
    np.testing.assert_allclose(density(f), value, rtol=1e-14)
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(density)(f), slope, rtol=1e-12, atol=1e-300)
    assert np.isfinite(jax.jacfwd(jax.grad(density))(f))
    assert np.isfinite(error.information(error.predictors(f, given)).weight).all()
    assert not np.isnan(error.residual(y, error.predictors(f, given)))


@pytest.mark.parametrize("error", [Proportional(0.2), LogNormalError(0.2)])
def test_nothing_lies_below_any_limit(error):
    """A value below the limit before the first dose: P(y < limit) is 1 where 0 is predicted."""

    def density(f, spread):
        own = error.predictors(f, {"cv": spread, "sd": spread})
        return error.log_between(-jnp.inf, 0.5, own)

    here = jnp.asarray(0.0), jnp.asarray(0.2)
    assert float(density(*here)) == 0.0
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_array_equal(derivative(density, argnums=(0, 1))(*here), (0.0, 0.0))


def test_a_value_below_the_limit_before_the_first_dose_costs_nothing():
    """A record at prediction 0 that is censored has likelihood 1; all else is as if it were not there."""
    found = []
    for first in (0, 1):
        data = Measurements([0.0, 1.0, 2.0][first:], [0.1, 1.2, 1.9][first:], output="out")
        free = {"slope": Free(1.0), "cv": Free(0.2)}
        outputs = {"out": Output("level", Proportional("cv"), below=M3(0.5))}
        problem = Problem(Level(base=0.0, slope=1.0), Experiment(data), outputs, free)
        found.append(problem.quadratic(problem.start))
    assert np.isfinite(found[0].value)
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_what_cannot_be_measured_has_probability_zero():
    own = Poisson().predictors(jnp.asarray(1.0), {})
    assert [float(Poisson().log_density(y, own)) for y in (-1, 0.5)] == [-np.inf, -np.inf]
    assert float(Poisson().log_density(1, Poisson().predictors(jnp.asarray(0.0), {}))) == -np.inf
    assert np.isnan(Poisson().log_density(0, Poisson().predictors(jnp.asarray(-1e-3), {})))
    own = Binary().predictors(jnp.asarray(0.4), {})
    assert [float(Binary().log_density(y, own)) for y in (2, 0.5)] == [-np.inf, -np.inf]
    assert np.isnan(Binary().log_density(1, Binary().predictors(jnp.asarray(1.1), {})))
    ordinal = Ordinal(1.0, 0.0)
    falling = {"thresholds[0]": jnp.asarray(1.0), "thresholds[1]": jnp.asarray(0.0)}
    assert np.isnan([ordinal.log_density(y, ordinal.predictors(jnp.asarray(0.0), falling)) for y in range(3)]).all()
    error = LogNormalError(0.3)
    assert float(error.log_density(0.0, error.predictors(jnp.asarray(1.0), {"sd": 0.3}))) == -np.inf


def test_counts_at_or_below_a_number():
    def below(limit):
        return lambda f: Poisson().log_between(-jnp.inf, limit, Poisson().predictors(f, {}))

    for limit in (-1, 0, 1, 4):
        found = [float(below(limit)(jnp.asarray(f))) for f in (0.0, 0.3, 7.0)]
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(found, stats.poisson.logcdf(limit, [0.0, 0.3, 7.0]), rtol=1e-10)
    assert [float(jax.grad(below(limit))(jnp.asarray(0.0))) for limit in (0, 1, 4)] == [-1.0, 0.0, 0.0]
    assert [float(jax.jacfwd(jax.grad(below(limit)))(jnp.asarray(0.0))) for limit in (0, 4)] == [0.0, 0.0]


def test_categories_in_both_tails():
    rng = np.random.default_rng(0)
    ordinal = Ordinal(-1.0, 0.5, 2.0)
    cuts = np.array([-1.0, 0.5, 2.0])
    given = {f"thresholds[{k}]": jnp.asarray(cut) for k, cut in enumerate(cuts)}
    for f in rng.normal(0.0, 15.0, 20):
        found = [float(ordinal.log_density(y, ordinal.predictors(jnp.asarray(f), given))) for y in range(4)]
        upper, lower = special.log_expit(cuts - f), special.log_expit(f - cuts)
        # P(k) from whichever tail does not cancel
        wanted = [upper[0]]
        for k in (1, 2):
            pair = (upper[k], upper[k - 1]) if f > 0 else (lower[k - 1], lower[k])
            wanted.append(pair[0] + np.log(-np.expm1(pair[1] - pair[0])))
        np.testing.assert_allclose(found, [*wanted, lower[2]], rtol=1e-9)


# --- events -----------------------------------------------------------------------------------------------------------


class Gompertz(qsp.AbstractModel):
    """A hazard that grows: h = a exp(b t), H = a (exp(b t) - 1) / b."""

    a: jax.Array = qsp.parameter(unit="1/h", doc="hazard at 0")
    b: jax.Array = qsp.parameter(unit="1/h", doc="growth")

    def initial(self):
        return {"H": 0.0}

    def vector_field(self, t, y):
        return {"H": self.a * jnp.exp(self.b * t)}

    def observe(self, t, y):
        return {"hazard": self.a * jnp.exp(self.b * t), "H": y["H"]}


EVENTS = {
    "events and the end": ([2.0, 5.0, 9.0], [1.0, 1.0, 0.0]),
    "in another order": ([9.0, 2.0, 5.0], [0.0, 1.0, 1.0]),
    "seen in between": ([1.0, 2.0, 4.0, 5.0, 9.0], [0.0, 1.0, 0.0, 1.0, 0.0]),
    "the end once more": ([2.0, 5.0, 9.0, 9.0], [1.0, 1.0, 0.0, 0.0]),
}


def gompertz(records):
    people = {name: Experiment(Measurements(*own, output="event")) for name, own in records.items()}
    outputs = {"event": Output("hazard", TimeToEvent("H"))}
    free = {"a": Free(0.2), "b": Free(0.1)}
    method = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
    return Problem(Gompertz(a=0.2, b=0.1), people, outputs, free, method=method)


def test_repeated_events_count_the_hazard_once():
    """log L = sum log h(t_i) - H(end), however the time between is cut into records; with slopes in both modes."""
    problem = gompertz(EVENTS)

    def exact(x):
        a, b = problem.natural(x)
        events = jnp.array([2.0, 5.0])
        return len(EVENTS) * (jnp.sum(jnp.log(a) + b * events) - a * jnp.expm1(9.0 * b) / b)

    x = problem.start
    np.testing.assert_allclose(problem.log_likelihood(x), exact(x), rtol=1e-9)
    wanted = jax.grad(exact)(x)
    np.testing.assert_allclose(jax.grad(problem.log_likelihood)(x), wanted, rtol=1e-7)
    np.testing.assert_allclose(problem.quadratic(x).gradient, wanted, rtol=1e-7)


# --- causes -----------------------------------------------------------------------------------------------------------


def mixed(error, *, prediction="level", values=(0.05, 1.1, 2.2), other=(0.9, 2.2, 2.8)):
    """Return a population in which `anna` begins at 0, and the others at 1."""
    times = [0.0, 1.0, 2.0]
    people = {
        "anna": Experiment(Measurements(times, values, output="out"), set={"base0": 0.0}),
        "bert": Experiment(Measurements(times, other, output="out"), set={"base0": 1.0}),
        "cleo": Experiment(Measurements(times, other, output="out"), set={"base0": 1.0}),
    }
    return MixedModel(
        Level(base=1.0, slope=1.0),
        people,
        {"out": Output(prediction, error)},
        parameters={"rate": Free(1.0), "cv": Free(0.1)},
        individual={"slope": "rate * exp(eta)", "base": "base0 + 0 * rate"},
        random=[RandomEffects({"eta": 0.09})],
    )


CAUSES = {
    "proportional": (
        Proportional("cv"),
        {},
        "output `out` has a prediction of 0 at time 0 (record 1), but with Proportional it must be other than 0: leave "
        "the record out, or use Combined(sd, cv).",
    ),
    "log-normal": (
        LogNormalError("cv"),
        {},
        "output `out` has a prediction of 0 at time 0 (record 1), but with LogNormalError it must be positive: "
        "leave the record out, or use Combined(sd, cv).",
    ),
    "a scale that vanishes": (
        Additive("cv * prediction"),
        {},
        "`sd` of output `out` is 0 at time 0 (record 1), where the prediction is 0, but must be positive: add a part "
        "that does not vanish, as Combined(sd, cv) has it.",
    ),
    "a negative prediction": (
        LogNormalError("cv"),
        {"prediction": "level - 0.5"},
        "output `out` has a prediction of -0.5 at time 0 (record 1), but with LogNormalError it must be positive: "
        "leave the record out, or use Combined(sd, cv).",
    ),
    "a value of 0": (
        LogNormalError("cv"),
        {"prediction": "level + 1", "values": (0.0, 1.1, 0.0)},
        "output `out` was measured as 0 at time 0 (record 1), but with LogNormalError must be positive. (1 more of its "
        "records have none either.)",
    ),
    "no number": (Additive("cv"), {"prediction": "sqrt(level - 0.5)"}, "output `out` is nan at time 0 (record 1)."),
    "no logarithm": (
        Additive("cv"),
        {"prediction": "log(level - 0.5)"},
        "`level - 0.5` is -0.5 at time 0 (record 1), but must be positive: output `out` takes its logarithm.",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_subject_without_a_likelihood_has_a_cause(name):
    error, settings, why = CAUSES[name]
    problem = mixed(error, **settings)
    assert problem.failures(problem.start) == [f"Subject `anna`: {why}"]


@pytest.mark.parametrize(
    "method",
    [
        FO(),
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in (
                FOCE(),
                FOCEI(),
                Laplace(),
                SAEM(exploration=1, smoothing=1, samples=0, chains=1, key=KEY),
            )
        ),
    ],
    ids=lambda method: type(method).__name__,
)
def test_each_method_names_whom_it_leaves_out(method):
    fit = nlme(mixed(Proportional("cv")), method=method, iterations=0)
    assert fit.kept.tolist() == [False, True, True]
    assert fit.reasons == (f"Subject `anna`: {CAUSES['proportional'][2]}",)
    if isinstance(method, FO):
        again = bootstrap(fit, replicates=1, iterations=1, key=KEY)
        assert again.counts[0, 0] == 0
        assert again.reasons == fit.reasons


@pytest.mark.slow
def test_an_integral_names_who_has_none():
    problem = mixed(Proportional("cv"))
    found = marginal(problem, problem.start, Quadrature(1))
    assert not np.isfinite(found.objective)
    assert np.isfinite(found.subject_objectives).tolist() == [False, True, True]
    assert found.reasons == (f"Subject `anna`: {CAUSES['proportional'][2]}",)


@pytest.mark.slow
def test_a_chain_says_why_it_cannot_begin():
    with pytest.raises(RuntimeError, match=r"No chain can begin at the start. Subject `anna`: output `out` has a pred"):
        sample(mixed(Proportional("cv")), NUTS(key=KEY))


def counted(error, prediction, y, at):
    data = Measurements([0.0, 1.0], [y, y], output="out")
    free = {"slope": Free(1.0), "other": Free(0.5)}
    own = {"one": Experiment(data, set={"base": at})}
    return Problem(Level(base=0.0, slope=1.0), own, {"out": Output(prediction, error)}, free)


@pytest.mark.parametrize(
    ("error", "prediction", "y", "at", "why"),
    [
        (
            Poisson(),
            "other * level",
            1.0,
            0.0,
            "prediction of 0 at time 0 (record 1), where Poisson gives 1 probability 0: leave the record out, or keep "
            "the prediction above 0, as by adding a positive baseline.",
        ),
        (
            Poisson(),
            "other * level",
            0.0,
            -0.5,
            "prediction of -0.25 at time 0 (record 1), but with Poisson it must be at",
        ),
        (
            Poisson(),
            "other + level",
            0.5,
            1.0,
            "measured as 0.5 at time 0 (record 1), but with Poisson must be a whole",
        ),
        (
            Binary(),
            "other + level",
            1.0,
            0.2,
            "prediction of 1.7 at time 1 (record 2), but with Binary it must be between",
        ),
        (
            Binary(),
            "0 * other * level",
            1.0,
            0.2,
            "prediction of 0 at time 0 (record 1), where Binary gives 1 probability",
        ),
        (
            Ordinal("other", 0.1),
            "level",
            1.0,
            0.0,
            "thresholds of output `out` must increase, but are 0.5, 0.1 at time 0",
        ),
        (
            TimeToEvent("level"),
            "other * level",
            1.0,
            0.0,
            "prediction of 0 at time 0 (record 1), where TimeToEvent gives 1",
        ),
        (
            TimeToEvent("-level"),
            "other",
            1.0,
            0.0,
            "`cumulative` of output `out` falls by 1 since the record before at time",
        ),
        (
            TimeToEvent("level"),
            "other",
            2.0,
            0.0,
            "measured as 2 at time 0 (record 1), but with TimeToEvent must be 0 or 1",
        ),
    ],
)
def test_an_experiment_without_a_likelihood_has_a_cause(error, prediction, y, at, why):
    problem = counted(error, prediction, y, at)
    (line,) = problem.failures(problem.start)
    assert line.startswith("Experiment `one`: ")
    assert why in line, line


def test_an_estimate_says_why_it_cannot_begin():
    with pytest.raises(
        RuntimeError, match=r"The first: Experiment `one`: output `out` has a prediction of 0 at time 0"
    ):
        estimate(counted(Proportional(0.1), "other * level", 1.0, 0.0))


def test_what_is_not_positive_where_its_logarithm_is_taken_is_named():
    data = Measurements([1.0, 4.0], [2.0, 1.5], output="y")
    problem = Problem(
        qsp.models.OneCompartment(CL=2.0, V=30.0),
        Experiment(data, qsp.bolus(300.0, to="central")),
        {"y": Output("log10(concentration - offset)", Additive(0.5))},
        {"offset": Free(0.0, bounds=(-1.0, 20.0))},
    )
    assert problem.failures(jnp.asarray([0.0])) == []
    (why,) = problem.failures(jnp.asarray([9.0]))
    assert "`concentration - offset` is -1.34" in why
    assert "at time 4 (record 2), but must be positive: output `y` takes its logarithm." in why
