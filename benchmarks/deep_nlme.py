"""Deep nonlinear mixed effects: a network learns a saturable clearance from the data of 100 subjects.

    PYTHONPATH=. nice python benchmarks/deep_nlme.py [--subjects 100] [--points 3] [--iterations 300]

The truth is Michaelis-Menten elimination with random effects on the volume and on the greatest rate. The learned model
knows neither: its clearance is exp(eta) times a network of the concentration, two layers of eight. Both are fitted to
the same data; -2 log L of both is then computed by the same quadrature, on these data and on as many fresh subjects.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp
from qspjax.fit import (
    FOCEI,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    Proportional,
    Quadrature,
    RandomEffects,
    Weights,
    marginal,
    nlme,
)

TIMES = np.array([0.25, 1.0, 2.0, 4.0, 8.0, 12.0, 18.0, 24.0])  # h
DOSES = (30.0, 100.0, 300.0, 900.0)  # mg
VM, KM, V, SD_VM, SD_V, NOISE = 25.0, 4.0, 20.0, 0.3, 0.2, 0.1


class Saturable(qsp.AbstractModel):
    """One compartment with Michaelis-Menten elimination."""

    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    VM: jax.Array = qsp.parameter(unit="mg/h", doc="greatest rate")
    KM: jax.Array = qsp.parameter(unit="mg/L", doc="concentration of half of it")

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        concentration = y["central"] / self.V
        return {"central": -self.VM * concentration / (self.KM + concentration)}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


class Learned(qsp.AbstractModel):
    """One compartment whose clearance is a function of the concentration, to be learned."""

    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    scale: jax.Array = qsp.parameter(unit="1", doc="clearance of a subject, relative to the typical one")
    clearance: eqx.nn.MLP

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        concentration = y["central"] / self.V
        typical = 5.0 * jax.nn.softplus(self.clearance(jnp.log1p(jnp.maximum(concentration, 0.0))))
        return {"central": -self.scale * typical * concentration}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


def data(count: int, seed: int) -> dict[str, Experiment]:
    """Return simulated subjects."""
    random = np.random.default_rng(seed)
    patients = {
        "V": jnp.asarray(V * np.exp(SD_V * random.normal(size=count))),
        "VM": jnp.asarray(VM * np.exp(SD_VM * random.normal(size=count))),
    }
    cohort = qsp.Cohort.of(Saturable(V=V, VM=VM, KM=KM), patients)
    regimen = qsp.bolus(np.resize(DOSES, count), to="central")
    exact = np.asarray(qsp.simulate_cohort(cohort, regimen, jnp.asarray(TIMES)).observed["concentration"])
    measured = exact * (1.0 + NOISE * random.normal(size=exact.shape))
    subjects = {}
    for i, (dose, values) in enumerate(zip(np.resize(DOSES, count), measured, strict=True)):
        seen = values > 0.01  # mg/L; later samples are not taken
        rows = Measurements(TIMES[seen], values[seen], output="concentration")
        subjects[f"{i}"] = Experiment(rows, qsp.bolus(float(dose), to="central"))
    return subjects


def mechanism(subjects: dict[str, Experiment]) -> MixedModel:
    """Return the true model."""
    return MixedModel(
        Saturable(V=V, VM=VM, KM=KM),
        subjects,
        {"concentration": Output("concentration", Proportional("b"))},
        parameters={"tV": Free(30.0), "tVM": Free(15.0), "KM": Free(2.0), "b": Free(0.2)},
        individual={"V": "tV * exp(eta_V)", "VM": "tVM * exp(eta_CL)"},
        random=[RandomEffects({"eta_V": 0.1}), RandomEffects({"eta_CL": 0.1})],
    )


def hybrid(subjects: dict[str, Experiment], *, width: int = 8, depth: int = 2, seed: int = 0) -> MixedModel:
    """Return the model that learns its clearance."""
    network = eqx.nn.MLP("scalar", "scalar", width, depth, activation=jax.nn.tanh, key=jax.random.key(seed))
    return MixedModel(
        Learned(V=V, scale=1.0, clearance=network),
        subjects,
        {"concentration": Output("concentration", Proportional("b"))},
        parameters={"tV": Free(30.0), "b": Free(0.2), "clearance": Weights(prior=qsp.Normal(0.0, sd=1.0))},
        individual={"V": "tV * exp(eta_V)", "scale": "exp(eta_CL)"},
        random=[RandomEffects({"eta_V": 0.1}), RandomEffects({"eta_CL": 0.1})],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--points", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    training, fresh = data(given.subjects, given.seed), data(given.subjects, given.seed + 1000)

    def report(name: str, model, fit, seconds: float) -> tuple[float, float]:
        here = marginal(fit.mixed, fit.x, Quadrature(7)).objective
        there = marginal(model(fresh), fit.x, Quadrature(7)).objective
        shown = {key: round(value, 4) for key, value in fit.parameters.items()}
        print(f"{name}: -2 log L {here:.2f}, of fresh subjects {there:.2f}; {shown}; {seconds:.0f} CPU s; {fit.status}")
        return here, there

    began = time.process_time()
    true = nlme(mechanism(training), method=FOCEI())
    true = nlme(true.mixed, method=Quadrature(given.points), start=true.x)
    of_true = report("true model", mechanism, true, time.process_time() - began)
    began = time.process_time()

    def progress(state):
        if state.done % 20 == 0:
            print(state, f"{time.process_time() - began:.0f} CPU s", flush=True)

    learned = nlme(
        hybrid(training),
        method=Quadrature(given.points),
        iterations=given.iterations,
        tolerance=0.01,
        progress=progress,
    )
    of_learned = report("network", hybrid, learned, time.process_time() - began)
    print(learned)
    print("-2 log L, network less true model:", *(round(b - a, 2) for a, b in zip(of_true, of_learned, strict=True)))
    for name in ("var(eta_V)", "var(eta_CL)"):
        print(f"{name}: ratio {learned.parameters[name] / true.parameters[name]:.3f}")


if __name__ == "__main__":
    main()
