"""Compiled programs on the reference problems, in an environment of their own (no jax, no qspjax needed).

    python benchmarks/peers.py numbalsoda tmdd [--patients 1000] [--reference FILE.npy]
    python benchmarks/peers.py reference tmdd --write FILE.npy

The first form prints CPU and wall milliseconds a patient, best of three after a warm-up; `ensemble.py` runs it with
`--serve` instead, and then each line on standard input is one repetition. The second writes a reference at rtol 1e-12.

- `numbalsoda`: LSODA in C++, the right-hand side compiled by numba, the loop over patients compiled too.
- `roadrunner`: libroadrunner, CVODE, the model compiled by LLVM from SBML; doses are events.
- `scipy`: `odeint` (LSODA in C), the right-hand side compiled by numba.
- `scipy-python`: the same with the right-hand side in plain Python.
"""

import argparse
import json
import re
import resource
import sys
import time
from pathlib import Path

import equations
import numpy as np

RTOL, ATOL = 1e-6, 1e-9

PATIENTS = {
    "numbalsoda": {"pk2": 1000, "tmdd": 1000, "qsp30": 50, "qsp150": 8, "qsp500": 2},
    "roadrunner": {"pk2": 500, "tmdd": 500, "qsp30": 50, "qsp150": 16, "qsp500": 4},
    "scipy": {"pk2": 100, "tmdd": 100, "qsp30": 10, "qsp150": 4, "qsp500": 1},
    "scipy-python": {"pk2": 20, "tmdd": 20, "qsp30": 4},
}
"""How many patients each program computes, where nothing else is asked; what is missing takes too long."""


def numbalsoda(problem):
    """Return (parameters, doses) -> states; every patient and dose interval in one compiled loop."""
    import numba
    from numbalsoda import lsoda, lsoda_sig

    rhs, start = problem.functions(inplace=True)
    compiled = numba.njit(rhs)
    size, width = len(problem.states), len(problem.parameters)
    dosed, segments = problem.states.index(problem.dose_to), problem.segments()

    @numba.cfunc(lsoda_sig)
    def field(t, y, dy, p):
        compiled(t, numba.carray(y, (size,)), numba.carray(dy, (size,)), numba.carray(p, (width,)))

    address, times = field.address, len(problem.ts)
    lengths = np.array([1 + len(outputs) for _, _, outputs in segments])
    grids = np.zeros((len(segments), lengths.max()))
    for grid, (a, _, outputs) in zip(grids, segments, strict=True):
        grid[: 1 + len(outputs)] = [a, *problem.ts[outputs]]
    first = np.array([outputs[0] for _, _, outputs in segments])

    @numba.njit
    def loop(address, grids, lengths, initial, parameters, doses, states):
        failed = 0
        for i in range(parameters.shape[0]):
            y = initial[i].copy()
            for j in range(lengths.size):
                y[dosed] += doses[i]
                if j == 0:
                    states[i, 0] = y
                grid = grids[j, : lengths[j]].copy()
                solution, success = lsoda(address, y, grid, parameters[i], RTOL, ATOL, 100_000)
                failed += not success
                states[i, first[j] : first[j] + grid.size - 1] = solution[1:]
                y = solution[-1].copy()
        return failed

    def run(parameters, doses):
        states = np.full((len(parameters), times, size), np.nan)
        initial = np.array([start(p) for p in parameters])
        failed = loop(address, grids, lengths, initial, np.ascontiguousarray(parameters), doses, states)
        return states, failed

    return run


def roadrunner(problem):
    """Return (parameters, doses) -> states; one model, its values set anew for every patient."""
    import roadrunner

    roadrunner.Logger.setLevel(roadrunner.Logger.LOG_ERROR)
    model = roadrunner.RoadRunner(_sbml(problem))
    model.integrator.relative_tolerance, model.integrator.absolute_tolerance = RTOL, ATOL
    model.integrator.setValue("maximum_num_steps", 200_000)
    model.timeCourseSelections = [f"[{name}_]" for name in problem.states]
    known, floating = list(model.model.getGlobalParameterIds()), list(model.model.getFloatingSpeciesIds())
    which = np.array([known.index(name) for name in (*problem.parameters, "DOSE_")], dtype=np.int32)
    species = np.array([floating.index(f"{name}_") for name in problem.states], dtype=np.int32)
    _, start = problem.functions(inplace=False)
    dosed, ts = problem.states.index(problem.dose_to), problem.ts

    def run(parameters, doses):
        states, failed = np.full((len(parameters), len(ts), len(problem.states)), np.nan), 0
        for i, (p, dose) in enumerate(zip(parameters, doses, strict=True)):
            model.reset(roadrunner.SelectionRecord.TIME)
            model.model.setGlobalParameterValues(which, np.append(p, dose))
            y = np.array(start(p), dtype=float)
            y[dosed] += dose
            model.model.setFloatingSpeciesConcentrations(species, y)
            try:
                states[i] = model.simulate(float(ts[0]), float(ts[-1]), len(ts))
            except RuntimeError:
                failed += 1
        return states, failed

    return run


def _sbml(problem):
    import antimony

    def text(expression):
        return re.sub(r"\b(" + "|".join(problem.states) + r")\b", r"\1_", expression)

    lines = [f"model {problem.name}", "compartment c_; c_ = 1;"]
    lines += [f"species {name}_ in c_; {name}_ = {problem.initial.get(name, '0.0')};" for name in problem.states]
    lines += [f"{name} = {value!r};" for name, value in problem.parameters.items()]
    lines += [f"DOSE_ = {problem.dose!r};"]
    lines += [f"J_{name}: => {name}_; {text(rhs)};" for name, rhs in problem.rhs.items()]
    to = f"{problem.dose_to}_"
    lines += [f"E{i}: at (time >= {t}): {to} = {to} + DOSE_;" for i, t in enumerate(problem.dose_times[1:])]
    if antimony.loadAntimonyString("\n".join([*lines, "end"])) < 0:
        raise RuntimeError(antimony.getLastError())
    return antimony.getSBMLString(problem.name)


def scipy(problem, *, compiled=True, rtol=RTOL, atol=ATOL):
    """Return (parameters, doses) -> states; `odeint`, one call a dose interval."""
    from scipy.integrate import odeint

    rhs, start = problem.functions(inplace=compiled)
    size, dosed, segments = len(problem.states), problem.states.index(problem.dose_to), problem.segments()
    if compiled:
        import numba

        inner = numba.njit(rhs)

        @numba.njit
        def rhs(t, y, p):
            dy = np.empty(size)
            inner(t, y, dy, p)
            return dy

    def run(parameters, doses):
        states, failed = np.full((len(parameters), len(problem.ts), size), np.nan), 0
        for i, (p, dose) in enumerate(zip(parameters, doses, strict=True)):
            y, given = np.array(start(p), dtype=float), p if compiled else p.tolist()
            for j, (a, _, outputs) in enumerate(segments):
                y[dosed] += dose
                if j == 0:
                    states[i, 0] = y
                grid = np.append(a, problem.ts[outputs])
                solution, info = odeint(
                    rhs, y, grid, (given,), rtol=rtol, atol=atol, tfirst=True, mxstep=500_000, full_output=True
                )
                failed += info["message"] != "Integration successful."
                states[i, outputs], y = solution[1:], solution[-1].copy()
        return states, failed

    return run


PEERS = {
    "numbalsoda": numbalsoda,
    "roadrunner": roadrunner,
    "scipy": scipy,
    "scipy-python": lambda problem: scipy(problem, compiled=False),
}
LABELS = {
    "numbalsoda": "numbalsoda (compiled LSODA)",
    "roadrunner": "libroadrunner (LLVM, CVODE)",
    "scipy": "scipy LSODA, numba right-hand side",
    "scipy-python": "scipy LSODA, Python right-hand side",
}


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(run, patients):
    """Answer each line with one repetition as a line of JSON; `states FILE.npy` writes what the last one gave."""
    states = None
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "states":
            np.save(rest[0], states)
            print(json.dumps({}), flush=True)
            continue
        start, begun = cpu(), time.perf_counter()
        states, failed = run(*patients)
        answer = {"cpu": cpu() - start, "wall": time.perf_counter() - begun, "failed": int(failed)}
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=[*PEERS, "reference"])
    parser.add_argument("problem", choices=equations.NAMES)
    parser.add_argument("--patients", type=int)
    parser.add_argument("--reference", type=Path, help="compare with this file")
    parser.add_argument("--write", type=Path, help="write the states of the reference")
    parser.add_argument("--serve", action="store_true", help="answer lines on standard input")
    arguments = parser.parse_args()
    problem = equations.problem(arguments.problem)
    if arguments.peer == "reference":
        run = scipy(problem, rtol=1e-12, atol=1e-14)
        states, failed = run(*problem.population(arguments.patients or problem.referenced))
        if failed:
            raise RuntimeError(f"The reference of {problem.name} failed in {failed} intervals.")
        np.save(arguments.write, states)
        return
    n = arguments.patients or PATIENTS[arguments.peer][problem.name]
    run, patients = PEERS[arguments.peer](problem), problem.population(n)
    begun = time.perf_counter()
    run(*(array[:2] for array in patients))  # compiles
    first = time.perf_counter() - begun
    if arguments.serve:
        print(json.dumps({"first": first, "patients": n}), flush=True)
        serve(run, patients)
        return
    times = []
    for _ in range(3):
        start, begun = cpu(), time.perf_counter()
        states, failed = run(*patients)
        times.append((cpu() - start, time.perf_counter() - begun))
    best_cpu, best_wall = (1e3 * min(column) / n for column in zip(*times, strict=True))
    error = ""
    if arguments.reference:
        error = f", error {problem.error(states, np.load(arguments.reference)):.0e}"
    print(
        f"{problem.name}, {LABELS[arguments.peer]}: {n} patients, {best_cpu:.3f} ms CPU and {best_wall:.3f} ms wall "
        f"a patient, {failed} failed, first call {first:.1f} s{error}"
    )


if __name__ == "__main__":
    main()
