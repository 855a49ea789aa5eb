"""Delays in networks: the past of doses, events and parameters, against closed forms and the method of steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import qspjax as qsp
from qspjax.models import Network, NetworkEvent, Parameter, Reaction, Species

METHOD = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11)


def moving(**rates):
    """Parameters that change, each with its value at the start."""
    return {name: Parameter(value, constant=False) for name, value in rates.items()}


def decaying(rule="delay(x, d)", **more):
    """What is eliminated, and its past."""
    parameters = {"k": 0.3, "d": 2.0, **moving(x=10.0, y=0.0)}
    return Network(parameters=parameters, rates={"x": "-k * x"}, rules={"y": rule}, **more)


def seen(network, regimen, ts, **options):
    return qsp.simulate(network, regimen, ts, method=METHOD, **options).observed["y"]


def test_the_past_before_the_start_is_that_of_the_initial_assignment():
    ts = np.array([0.05, 0.3, 0.9, 2.0])
    u = np.minimum(ts - 0.7, 0.0)
    parameters = {"a": 2.0, **moving(x=None, y=0.0, z=0.0)}
    initial = {"x": "time^2 + time + a"}
    still = Network(parameters=parameters, initial=initial, rules={"y": "1 + 3 * delay(x, 0.7)"})
    np.testing.assert_allclose(seen(still, qsp.no_doses(), ts), 1.0 + 3.0 * (u**2 + u + 2.0), rtol=1e-9)
    # by way of a rule, and of another initial assignment
    rules = {"z": "2 * x + time", "y": "delay(z * w, 0.7)"}
    both = Network(parameters={**parameters, **moving(w=None)}, initial={**initial, "w": "x + 1"}, rules=rules)
    past = u**2 + u + 2.0
    np.testing.assert_allclose(seen(both, qsp.no_doses(), ts), (2.0 * past + ts - 0.7) * (past + 1.0), rtol=1e-9)
    # of what changes: x' = -x, and its initial assignment
    flow = Network(parameters=parameters, initial=initial, rates={"x": "-x"}, rules={"y": "delay(x, 0.7)"})
    right = np.where(ts < 0.7, past, 2.0 * np.exp(-np.maximum(ts - 0.7, 0.0)))
    np.testing.assert_allclose(seen(flow, qsp.no_doses(), ts), right, rtol=1e-7)


def doses():
    """Return what is found, what is right, and a point."""
    network = Network(
        compartments={"c": 2.0},
        species={"S": Species(5.0, compartment="c", is_amount=False)},
        parameters={"k": 0.3, "d": 1.5, **moving(y=0.0)},
        reactions={"out": Reaction("S ->", "k * S * c")},
        rules={"y": "delay(S, d)"},
    )
    ts = jnp.array([1.0, 2.5, 4.2, 6.0, 8.0])

    def found(p):
        k, d, at, amount, begin = p
        model = qsp.at(qsp.at(network, "k").set(k), "d").set(d)
        regimen = qsp.bolus(amount, to="S", at=at) + qsp.infusion(6.0, to="S", over=1.5, at=begin)
        return seen(model, regimen, ts)

    def right(p):
        k, d, at, amount, begin = p
        u = jnp.maximum(ts - d, 0.0)
        bolus = jnp.where(u >= at, 0.5 * amount * jnp.exp(-k * jnp.maximum(u - at, 0.0)), 0.0)
        run = jnp.clip(u - begin, 0.0, 1.5)
        after = jnp.maximum(u - begin - 1.5, 0.0)
        return 5.0 * jnp.exp(-k * u) + bolus + 2.0 / k * (1.0 - jnp.exp(-k * run)) * jnp.exp(-k * after)

    return found, right, jnp.array([0.3, 1.5, 0.5, 4.0, 2.0])


def parameters():
    """Return what is found, what is right, and a point."""
    network, ts = decaying("delay(x, d) + 10 * delay(k, d) + k"), jnp.array([1.0, 2.5, 3.5, 6.0])

    def found(p):
        k, d, at, later = p
        model = qsp.at(qsp.at(network, "k").set(k), "d").set(d)
        return seen(model, qsp.set_parameter("k", later, at=at), ts)

    def right(p):
        k, d, at, later = p
        u = jnp.maximum(ts - d, 0.0)
        x = 10.0 * jnp.where(u < at, jnp.exp(-k * u), jnp.exp(-k * at - later * (u - at)))
        return x + 10.0 * jnp.where(u < at, k, later) + jnp.where(ts < at, k, later)

    return found, right, jnp.array([0.3, 2.0, 1.0, 0.6])


@pytest.mark.slow
def test_a_covariate_that_moves_is_in_the_past():
    ts = np.array([1.0, 2.5, 3.0, 4.0, 5.0])
    course = qsp.varying("k", [1.0, 2.0], [0.3, 0.5], interpolation=qsp.LinearInterpolation())
    np.testing.assert_allclose(
        seen(decaying("delay(k, d)"), course, ts), np.interp(ts - 2.0, [1.0, 2.0], [0.3, 0.5]), rtol=1e-9
    )


def events():
    """Return what is found, what is right, and a point."""
    refill = NetworkEvent("x < m", {"x": "x + 8", "k": "k / 2"}, priority=1.0)
    network = Network(
        parameters={"m": 3.0, "d": 2.0, **moving(x=10.0, k=0.3, y=0.0)},
        rates={"x": "-k * x"},
        rules={"y": "delay(k * x, d)"},
        events=[refill, NetworkEvent("time > 1", {"x": "2 * x"}, delay="0.5", from_trigger_time=False)],
    )
    ts = jnp.array([1.0, 3.2, 4.0, 8.0, 12.0])

    def found(p):
        k, d, m = p
        model = qsp.at(qsp.at(qsp.at(network, "k").set(k), "d").set(d), "m").set(m)
        return seen(model, qsp.no_doses(), ts)

    def right(p):
        k, d, m = p
        u = jnp.maximum(ts - d, 0.0)
        at = jnp.log(20.0 / m) / k
        x = jnp.where(u < 1.5, 10.0, 20.0) * jnp.exp(-k * u)
        return jnp.where(u < at, k * x, 0.5 * k * (m + 8.0) * jnp.exp(-0.5 * k * (u - at)))

    return found, right, jnp.array([0.3, 2.0, 3.0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [doses, parameters, events])
def test_what_changes_a_state_or_a_number_is_in_the_past(case):
    found, right, p = case()
    np.testing.assert_allclose(found(p), right(p), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("case", [doses, parameters, events])
def test_what_is_in_the_past_has_its_gradient(case):
    found, right, p = case()
    exact = jax.jacfwd(right)(p)
    np.testing.assert_allclose(jax.jacfwd(found)(p), exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(found)(p), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_delay_of_a_delay_of_a_dosed_state():
    parameters = {"k": 0.3, "d": 2.0, **moving(x=0.0, y=0.0, z=0.0)}
    rules = {"z": "delay(k * x, d)", "y": "delay(z, 0.5 * d)"}
    network = Network(parameters=parameters, rates={"x": "-k * x"}, rules=rules)
    regimen = qsp.bolus(10.0, to="x", at=1.0) + qsp.set_parameter("k", 0.6, at=2.0)
    ts = np.array([3.5, 4.5, 6.0, 8.0])
    u = ts - 3.0
    x = 10.0 * np.where(u < 2.0, np.exp(-0.3 * (u - 1.0)), np.exp(-0.3 - 0.6 * (u - 2.0)))
    right = np.where(u < 1.0, 0.0, np.where(u < 2.0, 0.3, 0.6) * x)
    np.testing.assert_allclose(seen(network, regimen, ts), right, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_a_coupled_network_and_a_cohort_have_their_past():
    both = qsp.models.Coupled(decaying(), qsp.models.Emax(E0=0.0, Emax=1.0, EC50=1.0), driver="y")
    regimen = qsp.bolus(4.0, to="x", at=0.5) + qsp.set_parameter("pk.k", 0.6, at=1.0)
    ts = np.array([1.0, 2.7, 6.0])

    def right(k):
        u = np.maximum(ts - 2.0, 0.0)
        dosed = 10.0 * np.exp(-k * u) + np.where(u < 0.5, 0.0, 4.0 * np.exp(-k * (u - 0.5)))
        at_one = 10.0 * np.exp(-k) + 4.0 * np.exp(-0.5 * k)
        return np.where(u < 1.0, dosed, at_one * np.exp(-0.6 * (u - 1.0)))

    np.testing.assert_allclose(seen(both, regimen, ts), right(0.3), rtol=1e-7)
    cohort = qsp.Cohort.of(both, {"pk.k": jnp.array([0.1, 0.3])}, size=2)
    found = qsp.simulate_cohort(cohort, regimen, ts, method=METHOD)
    np.testing.assert_allclose(found.observed["y"], [right(0.1), right(0.3)], rtol=1e-7)


REFUSED = {
    "reset": (qsp.reset(at=1.0), r"`regimen` must have no reset, no steady state and no rule for a model with delays"),
    "steady": (
        qsp.bolus(1.0, to="x").every(12.0, doses=2).at_steady_state(),
        r"`regimen` must have no reset, no steady state and no rule for a model with delays",
    ),
    "rule": (
        qsp.bolus(1.0, to="x").adapted(qsp.ReduceAbove("y", 1.0), at=[1.0]),
        r"`regimen` must have no reset, no steady state and no rule for a model with delays",
    ),
    "length": (
        qsp.set_parameter("d", 1.0, at=1.0),
        r"`name` must not be a parameter that the length of a delay depends on, but is `d`",
    ),
    "past": (
        qsp.set_parameter("k@1", 1.0, at=1.0),
        r"`name` must be a parameter .*, not one of the past, but is `k@1`",
    ),
    "before": (qsp.bolus(1.0, to="x", at=-1.0), r"`t0` must be 0 for a model with delays, .* but is -1"),
    "copy": (qsp.bolus(1.0, to="x@1"), r"`to` must name a dose target of the model \(x\), but is `x@1`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_regimen_whose_past_is_not_known_is_refused(case):
    regimen, message = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^Argument {message}"):
        qsp.simulate(decaying(), regimen, [2.0])


def test_what_has_no_past_to_look_at_is_refused():
    with pytest.raises(ValueError, match=r"^Argument `t0` must be 0 for a model with delays, .* but is 1\.$"):
        qsp.simulate(decaying(), qsp.no_doses(), [2.0], t0=1.0)
    with pytest.raises(ValueError, match=r"^Argument `delay of x` must be at least 0, but is -1\.$"):
        qsp.simulate(qsp.at(decaying(), "d").set(-1.0), qsp.no_doses(), [2.0])
    own = "not supported: delay of what depends on its own past"
    for rates, events in (
        ({"x": "-delay(x, 1)"}, []),
        ({"x": "-z", "z": "delay(x, 1)"}, []),
        ({"x": "-x"}, [NetworkEvent("delay(x, 1) < 0.5", {"x": "1"})]),
        ({"x": "-z", "z": "0"}, [NetworkEvent("delay(x, 1) < 0.5", {"z": "1"})]),
    ):
        with pytest.raises(ValueError, match=own):
            Network(parameters=moving(x=1.0, z=1.0, y=0.0), rates=rates, events=events, rules={"y": "delay(x, 1)"})
    with pytest.raises(ValueError, match=r"`z` not supported: delay of what an algebraic rule determines"):
        Network(parameters=moving(z=1.0, y=0.0), algebraic=["z + sin(z) - 1"], rules={"y": "delay(z, 1)"})


def test_a_fit_refuses_changes_that_the_past_would_miss():
    measurements = qsp.fit.Measurements([4.0], [1.0], output="y")
    experiment = qsp.fit.Experiment(measurements, changes=[qsp.fit.Change(2.0, set={"k": 0.5})])
    outputs = {"y": qsp.fit.Output("y", qsp.fit.Additive(1.0))}
    with pytest.raises(ValueError, match=r"^Argument `changes` must leave alone .* a delay of, .* sets `k`\.$"):
        qsp.fit.Problem(decaying(), experiment, outputs, {"d": qsp.fit.Free(2.0)})


# --- against the method of steps ------------------------------------------------------------------------------------


class Steps:
    """A linear system with delays, integrated from break to break over its own past.

    Args:
        slope: The slope of the state, `(t, x, p, past) -> array`, where `past(length)` is state and parameters then.
        start: The state at 0, and before it unless `before` says more.
        p: The parameters.
        acts: `(time, action)` each; an action changes state, parameters and infused rates in place.
        event: `(gap, action)`: it fires where the gap turns positive.
        lengths: Of the delays.
        before: The state at a time before 0.
    """

    def __init__(self, slope, start, p, acts, event, lengths, before):
        self.before, self.first, self.pieces = before, dict(p), []
        sums = {sum(c) for n in range(4) for c in itertools.combinations_with_replacement(lengths, n)}
        breaks = {0.0, 20.0}
        breaks |= {at + later for at in [0.0, *(at for at, _ in acts)] for later in sums}
        x, p, rates, t = np.array(start), dict(p), np.zeros(len(start)), 0.0
        while t < 20.0:
            for at, action in acts:
                if at == t:
                    action(x, p, rates)
            end = min(t + min(lengths), min(at for at in breaks if at > t + 1e-10))

            def past(length, now, t=t, end=end):
                return self(min(max(now - length, t - length + 1e-11), end - length - 1e-11))

            def field(now, x, p=p, rates=rates):
                return slope(now, x, p, lambda length: past(length, now)) + rates

            def gap(now, x, p=p):
                return event[0](now, x, p)

            gap.terminal, gap.direction = True, 1.0
            options = {"events": gap} if event else {}
            piece = solve_ivp(field, (t, end), x, "DOP853", dense_output=True, rtol=1e-12, atol=1e-13, **options)
            self.pieces.append((t, piece.sol, dict(p)))
            t, x = float(piece.t[-1]), piece.y[:, -1].copy()
            if piece.status == 1:
                event[1](x, p, rates)
                breaks |= {t + later for later in sums}
            else:
                t = end

    def __call__(self, t):
        if t < 0.0:
            return self.before(t), self.first
        return next((sol(t), p) for begins, sol, p in reversed(self.pieces) if begins <= t)


TIMES = np.array([0.7, 1.9, 3.3, 4.9, 6.1, 8.3, 11.7, 15.1])
RATES = {"x": "-k * x + b * w", "w": "k * x - (b + c) * w", "z": "c * delay(k * x, d) + 0.1 * u - e * z"}
RULES = {"u": "delay(w + c * x, g)", "v": "delay(z + u, g)"}
PLAIN = ("b", "e", "d", "g")
EVENTS = {
    "doses": [],
    "time": [NetworkEvent("time > 3.1", {"x": "0.5 * x + 1", "c": "2 * c"})],
    "late": [NetworkEvent("time > 2.1", {"w": "w + x", "k": "0.7 * k"}, delay="1.3")],
    "state": [NetworkEvent("x < 0.8", {"x": "x + 3", "w": "0.5 * w"})],
}


def network_of(kind):
    """Return the network of a kind; the initial value of w is a function of time."""
    numbers = dict.fromkeys(PLAIN, 1.0)
    changing = moving(x=1.0, w=None, z=0.5, u=0.0, v=0.0, k=1.0, c=1.0)
    initial = {"w": "1 + 0.3 * time"}
    return Network(parameters={**numbers, **changing}, rates=RATES, rules=RULES, initial=initial, events=EVENTS[kind])


def slope(t, x, p, past):
    then, q = past(p["d"])
    late, r = past(p["g"])
    u = late[1] + r["c"] * late[0]
    flow = p["k"] * x[0]
    return np.array(
        [
            -flow + p["b"] * x[1],
            flow - (p["b"] + p["c"]) * x[1],
            p["c"] * q["k"] * then[0] + 0.1 * u - p["e"] * x[2],
        ]
    )


def drawn(kind, number):
    """Return one random system: its numbers, its regimen, and the method of steps."""
    rng = np.random.default_rng([number, *kind.encode()])
    p = {name: rng.uniform(0.2, 0.9) for name in ("k", "b", "c", "e")}
    p |= {"d": rng.uniform(0.4, 2.5), "g": rng.uniform(0.4, 2.5)}
    at, amount = np.sort(rng.uniform(0.0, 9.0, 4)), rng.uniform(1.0, 5.0, 4)
    over, new = rng.uniform(0.5, 3.0), rng.uniform(0.2, 0.9)
    regimen = qsp.bolus(amount[0], to="x", at=at[0]) + qsp.infusion(amount[1], to="w", over=over, at=at[1])
    regimen += qsp.bolus(amount[2], to="z", at=at[2])
    # what events change is a state, and no parameter to be set
    name = "e" if kind in ("time", "late") else "k"
    regimen += qsp.set_parameter(name, new, at=at[3])

    def dose(place, amount):
        return lambda x, p, rates: x.__setitem__(place, x[place] + amount)

    def run(rate):
        return lambda x, p, rates: rates.__setitem__(1, rates[1] + rate)

    acts = [(at[0], dose(0, amount[0])), (at[1], run(amount[1] / over)), (at[1] + over, run(-amount[1] / over))]
    acts += [(at[2], dose(2, amount[2])), (at[3], lambda x, p, rates: p.update({name: new}))]
    event = None
    if kind == "time":

        def twice(x, p, rates):
            x[0], p["c"] = 0.5 * x[0] + 1.0, 2.0 * p["c"]

        acts.append((3.1, twice))
    if kind == "late":
        stored = []
        acts.append((2.1, lambda x, p, rates: stored.append((x[0] + x[1], 0.7 * p["k"]))))

        def late(x, p, rates):
            x[1], p["k"] = stored[0]

        acts.append((2.1 + 1.3, late))
    if kind == "state":

        def refill(x, p, rates):
            x[0], x[1] = x[0] + 3.0, 0.5 * x[1]

        event = (lambda t, x, p: 0.8 - x[0], refill)

    def before(t):
        return np.array([1.0, 1.0 + 0.3 * t, 0.5])

    return (
        p,
        regimen,
        Steps(slope, [1.0, 1.0, 0.5], p, sorted(acts, key=lambda one: one[0]), event, (p["d"], p["g"]), before),
    )


def delayed(steps, t, g):
    """Return x, w, z, u and v."""

    def u(t):
        x, p = steps(t - g)
        return x[1] + p["c"] * x[0]

    return [*steps(t)[0], u(t), steps(t - g)[0][2] + u(t - g)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("kind", EVENTS)
def test_random_linear_systems_with_delays_doses_and_events(kind, number):
    compare(kind, number)


def test_a_random_linear_system_with_delays_doses_and_events():
    compare("state", 0)


def compare(kind, number):
    p, regimen, steps = drawn(kind, number)
    network = network_of(kind)
    for name, value in p.items():
        network = qsp.at(network, name).set(value)
    found = qsp.simulate(network, regimen, TIMES, method=METHOD).observed
    right = np.array([delayed(steps, t, p["g"]) for t in TIMES]).T
    for name, values in zip(("x", "w", "z", "u", "v"), right, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-8, err_msg=name)


def test_an_event_that_looks_at_the_past_of_a_dosed_state():
    text = "S = 5\nk = 0.3\nX = 0\nJ: S -> ; k * S\ny := delay(S, 1)\nE: at (y < 3): X = 1\n"
    level = 5.0 + 4.0 * np.exp(0.3 * 0.5)  # S = level exp(-0.3 t) once 4 have been added at 0.5
    falls = 1.0 + np.log(level / 3.0) / 0.3
    ts = np.array([1.0, falls - 0.01, falls + 0.01])
    observed = qsp.simulate(qsp.io.read_antimony(text), qsp.bolus(4.0, to="S", at=0.5), ts).observed
    np.testing.assert_allclose(observed["X"], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(observed["y"], [5.0, *level * np.exp(-0.3 * (ts[1:] - 1.0))], rtol=1e-5)
