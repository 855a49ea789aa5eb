"""`qspjax simulate MODEL`: simulate a model of the catalogue, or of a file in SBML or Antimony."""

import argparse
from pathlib import Path

import numpy as np

from qspjax import plot
from qspjax._checks import ArgumentError
from qspjax._extras import require
from qspjax._files import replaced
from qspjax._simulate import simulate
from qspjax._solution import Solution
from qspjax.cli._console import FAILED, say
from qspjax.io._simulation import info_of_name, read_doses, write_solution
from qspjax.solve import Rosenbrock

_MOST_PANELS = 12
_NEEDED = ("pint", "pandas", "matplotlib")


def run_simulate(arguments: argparse.Namespace) -> int:
    """Simulate a model and write a table and a picture; return the exit code."""
    for package in _NEEDED:
        require(package, extra="cli")
    if arguments.plot is not None:
        _check_picture(arguments.plot)
    model = info_of_name(arguments.model, dict(arguments.set))
    save = tuple(dict.fromkeys(arguments.save or model.main))
    tolerances = {name: getattr(arguments, name) for name in ("rtol", "atol") if getattr(arguments, name) is not None}
    try:
        solution = simulate(
            model.model,
            read_doses(arguments.dose, model),
            np.linspace(0.0, arguments.end, arguments.points),
            save=save,
            method=Rosenbrock(**tolerances) if tolerances else None,
            throw=False,
        )
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error
    for failure in solution.failures():
        return say(f"Not solved: at {failure.time:g}, state {failure.state}. {failure.reason}", FAILED)
    stem = Path(arguments.model).stem
    table = Path(arguments.output or f"{stem}-simulation.csv")
    picture = Path(arguments.plot or table.with_suffix(".png"))
    write_solution(table, solution, save)
    _draw(picture, solution, [name for name in save if name in solution.observed][:_MOST_PANELS], stem)
    head = {"Model": stem, "Method": solution.labels.method, "Steps": int(solution.stats["steps"])}
    print("\n".join(f"{key + ':':<9}{value}" for key, value in {**head, "Table": table, "Picture": picture}.items()))
    return 0


def _check_picture(path: str) -> None:
    """Check that a picture has an ending that matplotlib writes."""
    kinds = sorted(require("matplotlib.backend_bases", extra="plot").FigureCanvasBase.get_supported_filetypes())
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in kinds:
        listed = ", ".join(f".{kind}" for kind in kinds)
        raise ValueError(f"argument --plot: must end with one of {listed}, but is {path}.")


def _draw(path: Path, solution: Solution, outputs: list[str], title: str) -> None:
    """Save the figure atomically: under another name, which is then renamed."""
    figure = plot.trajectories(solution, outputs, title=title)
    with replaced(path) as new:
        figure.savefig(new, dpi=200, metadata={"Software": None} if path.suffix == ".png" else None)
