"""The README's code and every example run as they stand; the README keeps its promises about itself."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

import qspjax as qsp
import qspjax.io
import qspjax.plot
from tests.systems.marks import slow_for

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_readme_is_short_and_shows_code_early():
    lines = README.splitlines()
    assert len(lines) <= 140
    assert next(i for i, line in enumerate(lines) if line.startswith("```")) < 30


def test_readme_code_runs(capsys, monkeypatch, tmp_path):
    namespace = {}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["solution"].observed["concentration"].shape == (85,)
    assert "5th to 95th percentile of patients" in capsys.readouterr().out


def test_ci_runs_the_command_of_the_readme():
    (command,) = (line for block in blocks("sh") for line in block.splitlines() if "pytest" in line)
    assert command.startswith("python3 -m venv .venv && ")
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", slow_for(EXAMPLES, *EXAMPLES[2:]), ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, monkeypatch):
    assert len(path.read_text().splitlines()) <= 120
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    runpy.run_path(str(path))
    assert list(tmp_path.glob("*.png"))


def public_callables(module, deep=2):
    """Return what can be called by names without an underscore, in a module and those below it, by where it is made.

    The command line is no part of the library, and is an attribute of the package only once it was imported.
    """
    found = {}
    for name in dir(module):
        one = getattr(module, name)
        if (
            name.startswith("_")
            or one is sys.modules.get("qspjax.cli")
            or not getattr(one, "__module__", getattr(one, "__name__", "")).startswith("qspjax")
        ):
            continue
        if isinstance(one, ModuleType):
            found |= public_callables(one, deep - 1) if deep else {}
        elif callable(one):
            found[f"{one.__module__}.{one.__name__}"] = one
    return found


def test_every_public_callable_has_an_example():
    found = public_callables(qsp)
    assert {"qspjax._simulate.simulate", "qspjax.io._validate.validate", "qspjax.plot._trial.trial"} <= found.keys()
    assert [name for name, one in sorted(found.items()) if ">>>" not in (one.__doc__ or "")] == []
