"""Sobol indices of a stiff model from ten thousand samples: how long, and how exact?

    python benchmarks/sensitivity.py [--samples 10000] [--chunk 4096] [--markdown]

Two parts. Functions with known indices (Ishigami and Sobol's g-function, 2^14 samples): the largest error of first and
total indices, ours and SALib's on the same samples. Then `tmdd` (target-mediated disposition, four doses, 85 days): the
first-order and total indices of the trough of free target and of the exposure to the drug to eight parameters, each
log-normal with a CV of 30 %: N (8 + 2) patients. Seconds are CPU seconds of the process and of the clock.
"""

import argparse
import time

import equations
import jax
import numpy as np
import problems

import qspjax as qsp
from qspjax.sensitivity import Inputs, OfModel, sobol
from qspjax.sensitivity._sobol import saltelli, sobol_of

KEY = jax.random.key(0)

VARIED = ("CL", "V", "Q", "VP", "KON", "KDEG", "KINT", "KSYN")
SIZES = np.array([0.0, 1.0, 4.5, 9.0, 99.0, 99.0, 99.0, 99.0])


def ishigami(x):
    return np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def g_function(x):
    return np.prod((np.abs(4.0 * x - 2.0) + SIZES) / (1.0 + SIZES), axis=1)


def known():
    """Return the functions with their inputs and exact indices."""
    parts = 1.0 / (3.0 * (1.0 + SIZES) ** 2)
    whole = np.prod(1.0 + parts)
    first, total = parts / (whole - 1.0), parts * whole / (1.0 + parts) / (whole - 1.0)
    angles = Inputs({name: (-np.pi, np.pi) for name in ("x1", "x2", "x3")})
    unit = Inputs({f"x{i}": (0.0, 1.0) for i in range(SIZES.size)})
    exact = np.array([0.3139, 0.4424, 0.0]), np.array([0.5576, 0.4424, 0.2437])
    return {"Ishigami": (ishigami, angles, *exact), "g-function": (g_function, unit, first, total)}


def salib(values, inputs):
    """Return the indices that SALib gives for the same outputs."""
    from SALib.analyze import sobol as oracle

    count = len(inputs.names)
    blocks = values.reshape(count + 2, -1)
    order = blocks[[0, *range(2, count + 2), 1]].T.ravel()
    problem = {"num_vars": count, "names": list(inputs.names), "bounds": [[0.0, 1.0]] * count}
    found = oracle.analyze(problem, order, calc_second_order=False, num_resamples=2)
    return found["S1"], found["ST"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()

    def table(*rows):
        for k, row in enumerate(rows):
            cells = " | ".join(map(str, row))
            print(f"| {cells} |" if arguments.markdown else cells.replace(" | ", "  "))
            if arguments.markdown and k == 0:
                print("|" + "---|" * len(row))

    rows = [("function", "largest error, first", "total", "difference to SALib")]
    for name, (function, inputs, first, total) in known().items():
        values = function(saltelli(inputs, 2**14, KEY))
        found = sobol_of(values[:, None], inputs.names, resamples=2, key=KEY)
        theirs = salib(values, inputs)
        apart = max(np.abs(found.first[:, 0] - theirs[0]).max(), np.abs(found.total[:, 0] - theirs[1]).max())
        errors = (np.abs(found.first[:, 0] - first).max(), np.abs(found.total[:, 0] - total).max())
        rows.append((name, *(f"{error:.4f}" for error in errors), f"{apart:.0e}"))
    table(*rows)

    problem = equations.problem("tmdd")
    model = problems.typical(problem)
    interval = problem.dose_times[1] - problem.dose_times[0]
    regimen = qsp.bolus(problem.dose, to="central").every(interval, doses=len(problem.dose_times))
    outputs = {
        "least target": lambda solution: solution.states.target.min(),
        "exposure": qsp.endpoints.AUC("free"),
    }
    inputs = Inputs({name: qsp.LogNormal(float(qsp.at(model, name).get()), cv=0.3) for name in VARIED})
    function = OfModel(model, regimen, problem.ts, VARIED, outputs, executor=qsp.execute.Chunked(arguments.chunk))
    function(inputs.from_unit(np.full((arguments.chunk, len(VARIED)), 0.5)))
    clock, cpu = time.perf_counter(), time.process_time()
    found = sobol(function, inputs, samples=arguments.samples, key=KEY)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    patients = arguments.samples * (len(VARIED) + 2)
    print(f"\ntmdd: {patients} patients in {clock:.1f} s ({cpu:.1f} CPU s, {1e3 * cpu / patients:.3f} ms a patient), "
          f"{found.failed} samples failed\n")  # fmt: skip
    rows = [("parameter", *(f"{kind}, {name}" for name in outputs for kind in ("first", "total")))]
    for i, name in enumerate(VARIED):
        pairs = ((found.first, found.first_error), (found.total, found.total_error))
        cells = [f"{v[i, k]:.3f} ± {e[i, k]:.3f}" for k in range(len(outputs)) for v, e in pairs]
        rows.append((name, *cells))
    table(*rows)


if __name__ == "__main__":
    main()
