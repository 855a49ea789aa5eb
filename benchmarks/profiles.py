"""Are the ends of profile-likelihood intervals where they should be? Recomputed by another method.

    python benchmarks/profiles.py FOLDER [--problem Boehm_JProteomeRes2014]

FOLDER holds PEtab problems, one a folder. From the nominal (published) parameters `fit.profiles` follows the profile of
every parameter. At each end of an interval, scipy's L-BFGS-B then fits all other parameters, with gradients by the
adjoint (the profiles use forward sensitivities and Gauss-Newton steps), from the point of the profile and from some
others about it: twice the drop of the log likelihood must be the 95 % quantile of chi-squared, 3.841.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from qspjax import fit, io

TRIES, SPREAD = 3, 0.2
"""Starts of scipy at each end, and their standard deviation in decades."""


def refitted(density, bounds, index, value, start):
    """Return the best log density with one parameter held, by scipy."""
    from scipy.optimize import minimize

    others = np.arange(len(start)) != index
    rng = np.random.default_rng(0)

    def objective(own):
        x = start.copy()
        x[index], x[others] = value, own
        found, slope = density(x)
        return (-float(found), -np.asarray(slope)[others]) if np.isfinite(found) else (1e10, np.zeros(others.sum()))

    lower, upper = (edge[others] for edge in bounds)
    best = -np.inf
    for k in range(TRIES):
        first = np.clip(start[others] + SPREAD * bool(k) * rng.normal(size=others.sum()), lower, upper)
        found = minimize(objective, first, jac=True, bounds=np.column_stack([lower, upper]), options={"maxiter": 300})
        best = max(best, -float(found.fun))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problem", default="Boehm_JProteomeRes2014")
    arguments = parser.parse_args()
    problem = io.read_petab(arguments.folder / arguments.problem / f"{arguments.problem}.yaml")
    best = fit.estimate(problem, starts=np.asarray(problem.point(problem.reference))[None])
    began = time.process_time()
    found = fit.profiles(problem, best.x)
    print(f"log density {best.log_density:.4f}; profiles in {time.process_time() - began:.0f} CPU s")
    print("| parameter | estimate | lower | 2 x drop by scipy | upper | 2 x drop by scipy |\n|---|--:|--:|--:|--:|--:|")
    density = jax.jit(jax.value_and_grad(problem.log_density))
    bounds = tuple(np.asarray(edge) for edge in problem.bounds)
    for index, (name, profile) in enumerate(found.items()):
        cells = [f"{best.parameters[name]:.4g}"]
        for end, is_open in zip(profile.interval, profile.open, strict=True):
            if is_open:
                cells += ["open", ""]
                continue
            value = float(problem.free[name].transform.forward(end))
            start = profile.points[np.argmin(np.abs(profile.points[:, index] - value))]
            drop = 2 * (best.log_density - refitted(density, bounds, index, value, start))
            cells += [f"{end:.4g}", f"{drop:.3f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
