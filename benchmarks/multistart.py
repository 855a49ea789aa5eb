"""How often and how fast does a search from random starts find the best fit? Beside scipy on the same starts.

    python benchmarks/multistart.py FOLDER [--problems NAME ...] [--starts 50] [--lanes 16] [--peer 5] [--markdown]

FOLDER holds PEtab problems, one a folder. Starts are a Latin hypercube within the bounds of the table of parameters, on
its scale. A start succeeds that ends within 0.1 of the log density at the nominal (published) parameters, or above;
beside that, how many end within 0.1 of the best of all. Where scales, offsets and noise parameters can be solved for,
a second row has them searched too.
The peer is `scipy.optimize.least_squares` (trust region reflective), start after start, on the same residuals (those of
the data, and the square root of 2 log sd + a constant) with our sensitivities; it counts for `--peer` starts. Seconds
are CPU seconds of the process, compilation apart.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qspjax import fit, io

PROBLEMS = {
    "Boehm_JProteomeRes2014": 100,
    "Perelson_Science1996": 50,
    "Bruno_JExpBot2016": 50,
    "Fiedler_BMCSystBiol2016": 100,
    "Elowitz_Nature2000": 100,
    "Borghans_BiophysChem1997": 100,
    "Bachmann_MSB2011": 50,
}
"""The problems, and the starts that they are given."""
WITHIN = 0.1
SHIFT = 100.0


def peer(problem, starts):
    """Return what scipy reaches from each start, and its CPU seconds a start."""
    from scipy.optimize import least_squares

    def residuals(x):
        pool, known = problem.pooled(x)
        observed = problem.layout.stages.simulate(pool).observed
        parts = []
        for rows in problem.rows:
            (_, log_scale) = own = rows.predicted(pool, observed, known)[1]
            parts += [rows.output.error.residual(rows.value, own), jnp.sqrt(2.0 * log_scale + SHIFT)]
        return jnp.concatenate(parts)

    value, slope = jax.jit(residuals), jax.jit(jax.jacfwd(residuals))
    value(starts[0]), slope(starts[0])
    density = jax.jit(problem.log_density)
    lower, upper = (np.asarray(edge) for edge in problem.bounds)
    reached, spent = [], []
    for start in starts:
        began = time.process_time()
        try:
            found = least_squares(
                lambda x: np.nan_to_num(np.asarray(value(x)), nan=1e10, posinf=1e10, neginf=-1e10),
                np.clip(start, lower + 1e-8, upper - 1e-8),
                lambda x: np.nan_to_num(np.asarray(slope(x)), nan=0.0, posinf=1e10, neginf=-1e10),
                bounds=(lower, upper),
                max_nfev=300,
            )
            reached.append(float(density(found.x)))
        except ValueError:
            reached.append(-np.inf)
        spent.append(time.process_time() - began)
    return np.array(reached), float(np.mean(spent))


def ours(name, problem, nominal, starts, lanes, analytic):
    """Return the row of our searches."""
    stamps = []
    began = time.process_time()
    found = fit.estimate(
        problem,
        starts=starts,
        analytic=analytic,
        lanes=lanes,
        progress=lambda _: stamps.append(time.process_time()),
    )
    first, last = stamps[0] - began, stamps[-1] - stamps[0]
    count = len(found.values)
    success, best = (100 * np.mean(found.values >= level - WITHIN) for level in (nominal, found.log_density))
    cells = (f"{nominal:.3f}", f"{found.log_density:.3f}", f"{success:.0f}", f"{best:.0f}", int(found.steps.sum()))
    program = "qspjax" if analytic is None else "qspjax, analytic"
    return (name, program, count, *cells, f"{first:.1f}", f"{last / count:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--starts", type=int)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--peer", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    head = (
        "problem",
        "program",
        "starts",
        "nominal",
        "best",
        "success %",
        "at the best %",
        "evaluations",
        "compile s",
        "s a start",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head) if arguments.markdown else "  ".join(head), flush=True)
    for name in arguments.problems:
        problem = io.read_petab(arguments.folder / name / f"{name}.yaml")
        nominal = float(jax.jit(problem.log_density)(problem.point(problem.reference)))
        starts = fit.MultiStart(arguments.starts or PROBLEMS[name], key=jax.random.key(1))
        rows = []
        for analytic in (fit.Analytic(), None):
            try:
                rows.append(ours(name, problem, nominal, starts, arguments.lanes, analytic))
            except ValueError as error:
                if "there are none" not in str(error):
                    raise
        if arguments.peer:
            reached, spent = peer(problem, starts.points(problem)[: arguments.peer])
            success = np.mean(reached >= nominal - WITHIN)
            rows.append((name, "scipy TRF", len(reached), f"{nominal:.3f}", f"{reached.max():.3f}",
                         f"{100 * success:.0f}", "", "", "", f"{spent:.3f}"))  # fmt: skip
        for row in rows:
            cells = " | ".join(map(str, row))
            print(f"| {cells} |" if arguments.markdown else cells.replace(" | ", "  "), flush=True)


if __name__ == "__main__":
    main()
