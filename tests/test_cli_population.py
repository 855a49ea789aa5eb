"""`qspjax population`: the files it writes, the same for the same seed, and its exit codes."""

import csv

import numpy as np
import pandas
import pytest

from qspjax.cli import main

FILE = """
title = "Peaks"
patients = 40
[model]
name = "OneCompartment"
parameters = { CL = 3, V = 30 }
[population.between]
CL = { low = 1, high = 10, log = true }
V = { low = 10, high = 100 }
[arms.treated]
dose = "100 mg"
to = "central"
[bounds.peak]
value = { output = "concentration", at = 0 }
low = 2
high = 5
[search]
method = "rejection"
[[targets]]
mean = { statistic = "peak", value = 3 }
[weights]
[selection]
size = 10
"""
HELD = {"summary.txt", "patients.csv", "targets.csv", "population.toml", "coverage.png", "targets.png"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "peaks.toml"
    path.write_text(FILE)
    return path


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_population_writes_its_results(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["population", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert {entry.name for entry in out.iterdir()} == HELD
    assert printed.out == (out / "summary.txt").read_text() + f"\nResults: {out}\n"
    assert printed.err.startswith("40 patients in ")
    assert (out / "population.toml").read_text() == FILE
    patients = pandas.read_csv(out / "patients.csv")
    assert list(patients) == ["patient", "CL", "V", "peak", "weight", "selected"]
    assert len(patients) == 40
    np.testing.assert_allclose(patients.peak, 100.0 / patients.V, rtol=1e-6)
    assert patients.peak.between(2.0, 5.0).all()
    assert patients.selected.sum() == 10
    assert float(patients.weight @ patients.peak) == pytest.approx(3.0, rel=1e-6)
    targets = rows(out / "targets.csv")
    assert [(row["target"], row["wanted"], row["population"]) for row in targets] == [
        *(("mean of peak", "3.0", "weights"), ("mean of peak", "3.0", "selection")),
    ]
    assert float(targets[1]["reached"]) == pytest.approx(patients.peak[patients.selected].mean())


def test_the_same_seed_gives_the_same_patients(file, tmp_path):
    options = {"a": [], "b": ["--chunk", "64"], "c": ["--seed", "4"], "d": ["--patients", "20", "--parquet"]}
    for name, more in options.items():
        assert main(["population", str(file), "--out", str(tmp_path / name), *more]) == 0
    a, b, c = (pandas.read_csv(tmp_path / name / "patients.csv") for name in "abc")
    pandas.testing.assert_frame_equal(a, b, rtol=1e-12)
    assert not np.allclose(a.V, c.V)
    d, whole = (
        pandas.read_csv(tmp_path / "d" / "patients.csv"),
        pandas.read_parquet(tmp_path / "d" / "patients.parquet"),
    )
    pandas.testing.assert_frame_equal(d, whole)
    assert len(d) == 20


def test_without_targets_there_are_no_weights(file, tmp_path):
    file.write_text(FILE.partition("[[targets]]")[0])
    assert main(["population", str(file), "--out", str(tmp_path / "out")]) == 0
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == HELD - {"targets.csv", "targets.png"}
    assert "weight" not in rows(tmp_path / "out" / "patients.csv")[0]


@pytest.mark.parametrize(
    ("old", "new", "options", "message", "code"),
    [
        ('"rejection"', '"reject"', [], "peaks.toml:18: [search] method: must be a search (", 2),
        ("", "", ["--patients", "5"], "argument --patients: must be at least the size of the selection (10)", 2),
        (
            "value = 3 }",
            'value = 3 }\n[[targets]]\nmean = { statistic = "peek", value = 1 }',
            [],
            "statistic: must be",
            2,
        ),
        ('"rejection"', '"rejection"\nmost = 200', [], "Nobody was found, and nothing written.", 1),
    ],
)
def test_what_goes_wrong_is_said(file, tmp_path, capsys, old, new, options, message, code):
    text = FILE.replace(old, new, 1)
    file.write_text(text.replace("low = 2\nhigh = 5", "low = 90\nhigh = 91") if code == 1 else text)
    assert main(["population", str(file), "--out", str(tmp_path / "out"), *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_files_are_kept(file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    assert main(["population", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "must be new, empty or hold an earlier result" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_population_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["population", "--patients", "100"]) == 0
    assert "effective size 50 of 100 patients" in capsys.readouterr().out
    assert (tmp_path / "antibody-population" / "coverage.png").read_bytes().startswith(b"\x89PNG")
