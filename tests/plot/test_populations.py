"""Pictures of plausible patients and of targets: the numbers that they show are those of the tables."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import Bound, Mean, Rejection, plausible, weights

POPULATION = qsp.Population(
    qsp.models.OneCompartment(CL=3.0, V=30.0),
    between={"CL": qsp.LogUniform(1.0, 10.0), "V": qsp.Uniform(10.0, 100.0)},
)
BOUNDS = {"C0": Bound(qsp.endpoints.Value("concentration", at=0.0), 1.0, 2.0)}
UNKNOWN = {"C0": Bound(qsp.endpoints.Value("concentration", at=0.0), 100.0, 200.0)}
ARMS = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]


@pytest.fixture(scope="module")
def found():
    return plausible(POPULATION, BOUNDS, arms=ARMS, size=200, key=jax.random.key(0), search=Rejection(512))


def test_coverage_before_and_after_selection(found):
    weighed = weights(found, [Mean("CL", 2.0), Mean("C0", 1.4)])
    figure = qsp.plot.coverage(found, weighed)
    first, second, pair = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["CL", "V"]
    np.testing.assert_array_equal(pair.lines[0].get_xdata(), found.points[:, 0])
    heights = [patch.get_height() for patch in second.patches[:20]]
    expected, _ = np.histogram(found.points[:, 1], bins=np.linspace(0.0, 1.0, 21), density=True)
    np.testing.assert_allclose(heights, expected)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"population", "plausible", "chosen"}
    assert len(qsp.plot.coverage(found, names=["V"]).axes) == 1
    assert list(found.to_dataframe().columns) == ["CL", "V", "C0"]


def test_targets_against_reached(found):
    weighed = weights(found, [Mean("CL", 2.0), Mean("C0", 3.0)])
    axes = qsp.plot.targets(weighed)
    table = weighed.to_dataframe()
    drawn = np.concatenate([line.get_xdata() for line in axes.lines[1:]])
    np.testing.assert_allclose(sorted(drawn), sorted(100.0 * table["error"]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean of CL: 2", "mean of C0: 3"]
    assert "cannot be reached, or conflicts" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_messages(found):
    with pytest.raises(
        ValueError, match=r"Argument `names` must name something that differs between patients \(CL, V\)"
    ):
        qsp.plot.coverage(found, names=["ka"])
    with pytest.warns(UserWarning, match="0 of 5 plausible patients"):
        nobody = plausible(POPULATION, UNKNOWN, arms=ARMS, size=5, key=jax.random.key(0), search=Rejection(64), most=64)
    with pytest.raises(ValueError, match="Argument `patients` must be at least one, but is `nobody`"):
        qsp.plot.coverage(nobody)
    with pytest.raises(ValueError, match=r"Argument `chosen` must be of these patients \(200\), but is of 2"):
        qsp.plot.coverage(found, weights({"x": [1.0, 2.0]}, [Mean("x", 1.5)]))
