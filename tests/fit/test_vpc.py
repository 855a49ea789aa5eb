"""Visual predictive checks with strata, measurements below a limit, and whoever is left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import (
    M1,
    M3,
    Additive,
    Experiment,
    Free,
    Measurements,
    MixedFit,
    MixedModel,
    Output,
    RandomEffects,
    diagnostics,
    simulated,
    visual_predictive_check,
)
from qspjax.fit.mixed._vpc import _interval
from tests.systems.mixed import Level

KEY = jax.random.key(0)

TIMES = np.array([0.0, 1.0, 2.0])
COUNT = 40


def made(below=None):
    """Return a fit that is given: levels about 1 or 3, by stratum, and the measurements, shape (subjects, times)."""
    rng = np.random.default_rng(0)
    group = np.arange(COUNT) % 2
    typical = 1.0 + 2.0 * group
    values = typical[:, None] + 0.5 * rng.normal(size=(COUNT, 1)) + 0.3 * rng.normal(size=(COUNT, 3))
    people = {
        f"{i}": Experiment(
            Measurements(TIMES, values[i], output="level"),
            set={"ARM": group[i], "typical": typical[i], "AGE": 20.0 + i},
        )
        for i in range(COUNT)
    }
    mixed = MixedModel(
        Level(base=1.0, slope=1.0),
        people,
        {"level": Output("level", Additive("sigma"), below=below)},
        parameters={"scale": Free(1.0), "sigma": Free(0.3)},
        individual={"base": "typical * scale + eta + 0 * ARM + 0 * AGE", "slope": "0 * eta"},
        random=[RandomEffects({"eta": 0.25})],
    )
    nothing = np.zeros((COUNT, 1))
    fit = MixedFit(
        mixed=mixed,
        method=None,
        x=mixed.start,
        u=nothing,
        subject_objectives=nothing[:, 0],
        kept=np.ones(COUNT, bool),
        reasons=(),
        found=np.ones(COUNT, bool),
        history=np.zeros(1),
        path=mixed.start[None],
        status="",
        seconds=0.0,
    )
    return fit, values, group


def test_strata_are_checks_of_their_own():
    fit, values, group = made()
    check = visual_predictive_check(fit, replicates=200, strata="ARM", corrected=False, key=KEY)
    assert list(dict.fromkeys(check["STRATUM"])) == ["ARM = 0", "ARM = 1"]
    for arm, mean in ((0, 1.0), (1, 3.0)):
        own = check["STRATUM"] == f"ARM = {arm}"
        wanted = np.quantile(values[group == arm], [0.05, 0.5, 0.95], axis=0).T.ravel()
        np.testing.assert_allclose(check["OBSERVED"][own], wanted)
        np.testing.assert_allclose(check["MEDIAN"][own][1::3], mean, atol=0.1)
        np.testing.assert_array_equal(check["COUNT"][own], 20)
    assert np.isnan(check["BELOW"]).all()
    assert check.points["VALUE"].tolist() == values.ravel().tolist()
    # corrected within a stratum: its predictions are all the same, so that nothing moves
    again = visual_predictive_check(fit, replicates=200, strata="ARM", key=KEY)
    np.testing.assert_allclose(again["OBSERVED"], check["OBSERVED"], rtol=1e-12)
    # corrected without strata: all are brought to the median prediction, 2
    whole = visual_predictive_check(fit, replicates=20, key=KEY)
    wanted = np.median(values * 2.0 / (1.0 + 2.0 * group)[:, None], axis=0)
    np.testing.assert_allclose(whole["OBSERVED"][1::3], wanted)
    np.testing.assert_allclose(
        np.sort(whole.points["VALUE"]), np.sort((values * 2.0 / (1.0 + 2.0 * group)[:, None]).ravel())
    )
    figure = qsp.plot.vpc_panels(check)
    assert [axes.get_title() for axes in figure.axes] == ["ARM = 0", "ARM = 1"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    with pytest.raises(ValueError, match="`stratum` must name a stratum of the table"):
        qsp.plot.vpc(check, stratum="ARM = 2")


def test_strata_of_numbers_are_cut():
    fit, *_ = made()

    def strata(**settings):
        return list(dict.fromkeys(visual_predictive_check(fit, replicates=2, **settings, key=KEY)["STRATUM"]))

    assert strata(strata="AGE") == ["AGE <= 39.5", "AGE > 39.5"]
    assert strata(strata="AGE", cuts=[30, 40]) == ["AGE <= 30", "30 < AGE <= 40", "AGE > 40"]
    assert strata(strata=["m", "f"] * 20) == ["f", "m"]
    with pytest.raises(ValueError, match="`strata` must name a covariate"):
        strata(strata="WT")
    with pytest.raises(ValueError, match=r"`strata` must be a covariate, or have one value per subject \(40\)"):
        strata(strata=[1, 2])
    with pytest.raises(ValueError, match="`cuts` must be increasing numbers"):
        strata(strata="AGE", cuts=[40, 30])


def test_the_share_below_the_limit_has_an_interval():
    fit, values, _ = made(M3(1.0))
    check = visual_predictive_check(fit, replicates=400, strata="ARM", key=KEY)
    own = check["STRATUM"] == "ARM = 0"
    np.testing.assert_allclose(check["BELOW"][own][::3], (values[::2] < 1.0).mean(axis=0))
    # half of the levels about 1 lie below 1; shares of 20 subjects scatter as a binomial does
    np.testing.assert_allclose(check["BELOW_MEDIAN"][own], 0.5, atol=0.051)
    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20
    np.testing.assert_allclose(check["BELOW_LOWER"][own], low, atol=0.051)
    np.testing.assert_allclose(check["BELOW_UPPER"][own], high, atol=0.051)
    assert (check["BELOW_UPPER"][~own] < 0.1).all()
    # the quantiles of whole data sets: only then is what lies below the limit unknown
    whole = 1.0 + np.sqrt(0.25 + 0.09) * np.random.default_rng(0).normal(size=(20000, 20))
    wanted = np.quantile(whole, [0.05, 0.5, 0.95], axis=1, method="inverted_cdf")
    low, middle, high = np.quantile(wanted, [0.025, 0.5, 0.975], axis=1)
    for k, quantile in enumerate((0.05, 0.5, 0.95)):
        rows = own & (check["QUANTILE"] == quantile)
        assert np.isnan(check["LOWER"][rows]).all() == (low[k] < 1.0)
        for bound, name in ((high[k], "UPPER"), (middle[k], "MEDIAN"), (low[k], "LOWER")):
            if abs(bound - 1.0) > 0.2:
                np.testing.assert_allclose(check[name][rows], bound if bound > 1.0 else np.nan, atol=0.13)
    assert check.points["CENSORED"].sum() == (values < 1.0).sum()
    figure = qsp.plot.vpc_panels(check)
    assert [axes.get_ylabel() for axes in figure.axes] == ["level, prediction-corrected", "", "share below limit", ""]


def test_replicates_beyond_a_limit_have_their_rank():
    below = np.array([-np.inf] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(_interval(below, 0.8), [np.nan, 1.0, 5.0])
    np.testing.assert_array_equal(_interval(np.append(below, np.nan), 0.8), [np.nan, 1.0, 5.0])
    np.testing.assert_array_equal(_interval(-below, 0.8), [-5.0, -1.0, np.nan])
    np.testing.assert_array_equal(_interval(below[1:], 0.8), [np.nan, 1.5, 5.1])
    np.testing.assert_array_equal(_interval(below[:-1], 0.8), [np.nan, np.nan, 4.1])
    np.testing.assert_array_equal(_interval(np.full(3, np.nan), 0.8), np.full(3, np.nan))
    values = np.random.default_rng(0).normal(size=37)
    np.testing.assert_allclose(_interval(values, 0.9), np.quantile(values, [0.05, 0.5, 0.95]), rtol=1e-13)


@pytest.mark.slow
def test_what_is_left_out_of_the_data_is_left_out_of_the_simulations():
    fit, values, _ = made(M1(0.1))
    check = visual_predictive_check(fit, replicates=200, strata="ARM", quantiles=[0.1], key=KEY)
    own = check["STRATUM"] == "ARM = 0"
    np.testing.assert_array_equal(check["COUNT"][own], (values[::2] >= 0.1).sum(axis=0))
    whole = 1.0 + np.sqrt(0.25 + 0.09) * np.random.default_rng(0).normal(size=(4000, 20))
    quantiles = np.nanquantile(np.where(whole < 0.1, np.nan, whole), 0.1, axis=1)
    for name, wanted in zip(("LOWER", "MEDIAN"), np.quantile(quantiles, [0.025, 0.5]), strict=True):
        np.testing.assert_allclose(check[name][own], wanted, atol=0.07)
    assert (check["LOWER"][own] > 0.1).all()
    assert np.isnan(check["BELOW"]).all()
    assert not any("simulation has no values" in reason for reason in check.reasons)


@pytest.mark.slow
def test_a_limit_below_all_measurements():
    fit, values, _ = made(M3(-0.5))
    check = visual_predictive_check(fit, replicates=50, strata="ARM", corrected=False, key=KEY)
    assert values.min() > -0.5
    assert (check["BELOW"] == 0.0).all()
    assert check["BELOW_UPPER"].max() > 0.0


class Fragile(Level):
    """A level that is no number above 3.5."""

    def vector_field(self, t, y):
        return {"level": jnp.where(self.base > 3.5, jnp.nan, self.slope)}


def test_whoever_is_left_out_is_named():
    fit, values, group = made()
    mixed = fit.mixed
    people = mixed.subjects
    fragile = MixedModel(
        Fragile(base=1.0, slope=1.0),
        people,
        mixed.outputs,
        parameters=mixed.parameters,
        individual=mixed.individual,
        random=mixed.random,
    )
    some = dataclasses.replace(fit, mixed=fragile, kept=np.arange(COUNT) != 3, reasons=("Subject `3`: not this one.",))
    check = visual_predictive_check(some, replicates=100, corrected=False, key=KEY)
    first, *others = check.reasons
    assert first == "Subject `3`: not this one."
    share = float(np.mean(np.isnan(simulated(fragile, fit.x, replicates=100, key=KEY)[0][:, 5])))
    assert 0.0 < share < 0.4
    assert (
        f"Subject `1`: its simulation has no values of `level` in {100 * share:.0f} of 100 replicates, where"
        in others[0]
    )
    with pytest.warns(
        UserWarning, match=r"NPDE of `level` leave out simulations that failed, .*`1` \([0-9]+ of 50 failed\)"
    ):
        diagnostics(some, replicates=50, key=KEY)
    # replicates in which somebody failed still count
    np.testing.assert_allclose(check["MEDIAN"][1::3], 2.0, atol=0.5)
    texts = [text.get_text() for text in qsp.plot.vpc_panels(check).texts]
    assert any("left out, see `reasons`: 3, 1" in text for text in texts)
