"""`qspjax fit` and `qspjax sensitivity` as a user calls them: what they write, and what they say of bad files."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import qspjax as qsp
from qspjax.cli import main

TIMES = [0.5, 1.0, 2.0, 4.0, 8.0, 12.0]


FIT = """
title = "Two subjects"
data = "two.csv"

[model]
name = "OneCompartment"
parameters = { CL = 3.0, V = 30.0 }

[set]
CL = "CLpop * (WT / 70)^0.75"

[parameters.CLpop]
start = 2.0
bounds = [0.1, 50.0]

[parameters.V]
start = 20.0
bounds = [3.0, 300.0]
prior = { distribution = "lognormal", median = 30.0, cv = 1.0 }

[parameters.cv]
fixed = 0.1

[outputs.concentration]
error = "proportional"
cv = "cv"
below = "M3"
limit = 0.5

[estimation]
starts = 3
profiles = ["V"]
"""


def data():
    lines = ["ID,TIME,AMT,DV,MDV,WT"]
    for id, (weight, dose) in enumerate(((60.0, 300.0), (90.0, 400.0)), start=1):
        k = 2.6 * (weight / 70.0) ** 0.75 / 27.0
        lines.append(f"{id},0,{dose},.,1,{weight}")
        for i, t in enumerate(TIMES):
            value = dose / 27.0 * np.exp(-k * t) * (1 + 0.05 * (-1) ** i)
            lines.append(f"{id},{t},0,{value:.4f},0,{weight}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "fit.toml").write_text(FIT)
    (tmp_path / "two.csv").write_text(data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_fit(folder, capsys):
    assert main(["fit", "fit.toml"]) == 0
    said = capsys.readouterr()
    assert "12 measurements in 2 experiments" in said.out
    assert "3 starts in" in said.err
    out = folder / "fit-fit"
    written = {path.name for path in out.iterdir()}
    tables = {"estimates", "correlation", "starts", "predictions", "profiles", "curves", "history"}
    assert written >= {f"{name}.csv" for name in tables}
    assert written >= {"summary.txt", "diagnostics.png", "fits.png", "profiles.png"}
    with (out / "estimates.csv").open() as file:
        rows = {row["parameter"]: row for row in csv.DictReader(file)}
    assert float(rows["CLpop"]["estimate"]) == pytest.approx(2.6, rel=0.05)
    problem = qsp.io.read_fit("fit.toml").problem
    kept, profiles = (qsp.fit.load(out / f"{name}.fit", problem) for name in ("result", "profiles"))
    assert kept.parameters["CLpop"] == pytest.approx(float(rows["CLpop"]["estimate"]))
    assert profiles["V"].interval[0] == pytest.approx(float(rows["V"]["profile_lower"]))
    assert float(rows["V"]["profile_lower"]) < float(rows["V"]["estimate"]) < float(rows["V"]["profile_upper"])
    assert rows["CLpop"]["profile_lower"] == ""
    assert not list(folder.glob("*.npz"))
    assert main(["fit", "fit.toml"]) == 0  # takes the place of the earlier result
    (out / "thesis.txt").write_text("mine")
    assert main(["fit", "fit.toml"]) == 1
    assert "must hold nothing but an earlier result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("start = 2.0", "start = 200.0", "fit.toml:13: [parameters.CLpop] start: must lie within the bounds 0.1 to 50"),
        ('error = "proportional"', 'error = "relative"', "error: must be an error model (additive,"),
        ('cv = "cv"', "", "[outputs.concentration] cv: must be given, but is missing."),
        ("WT / 70", "WEIGHT / 70", "must name an observed value, a state or a parameter, in experiment `1`"),
        ('data = "two.csv"', 'data = "three.csv"', "three.csv: must be"),
        ("[estimation]", "[estimations]", "estimations: must be a key that is known here"),
        ('profiles = ["V"]', 'profiles = ["ka"]', "profiles: must be a parameter (CLpop, V, cv), but is"),
        ("title =", "title", "fit.toml:2: must be TOML, but is not: "),
    ],
)
def test_what_is_wrong_with_a_file(folder, capsys, old, new, said):
    assert old in FIT
    (folder / "fit.toml").write_text(FIT.replace(old, new))
    assert main(["fit", "fit.toml"]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "fit-fit").exists()


TRIAL = """
[model]
name = "OneCompartment"
parameters = { CL = "3 L/h", V = "30 L" }
[population.between]
CL = { cv = 0.3 }
V = { cv = 0.2 }
[arms.treated]
dose = "300 mg"
to = "central"
[endpoints.AUC]
auc = { output = "concentration" }
[output]
until = "48 h"
every = "2 h"
"""


def test_a_fit_that_cannot_begin_says_why(folder, capsys):
    """A sample before the first dose, with a proportional error."""
    (folder / "two.csv").write_text(data().replace("WT\n", "WT\n1,0,0,0.7,0,60.0\n"))
    assert main(["fit", "fit.toml"]) == 1
    said = capsys.readouterr().err
    assert (
        "No start can be evaluated (3 tried). The first: Experiment `1`: output `concentration` has a prediction"
        in said
    )
    assert "of 0 at time 0 (record 1), but with Proportional it must be other than 0: leave the record out" in said


@pytest.mark.parametrize("method", ["sobol", "morris", "prcc", "efast"])
def test_a_sensitivity_analysis(tmp_path, monkeypatch, capsys, method):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TRIAL)
    samples = {"sobol": "64", "morris": "8", "prcc": "64", "efast": "65"}[method]
    assert main(["sensitivity", "small.toml", "--method", method, "--samples", samples]) == 0
    assert "AUC" in capsys.readouterr().out
    with (tmp_path / "small-sensitivity" / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["input"] for row in rows} == {"CL", "V"}
    assert (tmp_path / "small-sensitivity" / "sensitivity.png").exists()


def test_a_sensitivity_analysis_needs_something_that_varies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TRIAL.replace("[population.between]\nCL = { cv = 0.3 }\nV = { cv = 0.2 }\n", ""))
    assert main(["sensitivity", "small.toml"]) == 2
    assert "must have parameters that vary" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "small-sensitivity", ignore_errors=True)
