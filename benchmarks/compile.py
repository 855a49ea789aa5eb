"""How long a user waits for the first result: a fresh process, import included, with and without a warm cache.

    python benchmarks/compile.py [--problems tmdd qsp30 qsp500] [--patients N] [--markdown] [--save FILE.json]

Each row is a new `python` that imports qspjax, builds the cohort and simulates it: CPU seconds of the whole process
(every thread, from the operating system) and wall seconds, then where the wall seconds went: importing, preparing (the
cohort and its regimen), tracing and lowering, compiling, and running (a second call). The first of two rows starts with
an empty compilation cache, the second finds what the first left: tracing is never cached.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equations
from ensemble import OURS, machine, table

PATIENTS = {"pk2": 1000, "tmdd": 1000, "qsp30": 100, "qsp150": 50, "qsp500": 20}

CHILD = """
import json, sys, time
begun = time.perf_counter()
import jax
import qspjax as qsp
imported = time.perf_counter()

spent = {}
def listen(event, seconds, **_):
    spent[event] = spent.get(event, 0.0) + seconds
jax.monitoring.register_event_duration_secs_listener(listen)

sys.path.insert(0, sys.argv[1])
import equations, problems
problem = equations.problem(sys.argv[2])
cohort, regimen, ts = problems.cohort(problem, int(sys.argv[3]))
keep = problems.state_names(problem)
own = getattr(qsp.solve, sys.argv[4], qsp.solve.Diffrax)
chosen = own(rtol=1e-6, atol=1e-9) if sys.argv[5] == "tolerances" else own()
def solve():
    solution = qsp.simulate_cohort(cohort, regimen, ts, save=keep, method=chosen)
    return jax.block_until_ready((solution.states, solution.stats))
jax.block_until_ready((cohort, regimen))
prepared = time.perf_counter()
spent.clear()
solve()
first = time.perf_counter()
compiling = spent.get("/jax/core/compile/backend_compile_duration", 0.0)
solve()
second = time.perf_counter()
run = second - first
parts = {"import": imported - begun, "prepare": prepared - imported, "compile": compiling, "run": run}
parts["trace"] = max(first - prepared - compiling - run, 0.0)
print(json.dumps(parts))
"""


def fresh(name, patients, cache):
    """Run one fresh process; return its CPU and wall seconds and the parts it reports."""
    own = OURS[name][-1]
    exact = "exact" if own == "MatrixExponential" else "tolerances"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), name, str(patients), own, exact]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "QSPJAX_CACHE": str(Path(cache) / "qspjax"),
    }
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": wall, **json.loads(done.stdout.splitlines()[-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=equations.NAMES, default=["tmdd", "qsp30", "qsp500"])
    parser.add_argument("--patients", type=int, help="at most so many patients")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    saved = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in saved["machine"].items()), end="\n\n")
    parts = ("import", "prepare", "trace", "compile", "run")
    lines = []
    for name in arguments.problems:
        patients = min(PATIENTS[name], arguments.patients or PATIENTS[name])
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "filled"):
                print(f"{name}, cache {state} ...", file=sys.stderr, flush=True)
                row = fresh(name, patients, cache)
                saved[f"{name}, cache {state}"] = {"patients": patients, **row}
                cells = [f"{row[key]:.1f}" for key in ("cpu", "wall")] + [f"{row[key]:.2f}" for key in parts]
                lines.append([name, len(equations.problem(name).states), patients, state, *cells])
    head = ["problem", "states", "patients", "cache", "CPU s", "wall s", *(f"{part} s" for part in parts)]
    table(head, lines, markdown=arguments.markdown)
    if arguments.save:
        arguments.save.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
