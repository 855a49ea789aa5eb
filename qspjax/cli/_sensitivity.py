"""`qspjax sensitivity FILE`: which parameters of a trial file matter for its endpoints."""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qspjax import io, plot, sensitivity
from qspjax._extras import require
from qspjax.cli._console import Progress
from qspjax.cli._options import at_least


def add_sensitivity(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sensitivity",
        help="find out which parameters matter",
        description="Global sensitivities of the endpoints of a trial file to the parameters that vary between its "
        "patients, as a table and a picture.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="trial file in TOML (by default the bundled one)")
    parser.add_argument("--method", choices=("sobol", "morris", "prcc", "efast"), default="sobol", help="(sobol)")
    parser.add_argument("--samples", type=at_least(2), metavar="N", default=256, help="samples, or trajectories (256)")
    parser.add_argument("--arm", metavar="NAME", help="the arm that is simulated (by default the last)")
    parser.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="random seed (0)")
    parser.add_argument("--chunk", type=at_least(1), metavar="N", default=256, help="patients computed at a time (256)")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (by default the name of the file with -sensitivity)"
    )
    parser.set_defaults(run=_sensitivity)


def _sensitivity(arguments: argparse.Namespace) -> int:
    for package in ("pint", "rich", "pandas", "matplotlib"):
        require(package, extra="cli")
    file = io.read_trial(arguments.file or io.bundled_trial())
    out = arguments.out or f"{file.stem}-sensitivity"
    path = io.check_destination(out, io.SENSITIVITY_FILES, io.SENSITIVITY_MARKERS)
    function, inputs = io.sensitivity_problem(file, arguments.arm, chunk=arguments.chunk)
    count, samples, key = len(inputs.names), arguments.samples, jax.random.key(arguments.seed)
    totals = {
        "sobol": samples * (count + 2),
        "morris": samples * (count + 1),
        "prcc": samples,
        "efast": samples * count,
    }
    with Progress(
        totals[arguments.method], things="patients", bad="failed", first="compiling", includes=" with compilation"
    ) as progress:

        def counted(points: np.ndarray) -> np.ndarray:
            parts = []
            for k in range(0, len(points), arguments.chunk):
                parts.append(function(points[k : k + arguments.chunk]))
                done = min(k + arguments.chunk, len(points))
                progress.update(done, bad=int(np.isnan(parts[-1]).any(axis=1).sum()), description=arguments.method)
            return np.concatenate(parts)

        if arguments.method == "sobol":
            found: Any = sensitivity.sobol(counted, inputs, key=key, samples=samples)
        elif arguments.method == "morris":
            found = sensitivity.morris(counted, inputs, key=key, trajectories=samples)
        elif arguments.method == "prcc":
            found = sensitivity.prcc(counted, inputs, key=key, samples=samples)
        else:
            found = sensitivity.efast(counted, inputs, key=key, samples=samples)
    table = io.named(found.to_dataframe(), function.outputs)
    text = f"{file.title}: {arguments.method}, {totals[arguments.method]} patients\n\n{table.to_string(index=False)}\n"
    io.write_sensitivity(path, text, table, plot.sensitivities(found, function.outputs, title=file.title))
    print(text, end="")
    print(f"\nPicture: {Path(path) / 'sensitivity.png'}")
    return 0
