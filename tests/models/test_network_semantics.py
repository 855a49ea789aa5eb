"""What SBML says of compartments, rules, stoichiometries, initial assignments and events, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._expression import parse, symbol
from qspjax._model import as_state
from qspjax._tables import LabelledState
from qspjax.models import Compartment, MassAction, Network, NetworkEvent, Parameter, Participant, Reaction, Species

TIGHT = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12)


def at_state(network, t=0.0, **values):
    """Return slopes and observed values by name, at the initial state but for some values."""
    start = as_state(network, None)
    y = LabelledState(start.labels, tuple(jnp.asarray(values.get(name, start[name])) for name in start.labels))
    slope = network.vector_field(t, y)
    observed = {name: float(value) for name, value in network.observe(t, y).items()}
    return {name: float(slope[name]) for name in slope.labels}, observed


def fired(network, t=0.0, **values):
    """Return what the only event assigns."""
    start = as_state(network, None)
    y = LabelledState(start.labels, tuple(jnp.asarray(values.get(name, start[name])) for name in start.labels))
    (event,) = network.events()
    return {name: float(value) for name, value in event.assign(t, y).items()}


def test_a_growing_compartment_dilutes():
    # C = 2 + t. A is neither made nor lost. S has a rule for its concentration. L is lost at CL times concentration.
    network = Network(
        compartments={"C": 2.0},
        species={"A": 4.0, "S": Species(1.0, is_amount=False, boundary=True), "L": 3.0},
        parameters={"CL": 0.5},
        rates={"C": "1", "S": "0.5"},
        reactions={"loss": Reaction("L ->", "CL * L")},
        rules={"slope": "rateOf(A)"},
    )
    ts = np.array([0.0, 1.0, 3.0])
    observed = qsp.simulate(network, qsp.no_doses(), ts, method=TIGHT).observed
    np.testing.assert_allclose(observed["C"], 2.0 + ts, rtol=1e-8)
    np.testing.assert_allclose(observed["A"], 4.0 / (2.0 + ts), rtol=1e-8)
    np.testing.assert_allclose(observed["S"], 1.0 + 0.5 * ts, rtol=1e-8)
    np.testing.assert_allclose(observed["L"], 3.0 * (2.0 / (2.0 + ts)) ** 0.5 / (2.0 + ts), rtol=1e-7)
    np.testing.assert_allclose(observed["slope"], -4.0 / (2.0 + ts) ** 2, rtol=1e-7)


def test_a_compartment_that_a_rule_determines():
    network = Network(
        compartments={"C": 1.0},
        species={"A": 4.0, "S": Species(1.0, is_amount=False, boundary=True)},
        rules={"C": "2 + time", "slope": "rateOf(A)"},
        rates={"S": "0.5"},
    )
    slope, observed = at_state(network, t=2.0)
    assert network.plan.formulas.by_concentration == {"S"}
    assert slope == {"A": 0.0, "S": 0.5}
    assert (observed["A"], observed["slope"]) == (1.0, -4.0 / 16.0)
    assert float(network.amounts(2.0, network.initial())["S"]) == 4.0


def test_amounts_concentrations_and_compartments_without_dimension():
    network = Network(
        compartments={"V": 2.0, "point": Compartment(None, dimensions=0.0)},
        species={
            "amount": Species(6.0, "V", only_substance=True),
            "from_concentration": Species(3.0, "V", only_substance=True, is_amount=False),
            "concentration": Species(6.0, "V"),
            "given": Species(3.0, "V", is_amount=False),
            "pointed": Species(6.0, "point"),
            "fixed": Species(5.0, "V", constant=True),
            "bound": Species(5.0, "V", boundary=True),
        },
        parameters={"k": 0.5},
        reactions={"r": Reaction("amount + concentration + bound -> pointed", "k * amount * concentration")},
    )
    slope, observed = at_state(network)
    assert {name: observed[name] for name in network.definition.species} == {
        "amount": 6.0, "from_concentration": 6.0, "concentration": 3.0, "given": 3.0, "pointed": 6.0, "fixed": 2.5,
        "bound": 2.5,
    }  # fmt: skip
    assert slope == {"amount": -9.0, "from_concentration": 0.0, "concentration": -9.0, "given": 0.0, "pointed": 9.0}
    assert np.isnan(observed["point"])
    amounts = network.amounts(0.0, network.initial())
    assert {name: float(value) for name, value in amounts.items()} == {
        "amount": 6.0, "from_concentration": 6.0, "concentration": 6.0, "given": 6.0, "pointed": 6.0, "fixed": 5.0,
        "bound": 5.0,
    }  # fmt: skip


def test_conversion_factors():
    network = Network(
        species={"A": 1.0, "B": Species(0.0, conversion="own")},
        parameters={"own": 3.0, "all": 10.0},
        reactions={"r": Reaction("A -> 2 B", "A")},
        conversion="all",
    )
    assert at_state(network)[0] == {"A": -10.0, "B": 6.0}


def test_stoichiometries_that_change():
    reaction = Reaction(
        (Participant("A", parse("1 + p")),),
        (Participant("B", 2.0, "n"), Participant("C", None, "m"), Participant("D", 3.0, "unused")),
        symbol("A"),
    )
    network = Network(
        species=dict.fromkeys("ABCD", 1.0), parameters={"p": 0.5}, reactions={"r": reaction},
        rates={"n": "p"}, rules={"m": "n + time"},
    )  # fmt: skip
    slope, observed = at_state(network, t=4.0, n=5.0, A=2.0)
    assert slope == {"A": -3.0, "B": 10.0, "C": 18.0, "D": 6.0, "n": 0.5}
    assert (observed["n"], observed["m"], observed["unused"]) == (5.0, 9.0, 3.0)
    assert [name for name in network.values if name in ("n", "unused")] == ["n"]


def test_initial_assignments_follow_each_other_and_can_be_differentiated():
    network = Network(
        compartments={"V": 2.0},
        species={"A": 0.0, "B": Species(None)},
        parameters={"a": 3.0, "half": 0.0},
        initial={"half": "a / 2", "A": "half + rule", "B": "r * A"},
        rules={"rule": "a * time + 1"},
        reactions={"r": Reaction("A ->", "half * A")},
    )
    _, observed = at_state(network)
    assert (observed["half"], observed["A"], observed["r"], observed["B"]) == (1.5, 2.5, 3.75, 9.375)
    assert "half" not in network.values
    assert at_state(network, t=7.0)[1]["half"] == 1.5

    def amount(a):
        return qsp.at(network, "a").set(a).initial()["A"]

    assert jax.grad(amount)(3.0) == 1.0  # (a / 2 + 1) * V


def test_algebraic_rules_are_solved_or_become_states():
    linear = Network(
        species={"S": 4.0, "P": 1.0},
        parameters={"y": Parameter(0.0, constant=False), "z": Parameter(constant=False)},
        algebraic=["S + 2 * y - z", "z - 3 * P - y"],
        reactions={"r": Reaction("S -> P", "S")},
    )
    _, observed = at_state(linear, S=2.0, P=3.0)
    assert linear.algebraic() == ()
    assert (observed["y"], observed["z"]) == (9.0 - 2.0, 9.0 + 7.0)

    curved = Network(
        species={"S": 10.0},
        parameters={"k": 0.5, "y": Parameter(constant=False)},
        algebraic=["y^3 + y - S"],
        reactions={"r": Reaction("S ->", "k * y")},
    )
    assert curved.algebraic() == ("y",)
    assert float(curved.initial()["y"]) == pytest.approx(2.0, rel=1e-12)
    slope = jax.grad(lambda S: qsp.at(curved, "S").set(S).initial()["y"])(10.0)
    assert slope == pytest.approx(1.0 / 13.0, rel=1e-10)
    # S = y^3 + y and S' = -k y, so 1.5 (y^2 - 4) + log(y / 2) = -k t
    y = qsp.simulate(curved, qsp.no_doses(), [3.0], method=TIGHT).observed["y"][0]
    assert 1.5 * (y**2 - 4.0) + np.log(y / 2.0) == pytest.approx(-1.5, rel=1e-5)


def test_an_event_keeps_amounts_when_a_compartment_changes():
    parts = {
        "compartments": {"C": 2.0},
        "species": {"A": 4.0, "S": Species(1.0, is_amount=False, boundary=True), "B": 8.0},
        "rates": {"S": "0.5"},
    }
    network = Network(**parts, events=[NetworkEvent("time > 1", {"C": "2 * C", "B": "A + 1"})])
    # B gets the concentration A + 1 = 3 in the old size, 2; then amounts stay (case 01506 of the SBML test suite)
    assert fired(network) == {"C": 4.0, "B": 6.0}
    observed = qsp.simulate(network, qsp.no_doses(), [1.0, 2.0], method=TIGHT).observed
    np.testing.assert_allclose(observed["A"], [2.0, 1.0], rtol=1e-8)
    np.testing.assert_allclose(observed["B"], [4.0, 1.5], rtol=1e-8)
    np.testing.assert_allclose(observed["S"], [1.5, 0.75 + 0.5], rtol=1e-7)

    late = NetworkEvent("time > 1", {"S": "2"}, delay=1.0)
    growing = Network(**parts | {"rates": {"S": "0.5", "C": "1"}}, events=[late])
    assert growing.plan.formulas.by_concentration == {"S"}
    assert fired(growing) == {"S": 2.0}
    with pytest.raises(ValueError, match="not supported: a delayed event with values from its trigger that changes"):
        Network(
            **parts | {"rates": {"S": "0.5", "C": "1"}}, events=[late, NetworkEvent("time > 2", {"C": "1"}, delay=1.0)]
        )


def test_what_an_event_assigns_is_a_state():
    network = Network(
        species={"A": 1.0},
        parameters={"k": 0.5, "times": 0.0},
        reactions={"r": Reaction("A ->", MassAction("k"))},
        events=[NetworkEvent("A < 0.5", {"k": "0", "times": "times + 1"}, name="stop")],
    )
    assert network.initial().labels == ("A", "k", "times")
    assert network.definition.parameters["k"].constant is False
    observed = qsp.simulate(network, qsp.no_doses(), [1.0, 5.0], method=TIGHT).observed
    np.testing.assert_allclose(observed["A"], [np.exp(-0.5), 0.5], rtol=1e-7)
    np.testing.assert_allclose(observed["times"], [0.0, 1.0])


def test_rate_of_what_cannot_have_one_is_refused():
    with pytest.raises(ValueError, match="not supported: rateOf of what an assignment rule determines"):
        Network(rules={"a": "sin(time)", "b": "rateOf(a)"})


@pytest.mark.parametrize("method", [qsp.solve.Rosenbrock(), qsp.solve.Diffrax()], ids=["Rosenbrock", "Diffrax"])
def test_an_event_at_a_moment(method):
    """A condition that holds at one time only, which no output falls on."""
    events = [NetworkEvent("time == 2", {"z": "time"})]
    network = Network(parameters={"x": 1.0, "z": 0.0}, rates={"x": "-x"}, events=events)
    seen = qsp.simulate(network, qsp.no_doses(), [0.0, 1.5, 2.7], method=method).observed["z"]
    np.testing.assert_array_equal(seen, [0.0, 0.0, 2.0])


@pytest.mark.parametrize(("trigger", "there"), [("time > c", 0.0), ("time >= c", 1.0), ("!(time <= c) && y < 99", 0.0)])
def test_what_a_strict_trigger_delays_comes_after_its_time(trigger, there):
    event = NetworkEvent(trigger, {"x": "1"}, delay="d")
    parameters = {"x": 0.0, "y": 0.0, "c": 10.0, "d": 2.0}
    network = Network(parameters=parameters, rates={"y": "1"}, events=[event])

    @jax.jit
    def observed(c, d):
        own = qsp.at(qsp.at(network, "c").set(c), "d").set(d)
        ts = (c + d) * jnp.array([0.0, 1 - 1e-9, 1.0, 1 + 1e-9])
        return qsp.simulate(own, qsp.no_doses(), ts, throw=False).observed["x"]

    for c, d in [(10.0, 2.0), (10.0, 7.0), (0.3, 0.1), (7 / 3, 6.5), (13.25, 23.2)]:
        np.testing.assert_array_equal(observed(c, d), [0.0, 0.0, there, 1.0])
