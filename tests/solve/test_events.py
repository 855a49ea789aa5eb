"""State-triggered events: values and gradients against closed forms, in every method and both modes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from tests.systems.marks import slow_for

METHODS = {
    "Rosenbrock": qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-13),
    "Explicit": qsp.solve.Explicit(rtol=1e-10, atol=1e-13),
    "Diffrax": qsp.solve.Diffrax(rtol=1e-10, atol=1e-13),
}


class Decay(NamedTuple):
    """An amount, and what events count or note."""

    amount: jax.Array
    noted: jax.Array


class Threshold(qsp.AbstractEventful):
    """A drug that is eliminated; it is dosed again, after a delay, whenever its amount falls to a threshold."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
    least: jax.Array = qsp.parameter(unit="mg", doc="threshold")
    dose: jax.Array = qsp.parameter(unit="mg", doc="dose")
    wait: jax.Array = qsp.parameter(unit="h", doc="time to the dose", minimum=0.0)

    def initial(self):
        return Decay(amount=10.0, noted=0.0)

    def vector_field(self, t, y):
        return Decay(amount=-self.k * y.amount, noted=0.0)

    def observe(self, t, y):
        return {"amount": y.amount, "doses": y.noted}

    def events(self):
        return (
            qsp.Event(
                trigger=lambda t, y: y.amount <= self.least,
                assign=lambda t, y: {"amount": y.amount + self.dose, "noted": y.noted + 1.0},
                delay=lambda t, y: self.wait,
                from_trigger_time=False,
            ),
        )


def threshold_truth(p, ts):
    """Amount at `ts`: each dose comes `wait` after the amount fell to `least`."""
    k, least, dose, wait = p
    time, amount = 0.0, 10.0
    at, after = [0.0], [10.0]
    while at[-1] < max(ts):
        time = time + np.log(amount / least) / k + wait
        amount = least * np.exp(-k * wait) + dose
        at.append(time)
        after.append(amount)
    last = [max(i for i in range(len(at)) if at[i] <= t) for t in ts]
    return np.array([after[i] * np.exp(-k * (t - at[i])) for i, t in zip(last, ts, strict=True)])


def derivative(function, p, *arguments):
    """Central differences in extended steps of a closed form: the complex-free truth to about 1e-10."""
    columns = []
    for i in range(len(p)):
        step = 1e-4 * p[i]
        lines = []
        for h in (step, 0.5 * step):
            up, down = p.copy(), p.copy()
            up[i] += h
            down[i] -= h
            lines.append((function(up, *arguments) - function(down, *arguments)) / (2.0 * h))
        columns.append((4.0 * lines[1] - lines[0]) / 3.0)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Diffrax"))
def test_threshold_dosing_after_a_delay(name):
    method = METHODS[name]
    ts = np.array([0.5, 4.0, 9.0, 14.0, 20.0])
    p = np.array([0.5, 3.0, 7.0, 0.4])

    def amount(p):
        patient = Threshold(*p)
        return qsp.simulate(patient, qsp.no_doses(), ts, method=method, throw=False).observed["amount"]

    forward, value = jax.jit(jax.jacfwd(lambda p: (amount(p),) * 2, has_aux=True))(jnp.asarray(p))
    np.testing.assert_allclose(value, threshold_truth(p, ts), rtol=1e-8)
    np.testing.assert_allclose(forward, derivative(threshold_truth, p, ts), rtol=1e-6, atol=1e-7)
    weights = jnp.asarray([0.3, -1.0, 0.7, 2.0, 0.4])
    reverse = jax.jit(jax.grad(lambda p: weights @ amount(p)))(jnp.asarray(p))
    np.testing.assert_allclose(reverse, weights @ derivative(threshold_truth, p, ts), rtol=1e-6)


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


class Crossing(qsp.AbstractEventful):
    """A clock of speed `a` that reaches `level`; two events happen there, and the second sees what the first did."""

    a: jax.Array = qsp.parameter(unit="1/h", doc="speed of the clock")
    level: jax.Array = qsp.parameter(unit="", doc="where the events happen")

    def initial(self):
        return Pair(first=0.0, second=1.0)

    def vector_field(self, t, y):
        return Pair(first=self.a, second=0.3 * y.second)

    def observe(self, t, y):
        return {"second": y.second}

    def events(self):
        reaches = lambda t, y: y.first > self.level  # noqa: E731
        add = lambda t, y: {"second": y.second + 2.0}  # noqa: E731
        double = lambda t, y: {"second": 2.0 * y.second}  # noqa: E731
        high, low = (lambda t, y: 2.0), (lambda t, y: 1.0)
        return (
            qsp.Event(reaches, double, priority=low, from_trigger_time=False),
            qsp.Event(reaches, add, priority=high, from_trigger_time=False),
        )


@pytest.mark.parametrize("name", slow_for(["Rosenbrock", "Diffrax"], "Diffrax"))
def test_two_events_at_one_instant(name):
    method = METHODS[name]
    """At t* = level / a: (exp(0.3 t*) + 2) 2, then exponential growth."""
    ts = jnp.asarray([1.0, 3.0])

    def truth(p):
        moment = p[1] / p[0]
        return jnp.stack([jnp.exp(0.3), 2.0 * (jnp.exp(0.9) + 2.0 * jnp.exp(0.3 * (3.0 - moment)))])

    def second(p):
        return qsp.simulate(Crossing(*p), qsp.no_doses(), ts, method=method, throw=False).observed["second"]

    p = jnp.asarray([0.8, 1.7])
    slope, value = jax.jit(jax.jacfwd(lambda p: (second(p),) * 2, has_aux=True))(p)
    np.testing.assert_allclose(value, truth(p), rtol=1e-8)
    np.testing.assert_allclose(slope, jax.jacfwd(truth)(p), rtol=1e-6, atol=1e-9)
    reverse = jax.jit(jax.grad(lambda p: second(p)[1]))(p)
    np.testing.assert_allclose(reverse, jax.grad(lambda p: truth(p)[1])(p), rtol=1e-6, atol=1e-9)


class Marks(NamedTuple):
    clock: jax.Array
    wave: jax.Array
    turned: jax.Array
    early: jax.Array
    late: jax.Array
    kept: jax.Array
    dropped: jax.Array
    count: jax.Array
    pulse: jax.Array
    cascade: jax.Array


class Rules(qsp.AbstractEventful):
    """One event, or a few, for each rule of SBML; `speed` is a parameter that an event changes."""

    speed: jax.Array = qsp.parameter(unit="", doc="speed of the clock")

    def initial(self):
        return Marks(0.0, 0.0, 1.0, *[0.0] * 7)

    def vector_field(self, t, y):
        pulse = jnp.where((t >= 2.0) & (t < 2.001), 1000.0, 0.0)
        return Marks(self.speed, y.turned, -y.wave, *[0.0] * 5, pulse, 0.0)

    def observe(self, t, y):
        return {"speed": self.speed, **y._asdict()}

    def events(self):
        def note(**names):
            return lambda t, y: {name: function(t, y) for name, function in names.items()}

        one = lambda t, y: 1.0  # noqa: E731
        return (
            qsp.Event(lambda t, y: t >= 0.0, note(early=lambda t, y: y.early + 1.0), initial_value=False),
            qsp.Event(lambda t, y: t >= 0.0, note(late=lambda t, y: y.late + 1.0)),  # held before: never fires
            qsp.Event(lambda t, y: y.clock >= 3.0, note(speed=lambda t, y: 2.0 * self.speed)),
            # sin(t) > 0.5 holds in (pi/6, 5 pi/6) only, shorter than the delay; the time noted is the trigger's
            qsp.Event(lambda t, y: y.wave > 0.5, note(kept=lambda t, y: t), delay=lambda t, y: 2.5),
            qsp.Event(lambda t, y: y.wave > 0.5, note(dropped=one), delay=lambda t, y: 2.5, persistent=False),
            # every 0.4 h a delayed change is ordered, 1 h ahead: three wait at a time
            qsp.Event(
                lambda t, y: t % 0.4 > 0.2, note(count=lambda t, y: y.count + 1.0), delay=one, from_trigger_time=False
            ),
            qsp.Event(lambda t, y: y.cascade == 1.0, note(cascade=lambda t, y: 5.0)),
            qsp.Event(lambda t, y: t > 1.5, note(cascade=one)),
        )


@pytest.mark.parametrize("name", slow_for(["Rosenbrock", "Diffrax"], "Diffrax"))
def test_rules_of_sbml(name):
    method = METHODS[name]
    ts = jnp.asarray([0.0, 1.5, 1.9, 3.1, 5.0])
    seen = qsp.simulate(Rules(1.0), qsp.no_doses(), ts, method=method).observed
    np.testing.assert_allclose(seen["early"], 1.0)
    np.testing.assert_allclose(seen["late"], 0.0)
    np.testing.assert_allclose(seen["speed"], [1.0, 1.0, 1.0, 2.0, 2.0])
    np.testing.assert_allclose(seen["clock"], [0.0, 1.5, 1.9, 3.2, 7.0], rtol=1e-9)
    np.testing.assert_allclose(seen["kept"], [0.0, 0.0, 0.0, np.pi / 6, np.pi / 6], rtol=1e-8)
    np.testing.assert_allclose(seen["dropped"], 0.0)
    np.testing.assert_allclose(seen["count"], [0.0, 1.0, 2.0, 5.0, 10.0])
    np.testing.assert_allclose(seen["pulse"], [0.0, 0.0, 0.0, 1.0, 1.0], rtol=1e-8)
    np.testing.assert_allclose(seen["cascade"], [0.0, 0.0, 5.0, 5.0, 5.0])


class Many(qsp.AbstractEventful):
    """Ten amounts in one array, the first dosed; it is halved where it exceeds a limit."""

    limit: jax.Array = qsp.parameter(unit="mg", doc="limit")
    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")

    def initial(self):
        return {"amounts": jnp.arange(50.0)}

    def vector_field(self, t, y):
        return {"amounts": -self.k * y["amounts"]}

    def observe(self, t, y):
        return {"first": y["amounts"][0], "last": y["amounts"][-1]}

    def events(self):
        return (qsp.Event(lambda t, y: y["amounts"][0] > self.limit, self.halve, name="halve"),)

    def halve(self, t, y):
        return {"amounts[0]": 0.5 * y["amounts"][0]}


def test_a_cohort_with_doses():
    """Doses set off an event at once, and an infusion one on its way; each patient as if it were alone."""
    limits = jnp.asarray([3.0, 6.0, 100.0])
    cohort = qsp.Cohort.of(Many(limit=3.0, k=0.1), {"limit": limits})
    regimen = qsp.bolus(10.0, to="amounts[0]", at=1.0) + qsp.infusion(8.0, to="amounts[0]", at=4.0, rate=4.0)
    ts = jnp.asarray([1.0, 3.9, 9.0])
    seen = qsp.simulate_cohort(cohort, regimen, ts, method=METHODS["Rosenbrock"]).observed["first"]

    def alone(limit, k=0.1):
        """The amount at `ts`, by the equations of each stretch."""
        start = 10.0 * 0.5 ** (limit < 10.0)
        out = [start, start * np.exp(-k * 2.9)]
        time, amount, end = 4.0, start * np.exp(-k * 3.0), 6.0
        while True:  # dA/dt = 4 - k A until the end, halved where it reaches the limit
            ratio = (4.0 / k - limit) / (4.0 / k - amount)
            span = -np.log(ratio) / k if 0.0 < ratio < 1.0 else np.inf
            if time + span > end:
                break
            time, amount = time + span, 0.5 * limit
        amount = 4.0 / k + (amount - 4.0 / k) * np.exp(-k * (end - time))
        return np.array([*out, amount * np.exp(-k * 3.0)])

    # a dose from 0 to 10 passes the limit of 3 at once, and stays above it after halving: no second event
    np.testing.assert_allclose(seen[1], alone(6.0), rtol=1e-8)
    np.testing.assert_allclose(seen[2], alone(1e9), rtol=1e-8)
    one = qsp.simulate(Many(limit=3.0, k=0.1), regimen, ts, method=METHODS["Rosenbrock"]).observed["first"]
    np.testing.assert_array_equal(seen[0], one)
    np.testing.assert_allclose(seen[0, 0], 5.0)


class Endless(qsp.AbstractEventful):
    """Two events that undo each other."""

    def initial(self):
        return Pair(first=0.0, second=0.0)

    def vector_field(self, t, y):
        return Pair(first=1.0, second=0.0)

    def observe(self, t, y):
        return {"second": y.second}

    def events(self):
        return (
            qsp.Event(lambda t, y: (y.first > 1.0) & (y.second < 0.5), lambda t, y: {"second": 1.0}),
            qsp.Event(lambda t, y: y.second > 0.5, lambda t, y: {"second": 0.0}),
        )


def test_events_without_end_are_a_result():
    solution = qsp.simulate(Endless(), qsp.no_doses(), [0.5, 2.0], throw=False)
    assert solution.result == qsp.RESULTS.events_unsettled
    assert float(solution.stats["last_time"]) == pytest.approx(1.0)
    np.testing.assert_array_equal(solution.observed["second"], [0.0, np.nan])
    with pytest.raises(RuntimeError, match="The events at one moment did not come to an end"):
        qsp.simulate(Endless(), qsp.no_doses(), [0.5, 2.0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qsp.Event(True, lambda t, y: {}), "`trigger` must be a function of the time and the state"),
        (lambda: qsp.Event(lambda t, y: True, lambda t, y: {}, delay=1.0), "`delay` must be a function"),
        (lambda: qsp.Event(lambda t, y: True, lambda t, y: {}, pending=0), "`pending` must be a positive integer"),
        (
            lambda: qsp.simulate(
                Endless(), qsp.bolus(1.0, to="first").every(1.0, doses=2).at_steady_state(), [1.0, 2.0]
            ),
            "`regimen` must have no steady state and no rule for a model with events",
        ),
        (
            lambda: qsp.simulate(Endless(), qsp.no_doses(), [1.0], method=qsp.solve.MatrixExponential()),
            "`method` must be `Rosenbrock`, `Explicit` or `Diffrax` for a model with events",
        ),
    ],
    ids=["trigger", "delay", "pending", "steady", "method"],
)
def test_errors_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Draws(qsp.AbstractEventful):
    """Two events of one priority at each full hour, of which the first to act forbids the other."""

    def initial(self):
        return Marks(0.0, 0.0, 1.0, *[0.0] * 7)

    def vector_field(self, t, y):
        return Marks(*[0.0] * 10)

    def observe(self, t, y):
        return {"first": y.early, "second": y.late}

    def events(self):
        due = lambda t, y: t - y.clock >= 1.0  # noqa: E731
        one = lambda t, y: 1.0  # noqa: E731
        return (
            qsp.Event(due, lambda t, y: {"clock": t, "early": y.early + 1.0}, priority=one, persistent=False),
            qsp.Event(due, lambda t, y: {"clock": t, "late": y.late + 1.0}, priority=one, persistent=False),
        )


def test_chance_decides_between_equal_priorities():
    seen = qsp.simulate(Draws(), qsp.no_doses(), [400.5], method=qsp.solve.Explicit()).observed
    first, second = float(seen["first"][0]), float(seen["second"][0])
    assert first + second == 400.0
    assert abs(first - second) < 60.0  # three standard deviations


class Pulse(qsp.AbstractModel):
    """An infusion written into the vector field, an hour in a year."""

    start: jax.Array = qsp.parameter(unit="h", doc="start")

    def initial(self):
        return Pair(first=0.0, second=1.0)

    def vector_field(self, t, y):
        return Pair(first=jnp.where((t > self.start) & (t <= self.start + 1.0), 5.0, 0.0), second=-0.001 * y.second)

    def observe(self, t, y):
        return {"given": y.first}


@pytest.mark.parametrize("method", [qsp.solve.Rosenbrock(), qsp.solve.Diffrax()], ids=["Rosenbrock", "Diffrax"])
def test_a_pulse_in_the_vector_field_is_not_missed(method):
    seen = qsp.simulate(Pulse(start=5000.0), qsp.no_doses(), [8760.0], method=method).observed["given"]
    np.testing.assert_allclose(seen, 5.0, rtol=1e-10)


class Switched(qsp.AbstractModel):
    """An amount whose supply changes at a time that is a parameter."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
    before: jax.Array = qsp.parameter(unit="mg/h", doc="supply before the change")
    after: jax.Array = qsp.parameter(unit="mg/h", doc="supply after it")
    change: jax.Array = qsp.parameter(unit="h", doc="time of the change")

    def initial(self):
        return {"amount": 1.0}

    def vector_field(self, t, y):
        supply = jnp.where(t < self.change, self.before, self.after)
        return {"amount": supply - self.k * y["amount"]}

    def observe(self, t, y):
        return y


def switched_truth(p, ts):
    """The amount at `ts`: two relaxations, the second from where the first ended."""
    k, before, after, change = p
    relaxed = lambda supply, amount, t: supply / k + (amount - supply / k) * jnp.exp(-k * t)  # noqa: E731
    at_change = relaxed(before, 1.0, change)
    return jnp.where(ts < change, relaxed(before, 1.0, ts), relaxed(after, at_change, ts - change))


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Diffrax"))
def test_derivatives_in_a_time_that_the_vector_field_compares_with(name):
    ts = jnp.asarray([1.0, 2.0, 2.5, 9.0])

    def amount(p):
        model = Switched(*p)
        return qsp.simulate(model, qsp.no_doses(), ts, method=METHODS[name]).observed["amount"]

    value, forward, backward = (jax.jit(f) for f in (amount, jax.jacfwd(amount), jax.jacrev(amount)))
    twice = jax.jit(jax.jacfwd(jax.jacrev(amount)))
    # the change within an interval, and at an output, which is that of just after it
    for change in (1.7, 2.0):
        p = jnp.asarray([0.3, 5.0, 0.5, change])
        np.testing.assert_allclose(value(p), switched_truth(p, ts), rtol=1e-8)
        truth = jax.jacfwd(switched_truth)(p, ts)
        np.testing.assert_allclose(forward(p), truth, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(backward(p), truth, rtol=1e-7, atol=1e-8)
        second = jax.jacfwd(jax.jacfwd(switched_truth))(p, ts)
        np.testing.assert_allclose(twice(p), second, rtol=1e-6, atol=1e-7)


def test_many_patients_in_vmap_skip_the_steps_that_none_of_them_took():
    def amount(p):
        return qsp.simulate(Switched(*p), qsp.no_doses(), [1.0, 9.0], method=METHODS["Rosenbrock"]).observed["amount"]

    p = jnp.asarray([0.3, 5.0, 0.5, 1.7])
    alone = str(jax.make_jaxpr(jax.jacfwd(amount))(p))
    together = str(jax.make_jaxpr(jax.vmap(jax.jacfwd(amount)))(jnp.stack([p, 2.0 * p])))
    assert together.count(" cond[") == alone.count(" cond[") > 1


class Rhythm(qsp.AbstractEventful):
    """A rhythm of 24 h that events count, beside a state that changes so slowly that steps could be days long."""

    level: jax.Array = qsp.parameter(unit="", doc="level of the rhythm", above=None)

    def initial(self):
        return {"slow": 1.0, "count": 0.0}

    def vector_field(self, t, y):
        return {"slow": -1e-4 * y["slow"], "count": 0.0}

    def observe(self, t, y):
        return {"count": y["count"]}

    def events(self):
        def rises(t, y):
            return jnp.cos(2.0 * jnp.pi * (t - 7.0) / 24.0) > self.level

        return (qsp.Event(rises, lambda t, y: {"count": y["count"] + 1.0}),)


@pytest.mark.parametrize("name", slow_for(["Rosenbrock", "Explicit", "Diffrax"], "Explicit", "Diffrax"))
def test_a_rhythm_in_time_is_not_stepped_over(name):
    """Outputs do not help: the last time alone is reported."""
    method = getattr(qsp.solve, name)()
    cohort = qsp.Cohort.of(Rhythm(level=0.4), {"level": np.array([-0.95, 0.4, 0.97])})
    found = qsp.simulate_cohort(cohort, qsp.no_doses(), [240.0], method=method)
    assert found.observed["count"][:, 0].tolist() == [10.0, 10.0, 10.0]
    assert (found.stats["steps"] < 300).all()


class Clock(qsp.AbstractEventful):
    """Day and night by `floor` and by `mod`: what jumps in time is passed, not resolved for ever."""

    def initial(self):
        return {"days": 0.0, "nights": 0.0}

    def vector_field(self, t, y):
        return {"days": 0.0, "nights": 0.0}

    def observe(self, t, y):
        return dict(y)

    def events(self):
        return (
            qsp.Event(lambda t, y: t - 24.0 * jnp.floor(t / 24.0) < 12.0, lambda t, y: {"days": y["days"] + 1.0}),
            qsp.Event(lambda t, y: jnp.mod(t, 24.0) >= 12.0, lambda t, y: {"nights": y["nights"] + 1.0}),
        )


def test_what_jumps_in_time_is_passed():
    found = qsp.simulate(Clock(), qsp.no_doses(), [100.0])
    assert [float(found.observed[name][0]) for name in ("days", "nights")] == [4.0, 4.0]
    assert found.stats["steps"] < 2000
