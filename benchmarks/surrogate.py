"""Surrogates: error bars that hold, screening, delayed acceptance and neural posteriors, each against what is exact.

    python benchmarks/surrogate.py [FOLDER] [--only bars|screening|delayed|posterior] [--candidates 1000000]

FOLDER is the case study `tmdd` of gQSPSim, as in `plausible.py`; without it, the part about screening is left out.

Four parts. `bars`: endpoints and concentrations of two compartments with log-normal parameters (CV 40 %), emulated from
512 simulations by both methods, three seeds each: how many of 2,000 fresh simulations lie within the 90 % intervals.
`screening`: the plausible patients of `plausible.py`, with the bounds as given and shrunk to 70 %: simulations for each
(those to learn from and those that check what was missed count), the least ratio of SDs to rejection's, and candidates
screened a second, after compilation. `delayed`: three parameters of one compartment from six measurements; draws by
delayed acceptance, thinned to their effective size, against the posterior by quadrature (Kolmogorov and Smirnov's p,
the least of all parameters), with simulations for each effective draw; a simulation of NUTS has a gradient as well.
`posterior`: neural posterior estimation on one compartment: p-values of uniform ranks over 1,000 data sets, and what
2,000 draws are worth after they were corrected by the exact likelihood. Seconds are CPU seconds with compilation.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plausible  # beside this script
from scipy import stats

import qspjax as qsp
from qspjax.fit import NUTS, Additive, Experiment, Free, Measurements, Output, Problem, Proportional, sample
from qspjax.fit.bayes._density import Density
from qspjax.population import Rejection, Screened
from qspjax.surrogate import (
    Boundary,
    DelayedAcceptance,
    Ensemble,
    GaussianProcess,
    Patients,
    Plausibility,
    Sobol,
    fit,
    posterior,
    screen,
)


def bars():
    names = ("CL", "V1", "Q", "V2")
    population = qsp.Population(
        qsp.models.TwoCompartment(CL=3.0, V1=30.0, Q=2.0, V2=50.0),
        between={name: qsp.LogNormal(cv=0.4) for name in names},
    )
    simulator = Patients(
        population,
        {"AUC": qsp.endpoints.AUC("concentration")},
        arms=[qsp.Arm("300 mg", qsp.bolus(300.0, to="central"))],
        observed={"concentration": [1.0, 10.0, 40.0]},
        ts=[0.0, 48.0],
    )
    fresh = np.random.default_rng(9).random((2000, 4))
    truth = simulator.simulate(fresh)
    print("| method | within 90 %, mean | least and greatest of 12 | error, parts of the spread | CPU s a fit |")
    print("|---|--:|--:|--:|--:|")
    for name, method in {"Gaussian process": GaussianProcess(), "5 networks": Ensemble()}.items():
        inside, errors, began = [], [], time.process_time()
        for seed in range(3):
            table = fit(simulator, Sobol(512), method=method, key=jax.random.key(seed)).compared(fresh, truth)
            inside.append(table["INSIDE"].reshape(4, -1).mean(axis=1))
            logs = np.log(table["PREDICTED"] / table["SIMULATED"]).reshape(4, -1)
            errors.append(np.sqrt((logs**2).mean(axis=1)) / np.log(truth).std(axis=0))
        seconds, inside = (time.process_time() - began) / 3, np.array(inside)
        print(
            f"| {name} | {inside.mean():.1%} | {inside.min():.1%}, {inside.max():.1%} | {np.mean(errors):.2%} "
            f"| {seconds:.1f} |",
            flush=True,
        )


def screening(folder, candidates):
    print("| bounds | search | patients | simulations each | least ratio of SDs | missed | CPU s |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for width, most, tried in ((1.0, 512, 40_000), (0.7, 1024, 400_000)):
        population, bounds, arms = plausible.population(folder), plausible.bounds(folder, width), plausible.arms()
        reference = None
        for name, method in {"rejection": Rejection(8192), "screened": Screened()}.items():
            began = time.process_time()
            found = qsp.population.plausible(population, bounds, arms=arms, size=2000, key=plausible.KEY, search=method)
            reference = reference or found.spread
            row(width, name, found, found.equivalents / found.size, reference, time.process_time() - began)
        began, simulator = time.process_time(), Plausibility(population, bounds, arms=arms)
        emulated = fit(simulator, Sobol(256), learn=Boundary(most=most), key=plausible.KEY)
        found = screen(emulated, simulator, candidates=tried, key=plausible.KEY)
        each = found.simulations / found.found
        row(width, "surrogate", found.population, each, reference, time.process_time() - began)
    wall = time.perf_counter()
    found = screen(emulated, simulator, candidates=candidates, key=jax.random.key(2))
    wall = time.perf_counter() - wall
    print(f"\n{wall:.0f} s in all\n{found}")


def row(width, name, found, each, reference, seconds):
    ratio = min(sd / reference[parameter] for parameter, sd in found.spread.items())
    missed = "" if np.isnan(found.missed) else f"{found.missed:.1%}"
    print(f"| {width:.0%} | {name} | {found.size} | {each:.2f} | {ratio:.2f} | {missed} | {seconds:.0f} |", flush=True)


TIMES = [0.5, 2.0, 4.0, 8.0, 16.0, 24.0]
VALUES = [10.1, 7.9, 6.8, 4.1, 2.2, 0.8]


def patient(error, **parameters):
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(Measurements(TIMES, VALUES, output="c"), qsp.bolus(300.0, to="central")),
        {"c": Output("concentration", error)},
        {
            "CL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.4)),
            "V": Free(30.0, prior=qsp.LogNormal(30.0, cv=0.3)),
            **parameters,
        },
    )


def marginals(problem, z, cells=101):
    """Return the distribution functions of the coordinates of z, by quadrature over where draws say that it is."""
    density = Density(problem)
    program = jax.jit(jax.vmap(density))
    z = z.reshape(-1, density.size)
    edges = [
        np.linspace(m - 7.0 * sd, m + 7.0 * sd, cells) for m, sd in zip(z.mean(axis=0), z.std(axis=0), strict=True)
    ]
    grid = np.stack([part.ravel() for part in np.meshgrid(*edges, indexing="ij")], axis=1)
    value = np.concatenate([np.asarray(program(jnp.asarray(part))) for part in np.split(grid, cells)])
    weight = np.exp(value - value.max()).reshape([cells] * len(edges))
    found = []
    for k, edge in enumerate(edges):
        mass = weight.sum(axis=tuple(i for i in range(len(edges)) if i != k))
        below = np.concatenate([[0.0], np.cumsum(0.5 * (mass[1:] + mass[:-1]))])
        found.append(lambda z, edge=edge, below=below: np.interp(z, edge, below / below[-1]))
    return found


def delayed():
    problem = patient(Proportional("cv"), cv=Free(0.15, prior=qsp.LogNormal(0.15, cv=0.5)))
    exact = None
    print("| method | draws | effective | simulations | of these each | acceptance | KS p | CPU s |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    many = {"samples": 2000, "warmup": 20, "key": jax.random.key(1)}
    for name, method in {
        "delayed acceptance, 30 steps": DelayedAcceptance(**many),
        "delayed acceptance, 1 step": DelayedAcceptance(**{**many, "samples": 10_000}, steps=1),
        "NUTS": NUTS(500, 2000, key=jax.random.key(1)),
    }.items():
        began = time.process_time()
        drawn = sample(problem, method)
        seconds = time.process_time() - began
        effective = drawn.summary()["ess_bulk"].min()
        if isinstance(method, NUTS):
            made = int(drawn.stats["n_steps"].sum() * 2500 / 2000)
        else:
            made = int(drawn.stats["exact"].sum() + method.simulations + method.warmup * method.chains)
        exact = exact or marginals(problem, drawn.z)
        by = int(np.ceil(drawn.z[..., 0].size / effective)) + 1
        p = min(stats.kstest(drawn.z[:, ::by, k].ravel(), exact[k]).pvalue for k in range(len(exact)))
        print(
            f"| {name} | {drawn.z[..., 0].size} | {effective:.0f} | {made} | {made / effective:.2f} "
            f"| {drawn.stats['acceptance_rate'].mean():.3f} | {p:.2f} | {seconds:.0f} |",
            flush=True,
        )


def amortised():
    for name, problem in {"proportional": patient(Proportional(0.15)), "additive": patient(Additive(0.3))}.items():
        began = time.process_time()
        trained = posterior(problem, key=jax.random.key(0))
        seconds = time.process_time() - began
        ranks = trained.calibration(key=jax.random.key(3), simulations=1000)
        _, effective = trained.corrected(key=jax.random.key(4), size=2000)
        values = ", ".join(f"{parameter} {p:.2f}" for parameter, p in ranks.p_values.items())
        print(f"{name}: p-values of ranks {values}; 2,000 draws worth {effective:.0f}; {seconds:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="the case study `tmdd` of gQSPSim")
    parser.add_argument("--only", choices=("bars", "screening", "delayed", "posterior"))
    parser.add_argument("--candidates", type=int, default=1_000_000, help="candidates to measure the rate with")
    arguments = parser.parse_args()
    parts = (arguments.only,) if arguments.only else ("bars", "screening", "delayed", "posterior")
    if "bars" in parts:
        bars()
    if "screening" in parts and arguments.folder is not None:
        screening(arguments.folder, arguments.candidates)
    if "delayed" in parts:
        delayed()
    if "posterior" in parts:
        amortised()


if __name__ == "__main__":
    main()
