"""Networks written as SBML: the same definition when read again, every digit, no file that libsbml finds fault with."""

import dataclasses
import math
import re

import pytest

pytest.importorskip("libsbml")

import libsbml

import qspjax as qsp
from qspjax import io
from qspjax._expression import FUNCTIONS, TIME, call, number, parse, piecewise, symbol
from qspjax.io.sbml import read_definition
from qspjax.io.sbml._write import sbml_of
from qspjax.io.sbml._write_ids import Ids
from qspjax.io.sbml._write_math import MOST_DEEP
from qspjax.io.sbml._write_units import parts_of
from qspjax.models import MassAction, Network, Reaction
from qspjax.models.network import Compartment, Definition, NetworkEvent, Parameter, Participant, Species


def errors(text):
    """Return what libsbml finds wrong with a document, agreement of units apart."""
    document = libsbml.readSBMLFromString(text)
    document.setConsistencyChecks(libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, False)
    document.checkConsistency()
    found = (document.getError(i) for i in range(document.getNumErrors()))
    return [error.getMessage() for error in found if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR]


def again(definition):
    """Write a definition, check the file, and read it."""
    text = sbml_of(definition)
    assert errors(text) == []
    return read_definition(text).definition


FULL = Definition(
    name="full",
    time_unit="h",
    dose_unit="nmol",
    compartments={
        "plasma": Compartment(3.1, unit="L", doc="the plasma"),
        "skin": Compartment(None, constant=False, dimensions=2.0),
        "point": Compartment(None, dimensions=0.0),
    },
    species={
        "drug": Species(0.1 + 0.2, "plasma", is_amount=False, unit="nmol/L", doc="the drug"),
        "target": Species(15.0, "plasma", unit="nmol"),
        "bound": Species(None, "skin", only_substance=True, conversion="factor", unit="nmol"),
        "outside": Species(1e-300, "plasma", boundary=True, constant=True, unit="nmol"),
        "spot": Species(2.0, "point", boundary=True, unit="umol"),
    },
    parameters={
        "kon": Parameter(0.1, unit="L/(nmol*h)", doc="association"),
        "factor": Parameter(2.0),
        "all": Parameter(1.5),
        "x": Parameter(-0.0, constant=False),
        "y": Parameter(1 / 3, constant=False),
        "sum": Parameter(None, constant=False),
        "slow": Parameter(1e22, constant=False),
        "binding.koff": Parameter(2.3e-308, unit="1/h", doc="dissociation"),
        "binding.n": Parameter(1.7976931348623157e308),
    },
    reactions={
        "binding": Reaction(
            (Participant("drug", 1.0, constant=True), Participant("target", 2.0, "two", constant=False)),
            (Participant("bound", 1.0, constant=True),),
            call("*", *map(symbol, ("plasma", "kon", "drug", "binding.n"))) - symbol("binding.koff") * symbol("bound"),
            modifiers=("outside",),
            reversible=True,
            name="binds",
        )
    },
    assignments={"sum": parse("drug + 2 * target + binding"), "skin": parse("2 + time")},
    rates={"x": parse("-x / 3"), "two": parse("0.1")},
    algebraic=(parse("y - x * factor"),),
    initial={"x": parse("plasma^2"), "bound": parse("exp(-1)")},
    events=(
        NetworkEvent(
            parse("drug < 0.1 && time > 1.5"),
            {"slow": parse("slow + 1"), "target": parse("15")},
            delay=parse("factor / 7"),
            priority=parse("x"),
            persistent=False,
            initial_value=False,
            from_trigger_time=False,
            name="dose",
        ),
        NetworkEvent(parse("x > 5"), {"slow": parse("1")}),
    ),
    conversion="all",
)


def test_everything_comes_back_the_same():
    assert again(FULL) == FULL


def test_units_need_pint_and_no_more(monkeypatch):
    def missing(unit, **_):
        raise ImportError

    monkeypatch.setattr("qspjax.io.sbml._write_units.known_unit", missing)
    text = sbml_of(FULL)
    assert errors(text) == []
    assert "Unit: L/(nmol*h)" in text
    back = read_definition(text).definition
    assert back.parameters["kon"] == Parameter(0.1, doc="association")
    assert back.reactions == FULL.reactions


@pytest.mark.parametrize(
    ("unit", "parts"),
    [
        ("mg/L", [("gram", 1, -3, 1), ("litre", -1, 0, 1)]),
        ("nM", [("mole", 1, -9, 1), ("litre", -1, 0, 1)]),
        ("d", [("second", 1, 0, 86400)]),
        ("1/h", [("second", -1, 0, 3600)]),
        ("mL/min/kg", [("litre", 1, -3, 1), ("second", -1, 0, 60), ("kilogram", -1, 0, 1)]),
        ("L/L", [("dimensionless", 1, 0, 1)]),
        ("mmHg", [("pascal", 1, 0, 133.322387415)]),
        ("m^2", [("metre", 2, 0, 1)]),
        ("IU/mL", None),
        ("__import__('os')", None),
        ("furlongs per", None),
    ],
)
def test_units(unit, parts):
    found = parts_of(unit)
    assert (found and [tuple(part) for part in found]) == parts


def test_a_unit_that_sbml_cannot_say_is_a_note():
    definition = Definition(name="m", parameters={"k": Parameter(1.0, unit="IU/mL & <b>")})
    text = sbml_of(definition)
    assert errors(text) == []
    assert "<p>Unit: IU/mL &amp; &lt;b&gt;</p>" in text
    assert read_definition(text).definition.parameters["k"] == Parameter(1.0)


x, y = symbol("x"), symbol("y")


def example(op):
    """Return an expression of an operation."""
    least, most = FUNCTIONS[op]
    if op == "piecewise":
        return piecewise(x, x < y, 2.0, y > 1.0, 3.0)
    return call(op, *((x,) if most == 1 else (x, y) if most == 2 or least == 2 else (x, y, number(0.1))))


def test_all_mathematics():
    expressions = {op: example(op) for op in FUNCTIONS}
    expressions |= {
        "minus": -x,
        "pieces": piecewise(1.0, x < 2.0),
        "nothing": call("+"),
        "constants": call(
            "*", math.pi, math.e, 6.02214179e23, math.inf, 0.1 + 0.2, 1e-20, -2.5, 2.0**31, -0.0, 2.0**53
        ),
        "truth": call("xor", True, False, x < y),
        "time": TIME * 2.0,
        "chain": call("lt", x, y, number(3.0)),
        "look-alike": call("+", 731_000_001.25, 0.1 + 0.2, 731000000.25, 1 / 3),
    }
    del expressions["rate"]
    names = {f"p{i}": op for i, op in enumerate(expressions)}
    definition = Definition(
        name="m",
        parameters={"x": Parameter(0.7, constant=False), "y": Parameter(0.2), "z": Parameter(0.0, constant=False)}
        | {name: Parameter(constant=False) for name in names},
        assignments={name: expressions[op] for name, op in names.items()},
        rates={"x": number(1.0), "z": call("rate", x)},
    )
    back = again(definition)
    known = {"nothing": number(0.0)}
    for name, op in names.items():
        assert back.assignments[name] is known.get(op, expressions[op]), op
    assert back.rates == definition.rates
    assert math.isnan(again(dataclasses.replace(definition, initial={"y": number(math.nan)})).initial["y"].value)


def test_large_formulas():
    terms = [symbol(f"p{i}") for i in range(1500)]
    long, left = call("+", *terms), terms[0]
    for term in terms[1:]:
        left = left + term
    parameters = {f"p{i}": Parameter(1.0) for i in range(1500)}

    def of(expression):
        return Definition(
            name="m", parameters=parameters | {"s": Parameter(constant=False)}, assignments={"s": expression}
        )

    assert again(of(long)).assignments["s"] is long
    assert again(of(left)).assignments["s"] in (long, left)
    deep = terms[0]
    for _ in range(MOST_DEEP + 1):
        deep = call("sin", deep)
    with pytest.raises(
        ValueError, match="must have formulas of at most 350 levels to be written as SBML, but is one with"
    ):
        sbml_of(of(deep))
    shared = terms[0]
    for _ in range(60):
        shared = call("max", shared, shared * 2.0)
    with pytest.raises(ValueError, match="must have formulas of at most 500000 parts to be written as SBML"):
        sbml_of(of(shared))


def test_ids_become_legal_and_stay_apart():
    ids = Ids(["binding.kon", "binding_kon", "binding-kon", "2nd", "Wirkstoff \u00e4", ""])
    assert list(ids.values()) == ["binding_kon", "binding_kon_2", "binding_kon_3", "_2nd", "Wirkstoff_", "id"]
    definition = Definition(
        name="a.b",
        compartments={"": Compartment(2.0)},
        species={"my drug": Species(1.0), "a_b": Species(2.0)},
        parameters={"J.S": Parameter(3.0), "J.my drug": Parameter(4.0), "J_S": Parameter(5.0), "J.a_b": Parameter(6.0)},
        reactions={
            "J": Reaction(
                (Participant("my drug"),),
                (),
                call("*", *map(symbol, ("J.S", "J_S", "J.my drug", "my drug", "a_b", "J.a_b"))),
            )
        },
    )
    back = again(definition)
    assert back.name == "a.b"
    assert list(back.compartments) == ["id"]
    assert {id: own.doc for id, own in back.species.items()} == {"a_b": "", "my_drug": "my drug"}
    # J.S stays the reaction's own; J.a_b must not: a species of that name is used there
    assert {id: (own.value, own.doc) for id, own in back.parameters.items()} == {
        "J.S": (3.0, ""),
        "J_S": (5.0, ""),
        "J_my_drug": (4.0, "J.my drug"),
        "J_a_b": (6.0, "J.a_b"),
    }
    assert back.reactions["J"].modifiers == ("a_b",)
    names = ("J.S", "J_S", "J_my_drug", "my_drug", "a_b", "J_a_b")
    assert back.reactions["J"].rate is call("*", *map(symbol, names))


def test_species_without_a_compartment_get_one():
    network = Network(
        species={"drug": 100.0, "compartment": 1.0},
        parameters={"k": 0.1},
        reactions={"loss": Reaction("drug ->", "k * drug * compartment")},
    )
    text = io.write_sbml(network)
    assert errors(text) == []
    back = io.read_sbml(text)
    assert dict(back.definition.compartments) == {"compartment_2": Compartment(1.0)}
    assert back.definition.species["drug"].compartment == "compartment_2"
    assert back.definition.reactions["loss"].modifiers == ("compartment",)


def test_stoichiometries_that_are_formulas_get_a_name():
    definition = Definition(
        name="m",
        compartments={"c": Compartment(1.0)},
        species={"A": Species(1.0, "c"), "B": Species(0.0, "c")},
        parameters={"n": Parameter(2.0)},
        reactions={"J": Reaction((Participant("A", number(2.0)),), (Participant("B", parse("2 * n")),), parse("A"))},
    )
    back = again(definition)
    assert [one.stoichiometry for _, one in back.reactions["J"].participants()] == [2.0, None]
    assert dict(back.assignments) == {"J_B": parse("2 * n")}


def test_numbers_that_were_changed_are_written(tmp_path):
    network = Network(
        compartments={"plasma": 3.0},
        species={"drug": 30.0, "target": 15.0, "complex": 0.0},
        parameters={"kon": 0.1, "koff": 0.02, "CL": 0.5},
        reactions={
            "binding": Reaction("drug + target -> complex", MassAction("kon", reverse="koff")),
            "loss": Reaction("drug ->", lambda CL, drug: CL * drug),
        },
    )
    for name, value in {"kon": 0.1 + 0.2, "drug": 1 / 3, "plasma": 2.5000000000000004}.items():
        network = qsp.at(network, name).set(value)
    path = tmp_path / "network.xml"
    text = io.write_sbml(network, path)
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.xml"]
    back = io.read_sbml(path)
    assert {name: float(value) for name, value in back.values.items()} == {
        name: float(value) for name, value in network.values.items()
    }
    assert re.search(r'initialAmount="0.3333333333333333"', text)
    assert back.definition.reactions["loss"] == network.definition.reactions["loss"]


def test_what_cannot_be_written():
    with pytest.raises(
        ValueError, match=r"Argument `network` must be a network \(models.Network\), but is of type One"
    ):
        io.write_sbml(qsp.models.OneCompartment(CL=3.0, V=30.0))
    # a species that is constant in a compartment that changes: SBML has no rule for what its concentration is then
    wrong = Definition(
        name="m",
        compartments={"c": Compartment(1.0)},
        species={"A": Species(1.0, "c", constant=True)},
        reactions={"J": Reaction((Participant("A"),), (), number(1.0))},
    )
    with pytest.raises(ValueError, match="must be what SBML can express, but is not:\n"):
        sbml_of(wrong)


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    from pathlib import Path

    network = Network(species={"drug": 1.0}, name="m")
    path = tmp_path / "network.xml"
    io.write_sbml(network, path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        io.write_sbml(qsp.at(network, "drug").set(2.0), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.xml"]
