"""Published calibration problems: the log likelihood at nominal parameters, its gradient, and what they cost.

    python benchmarks/petab.py FOLDER [--problems NAME ...] [--markdown]

FOLDER holds PEtab problems, one a folder, and `inventory.csv` with reference log likelihoods: AMICI's where it stands,
else one recomputed from the published simulations (of these, those of Sneyd, Chen and Alkan are not to be trusted). The
error is relative to max(1, |value|). The gradient (by forward sensitivities, with the curvature; and by the adjoint) is
checked along a random direction against central differences of the log density, extrapolated to step 0 (Richardson),
relative to the size of the gradient.
Seconds are CPU seconds of the process; central differences cost two evaluations a parameter.
"""

import argparse
import csv
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qspjax import io

STEP = 2e-5


def timed(function, *arguments):
    """Return a compiled function, its value, and the CPU seconds of compiling and of one call."""
    began = time.process_time()
    program = jax.jit(function).lower(*arguments).compile()
    first = time.process_time() - began
    value = jax.block_until_ready(program(*arguments))
    began = time.process_time()
    jax.block_until_ready(program(*arguments))
    return program, value, first, time.process_time() - began


def examined(path, reference):
    """Return the cells of a problem."""
    problem = io.read_petab(path)
    x = problem.point(problem.reference)
    density, value, compile_value, per_value = timed(problem.log_density, x)
    likelihood = (
        float(jax.jit(problem.log_likelihood)(x)) if any(f.prior for f in problem.free.values()) else float(value)
    )
    error = "" if reference is None else f"{abs(likelihood - reference) / max(1.0, abs(reference)):.0e}"
    _, found, compile_quadratic, per_quadratic = timed(problem.quadratic, x)
    _, gradient, compile_adjoint, per_adjoint = timed(jax.grad(problem.log_density), x)
    rng = np.random.default_rng(0)
    lower, upper = (np.asarray(edge) for edge in problem.bounds)
    free = (np.asarray(x) > lower + STEP) & (np.asarray(x) < upper - STEP)
    direction = rng.normal(size=x.size) * free
    direction = jnp.asarray(direction / np.linalg.norm(direction))
    steps = STEP, STEP / 2
    wide, narrow = (float(density(x + h * direction) - density(x - h * direction)) / (2 * h) for h in steps)
    central = (4 * narrow - wide) / 3
    size = max(float(jnp.linalg.norm(found.gradient)), 1.0)
    checks = [abs(float(one @ direction) - central) / size for one in (found.gradient, gradient)]
    return (
        len(problem.experiments), len(problem.names), f"{likelihood:.6g}", error,
        f"{checks[0]:.0e}", f"{checks[1]:.0e}", f"{compile_value:.1f}", f"{1e3 * per_value:.1f}",
        f"{compile_quadratic:.1f}", f"{1e3 * per_quadratic:.1f}", f"{compile_adjoint:.1f}", f"{1e3 * per_adjoint:.1f}",
        f"{1e3 * 2 * len(problem.names) * per_value:.0f}",
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    with (arguments.folder / "inventory.csv").open() as file:
        inventory = {row["problem"]: row for row in csv.DictReader(file)}
    head = ("problem", "conditions", "parameters", "log likelihood", "error", "gradient error: forward", "adjoint",
            "compile s", "value ms", "compile s", "forward ms", "compile s", "adjoint ms", "central ms")  # fmt: skip
    line = "| {} |" if arguments.markdown else "{}"
    join = " | " if arguments.markdown else "  "
    print(line.format(join.join(head)))
    if arguments.markdown:
        print("|" + "---|" * len(head))
    for name in arguments.problems or inventory:
        folder = arguments.folder / name
        path = next(
            p for p in (folder / f"{name}.yaml", folder / "problem.yaml", *sorted(folder.glob("*.yaml"))) if p.exists()
        )
        row = inventory[name]
        known = row["llh_amici"] or row["llh_from_simdata"]
        cells = examined(path, float(known) if known else None)
        print(line.format(join.join(map(str, (name.partition("_")[0], *cells)))), flush=True)


if __name__ == "__main__":
    main()
