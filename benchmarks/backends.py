"""Do native code and XLA give the same trajectories of published models? And how long does the first result take?

    python benchmarks/backends.py FOLDER [--models ID ...] [--every N] [--limit 300] [--keep FOLDER] [--markdown]

FOLDER holds `models/ID.xml`, `reference/ID.csv` (its first column has 51 times) and `index.csv`. Each model is read and
simulated at every third of these times in two fresh processes without a compilation cache, one for each backend, at
rtol 1e-9. Trajectories agree where no value differs by more than 1e-7 of itself or of 1e-6 of its peak, whichever is
more, and the numbers of steps by no more than 2 %. Where they do not, XLA solves the model twice more, and the second
time optimised, from a state that is moved by one unit in the last place: what moves as much is no fault ("sensitive").

CPU seconds are those of reading the file and of the first `qsp.simulate`, at its defaults, without the imports.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

RTOL, ATOL = 1e-9, 1e-12  # the absolute tolerance counts in the nominal sizes of the states
SAME, SMALL, STEPS = 1e-7, 1e-6, 0.02
QUICK = {"xla_backend_optimization_level": 0}


def load(folder, name):
    """Return a model, and the times to report."""
    import qspjax as qsp

    with (folder / "reference" / f"{name}.csv").open() as file:
        times = [float(row[0]) for row in list(csv.reader(file))[1:]]
    return qsp.io.read_sbml(folder / "models" / f"{name}.xml"), times[::3]


def first(folder, name):
    """Return the CPU seconds to the first result of a user, and how the model is compiled."""
    import qspjax as qsp
    from qspjax.solve.native import compilations

    assert qsp.io.read_sbml is not None
    assert qsp.simulate is not None
    begun = time.process_time()
    model, times = load(folder, name)
    with compilations() as solves:
        solution = qsp.simulate(model, qsp.no_doses(), times, throw=False)
    np.asarray(solution.ts), [np.asarray(x) for x in solution.observed.values()]
    taken = time.process_time() - begun
    reasons = [solve.reason for solve in solves if solve.reason is not None]
    return {"seconds": taken, "solves": len(solves), "reason": reasons[0] if reasons else None}


def tight(folder, name, start=None, options=QUICK):
    """Return the trajectory and the number of steps, from the initial state or what a function makes of it."""
    import jax

    import qspjax as qsp

    model, times = load(folder, name)
    method = qsp.solve.Rosenbrock(rtol=RTOL, atol=ATOL, max_steps=400_000)

    def solve(model, initial):
        return qsp.simulate(model, qsp.no_doses(), times, method=method, initial=initial, throw=False)

    state = None if start is None else start(model.initial())
    solution = jax.jit(solve).lower(model, state).compile(compiler_options=options)(model, state)
    return {
        "values": np.stack([np.asarray(x) for x in solution.observed.values()]).tolist(),
        "names": list(solution.observed),
        "steps": int(solution.stats["steps"]),
        "result": int(solution.result._value),
    }


def moved(state):
    """Return a state moved by one unit in the last place."""
    import jax

    def move(x):
        values = np.asarray(x, float)
        return np.where(values == 0.0, values, np.nextafter(values, np.copysign(np.inf, values)))

    return jax.tree.map(move, state)


def run(folder, name, role):
    """Return what a process of a role finds."""
    import qspjax as qsp

    try:
        if role == "sensitivity":
            return {"pair": [tight(folder, name, lambda state: state), tight(folder, name, moved, options={})]}
        about = first(folder, name) if role == "native" else {}
        if about.get("reason") is None and about.get("solves", 1):
            about["solution"] = tight(folder, name)
        return about
    except qsp.io.FileIssues as issues:
        return {"refused": issues.issues[0].message}


def apart(folder, name, role, limit):
    """Return what a process of its own finds."""
    command = [sys.executable, __file__, str(folder), "--worker", name, role]
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    drop = ("JAX_COMPILATION_CACHE_DIR", "QSPJAX_BACKEND")
    environment = {key: value for key, value in os.environ.items() if key not in drop}
    environment |= {"XLA_FLAGS": flags, "QSPJAX_CACHE": "off"}
    if role in ("xla", "sensitivity"):
        environment["QSPJAX_BACKEND"] = "xla"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"refused": f"takes longer than {limit:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"defect": f"{done.returncode}: {lines[-1] if lines else ''}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def difference(one, other):
    """Return the largest difference of two trajectories in units of what is the same, and where it is."""
    a, b = np.array(one["values"], float), np.array(other["values"], float)
    with np.errstate(invalid="ignore"):
        peak = np.nanmax(np.abs(np.where(np.isfinite(b), b, np.nan)), axis=1, initial=0.0)[:, None]
        ratio = np.abs(a - b) / (SAME * np.maximum(np.abs(b), SMALL * peak) + 1e-300)
    ratio = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, ratio)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    worst = int(ratio.max(axis=1).argmax()) if ratio.size else 0
    return float(ratio.max(initial=0.0)), one["names"][worst] if ratio.size else ""


def compare(folder, name, limit, keep):
    """Return how a model is compiled, how long that takes, and whether both backends agree."""
    found = keep / f"{name}.json"
    if not found.exists():
        found.write_text(json.dumps(compared(folder, name, limit)))
    return json.loads(found.read_text())


def compared(folder, name, limit):
    """Return what `compare` does."""
    about = apart(folder, name, "native", limit)
    native = about.pop("solution", None)
    if native is None:
        failed = next((key for key in ("refused", "defect") if key in about), None)
        return {"outcome": failed or ("XLA" if about["solves"] else "exact"), **about}
    other = apart(folder, name, "xla", limit)
    if "solution" not in other:
        return {"outcome": "not compared", **about, **other}
    xla = other["solution"]
    worst, where = difference(native, xla)
    apart_by = abs(native["steps"] - xla["steps"]) / max(xla["steps"], 1)
    about |= {"worst": worst, "where": where, "steps": [native["steps"], xla["steps"]]}
    if worst <= 1.0 and apart_by <= STEPS and native["result"] == xla["result"]:
        return {"outcome": "same", **about}
    pair = apart(folder, name, "sensitivity", limit).get("pair")
    if pair is None:
        return {"outcome": "differs", **about}
    moves, _ = difference(*pair)
    steps = [x["steps"] for x in pair]
    tolerable = max(STEPS, 5 * abs(steps[0] - steps[1]) / max(steps[0], 1))
    sensitive = worst <= max(1.0, 10 * moves) and apart_by <= tolerable
    return {"outcome": "sensitive" if sensitive else "differs", "moves": moves, "moved_steps": steps, **about}


def report(results, markdown):
    """Print a summary."""
    outcomes = Counter(result["outcome"] for result in results.values())
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    for reason, count in Counter(r["reason"] for r in results.values() if r.get("reason")).most_common():
        print(f"XLA {count} times: {reason}")
    native = sorted(r["seconds"] for r in results.values() if "seconds" in r and r["reason"] is None)
    every = sorted(r["seconds"] for r in results.values() if "seconds" in r)
    line = "| {} |" if markdown else "{}"
    join = " | " if markdown else "  "
    head = ("compiled", "models", "median CPU s", "90 %", "largest")
    print(line.format(join.join(head)))
    if markdown:
        print("|" + "---|" * len(head))
    for name, seconds in (("natively", native), ("all", every)):
        if seconds:
            cells = [name, len(seconds), *(f"{x:.2f}" for x in
                     (statistics.median(seconds), np.quantile(seconds, 0.9), seconds[-1]))]  # fmt: skip
            print(line.format(join.join(map(str, cells))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="take every N-th row of the index")
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--keep", type=Path, help="where to keep the results, from which a later call goes on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run(arguments.folder, *arguments.worker)))
        return
    with (arguments.folder / "index.csv").open() as file:
        names = arguments.models or [row["id"] for row in csv.DictReader(file)][:: arguments.every]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        keep = arguments.keep or Path(temporary)
        keep.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(arguments.processes) as pool:
            waiting = {pool.submit(compare, arguments.folder, name, arguments.limit, keep): name for name in names}
            for done in as_completed(waiting):
                name = waiting[done]
                results[name] = result = done.result()
                if result["outcome"] != "same":
                    rest = {key: value for key, value in result.items() if key not in ("outcome", "solves")}
                    print(f"{name} {result['outcome']}: {rest}", flush=True)
    report(results, arguments.markdown)


if __name__ == "__main__":
    main()
