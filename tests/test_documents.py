"""The README's code and every example run as they stand; the README keeps its promises about itself."""

import re
import runpy
from pathlib import Path

import matplotlib
import pytest

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
