"""Irregular records against one common record: 10,000 subjects, each with doses and samples at times of its own.

    python benchmarks/records.py [--subjects 10000]

The common record is one dose table and one set of samples for all subjects, at times drawn once. The irregular ones
have as many doses and samples on average, but every subject has other times, other amounts and another number of them,
as a data set of a trial has. `kinds` are doses of several kinds: a steady state, infusions, boluses, resets. On a
regular `grid` intervals repeat, and a linear model computes its matrices seldom. Times are CPU seconds of the first and
the best later run; errors are those of the first subjects against a run at tight tolerances.
"""

import argparse
import dataclasses
import platform
import time

import equations
import jax
import numpy as np
import problems

import qspjax as qsp
from qspjax._dosing._regimen import Action, Regimen, table

DOSES, SAMPLES = 4, 16


def grid(span, subjects):
    """Return doses and samples on a regular grid, which all subjects share."""
    del subjects
    regimen = qsp.bolus(1.0, to=0).every(span / (DOSES + 1), doses=DOSES)
    return regimen, np.linspace(span / SAMPLES, span, SAMPLES)


def common(span, subjects):
    """Return doses and samples at irregular times, which all subjects share."""
    del subjects
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(0.0, 0.8 * span, DOSES))
    time[0] = 0.0
    return table((0,), time=time, amount=np.ones(DOSES)), np.sort(rng.uniform(0.0, span, SAMPLES))


def irregular(span, subjects):
    """Return doses and samples of every subject: other times, amounts and numbers."""
    rng = np.random.default_rng(1)
    count = rng.integers(1, 2 * DOSES, subjects)
    time = np.sort(rng.uniform(0.0, 0.8 * span, (subjects, 2 * DOSES - 1)), axis=1)
    time[:, 0] = 0.0
    time = np.where(np.arange(time.shape[1]) < count[:, None], time, np.inf)
    amount = rng.lognormal(0.0, 0.3, time.shape)
    seen = rng.integers(SAMPLES // 2, SAMPLES + SAMPLES // 2 + 1, subjects)
    ts = np.sort(rng.uniform(0.0, span, (subjects, SAMPLES + SAMPLES // 2)), axis=1)
    ts = np.where(np.arange(ts.shape[1]) < seen[:, None], ts, np.inf)
    return table((0,), time=time, amount=amount), ts


def common_kinds(span, subjects):
    """Return doses of several kinds that all subjects share: from a steady state on, an infusion, a reset, a bolus."""
    steady, ts = qsp.bolus(1.0, to=0).every(span / 8, doses=1).at_steady_state(), common(span, subjects)[1]
    infusion = qsp.infusion(1.0, to=0, over=span / 40, at=0.3 * span)
    return steady + infusion + qsp.reset(at=0.55 * span) + qsp.bolus(1.0, to=0, at=0.6 * span), ts


def irregular_kinds(span, subjects):
    """Return irregular doses of these kinds: a steady state at first, infusions, boluses, a reset for every second."""
    rng = np.random.default_rng(2)
    regimen, ts = irregular(span, subjects)
    time = np.asarray(regimen.time)
    kind = rng.choice([Action.BOLUS, Action.INFUSION_OVER], time.shape)
    first = np.broadcast_to(np.arange(time.shape[1]) == 0, time.shape)
    resets = (np.arange(subjects)[:, None] % 2 == 1) & (np.arange(time.shape[1]) == 2)
    kind = np.where(resets, Action.RESET, np.where(first, Action.BOLUS, kind))
    interval = np.where(first, span * rng.uniform(0.08, 0.17, (subjects, 1)), 0.0)
    columns = {"kind": kind, "steady": first.astype(int), "interval": interval}
    columns["duration"] = np.full(time.shape, span / 40)
    return table((0,), time=time, amount=np.asarray(regimen.amount), **columns), ts


GROUPS = ((common, irregular, grid), (common_kinds, irregular_kinds))
"""Records to compare, each with the first of its group."""


def scaled(regimen, dose):
    return dataclasses.replace(regimen, amount=regimen.amount * dose)


def run(problem, make, subjects, method):
    """Return CPU seconds of the first and the best later run, steps, and the solution."""
    span = float(problem.ts[-1])
    cohort, _, _ = problems.cohort(problem, subjects)
    regimen, ts = make(span, subjects)
    regimen: Regimen = scaled(regimen, problem.dose)
    times, solution = [], None
    for _ in range(4):
        start = time.process_time()
        solution = qsp.simulate_cohort(cohort, regimen, ts, save=problems.state_names(problem), method=method)
        jax.block_until_ready((solution.states, solution.stats))
        times.append(time.process_time() - start)
    return times[0], min(times[1:]), solution


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--subjects", type=int, default=10_000)
    arguments = parser.parse_args()
    print(f"{arguments.subjects} subjects; {platform.machine()}, jax {jax.__version__}\n")
    print("| problem | records | method | first, CPU s | later, CPU s | ratio | steps | failed | error |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, method in (("pk2", None), ("pk2", qsp.solve.Rosenbrock()), ("tmdd", None)):
        for group in GROUPS:
            base = None
            for make in group:
                base = show(name, make, method, arguments.subjects, base)


def show(name, make, method, subjects, base):
    """Print a row; return the time that it is compared with."""
    problem = equations.problem(name)
    first, later, solution = run(problem, make, subjects, method)
    base = base or later
    few = min(200, subjects)
    tight = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
    _, _, exact = run(problem, lambda span, _: _first(*make(span, subjects), few), few, tight)
    steps, failed = np.mean(solution.stats["steps"]), int(np.sum(solution.failed))
    row = (name, make.__name__.replace("_", " "), solution.labels.method, f"{first:.1f}", f"{later:.2f}")
    cells = (*row, f"{later / base:.2f}", f"{steps:.0f}", failed, f"{worst(solution, exact, few):.0e}")
    print("|", " | ".join(map(str, cells)), "|", flush=True)
    return base


def _first(regimen, ts, few):
    """Return the records of the first few subjects."""
    one = regimen.ndims()
    regimen = jax.tree.map(lambda leaf, ndim: leaf[:few] if leaf.ndim > ndim else leaf, regimen, one)
    return regimen, ts[:few] if ts.ndim > 1 else ts


def worst(solution, exact, few):
    """Return the greatest error of the first few, relative to the peak of each state."""
    errors = []
    for got, want in zip(jax.tree.leaves(solution.states), jax.tree.leaves(exact.states), strict=True):
        got, want = np.asarray(got)[:few], np.asarray(want)
        errors.append(np.nanmax(np.abs(got - want)) / np.nanmax(np.abs(want)))
    return max(errors)


if __name__ == "__main__":
    main()
