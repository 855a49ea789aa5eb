"""Hybrid models: is a rate that a network learned from sparse data worth more than none, and than a wrong one?

    python benchmarks/recovery.py [--quick] [--store recovery.json] [--figure recovery.png]

Two models with a rate that is not known: TMDD, full binding (stiff), with saturable uptake of the complex; and myelo-
suppression after Friberg with a saturable drug effect. 20 subjects at four doses are measured at five times each, with
5 % noise. Three models are trained on the same data, by the same `estimate`: the `hybrid`, in which a network stands
for the rate; the `misspecified` mechanism, in which it is proportional; and a pure neural ODE (`neural`), which knows
the pharmacokinetics of the second model, and nothing else. They predict a fifth of the smallest and twice the largest
dose. The error is the root mean square of log(prediction / truth), over outputs, doses and twelve times; medians over
five seeds. The learned rate is compared with the truth where the data were, and distilled into a formula; the true form
is Vmax x / (Km + x). What is done is stored, so that a run that was interrupted goes on.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import qspjax as qsp
from qspjax import fit

NOISE, SUBJECTS, SEEDS, WIDTH = 0.05, 20, 5, 6
STEPS = {"hybrid": 400, "misspecified": 200, "neural": 1500}
KINDS = ("hybrid", "misspecified", "neural")


class Saturable(eqx.Module):
    """The truth: Vmax x / (Km + x)."""

    Vmax: jax.Array = qsp.parameter(unit="", doc="greatest rate")
    Km: jax.Array = qsp.parameter(unit="", doc="where it is half of that")

    def __call__(self, x):
        return self.Vmax * x / (self.Km + x)


class Proportional(eqx.Module):
    """The misspecified mechanism: k x."""

    k: jax.Array = qsp.parameter(unit="", doc="rate constant")

    def __call__(self, x):
        return self.k * x


def learned_rate(state, size, output, key):
    """Return a rate that a network learns, 0 where the state is 0."""
    inputs = {state: qsp.models.Input(size, logarithmic=True, zero=True)}
    return qsp.models.NeuralRate.mlp(inputs, width=WIDTH, output=output, key=key)


# --- target-mediated disposition: nM, days ---------------------------------------------------------------------------


class Binding(qsp.AbstractModel):
    """L' = -kel L - kon L R + koff C; R' = kdeg (R0 - R) - kon L R + koff C; C' = kon L R - koff C - uptake(C)."""

    uptake: eqx.Module
    kel: jax.Array = qsp.parameter(unit="1/d", doc="elimination of the free drug", default=0.15)
    kdeg: jax.Array = qsp.parameter(unit="1/d", doc="loss of the free target", default=0.3)
    kon: jax.Array = qsp.parameter(unit="1/nM/d", doc="association", default=20.0)
    koff: jax.Array = qsp.parameter(unit="1/d", doc="dissociation", default=20.0)
    R0: jax.Array = qsp.parameter(unit="nM", doc="baseline of the target", default=10.0)

    def initial(self):
        return {"drug": 0.0, "target": self.R0, "complex": 0.0}

    def vector_field(self, t, y):
        bound = self.kon * y["drug"] * y["target"] - self.koff * y["complex"]
        return {
            "drug": -self.kel * y["drug"] - bound,
            "target": self.kdeg * (self.R0 - y["target"]) - bound,
            "complex": bound - self.uptake(y["complex"]),
        }

    def observe(self, t, y):
        return {"free": y["drug"], "total": y["target"] + y["complex"]}


class NeuralBinding(qsp.AbstractModel):
    """Drug and total target, each with a relative rate that a network gives."""

    network: eqx.nn.MLP

    def initial(self):
        return {"drug": 0.0, "all": 10.0}

    def vector_field(self, t, y):
        drug, everything = y["drug"], y["all"]
        rates = self.network(jnp.log(jnp.stack([drug, everything]) / 10.0 + 0.01))
        return {"drug": 3.0 * rates[0] * drug, "all": rates[1] * everything}

    def observe(self, t, y):
        return {"free": y["drug"], "total": y["all"]}


# --- myelosuppression: cells per 10^9/L, days -------------------------------------------------------------------------


class Friberg(qsp.AbstractModel):
    """prol' = ktr prol ((1 - effect(c)) (circ0 / circ)^gamma - 1), three transits, circ' = ktr (t3 - circ)."""

    effect: eqx.Module
    MTT: jax.Array = qsp.parameter(unit="d", doc="mean transit time", default=5.3)
    gamma: jax.Array = qsp.parameter(unit="", doc="strength of the feedback", default=0.17)
    circ0: jax.Array = qsp.parameter(unit="1e9/L", doc="baseline", default=5.0)
    k: jax.Array = qsp.parameter(unit="1/d", doc="elimination of the drug", default=0.7)

    def initial(self):
        return {"drug": 0.0, **dict.fromkeys(("prol", "t1", "t2", "t3", "circ"), self.circ0)}

    def vector_field(self, t, y):
        ktr = 4.0 / self.MTT
        grows = (1.0 - self.effect(y["drug"])) * (self.circ0 / jnp.maximum(y["circ"], 1e-3)) ** self.gamma
        return {
            "drug": -self.k * y["drug"],
            "prol": ktr * y["prol"] * (grows - 1.0),
            "t1": ktr * (y["prol"] - y["t1"]),
            "t2": ktr * (y["t1"] - y["t2"]),
            "t3": ktr * (y["t2"] - y["t3"]),
            "circ": ktr * (y["t3"] - y["circ"]),
        }

    def observe(self, t, y):
        return {"cells": y["circ"]}


class NeuralCells(qsp.AbstractModel):
    """The drug is known; the cells and two hidden states follow a network."""

    network: eqx.nn.MLP

    def initial(self):
        return {"drug": 0.0, "circ": 5.0, "one": 0.0, "two": 0.0}

    def vector_field(self, t, y):
        inputs = jnp.stack([jnp.log(y["drug"] + 0.1), jnp.log(jnp.maximum(y["circ"], 1e-3) / 5.0), y["one"], y["two"]])
        rates = self.network(inputs)
        return {"drug": -0.7 * y["drug"], "circ": 0.5 * rates[0] * y["circ"], "one": rates[1], "two": rates[2]}

    def observe(self, t, y):
        return {"cells": y["circ"]}


def network(inputs, outputs, key):
    return eqx.nn.MLP(inputs, outputs, WIDTH, 2, activation=jnp.tanh, key=key)


TMDD = {
    "term": "uptake",
    "state": "complex",
    "truth": lambda: Binding(uptake=Saturable(Vmax=4.0, Km=2.0)),
    "hybrid": lambda key: Binding(
        uptake=learned_rate("complex", 5.0, qsp.models.Positive(3.5), key), kel=0.2, kdeg=0.2
    ),
    "misspecified": lambda _: Binding(uptake=Proportional(k=0.7), kel=0.2, kdeg=0.2),
    "neural": lambda key: NeuralBinding(network(2, 2, key)),
    "numbers": {"kel": fit.Free(0.2, bounds=(0.01, 2.0)), "kdeg": fit.Free(0.2, bounds=(0.01, 2.0))},
    "outputs": ("free", "total"),
    "doses": (10.0, 30.0, 100.0, 300.0),
    "until": 14.0,
}
FRIBERG = {
    "term": "effect",
    "state": "drug",
    "truth": lambda: Friberg(effect=Saturable(Vmax=0.9, Km=2.0)),
    "hybrid": lambda key: Friberg(effect=learned_rate("drug", 1.0, qsp.models.Bounded(0.0, 1.0), key), MTT=4.0),
    "misspecified": lambda _: Friberg(effect=Proportional(k=0.1), MTT=4.0),
    "neural": lambda key: NeuralCells(network(4, 3, key)),
    "numbers": {"MTT": fit.Free(4.0, bounds=(1.0, 20.0))},
    "outputs": ("cells",),
    "doses": (1.0, 3.0, 10.0, 30.0),
    "until": 25.0,
}
MODELS = {"tmdd": TMDD, "friberg": FRIBERG}


def experiments(model, doses, times, noise, seed):
    """Return the data of one subject per dose and row of times."""
    random, found = np.random.default_rng(seed), {}
    for number, (dose, ts) in enumerate(zip(doses, times, strict=True)):
        regimen = qsp.bolus(dose, to="drug")
        exact = qsp.simulate(model["truth"](), regimen, ts).observed
        values = np.concatenate([np.asarray(exact[name]) for name in model["outputs"]])
        values = np.maximum(values, 1e-4) * np.exp(noise * random.normal(size=values.size))
        names = np.repeat(model["outputs"], len(ts)).tolist()
        data = fit.Measurements(np.tile(ts, len(model["outputs"])), values, output=names)
        found[f"{number + 1}: {dose:g}"] = fit.Experiment(data, regimen)
    return found


def data_of(model, seed):
    random = np.random.default_rng(100 + seed)
    doses = np.resize(model["doses"], SUBJECTS)
    times = np.sort(random.uniform(0.02, 1.0, (SUBJECTS, 5)), axis=1) * model["until"]
    return experiments(model, doses, times, NOISE, seed)


def problem_of(model, kind, seed):
    key = jax.random.key(seed)
    prior = qsp.Normal(0.0, sd=1.0)
    if kind == "neural":
        parameters = {"network": fit.Weights(prior=prior)}
    elif kind == "hybrid":
        parameters = {**model["numbers"], model["term"]: fit.Weights(prior=prior)}
    else:
        parameters = {**model["numbers"], f"{model['term']}.k": fit.Free(0.5, bounds=(1e-3, 10.0))}
    outputs = {name: fit.Output(name, fit.Combined(1e-2, NOISE)) for name in model["outputs"]}
    return fit.Problem(model[kind](key), data_of(model, seed), outputs, parameters)


def trained(problem, kind):
    steps = STEPS[kind]
    schedule = optax.cosine_decay_schedule(0.03, steps)
    method = fit.Descent(
        mechanism=optax.adam(schedule), networks=optax.adam(schedule), max_steps=steps, clip=1e3, leave_out=0.2
    )
    return fit.estimate(problem, method=method)


def error_outside(model, found):
    """Return the root mean square of log(prediction / truth) at the two unseen doses."""
    doses = (min(model["doses"]) / 5.0, 2.0 * max(model["doses"]))
    ts = np.linspace(0.0, 1.0, 13)[1:] * model["until"]
    errors = []
    for dose in doses:
        regimen = qsp.bolus(dose, to="drug")
        exact = qsp.simulate(model["truth"](), regimen, ts).observed
        predicted = qsp.simulate(found.fitted_model, regimen, ts, throw=False).observed
        for name in model["outputs"]:
            floor = 1e-2
            ratio = (np.abs(np.asarray(predicted[name])) + floor) / (np.asarray(exact[name]) + floor)
            errors.append(np.log(np.where(np.isfinite(ratio), ratio, 1e3)))
    return float(np.sqrt(np.mean(np.square(errors))))


def learned(model, problem, found):
    """Return the learned rate and the truth where the data were, the formula, and whether it has the true form."""
    x = np.maximum(qsp.discover.visited(problem, found.x, [model["state"]])[model["state"]], 0.0)
    term, true_term = getattr(found.fitted_model, model["term"]), getattr(model["truth"](), model["term"])
    best = qsp.discover.distil(term, {"x": x}, measurements=SUBJECTS).best  # its errors are smooth
    x = np.unique(x[x > np.quantile(x, 0.05)])
    rate, truth = np.asarray(jax.vmap(term)(jnp.asarray(x))), np.asarray(true_term(x))
    return {
        "x": x.tolist(),
        "rate": rate.tolist(),
        "true rate": truth.tolist(),
        "rate error": float(np.median(np.abs(rate / truth - 1.0))),
        "formula": str(best.expression),
        "numbers": {name: float(value) for name, value in best.parameters.items()},
        "true form": str(best.expression) == "Vmax * x / (Km + x)",
    }


def one(name, kind, seed):
    """Return what one training has come to."""
    model, began = MODELS[name], time.process_time()
    problem = problem_of(model, kind, seed)
    found = trained(problem, kind)
    row = {"model": name, "kind": kind, "seed": seed, "error": error_outside(model, found)}
    row |= {"log density": found.log_density, "left out": found.who_was_left_out()}
    if kind == "hybrid":
        row |= learned(model, problem, found)
    return row | {"seconds": time.process_time() - began}


def table(rows):
    """Return the table of medians, as Markdown."""
    lines = ["| model | error outside, hybrid | misspecified | neural ODE | error of the rate | true form | CPU s |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for name in MODELS:
        mine = [row for row in rows if row["model"] == name]
        errors = [np.median([row["error"] for row in mine if row["kind"] == kind]) for kind in KINDS]
        hybrids = [row for row in mine if row["kind"] == "hybrid"]
        if not hybrids:
            continue
        cells = [f"{100 * np.expm1(error):.1f} %" if error < 1.0 else f"x {np.exp(error):.1f}" for error in errors]
        cells.append(f"{100 * np.median([row['rate error'] for row in hybrids]):.1f} %")
        cells.append(f"{sum(row['true form'] for row in hybrids)} of {len(hybrids)}")
        cells.append(f"{sum(row['seconds'] for row in mine):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows, path):
    """Draw the learned rates against the truth."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(9.0, 3.6), layout="constrained")
    for ax, name in zip(axes, MODELS, strict=True):
        for row in (row for row in rows if row["model"] == name and row["kind"] == "hybrid"):
            ax.plot(row["x"], row["rate"], color="C0", linewidth=1.0, alpha=0.7, label=f"learned, seed {row['seed']}")
            ax.plot(row["x"], row["true rate"], color="0.2", linestyle="--", linewidth=1.2)
        ax.set_xscale("log")
        ax.set_xlabel(f"{MODELS[name]['state']}, where the data were")
        ax.set_ylabel(f"{MODELS[name]['term']} (dashed: truth)")
        ax.set_title(name, fontsize="medium")
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", choices=MODELS, help="one model")
    parser.add_argument("--store", type=Path, default=Path("recovery.json"), help="where results are kept")
    parser.add_argument("--figure", type=Path, help="where to draw the learned rates")
    arguments = parser.parse_args()
    rows = json.loads(arguments.store.read_text()) if arguments.store.exists() else []
    for name in [arguments.only] if arguments.only else MODELS:
        for seed in range(1 if arguments.quick else SEEDS):
            for kind in KINDS:
                if any((row["model"], row["kind"], row["seed"]) == (name, kind, seed) for row in rows):
                    continue
                rows.append(one(name, kind, seed))
                arguments.store.write_text(json.dumps(rows))
                error, seconds = rows[-1]["error"], rows[-1]["seconds"]
                print(name, kind, seed, f"{error:.3f}", rows[-1].get("formula", ""), f"{seconds:.0f} s", flush=True)
    print(f"\n{platform.processor() or platform.machine()}, jax {jax.__version__}\n\n{table(rows)}")
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
