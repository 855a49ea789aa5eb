"""Pictures of trials: what is drawn are the numbers of the results."""

import itertools

import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import (
    RECIST,
    ArmResponses,
    HazardRatio,
    Interval,
    PowerCurve,
    TumourResponses,
    assess,
    kaplan_meier,
)

VISITS = np.array([0.0, 42.0, 84.0, 126.0])
SUMS = np.array(
    [[100.0, 60.0, 50.0, 70.0], [80.0, 75.0, 90.0, 99.0], [60.0, 0.0, 0.0, 0.0], [90.0, 80.0, np.nan, 70.0]]
)
ASSESSMENT = assess(VISITS, SUMS, RECIST(42.0))
RESPONSES = TumourResponses({"10 mg": ArmResponses(np.arange(4), 0, VISITS, ASSESSMENT)})
CURVES = {"10 mg": kaplan_meier([5.0, 6.0, 6.0, 9.0], [1, 0, 1, 0]), "20 mg": kaplan_meier([7.0, 8.0], [1, 1])}


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_kaplan_meier_has_its_curve_its_marks_and_numbers_at_risk(tmp_path):
    figure = qsp.plot.kaplan_meier(CURVES, unit="d")
    upper, lower = figure.axes
    curve, marks = upper.lines[:2]
    np.testing.assert_allclose(curve.get_xdata(), [0.0, 5.0, 6.0, 9.0])
    np.testing.assert_allclose(curve.get_ydata(), [1.0, 0.75, 0.5, 0.5])
    assert marks.get_xdata().tolist() == [6.0, 9.0]
    assert lower.get_xlabel() == "time (d)"
    numbers = {tuple(np.round(text.get_position(), 6)): text.get_text() for text in lower.texts}
    assert (numbers[0.0, 0], numbers[6.0, 0], numbers[7.5, 0], numbers[7.5, 1]) == ("4", "3", "1", "1")
    assert labels_of(upper) == ["10 mg", "20 mg"]
    figure.savefig(tmp_path / "survival.png")
    with pytest.raises(ValueError, match="`curves` must have at least one estimate"):
        qsp.plot.kaplan_meier({})
    with pytest.raises(ValueError, match="`curves..a..` must be a Kaplan-Meier estimate"):
        qsp.plot.kaplan_meier({"a": [1.0]})


def test_swimmers_are_as_long_as_progression_free_survival(tmp_path):
    axes = qsp.plot.swimmer(RESPONSES, unit="d")
    assert [bar.get_width() for bar in axes.patches] == [126.0, 126.0, 126.0, 84.0]
    begins, goes_on = axes.lines
    assert begins.get_xdata().tolist() == [42.0, 42.0]
    assert goes_on.get_xdata().tolist() == [126.0, 126.0]
    assert labels_of(axes) == ["CR", "PR", "SD", "response begins", "no progression seen"]
    axes.figure.savefig(tmp_path / "swimmer.png")
    with pytest.raises(ValueError, match="`responses` must be what `population.tumour_responses` returns"):
        qsp.plot.swimmer(ASSESSMENT)


def test_spiders_are_changes_since_baseline(tmp_path):
    axes = qsp.plot.spider(RESPONSES)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.0, -40.0, -50.0, -30.0])
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [0.0, 42.0, 84.0])  # progression ends the line
    np.testing.assert_allclose(axes.lines[3].get_xdata(), [0.0, 42.0, 126.0])  # a visit was missed
    assert labels_of(axes) == ["CR", "PR", "SD"]
    axes.figure.savefig(tmp_path / "spider.png")


def test_a_waterfall_falls_from_the_greatest_to_the_least_change(tmp_path):
    axes = qsp.plot.waterfall(RESPONSES)
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == sorted(100.0 * np.asarray(ASSESSMENT.deepest), reverse=True)
    assert axes.get_ylabel() == "best change of the sum of diameters (%)"
    both = TumourResponses({"10 mg": RESPONSES.arms["10 mg"], "none": RESPONSES.first(2).arms["10 mg"]})
    assert len(qsp.plot.waterfall(both).patches) == 6
    assert [row.patient for row in both.patients()] == [0, 1, 2, 3, 0, 1]
    axes.figure.savefig(tmp_path / "waterfall.png")


def test_forests_have_estimates_and_intervals(tmp_path):
    axes = qsp.plot.forest({"all": HazardRatio(0.7, 0.5, 0.9, 0.01), "men": HazardRatio(0.6, 0.3, 1.2, 0.1)})
    assert axes.lines[0].get_xdata().tolist() == [0.5, 0.9]
    assert axes.texts[0].get_text() == "0.70 (0.50 to 0.90)"
    assert axes.get_xscale() == "log"
    axes.figure.savefig(tmp_path / "forest.png")
    for low, high in ((0.97, 1.08), (0.3, 1.2), (0.02, 10.0), (1e-3, 1e2)):  # labels of ticks are apart
        axis = qsp.plot.forest({"all": HazardRatio(1.0, low, high, 0.1)}).xaxis
        axis.figure.savefig(tmp_path / "forest.png")
        boxes = [tick.label1.get_window_extent() for tick in axis.get_major_ticks() if tick.label1.get_text()]
        inside = sorted((box.x0, box.x1) for box in boxes if box.width > 0.0)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(inside))
        assert not any(tick.label1.get_text() for tick in axis.get_minor_ticks())
    linear = qsp.plot.forest({"change": Interval(-2.0, -3.0, -1.0)}, label="difference", neutral=0.0, log=False)
    assert linear.get_xlabel() == "difference"
    with pytest.raises(ValueError, match="must be positive on a logarithmic axis"):
        qsp.plot.forest({"change": Interval(-2.0, -3.0, -1.0)})
    with pytest.raises(ValueError, match="`estimates` must have at least one estimate"):
        qsp.plot.forest({})


def test_power_is_drawn_over_sizes_in_order(tmp_path):
    curve = PowerCurve((60, 30), (Interval(0.9, 0.85, 0.95), Interval(0.6, 0.5, 0.7)))
    axes = qsp.plot.power({"1:1": curve})
    assert axes.lines[0].get_xdata().tolist() == [30, 60]
    assert axes.lines[0].get_ydata().tolist() == [0.6, 0.9]
    axes.figure.savefig(tmp_path / "power.png")
    assert qsp.plot.power(curve).get_legend() is None
