"""Every record of a data set keeps its own values in a fit: what is predicted is what the simulation gives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Change, Experiment, Free, Measurements, MixedModel, Output, Problem, RandomEffects
from qspjax.fit.mixed._diagnostics import _after_dose

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
RECORDS = 14


def subject(number, rng, *, steady):
    """Return the lines of a subject: few times, so that there are ties, and values of its own in each record."""
    times = np.sort(rng.choice([0.0, 1.0, 2.5, 6.0, 7.0, 12.0, 24.0], size=RECORDS))
    lines = []
    for k, time in enumerate(times):
        kind = rng.choice(["dose", "observation", "other", "reset"], p=[0.35, 0.5, 0.08, 0.07])
        kind = "dose" if k == 0 else "observation" if k in (1, RECORDS - 1) else kind
        evid, amount, rate, more, interval, state, dv = 0, 0.0, 0.0, 0, 0.0, 0, "."
        if kind == "dose":
            evid, amount = (4 if rng.random() < 0.1 else 1), float(rng.choice([50.0, 100.0]))
            rate = float(rng.choice([0.0, 0.0, 40.0, -1.0, -2.0]))
            if rng.random() < 0.3:
                more, interval = int(rng.integers(0, 3)), float(rng.choice([6.0, 12.0]))
                state = int(rng.choice([0, 0, 1, 2])) if steady else 0
            interval = interval if more or state else 0.0
        elif kind == "observation":
            dv = "1"
        else:
            evid = {"other": 2, "reset": 3}[kind]
        own = [rng.choice([0.5, 1.0]), rng.choice([0.0, 0.5, 1.5]), rng.choice([0.5, 1.0]), rng.choice([50.0, 70.0])]
        own += [1 if k == 0 else 2 if k == 1 else rng.integers(1, 4), rng.integers(0, 2)]
        row = [
            number,
            time,
            evid,
            amount,
            rate,
            rng.integers(1, 3) if kind == "dose" else 2,
            more,
            interval,
            state,
            dv,
            *own,
        ]
        lines.append(",".join(map(str, row)))
    return lines


def read(tmp_path, lines, **options):
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return qsp.io.read_nonmem(path, **options)


SOME = (20, qsp.NOCB(), False)
ALL = [(150, qsp.NOCB(), True), (150, qsp.LOCF(), True)]
"""How many random tables, each of one subject: one program serves all of a data set."""


def tables(tmp_path, how):
    count, interpolation, steady = how
    rng = np.random.default_rng(count)
    lines = [line for number in range(1, count + 1) for line in subject(number, rng, steady=steady)]
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


@pytest.mark.parametrize("how", [SOME, *(pytest.param(how, marks=pytest.mark.slow) for how in ALL)], ids=str)
def test_a_fit_predicts_what_a_simulation_gives(tmp_path, how):
    """Of random tables with ties, lags, occasions, durations and rates of the model, resets and steady states."""
    data, rng = tables(tmp_path, how)
    etas = 0.2 * rng.normal(size=(data.subjects, 4))
    mixed = MixedModel(
        TYPICAL,
        qsp.io.experiments(data, "out"),
        {"out": Output("concentration * (1 + ASSAY)", Additive(0.1))},
        parameters={name: Free(value) for name, value in TYPES.items()},
        individual=FORMULAS | {"CL": "tCL * exp(eta + kappa) * WT / 70"},
        random=[RandomEffects({"eta": 0.04}), RandomEffects({"kappa": 0.04}, occasion="OCC")],
        method=METHOD,
    )
    np.testing.assert_allclose(predicted(mixed, etas), simulated(data, etas), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("how", ALL, ids=str)
def test_a_calibration_predicts_what_a_simulation_gives(tmp_path, how):
    data, _ = tables(tmp_path, how)
    # the flag of the assay is for the formula of the output only
    people = qsp.io.experiments(data, "out", set=FORMULAS, covariates=["ASSAY"])
    outputs = {"out": Output("concentration * (1 + ASSAY)", Additive(0.1))}
    problem = Problem(TYPICAL, people, outputs, {name: Free(value) for name, value in TYPES.items()}, method=METHOD)
    found = problem.table(problem.start)["prediction"]
    np.testing.assert_allclose(found, simulated(data, None), rtol=1e-6, atol=1e-8)


# --- closed forms ---------------------------------------------------------------------------------------------------

ORAL = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.0)
THREE = """ID,TIME,AMT,DV,CMT,BIO,ASSAY
1,0,100,.,1,1,0
1,6,.,1,2,1,0
1,6,.,1,2,1,1
1,12,.,1,2,0.5,2
1,12,100,.,1,0.25,0
1,12,100,.,1,0.75,0
1,12,.,1,2,0.5,1
1,12,100,.,1,0.5,0
1,20,.,1,2,0.75,0
1,20,.,1,2,0.1,3
"""


def after(t, dose):
    """Return the concentration of the oral model a time after a dose."""
    return np.where(t > 0, dose / (30.0 * 0.9) * (np.exp(-0.1 * t) - np.exp(-t)), 0.0)


def test_doses_and_observations_of_one_moment(tmp_path):
    data = read(tmp_path, THREE.splitlines())
    times, flags = np.array([6.0, 6.0, 12.0, 12.0, 20.0, 20.0]), np.array([0, 1, 2, 1, 0, 3])
    right = (after(times, 100.0) + after(times - 12.0, 150.0)) * (1.0 + flags)
    outputs = {"out": Output("concentration * (1 + ASSAY)", Additive("sd"))}
    mixed = MixedModel(
        ORAL,
        qsp.io.experiments(data, "out"),
        outputs,
        parameters={"Ftyp": Free(1.0), "sd": Free(0.1)},
        individual={"F": "Ftyp * BIO * exp(eta)"},
        random=[RandomEffects({"eta": 0.01})],
        method=METHOD,
    )
    np.testing.assert_allclose(predicted(mixed, np.zeros((1, 1))), right, rtol=1e-6)
    with_bio = qsp.io.experiments(data, "out", set={"F": "Ftyp * BIO"})["1"]
    assert [(change.at, change.order) for change in with_bio.changes][:2] == [(6.0, 3.5), (12.0, 4.5)]
    (rows,) = mixed.rows
    np.testing.assert_array_equal(rows.time, times)
    np.testing.assert_array_equal(_after_dose(mixed, rows), [6, 6, 12, 0, 8, 8])


class Bolus(qsp.AbstractDelivered):
    """One compartment without a lag, so that a calibration goes on in stages."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination")
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability")

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        return {"central": -self.k * y["central"]}

    def observe(self, t, y):
        return {"concentration": y["central"] / 30.0}

    def deliveries(self):
        return {"central": qsp.Delivery("central", bioavailability=self.F)}


def test_stages_of_one_moment(tmp_path):
    data = read(tmp_path, [",".join((*line.split(",")[:4], *line.split(",")[5:])) for line in THREE.splitlines()])
    people = qsp.io.experiments(data, "out", set={"F": "Ftyp * BIO"})
    problem = Problem(Bolus(k=0.1, F=1.0), people, {"out": Output("concentration", Additive(0.1))}, {"Ftyp": Free(1.0)})
    assert len(problem.layout.stages.stages) > 5
    times = np.array([6.0, 6.0, 12.0, 12.0, 20.0, 20.0])
    given = np.array([0.0, 0.0, 0.0, 100.0, 150.0, 150.0])
    right = (100.0 * np.exp(-0.1 * times) + given * np.exp(-0.1 * np.maximum(times - 12.0, 0.0))) / 30.0
    np.testing.assert_allclose(problem.table(problem.start)["prediction"], right, rtol=1e-8)


LOCF = """ID,TIME,AMT,DV,BIO,VOL
1,0,100,.,1,30
1,12,.,1,0.9,30
1,12,100,.,0.5,30
1,20,.,1,0.5,60
1,24,.,1,0.5,60
"""


def test_a_value_carried_forward_holds_from_its_own_record_on(tmp_path):
    data = read(tmp_path, LOCF.splitlines(), interpolation=qsp.LOCF())
    model = Patient(CL=3.0, V=30.0, ka=1.0, F=1.0, lag=0.0, D=1.0, R=1.0, base=1e-9)
    people = qsp.io.experiments(data, "out", covariates=["BIO", "VOL"])
    outputs = {"out": Output("concentration * 30 / VOL", Additive(0.1))}
    mixed = MixedModel(
        model, people, outputs, parameters={"CL": Free(3.0)}, individual={"F": "BIO * exp(eta)"},
        random=[RandomEffects({"eta": 0.01})], method=METHOD,
    )  # fmt: skip
    t = np.array([12.0, 20.0, 24.0])
    right = (after(t, 100.0) + after(t - 12.0, 50.0)) * [1.0, 0.5, 0.5]
    np.testing.assert_allclose(predicted(mixed, np.zeros((1, 1))), right, rtol=1e-6)


def test_a_calibration_with_a_lag_and_an_infusion_over_changes():
    """Doses that go on beyond a change: the dose at 1 enters at 3 with what holds at 1, the infusion ends at 6."""
    model = Patient(CL=3.0, V=30.0, ka=1.0, F=1.0, lag=2.0, D=1.0, R=1.0, base=1e-9)
    doses = qsp.bolus(100.0, to="central", at=0.0) + qsp.bolus(100.0, to="depot", at=1.0)
    doses += qsp.infusion(40.0, to="central", over=4.0, at=2.0)
    change = Change(2.0, set={"F": 0.5, "V": "2 * V0", "CL": "2 * CL0"})  # acts before the infusion
    data = Measurements([1.0, 2.0, 5.0, 8.0], [1.0] * 4, output="out")
    one = Experiment(data, doses, set={"V": "V0", "CL": "CL0"}, changes=[change])
    free = {"V0": Free(30.0), "CL0": Free(3.0)}
    problem = Problem(model, one, {"out": Output("concentration", Additive(0.1))}, free, method=METHOD)
    t = data.time
    lasts = np.exp(-0.1 * np.maximum(t - 6.0, 0.0)) - np.exp(-0.1 * np.maximum(t - 2.0, 0.0))
    amounts = 100.0 * np.exp(-0.1 * t) + 30.0 * after(t - 3.0, 100.0) + 0.5 * 10.0 / 0.1 * lasts
    right = amounts / np.where(t < 2.0, 30.0, 60.0)
    np.testing.assert_allclose(problem.table(problem.start)["prediction"], right, rtol=1e-6)
    put = Experiment(data, doses, set={"V": "V0", "CL": "CL0"}, changes=[Change(2.0, put={"central": 1.0})])
    with pytest.raises(ValueError, match="`regimen` must have boluses without a lag only|must have doses that enter"):
        Problem(model, put, {"out": Output("concentration", Additive(0.1))}, free, method=METHOD)


def test_a_data_set_made_again_has_the_order_of_the_records(tmp_path):
    data = read(tmp_path, THREE.splitlines())
    again = qsp.io.NonmemData.of(data.regimen, data.ts, observed=data.dv, order=data.order)
    np.testing.assert_array_equal(again.dv[0][np.isfinite(again.dv[0])], np.ones(6))
    assert again.evid[0, -10:].tolist() == data.evid[0].tolist() or again.evid.shape[1] > data.evid.shape[1]
    both = {name: qsp.io.experiments(one, "out", covariates=[])["1"] for name, one in (("read", data), ("made", again))}
    outputs = {"out": Output("concentration", Additive(0.1))}
    found = [
        Problem(ORAL, one, outputs, {"CL": Free(3.0)}).table(jnp.log(jnp.array([3.0])))["prediction"]
        for one in both.values()
    ]
    np.testing.assert_allclose(*found, rtol=1e-9)
    with pytest.raises(ValueError, match="`order` must have the shape of the outputs"):
        qsp.io.NonmemData.of(data.regimen, data.ts, order=[1.0])
    with pytest.raises(ValueError, match="`data` must have every subject once, but subject 1 occurs again"):
        qsp.io.experiments(data.take([0, 0]), "out")


def test_changes_of_one_moment_have_an_order():
    data = Measurements([2.0, 2.0, 2.0], [1.0] * 3, output="out", order=[1, 2, 3])
    changes = [Change(2.0, set={"k": 2.0}, order=1.5), Change(2.0, set={"k": 3.0}, order=2.5)]
    one = Experiment(data, qsp.bolus(30.0, to="central"), set={"k": 1.0}, changes=changes)
    outputs = {"out": Output("concentration * k", Additive(0.1))}
    problem = Problem(qsp.models.OneCompartment(CL=3.0, V=30.0), one, outputs, {"CL": Free(3.0)})
    np.testing.assert_allclose(
        problem.table(problem.start)["prediction"], np.exp(-0.2) * np.array([1.0, 2.0, 3.0]), rtol=1e-8
    )
    with pytest.raises(ValueError, match="`changes` must be in the order of time, and of `order` at equal times"):
        Experiment(data, changes=changes[::-1])
