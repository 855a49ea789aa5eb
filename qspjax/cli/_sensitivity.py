"""`qspjax sensitivity FILE`: which parameters of a trial file matter for its endpoints."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from qspjax import io, plot, sensitivity
from qspjax._extras import require
from qspjax._types import Key
from qspjax.cli._console import ProgressBar
from qspjax.io._directory import check_destination
from qspjax.io.trial._sensitivity import (
    SENSITIVITY_FILES,
    SENSITIVITY_MARKERS,
    sensitivity_problem,
    write_sensitivity,
)

Points: TypeAlias = Float[np.ndarray, "points inputs"]
Outputs: TypeAlias = Float[np.ndarray, "points outputs"]
Function: TypeAlias = Callable[[Points], Outputs]
Result: TypeAlias = sensitivity.Sobol | sensitivity.Morris | sensitivity.Ranks | sensitivity.Fast


def _sobol(function: Function, inputs: sensitivity.Inputs, samples: int, key: Key) -> Result:
    return sensitivity.sobol(function, inputs, key=key, samples=samples)


def _morris(function: Function, inputs: sensitivity.Inputs, samples: int, key: Key) -> Result:
    return sensitivity.morris(function, inputs, key=key, trajectories=samples)


def _prcc(function: Function, inputs: sensitivity.Inputs, samples: int, key: Key) -> Result:
    return sensitivity.prcc(function, inputs, key=key, samples=samples)


def _efast(function: Function, inputs: sensitivity.Inputs, samples: int, key: Key) -> Result:
    return sensitivity.efast(function, inputs, key=key, samples=samples)


_METHODS: dict[str, tuple[Callable[..., Result], Callable[[int, int], int]]] = {
    "sobol": (_sobol, lambda samples, inputs: samples * (inputs + 2)),
    "morris": (_morris, lambda samples, inputs: samples * (inputs + 1)),
    "prcc": (_prcc, lambda samples, _: samples),
    "efast": (_efast, lambda samples, inputs: samples * inputs),
}
"""By name: the analysis, and the number of patients that it simulates for numbers of samples and inputs."""


def run_sensitivity(arguments: argparse.Namespace) -> int:
    """Analyse a trial file and write a table and a picture; return the exit code."""
    for package in ("pint", "rich", "pandas", "matplotlib"):
        require(package, extra="cli")
    file = io.read_trial(arguments.file or io.bundled_trial())
    out = arguments.out or f"{file.stem}-sensitivity"
    path = check_destination(out, SENSITIVITY_FILES, SENSITIVITY_MARKERS)
    function, inputs = sensitivity_problem(file, arguments.arm, chunk=arguments.chunk)
    analyse, patients_of = _METHODS[arguments.method]
    patients = patients_of(arguments.samples, len(inputs.names))
    includes = " with compilation"
    with ProgressBar(patients, things="patients", bad="failed", first="compiling", includes=includes) as bar:

        def counted(points: Points) -> Outputs:
            parts = []
            for k in range(0, len(points), arguments.chunk):
                parts.append(np.asarray(function(points[k : k + arguments.chunk])))
                done = min(k + arguments.chunk, len(points))
                bar.update(done, bad=int(np.isnan(parts[-1]).any(axis=1).sum()), description=arguments.method)
            return np.concatenate(parts)

        result = analyse(counted, inputs, arguments.samples, jax.random.key(arguments.seed))
    table = result.to_dataframe()
    names = [output if isinstance(output, str) else function.outputs[int(output)] for output in table["output"]]
    table = table.assign(output=names)
    text = f"{file.title}: {arguments.method}, {patients} patients\n\n{table.to_string(index=False)}\n"
    write_sensitivity(path, text, table, plot.sensitivities(result, function.outputs, title=file.title))
    print(text, end="")
    print(f"\nPicture: {path / 'sensitivity.png'}")
    return 0
