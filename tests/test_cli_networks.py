"""Fit files with networks: read, fitted and written, and what is said of mistakes in them."""

import csv

import numpy as np
import pytest

import qspjax as qsp
from qspjax.cli import main
from qspjax.io._issues import FileIssues
from qspjax.models import Network, Reaction

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
"""Times of measurements (h)."""

NETWORK = Network(
    compartments={"body": 20.0},
    species={"drug": 0.0},
    parameters={"vmax": 30.0, "km": 60.0},
    reactions={"loss": Reaction("drug ->", "vmax * drug / (km + drug)")},
)
"""Saturable elimination of amounts (mg)."""

FIT = """
data = "data.csv"

[model]
name = "model.xml"

[networks.uptake]
inputs = { drug = { size = 60.0, log = true } }
output = "positive"
size = 0.5
width = 3
depth = 1
prior = 2.0
laws = { loss = "uptake(drug) * drug" }

[parameters.sd]
start = 0.5

[outputs.DV]
prediction = "drug / 20"
error = "additive"
sd = "sd"

[estimation]
method = "l-bfgs"
max_steps = 40
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    lines = ["ID,TIME,AMT,DV,MDV"]
    for id, dose in enumerate((50.0, 400.0), start=1):
        regimen = qsp.bolus(dose, to="drug")
        amounts = qsp.simulate(NETWORK, regimen, TIMES).states["drug"]
        lines.append(f"{id},0,{dose},.,1")
        lines += [f"{id},{t},0,{amount / 20.0:.5f},0" for t, amount in zip(TIMES, amounts, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "model.xml").write_text(qsp.io.write_sbml(NETWORK))
    (tmp_path / "fit.toml").write_text(FIT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_rate_law_is_learned(folder, capsys):
    file = qsp.io.read_fit("fit.toml")
    assert file.problem.names[0] == "sd"
    assert [block.size for block in file.problem.weights.blocks] == [10]
    assert "uptake_theta(drug) * drug" in str(file.problem.model.equations())
    assert main(["fit", "fit.toml"]) == 0
    assert "uptake: 10 weights; uncertainty of parameters is that given these" in capsys.readouterr().out
    written = {path.name for path in (folder / "fit-fit").iterdir()}
    assert written >= {"summary.txt", "estimates.csv", "learned.csv", "learned.png", "result.fit"}
    with (folder / "fit-fit" / "learned.csv").open() as table:
        rows = [*csv.DictReader(table)]
    assert {(row["network"], row["input"]) for row in rows} == {("uptake", "drug")}
    middle = min(rows, key=lambda row: abs(float(row["value"]) - 150.0))
    assert float(middle["rate"]) == pytest.approx(30.0 / (60.0 + float(middle["value"])), rel=0.3)


def test_a_formula_of_set_calls_a_network(folder):
    text = (folder / "data.csv").read_text().splitlines()
    rows = [text[0] + ",WT", *(f"{line},{60 + 20 * int(line[0])}" for line in text[1:])]
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    (folder / "fit.toml").write_text(
        'data = "data.csv"\n'
        'model = { name = "OneCompartment", parameters = { CL = 10, V = 20 } }\n'
        'networks.effect = { inputs = { WT = 70 }, output = "positive", width = 2, depth = 1 }\n'
        'set = { CL = "tCL * effect(WT)" }\n'
        "parameters = { tCL = { start = 10.0 }, sd = { fixed = 1.0 } }\n"
        'outputs = { concentration = { error = "additive", sd = "sd" } }\n'
    )
    problem = qsp.io.read_fit("fit.toml").problem
    assert problem.names[:2] == ("tCL", "effect.network.layers[0].weight[0]")
    assert np.isfinite(problem.value_and_gradient(problem.start)[1]).all()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loss = ", "los = ", "los"),
        ("drug = { size", "druk = { siz", "siz"),
        ('output = "positive"', 'output = "postive"', "Did you mean"),
        ("width = 3", "width = 0", "at least 1"),
        ('"uptake(drug) * drug"', '"uptake(drug, 1) * drug"', "with 1 inputs"),
        ('"uptake(drug) * drug"', '"uptak(drug) * drug"', "uptak"),
        ("prior = 2.0", "prior = -2.0", "must be positive"),
        ("inputs = { drug = { size = 60.0, log = true } }", "inputs = {}", "at least one input"),
    ],
)
def test_mistakes_are_named(folder, old, new, words):
    assert old in FIT
    (folder / "fit.toml").write_text(FIT.replace(old, new))
    with pytest.raises(FileIssues) as error:
        qsp.io.read_fit("fit.toml")
    assert words in str(error.value)
    assert "networks.uptake" in str(error.value)
