"""Every record of a data set keeps its own values in a fit: what is predicted is what the simulation gives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Mixed, Output, Problem, Random

METHOD = qsp.solve.Explicit(rtol=1e-9, atol=1e-11)


class Amounts(NamedTuple):
    depot: jax.Array
    central: jax.Array


class Patient(qsp.AbstractDelivered):
    """Absorption and elimination; everything about a dose is a parameter."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance")
    V: jax.Array = qsp.parameter(unit="L", doc="volume")
    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption")
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability")
    lag: jax.Array = qsp.parameter(unit="h", doc="lag", minimum=0.0)
    D: jax.Array = qsp.parameter(unit="h", doc="duration")
    R: jax.Array = qsp.parameter(unit="mg/h", doc="rate")
    base: jax.Array = qsp.parameter(unit="mg", doc="amount at the start")

    def initial(self):
        return Amounts(0.0, self.base)

    def vector_field(self, t, y):
        return Amounts(-self.ka * y.depot, self.ka * y.depot - self.CL / self.V * y.central)

    def observe(self, t, y):
        return {"concentration": y.central / self.V}

    def deliveries(self):
        numbers = {"bioavailability": self.F, "duration": self.D, "rate": self.R}
        return {"depot": qsp.Delivery("depot", lag=self.lag, **numbers), "central": qsp.Delivery("central", **numbers)}


TYPICAL = Patient(CL=3.0, V=30.0, ka=1.0, F=1.0, lag=0.5, D=2.0, R=50.0, base=1.0)
HEAD = "ID,TIME,EVID,AMT,RATE,CMT,ADDL,II,SS,DV,BIO,LAG,DUR1,WT,OCC,ASSAY"
FORMULAS = {
    "CL": "tCL * WT / 70",
    "V": "tV * WT / 70",
    "F": "tF * BIO",
    "lag": "tlag * LAG",
    "D": "tD * DUR1",
    "R": "tR * WT",
    "base": "tbase * WT",
}
TYPES = {"tCL": 3.0, "tV": 30.0, "tF": 0.8, "tlag": 1.0, "tD": 2.0, "tR": 0.7, "tbase": 0.02}
RECORDS, SUBJECTS = 14, 20


def subject(number, rng):
    """Return the lines of a subject: few times, so that there are ties, and values of its own in each record."""
    times = np.sort(rng.choice([0.0, 1.0, 2.5, 6.0, 7.0, 12.0, 24.0], size=RECORDS))
    lines = []
    for k, time in enumerate(times):
        kind = rng.choice(["dose", "observation", "other", "reset"], p=[0.35, 0.5, 0.08, 0.07])
        kind = "dose" if k == 0 else "observation" if k in (1, RECORDS - 1) else kind
        evid, amount, rate, more, interval, steady, dv = 0, 0.0, 0.0, 0, 0.0, 0, "."
        compartment = rng.integers(1, 3)
        if kind == "dose":
            evid, amount = (4 if rng.random() < 0.1 else 1), float(rng.choice([50.0, 100.0]))
            rate = float(rng.choice([0.0, 0.0, 40.0, -1.0, -2.0]))
            if rng.random() < 0.3:
                more, interval = int(rng.integers(0, 3)), float(rng.choice([6.0, 12.0]))
                steady = int(rng.choice([0, 0, 1, 2]))
            interval = interval if more or steady else 0.0
        elif kind == "observation":
            dv = "1"
        else:
            evid = {"other": 2, "reset": 3}[kind]
        own = [rng.choice([0.5, 1.0]), rng.choice([0.0, 0.5, 1.5]), rng.choice([0.5, 1.0]), rng.choice([50.0, 70.0])]
        own += [1 if k == 0 else 2 if k == 1 else rng.integers(1, 4), rng.integers(0, 2)]
        row = [number, time, evid, amount, rate, compartment, more, interval, steady, dv, *own]
        lines.append(",".join(map(str, row)))
    return lines


def read(tmp_path, lines, **options):
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return qsp.io.read_nonmem(path, **options)


def tables(tmp_path, seed, interpolation):
    rng = np.random.default_rng(seed)
    lines = [line for number in range(1, SUBJECTS + 1) for line in subject(number, rng)]
    return read(tmp_path, [HEAD, *lines], interpolation=interpolation), rng


def predicted(mixed, etas):
    x = jnp.asarray(mixed.start)
    u = jnp.asarray(np.linalg.solve(np.asarray(mixed.factor(x)), etas.T).T)
    ((found, _),) = mixed.predicted(x, u, mixed.expanded(x, u, 0))
    return np.asarray(found)


def simulated(data, etas):
    """Return what a simulation of the data set gives at its observations."""
    names = {"CL": "WT", "V": "WT", "F": "BIO", "lag": "LAG", "D": "DUR1", "R": "WT", "base": "WT"}
    scale = {"CL": 1 / 70, "V": 1 / 70}
    sources = {
        name: lambda c, name=name, column=column: TYPES[f"t{name}"] * scale.get(name, 1.0) * c[column]
        for name, column in names.items()
    }
    if etas is not None:
        which = [np.where(data.varying["OCC"] == k, etas[:, [k]], 0.0) for k in (1, 2, 3)]
        more = {"CL": np.exp(etas[:, :1] + sum(which))}
        sources["CL"] = lambda c, plain=sources["CL"]: plain(c) * more["CL"]
    cohort, regimen = data.patients(TYPICAL, sources)
    found = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order, method=METHOD)
    assert not found.failed.any()
    return (np.asarray(found.observed["concentration"]) * (1.0 + data.varying["ASSAY"]))[np.isfinite(data.dv)]


SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 15))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fit_predicts_what_a_simulation_gives(tmp_path, seed):
    """Of random tables with ties, lags, occasions, durations and rates of the model, resets and steady states."""
    data, rng = tables(tmp_path, seed, qsp.LOCF() if seed % 2 else qsp.NOCB())
    etas = 0.2 * rng.normal(size=(SUBJECTS, 4))
    mixed = Mixed(
        TYPICAL,
        data.experiments("out"),
        {"out": Output("concentration * (1 + ASSAY)", Additive(0.1))},
        parameters={name: Free(value) for name, value in TYPES.items()},
        individual=FORMULAS | {"CL": "tCL * exp(eta + kappa) * WT / 70"},
        random=[Random({"eta": 0.04}), Random({"kappa": 0.04}, occasion="OCC")],
        method=METHOD,
    )
    np.testing.assert_allclose(predicted(mixed, etas), simulated(data, etas), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 15))])
def test_a_calibration_predicts_what_a_simulation_gives(tmp_path, seed):
    data, _ = tables(tmp_path, seed, qsp.LOCF() if seed % 2 else qsp.NOCB())
    people, seen = qsp.io.experiments(data, "out", set=FORMULAS), data.experiments("out", covariates=["ASSAY"])
    # the flag of the assay is for the formula of the output only
    people = {
        name: Experiment(one.measurements, one.regimen, set=one.begin.set | seen[name].begin.set,
                         changes=sorted([*one.changes, *seen[name].changes], key=lambda c: (c.at, c.order)),
                         start=one.start)
        for name, one in people.items()
    }  # fmt: skip
    outputs = {"out": Output("concentration * (1 + ASSAY)", Additive(0.1))}
    problem = Problem(TYPICAL, people, outputs, {name: Free(value) for name, value in TYPES.items()}, method=METHOD)
    found = problem.table(problem.start)["prediction"]
    np.testing.assert_allclose(found, simulated(data, None), rtol=1e-6, atol=1e-8)
