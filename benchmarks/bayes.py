"""Posteriors: is NUTS fast and reliable on a population, and calibrated on a small problem?

    python benchmarks/bayes.py [--warmup 500] [--samples 1000] [--simulations 200] [--only theophylline|calibration]

`theophylline` is the population of twelve subjects in `examples/data`, one oral dose each: ka, CL and V log-normal,
additive error, weak priors. Its 7 + 36 unknowns (typical values, Omega's variances, sigma, random effects) are sampled
by four chains side by side; R-hat below 1.01 is the target. `calibration` is an oral dose with six samples and
proportional error: parameters from the prior, data of these, and their ranks in the posterior, which must be even
(Kolmogorov and Smirnov's p > 0.01 / parameters). Seconds are wall-clock seconds, with and without compilation.
"""

import argparse
import platform
import time
from pathlib import Path

import jax
import numpy as np

import qspjax as qsp
from qspjax import fit

KEY = jax.random.key(0)

DATA = Path(__file__).parent.parent / "examples" / "data" / "theophylline_nonmem.csv"
TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 24.0])


def theophylline():
    data = qsp.io.read_nonmem(DATA)
    return fit.MixedModel(
        qsp.models.OneCompartmentOral(CL=2.8, V=32.0, ka=1.6),
        qsp.io.experiments(data, "concentration"),
        {"concentration": fit.Output("concentration", fit.Additive("sigma"))},
        parameters={
            "tka": fit.Free(1.5, prior=qsp.LogNormal(1.5, omega=1.0)),
            "tCL": fit.Free(3.0, prior=qsp.LogNormal(3.0, omega=1.0)),
            "tV": fit.Free(30.0, prior=qsp.LogNormal(30.0, omega=1.0)),
            "sigma": fit.Free(0.7, prior=qsp.LogNormal(1.0, omega=1.0)),
        },
        individual={"ka": "tka * exp(eta_ka)", "CL": "tCL * exp(eta_CL)", "V": "tV * exp(eta_V)"},
        random=[fit.RandomEffects({"eta_ka": 0.6, "eta_CL": 0.3, "eta_V": 0.1})],
    )


def oral():
    data = fit.Measurements(TIMES, np.ones(TIMES.size), output="concentration")
    return fit.Problem(
        qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.0),
        fit.Experiment(data, qsp.bolus(300.0, to="depot")),
        {"concentration": fit.Output("concentration", fit.Proportional("cv"))},
        {
            "CL": fit.Free(3.0, prior=qsp.LogNormal(3.0, cv=0.4)),
            "V": fit.Free(30.0, prior=qsp.LogNormal(30.0, cv=0.4)),
            "ka": fit.Free(1.0, prior=qsp.LogNormal(1.0, cv=0.5)),
            "cv": fit.Free(0.15, prior=qsp.LogNormal(0.15, cv=0.3)),
        },
    )


def population(arguments):
    """Sample theophylline; print how the chains went."""
    stamps = []
    method = fit.NUTS(warmup=arguments.warmup, samples=arguments.samples, target=0.9, key=KEY)
    mixed, began = theophylline(), time.perf_counter()
    posterior = fit.sample(mixed, method, progress=lambda now: stamps.append((now.done, time.perf_counter())))
    table = posterior.summary()
    (first, compiled), (last, ended) = stamps[0], stamps[-1]
    running = (ended - compiled) * last / (last - first)
    print(
        f"theophylline: {method.chains} chains, {method.warmup} + {method.samples} iterations, {posterior.z.shape[2]}"
    )
    print("unknowns;", f"{posterior.seconds:.0f} s, of which {ended - began - running:.0f} s compile")
    print(table.round(4).to_string())
    leapfrogs = posterior.stats["n_steps"].mean()
    print(f"R-hat at most {table['rhat'].max():.4f}; {posterior.divergences} divergences; {leapfrogs:.0f} steps a draw")
    least = table[["ess_bulk", "ess_tail"]].min(axis=None)
    print(f"least effective sample size {least:.0f}: {least / running:.1f} a second (warm-up counted, no compilation)")
    return posterior


def calibration(arguments):
    """Calibrate on the small problem; print the p-values."""
    found = fit.simulation_based_calibration(
        oral(),
        fit.NUTS(300, 300, target=0.9, key=KEY),
        simulations=arguments.simulations,
        key=KEY,
    )
    print(f"\ncalibration: {found.seconds:.0f} s\n{found}")
    print(f"R-hat at most {found.rhat.max():.3f}; the least p-value must be above {0.01 / len(found.names):.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--only", choices=("theophylline", "calibration"))
    arguments = parser.parse_args()
    print(f"{platform.machine()}, jax {jax.__version__}, {jax.devices()[0].platform}\n")
    if arguments.only != "calibration":
        population(arguments)
    if arguments.only != "theophylline":
        calibration(arguments)


if __name__ == "__main__":
    main()
