"""Training a network in a mechanism: an epoch, against the same by hand with diffrax, equinox and optax.

    python benchmarks/hybrid.py [--problems tmdd] [--subjects N] [--markdown] [--save FILE.json]

An epoch is the loss over all subjects (squared residuals of log concentrations against fixed synthetic data), its
gradient with respect to all weights of the network, and a step of Adam. Problems: `tmdd`, stiff, full target-mediated
disposition with 2 x 32 units in place of the internalisation of the complex; `saturable`, not stiff, two compartments
with 2 x 32 units in place of the elimination; `tmdd, 2 x 100`, the first with 10,000 weights, of which the gradient is
given in values, too. By hand, as its documentation recommends: `diffeqsolve` from dose to dose in a scan, under `vmap`
over subjects, with `RecursiveCheckpointAdjoint` and a `PIDController`; Tsit5 where not stiff, Kvaerno5 where stiff,
with Newton iterations in place of the default chord ones, which take 16 times as long.

Every row is a process of its own, one after the other on one core: CPU milliseconds a subject in the best of some
epochs and CPU seconds of the first (tracing and compiling), errors of the loss and of the gradient (|g - g*| / |g*|)
against ours at rtol 1e-10 for the same subjects, and the most memory that the process held beyond what it held before
the first epoch.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
from ensemble import machine, pin, table
from jax.flatten_util import ravel_pytree

import qspjax as qsp

SUBJECTS = 100
DAYS, INTERVAL, DOSES = 84.0, 21.0, 4
EACH = 3
"""Samples in each interval between doses."""
TIGHT = 1e-10
WIDTHS = {"tmdd": 32, "saturable": 32, "tmdd, 2 x 100": 100}


def network(width):
    """Return a network of two numbers with one result, small at the start as for a correction."""
    net = eqx.nn.MLP(2, "scalar", width, 2, jnp.tanh, key=jax.random.key(0))
    return eqx.tree_at(lambda net: net.layers[-1].weight, net, replace_fn=lambda w: 0.3 * w)


class Tmdd(qsp.AbstractModel):
    """Full target-mediated disposition with a learned internalisation; amounts in nmol/L."""

    CL: jax.Array = qsp.parameter(unit="1/d", doc="elimination of the drug")
    kon: jax.Array = qsp.parameter(unit="L/nmol/d", doc="association")
    kint: eqx.nn.MLP

    def initial(self):
        return {"drug": 0.0, "target": 5.0, "complex": 0.0}

    def vector_field(self, t, y):
        states = "drug", "target", "complex"  # y comes in the order of its sorted keys
        slopes = tmdd_slope(self.CL, self.kon, self.kint, *(y[name] for name in states))
        return dict(zip(states, slopes, strict=True))

    def observe(self, t, y):
        return {"concentration": y["drug"]}


def tmdd_slope(CL, kon, net, drug, target, complex):  # noqa: N803 (the symbol of the field)
    binding = kon * drug * target - 10.0 * complex
    learned = 0.2 * jax.nn.softplus(net(jnp.stack([jnp.log1p(jnp.abs(drug)), jnp.log1p(jnp.abs(complex))])))
    return -CL * drug - binding, 2.0 - 0.4 * target - binding, binding - learned * complex


class Saturable(qsp.AbstractModel):
    """Two compartments with a learned elimination; concentrations in mg/L."""

    CL: jax.Array = qsp.parameter(unit="1/d", doc="elimination")
    kon: jax.Array = qsp.parameter(unit="1/d", doc="distribution")
    rate: eqx.nn.MLP

    def initial(self):
        return {"drug": 0.0, "peripheral": 0.0, "effect": 0.0}

    def vector_field(self, t, y):
        states = "drug", "peripheral", "effect"
        slopes = saturable_slope(self.CL, self.kon, self.rate, *(y[name] for name in states))
        return dict(zip(states, slopes, strict=True))

    def observe(self, t, y):
        return {"concentration": y["drug"]}


def saturable_slope(CL, kon, net, drug, peripheral, effect):  # noqa: N803
    learned = 0.3 * jax.nn.softplus(net(jnp.stack([0.05 * drug, 0.1 * effect])))
    exchange = kon * (drug - peripheral)
    return -CL * drug - learned * drug - exchange, exchange, 0.2 * (drug - effect)


STIFF = {"tmdd": True, "saturable": False, "tmdd, 2 x 100": True}


def setting(name, subjects):
    """Return what both programs are given: parameters and doses of the subjects, times, and data."""
    rng = np.random.default_rng(0)
    stiff = STIFF[name]
    CL = (0.15 if stiff else 0.08) * np.exp(0.3 * rng.standard_normal(subjects))  # noqa: N806
    kon = (50.0 if stiff else 0.6) * np.exp(0.3 * rng.standard_normal(subjects))
    doses = np.exp(rng.uniform(np.log(5.0), np.log(200.0), subjects))
    inner = np.array([0.05, 0.35, 0.9]) * INTERVAL
    ts = (np.arange(DOSES)[:, None] * INTERVAL + inner).ravel()
    decay = np.exp(-0.15 * (ts[None, :] % INTERVAL)) * doses[:, None] + 0.1
    return CL, kon, doses, ts, decay * np.exp(0.2 * rng.standard_normal(decay.shape))


def loss_of(concentrations, data):
    return jnp.mean((jnp.log(jnp.maximum(concentrations, 0.0) + 0.1) - jnp.log(data)) ** 2)


def ours(name, subjects, rtol):
    CL, kon, doses, ts, data = setting(name, subjects)  # noqa: N806
    kind = Tmdd if STIFF[name] else Saturable
    method = (qsp.solve.Rosenbrock if STIFF[name] else qsp.solve.Explicit)(rtol=rtol, atol=1e-3 * rtol)
    regimen = qsp.bolus(doses, to="drug").every(INTERVAL, doses=DOSES)

    def loss(net):
        model = kind(0.1, 1.0, net)
        cohort = qsp.Cohort.of(model, {"CL": CL, "kon": kon})
        return loss_of(qsp.simulate_cohort(cohort, regimen, ts, method=method).observed["concentration"], data)

    return loss


def by_hand(name, subjects, rtol):
    import diffrax

    CL, kon, doses, ts, data = setting(name, subjects)  # noqa: N806
    slope = tmdd_slope if STIFF[name] else saturable_slope
    newton = optimistix.Newton(rtol=10.0 * rtol, atol=1e-2 * rtol)
    solver = diffrax.Kvaerno5(root_finder=newton) if STIFF[name] else diffrax.Tsit5()
    start = jnp.array([0.0, 5.0 if STIFF[name] else 0.0, 0.0])
    times = jnp.asarray(ts.reshape(DOSES, EACH))

    def one(net, CL, kon, dose):  # noqa: N803
        def field(_, y, __):
            return jnp.stack(slope(CL, kon, net, y[0], y[1], y[2]))

        def interval(y, given):
            begin, within = given
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                solver,
                begin,
                begin + INTERVAL,
                None,
                y.at[0].add(dose),
                saveat=diffrax.SaveAt(ts=jnp.append(within, begin + INTERVAL)),
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol),
                adjoint=diffrax.RecursiveCheckpointAdjoint(),
                max_steps=2**16,
            )
            return solution.ys[-1], solution.ys[:-1, 0]

        begins = INTERVAL * jnp.arange(DOSES)
        return jax.lax.scan(interval, start, (begins, times))[1].reshape(-1)

    def loss(net):
        concentrations = jax.vmap(one, in_axes=(None, 0, 0, 0))(net, jnp.asarray(CL), jnp.asarray(kon), doses)
        return loss_of(concentrations, data)

    return loss


def measured(function, *arguments, repeats):
    """Return the result, CPU seconds of the first call, and of the best of some more."""
    begun = time.process_time()
    result = jax.block_until_ready(function(*arguments))
    first, best = time.process_time() - begun, np.inf
    for _ in range(repeats):
        begun = time.process_time()
        result = jax.block_until_ready(function(*arguments))
        best = min(best, time.process_time() - begun)
        if best > 10.0:
            break
    return result, first, best


def row(who, name, subjects, rtol):
    """Return one row, measured in this process."""
    weights, static = eqx.partition(network(WIDTHS[name]), eqx.is_inexact_array)
    own = {"ours": ours, "by hand": by_hand}[who](name, subjects, rtol)
    adam = optax.adam(1e-3)

    def loss(weights):
        return own(eqx.combine(weights, static))

    @jax.jit
    def epoch(weights, state):
        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = adam.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, value, gradient

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (_, _, value, gradient), first, best = measured(epoch, weights, adam.init(weights), repeats=5)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    _, _, alone = measured(jax.jit(loss), weights, repeats=5)
    flat = np.asarray(ravel_pytree(gradient)[0])
    times = {"first": first, "epoch": best, "value": alone}
    return {"loss": float(value), "gradient": flat.tolist(), "memory": held / 1e3, **times}


def rows_of(name, subjects, run):
    programs = [("ours", 1e-6, subjects)]
    if WIDTHS[name] == 32:
        programs += [("ours", 1e-5, subjects), ("by hand", 1e-6, subjects)]
    rows = []
    for who, rtol, count in programs:
        reference = run("ours", name, count, TIGHT)
        exact, weights = np.array(reference["gradient"]), len(reference["gradient"])
        found = run(who, name, count, rtol)
        if found is None:
            continue
        found["wrong value"] = abs(found["loss"] - reference["loss"]) / reference["loss"]
        found["wrong gradient"] = float(np.linalg.norm(np.array(found.pop("gradient")) - exact) / np.linalg.norm(exact))
        rows.append({"who": who, "name": name, "rtol": rtol, "subjects": count, "weights": weights, **found})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--subjects", type=int, default=SUBJECTS)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    parser.add_argument("--core", type=int, help="the core to run on; by default the last that there is")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin(arguments.core)
    if arguments.row:
        who, name, rtol = arguments.row
        print(json.dumps(row(who, name, arguments.subjects, float(rtol))))
        return

    def run(who, name, subjects, rtol):
        command = [sys.executable, __file__, "--subjects", str(subjects), "--row", who, name, str(rtol)]
        command += [] if arguments.core is None else ["--core", str(arguments.core)]
        environment = os.environ | {
            "QSPJAX_CACHE": "off",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "JAX_ENABLE_X64": "1",
        }
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if found.returncode:
            print(f"{who}, {name}: failed. {found.stderr.strip().splitlines()[-1:]}")
            return None
        return json.loads(found.stdout.splitlines()[-1])

    print(", ".join(f"{key} {value}" for key, value in machine().items()), end="\n\n")
    rows = [row for name in arguments.problems for row in rows_of(name, arguments.subjects, run)]
    head = [
        "problem",
        "program",
        "weights",
        "subjects",
        "epoch, CPU ms a subject",
        "in values",
        "first, CPU s",
        "error of loss",
        "of gradient",
        "MB",
    ]
    lines = [
        [
            row["name"],
            f"{row['who']}, rtol {row['rtol']:g}",
            str(row["weights"]),
            str(row["subjects"]),
            f"{1e3 * row['epoch'] / row['subjects']:.3g}",
            f"{row['epoch'] / row['value']:.1f}",
            f"{row['first']:.1f}",
            f"{row['wrong value']:.0e}",
            f"{row['wrong gradient']:.0e}",
            f"{row['memory']:.0f}",
        ]
        for row in rows
    ]
    table(head, lines, markdown=arguments.markdown)
    if arguments.save:
        arguments.save.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
