"""Pictures: axes come back, with units, and the table of numbers is what is drawn."""

import dataclasses

import jax
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import qspjax as qsp
from qspjax import plot
from qspjax._solution import RESULTS
from qspjax.plot._labels import unit_of_endpoint

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


def texts_of(key):
    return [text.get_text() for text in key.get_texts()]


def test_panels_are_in_the_order_of_the_model():
    network = qsp.models.Network(
        species={"Drug": 1.0, "Complex": 0.0, "Active": 0.0},
        parameters={"k": 1.0},
        reactions={"r": qsp.models.Reaction("Drug -> Complex", qsp.models.MassAction("k"))},
    )
    solution = qsp.simulate(network, qsp.no_doses(), [0.0, 1.0])
    assert [ax.get_ylabel() for ax in plot.trajectories(solution).axes][:3] == ["Drug", "Complex", "Active"]


def test_the_key_of_a_trial_names_thresholds(result):
    assert "dashes" not in plot.trial(result)._supxlabel.get_text()
    figure = plot.trial(result, panels=[plot.Panel("concentration", lines=(1.0,))])
    assert "Thin black dashes: thresholds." in " ".join(figure._supxlabel.get_text().split())


@pytest.mark.parametrize(("last", "step"), [(24.0, 6.0), (48.0, 12.0), (168.0, 24.0), (336.0, 48.0), (1008.0, 168.0)])
def test_ticks_in_hours_are_at_days_or_parts_of_them(last, step):
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
    trial = qsp.Trial([qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))], [0.0])
    result = qsp.simulate_trial(trial, cohort)
    longer = dataclasses.replace(result, trial=qsp.Trial(trial.arms, [0.0, last]))
    ticks = plot.trial(longer).axes[0].get_xticks()
    assert set(np.diff(ticks)) == {step}
    assert 0.0 in ticks


def test_a_waterfall_of_a_trial_has_units(result):
    ax = plot.waterfall(result)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("patient and arm, the greatest first", "peak (mg/L)")
    one = dataclasses.replace(result, arms=result.arms[1:])
    assert plot.waterfall(one).get_xlabel() == "patient, the greatest first"
    wanted = "`endpoint` must be a number, but `above 1` is 1 for a responder and 0 for others"
    with pytest.raises(ValueError, match=wanted):
        plot.waterfall(result, endpoint="above 1")
    labels, ends = result.arms[0].solution.labels, qsp.endpoints
    for endpoint, unit in (
        (ends.AUC("concentration"), "mg/L*h"),
        (ends.Tmax("concentration"), "h"),
        (ends.RelativeChange("concentration", at=1.0), ""),
    ):
        assert unit_of_endpoint(endpoint, labels) == unit


def small_problem():
    """Return a problem with two experiments, of which one has a value below the limit 1.5."""
    from qspjax.fit import M3, Additive, Experiment, Free, Measurements, Output, Problem

    def experiment(dose):
        values = dose / 30.0 * np.exp(-0.1 * np.array([1.0, 4.0, 12.0]))
        return Experiment(Measurements([1.0, 4.0, 12.0], values, output="plasma"), qsp.bolus(dose, to="central"))

    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        {"100 mg": experiment(100.0), "300 mg": experiment(300.0)},
        {"plasma": Output("concentration", Additive(0.2), below=M3(1.5))},
        {"CL": Free(3.0, bounds=(0.5, 10.0))},
    )


def test_fits_have_a_key_and_draw_what_is_censored_at_its_limit():
    problem = small_problem()
    uncertainty = qsp.fit.Uncertainty(problem, problem.start, np.eye(1))
    curve = np.array([9.0, 6.0, 1.0] * 2)
    columns = {"experiment": np.repeat(np.array(["100 mg", "300 mg"], dtype=object), 3), "time": np.tile(TIMES[:3], 2)}
    columns |= {"output": np.full(6, "plasma", dtype=object), "prediction": curve}
    uncertainty._curves[0.95, 200] = columns | {"lower": curve - 1.0, "upper": curve + 1.0}  # costs no solve
    figure = plot.fits(problem, problem.start, uncertainty=uncertainty)
    (axes,), (key,) = figure.axes, figure.legends
    wanted = ["100 mg", "300 mg", "beyond a limit, at the limit", "95 % band of the prediction", "measured"]
    assert texts_of(key) == wanted
    assert (axes.get_title(), axes.get_ylabel()) == ("", "plasma (mg/L)")
    (censored,) = (line for line in axes.lines if line.get_marker() == "v")
    assert (censored.get_xdata().tolist(), censored.get_ydata().tolist()) == ([12.0], [1.5])
    measured = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata().size for line in measured] == [2, 3]
    figure.draw_without_rendering()
    assert key.get_window_extent().width <= figure.bbox.width
    with pytest.raises(ValueError, match="`experiments` must name an experiment of the problem"):
        plot.fits(problem, problem.start, experiments=["100"])
    plotted = plot.observed_vs_predicted(problem, problem.start)
    assert (plotted.get_xlabel(), plotted.get_ylabel()) == ("predicted (mg/L)", "observed (mg/L)")


def test_profiles_say_which_side_is_open():
    problem, values = small_problem(), np.array([2.0, 3.0, 4.0])

    def profile(low, high):
        interval = (-np.inf if low else 2.1, np.inf if high else 3.9)
        curve = np.array([-3.0, 0.0, -3.0])
        return qsp.fit.Profile("CL", values, curve, np.log(values)[:, None], -1.92, interval, (low, high), problem)

    sides = [(low, high) for low in (False, True) for high in (False, True)]
    figure = plot.profile({f"{k}": profile(*side) for k, side in enumerate(sides)})
    titles = ["", "open above: no upper end", "open below: no lower end", "not identifiable"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert {ax.get_xlabel() for ax in figure.axes} == {"CL (L/h)"}
    (key,) = figure.legends
    assert texts_of(key) == ["profile", "threshold of the confidence interval", "end of the confidence interval"]
    assert len(figure.axes[3].lines) == 2


def test_starts_and_steps_are_whole_numbers():
    problem, count = small_problem(), 11
    values = -np.arange(count, dtype=float)
    points, each, history = np.zeros((count, 1)), np.ones(count, int), np.tile(values[:, None], count)
    fit = qsp.fit.Fit(problem, "made", points, points, values, each, each, 0 * each, each, history, 1.0)
    for axes in (plot.waterfall(fit), plot.optimiser_history(fit)):
        ticks = axes.get_xticks()
        np.testing.assert_array_equal(ticks, np.round(ticks))


def test_sobol_indices_have_a_key_beside_them():
    shape = np.array([[0.9, 0.2], [0.1, 0.7]])
    found = qsp.sensitivity.Sobol(("CL", "V"), shape, shape, 0.1 * shape, 0.1 * shape, np.ones(2), 0)
    axes = plot.sobol(found, output=1)
    (key,) = axes.figure.legends
    assert texts_of(key) == ["total", "first order", "confidence interval"]
    assert axes.get_xlabel() == "share of the variance of output 1"
    axes.figure.draw_without_rendering()
    assert not key.get_window_extent().overlaps(axes.get_window_extent())
    figure = plot.sensitivities(found, ["AUC", "Cmax"], title="One dose")
    (key,) = figure.legends
    figure.draw_without_rendering()
    assert texts_of(key) == ["total", "first order", "confidence interval"]
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert not any(key.get_window_extent().overlaps(box) for box in boxes)
    fast = qsp.sensitivity.Fast(("CL", "V"), shape[:, :1], shape[:, :1])
    assert plot.sobol(fast).get_xlabel() == "share of the variance"


def test_what_is_not_of_the_right_type_is_refused(result):
    wrong = {
        "what `fit.visual_predictive_check` returns": (plot.vpc, plot.vpc_panels),
        "what `fit.profiles` returns": (plot.profile,),
        "what `simulate_trial` returns": (plot.trial, plot.bands),
        "a solution of one patient or of a cohort": (
            lambda x: plot.trajectory(x, "concentration"),
            lambda x: plot.quantiles(x, "concentration"),
            plot.trajectories,
        ),
        "what a function of `sensitivity` returns": (plot.tornado, lambda x: plot.sensitivities(x, ["AUC"])),
        "what `sensitivity.sobol` or `sensitivity.efast` returns": (plot.sobol,),
    }
    for must, functions in wrong.items():
        for function in functions:
            with pytest.raises(ValueError, match=f"must be {must}, but is of type Trial"):
                function(result.trial)


def test_an_output_that_there_is_not_is_refused():
    inputs = qsp.sensitivity.Inputs({"a": (0, 1)})
    found = qsp.sensitivity.sobol(lambda x: x[:, 0], inputs, key=jax.random.key(0), samples=16)
    with pytest.raises(ValueError, match=r"`output` must be the number of an output \(0 to 0\), but is 5"):
        plot.sobol(found, output=5)
    with pytest.raises(ValueError, match="at least one and at most all of the 1 outputs, but is of 2 names"):
        plot.sensitivities(found, ["AUC", "Cmax"])
