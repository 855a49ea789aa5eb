"""Every kind of record and its gradients against closed forms: all cases are one padded cohort, so one program each.

Truth is a superposition of doses (`systems.linear_pk`), a steady state being many doses before; derivatives of truth
are complex steps. The derivative at an output that coincides with a dose is that of the side after the dose.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._dosing._regimen import Regimen, stacked
from qspjax.solve.dosing._targets import with_targets
from tests.systems import linear_pk as exact
from tests.systems.linear_pk import Dose
from tests.systems.marks import slow_for

SYSTEM = exact.ONE_COMPARTMENT_ORAL
MODEL = ("CL", "V", "ka", "tlag", "F")
VALUES = {
    **{"CL": 3.7, "V": 12.5, "ka": 1.15, "tlag": 0.4, "F": 0.8},
    **{"amount": 100.0, "at": 1.0, "interval": 12.0, "over": 3.0, "rate": 6.0, "reset": 25.2},
}
NAMES = tuple(VALUES)
X = jnp.asarray(list(VALUES.values()))
TS = np.array([0.5, 1.0, 1.4, 1.7, 3.0, 4.1, 9.3, 13.0, 13.4, 14.0, 20.0, 25.1, 26.0, 27.5, 30.0, 41.0, 52.0, 70.0])
METHODS = {
    "MatrixExponential": qsp.solve.MatrixExponential(),
    "Rosenbrock": qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12),
    "Diffrax": qsp.solve.Diffrax(rtol=1e-10, atol=1e-12),
}
LONG = 400
"""Doses before a steady state, as many as matter to rounding and more."""


@dataclass(frozen=True)
class Case:
    """A regimen, and the concentration it gives, both as functions of the values by name."""

    regimen: Callable[[dict], Regimen]
    truth: Callable[[dict], Any]


def series(p, count, *, first=0, at=None, every=None, **dose):
    """Doses number `first` and after, at their interval."""
    at, every = p["at"] if at is None else at, p["interval"] if every is None else every
    return [Dose(dose.get("amount", p["amount"]), at + i * every, **_rest(dose)) for i in range(first, count)]


def _rest(dose):
    return {name: value for name, value in dose.items() if name != "amount"}


def given(p, doses, *, after=None, then=()):
    """The concentration of some doses, and of others from a time on at which everything begins anew."""
    parameters = {name: p[name] for name in MODEL}
    before = exact.concentration(SYSTEM, parameters, doses, TS) if doses else np.zeros(TS.size)
    if after is None:
        return before
    later = exact.concentration(SYSTEM, parameters, list(then), TS) if then else np.zeros(TS.size)
    return np.where(np.real(after) <= TS, later, before)


def single(to="depot", **dose):
    return lambda p: qsp.infusion(p["amount"], to=to, at=p["at"], **{k: p[v] for k, v in dose.items()})


def bolus(p, to="depot", at=None):
    return qsp.bolus(p["amount"], to=to, at=p["at"] if at is None else at)


PULSES = {
    "a lag across a reset": Case(
        lambda p: (
            bolus(p).every(p["interval"], doses=4)
            + qsp.reset(at=p["reset"])
            + bolus(p, to="central", at=p["reset"] + 2.0)
        ),
        lambda p: given(p, series(p, 3), after=p["reset"], then=[Dose(p["amount"], p["reset"] + 2.0, to="central")]),
    ),
    "an infusion across a reset": Case(
        lambda p: (
            qsp.infusion(p["amount"], to="depot", over=p["over"], at=p["reset"] - 1.5)
            + qsp.reset(at=p["reset"])
            + qsp.infusion(p["amount"], to="central", over=p["over"], at=p["reset"])
        ),
        lambda p: given(
            p,
            [Dose(p["amount"], p["reset"] - 1.5, duration=p["over"])],
            after=p["reset"],
            then=[Dose(p["amount"], p["reset"], duration=p["over"], to="central")],
        ),
    ),
    "two doses at one instant": Case(
        lambda p: (
            bolus(p) + bolus(p, to="central") + qsp.infusion(p["amount"], to="central", over=p["over"], at=p["at"])
        ),
        lambda p: given(
            p,
            [
                *series(p, 1),
                *series(p, 1, to="central"),
                *series(p, 1, to="central", duration=p["over"]),
            ],
        ),
    ),
    "a dose at an output": Case(
        lambda p: bolus(p, to="central").every(p["interval"], doses=3),
        lambda p: given(p, series(p, 3, to="central")),
    ),
    "a lag that moves a dose past another": Case(
        lambda p: bolus(p) + bolus(p, to="central", at=p["at"] + 0.2),
        lambda p: given(p, [*series(p, 1), *series(p, 1, at=p["at"] + 0.2, to="central")]),
    ),
    "an infusion that ends as the next begins": Case(
        lambda p: qsp.infusion(p["amount"], to="depot", over=p["interval"], at=p["at"]).every(p["interval"], doses=3),
        lambda p: given(p, series(p, 3, duration=p["interval"])),
    ),
    "bioavailability scales the duration": Case(
        lambda p: qsp.infusion(p["amount"], to="depot", rate=p["rate"], at=p["at"]).every(p["interval"], doses=3),
        lambda p: given(p, series(p, 3, rate=p["rate"])),
    ),
    "bioavailability scales the rate": Case(
        lambda p: qsp.infusion(p["amount"], to="depot", over=p["over"], at=p["at"]).every(p["interval"], doses=2),
        lambda p: given(p, series(p, 2, duration=p["over"])),
    ),
}


def past(p, count, **dose):
    return series(p, count, first=-LONG, **dose)


STEADY = {
    "boluses with a lag": Case(
        lambda p: bolus(p).every(p["interval"], doses=3).at_steady_state(),
        lambda p: given(p, [], after=p["at"], then=past(p, 3)),
    ),
    "boluses without": Case(
        lambda p: bolus(p, to="central").every(p["interval"], doses=2).at_steady_state(),
        lambda p: given(p, [], after=p["at"], then=past(p, 2, to="central")),
    ),
    "infusions longer than the interval": Case(
        lambda p: (
            qsp.infusion(p["amount"], to="depot", rate=p["rate"], at=p["at"])
            .every(p["interval"], doses=2)
            .at_steady_state()
        ),
        lambda p: given(p, [], after=p["at"], then=past(p, 2, rate=p["rate"])),
    ),
    "infusions into the next interval": Case(
        lambda p: (
            qsp.infusion(p["amount"], to="depot", over=p["interval"] - 0.1, at=p["at"])
            .every(p["interval"], doses=3)
            .at_steady_state()
        ),
        lambda p: given(p, [], after=p["at"], then=past(p, 3, duration=p["interval"] - 0.1)),
    ),
    "a lag longer than the interval": Case(
        lambda p: bolus(p).every(0.027 * p["interval"], doses=5).at_steady_state(),
        lambda p: given(p, [], after=p["at"], then=past(p, 5, every=0.027 * p["interval"])),
    ),
    "a constant infusion": Case(
        lambda p: qsp.infusion(0.0, to="depot", rate=p["rate"], at=p["at"]).at_steady_state(),
        lambda p: given(p, [], after=p["at"], then=[Dose(p["rate"] * 900.0 / p["F"], p["at"] - 900.0, rate=p["rate"])]),
    ),
    "several doses in an interval": Case(
        lambda p: (
            (bolus(p) + qsp.infusion(p["amount"], to="central", over=p["over"], at=p["at"] + 10.0))
            .every(p["interval"], doses=3)
            .at_steady_state()
        ),
        lambda p: given(
            p, [], after=p["at"], then=[*past(p, 3), *past(p, 3, at=p["at"] + 10.0, duration=p["over"], to="central")]
        ),
    ),
    "one steady state added to another": Case(
        lambda p: (
            bolus(p).every(p["interval"], doses=4).at_steady_state()
            + qsp.infusion(p["amount"], to="central", over=p["over"], at=p["at"] + 5.0)
            .every(p["interval"], doses=2)
            .at_steady_state(added=True)
        ),
        lambda p: (
            given(p, [], after=p["at"], then=past(p, 4))
            + given(p, [], after=p["at"] + 5.0, then=past(p, 2, at=p["at"] + 5.0, duration=p["over"], to="central"))
        ),
    ),
    "one that cancels what was ordered": Case(
        lambda p: (
            qsp.infusion(p["amount"], to="depot", over=p["over"], at=0.0).every(0.2, doses=9)
            + bolus(p).every(p["interval"], doses=2).at_steady_state()
        ),
        lambda p: given(
            p,
            [Dose(p["amount"], 0.2 * i, duration=p["over"]) for i in range(9)],
            after=p["at"],
            then=past(p, 2),
        ),
    ),
}
GROUPS = {"pulses": PULSES, "steady": STEADY}


def concentrations(x, group, method):
    """Return the concentrations of all cases of a group, shape (cases, times)."""
    p = dict(zip(NAMES, x, strict=True))
    model = qsp.models.OneCompartmentOral(**{name: p[name] for name in MODEL})
    regimens = [with_targets(model, case.regimen(p), SYSTEM.states) for case in GROUPS[group].values()]

    def one(regimen):
        return qsp.simulate(model, regimen, TS, method=METHODS[method], throw=False).observed["concentration"]

    return jax.vmap(one)(stacked(regimens))


def derived(group, method, mode):
    jacobian = {"forward": jax.jacfwd, "reverse": jax.jacrev}[mode]

    def both(x):
        found = concentrations(x, group, method)
        return found, found

    return jax.jit(jacobian(both, has_aux=True))(X)


def check(got, reference, tolerance, name):
    floor = 1e-6 * np.abs(reference).max()
    error = np.abs(np.asarray(got) - reference) / np.maximum(np.abs(reference), floor)
    assert error.max(initial=0.0) <= tolerance, (name, error.max(), TS[np.argmax(error)])


LONGEST = {
    ("steady", "Diffrax", "reverse"),
    ("steady", "Diffrax", "forward"),
    ("steady", "Rosenbrock", "forward"),
    ("steady", "Rosenbrock", "reverse"),
    ("steady", "MatrixExponential", "forward"),
    ("steady", "MatrixExponential", "reverse"),
    ("pulses", "Diffrax", "reverse"),
    ("pulses", "Diffrax", "forward"),
}


@pytest.mark.parametrize(
    ("group", "method", "mode"),
    [
        pytest.param(*one, marks=pytest.mark.slow if one in LONGEST else ())
        for one in itertools.product(GROUPS, METHODS, ("forward", "reverse"))
    ],
)
def test_values_and_gradients(group, method, mode):
    jacobian, found = derived(group, method, mode)
    for (name, case), value, got in zip(GROUPS[group].items(), found, jacobian, strict=True):
        check(value, case.truth(VALUES), 1e-8, name)
        scale = np.abs(case.truth(VALUES)).max()
        for k, parameter in enumerate(NAMES):
            reference = exact.complex_step(
                lambda x, case=case, parameter=parameter: case.truth({**VALUES, parameter: x}), VALUES[parameter]
            )
            reference = np.broadcast_to(reference, TS.shape)
            if not np.abs(reference).max() > 1e-9 * scale:  # no derivative at all
                assert np.abs(got[:, k]).max() <= 1e-9 * scale, (name, parameter)
            else:
                check(got[:, k], reference, 1e-6, (name, parameter))


class Amounts(NamedTuple):
    depot: jax.Array
    central: jax.Array
    excreted: jax.Array


class Saturable(qsp.AbstractDelivered):
    """Absorption, saturable elimination and constant synthesis; what is excreted has no steady state."""

    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption rate constant", default=0.9)
    vmax: jax.Array = qsp.parameter(unit="mg/h", doc="greatest rate of elimination", default=12.0)
    km: jax.Array = qsp.parameter(unit="mg", doc="amount at half of it", default=40.0)
    made: jax.Array = qsp.parameter(unit="mg/h", doc="synthesis", default=1.0)
    tlag: jax.Array = qsp.parameter(unit="h", doc="lag", minimum=0.0, default=0.3)

    def initial(self):
        return Amounts(0.0, self.made * self.km / (self.vmax - self.made), 0.0)

    def vector_field(self, t, y):
        lost = self.vmax * y.central / (self.km + y.central)
        return Amounts(-self.ka * y.depot, self.ka * y.depot + self.made - lost, lost)

    def observe(self, t, y):
        return {"amount": y.central}

    def deliveries(self):
        return {"depot": qsp.Delivery("depot", lag=self.tlag)}


@pytest.mark.slow
def test_steady_state_of_a_nonlinear_model_is_that_of_many_doses():
    """Value and gradients, in both modes; the accumulating state is left at its initial value."""
    ts = np.array([300.0, 301.0, 306.0, 312.0, 330.0])
    names = ("ka", "vmax", "km", "made", "tlag")

    def regimen(x, doses, first):
        given = qsp.bolus(x[5], to="depot", at=first) + qsp.infusion(20.0, to="central", over=2.0, at=first + 3.0)
        return given.every(x[6], doses=doses)

    def outcome(x, many):
        model = Saturable(**dict(zip(names, x[:5], strict=True)))
        doses = regimen(x, 40, 300.0 - 37 * x[6]) if many else regimen(x, 3, 300.0).at_steady_state()
        method = qsp.solve.Explicit(rtol=1e-10, atol=1e-13) if many else METHODS["Rosenbrock"]
        solution = qsp.simulate(model, doses, ts, method=method, throw=False, t0=-250.0)
        return solution.observed["amount"]

    x = jnp.asarray([0.9, 12.0, 40.0, 1.0, 0.3, 60.0, 12.0])
    forward, reverse, simulated = (
        jax.jit(jacobian(lambda x, many=many: (outcome(x, many),) * 2, has_aux=True))(x)
        for jacobian, many in ((jax.jacfwd, False), (jax.jacrev, False), (jax.jacfwd, True))
    )
    np.testing.assert_allclose(forward[1], simulated[1], rtol=1e-7)
    scale = np.abs(simulated[0]).max(axis=0)
    np.testing.assert_allclose(forward[0] / scale, simulated[0] / scale, atol=1e-6)
    np.testing.assert_allclose(reverse[0] / scale, forward[0] / scale, atol=1e-9)


@pytest.mark.slow
def test_second_derivative_of_a_steady_state():
    """The implicit function theorem at every order: against differences of the first."""
    method = qsp.solve.Explicit(rtol=1e-8, atol=1e-10, max_steps=1024)  # quickly compiled

    def last(vmax):
        regimen = qsp.bolus(60.0, to="depot").every(12.0, doses=1).at_steady_state()
        return qsp.simulate(Saturable(vmax=vmax), regimen, [6.0], method=method, throw=False).observed["amount"][0]

    slope = jax.jit(jax.grad(last))
    bend = jax.jit(jax.jacfwd(jax.grad(last)))(12.0)
    assert float(bend) == pytest.approx(float(slope(12.01) - slope(11.99)) / 0.02, rel=1e-3)


@pytest.mark.parametrize("method", slow_for(["Rosenbrock", "Diffrax"], "Diffrax"))
def test_constant_infusion_of_a_nonlinear_model(method):
    def balanced(rate):
        regimen = qsp.infusion(0.0, to="central", rate=rate, at=5.0).at_steady_state()
        return qsp.simulate(Saturable(), regimen, [5.0], method=METHODS[method], throw=False).observed["amount"][0]

    value, slope = jax.value_and_grad(balanced)(6.0)
    assert float(value) == pytest.approx(7.0 * 40.0 / (12.0 - 7.0), rel=1e-9)  # (rate + made) km / (vmax - ...)
    assert float(slope) == pytest.approx(40.0 * 12.0 / (12.0 - 7.0) ** 2, rel=1e-7)


@pytest.mark.slow
def test_no_steady_state_is_a_failure_that_says_so():
    """More is given than can be eliminated; the other patients are the same to the last bit."""
    regimen = qsp.bolus(60.0, to="depot").every(12.0, doses=2).at_steady_state()
    ts = jnp.asarray([0.0, 6.0])

    @jax.jit
    def simulate(vmax):
        cohort = qsp.Cohort.of(Saturable(), {"vmax": vmax})
        return qsp.simulate_cohort(cohort, regimen, ts, method=qsp.solve.Explicit())

    solution = simulate(jnp.asarray([12.0, 4.0, 15.0]))
    (failure,) = solution.failures()
    assert failure.patient == 1
    assert failure.reason.startswith("No steady state of the doses was found.")
    assert np.isnan(solution.observed["amount"][1]).all()
    others = simulate(jnp.asarray([12.0, 20.0, 15.0])).observed["amount"]
    np.testing.assert_array_equal(solution.observed["amount"][np.array([0, 2])], others[np.array([0, 2])])
    with pytest.raises(RuntimeError, match="No steady state of the doses was found"):
        qsp.simulate(Saturable(vmax=4.0), regimen, ts, method=qsp.solve.Explicit())

    def total(km):
        cohort = qsp.Cohort.of(Saturable(km=km), {"vmax": jnp.asarray([12.0, 4.0])})
        seen = qsp.simulate_cohort(cohort, regimen, ts, method=qsp.solve.Explicit()).observed["amount"]
        return jnp.where(jnp.isnan(seen), 0.0, seen).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(40.0))


def test_no_steady_state_of_a_linear_model():
    """Nothing leaves the body."""
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"CL": jnp.asarray([3.0, 1e-300])})
    regimen = qsp.bolus(60.0, to="central").every(12.0, doses=2).at_steady_state()

    solution = qsp.simulate_cohort(cohort, regimen, [1.0])
    assert solution.failed.tolist() == [False, True]
    assert solution.failures()[0].reason.startswith("No steady state of the doses was found.")


class Cycle(NamedTuple):
    central: jax.Array
    active: jax.Array
    resting: jax.Array


class Switched(qsp.AbstractModel):
    """An elimination, and a protein that is neither made nor lost; the drug activates it in proportion to `q`."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination, or growth", above=None)
    q: jax.Array = qsp.parameter(unit="1/mg", doc="activation", default=0.0, minimum=0.0)
    total: jax.Array = qsp.parameter(unit="nmol", doc="protein", default=2.0)

    def initial(self):
        return Cycle(0.0, 0.0, self.total)

    def vector_field(self, t, y):
        activated = 0.3 * (1.0 + self.q * y.central) * y.resting - 0.1 * y.active
        return Cycle(-self.k * y.central, activated, -activated)

    def observe(self, t, y):
        return {"amount": y.central, "active": y.active}


class Beside(qsp.AbstractModel):
    """The same with nothing to do with each other, which is linear."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination, or growth", above=None)

    def initial(self):
        return Cycle(0.0, 0.0, 2.0)

    def vector_field(self, t, y):
        activated = 0.3 * y.resting - 0.1 * y.active
        return Cycle(-self.k * y.central, activated, -activated)

    def observe(self, t, y):
        return {"amount": y.central, "active": y.active}


def test_steady_state_of_a_linear_model_that_keeps_or_gathers():
    """What is neither made nor lost is that of the start; where the drug does not leave, or grows, there is none."""
    cohort = qsp.Cohort.of(Beside(k=0.2), {"k": jnp.asarray([0.2, 1e-300, -0.05, 1e-6])})
    regimen = qsp.bolus(60.0, to="central").every(12.0, doses=2).at_steady_state()
    solution = qsp.simulate_cohort(cohort, regimen, [6.0])
    assert [(f.patient, f.state) for f in solution.failures()] == [(1, "central"), (2, "central")]
    for patient, k in ((0, 0.2), (3, 1e-6)):
        expected = 60.0 * np.exp(-6.0 * k) / -np.expm1(-12.0 * k)
        assert float(solution.observed["amount"][patient, 0]) == pytest.approx(expected, rel=1e-9)
        assert float(solution.observed["active"][patient, 0]) == pytest.approx(1.5, rel=1e-9)


@pytest.mark.slow
def test_constant_infusion_of_a_nonlinear_model_that_keeps_or_gathers():
    """Value and gradient where the total of the protein is kept; none where nothing leaves."""
    regimen = qsp.infusion(0.0, to="central", rate=10.0).at_steady_state()

    def active(k, total):
        solution = qsp.simulate(Switched(k=k, q=0.5, total=total), regimen, [0.0], throw=False)
        return solution.observed["active"][0], solution.failed

    gains = 0.3 * (1.0 + 0.5 * 50.0)  # at 10 / 0.2 mg
    (value, failed), slopes = jax.value_and_grad(active, argnums=(0, 1), has_aux=True)(0.2, 2.0)
    assert not failed
    assert float(value) == pytest.approx(2.0 * gains / (gains + 0.1), rel=1e-7)
    expected = 2.0 * 0.1 / (gains + 0.1) ** 2 * 0.3 * 0.5 * -50.0 / 0.2, gains / (gains + 0.1)
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    assert active(1e-300, 2.0)[1]
    assert active(-0.05, 2.0)[1]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [11.0, 12.0, 200.0])
def test_constant_infusion_at_or_above_what_can_be_eliminated(rate):
    """With what is made; the equation has a root beyond the pole, at a negative amount, where no patient gets to."""
    regimen = qsp.infusion(0.0, to="central", rate=rate).at_steady_state()
    solution = qsp.simulate(Saturable(), regimen, [0.0], method=METHODS["Rosenbrock"], throw=False)
    (failure,) = solution.failures()
    assert failure.reason.startswith("No steady state of the doses was found.")
    assert failure.state == "central"


@pytest.mark.slow
def test_more_earlier_doses_than_provided_for_inside_jit():
    """Outside of `jit` as many rows are provided as are needed; inside, too many are a failure, not a wrong number."""
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)

    def simulate(over):
        regimen = qsp.infusion(100.0, to="central", over=over).every(1.0, doses=1).at_steady_state()
        return qsp.simulate(patient, regimen, [0.0, 10.0], throw=False)

    many = [exact.Dose(100.0, -i, duration=20.5) for i in range(300)]
    reference = exact.concentration(exact.ONE_COMPARTMENT, {"CL": 3.0, "V": 30.0}, many, [0.0, 10.0])
    np.testing.assert_allclose(simulate(20.5).observed["concentration"], reference, rtol=1e-9)
    inside = jax.jit(lambda over: simulate(over).failed)
    assert not inside(4.5)
    assert inside(20.5)
