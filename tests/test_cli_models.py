"""Models from files on the command line: what they contain, simulations with doses into species, trials."""

import csv
import os

import numpy as np
import pytest

pytest.importorskip("libsbml")
pytest.importorskip("antimony")

from qspjax import io
from qspjax.cli import main

ANTIMONY = """
model tmdd
  unit nM = 1e-9 mole / litre;
  compartment plasma = 3; plasma has litre;
  species drug in plasma, target in plasma, complex in plasma;
  drug = 0; target = 5; complex = 0;
  kon = 0.1; koff = 0.02; CL = 0.5; drug has nM;
  binding: drug + target -> complex; plasma*(kon*drug*target - koff*complex);
  elimination: drug -> ; CL*drug;
  total := target + complex;
end
"""
TRIAL = """
title = "A network"
patients = 4
seed = 3
model = "tmdd.xml"
[population.between]
CL = { cv = 0.3 }
[arms.none]
[arms.dosed]
dose = 30
to = "drug"
[endpoints.lowest]
cmin = { output = "target" }
[output]
until = 4
every = 2
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmdd.ant").write_text(ANTIMONY)
    io.write_sbml(io.read_antimony(tmp_path / "tmdd.ant"), tmp_path / "tmdd.xml")
    return tmp_path


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def held(directory):
    return {entry.name for entry in directory.iterdir()}


def test_import_says_what_a_file_contains(here, capsys):
    assert main(["import", "tmdd.xml"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:9] == [
        "File:             tmdd.xml",
        "Format:           SBML Level 3 Version 2",
        "Name:             tmdd",
        "Compartments:     1",
        "Species:          3",
        "Parameters:       4",
        "Reactions:        2",
        "Rules:            1",
        "Unit definitions: 1",
    ]
    assert "\nSupported:        yes\n" in printed.out
    assert printed.err == ""
    assert main(["check", "tmdd.xml"]) == 0
    assert capsys.readouterr().out == printed.out
    assert main(["import", "tmdd.ant"]) == 0
    assert "Format:           Antimony\n" in capsys.readouterr().out
    assert io.validate("tmdd.ant") == ()


def test_import_says_what_is_not_supported(here, capsys):
    text = (here / "tmdd.xml").read_text()
    flux = 'xmlns:qual="http://www.sbml.org/sbml/level3/version1/qual/version1" qual:required="true" level="3"'
    (here / "qual.xml").write_text(text.replace('level="3"', flux, 1))
    assert main(["import", "qual.xml"]) == 2
    printed = capsys.readouterr()
    assert "\nSupported:" in printed.out
    assert "Not supported\n    1  the package qual\n" in printed.out
    assert printed.err.startswith("qual.xml:")
    assert "not supported: the package qual" in printed.err
    (issue,) = io.validate("qual.xml")
    assert issue.message == "not supported: the package qual."
    for command in (["import"], ["check"], ["simulate", "--end", "1"]):
        (here / "bad.xml").write_text(text[:-40])
        assert main([*command, "bad.xml"]) == 2
        assert capsys.readouterr().err.startswith("bad.xml:")
        assert main([*command, "none.xml"]) == 2
        assert capsys.readouterr().err == "none.xml: must be a file, but does not exist.\n"


def test_simulate_with_doses_into_species(here, capsys):
    doses = ["--dose", "30 into drug at 1 every 2 times 2", "--dose", "3 into target over 2"]
    options = ["--end", "4", "--points", "5", "--set", "CL=0.7", "--save", "drug,total,binding", "--output", "out.csv"]
    assert main(["simulate", "tmdd.ant", *doses, *options]) == 0
    table = rows(here / "out.csv")
    assert list(table[0]) == ["time", "drug", "total", "binding"]
    assert [float(row["time"]) for row in table] == [0, 1, 2, 3, 4]
    assert float(table[1]["drug"]) == pytest.approx(10.0)
    assert [float(row["total"]) for row in table] == pytest.approx([5, 5.5, 6, 6, 6], abs=1e-6)
    assert (here / "out.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert printed.out.startswith("Model:   tmdd\nMethod:  Rodas5P at rtol 1e-06, atol 1e-09\nSteps:   ")
    assert printed.out.endswith("\nTable:   out.csv\nPicture: out.png\n")
    assert held(here) == {"tmdd.ant", "tmdd.xml", "out.csv", "out.png"}


def test_simulate_a_model_of_the_catalogue(here, capsys):
    numbers = ["--set", "CL=3 L/h", "--set", "V=30 L"]
    dose = ["--dose", "0.1 g into central at 60 min over 30 min"]
    assert main(["simulate", "OneCompartment", *numbers, *dose, "--end", "11", "--points", "2", "--plot", "a.pdf"]) == 0
    (_, last) = rows(here / "OneCompartment-simulation.csv")
    exact = 100 / (3 * 0.5) * (1 - np.exp(-0.05)) * np.exp(-0.1 * 9.5)
    assert float(last["concentration"]) == pytest.approx(exact, rel=1e-9)
    assert (here / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["foo"], "argument MODEL: must be a file (.xml, .sbml, .zip, .omex, .ant, .antimony, .sb) or a model whose "),
        (["tmdd.ant", "--set", "foo=3"], "argument --set: foo: must be a number of the model ("),
        (["tmdd.ant", "--set", "CL=fast"], 'argument --set: CL: must be a number without a unit, but is "fast".\n'),
        (["tmdd.ant", "--save", "foo"], "argument --save: must name observed values or states ("),
        (["tmdd.ant", "--dose", "3 drug"], "argument --dose: must be AMOUNT into TARGET [at TIME] [over TIME | rate "),
        (["tmdd.ant", "--dose", "3 into drug at"], "argument --dose: must be AMOUNT into TARGET"),
        (["tmdd.ant", "--dose", "3 into drug at 1 at 2"], "argument --dose: must be AMOUNT into TARGET"),
        (
            ["tmdd.ant", "--dose", "3 into CL"],
            "argument --dose: into: must be a dose target of the model (drug, target, ",
        ),
        (["tmdd.ant", "--dose", "3 into drug every 2"], "argument --dose: times: must be given, but is missing.\n"),
        (
            ["tmdd.ant", "--dose", "3 into drug every 2 times many"],
            'argument --dose: times: must be a whole number of at least 1, but is "many".\n',
        ),
        (["tmdd.ant", "--dose", "-3 into drug"], "argument --dose: amount: must be at least 0, but is "),
    ],
)
def test_mistakes_have_code_2(here, capsys, options, message):
    assert main(["simulate", *options, "--end", "4"]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert held(here) == {"tmdd.ant", "tmdd.xml"}


def test_what_is_not_solved_is_one_sentence(here, capsys):
    (here / "pole.ant").write_text("x = 1; x' = x^2;")
    assert main(["simulate", "pole.ant", "--end", "2", "--rtol", "1e-4"]) == 1
    assert capsys.readouterr().err.startswith(
        "Not solved: at 1.00001, state x. The step size shrank to rounding error."
    )
    assert held(here) == {"tmdd.ant", "tmdd.xml", "pole.ant"}


def test_a_trial_of_a_network(here, capsys):
    (here / "trial.toml").write_text(TRIAL)
    os.chdir("/")  # the model lies beside the trial file
    assert main(["check", str(here / "trial.toml")]) == 0
    assert main(["trial", str(here / "trial.toml"), "--out", str(here / "out")]) == 0
    assert "Model:    tmdd\n" in capsys.readouterr().out
    endpoints = rows(here / "out" / "endpoints.csv")
    lowest = [float(row["lowest"]) for row in endpoints if row["arm"] == "dosed"]
    assert all(0 < value < 5 for value in lowest)
    assert len(set(lowest)) == 4
    assert {row["output"] for row in rows(here / "out" / "trial.csv")} == {"drug", "target", "complex"}


def test_mistakes_in_a_trial_of_a_network(here, capsys):
    table = '[model]\nname = "tmdd.xml"\nparameters = { CL = "fast", foo = 3, target = 4.5 }'
    (here / "trial.toml").write_text(TRIAL.replace('model = "tmdd.xml"', table).replace('"drug"', '"total"'))
    assert main(["trial", "trial.toml"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == 'trial.toml:7: [model.parameters] CL: must be a number without a unit, but is "fast".'
    assert second.startswith("trial.toml:7: [model.parameters] foo: must be a number of the model (")
    assert third.startswith(
        "trial.toml:13: [arms.dosed] to: must be a dose target of the model (drug, target, complex)"
    )
    (here / "trial.toml").write_text(TRIAL.replace("tmdd.xml", "none.xml"))
    assert main(["trial", "trial.toml"]) == 2
    assert capsys.readouterr().err == "none.xml: must be a file, but does not exist.\n"
    (here / "trial.toml").write_text(TRIAL.replace("tmdd.xml", "tmdd.docx"))
    assert main(["trial", "trial.toml"]) == 2
    said = capsys.readouterr().err
    assert "[model] name: must be a file (.xml, .sbml, .zip, .omex, .ant, .antimony, .sb) or a model " in said


def test_the_ending_of_a_picture_is_checked_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = ["--set", "CL=3", "--set", "V=30"]
    assert main(["simulate", "OneCompartment", *numbers, "--end", "11", "--plot", "p.xyz"]) == 2
    told = capsys.readouterr().err
    assert "argument --plot: must end with one of ." in told
    assert "but is p.xyz." in told
    assert not held(tmp_path)
