"""Pictures of mixed-effects fits, from tables that are made up."""

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
