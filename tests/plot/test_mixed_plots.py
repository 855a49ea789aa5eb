"""Pictures of mixed-effects fits, from tables that are made up."""

import itertools

import matplotlib.figure
import numpy as np
import pytest

import qspjax as qsp


def test_convergence_without_an_objective():
    path = np.linspace(1.0, 2.0, 60)
    figure = qsp.plot.convergence({"ITERATION": np.arange(60), "OBJECTIVE": np.full(60, np.nan), "tCL": path})
    (axes,) = figure.axes
    assert axes.get_title() == "tCL"
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), path)


def test_random_effects_against_covariates():
    etas = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.3])
    table = {
        "ID": np.arange(6),
        "ETA_eta_CL": etas,
        "WT": 70.0 + 10.0 * etas,
        "SEX": np.array(["f", "m"] * 3, dtype=object),
        "AGE": np.array([20.0, 30.0, np.nan, 40.0, 50.0, 60.0]),
    }
    figure = qsp.plot.covariates(table, ["WT", "SEX", "AGE"])
    weight, sex, age = figure.axes
    assert weight.get_title() == "r = 1.00"
    assert [label.get_text() for label in sex.get_xticklabels()] == ["f", "m"]
    np.testing.assert_allclose(sex.lines[2].get_ydata(), etas[::2].mean())
    assert age.lines[1].get_xdata().size == 5
    with pytest.raises(ValueError, match="`names` must name a column of the table"):
        qsp.plot.covariates(table, ["HT"])
    with pytest.raises(ValueError, match="`names` must name at least one covariate, but is empty."):
        qsp.plot.covariates(table, [])


def test_fits_of_individuals():
    count, times = 20, np.array([1.0, 2.0, 4.0])
    column = np.tile([3.0, 2.0, 1.0], count)
    table = {
        "ID": np.repeat([f"{i}" for i in range(count)], 3).astype(object),
        "OUTPUT": np.full(3 * count, "concentration", dtype=object),
        "TIME": np.tile(times, count),
        "DV": column,
        "CENSORED": np.tile([False, False, True], count),
        "PRED": column + 0.1,
        "IPRED": column - 0.1,
    }
    assert len(qsp.plot.individual_fits(table).axes) == 16
    (axes,) = qsp.plot.individual_fits(table, subjects=["7"]).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["population (PRED)", "individual (IPRED)", "observed", "beyond a limit"]
    np.testing.assert_array_equal(axes.lines[2].get_xdata(), times[:2])
    close = np.linspace(0.0, 4.0, 9)
    curves = {
        "ID": np.full(9, "7"),
        "OUTPUT": np.full(9, "concentration"),
        "TIME": close,
        "PRED": close,
        "IPRED": close,
    }
    (axes,) = qsp.plot.individual_fits(table, curves=curves, subjects=["7"]).axes
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), close)
    with pytest.raises(ValueError, match="must name a subject with measurements of the output"):
        qsp.plot.individual_fits(table, subjects=["99"])
    with pytest.raises(ValueError, match="must name an output of the table"):
        qsp.plot.individual_fits(table, output="effect")


def test_a_band_that_begins_below_the_limit_is_open():
    rows = {"TIME": [1.0, 4.0, 8.0], "LEFT": [0.0, 2.0, 6.0], "RIGHT": [2.0, 6.0, 9.0], "QUANTILE": [0.5] * 3}
    rows |= {"OBSERVED": [9.0, 3.0, np.nan], "LOWER": [8.0, np.nan, np.nan], "MEDIAN": [9.1, 2.0, np.nan]}
    table = {name: np.array(values) for name, values in rows.items()} | {"UPPER": np.array([9.9, 4.0, np.nan])}
    points = {"STRATUM": [""] * 2, "ID": ["7"] * 2, "TIME": [1.0, 8.0], "VALUE": [9.0, 0.5], "CENSORED": [False, True]}
    points = {name: np.array(values) for name, values in points.items()}
    axes = qsp.plot.vpc(qsp.fit.VisualPredictiveCheck("c", table, points, corrected=False, reasons=()))
    (band,) = axes.collections
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    assert corners[:, 1].min() == 0.5
    assert set(corners[:, 0]) == {1.0, 4.0}


def made_fit(method):
    """Return a fit of two subjects, made by hand."""
    times = np.array([1.0, 4.0, 8.0])

    def subject(CL):
        data = qsp.fit.Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        return qsp.fit.Experiment(data, qsp.bolus(300.0, to="central"))

    mixed = qsp.fit.MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        {"1": subject(2.5), "2": subject(3.5)},
        {"c": qsp.fit.Output("concentration", qsp.fit.Additive(0.2))},
        parameters={"tCL": qsp.fit.Free(3.0)},
        individual={"CL": "tCL * exp(eta)"},
        random=[qsp.fit.RandomEffects({"eta": 0.1})],
    )
    x, u, each = mixed.start, np.array([[-0.6], [0.5]]), np.ones(2, bool)
    u = u * method.conditional
    return qsp.fit.MixedFit(mixed, method, x, u, u[:, 0], each, (), each, u[0], x[None], "converged", 1.0)


def test_axes_have_the_units_of_the_model():
    times, fit = np.array([1.0, 4.0, 8.0]), made_fit(qsp.fit.FOCEI())
    column = np.array([3.0, 2.0, 1.0])
    table = {"OUTPUT": np.full(3, "c", dtype=object), "ID": np.full(3, "1", dtype=object), "TIME": times}
    table |= {name: column for name in ("DV", "PRED", "IPRED", "CWRES")} | {"CENSORED": np.zeros(3, bool)}
    observed, _, residuals, _ = qsp.plot.goodness_of_fit(table, fit=fit).axes
    assert observed.get_xlabel() == "population prediction, PRED (mg/L)"
    assert (observed.get_ylabel(), residuals.get_xlabel()) == ("observed, DV (mg/L)", "time (h)")
    assert qsp.plot.goodness_of_fit(table).axes[0].get_xlabel() == "population prediction (PRED)"
    figure = qsp.plot.individual_fits(table, fit=fit)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("time (h)", "c (mg/L)")
    rows = {name: column for name in ("TIME", "LEFT", "RIGHT", "OBSERVED", "LOWER", "MEDIAN", "UPPER")}
    rows |= {"COUNT": np.ones(3), "QUANTILE": np.full(3, 0.5), "BELOW": np.full(3, np.nan)}
    points = {"STRATUM": np.array([""]), "TIME": times[:1], "VALUE": column[:1], "CENSORED": np.zeros(1, bool)}
    check = qsp.fit.VisualPredictiveCheck("c", rows, points, corrected=False, reasons=())
    (axes,) = qsp.plot.vpc_panels(check, fit=fit).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (h)", "c (mg/L)")


def check_with_limits(strata=("",), *, corrected=False, limit=True):
    """Return a check of three quantiles, of which the lowest ends in the limit of quantification."""
    times, quantiles = [1.0, 4.0, 8.0], [0.05, 0.5, 0.95]
    rows = [(stratum, time, quantile) for stratum in strata for time in times for quantile in quantiles]
    middle = np.array([10.0 * quantile + 2.0 - 0.2 * time for _, time, quantile in rows])
    middle[[time > 1.0 and quantile < 0.1 for _, time, quantile in rows]] = np.nan
    table = {name: np.array([row[k] for row in rows]) for k, name in ((1, "TIME"), (2, "QUANTILE"))}
    table |= {"STRATUM": np.array([row[0] for row in rows], dtype=object), "OBSERVED": middle, "MEDIAN": middle}
    table |= {"LOWER": middle - 0.5, "UPPER": middle + 0.5, "COUNT": np.full(len(rows), 9)}
    share = np.full(len(rows), 0.3 if limit else np.nan)
    table |= dict.fromkeys(("BELOW", "BELOW_LOWER", "BELOW_MEDIAN", "BELOW_UPPER"), share)
    points = {"STRATUM": np.array([strata[0], strata[0]], dtype=object), "TIME": np.array([1.0, 8.0])}
    points |= {"VALUE": np.array([6.0, 1.5]), "CENSORED": np.array([False, limit])}
    return qsp.fit.VisualPredictiveCheck("concentration", table, points, corrected=corrected, reasons=())


def is_inside(artist, figure):
    """Whether a drawn artist lies within its figure."""
    box, whole = artist.get_window_extent(), figure.bbox
    return min(box.x0, box.y0) >= -1.0 and box.x1 <= whole.width + 1.0 and box.y1 <= whole.height + 1.0


KEY = ["measurements", "beyond a limit, at the limit", "measured quantiles"]
"""What the key of a check says first."""


def test_a_check_explains_what_is_drawn():
    axes = qsp.plot.vpc(check_with_limits())
    figure = axes.figure
    figure.draw_without_rendering()
    (key,) = figure.legends
    wanted = [*KEY, "simulated quantiles: interval", "simulated quantiles: median"]
    assert [text.get_text() for text in key.get_texts()] == wanted
    assert axes.get_ylabel() == "concentration"
    assert is_inside(axes.yaxis.label, figure)
    assert is_inside(key, figure)
    measured = qsp.plot.vpc(check_with_limits(limit=False)).figure.legends[0]
    assert "beyond a limit, at the limit" not in [text.get_text() for text in measured.get_texts()]
    own = matplotlib.figure.Figure().subfigures(1, 2)[0].add_subplot()
    assert [text.get_text() for text in qsp.plot.vpc(check_with_limits(), own).get_legend().get_texts()] == wanted
    axes = qsp.plot.vpc(check_with_limits(corrected=True))
    axes.figure.draw_without_rendering()
    assert is_inside(axes.yaxis.label, axes.figure)
    assert "beyond a limit, at it (corrected)" in [text.get_text() for text in axes.figure.legends[0].get_texts()]


def test_quantiles_are_named_beside_the_axes():
    axes = qsp.plot.vpc(check_with_limits())
    axes.figure.draw_without_rendering()
    names, edge = axes.texts, axes.get_window_extent().x1
    assert [text.get_text() for text in names] == ["95 %", "50 %", "5 %"]
    boxes = [text.get_window_extent() for text in names]
    assert min(box.x0 for box in boxes) > edge
    assert all(is_inside(text, axes.figure) for text in names)
    assert all(above.y0 >= below.y1 - 1.0 for above, below in itertools.pairwise(boxes))


def test_panels_of_checks_share_a_key():
    figure = qsp.plot.vpc_panels(check_with_limits(("a", "b")))
    figure.draw_without_rendering()
    (key,) = figure.legends
    labels = ["measurements", "beyond a limit, at the limit", "measured quantiles and share"]
    labels += ["simulated ones: interval", "simulated ones: median"]
    assert [text.get_text() for text in key.get_texts()] == labels
    assert is_inside(key, figure)
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert all(len(axes.texts) == 3 for axes in figure.axes[:2])
    assert all(is_inside(text, figure) for axes in figure.axes for text in axes.texts)


def test_first_order_draws_no_effects_of_subjects():
    fit = made_fit(qsp.fit.FO())
    figure = qsp.plot.random_effects(fit)
    (axes,) = figure.axes
    assert (len(axes.patches), axes.get_title()) == (0, "")
    words = "FO estimates no effects of subjects"
    assert words in figure.get_supxlabel()
    assert words in str(fit)
    assert "shrinkage of" not in str(fit)
    figure.draw_without_rendering()
    assert is_inside(figure._supxlabel, figure)
    fit = made_fit(qsp.fit.FOCEI())
    (axes,) = qsp.plot.random_effects(fit).axes
    assert axes.patches
    assert axes.get_title().startswith("shrinkage")
    assert "shrinkage of eta" in str(fit)


@pytest.mark.slow
def test_effects_of_subjects_at_the_estimates_of_first_order():
    start = made_fit(qsp.fit.FO())
    fit = qsp.fit.nlme(start.mixed, method=qsp.fit.FO(), iterations=1)
    found = qsp.fit.nlme(fit.mixed, method=qsp.fit.FOCEI(), start=fit.x, iterations=0)
    np.testing.assert_array_equal(found.x, fit.x)
    assert not fit.etas.any()
    np.testing.assert_allclose(found.etas[:, 0], np.log(np.array([2.5, 3.5]) / fit.parameters["tCL"]), atol=0.05)
