"""Records that are censored: CENS, LIMIT and DV as limits of each record, in all ways in which data are fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import norm

import qspjax as qsp
from qspjax.fit import (
    FOCEI,
    M1,
    M3,
    M4,
    Additive,
    Experiment,
    Free,
    LogNormalError,
    Measurements,
    MixedModel,
    Output,
    Problem,
    Quadrature,
    RandomEffects,
    diagnostics,
    marginal,
    nlme,
    visual_predictive_check,
)
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.mixed._diagnostics import _npde

KEY = jax.random.key(0)

SD, DOSE = 0.2, qsp.bolus(100.0, to="central")
TEXT = """ID,TIME,AMT,DV,CENS,LIMIT
1,0,100,.,0,.
1,2,.,2.5,-1,.
1,4,.,2.0,-1,2.4
1,6,.,1.9,0,.
1,24,.,0.5,1,.
1,30,.,0.4,1,0.1
1,36,.,0.1,1,.
"""
F = 100.0 / 30.0 * np.exp(-0.1 * np.array([2.0, 4.0, 6.0, 24.0, 30.0, 36.0]))
LOWER = np.array([2.5, 2.0, np.nan, -np.inf, 0.1, -np.inf])
UPPER = np.array([np.inf, 2.4, np.nan, 0.5, 0.4, 0.1])


def read(tmp_path, text=TEXT):
    path = tmp_path / "data.csv"
    path.write_text(text)
    return qsp.io.read_nonmem(path)


def terms(least=-np.inf, kept=slice(None)):
    """Return the log likelihood of each record, given that it is above `least`."""
    low = np.maximum(LOWER, least)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.log(norm.cdf(UPPER, F, SD) - norm.cdf(low, F, SD))
    whole = np.where(np.isnan(LOWER), norm.logpdf(1.9, F, SD), within)
    return (whole - (0.0 if np.isinf(least) else norm.logsf(least, F, SD)))[kept]


def problem_of(people, below=None):
    outputs = {"out": Output("concentration", Additive("sd"), below=below)}
    return Problem(qsp.models.OneCompartment(CL=3.0, V=30.0), people, outputs, {"CL": Free(3.0), "sd": SD})


HOW = {
    "own": (None, terms()),
    "M3": (M3(), terms()),
    "M3 of the output": (M3(0.2), terms()),
    "M4": (M4(), terms(least=0.0)),
    "M1": (M1(), terms(kept=slice(3))),
}


@pytest.mark.parametrize("name", HOW)
def test_each_record_has_its_own_limits(tmp_path, name):
    below, expected = HOW[name]
    data = read(tmp_path)
    for people in (qsp.io.experiments(data, "out"), qsp.io.experiments(data, "out", covariates=[])):
        problem = problem_of(people, below)
        np.testing.assert_allclose(problem.log_likelihood(problem.start), expected.sum(), rtol=1e-8)
    made = Measurements([2, 4, 6, 24, 30, 36], [0, 0, 1.9, 0, 0, 0], output="out", censored=[-1, -1, 0, 1, 1, 1],
                        lower=LOWER, upper=UPPER)  # fmt: skip
    problem = problem_of(Experiment(made, DOSE), below)
    np.testing.assert_allclose(problem.log_likelihood(problem.start), expected.sum(), rtol=1e-8)


def test_limits_where_nothing_else_says_them():
    one, two = (Measurements([6.0, 30.0], [1.9, 0.5], output="out", censored=cens) for cens in ([0, 1], [0, -1]))
    known = norm.logpdf(1.9, F[2], SD)
    for data, expected in ((one, norm.logcdf(0.5, F[4], SD)), (two, norm.logsf(0.5, F[4], SD))):
        problem = problem_of(Experiment(data, DOSE))
        np.testing.assert_allclose(problem.log_likelihood(problem.start), known + expected, rtol=1e-8)
    table = {"time": [6.0, 30.0], "value": [1.9, 0.5], "censored": [False, True], "lower": [np.nan, 0.1]}
    problem = problem_of(Experiment(Measurements.of(table, output="out"), DOSE))
    between = np.log(norm.cdf(0.5, F[4], SD) - norm.cdf(0.1, F[4], SD))
    np.testing.assert_allclose(problem.log_likelihood(problem.start), known + between, rtol=1e-8)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"censored": [0, 2]}, r"`censored` must be 1 \(below a limit\), -1 \(above one\) or 0, but is 2"),
        ({"censored": [0]}, r"`censored` must have one element per row \(2\)"),
        ({"lower": [np.nan, 1.0], "upper": [np.nan, 0.5]}, r"`lower` must be less than `upper` \(0.5\), but is `?1"),
        (
            {"censored": [0, 1]},
            r"`measurements` must have a limit where they are censored: .*, but there is none in record 2 of "
            "experiment `experiment`: output `out` at time 30",
        ),
        ({"censored": [0, 1], "lower": [np.nan, 0.2]}, "`measurements` must have a limit where they are censored"),
        ({"censored": [0, -1], "upper": [np.nan, 0.2]}, "`measurements` must have a limit where they are censored"),
    ],
)
def test_what_is_refused(columns, message):
    with pytest.raises(ValueError, match="^Argument " + message):
        problem_of(Experiment(Measurements([6.0, 30.0], [1.9, np.nan], output="out", **columns), DOSE))


def test_bounds_between_which_nothing_lies():
    data = Experiment(Measurements([6.0, 30.0], [1.9, 0.5], output="out", censored=[0, 1], lower=[np.nan, 0.2]), DOSE)
    between = np.log(norm.cdf(0.3, F[4], SD) - norm.cdf(0.2, F[4], SD))
    problem = problem_of(data, M3(0.3))
    np.testing.assert_allclose(problem.log_likelihood(problem.start), norm.logpdf(1.9, F[2], SD) + between, rtol=1e-8)
    with pytest.raises(
        ValueError,
        match=r"values lie between 0.2 and 0.1, the limit of the output \(a record has its own as `upper`\), in record "
        r"2 of experiment `experiment`: output `out` at time 30",
    ):
        problem_of(data, M3(0.1))
    negative = Measurements([6.0, 30.0], [1.9, -0.5], output="out", censored=[0, 1])
    with pytest.raises(ValueError, match=r"but values lie between 0 and -0.5, in record 2 of"):
        problem_of(Experiment(negative, DOSE), M4())
    problem = problem_of(Experiment(negative, DOSE), M1())  # left out, whatever its bounds
    np.testing.assert_allclose(problem.log_likelihood(problem.start), norm.logpdf(1.9, F[2], SD), rtol=1e-8)


def test_bounds_that_the_error_model_excludes_are_named():
    data = Measurements([6.0, 30.0], [1.9, -0.5], output="out", censored=[0, 1], lower=[np.nan, -2.0])
    outputs = {"out": Output("concentration", LogNormalError(SD))}
    problem = Problem(qsp.models.OneCompartment(CL=3.0, V=30.0), Experiment(data, DOSE), outputs, {"CL": Free(3.0)})
    assert "LogNormalError gives a value between -2 and -0.5 probability 0" in problem.failures(problem.start)[0]


WITHOUT_A_VALUE = TEXT.replace("1,24,.,0.5,1,.", "1,24,.,.,1,.").replace("1,30,.,0.4,1,0.1", "1,30,.,.,1,0.1")


@pytest.mark.parametrize("below", [M3(0.5), M4(0.5), M1(0.5), M1()], ids=str)
def test_a_record_without_a_value_is_below_the_limit_of_its_output(tmp_path, below):
    full = TEXT.replace("1,30,.,0.4,1,0.1", "1,30,.,0.5,1,0.1")
    marked = "\n".join(f"{line},{mdv}" for line, mdv in zip(WITHOUT_A_VALUE.split(), ["MDV", *"1000110"], strict=True))
    with pytest.warns(UserWarning, match="lines 6, 7: MDV is 1, but CENS says"):
        tables = [read(tmp_path, full), read(tmp_path, WITHOUT_A_VALUE), read(tmp_path, marked)]
    # the same rows, so the same likelihood, residuals, NPDE and VPC
    wanted, *others = (mixed_of(table, below).rows[0] for table in tables)
    assert wanted.value.size == (6 if below.keeps() else 3)
    for found in others:
        for column in ("time", "value", "side", "lower", "upper"):
            np.testing.assert_array_equal(getattr(found, column), getattr(wanted, column))


def test_a_record_without_any_limit_is_refused(tmp_path):
    people = qsp.io.experiments(read(tmp_path, WITHOUT_A_VALUE), "out")
    message = r"but there is none in record 4 of experiment `1` \(and in 1 more\): output `out` at time 24"
    with pytest.raises(ValueError, match=message):
        problem_of(people)
    with pytest.raises(ValueError, match=message):
        mixed_of(people, M3())


def test_a_column_that_is_not_used_is_named(tmp_path):
    with pytest.warns(UserWarning, match="Column LIMIT is not used: it bounds records with CENS 1 or -1") as found:
        read(tmp_path, "ID,TIME,AMT,DV,LIMIT\n1,0,100,.,.\n1,2,.,2.5,0.1\n1,3,.,2.1,0.1\n")
    assert len(found) == 1
    with pytest.warns(UserWarning, match="Column LLOQ is a covariate, .*: limits are CENS, DV and LIMIT"):
        read(tmp_path, "ID,TIME,AMT,DV,LLOQ\n1,0,100,.,.1\n1,2,.,2.5,0.1\n")
    data = read(tmp_path, "ID,TIME,AMT,DV,DVID\n1,0,100,.,.\n1,2,.,2.5,1\n1,2,.,3,2\n")
    with pytest.warns(UserWarning, match="Column DVID is not used: all observations are of output `out`"):
        qsp.io.experiments(data, "out")


def mixed_of(data, below=None):
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        data if isinstance(data, dict) else qsp.io.experiments(data, "out"),
        {"out": Output("concentration", Additive("sd"), below=below)},
        parameters={"tCL": Free(3.0), "sd": Free(SD)},
        individual={"CL": "tCL * exp(eta)"},
        random=[RandomEffects({"eta": 0.09})],
    )


def test_random_effects_have_the_same_likelihood(tmp_path):
    mixed = mixed_of(read(tmp_path))
    x, u = jnp.asarray(mixed.start), jnp.zeros((1, 1))
    ((_, own),) = mixed.predicted(x, u, mixed.expanded(x, u, 0))
    (rows,) = mixed.rows
    np.testing.assert_allclose(rows.log_density(own), terms(), rtol=1e-6)
    assert rows.limits == (0.5, 2.0)
    assert mixed.censored.all()


@pytest.mark.slow
def test_random_effects_and_what_is_simulated(tmp_path):
    again = "".join("2" + line[1:] + "\n" for line in TEXT.splitlines()[1:])
    fit = nlme(mixed_of(read(tmp_path, TEXT + again)), method=FOCEI(), iterations=0)
    # by the trapezoidal rule: the likelihood is that of the records, integrated over eta
    eta = np.linspace(-1.5, 1.5, 4001)
    f = 100.0 / 30.0 * np.exp(-0.1 * np.exp(eta)[:, None] * np.array([2.0, 4.0, 6.0, 24.0, 30.0, 36.0]))
    with np.errstate(divide="ignore"):
        within = np.log(norm.cdf(UPPER, f, SD) - norm.cdf(LOWER, f, SD))
    joint = np.where(np.isnan(LOWER), norm.logpdf(1.9, f, SD), within).sum(axis=1) + norm.logpdf(eta, 0.0, 0.3)
    exact = marginal(fit.mixed, jnp.asarray(fit.x), Quadrature(20)).objective
    constant = 2 * np.log(2.0 * np.pi)  # of the two that were measured
    np.testing.assert_allclose(exact + constant, -4.0 * np.log(np.trapezoid(np.exp(joint), eta)), rtol=1e-5)
    table = diagnostics(fit, replicates=200, key=KEY)
    assert np.isnan(table["IWRES"][table["CENSORED"]]).all()
    assert np.isfinite(table["NPDE"]).all()
    check = visual_predictive_check(fit, replicates=50, bins=1, corrected=False, quantiles=(0.1, 0.5, 0.9), key=KEY)
    # between the widest limits, 0.5 and 2.0, lies what is known of all
    assert np.isnan(check["OBSERVED"][[0, 2]]).all()
    assert 0.5 <= check["OBSERVED"][1] <= 2.0 or np.isnan(check["OBSERVED"][1])


def test_npde_of_censored_measurements():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 3))
    places, times, values = [0, 1, 2], [0.0, 1.0, 2.0], [0.3, 0.0, 0.0]
    bounds = [0, 1, -1], [-np.inf, -np.inf, 1.0], [np.inf, -0.5, np.inf]
    one = map(np.array, ([0, 0, 0], places, places, times, [np.inf] * 3, values, *bounds))
    found = _npde(OutputData("y", Output("f", Additive(1.0)), *one, given={}), samples, jax.random.key(1))
    assert found[0] == pytest.approx(0.3, abs=0.1)
    assert found[1] < -0.4
    assert found[2] > 0.9
    assert np.abs(found).max() <= -ndtri(0.5 / 4000)
    assert jnp.isfinite(found).all()
