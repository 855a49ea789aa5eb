"""How often and how fast does a search from random starts find the best fit? Beside scipy on the same starts.

    python benchmarks/multistart.py FOLDER [--problems NAME ...] [--starts 50] [--lanes 16] [--peer 5]
        [--amici PYTHON] [--markdown]

FOLDER holds PEtab problems, one a folder. Starts are a Latin hypercube within the bounds of the table of parameters, on
its scale. A start succeeds that ends within 0.1 of the log density at the nominal (published) parameters, or above;
beside that, how many end within 0.1 of the best of all. Where scales, offsets and noise parameters can be solved for,
a second row has them searched too.
The peer is `scipy.optimize.least_squares` (trust region reflective), start after start, on the same residuals (those of
the data, and the square root of 2 log sd + a constant) with our sensitivities; it counts for the first `--peer` starts.
`--amici` names the Python of an environment with AMICI, pyPESTO and fides, which search from all starts (see
`multistart_amici.py`). Seconds are CPU seconds, compilation apart (of AMICI: C++ with its compiler).
"""

import argparse
import json
import subprocess
import tempfile
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


def amici(python, yaml, problem, starts):
    """Return what AMICI with fides reaches from each start, and its seconds: see `multistart_amici.py`."""
    script = Path(__file__).with_name("multistart_amici.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "starts.json"
        file.write_text(json.dumps({"names": list(problem.names), "points": starts.tolist()}))
        ended = subprocess.run([python, "-P", script, yaml, file], check=True, capture_output=True, text=True)
    return json.loads(ended.stdout.splitlines()[-1])


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
    each = f"{1e3 * last / found.steps.sum():.2f}"
    program = "qspjax" if analytic is None else "qspjax, analytic"
    return (name, program, count, *cells, each, f"{first:.1f}", f"{last / count:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--starts", type=int)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--peer", type=int, default=0)
    parser.add_argument("--amici", metavar="PYTHON")
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
        "ms an evaluation",
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
                         f"{100 * success:.0f}", "", "", "", "", f"{spent:.3f}"))  # fmt: skip
        if arguments.amici:
            yaml = arguments.folder / name / f"{name}.yaml"
            found = amici(arguments.amici, yaml, problem, starts.points(problem))
            reached, level = np.array(found["reached"]), max(nominal, *(float(row[4]) for row in rows))
            success, best = (100 * np.mean(reached >= limit - WITHIN) for limit in (nominal, level))
            rows.append((name, "AMICI, fides", len(reached), f"{nominal:.3f}", f"{reached.max():.3f}",
                         f"{success:.0f}", f"{best:.0f}", "", f"{found['evaluation']:.2f}", f"{found['build']:.1f}",
                         f"{found['search'] / len(reached):.3f}"))  # fmt: skip
        for row in rows:
            cells = " | ".join(map(str, row))
            print(f"| {cells} |" if arguments.markdown else cells.replace(" | ", "  "), flush=True)


if __name__ == "__main__":
    main()
