"""Pictures: axes come back, with units, and the table of numbers is what is drawn."""

import jax
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import qspjax as qsp
from qspjax import plot
from qspjax._solution import RESULTS

TIMES = np.linspace(0.0, 24.0, 7)


@pytest.fixture(scope="module")
def result():
    model = qsp.models.OneCompartment(CL=3.0, V=30.0)
    population = qsp.Population(model, between={"CL": qsp.LogNormal(cv=0.3)})
    trial = qsp.Trial(
        [qsp.Arm("none", qsp.no_doses()), qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))],
        TIMES,
        endpoints={
            "peak": qsp.endpoints.Cmax("concentration"),
            "above 1": qsp.endpoints.Responder(qsp.endpoints.Value("concentration", at=8.0), at_least=1.5),
        },
    )
    return qsp.simulate_trial(trial, population.sample(key=jax.random.key(1), size=20))


def test_one_patient_is_a_line(result):
    whole = result.arm("100 mg").solution
    solution = jax.tree.map(lambda leaf: leaf[3] if np.ndim(leaf) and np.shape(leaf)[0] == 20 else leaf, whole)
    ax = plot.trajectory(solution, "concentration", label="a patient")
    assert isinstance(ax, Axes)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), solution.observed["concentration"])
    assert (ax.get_xlabel(), ax.get_ylabel(), line.get_label()) == ("time (h)", "concentration (mg/L)", "a patient")
    assert not ax.collections


def test_a_cohort_is_a_median_and_a_band(result):
    solution = result.arm("100 mg").solution
    ax = Figure().add_subplot()
    assert plot.trajectory(solution, "concentration", ax) is ax
    expected = np.percentile(np.asarray(solution.observed["concentration"]), [50, 5, 95], axis=0)
    for line, values in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    assert len(ax.collections) == 1
    with pytest.raises(ValueError, match=r"must name an observed value \(concentration\), but is `x`"):
        plot.trajectory(solution, "x")


@pytest.mark.filterwarnings("error")
def test_failed_patients_count_nowhere():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [5.0, 6.0, np.nan]])
    labels = qsp._solution.Labels((), (), qsp.Units(), "")
    stats = {"steps": np.ones(3, int)}

    def middle(failed):
        result = jax.vmap(lambda f: RESULTS.where(f, RESULTS.state_nonfinite, RESULTS.successful))(np.array(failed))
        solution = qsp.Solution(np.arange(3.0), {"y": values}, None, result, stats, None, labels)
        return plot.quantiles(solution, "y")[2]

    np.testing.assert_allclose(middle([False, False, True]), [2.0, 4.0, np.nan])  # 1.0 counts, its NaN does not
    assert np.isnan(middle([True, True, True])).all()


def test_the_numbers_are_those_of_the_picture(result):
    panels = [plot.Panel("concentration", label="drug", log=True, lines=(1.0, 2.0))]
    figure = plot.trial(result, panels=panels, title="A trial")
    assert isinstance(figure, Figure)
    course, bars = figure.axes
    rows = plot.bands(result, panels=panels)
    assert list(rows[0]) == ["arm", "output", "time", "p5", "median", "p95"]
    drawn = {line.get_label(): line.get_ydata() for line in course.lines}
    for arm in ("none", "100 mg"):
        np.testing.assert_array_equal(drawn[arm], [row["median"] for row in rows if row["arm"] == arm])
    assert [row["time"] for row in rows if row["arm"] == "none"] == TIMES.tolist()
    assert (course.get_ylabel(), course.get_yscale()) == ("drug (mg/L)", "log")
    assert [text.get_text() for text in course.texts] == ["1", "2"]
    share = 100 * float(np.mean(result.arm("100 mg").endpoints["above 1"]))
    assert [bar.get_height() for bar in bars.patches] == [0.0, pytest.approx(share)]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "100 mg"]
    assert legend.get_title().get_text() == "A trial"


def test_a_trial_draws_everything_by_default(result, tmp_path):
    figure = plot.trial(result)
    assert [ax.get_ylabel() for ax in figure.axes] == ["concentration (mg/L)", "responders (%)"]
    figure.savefig(tmp_path / "trial.png")  # no warning is raised


@pytest.mark.filterwarnings("error")
def test_nothing_positive_has_no_logarithm(result, tmp_path):
    untreated = qsp.Trial(result.trial.arms[:1], TIMES)
    nothing = qsp.simulate_trial(untreated, result.cohort)
    figure = plot.trial(nothing, panels=[plot.Panel("concentration", log=True)])
    figure.savefig(tmp_path / "trial.png")
    assert figure.axes[0].get_yscale() == "linear"


def test_panels_can_be_names(result):
    assert plot.trial(result, panels=["concentration"]).axes[0].get_ylabel() == "concentration (mg/L)"
    assert plot.bands(result, panels=["concentration"]) == plot.bands(result)
    with pytest.raises(ValueError, match=r"must name an observed value \(concentration\), but is `x`"):
        plot.trial(result, panels=["x"])


def test_the_key_names_what_is_drawn(result):
    assert "Triangles" in plot.trial(result)._supxlabel.get_text()
    assert max(map(len, plot.trial(result)._supxlabel.get_text().splitlines())) < 16 * plot.trial(result).get_figwidth()
    untreated = qsp.Trial(result.trial.arms[:1], TIMES)
    assert "Triangles" not in plot.trial(qsp.simulate_trial(untreated, result.cohort))._supxlabel.get_text()


def test_a_waterfall_of_a_trial_has_a_bar_a_patient(result):
    ax = plot.waterfall(result, endpoint="peak")
    values = np.concatenate([np.asarray(arm.endpoints["peak"]) for arm in result.arms])
    heights = sorted((bar.get_x(), bar.get_height()) for bar in ax.patches)
    np.testing.assert_allclose([height for _, height in heights], np.sort(values)[::-1])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["none", "100 mg"]
    with pytest.raises(ValueError, match=r"must name an endpoint of the trial \(peak, above 1\), but is `size`"):
        plot.waterfall(result, endpoint="size")


def test_a_network_shows_its_species():
    parameters = {f"k{i}": 1.0 for i in range(14)}
    network = qsp.models.Network(
        species={"A": 1.0, "B": 0.0},
        parameters=parameters,
        reactions={"r": qsp.models.Reaction("A -> B", qsp.models.MassAction("k0"))},
    )
    solution = qsp.simulate(network, qsp.no_doses(), [0.0, 1.0])
    assert [ax.get_ylabel() for ax in plot.trajectories(solution).axes] == ["A", "B"]
    assert [ax.get_ylabel() for ax in plot.trajectories(solution, ["k3"]).axes] == ["k3"]
    head, *rows = str(solution).splitlines()
    assert head.startswith("Solution of A, B at 2 times;")
    assert [row.split()[0] for row in rows] == ["unit", "A", "B"]
