"""Plausible patients of two models: how many simulations each, how different they are, and which means they reach.

    python benchmarks/plausible.py [FOLDER] [--size 1000] [--pool 12000] [--only search|means|tumour|many]

FOLDER is the case study `tmdd` of gQSPSim (https://github.com/feng-gao/gQSPSim, BSD-3): parameter ranges
(`Param_8.csv`), acceptance bounds (`AC_vpop_fixed_target.csv`) and means (`Data_mean.csv`) of two dose groups; without
it, the parts about the tumour and the immune system (`tumour.py`) run alone.

Four parts. `search`: patients within the bounds as given, and with every bound shrunk to 70 % of its log-width, by
rejection, Metropolis and Hastings' random walk, screened rejection, descent of many starts and Langevin's dynamics, in
one run. A patient is simulated in both groups; a simulation with its gradient counts at its measured cost. The ratio of
SDs is that of each parameter's, on its own scale (logarithmic or linear), to rejection's; the least of all stands in
the table, each below it. `means`: of a pool of plausible patients, the greatest error of the 48 means by weights of
greatest entropy (tolerance 4.9 %), and by 100 different patients of equal weight. `tumour` is `search` for 20
parameters and 10 bounds, and `many` finds ten thousand of these patients. Seconds are those of the process, with
compilation.
"""

import argparse
import csv
import os
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp
from qspjax.population import (
    Bound,
    EntropyBalancing,
    Exchange,
    Langevin,
    Mean,
    MetropolisHastings,
    Optimised,
    Rejection,
    Screened,
    plausible,
    select,
    weights,
)

KEY = jax.random.key(1)
SEARCHES = {
    "rejection": Rejection(),
    "Metropolis-Hastings": MetropolisHastings(),
    "screened": Screened(),
    "optimised": Optimised(),
    "Langevin": Langevin(),
}
DOSES = {"1": 3000.0, "2": 300.0}  # ug/kg
PARAMETERS = {"s_target_init": "T0", "target_thalf": "thalf"}


class TMDD(qsp.AbstractDelivered):
    """A monoclonal antibody and its soluble target: two compartments, binding, complex cleared as the drug."""

    V1: jax.Array = qsp.parameter(unit="mL/kg", doc="central volume")
    V2: jax.Array = qsp.parameter(unit="mL/kg", doc="peripheral volume")
    CL: jax.Array = qsp.parameter(unit="mL/kg/d", doc="clearance")
    CLd: jax.Array = qsp.parameter(unit="mL/kg/d", doc="distribution clearance")
    kon: jax.Array = qsp.parameter(unit="1/nM/d", doc="association rate constant")
    KD: jax.Array = qsp.parameter(unit="nM", doc="dissociation constant")
    T0: jax.Array = qsp.parameter(unit="nM", doc="target at baseline")
    thalf: jax.Array = qsp.parameter(unit="d", doc="half-life of the target")

    def initial(self):
        return {"D": 0.0, "P": 0.0, "T": self.T0, "C": 0.0}

    def vector_field(self, t, y):
        D, P, T, C = y["D"], y["P"], y["T"], y["C"]
        bound = self.kon * D * T - self.kon * self.KD * C
        distributed = self.CLd * (D - P)
        k = jnp.log(2.0) / self.thalf
        return {
            "D": -self.CL / self.V1 * D - distributed / self.V1 - bound,
            "P": distributed / self.V2,
            "T": k * (self.T0 - T) - bound,
            "C": bound - self.CL / self.V1 * C,
        }

    def observe(self, t, y):
        return {
            "pk_free_ugm": 0.15 * y["D"],
            "target_free_ngml": 40.0 * y["T"],
            "target_tot_ngml": 40.0 * (y["T"] + y["C"]),
        }

    def deliveries(self):
        return {"D": qsp.Delivery("D", scale=1e3 / 150.0 / self.V1)}  # ug/kg of 150 kDa as nM


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def population(folder):
    ranges = rows(folder / "Param_8.csv")
    names = [PARAMETERS.get(row["Name"], row["Name"]) for row in ranges]
    scales = {"log": qsp.LogUniform, "linear": qsp.Uniform}
    between = {
        name: scales[row["Scale"]](float(row["LB"]), float(row["UB"])) for name, row in zip(names, ranges, strict=True)
    }
    return qsp.Population(
        TMDD(**dict(zip(names, (float(row["P0_1"]) for row in ranges), strict=True))), between=between
    )


def arms():
    return [qsp.Arm(group, qsp.bolus(dose, to="D")) for group, dose in DOSES.items()]


def bounds(folder, width=1.0):
    """Return the bounds, each shrunk to a part of its log-width."""
    found = {}
    for row in rows(folder / "AC_vpop_fixed_target.csv"):
        low, high = np.log(float(row["LB"])), np.log(float(row["UB"]))
        middle, half = 0.5 * (low + high), 0.5 * width * (high - low)
        statistic = qsp.endpoints.Value(row["Data"], at=float(row["Time"]))
        name = f"{row['Data']}, group {row['Group']}, day {row['Time']}"
        found[name] = Bound(statistic, np.exp(middle - half), np.exp(middle + half), arm=row["Group"])
    return found


def means(folder):
    return [
        Mean(f"{output}, group {row['Group']}, day {row['Time']}", float(row[output]))
        for row in rows(folder / "Data_mean.csv")
        for output in ("pk_free_ugm", "target_free_ngml", "target_tot_ngml")
    ]


def search(cases, searches, size):
    """Compare the searches; a case is a population, bounds, arms and times by name."""
    print(
        "| bounds | search | simulations each | least ratio of SDs | effective size | missed | CPU s | wall s |", end=""
    )
    print(" patients a minute | effective a minute |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    details = []
    for case, (population, bounds, arms, ts) in cases.items():
        reference = None
        for name, method in searches.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = plausible(population, bounds, arms=arms, ts=ts, size=size, key=KEY, search=method)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert len(np.unique(found.points, axis=0)) == found.size
            reference = reference or found.spread
            ratios = {parameter: sd / reference[parameter] for parameter, sd in found.spread.items()}
            each, missed = found.equivalents / found.size, "" if np.isnan(found.missed) else f"{found.missed:.1%}"
            print(
                f"| {case} | {name} | {each:.2f} | {min(ratios.values()):.2f} | {found.effective_size:.0f} | {missed} "
                f"| {cpu:.0f} | {wall:.0f} | {60 * found.size / wall:,.0f} | {60 * found.effective_size / wall:,.0f} |",
                flush=True,
            )
            details.append(f"{case}, {name}: " + ", ".join(f"{p} {ratio:.2f}" for p, ratio in ratios.items()))
    print("\nratios of SDs\n" + "\n".join(details))


def many(case, size):
    """Find many patients of a case by the default search."""
    population, bounds, arms, ts = case
    start, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    found = plausible(population, bounds, arms=arms, ts=ts, size=size, key=KEY)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    different = len(np.unique(found.points, axis=0))
    print(f"\n{found}\n{different} different patients in {wall:.0f} s, {cpu:.0f} s of CPU time, ", end="")
    print(f"load {start:.1f} to {os.getloadavg()[0]:.1f}, peak memory {peak():.0f} MB")


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reached(folder, pool):
    start = time.process_time()
    found = plausible(population(folder), bounds(folder), arms=arms(), size=pool, key=KEY)
    seconds = time.process_time() - start
    print(f"\npool of {found.size} patients, {found.equivalents / found.size:.2f} simulations each, {seconds:.0f} s")
    targets = means(folder)
    print("| population | effective size | greatest error of 48 means | CPU seconds |\n|---|--:|--:|--:|")
    for name, make in {
        "weights of greatest entropy": lambda: weights(found, targets, method=EntropyBalancing(0.049)),
        "100 different patients": lambda: select(found, targets, size=100, key=KEY, method=Exchange(0.0495)),
    }.items():
        start = time.process_time()
        agreed = make()
        seconds = time.process_time() - start
        print(f"| {name} | {agreed.effective_size:.0f} | {agreed.worst:.2%} | {seconds:.0f} |", flush=True)


def main():
    import tumour  # beside this script

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="the case study `tmdd` of gQSPSim")
    parser.add_argument("--size", type=int, default=1000, help="plausible patients of each search")
    parser.add_argument("--pool", type=int, default=12000, help="plausible patients for the means")
    parser.add_argument("--many", type=int, default=10000, help="plausible patients of the tumour model")
    parser.add_argument("--only", choices=("search", "means", "tumour", "many"))
    parser.add_argument("--without", nargs="*", default=[], help="searches that are left out")
    arguments = parser.parse_args()
    searches = {name: method for name, method in SEARCHES.items() if name not in arguments.without}
    folder, parts = arguments.folder, (arguments.only,) if arguments.only else ("search", "means", "tumour", "many")
    if folder is not None and "search" in parts:
        cases = {f"{width:.0%}": (population(folder), bounds(folder, width), arms(), None) for width in (1.0, 0.7)}
        search(cases, searches, arguments.size)
    if folder is not None and "means" in parts:
        reached(folder, arguments.pool)
    if "tumour" in parts:
        search({"tumour": tumour.case()}, searches, arguments.size)
    if "many" in parts:
        many(tumour.case(), arguments.many)


if __name__ == "__main__":
    main()
