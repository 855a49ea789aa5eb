"""Do published models give what two other simulators agree on? Each BioModels file, read, simulated and compared.

    python benchmarks/biomodels.py FOLDER [--models ID ...] [--limit 120] [--markdown]

FOLDER holds `models/ID.xml`, `reference/ID.csv` (concentrations at 51 times on which libroadrunner and COPASI agree)
and `index.csv` (with a theme for each model). A model passes if |got - reference| <= 1e-3 (1e-3 max |reference| +
|reference|) for every value. Each runs in a process of its own, two at a time, so that one that takes longer than the
limit costs only itself; CPU seconds are those of reading, compiling and simulating, without the imports.
"""

import argparse
import collections
import concurrent.futures
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RTOL, ATOL = 1e-8, 1e-10  # the absolute tolerance counts in the nominal sizes of the states
ROUNDING = 1e-18
"""A reference below this where the value here is exactly 0 is what rounding left of 0 (two models, both signs)."""


def run(folder, name):
    """Read, simulate and compare one model; return the outcome, its reason and the CPU time."""
    import jax
    import jax.numpy as jnp

    import qspjax as qsp

    with (folder / "reference" / f"{name}.csv").open() as file:
        header, *rows = csv.reader(file)
    reference = np.array(rows, float)
    assert qsp.io.read_sbml is not None
    begun = time.process_time()
    try:
        model = qsp.io.read_sbml(folder / "models" / f"{name}.xml")
    except qsp.io.FileIssues as issues:
        return "refused", issues.issues[0].message, time.process_time() - begun
    wanted = tuple(header[1:])
    peak = np.abs(reference[:, 1:]).max(axis=0)
    method = qsp.solve.Rosenbrock(rtol=RTOL, atol=ATOL, max_steps=400_000)
    definition = model.definition
    places = {name: definition.compartment_of(name) for name in wanted if name in definition.species}
    in_amount = {name: place for name, place in places.items() if definition.in_amount(name)}
    in_amount = {name: place for name, place in in_amount.items() if place in definition.compartments}

    def solve(model, ts):
        save = tuple(dict.fromkeys((*wanted, *in_amount.values())))
        return qsp.simulate(model, qsp.no_doses(), ts, method=method, throw=False, save=save)

    ts = jnp.asarray(reference[:, 0])
    compiled = jax.jit(solve).lower(model, ts).compile(compiler_options={"xla_backend_optimization_level": 0})
    solution = compiled(model, ts)
    taken = time.process_time() - begun
    if solution.result != qsp.RESULTS.successful:
        (failure,) = solution.failures()
        return "refused", f"not solved, {failure.state} at {failure.time:g}: {failure.reason[:60]}", taken
    worst, where = 0.0, ""
    for k, column in enumerate(wanted):
        got, exact = np.asarray(solution.observed[column]), reference[:, k + 1]
        if column in in_amount:
            got = got / np.asarray(solution.observed[in_amount[column]])
        ratio = np.abs(got - exact) / (1e-3 * (1e-3 * peak[k] + np.abs(exact)) + 1e-300)
        same = (got == exact) | ((got == 0.0) & (np.abs(exact) < ROUNDING))
        ratio = np.where(same, 0.0, ratio)
        if not ratio.max() <= worst:
            worst, where = float(ratio.max()), column
    return ("pass", "", taken) if worst <= 1.0 else ("wrong", f"{where} is off by {worst:.3g} tolerances", taken)


def apart(folder, name, limit):
    """Run one model in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--worker", name]
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False,
                              env={**os.environ, "XLA_FLAGS": flags})  # fmt: skip
    except subprocess.TimeoutExpired:
        return "refused", f"takes longer than {limit:g} s", limit
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return "refused", f"defect: {lines[-1] if lines else done.returncode}", 0.0
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run(arguments.folder, arguments.worker)))
        return
    with (arguments.folder / "index.csv").open() as file:
        themes = {row["id"]: row["theme"] for row in csv.DictReader(file)}
    names = arguments.models or sorted(themes)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = {pool.submit(apart, arguments.folder, name, arguments.limit): name for name in names}
        for done in concurrent.futures.as_completed(waiting):
            name = waiting[done]
            results[name] = done.result()
            outcome, reason, seconds = results[name]
            if outcome != "pass":
                print(f"{name} {outcome}: {reason} ({seconds:.0f} s)", flush=True)
    line = "| {} |" if arguments.markdown else "{}"
    join = " | " if arguments.markdown else "  "
    head = ("theme", "models", "pass", "refused", "wrong", "median CPU s")
    print(line.format(join.join(head)))
    if arguments.markdown:
        print("|" + "---|" * len(head))
    for theme in sorted({themes[name] for name in results}):
        own = [results[name] for name in results if themes[name] == theme]
        count = collections.Counter(outcome for outcome, _, _ in own)
        cells = [theme, len(own), count["pass"], count["refused"], count["wrong"],
                 f"{statistics.median(seconds for _, _, seconds in own):.1f}"]  # fmt: skip
        print(line.format(join.join(map(str, cells))))
    count = collections.Counter(outcome for outcome, _, _ in results.values())
    print(f"{count['pass']} pass, {count['refused']} refused, {count['wrong']} wrong")


if __name__ == "__main__":
    main()
