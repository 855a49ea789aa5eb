"""Cases of the SBML Test Suite: read, judged, run in processes of their own, and written for the Test Runner."""

import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("libsbml")

from qspjax import io, sbml_suite
from qspjax.cli import main
from qspjax.io import sbml
from qspjax.io.sbml._write import sbml_of
from qspjax.models.network import Compartment, Definition, NetworkEvent, Parameter, Participant, Reaction, Species
from qspjax.sbml_suite import _run as _suite_run, _suite

SHARED = Path(__file__).parents[2] / "shared" / "data" / "sbml-test-suite"
TIMES = np.linspace(0.0, 2.0, 5)

SETTINGS = """start: 0
duration: 2
steps: 4
variables: S1, S2, c, k , J,two,inf
absolute: 1.000000e-007
relative: 0.0001
amount: S1
concentration:  S2

"""


def decay():
    """Return a network whose solution is known: S1 decays to two S2, in a compartment of size 4."""
    from qspjax._expression import parse

    return Definition(
        name="decay",
        compartments={"c": Compartment(4.0)},
        species={"S1": Species(3.0, "c", is_amount=False), "S2": Species(1.0, "c", only_substance=True)},
        parameters={"k": Parameter(0.5), "inf": Parameter(math.inf)},
        reactions={"J": Reaction((Participant("S1"),), (Participant("S2", 2.0, "two"),), parse("k * S1 * c"))},
        events=(NetworkEvent(parse("two < 1"), {"S1": parse("1")}),),
    )


def solution():
    """Return what the settings ask for: an amount, a concentration, sizes, a rate, a stoichiometry, infinity."""
    amount = 12.0 * np.exp(-0.5 * TIMES)
    ones = np.ones(TIMES.size)
    return {
        "time": TIMES,
        "S1": amount,
        "S2": (1.0 + 2.0 * (12.0 - amount)) / 4.0,
        "c": 4.0 * ones,
        "k": 0.5 * ones,
        "J": 0.5 * amount,
        "two": 2.0 * ones,
        "inf": math.inf * ones,
    }


def case(root, number, *, network=None, columns=None, text=None, tags="Compartment, Species"):
    """Write the folder of a case."""
    folder = root / number
    folder.mkdir(parents=True)
    columns = columns or solution()
    (folder / f"{number}-settings.txt").write_text(SETTINGS)
    rows = [
        ", ".join(columns),
        *(",".join(f"{value:.17g}" for value in row) for row in zip(*columns.values(), strict=True)),
    ]
    (folder / f"{number}-results.csv").write_text(
        "\n".join(rows).replace("inf", "INF").replace(", INF", ", inf", 1) + "\n"
    )
    (folder / f"{number}-sbml-l2v4.xml").write_text("<old/>")
    (folder / f"{number}-sbml-l3v2.xml").write_text(text or sbml_of(network or decay()))
    (folder / f"{number}-model.m").write_text(f"(*\ncategory: Test\ncomponentTags: {tags}\ntestTags: Amount\n*)\n")
    return folder


def broken():
    """Return a model that is not supported."""
    return sbml_of(decay()).replace('id="J"', 'id="J" unknown="1"')


def test_a_case_that_passes_and_one_that_is_wrong(tmp_path):
    result = sbml_suite.run_case(case(tmp_path, "00001"))
    assert (result.case, result.outcome, result.reason, result.tags) == (
        "00001",
        "pass",
        "",
        ("Compartment", "Species"),
    )
    assert 0 < result.ratio < 1e-2
    assert result.seconds > 0
    columns = solution()
    columns["S2"][3] += 0.01
    result = sbml_suite.run_case(case(tmp_path, "00002", columns=columns), ["Event"])
    assert (result.outcome, result.tags) == ("wrong", ("Event",))
    assert result.reason.startswith("S2 is 3.41")
    assert " at 1.5, but must be 3.42" in result.reason
    assert result.ratio > 1


def test_a_case_that_is_refused(tmp_path):
    result = sbml_suite.run_case(case(tmp_path, "00001", text=broken()))
    assert result.outcome == "refused"
    assert "unknown" in result.reason
    assert math.isnan(result.ratio)
    with pytest.raises(sbml_suite.Refused, match="no model in Level 2 Version 1"):
        _suite.model_of(tmp_path / "00001", 2, 1)
    (tmp_path / "00003").mkdir()
    with pytest.raises(sbml_suite.Refused, match="no model$"):
        _suite.model_of(tmp_path / "00003")


@pytest.mark.parametrize(
    ("expected", "found", "outcome", "ratio"),
    [
        ([1.0, 2.0], [1.0, 2.0], "pass", 0.0),
        ([1.0, 2.0], [1.0, 2.0 + 0.021], "pass", 0.7),
        ([1.0, 2.0], [1.0, 2.0 - 0.031], "wrong", 0.031 / 0.03),
        ([math.nan, math.inf], [math.nan, math.inf], "pass", 0.0),
        ([math.nan, 1.0], [1.0, 1.0], "wrong", math.inf),
        ([1.0, 1.0], [math.nan, 1.0], "wrong", math.inf),
        ([math.inf], [-math.inf], "wrong", math.inf),
        ([math.inf], [1e300], "wrong", math.inf),
    ],
)
def test_the_rule(expected, found, outcome, ratio):
    settings = _suite.Settings(0.0, 1.0, max(len(expected) - 1, 1), ("x",), 0.01, 0.01, frozenset(), frozenset())
    judged = _suite.judged({"x": np.array(expected)}, {"x": np.array(found)}, settings)
    assert judged[0] == outcome
    assert judged[2] == pytest.approx(ratio)
    assert (judged[1] == "") == (outcome == "pass")


def test_settings_and_results(tmp_path):
    folder = case(tmp_path, "00001")
    settings = _suite.read_settings(folder / "00001-settings.txt")
    assert settings.variables == ("S1", "S2", "c", "k", "J", "two", "inf")
    assert (settings.amount, settings.concentration) == ({"S1"}, {"S2"})
    np.testing.assert_array_equal(settings.times, TIMES)
    expected = _suite.read_results(folder / "00001-results.csv", settings)
    assert list(expected) == list(settings.variables)
    assert np.isposinf(expected["inf"]).all()
    for change, message in {
        ("steps: 4", "steps: four"): "must be settings of a case, but is not: invalid literal",
        ("start: 0", "begin: 0"): "must be settings of a case, but is not: 'start'.",
        ("steps: 4", "steps: 0"): "must have a start, a duration and steps, but has others.",
    }.items():
        (folder / "00001-settings.txt").write_text(SETTINGS.replace(*change))
        with pytest.raises(io.FileIssues) as caught:
            sbml_suite.run_case(folder)
        assert str(caught.value).startswith(f"00001-settings.txt: {message}")
    (folder / "00001-settings.txt").write_text(SETTINGS.replace("steps: 4", "steps: 8"))
    with pytest.raises(
        io.FileIssues, match=r"^00001-results.csv: must have the times of the settings, but has others\.$"
    ):
        sbml_suite.run_case(folder)
    (folder / "00001-settings.txt").write_text(SETTINGS.replace("variables: S1", "variables: S3"))
    with pytest.raises(io.FileIssues, match=r"^00001-results.csv: must be the results of a case, but is not: 'S3'\.$"):
        sbml_suite.run_case(folder)


def test_where_cases_are(tmp_path):
    places = [tmp_path / "cases" / "semantic", tmp_path / "cases", tmp_path]
    for number in ("00001", "00003", "00010"):
        (places[0] / number).mkdir(parents=True)
    (places[0] / "notes").mkdir()
    for place in places:
        if place != places[1]:
            assert [folder.name for folder in sbml_suite.case_folders(place)] == ["00001", "00003", "00010"]
    assert [folder.name for folder in sbml_suite.case_folders(places[1])] == ["00001", "00003", "00010"]
    assert [folder.name for folder in sbml_suite.case_folders(tmp_path, range(2, 11))] == ["00003", "00010"]
    with pytest.raises(io.FileIssues, match=r"must be a folder of cases \(00001, 00002, \.\.\.\), but has none\."):
        sbml_suite.case_folders(tmp_path / "none")
    (tmp_path / "tags.csv").write_text("case,componentTags\n00001,Species;comp:Port\n")
    assert _suite.tags_of(places[0] / "00001") == ("Species", "comp:Port")
    assert _suite.tags_of(places[0] / "00003") == ()


STUB = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    folder, tags = json.loads(line)
    number = folder[-5:]
    if number == "00002":
        time.sleep(60)
    if number == "00003":
        os.kill(os.getpid(), 11)
    if number == "00004":
        sys.exit(3)
    print(json.dumps([number, "pass", "", tags, 0.5, float("nan")]), flush=True)
"""


def test_processes_that_hang_or_die_cost_one_case(tmp_path, monkeypatch):
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(_suite_run, "_COMMAND", (sys.executable, str(stub)))
    monkeypatch.setattr(_suite_run, "_CASES_OF_A_PROCESS", 2)
    folders = [tmp_path / f"{i:05}" for i in range(1, 9)]
    results = sorted(sbml_suite.run_suite(folders, workers=2, limit=1.0))
    assert [result.case for result in results] == [folder.name for folder in folders]
    reasons = {result.case: result.reason for result in results if result.outcome == "refused"}
    assert reasons == {
        "00002": "takes longer than 1 s",
        "00003": "not solved: the process ended with signal SIGSEGV",
        "00004": "not solved: the process ended with exit status 3",
    }


def test_an_interrupt_ends_the_processes(tmp_path, monkeypatch):
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(_suite_run, "_COMMAND", (sys.executable, str(stub)))
    started = []
    popen = _suite_run.subprocess.Popen
    monkeypatch.setattr(
        _suite_run.subprocess, "Popen", lambda *args, **kw: started.append(popen(*args, **kw)) or started[-1]
    )
    running = sbml_suite.run_suite([tmp_path / "00001", tmp_path / "00002"], workers=2, limit=50.0)
    next(running)
    running.close()
    assert [process.returncode for process in started] == [-9, -9]


def test_processes_that_do_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(_suite_run, "_COMMAND", (sys.executable, "-c", "raise SystemExit(4)"))
    with pytest.raises(RuntimeError, match=r"A process for the suite did not start \(exit status 4\)\."):
        list(sbml_suite.run_suite([tmp_path / "00001"]))


def test_the_command(tmp_path, capsys):
    wrong = solution()
    wrong["k"] *= 2
    case(tmp_path, "00001")
    case(tmp_path, "00002", columns=wrong, tags="Species")
    case(tmp_path, "00003", text=broken(), tags="Species")
    case(tmp_path, "00009")
    assert main(["sbml-suite", str(tmp_path), "--cases", "1-3", "--workers", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("3 cases in ")
    lines = printed.out.splitlines()
    assert lines[:2] == ["Wrong", f"00002  k is 0.5 at 0, but must be 1 (error {0.5 / (1e-7 + 1e-4):.3g})"]
    assert lines[3] == "Refused"
    assert lines[4].startswith("    1  ")
    assert (
        textwrap.dedent("""
        Tag             pass  refused    wrong
        Compartment        1        0        0
        Species            1        1        1

        1 pass, 1 refused, 1 wrong
        """).strip()
        in printed.out
    )
    assert lines[-1] == "1 pass, 1 refused, 1 wrong"
    assert main(["sbml-suite", str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit):
        main(["sbml-suite", str(tmp_path), "--cases", "5-1"])
    assert "argument --cases: must be numbers of cases such as 1-100,205, but is 5-1" in capsys.readouterr().err


def test_the_wrapper_of_the_test_runner(tmp_path, capsys):
    case(tmp_path, "00001")
    case(tmp_path, "00002", text=broken())
    out = tmp_path / "out"
    out.mkdir()
    assert main(["sbml-case", str(tmp_path), "00001", str(out), "3", "2"]) == 0
    head, *rows = (out / "00001.csv").read_text().splitlines()
    assert head == "time,S1,S2,c,k,J,two,inf"
    assert {row.split(",")[-1] for row in rows} == {"INF"}
    found = np.array([[float(cell) for cell in row.split(",")] for row in rows])
    np.testing.assert_allclose(found, np.stack(list(solution().values())).T, rtol=1e-6)
    assert [_suite._spelled(value) for value in (0.1, math.nan, -math.inf)] == ["0.1", "NaN", "-INF"]
    (out / "00002.csv").write_text("of an earlier run")
    assert main(["sbml-case", str(tmp_path), "2", str(out), "3", "2"]) == 2
    assert capsys.readouterr().err.startswith("00002: ")
    assert main(["sbml-case", str(tmp_path), "00001", str(out), "2", "1"]) == 2
    assert capsys.readouterr().err == "00001: no model in Level 2 Version 1.\n"
    assert list(out.iterdir()) == []
    assert main(["sbml-case", str(tmp_path), "one", str(out), "3", "2"]) == 2
    assert capsys.readouterr().err == "argument NUMBER: must be the number of a case, but is one\n"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the SBML Test Suite in ../shared/data")
@pytest.mark.parametrize("number", ["00026", "00950"])
def test_cases_of_the_suite(number):
    result = sbml_suite.run_case(SHARED / "cases" / "semantic" / number)
    assert (result.outcome, result.reason) == ("pass", "")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the SBML Test Suite in ../shared/data")
def test_definitions_of_the_suite_come_back():
    compared = 0
    for folder in sbml_suite.case_folders(SHARED)[::16]:
        try:
            definition = sbml.read_definition(_suite.model_of(folder)).definition
        except io.FileIssues:
            continue
        again = sbml.read_definition(sbml_of(definition)).definition
        text = sbml_of(again)
        assert sbml_of(sbml.read_definition(text).definition) == text
        assert set(again.ids()) >= {id for id in definition.ids() if "." not in id}
        compared += 1
    assert compared > 50
