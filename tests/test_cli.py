"""The command line: files it writes, the same bytes for the same seed, exit codes, and nothing half-written."""

import csv
import functools
import importlib
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray

from qspjax import io
from qspjax._extras import version
from qspjax.cli import _parsers, _sensitivity, main

TRIAL = """
title = "Two doses"
patients = 6
seed = 3
[model]
name = "OneCompartment"
parameters = { CL = "3 L/h", V = "30 L" }
[population.between]
CL = { cv = 0.3 }
[population.covariates.WT]
distribution = "normal"
unit = "kg"
mean = 70
sd = 5
[population.covariates.SEX]
distribution = "categorical"
probabilities = { male = 0.5, female = 0.5 }
[arms.none]
[arms."low, daily"]
dose = "100 mg"
to = "central"
[endpoints.last]
value = { output = "concentration", at = "0.5 d" }
[endpoints."high peak"]
cmax = { output = "concentration" }
responder = { at_least = "3 mg/L" }
[output]
until = "12 h"
every = "6 h"
"""
FILES = {"summary.txt", "patients.csv", "endpoints.csv", "trajectories.nc", "trial.toml", "trial.png", "trial.csv"}


@pytest.fixture
def trial(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(TRIAL)
    return str(path)


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def held(directory):
    return {entry.name for entry in directory.iterdir()}


def test_a_trial_writes_its_results(trial, tmp_path, capsys):
    out = tmp_path / "results" / "two"
    assert main(["trial", trial, "--out", str(out), "--chunk", "4"]) == 0
    assert held(out) == FILES
    assert held(out.parent) == {"two"}
    printed = capsys.readouterr()
    assert printed.out == (out / "summary.txt").read_text() + f"\nPicture: {out / 'trial.png'}\n"
    assert printed.err.startswith("12 patients in ")
    assert printed.err.endswith(" a second, 0 failed\n")
    assert "Method:   MatrixExponential, exact\n" in printed.out
    assert "last (mg/L)\n" in printed.out
    assert (out / "trial.toml").read_text() == TRIAL
    assert (out / "trial.png").read_bytes().startswith(b"\x89PNG")

    patients, endpoints = rows(out / "patients.csv"), rows(out / "endpoints.csv")
    assert list(patients[0]) == ["patient", "WT", "SEX", "CL"]
    assert len(patients) == 6
    assert {row["SEX"] for row in patients} <= {"male", "female"}
    assert list(endpoints[0]) == ["arm", "patient", "last", "high peak", "result", "last_time", "state"]
    assert [row["arm"] for row in endpoints] == ["none"] * 6 + ["low, daily"] * 6
    assert all(row["result"] == "ok" and row["state"] == "" and row["last_time"] == "12.0" for row in endpoints)
    assert [row["high peak"] for row in endpoints] == ["0.0"] * 6 + ["1.0"] * 6
    with xarray.open_dataset(out / "trajectories.nc", engine="h5netcdf") as stored:
        assert dict(stored.sizes) == {"arm": 2, "patient": 6, "time": 3}
        assert stored["concentration"].attrs["units"] == "mg/L"
        assert stored["time"].attrs["units"] == "h"
        assert list(stored["arm"].values) == ["none", "low, daily"]
        decay = np.exp(-np.array([float(row["CL"]) for row in patients]) / 30 * 12)
        np.testing.assert_allclose(stored["concentration"].values[1, :, 2], 100 / 30 * decay, rtol=1e-5)


@pytest.mark.usefixtures("optimised")
def test_the_same_seed_gives_the_same_bytes(trial, tmp_path):
    for name, options in {"a": [], "b": ["--chunk", "4"], "c": ["--seed", "4"]}.items():
        assert main(["trial", trial, "--out", str(tmp_path / name), *options]) == 0
    for file in ("patients.csv", "endpoints.csv", "trial.csv", "summary.txt", "trial.toml"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert (a == c) == (file == "trial.toml")


def test_a_store_is_gone_on_with(trial, tmp_path, capsys):
    pytest.importorskip("zarr", reason="needs the extra `data`")
    pytest.importorskip("pyarrow", reason="needs the extra `data`")
    store, out = tmp_path / "store", tmp_path / "out"
    assert main(["trial", trial, "--out", str(tmp_path / "plain")]) == 0
    options = ["trial", trial, "--chunk", "4", "--store", str(store)]
    assert main([*options, "--out", str(out)]) == 0
    assert sorted(path.name for path in store.iterdir()) == ["low, daily", "none"]
    (store / "none" / "tables" / "00001.parquet").unlink()
    capsys.readouterr()
    assert main([*options, "--out", str(out)]) == 2
    assert "must be new or empty without --resume, but holds something." in capsys.readouterr().err
    assert main([*options, "--resume", "--out", str(out)]) == 0
    assert "2 patients in" in capsys.readouterr().err
    for name in FILES - {"trial.png"}:
        if name.endswith(".nc"):
            assert xarray.open_dataset(out / name).identical(xarray.open_dataset(tmp_path / "plain" / name))
        else:
            assert (out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert main([*options, "--resume", "--seed", "4", "--out", str(out)]) == 2
    assert "must be the results store of this simulation" in capsys.readouterr().err
    assert main(["trial", trial, "--resume", "--out", str(out)]) == 2
    assert "argument --resume: must be with --store DIR" in capsys.readouterr().err


def test_patients_and_the_default_directory(trial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["trial", trial, "--patients", "2"]) == 0
    assert len(rows(tmp_path / "two-trial" / "patients.csv")) == 2
    assert "Patients: 2, the same in every arm" in (tmp_path / "two-trial" / "summary.txt").read_text()
    assert main(["trial", trial, "--patients", "3"]) == 0  # an earlier result is replaced
    assert len(rows(tmp_path / "two-trial" / "patients.csv")) == 3
    assert held(tmp_path) == {"two.toml", "two-trial"}


def test_bad_files_have_code_2_and_no_traceback(trial, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text(TRIAL.replace('"3 L/h"', '"3 L"').replace("until", "untl"))
    assert main(["trial", str(path)]) == 2
    assert capsys.readouterr().err == (
        f'{path}:7: [model.parameters] CL: must be in L/h or a unit of the same dimension, but is "3 L".\n'
        f"{path}:27: [output] until: must be given, but is missing.\n"
        f"{path}:28: [output] untl: must be a key that is known here (until, every, save, panels), "
        'but is "untl". Did you mean `until`?\n'
    )
    assert main(["trial", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none.toml'}: must be a file, but does not exist.\n"
    path.write_text(TRIAL.replace("{ cv = 0.3 }", "{ sd = 300 }"))
    assert main(["trial", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:9: [population.between] CL: must be positive, but is -")
    assert held(tmp_path) == {"two.toml", "bad.toml"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patients", "0"], "argument --patients: must be a whole number of at least 1, but is 0"),
        (["--patients", "9000000000000000000"], "argument --patients: must be at most 100000000, but is 9000000"),
        (["--seed", "-1"], "argument --seed: must be a whole number of at least 0, but is -1"),
        (["--chunk", "many"], "argument --chunk: must be a whole number of at least 1, but is many"),
    ],
)
def test_bad_options_have_code_2(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["trial", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_other_directories_are_left_alone(trial, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert main(["trial", trial, "--out", str(out)]) == 1
    expected = f"{out} must be new, empty or hold an earlier result, but holds other files.\n"
    assert capsys.readouterr().err == expected
    for name in ("summary.txt", "trial.toml"):
        (out / name).write_text("")
    assert main(["trial", trial, "--out", str(out)]) == 1
    expected = f"{out} must hold nothing but an earlier result to be replaced, but holds thesis.txt.\n"
    assert capsys.readouterr().err == expected
    assert main(["trial", trial, "--out", "/proc/x/y"]) == 1
    assert capsys.readouterr().err == "/proc/x/y must be in a directory that can be written, but /proc cannot.\n"
    assert main(["trial", trial, "--out", trial]) == 1
    assert capsys.readouterr().err == f"{trial} must be a directory, but is a file.\n"
    assert (out / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("where", ["write", "simulate"])
def test_an_interrupt_leaves_nothing_half_written(trial, tmp_path, capsys, monkeypatch, where):
    from matplotlib.figure import Figure

    from qspjax import population

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    assert main(["trial", trial, "--out", str(out)]) == 0
    before = (out / "summary.txt").read_bytes()
    monkeypatch.setattr(*((Figure, "savefig") if where == "write" else (population, "simulate_trial")), interrupt)
    capsys.readouterr()
    for directory in (out, tmp_path / "fresh"):
        assert main(["trial", trial, "--out", str(directory), "--seed", "8"]) == 130
        assert capsys.readouterr().err.endswith("Interrupted: nothing was written.\n")
    assert held(tmp_path) == {"two.toml", "out"}
    assert held(out) == FILES
    assert (out / "summary.txt").read_bytes() == before


def test_a_failed_exchange_keeps_the_earlier_result(trial, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(["trial", trial, "--out", str(out)]) == 0
    before, rename = (out / "summary.txt").read_bytes(), os.rename

    def broken(self, target):
        if self.name.endswith(".new"):
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", broken)
    assert main(["trial", trial, "--out", str(out), "--seed", "8"]) == 1
    assert capsys.readouterr().err.endswith("the disk is gone\n")
    assert held(tmp_path) == {"two.toml", "out"}
    assert (out / "summary.txt").read_bytes() == before


def test_failed_patients_are_counted_and_reported(trial, tmp_path, capsys, monkeypatch):
    from qspjax import population
    from qspjax.solve import Diffrax

    simulate = functools.partial(population.simulate_trial, method=Diffrax(max_steps=1))
    monkeypatch.setattr(population, "simulate_trial", simulate)
    out = tmp_path / "out"
    assert main(["trial", trial, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith(" 12 failed\nEvery patient failed: see endpoints.csv for the reasons.\n")
    endpoints = rows(out / "endpoints.csv")
    assert all(row["last"] == "" and row["result"] != "ok" and row["state"] == "central" for row in endpoints)


def test_a_missing_package_is_named(trial, capsys, monkeypatch):
    found = importlib.import_module

    def without_matplotlib(name, *rest):
        if name == "matplotlib":
            raise ImportError
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_matplotlib)
    assert main(["trial", trial]) == 1
    expected = "This needs the package matplotlib. Install it with: pip install 'qspjax[cli]'\n"
    assert capsys.readouterr().err == expected


def test_the_module_runs(tmp_path):
    run = subprocess.run([sys.executable, "-m", "qspjax", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"qspjax {version()}\n", "")


def test_randomised_arms(trial, tmp_path, capsys):
    path = tmp_path / "two.toml"
    path.write_text(TRIAL.replace("seed = 3", "seed = 3\nrandomised = true"))
    out = tmp_path / "randomised"
    assert main(["trial", str(path), "--out", str(out)]) == 0
    assert "Patients: 6, randomised\n" in capsys.readouterr().out
    assert sorted(int(row["patient"]) for row in rows(out / "endpoints.csv")) == list(range(6))
    assert main(["trial", str(path), "--patients", "1"]) == 2
    message = "argument --patients: must be at least the number of arms (2) where `randomised` is true, but is 1.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("Argument `x` must be y."), 2, "{file}: Argument `x` must be y."),
        (MemoryError(), 1, "Out of memory: use a smaller --chunk or fewer patients, or save less in [output]."),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 80 bytes."),
            1,
            "Out of memory: use a smaller --chunk or fewer patients, or save less in [output].",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: the device is gone\nmore"), 1, "INTERNAL: the device is gone"),
    ],
)
def test_a_run_that_breaks_is_one_sentence(trial, tmp_path, capsys, monkeypatch, error, code, message):
    from qspjax import plot

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(plot, "trial", broken)
    assert main(["trial", trial, "--out", str(tmp_path / "out")]) == code
    assert capsys.readouterr().err.splitlines()[1:] == [message.format(file=trial)]
    assert held(tmp_path) == {"two.toml"}


@pytest.mark.filterwarnings("error")
def test_dollars_one_time_and_large_chunks(trial, tmp_path):
    text = TRIAL.replace("Two", "$Two {$").replace("[arms.none]", '[arms."$_ $[/x]"]').replace("high peak", "$^ $")
    text = text.replace('until = "12 h"\nevery = "6 h"', 'times = ["12 h"]')
    text += '[[output.panels]]\noutput = "concentration"\nlabel = "$_ $"\nlog = true\n'
    (tmp_path / "two.toml").write_text(text)
    assert main(["trial", trial, "--out", str(tmp_path / "out"), "--chunk", "1000000000000000"]) == 0
    assert held(tmp_path / "out") == FILES


TABLE = """ID,TIME,AMT,Y,SEX,SS
1,0,100,.,f,99
1,1,.,2.5,f,99
2,0,50,.,m,99
"""
READABLE = ["--rename", "Y=DV", "--categories", "SEX", "--recode", "SS:99=0"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return str(path)


def test_check_says_what_a_data_set_holds(table, capsys):
    assert main(["check", table, *READABLE]) == 0
    printed = capsys.readouterr()
    assert (
        printed.out == str(io.read_nonmem(table, rename={"Y": "DV"}, categories=["SEX"], recode={"SS": {99: 0}})) + "\n"
    )
    assert printed.err == ""
    assert "Subjects:     2\nRecords:      3\n" in printed.out
    assert main(["check", table, *READABLE, "--ignore", "ID.EQ.2", "--ignore", "#"]) == 0
    assert "Subjects:     1\nRecords:      2\n" in capsys.readouterr().out
    columns = [
        "--columns",
        "ID,TIME,AMT,DV,SEX=DROP,DROP",
        "--accept",
        "ID=1",
        "--accept",
        "TIME>9",
        "--dialect",
        "rxode",
    ]
    assert main(["check", table, *columns]) == 0
    assert "Covariates:   none\n" in capsys.readouterr().out


def test_check_says_what_is_wrong_with_a_data_set(table, capsys):
    assert main(["check", table, "--rename", "Y=DV"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"{table}:2: SEX: must be a number (or a category: `categories`), but is f.\n"
        f"{table}:3: SEX: must be a number (or a category: `categories`), but is f.\n"
        f"{table}:4: SEX: must be a number (or a category: `categories`), but is m.\n"
    )
    assert main(["check", table, "--dialect", "monolix"]) == 2
    assert capsys.readouterr().err == "argument --dialect: must name a dialect (nonmem, rxode), but is `monolix`.\n"
    for option, value, what in [
        ("--recode", "SS", "COLUMN:OLD=NEW"),
        ("--rename", "Y", "OLD=NEW"),
        ("--columns", "ID,,DV", "names, separated by commas"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(["check", table, option, value])
        assert caught.value.code == 2
        assert f"argument {option}: must be {what}, but is {value}" in capsys.readouterr().err


def test_check_reads_trial_files(trial, tmp_path, capsys):
    assert main(["check", trial]) == 0
    assert capsys.readouterr().out == "Trial:    Two doses\nPatients: 6\nArms:     none, low, daily\n"
    path = tmp_path / "bad.toml"
    path.write_text(TRIAL.replace("until", "untl"))
    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:27: [output] until: must be given, but is missing.\n")
    assert held(tmp_path) == {"two.toml", "bad.toml"}


COMMANDS = ("trial", "population", "simulate", "fit", "sensitivity", "check", "import", "sbml-suite", "sbml-case")
HELPED = """
import sys
from qspjax.cli import main
for argv in (["--help"], *([command, "--help"] for command in sys.argv[1:]), ["trail"], ["trial", "--patients", "0"]):
    try:
        main(argv)
    except SystemExit as end:
        print(end.code, "jax" in sys.modules or "numpy" in sys.modules, file=sys.stderr)
"""


def test_help_and_mistakes_are_told_without_jax():
    run = subprocess.run([sys.executable, "-c", HELPED, *COMMANDS], capture_output=True, text=True, check=True)
    told = [line for line in run.stderr.splitlines() if line.endswith(("True", "False"))]
    assert told == ["0 False"] * (1 + len(COMMANDS)) + ["2 False"] * 2
    (choices,) = (line for line in run.stderr.splitlines() if "choose from" in line)
    assert re.findall(r"[\w-]+", choices.partition("choose from")[2]) == [*COMMANDS]


def test_the_parser_knows_the_analyses():
    assert tuple(_sensitivity._METHODS) == _parsers.METHODS


TUMOURS = """
patients = 12
randomised = true
[model]
name = "TumourGrowthInhibition"
parameters = { KL = 0.1, KD = 0.3, resistance = 0.05, y0 = 70 }
[population.between]
KD = { cv = 0.5 }
[arms.treated]
dose = "100 g"
to = "drug"
over = "100 d"
[arms.untreated]
[tumour]
output = "diameters"
stable_after = "5 week"
[survival]
cumulative_hazard = "cumulative_hazard"
[power]
of = "progression"
arm = "treated"
reference = "untreated"
sizes = [10]
replicates = 5
[output]
times = [0, 42, 84, 126, 168]
"""
OF_TUMOURS = {"responses.csv", "events.csv", "curves.csv", "power.csv", "waterfall.png", "swimmer.png"}


def test_a_trial_of_tumours_writes_responses_and_events(tmp_path, capsys):
    path, out = tmp_path / "tumours.toml", tmp_path / "out"
    path.write_text(TUMOURS)
    assert main(["trial", str(path), "--out", str(out)]) == 0
    assert held(out) == FILES | OF_TUMOURS | {"progression.png", "survival.png", "power.png"}
    printed = capsys.readouterr().out
    assert printed == (out / "summary.txt").read_text() + f"\nPicture: {out / 'trial.png'}\n"
    assert "Best response (RECIST 1.1)\narm        patients  failed  CR  PR  SD  PD  NE" in printed
    responses, events, curves = (rows(out / f"{name}.csv") for name in ("responses", "events", "curves"))
    assert [row["arm"] for row in responses] == ["treated"] * 6 + ["untreated"] * 6
    assert len(events) == 24
    steps = [row for row in curves if (row["of"], row["arm"]) == ("progression", "untreated")]
    assert [steps[0][name] for name in ("at_risk", "survival")] == ["6", steps[0]["survival"]]
    assert main(["trial", str(path), "--out", str(out)]) == 0  # an earlier result is replaced


@pytest.mark.slow
def test_the_bundled_trial_of_tumours_runs(tmp_path, monkeypatch, capsys):
    """Published of capecitabine: 24 % respond in phase II; a simulated median survival of 431 d (90 %: 362 to 514)."""
    monkeypatch.chdir(tmp_path)
    assert main(["trial", "capecitabine"]) == 0
    printed = capsys.readouterr().out
    line = next(x for x in printed.partition("Overall survival")[2].splitlines() if x.startswith("2.5 g/m2"))
    assert 362.0 < float(line.split()[4]) < 514.0
    line = next(x for x in printed.partition("Best response")[2].splitlines() if x.startswith("2.5 g/m2"))
    assert 15.0 < float(re.search(r"([\d.]+) %", line)[1]) < 35.0
