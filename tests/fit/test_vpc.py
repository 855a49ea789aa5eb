"""Visual predictive checks with strata, measurements below a limit, and whoever is left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import (
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
from tests.systems.mixed import Level

KEY = jax.random.key(0)

TIMES = np.array([0.0, 1.0, 2.0])
COUNT = 40


def made(limit=None):
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
        {"level": Output("level", Additive("sigma"), below=None if limit is None else M3(limit))},
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
    fit, values, _ = made(limit=1.0)
    check = visual_predictive_check(fit, replicates=400, strata="ARM", key=KEY)
    own = check["STRATUM"] == "ARM = 0"
    np.testing.assert_allclose(check["BELOW"][own][::3], (values[::2] < 1.0).mean(axis=0))
    # half of the levels about 1 lie below 1; shares of 20 subjects scatter as a binomial does
    np.testing.assert_allclose(check["BELOW_MEDIAN"][own], 0.5, atol=0.051)
    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20
    np.testing.assert_allclose(check["BELOW_LOWER"][own], low, atol=0.051)
    np.testing.assert_allclose(check["BELOW_UPPER"][own], high, atol=0.051)
    assert (check["BELOW_UPPER"][~own] < 0.1).all()
    assert check.points["CENSORED"].sum() == (values < 1.0).sum()
    figure = qsp.plot.vpc_panels(check)
    assert [axes.get_ylabel() for axes in figure.axes] == ["level, prediction-corrected", "", "share below limit", ""]


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
