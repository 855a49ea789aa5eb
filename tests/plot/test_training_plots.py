"""Pictures of a training, and the tables that they show."""

import jax
import numpy as np
import optax
import pytest

import qspjax as qsp
from qspjax.fit import Descent, HeldOut, Minibatches, estimate, extrapolation
from tests.fit.learned import experiments, problem


@pytest.fixture(scope="module")
def fit():
    method = Descent(
        networks=optax.adam(0.02),
        max_steps=60,
        curriculum=[Minibatches(2, key=jax.random.key(0))],
        held_out=HeldOut(["s1", "s3"], patience=50),
    )
    return estimate(problem(), method=method)


def test_the_course_of_a_training(fit, tmp_path):
    figure = qsp.plot.training(fit)
    losses, slopes = figure.axes
    course = fit.course()
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), course["training"][:-1])
    np.testing.assert_array_equal(losses.lines[1].get_ydata(), course["held_out"][:-1])
    assert losses.lines[2].get_xdata()[0] == 1 + np.argmin(course["held_out"][:-1])
    assert [text.get_text() for text in slopes.get_legend().get_texts()] == ["mechanism", "networks"]
    figure.savefig(tmp_path / "training.png")


def test_errors_outside_the_doses_of_a_training(fit, tmp_path):
    others = experiments(subjects=3, noise=0.0)
    far = {"far": qsp.fit.Experiment(others["s2"].measurements, qsp.bolus(600.0, to="central"))}
    table = extrapolation(fit, {**others, **far})
    assert table["DOSE"].tolist() == [30.0, 100.0, 300.0, 600.0]
    assert table["OUTSIDE"].tolist() == [False, False, False, True]
    residuals = fit.problem.__class__(fit.problem.model, others, fit.problem.outputs, fit.problem.parameters).table(
        fit.x
    )
    here = residuals["experiment"] == "s0"
    assert table["ERROR"][0] == np.median(np.abs(residuals["prediction"][here] / residuals["observed"][here] - 1.0))
    axes = qsp.plot.extrapolation(table)
    assert axes.get_xscale() == "log"
    assert len(axes.patches) == 1
    axes.figure.savefig(tmp_path / "extrapolation.png")
    with pytest.raises(ValueError, match="must have measurements, but there are none"):
        extrapolation(fit, {})
