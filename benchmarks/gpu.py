"""How fast is a GPU? A million patients, from how many on it beats the CPU, and single precision with its error.

    python benchmarks/gpu.py [--patients N] [--most SECONDS] [--markdown]

The problem is `tmdd` of `problems.py` (rtol 1e-6, atol 1e-9, 85 outputs of 4 states), on whatever device JAX finds
first. Figures are seconds of a call by the clock, after a first one that compiled; the CPU's are those of native lanes
on all cores, in another process. Errors are relative to a solve of the first 64 patients at rtol 1e-12, as in
`ensemble.py`. Nothing is begun that would end after the time given by `--most`, as the last figures tell.
"""

import argparse
import json
import os
import subprocess
import sys
import time

SIZES = (1_000, 10_000, 100_000, 1_000_000)
GROWTH = 12.0
"""A cohort ten times as large takes at most so many times as long."""


def measured(problem, patients, method):
    """Return the seconds of the first and of the second call, and the states of the first patients."""
    import jax
    import problems

    import qspjax as qsp

    cohort, regimen, ts = problems.cohort(problem, patients)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        solution = qsp.simulate_cohort(cohort, regimen, ts, save=problems.state_names(problem), method=method)
        jax.block_until_ready(solution.states)
        seconds.append(time.perf_counter() - began)
    first = jax.tree.map(lambda leaf: leaf[:64], solution.states)
    return seconds, first


def rows(most, largest, single):
    """Yield (precision, patients, seconds of the first call, of the second, error) in this process."""
    began = time.perf_counter()
    if single:
        os.environ["JAX_ENABLE_X64"] = "0"
    import equations
    import jax
    import numpy as np

    import qspjax as qsp

    problem = equations.problem("tmdd")
    tolerances = {"rtol": 1e-4, "atol": 1e-6} if single else {"rtol": 1e-6, "atol": 1e-9}
    expected = 0.0
    for patients in [n for n in SIZES if n < largest] + [largest]:
        if time.perf_counter() - began + expected > most:
            return
        seconds, states = measured(problem, patients, qsp.solve.Rosenbrock(**tolerances))
        expected = seconds[0] - seconds[1] + 2 * GROWTH * seconds[1]
        states = np.stack([np.asarray(leaf, float) for leaf in jax.tree.leaves(states)], axis=-1)
        yield "float32" if single else "float64", patients, *seconds, states.tolist()


def reference():
    """Return the states of the first 64 patients at rtol 1e-12."""
    import equations
    import jax
    import numpy as np

    import qspjax as qsp

    problem = equations.problem("tmdd")
    _, states = measured(problem, 64, qsp.solve.Rosenbrock(rtol=1e-12, atol=1e-14, max_steps=10**6))
    return problem, np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(states)], axis=-1)


def worker(arguments):
    """Print the rows of this process as JSON, one a line."""
    import jax

    print(json.dumps({"device": jax.devices()[0].device_kind}), flush=True)
    for row in rows(arguments.most, arguments.patients, arguments.worker == "float32"):
        print(json.dumps(row), flush=True)


def answers(arguments, precision, platform, most):
    """Return the device and the rows of a fresh process."""
    command = [sys.executable, __file__, "--worker", precision, "--most", str(most)]
    environment = {**os.environ, **({"JAX_PLATFORMS": "cpu"} if platform == "cpu" else {})}
    command += ["--patients", str(arguments.patients)]
    lines = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    device, *found = (json.loads(line) for line in lines if line.startswith(("{", "[")))
    return device["device"], found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=SIZES[-1], help="size of the largest cohort")
    parser.add_argument("--most", type=float, default=450.0, help="seconds that everything may take")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--worker", choices=("float32", "float64"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    began = time.perf_counter()
    table = []
    for precision, platform, share in (("float64", "any", 0.5), ("float32", "any", 0.5), ("float64", "cpu", 0.8)):
        left = arguments.most - (time.perf_counter() - began)
        device, found = answers(arguments, precision, platform, share * left)
        table += [(device, *row) for row in found]
        if platform == "any" and device == "cpu":
            print("no GPU was found: these are figures of the CPU", file=sys.stderr)
            break
    problem, exact = reference()
    join = " | " if arguments.markdown else "  "
    edge = "|" if arguments.markdown else ""
    print(edge, join.join(("device", "precision", "patients", "first s", "s", "patients/s", "error")), edge)
    if arguments.markdown:
        print("|--|--|--:|--:|--:|--:|--:|")
    for device, precision, patients, first, second, states in table:
        cells = device, precision, f"{patients}", f"{first:.2f}", f"{second:.3f}", f"{patients / second:.0f}"
        print(edge, join.join((*cells, f"{problem.error(states, exact):.0e}")), edge)


if __name__ == "__main__":
    main()
