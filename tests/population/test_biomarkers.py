"""ROC curves against pairs counted one by one, intervals against DeLong and the bootstrap; subgroups of a forest."""

import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import Interval, hazard_ratio, roc, share, subgroups

NORMAL = 1.959963984540054


def drawn(seed, size=60, levels=7):
    rng = np.random.default_rng(seed)
    responded = rng.random(size) < 0.4
    return rng.integers(0, levels, size) + responded * rng.integers(0, 3, size), responded, rng.uniform(0.1, 2.0, size)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_counts_pairs(seed):
    scores, responded, weights = drawn(seed)
    higher = np.sign(scores[responded][:, None] - scores[~responded][None, :]) / 2.0 + 0.5
    pairs = np.outer(weights[responded], weights[~responded])
    assert roc(scores, responded).auc.estimate == pytest.approx(higher.mean(), rel=1e-12)
    curve = roc(scores, responded, weights=weights)
    assert curve.auc.estimate == pytest.approx(np.average(higher, weights=pairs))
    assert np.trapezoid(curve.sensitivity, 1.0 - curve.specificity) == pytest.approx(curve.auc.estimate, rel=1e-12)
    for threshold, sensitivity, specificity in zip(curve.thresholds, curve.sensitivity, curve.specificity, strict=True):
        called = scores >= threshold
        assert sensitivity == pytest.approx(np.average(called[responded], weights=weights[responded]))
        assert specificity == pytest.approx(np.average(~called[~responded], weights=weights[~responded]), abs=1e-12)
    assert curve.threshold == curve.thresholds[np.argmax(curve.sensitivity + curve.specificity)]


def test_the_variance_is_that_of_delong_and_of_the_bootstrap():
    scores, responded, _ = drawn(3, size=200)
    x, y = scores[responded], scores[~responded]
    psi = np.sign(x[:, None] - y[None, :]) / 2.0 + 0.5
    error = np.sqrt(psi.mean(1).var(ddof=1) / x.size + psi.mean(0).var(ddof=1) / y.size)
    area, low, high = roc(scores, responded).auc
    logits = [np.log(p / (1.0 - p)) for p in (low, area, high)]
    np.testing.assert_allclose(np.diff(logits), NORMAL * error / (area * (1.0 - area)), rtol=1e-10)
    rng = np.random.default_rng(1)
    rows = [rng.integers(scores.size, size=scores.size) for _ in range(400)]
    areas = [roc(scores[each], responded[each]).auc.estimate for each in rows]
    assert np.std(areas) == pytest.approx(error, rel=0.15)


def test_weights_are_no_counts_and_who_has_none_is_left_out():
    scores, responded, weights = drawn(4)
    one, thousand = (roc(scores, responded, weights=factor * weights).auc for factor in (1.0, 1e3))
    np.testing.assert_allclose(one, thousand, rtol=1e-12)
    np.testing.assert_allclose(roc(scores, responded, weights=np.ones(60)).auc, roc(scores, responded).auc)
    without = roc(scores[10:], responded[10:], weights=weights[10:])
    absent = np.where(np.arange(60) < 10, 0.0, weights)
    np.testing.assert_allclose(roc(scores, responded, weights=absent).auc, without.auc)
    unknown = np.where(np.arange(60) < 10, np.nan, scores)
    np.testing.assert_allclose(roc(unknown, responded, weights=weights).auc, without.auc)


def test_a_perfect_biomarker_has_no_interval():
    curve = roc([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    assert curve.auc.estimate == 1.0
    assert np.isnan(curve.auc[1:]).all()
    assert str(curve).splitlines()[1].split() == ["1", "-", "-", "3", "100.0", "%", "100.0", "%"]
    assert roc([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0]).auc.estimate == 0.0


@pytest.mark.parametrize(
    ("scores", "responded", "words"),
    [
        ([1.0, 2.0], [1, 1], "`responded` must have patients who respond, and others, but everybody does"),
        ([1.0, 2.0], [0, np.nan], "others, but nobody does"),
        ([1.0, 2.0, 3.0], [0, 1], "`responded` must be true or false for each patient"),
        ([1.0, 2.0], [0, 2], "`responded` must be true or false, 1 or 0, or NaN"),
        (["a", "b"], [0, 1], "`scores` must hold numbers"),
        ([], [], "`scores` must have shape"),
    ],
)
def test_errors_in_words(scores, responded, words):
    with pytest.raises(ValueError, match=words):
        roc(scores, responded)


def test_subgroups_are_categories_or_parts_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    times, treated = rng.exponential(10.0, 90), np.arange(90) % 2 == 0
    weight, sex = np.arange(90.0) + 30.0, np.where(np.arange(90) % 3 == 0, "f", "m")
    weight[0] = np.nan

    def estimate(rows):
        return hazard_ratio(times[rows], np.ones(rows.sum()), treated[rows])

    found = subgroups({"sex": sex, "WT (kg)": weight, "stage": np.arange(90) % 3}, estimate, parts=3)
    assert [*found] == [
        *("all (90)", "sex f (30)", "sex m (60)", "WT (kg) < 60.33 (30)", "WT (kg) 60.33 to 89.67 (29)"),
        *("WT (kg) >= 89.67 (30)", "stage 0 (30)", "stage 1 (30)", "stage 2 (30)"),
    ]
    assert found["sex f (30)"] == estimate(sex == "f")
    qsp.plot.forest(found).figure.savefig(tmp_path / "forest.png")
    flags = subgroups({"smokes": np.arange(90) < 20}, lambda rows: share(treated[rows]))
    assert [*flags] == ["all (90)", "smokes False (70)", "smokes True (20)"]


def test_subgroups_that_cannot_be_estimated_are_named():
    times, treated = np.arange(1.0, 7.0), np.array([1, 0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="In the subgroup sex f: Argument `treated` must"):
        subgroups({"sex": [*"mmmfff"]}, lambda rows: hazard_ratio(times[rows], np.ones(rows.sum()), treated[rows]))
    with pytest.raises(ValueError, match="`by` must have one value per patient in each column"):
        subgroups({"a": [1, 2], "b": [1, 2, 3]}, lambda rows: Interval(0.0, 0.0, 0.0))


def test_the_picture_has_the_curves_and_the_areas(tmp_path):
    scores, responded, weights = drawn(2)
    curves = {"CD8": roc(scores, responded), "weighted": roc(scores, responded, weights=weights)}
    axes = qsp.plot.roc(curves)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), curves["CD8"].sensitivity)
    area, low, high = curves["CD8"].auc
    assert axes.get_legend().get_texts()[0].get_text() == f"CD8: area {area:.2f} ({low:.2f} to {high:.2f})"
    axes.figure.savefig(tmp_path / "roc.png")
    with pytest.raises(ValueError, match="`curves` must have at least one curve"):
        qsp.plot.roc({})
