"""Which method should be the default? Steps, accuracy, CPU time and compile time of the solvers behind `Diffrax`.

    python benchmarks/methods.py [--patients 256] [--markdown]

Two problems: `pk2`, two compartments and oral absorption, 7 daily doses, 169 hourly outputs (smooth); `tmdd`, full
target-mediated disposition, 4 doses every 3 weeks, daily outputs over 84 days (stiff). Every row is at rtol 1e-6, atol
1e-9, one vectorised call, and its error is the largest over patients, states and outputs against our own solution at
rtol 1e-12, relative to max(|reference|, 1e-4 of the trajectory's peak). diffrax's own loop (`diffeqsolve`, one segment
a dose, as its users write it) stands beside ours with the chord iteration that is its default.
"""

import argparse
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp


def problems(patients):
    """Return by name: cohort, regimen, times, whether it is stiff."""
    key = jax.random.key(20240)
    pk2 = qsp.Population(
        qsp.models.TwoCompartmentOral(CL=5.0, V1=50.0, Q=8.0, V2=100.0, ka=1.0),
        between={name: qsp.LogNormal(cv=0.3) for name in ("CL", "V1", "ka")},
    )
    tmdd = qsp.Population(
        qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=10.0, koff=1.0, kdeg=10.0, kint=5.0, R0=1.0),
        between={name: qsp.LogNormal(cv=0.3) for name in ("CL", "kdeg", "kint", "R0")} | {"V1": qsp.LogNormal(cv=0.2)},
        covariates={"log_dose": qsp.Uniform(np.log(0.1 * 70.0), np.log(10.0 * 70.0))},  # 0.1 to 10 mg/kg
    )
    dose = qsp.Computed(lambda c: jnp.exp(c["log_dose"]))
    return {
        "pk2": (
            pk2.sample(key=key, size=patients),
            qsp.bolus(100.0, to="depot").every(24.0, doses=7),
            np.arange(169.0),
            False,
        ),
        "tmdd": (
            tmdd.sample(key=key, size=patients),
            qsp.bolus(dose, to="central").every(21.0, doses=4),
            np.arange(85.0),
            True,
        ),
    }


def states(solution):
    return np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(solution.states)], axis=-1)


def error(got, reference):
    scale = np.abs(reference).max(axis=1, keepdims=True)
    return float(np.nanmax(np.abs(got - reference) / np.maximum(np.abs(reference), 1e-4 * scale)))


def timed(function):
    """Return the result, the seconds of the first call, and the CPU seconds of the best of three further calls."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - start
    best = np.inf
    for _ in range(3):
        start = time.process_time()
        result = jax.block_until_ready(function())
        best = min(best, time.process_time() - start)
    return result, first, best


def segmented(cohort, regimen, ts):
    """Return diffrax's own loop for a cohort: one `diffeqsolve` a dose interval, Kvaerno5 with its defaults."""
    amounts = regimen.prescribe(cohort.covariates).amount
    doses = np.asarray(regimen.time)
    edges = [*doses, ts[-1]]
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-9)

    def field(t, y, model):
        return model.vector_field(t, y)

    def patient(model, amounts):
        y = jax.tree.map(jnp.asarray, model.initial())
        delivery = next(iter(model.deliveries().values()))
        pieces, steps = [], 0
        for amount, start, end in zip(amounts, edges[:-1], edges[1:], strict=True):
            dosed = getattr(y, delivery.state) + amount * delivery.scale * delivery.bioavailability
            y = y._replace(**{delivery.state: dosed})
            inside = ts[(ts >= start) & (ts < end if end < ts[-1] else ts <= end)]
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                diffrax.Kvaerno5(),
                start,
                end,
                None,
                y,
                args=model,
                stepsize_controller=controller,
                saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=inside), diffrax.SubSaveAt(t1=True)]),
                max_steps=16384,
                throw=False,
            )
            y = jax.tree.map(lambda leaf: leaf[0], solution.ys[1])
            pieces.append(solution.ys[0])
            steps = steps + solution.stats["num_steps"]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces), steps

    axes = jax.tree.map(lambda varies: 0 if varies else None, cohort.axes_mask())
    mapped = eqx.filter_jit(jax.vmap(patient, in_axes=(axes, 0)))
    amounts = jnp.broadcast_to(amounts, (cohort.size, doses.size))
    return lambda: mapped(cohort.model, amounts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=256)
    patients = parser.parse_args().patients
    print(f"jax {jax.__version__}, diffrax {diffrax.__version__}, {jax.devices()[0].device_kind}, {patients} patients")
    print("| problem | method | steps (mean) | rejected | error | CPU ms a patient | first call, s |")
    print("|---|---|--:|--:|--:|--:|--:|")
    solvers = {
        "Rodas5P (default)": qsp.solve.Rodas5P(),
        "Tsit5": diffrax.Tsit5(),
        "Dopri8": diffrax.Dopri8(),
        "Kvaerno5, Newton": diffrax.Kvaerno5(),
        "Kvaerno3, Newton": diffrax.Kvaerno3(),
    }
    for problem, (cohort, regimen, ts, stiff) in problems(patients).items():
        exact = qsp.solve.Diffrax(rtol=1e-12, atol=1e-14, max_steps=10**6)
        reference = states(qsp.simulate_cohort(cohort, regimen, ts, method=exact))
        for name, solver in solvers.items():
            if stiff and name in ("Tsit5", "Dopri8"):
                continue
            method = qsp.solve.Diffrax(solver)
            solution, first, cpu = timed(
                lambda m=method, c=cohort, r=regimen, t=ts: qsp.simulate_cohort(c, r, t, method=m)
            )
            steps, rejected = (float(np.mean(solution.stats[key])) for key in ("steps", "rejected"))
            print(
                f"| {problem} | {name} | {steps:.0f} | {rejected:.0f} | {error(states(solution), reference):.0e} "
                f"| {cpu / patients * 1e3:.3f} | {first:.1f} |",
                flush=True,
            )
        (kept, steps), first, cpu = timed(segmented(cohort, regimen, ts))
        got = np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(kept)], axis=-1)
        print(
            f"| {problem} | diffeqsolve, Kvaerno5, its defaults | {float(np.mean(steps)):.0f} | | "
            f"{error(got, reference):.0e} | {cpu / patients * 1e3:.3f} | {first:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
