"""What is said of progress while programs are compiled."""

import time
from contextlib import suppress

import numpy as np

import qspjax as qsp
from qspjax import _progress
from qspjax.cli._fit import _described
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Progress, estimate

PROBLEM = Problem(
    qsp.models.OneCompartment(CL=2.0, V=30.0),
    Experiment(Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c"), qsp.bolus(300.0, to="central")),
    {"c": Output("concentration", Additive(0.1))},
    {"CL": Free(2.0, bounds=(0.5, 10.0))},
)


def test_each_program_that_takes_long_to_compile_is_announced(monkeypatch):
    monkeypatch.setattr(_progress, "PATIENCE", 1e-3)
    heard = []
    estimate(PROBLEM, progress=heard.append)
    assert [progress.doing for progress in heard if progress.doing] == ["compiling (1 of 2)", "compiling (2 of 2)"]
    assert heard[0].figures["best"] == -np.inf
    assert _described(heard[0]) == "compiling (1 of 2)"
    assert _described(heard[-1]).startswith("best ")


def test_nothing_is_said_of_what_was_made_soon_or_failed(monkeypatch):
    heard = []
    with _progress.Compilations(heard.append, 2) as compiling:
        compiling.begin(Progress(0, 1))
        compiling.end()
        monkeypatch.setattr(_progress, "PATIENCE", 0.05)
        compiling.begin(Progress(0, 1))
        compiling.begin(Progress(0, 1))  # there is no third
    with suppress(RuntimeError), _progress.Compilations(heard.append, 1) as failing:
        failing.begin(Progress(0, 1))
        raise RuntimeError
    time.sleep(0.1)
    assert heard == []
