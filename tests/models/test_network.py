"""Networks in Python: equations, names, doses, units, moieties, cohorts, errors."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._declared import declared
from qspjax._expression import parse, symbol
from qspjax._model import as_state
from qspjax._names import names, state_names
from qspjax._tables import LabelledState
from qspjax.models import (
    AbstractLaw,
    Compartment,
    Hill,
    MassAction,
    MichaelisMenten,
    Network,
    NetworkEvent,
    Parameter,
    Reaction,
)
from qspjax.models.network import Definition, Species, problems
from tests.systems.marks import slow_for

BINDING = {
    "binding": Reaction("drug + target -> complex", MassAction("kon", reverse="koff")),
    "elimination": Reaction("drug ->", "CL * drug"),
}
TIGHT = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12)


def binding(**changes):
    parts = {
        "compartments": {"plasma": Compartment(3.0, unit="L")},
        "species": {
            "drug": Species(30.0, unit="nmol", doc="antibody"),
            "target": Species(15.0, unit="nmol"),
            "complex": Species(0.0, unit="nmol"),
        },
        "parameters": {
            "kon": Parameter(0.1, unit="L/nmol/h", doc="association"),
            "koff": Parameter(0.02, unit="1/h"),
            "CL": Parameter(0.5, unit="L/h"),
        },
        "reactions": BINDING,
        "time_unit": "h",
    }
    return Network(**parts | changes)


def slopes(network, t=0.0, **values):
    """Return the slopes by name, at the initial state but for some values."""
    start = as_state(network, None)
    y = LabelledState(start.labels, tuple(jnp.asarray(values.get(name, start[name])) for name in start.labels))
    slope = network.vector_field(t, y)
    return {name: float(slope[name]) for name in slope.labels}


def seen(network, t=0.0):
    return {name: float(value) for name, value in network.observe(t, as_state(network, None)).items()}


def test_binding_is_what_one_writes_by_hand():
    # concentrations 4, 2, 1 in 3 L; amounts per time
    v = 3.0 * (0.1 * 4.0 * 2.0 - 0.02 * 1.0)
    found = slopes(binding(), drug=12.0, target=6.0, complex=3.0)
    assert found == pytest.approx({"drug": -v - 0.5 * 4.0, "target": -v, "complex": v}, rel=1e-14)


def test_an_id_with_an_initial_value_and_a_slope_is_declared_by_both():
    network = Network(parameters={"k": 2.0}, rates={"x": "-k * x"}, initial={"x": "3 * k"})
    assert slopes(network) == {"x": -12.0}


def test_it_is_target_mediated_disposition():
    turnover = {
        "synthesis": Reaction("-> target", "kdeg * R0 * plasma"),
        "loss": Reaction("target ->", MassAction("kdeg")),
    }
    network = binding(
        parameters={"kon": 0.1, "koff": 0.02, "CL": 0.5, "kdeg": 0.4, "R0": 5.0, "kint": 0.3},
        reactions=BINDING | turnover | {"internalisation": Reaction("complex ->", MassAction("kint"))},
    )
    hand = qsp.models.TMDD(CL=0.5, V1=3.0, Q=1.0, V2=1.0, kon=0.1, koff=0.02, kdeg=0.4, kint=0.3, R0=5.0)
    y = hand.initial()._replace(central=4.0, peripheral=4.0, target=2.0, complex=1.0)
    expected, found = hand.vector_field(0.0, y), slopes(network, drug=12.0, target=6.0, complex=3.0)
    for one, other in (("drug", "central"), ("target", "target"), ("complex", "complex")):
        assert found[one] / 3.0 == pytest.approx(float(getattr(expected, other)), rel=1e-13)


def test_laws_give_the_formulas_of_their_authors():
    species = {"S": 2.0, "P": 3.0, "X": 4.0}
    reactions = {
        "constant": Reaction("-> P", MassAction("k")),
        "twice": Reaction("2 S -> P", MassAction("k")),
        "saturable": Reaction("S -> P", MichaelisMenten("V", "K")),
        "reversible": Reaction("S <-> P", MichaelisMenten("V", "K", reverse=2.0, Kr=1.5)),
        "activated": Reaction("-> P", Hill("V", "K", 2, by="X")),
        "repressed": Reaction("-> P", Hill("V", "K", 2, by="X", represses=True)),
        "own": Reaction("S ->", lambda k, S: k * S / (1.0 + S)),
        "text": Reaction("S ->", "k * S^2"),
        "expression": Reaction("S ->", symbol("k") * symbol("S")),
    }
    network = Network(species=species, parameters={"k": 0.5, "V": 3.0, "K": 1.0}, reactions=reactions)
    found = seen(network)
    expected = {
        "constant": 0.5, "twice": 0.5 * 4.0, "saturable": 3.0 * 2.0 / 3.0,
        "reversible": (3.0 * 2.0 - 2.0 * 3.0 / 1.5) / (1.0 + 2.0 + 2.0), "activated": 3.0 * 16.0 / 17.0,
        "repressed": 3.0 / 17.0, "own": 1.0 / 3.0, "text": 2.0, "expression": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-14)
    assert network.definition.reactions["activated"].modifiers == ("X",)
    assert network.definition.reactions["reversible"].reversible


def test_a_first_order_law_between_compartments_moves_amounts():
    network = Network(
        compartments={"blood": 5.0, "tissue": 20.0},
        species={"B": Species(10.0, "blood"), "T": Species(4.0, "tissue")},
        parameters={"k12": 0.3, "k21": 0.1},
        reactions={"distribution": Reaction("B <-> T", MassAction("k12", reverse="k21"))},
    )
    assert slopes(network)["T"] == pytest.approx(0.3 * 10.0 - 0.1 * 4.0, rel=1e-14)


def test_names_have_units_and_meaning():
    network = binding()
    found = {one.name: (float(one.value), one.unit, one.doc) for one in names(network)}
    assert found["kon"] == (0.1, "L/nmol/h", "association")
    assert found["drug"] == (30.0, "nmol", "antibody")
    assert state_names(as_state(network, None)) == ("drug", "target", "complex")
    assert (network.units.states["drug"], network.units.observed["drug"]) == ("nmol", "nmol/L")
    changed = qsp.at(network, "kon").set(0.2)
    assert (float(changed.values["kon"]), float(network.values["kon"])) == (0.2, 0.1)
    assert changed.definition.parameters["kon"].value == 0.2
    assert qsp.at(changed, "kon").get().dtype == jnp.zeros(()).dtype
    with pytest.raises(ValueError, match="Argument `name` must name a parameter of the model .drug, .* but is `Kon`"):
        qsp.at(network, "Kon")


def test_one_plan_for_networks_that_differ_in_numbers():
    one, two = binding(), binding(compartments={"plasma": Compartment(9.0, unit="L")})
    assert one.plan is two.plan
    assert jax.tree.structure(one) == jax.tree.structure(two)
    again = pickle.loads(pickle.dumps(one))
    assert again.plan == one.plan
    assert again.definition == one.definition == copy.deepcopy(one).definition
    assert binding(time_unit="d").plan != one.plan


def test_a_number_may_be_traced():
    def slope(kon):
        return binding(parameters={"kon": kon, "koff": 0.02, "CL": 0.5}).vector_field(0.0, binding().initial())["drug"]

    assert jax.grad(slope)(jnp.asarray(0.1)) == pytest.approx(-3.0 * 10.0 * 5.0, rel=1e-12)


def test_doses_cohorts_and_gradients_go_by_id():
    network, ts = binding(), [0.5, 4.0]
    regimen = qsp.bolus(30.0, to="drug", at=1.0)
    cohort = qsp.Cohort.of(network, {"CL": [0.5, 2.0], "drug": [30.0, 0.0]})
    many = qsp.simulate_cohort(cohort, regimen, ts, method=TIGHT, save=["drug"]).observed["drug"]
    population = qsp.Population(network, between={"CL": qsp.LogNormal(cv=0.3)})
    assert population.sample(key=jax.random.key(0), size=3).model.values["CL"].shape == (3,)

    def last(CL):
        model = qsp.at(network, "CL").set(CL)
        return qsp.simulate(model, regimen, ts, method=TIGHT, save=["drug"]).observed["drug"][-1]

    both = jax.jit(jax.value_and_grad(last))
    value, slope = both(0.5)
    assert value == pytest.approx(float(many[0, 1]), rel=1e-7)
    assert many[1, 0] == pytest.approx(0.0, abs=1e-12)
    step = 1e-3
    ahead, back = (both(0.5 + sign * step)[0] for sign in (1.0, -1.0))
    assert slope == pytest.approx(float(ahead - back) / (2.0 * step), rel=1e-5)


def test_equations_are_printed():
    network = Network(
        species={"A": 1.0, "B": 0.0},
        parameters={"k": 2.0, "x": 0.0},
        reactions={"r": Reaction("A -> 2 B", "k * A"), "s": Reaction("B ->", "A")},
        rules={"total": "A + B / 2"},
        rates={"x": "A - x"},
        initial={"A": "3 * k"},
        events=[NetworkEvent("A < 1", {"B": "B + 1"}, delay=2.0, priority=1.0)],
    )
    assert str(network.equations()).splitlines() == [
        "A' = -r",
        "B' = 2 * r - s",
        "x' = A - x",
        "r = k * A",
        "s = A",
        "total = A + B / 2",
        "A(0) = 3 * k",
        "event1: when A < 1, priority 1 after 2: B = B + 1 (with the values of that moment)",
    ]
    assert seen(network) == {"A": 6.0, "B": 0.0, "k": 2.0, "x": 0.0, "total": 6.0, "r": 12.0, "s": 6.0}
    (event,) = network.events()
    y = network.initial()
    assert (event.name, bool(event.trigger(0.0, y)), event.delay(0.0, y), event.priority(0.0, y)) == (
        "event1", False, 2.0, 1.0
    )  # fmt: skip
    assert event.assign(0.0, y) == {"B": 1.0}


def test_moieties_and_the_reduced_network():
    moieties = binding().conserved()
    assert [str(moiety) for moiety in moieties] == ["target + complex = 15"]
    kinase = Network(
        species={"E": 1.0, "S": 10.0, "ES": 0.0, "P": 0.0, "D": 2.0},
        parameters={"a": 1.0},
        reactions={
            "r1": Reaction("E + S <-> ES", MassAction("a", reverse="a")),
            "r2": Reaction("ES -> E + P", MassAction("a")),
            "r3": Reaction("2 P <-> D", MassAction("a", reverse="a")),
        },
    )
    assert [str(moiety) for moiety in kinase.conserved()] == ["E + ES = 1", "S + ES + P + 2 * D = 14"]
    smaller = binding().reduced(dosed=["drug"])
    assert state_names(smaller.initial()) == ("drug", "complex")
    assert float(smaller.values["target_total"]) == 15.0
    regimen, ts = qsp.bolus(30.0, to="drug", at=1.0), [0.0, 2.0, 9.0]
    whole = qsp.simulate(binding(), regimen, ts, method=TIGHT).observed
    part = qsp.simulate(smaller, regimen, ts, method=TIGHT).observed
    for name in ("drug", "target", "complex"):
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-6, atol=1e-9)
    lost = qsp.simulate_cohort(
        qsp.Cohort.of(smaller, {}), qsp.bolus(1.0, to="complex"), [1.0], method=TIGHT, save=["drug"]
    )
    assert bool(lost.failed.all())


def test_units_are_checked():
    pytest.importorskip("pint")
    assert binding().check_units() == []
    wrong = binding(
        reactions=BINDING
        | {"odd": Reaction("target ->", "CL * target * plasma"), "sum": Reaction("drug ->", "koff + CL")},
        rules={"x": "exp(drug)"},
    )
    assert [str(problem) for problem in wrong.check_units()] == [
        "`odd` must be in nmol/h, but `CL * target * plasma` is in l * nmol / h.",
        "`sum` must add or compare quantities of one unit, but `koff` is in 1 / h and `CL` in l / h.",
        "`sum` must be in nmol/h, but `koff + CL` is in 1 / h.",
        "`x` must take `exp` of a number without a unit, but `drug` is in nmol / l.",
    ]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rules": {"a": "b", "b": "a"}}, "`a` must not depend on itself, but does: a -> b -> a."),
        ({"initial": {"a": "a"}}, "`a` must not depend on itself, but does: a -> a."),
        ({"rules": {"a": "nothing"}}, "`a` must use ids of the network, but uses `nothing`."),
        ({"parameters": {"k": None}, "rules": {"a": "k"}}, "`k` must have a value, but has none."),
        ({"reactions": {"r": Reaction("S ->", "1")}}, "`r` must be a reaction of species, but `S` is none."),
        ({"reactions": {"r": Reaction("->", None)}}, "`r` must have a rate, but has none."),
        ({"algebraic": ["1 - 2"]}, "`algebraic rule 1` must determine a variable that nothing else determines."),
        ({"parameters": {"a": 1.0}, "rules": {"a": "1"}, "rates": {"a": "1"}}, "but has an assignment and a rate rule"),
        ({"species": {"a": Species(1.0, "b")}}, "`a` must be in a compartment of the network, but is in `b`."),
        ({"species": {"a": 1.0}, "parameters": {"a": 1.0}}, "`a` must be the id of one thing, but is that of two."),
        ({"conversion": "c"}, "`network` must have a parameter as its conversion factor, but has `c`."),
        (
            {"species": {"S": Species(1.0, constant=True)}, "reactions": {"r": Reaction("S ->", "1")}},
            "`r` must not change `S`, which is constant.",
        ),
        (
            {"species": {"S": 1.0}, "reactions": {"r": Reaction("S ->", "1")}, "rates": {"S": "1"}},
            "`S` must be a boundary species, because a rule determines it and reactions change it.",
        ),
        (
            {"species": {"S": Species(1.0, constant=True)}, "events": [NetworkEvent("S > 2", {"S": "1"})]},
            "`S` must not be constant, because event1 changes it.",
        ),
        ({"parameters": {"k": "fast"}}, "Argument `k` must be a number or a Parameter, but is `fast`."),
        ({"reactions": {"r": "A -> B"}}, "Argument `r` must be a Reaction, but is of type str."),
    ],
)
def test_what_is_wrong_is_said(parts, message):
    with pytest.raises(ValueError) as error:
        Network(**parts)
    assert message in str(error.value)


class Turnover(AbstractLaw):
    def rates(self, substrates, products):
        return parse("pi") * substrates[0].symbol, None


def test_a_name_of_the_network_is_no_constant():
    network = Network(
        species={"A": 2.0, "pi": 10.0, "time": 3.0, "true": 1.0, "t": 5.0},
        parameters={"inf": 0.5, "exponentiale": 4.0, "avogadro": None},
        reactions={
            "nan": Reaction("A ->", "pi * A"),
            "law": Reaction("A ->", MassAction("2 * inf")),
            "curve": Reaction("A ->", Hill("pi", 2.0, "exponentiale")),
            "called": Reaction("A ->", lambda time, t, pi: time + t - pi),
        },
        rules={"sum": "A + pi + time + exponentiale", "own": "nan + true"},
        rates={"true": "-pi"},
        initial={"avogadro": "3 * inf"},
        events=[NetworkEvent("pi < 1", {"time": "inf"}, delay="inf")],
    )
    expected = {"sum": 19.0, "own": 21.0, "nan": 20.0, "law": 2.0, "curve": 5.0, "called": -2.0, "avogadro": 1.5}
    for one in (network, network.replace("law", rate="inf * A").replace(rules={"sum": "A + pi + time + exponentiale"})):
        values = seen(one)
        assert {name: values[name] for name in expected} == expected | {"law": values["law"]}
        assert slopes(one)["true"] == -10.0
    assert values["law"] == 1.0
    (event,) = network.definition.events
    assert (str(event.trigger), str(event.assign["time"]), str(event.delay)) == ("`pi` < 1", "`inf`", "`inf`")
    assert seen(Network(rules={"x": "2 * pi", "y": lambda t: t + 1}))["x"] == 2 * np.pi
    with pytest.raises(ValueError, match="Argument `rate` must write `pi` in backticks"):
        Network(species={"A": 1.0, "pi": 2.0}, reactions={"r": Reaction("A ->", Turnover())})


def test_equations_that_cannot_be_read():
    for text in ("A B -> C", "A", "A -> B -> C", "-> 2 3"):
        with pytest.raises(ValueError, match="Argument `equation` must"):
            Reaction(text, "1")
    with pytest.raises(ValueError, match="a law for one substrate, but is one for 2"):
        Network(species={"A": 1.0, "B": 1.0}, reactions={"r": Reaction("A + B ->", MichaelisMenten(1.0, 1.0))})
    with pytest.raises(ValueError, match="Argument `Kr` must be given with `reverse`"):
        MichaelisMenten(1.0, 1.0, reverse=1.0)


def test_problems_of_a_definition_are_listed():
    empty = Definition()
    assert problems(empty) == []
    wrong = Definition(rates={"x": symbol("k")})
    assert [(problem.id, problem.message) for problem in problems(wrong)] == [
        ("x", "must use ids of the network, but uses `k`."),
        ("x", "must be a species, a compartment, a parameter or a named participant to be determined."),
    ]


def in_a_cell(unit, litres):
    """Return a binding reaction with concentrations in a unit (1e-9: nM), in a compartment of so many litres."""
    return Network(
        compartments={"cell": litres},
        species={"drug": Species(3e-9 / unit, is_amount=False), "target": Species(1e-9 / unit, is_amount=False)}
        | {"complex": 0.0},
        parameters={"kon": 2e9 * unit, "koff": 0.5, "kel": 0.3},
        reactions={
            "binding": Reaction("drug + target -> complex", MassAction("kon", reverse="koff")),
            "elimination": Reaction("drug ->", MassAction("kel")),
        },
    )


@pytest.mark.parametrize(
    "method",
    slow_for([qsp.solve.Rosenbrock(), *(OTHERS := (qsp.solve.Explicit(), qsp.solve.Diffrax()))], *OTHERS),
    ids=lambda m: type(m).__name__,
)
def test_tolerances_count_in_the_sizes_of_the_states(method):
    """The same cell in nM and litres, and in M and femtolitres, where every amount is far below the tolerance."""
    ts = [0.0, 1.0, 3.0, 10.0]
    plain, small = (
        qsp.simulate(in_a_cell(*units), qsp.no_doses(), ts, method=method).observed
        for units in ((1e-9, 1.0), (1.0, 1e-15))
    )
    for name in ("drug", "target", "complex"):
        np.testing.assert_allclose(small[name], 1e-9 * plain[name], rtol=1e-4, atol=1e-15)


def test_sizes_are_powers_of_ten_of_what_the_states_begin_with():
    assert in_a_cell(1.0, 1e-15).sizes() == {"drug": 1e-24, "target": 1e-24, "complex": 1e-24}
    assert binding().sizes() == {}
    coupled = qsp.models.Coupled(in_a_cell(1.0, 1.0), qsp.models.Emax(E0=0.0, Emax=1.0, EC50=1.0), driver="drug")
    assert declared(coupled).sizes() == {"pk.drug": 1e-9, "pk.target": 1e-9, "pk.complex": 1e-9}
