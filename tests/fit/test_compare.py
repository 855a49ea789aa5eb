"""Comparison of fits: likelihood ratios, information criteria, and what cannot be compared."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from qspjax.fit import (
    FO,
    FOCEI,
    Additive,
    Experiment,
    Free,
    MeasurementCount,
    Measurements,
    MixedFit,
    MixedModel,
    Output,
    RandomEffects,
    compare,
)
from tests.systems.mixed import TIMES, Level


def fitted(
    objective, *, random, individual=None, slope=None, method=None, shift=0.0, names=("a", "b", "c"), below=None
):
    """Return a fit with an objective that is given."""
    people = {
        name: Experiment(Measurements(TIMES, 5.0 + TIMES + i + shift, output="level")) for i, name in enumerate(names)
    }
    mixed = MixedModel(
        Level(base=5.0, slope=0.3),
        people,
        {"level": Output("level", Additive("sigma"), below=below)},
        parameters={"mu": Free(4.5), "sigma": Free(0.3)} | ({} if slope is None else {"slope": slope}),
        individual={"base": "mu + eta"} | (individual or {}),
        random=random,
    )
    count, effects = len(people), len(mixed.effects)
    return MixedFit(
        mixed=mixed,
        method=FOCEI() if method is None else method,
        x=mixed.start,
        u=np.zeros((count, effects)),
        subject_objectives=np.full(count, objective / count),
        kept=np.ones(count, bool),
        reasons=(),
        found=np.ones(count, bool),
        history=np.array([objective]),
        path=mixed.start[None],
        status="converged",
        seconds=0.0,
    )


ONE, BOTH = [RandomEffects({"eta": 1.0})], {"slope": "slope + zeta"}


def test_likelihood_ratios_and_criteria():
    base = fitted(60.0, random=ONE)
    result = compare(
        {
            "base": base,
            "slope": fitted(54.0, random=ONE, slope=Free(0.3)),
            "no better": fitted(60.5, random=ONE, slope=Free(0.3)),
            "worse": fitted(66.0, random=[RandomEffects({"eta": 1.0}, fixed=True)]),
            "as many": fitted(59.0, random=ONE),
        }
    )
    table = result.table
    assert table["ESTIMATES"].tolist() == [3, 4, 4, 2, 3]
    assert table["DF"].tolist() == [0, 1, 1, -1, 0]
    np.testing.assert_allclose(table["DELTA"], [0.0, -6.0, 0.5, 6.0, -1.0])
    p = stats.chi2.sf(6.0, 1)
    np.testing.assert_allclose(table["P"], [np.nan, p, 1.0, p, np.nan])
    whole = table["OBJECTIVE"] + 9 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(table["AIC"], whole + 2.0 * table["ESTIMATES"])
    np.testing.assert_allclose(table["BIC"], whole + np.log(3) * table["ESTIMATES"])
    more = compare({"base": base}, sample_size=MeasurementCount()).table
    np.testing.assert_allclose(more["BIC"], whole[0] + 3 * np.log(9))
    first, second, *_ = str(result).splitlines()
    assert first.split() == ["MODEL", "ESTIMATES", "OBJECTIVE", "DELTA", "DF", "TEST", "P", "AIC", "BIC", "STATUS"]
    assert second.split()[:5] == ["base", "3", "60.000", "+0.000", "+0"]
    assert result.to_dataframe()["MODEL"].tolist() == ["base", "slope", "no better", "worse", "as many"]


def test_a_variance_at_zero_has_half_the_weight():
    fixed = fitted(60.0, random=ONE, slope=Free(0.3))
    apart = fitted(57.0, random=[*ONE, RandomEffects({"zeta": 0.1})], slope=Free(0.3), individual=BOTH)
    full = fitted(56.0, random=[RandomEffects(["eta", "zeta"], np.eye(2))], slope=Free(0.3), individual=BOTH)
    more = fitted(55.0, random=[*ONE, RandomEffects({"zeta": 0.1})], individual={"slope": "zeta * mu"})
    table = compare({"fixed": fixed, "apart": apart, "full": full, "another": more}).table
    assert table["TEST"].tolist() == ["", "chi2(0):chi2(1)", "chi2(1):chi2(2)", ""]
    chi2 = stats.chi2.sf
    np.testing.assert_allclose(table["P"][1:3], [0.5 * chi2(3.0, 1), 0.5 * chi2(4.0, 1) + 0.5 * chi2(4.0, 2)])
    # the variance was there, but fixed: nothing is at its bound
    known = fitted(60.0, random=[*ONE, RandomEffects({"zeta": 0.1}, fixed=True)], slope=Free(0.3), individual=BOTH)
    assert compare({"known": known, "apart": apart}).table["TEST"].tolist() == ["", "chi2(1)"]
    # a covariance alone has no bound
    assert compare({"apart": apart, "full": full}).table["TEST"].tolist() == ["", "chi2(1)"]


def test_a_mixture_has_no_chi_squared_ratio():
    base, more = fitted(60.0, random=ONE), fitted(50.0, random=ONE, slope=Free(0.3))
    mixture = dataclasses.replace(more, memberships={"low": np.ones(3), "high": np.zeros(3)})
    assert np.isnan(compare({"base": base, "two": mixture}).table["P"]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"method": FO()},
            "must approximate the likelihood in one way, but those of `a` and `b` differ: FOCEI and FO.",
        ),
        ({"names": ("a", "b")}, "must have the same subjects, but those of `a` and `b` differ."),
        ({"shift": 0.1}, "must have the same measurements, but those of `a` and `b` differ."),
    ],
)
def test_what_cannot_be_compared(changed, message):
    with pytest.raises(ValueError) as found:
        compare({"a": fitted(60.0, random=ONE), "b": fitted(60.0, random=ONE, **changed)})
    assert str(found.value) == f"Argument `fits` {message}"


def test_bad_input():
    with pytest.raises(ValueError, match="must hold at least one fit, but hold none"):
        compare({})
    with pytest.raises(ValueError, match=r"must be a sample size such as SubjectCount\(\), but is of type str"):
        compare({"base": fitted(60.0, random=ONE)}, sample_size="rows")
