"""Digital twins: do their forecasts hold what they promise, do they agree with NUTS, and what do they cost?

    python benchmarks/twin.py [--patients 200] [--against 4] [--only coverage|nuts]

`coverage`: patients of a population (oral, one compartment: CL, V and ka log-normal, proportional error) get 100 mg a
day for four days and are measured twice a day. Before each of the eight measurements the twin forecasts it, by the 90 %
interval of a new measurement; then it takes it in. 85 to 95 % of them must lie within. `nuts`: the posterior after all
eight, by 2,000 particles and by Laplace, against NUTS on the same problem, four chains: means must agree within 0.1
posterior SD, in a fifth of NUTS's time or less. CPU seconds; a twin's are those of a further patient, and those of the
first, with compilation; those of NUTS are without compilation, and with it.
"""

import argparse
import platform
import time

import jax
import numpy as np

import qspjax as qsp
from qspjax import fit

CV, DOSES = 0.15, [0.0, 24.0, 48.0, 72.0]
TIMES = [3.0, 23.0, 26.0, 46.0, 52.0, 71.0, 74.0, 84.0]
SPREAD = {"CL": 0.35, "V": 0.25, "ka": 0.5}
POPULATION = qsp.Population(
    qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.0),
    between={name: qsp.LogNormal(cv=cv) for name, cv in SPREAD.items()},
)
OUTPUTS = {"C": fit.Output("concentration", fit.Proportional(CV))}


def doses(after, until):
    given = [at for at in DOSES if after < at <= until]
    return (
        sum((qsp.bolus(100.0, to="depot", at=at) for at in given[1:]), qsp.bolus(100.0, to="depot", at=given[0]))
        if given
        else None
    )


def measured(count, seed=0):
    """Return the measurements of simulated patients, shape (patients, times)."""
    cohort = POPULATION.sample(key=jax.random.key(seed), size=count)
    exact = np.asarray(qsp.simulate_cohort(cohort, doses(-1.0, 99.0), TIMES).observed["concentration"])
    return exact * (1.0 + CV * np.random.default_rng(seed).standard_normal(exact.shape))


def followed(method, values, forecasts=None):
    """Return the twin after all measurements; collect whether each lies in the interval forecast for it."""
    twin, before = fit.Twin(POPULATION, OUTPUTS, method), -1.0
    for time_, value in zip(TIMES, values, strict=True):
        given = doses(before, time_)
        if forecasts is not None:
            table = twin.forecast(given, [time_], key=jax.random.key(len(forecasts)), measured=True)
            forecasts.append((table["LOWER"][0] <= value <= table["UPPER"][0], table["UPPER"][0] - table["LOWER"][0]))
        twin, before = twin.update(fit.Measurements([time_], [value], output="C"), given), time_
    return twin


def method_of(name, count, seed):
    return fit.Particles(count, key=jax.random.key(seed)) if name == "particles" else fit.Laplace()


def coverage(count):
    values, lines = measured(count), []
    for name in ("particles", "Laplace"):
        followed(method_of(name, 1000, 0), values[0], [])  # compiles
        began, forecasts = time.process_time(), []
        for seed, row in enumerate(values):
            followed(method_of(name, 1000, seed), row, forecasts)
        seconds = time.process_time() - began
        inside = np.array([here for here, _ in forecasts]).reshape(count, -1)
        by_time = ", ".join(f"{100 * share:.0f}" for share in inside.mean(axis=0))
        widths = np.array([width for _, width in forecasts]).reshape(count, -1).mean(axis=0)
        lines.append(
            f"| {name} | {100 * inside.mean():.1f} | {by_time} | {widths[0]:.2f}, {widths[-1]:.2f} | "
            f"{1000 * seconds / inside.size:.0f} |"
        )
    return [
        "| method | covered, % | of each measurement, % | width of first and last, mg/L | CPU ms a step |",
        "|---|--:|---|--:|--:|",
        *lines,
    ]


def by_nuts(values, seed):
    """Return means and SDs by NUTS, its CPU seconds without and with compilation, and its least effective size."""
    problem = fit.Problem(
        POPULATION.model,
        fit.Experiment(fit.Measurements(TIMES, values, output="C"), doses(-1.0, 99.0)),
        OUTPUTS,
        {name: fit.Free(start, prior=qsp.LogNormal(start, cv=SPREAD[name])) for name, start in _typical().items()},
    )
    stamps, began = [], time.process_time()
    posterior = fit.sample(
        problem,
        fit.NUTS(500, 1000, key=jax.random.key(seed)),
        progress=lambda now: stamps.append((now.done, time.process_time())),
    )
    ended = time.process_time()
    stamps = [stamp for stamp in stamps if stamp[0]]
    (first, compiled), (last, finished) = stamps[0], stamps[-1]
    running = (finished - compiled) * last / (last - first)
    table = posterior.summary()
    return table["mean"].to_numpy(), table["sd"].to_numpy(), (running, ended - began), table["ess_bulk"].min()


def _typical():
    return {name: float(qsp.at(POPULATION.model, name).get()) for name in SPREAD}


def against_nuts(count):
    values, lines = measured(count, seed=7), []
    first = {}
    for name in ("particles", "Laplace"):
        began = time.process_time()
        followed(method_of(name, 2000, 0), values[0])
        first[name] = time.process_time() - began
    for patient, row in enumerate(values):
        mean, sd, (running, whole), effective = by_nuts(row, patient)
        for name in ("particles", "Laplace"):
            began = time.process_time()
            table = followed(method_of(name, 2000, patient), row).summary()
            seconds = time.process_time() - began
            distance = np.abs(table["MEAN"] - mean) / sd
            ratio = np.abs(table["SD"] / sd - 1.0)
            lines.append(
                f"| {patient + 1} | {name} | {distance.max():.3f} | {100 * ratio.max():.0f} | {seconds:.2f}, "
                f"{first[name]:.1f} | {running:.2f}, {whole:.1f} ({effective:.0f}) | {seconds / running:.2f} |"
            )
    return [
        "| patient | method | means apart, SD | SDs apart, % | CPU s, of the first | NUTS, compiled (ESS) | ratio |",
        "|--:|---|--:|--:|--:|--:|--:|",
        *lines,
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--against", type=int, default=4)
    parser.add_argument("--only", choices=("coverage", "nuts"))
    arguments = parser.parse_args()
    print(f"{platform.machine()}, jax {jax.__version__}, {jax.devices()[0].platform}\n")
    if arguments.only != "nuts":
        print("\n".join(coverage(arguments.patients)), "\n", flush=True)
    if arguments.only != "coverage":
        print("\n".join(against_nuts(arguments.against)))


if __name__ == "__main__":
    main()
