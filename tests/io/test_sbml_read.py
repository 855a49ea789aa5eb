"""SBML as definitions: every construct of every level, and the message, line and element of every mistake."""

import math as math_
import sys

import pytest

import qspjax as qsp
from qspjax.io import FileIssues, read_sbml
from qspjax.io.sbml import _math, read_definition
from qspjax.io.sbml._hierarchy import MOST_ELEMENTS
from qspjax.io.sbml._text import MOST_BYTES, MOST_DEEP
from tests.io.sbml_texts import (
    COMP,
    MATHML,
    MIDDLE,
    NESTED,
    NEW,
    OLD,
    TIME,
    apply,
    assignment,
    compartment,
    csymbol,
    element,
    function,
    level1,
    level3,
    math,
    parameters,
    piecewise,
    rate,
    reference,
    rules,
    several,
    species,
    submodel,
    units,
    value,
)

pytest.importorskip("libsbml")


def definition(text):
    return read_definition(text).definition


def issues(text):
    with pytest.raises(FileIssues) as found:
        read_definition(text)
    return found.value.issues


def issue(text):
    (one,) = issues(text)
    return one


def mathematics(inner):
    """Return the text of an expression that is read from MathML, in which x, y and z are ids."""
    return str(
        definition(level3(parameters(x=1, y=2, z=3, it=None) + rules(assignment("it", inner)))).assignments["it"]
    )


# --- levels -----------------------------------------------------------------------------------------------------------


def test_level_1():
    d = definition(OLD)
    assert (d.compartments["cell"].size, d.compartments["cell"].constant, d.compartments["cell"].unit) == (
        2.0,
        True,
        "L",
    )
    assert (d.species["A"].initial, d.species["A"].is_amount, d.species["A"].only_substance) == (10.0, True, False)
    assert d.species["B"].boundary
    assert not d.parameters["twice"].constant
    assert d.parameters["k"].constant
    (reactant,) = d.reactions["decay"].reactants
    assert (reactant.species, reactant.stoichiometry, reactant.name) == ("A", 1.5, "")
    assert str(d.reactions["decay"].rate) == "k * A * cell * decay.local"
    assert d.parameters["decay.local"].value == 4.0
    assert {id: str(rule) for id, rule in d.assignments.items()} == {"twice": "2 * A^2 + ln(3)"}
    assert {id: str(rule) for id, rule in d.rates.items()} == {"B": "0.25 * A"}


def test_level_1_has_no_constants_but_what_no_rule_is_about():
    text = level1(
        '<listOfCompartments><compartment name="c"/></listOfCompartments>'
        '<listOfParameters><parameter name="a" value="2"/><parameter name="b"/></listOfParameters>'
        '<listOfRules><algebraicRule formula="a + b - 5"/></listOfRules>'
    )
    d = definition(text)
    assert d.compartments["c"].size == 1.0  # the default of Level 1
    assert [one.constant for one in d.parameters.values()] == [False, False]


def test_level_2():
    d = definition(MIDDLE)
    assert (d.time_unit, d.dose_unit) == ("s", "mol")
    assert (d.species["drug"].initial, d.species["drug"].is_amount, d.species["drug"].unit) == (2.0, False, "mol/L")
    assert (d.species["bound"].only_substance, d.compartments["skin"].dimensions) == (True, 2.0)
    assert (d.parameters["k"].unit, d.parameters["level"].value) == ("1/h", None)
    assert str(d.initial["level"]) == "k * 3"
    assert str(d.rates["skin"]) == "0.1 - sqrt(0.01)"
    reaction = d.reactions["binding"]
    assert str(reaction.rate) == "binding.k * (drug / (level + drug))"
    assert str(reaction.products[0].stoichiometry) == "n^2"
    assert reaction.modifiers == ("drug",)
    (event,) = d.events
    assert str(event.trigger) == "time > 3 && drug <= 1"
    assert (event.persistent, event.initial_value, event.from_trigger_time) == (True, True, True)
    assert (str(event.delay), event.priority, event.name) == ("0.5", None, "switch")
    assert str(event.assign["level"]) == "piecewise(1, n < 3, drug)"


def test_level_3():
    reading = read_definition(NEW)
    d = reading.definition
    assert (reading.level, reading.version, d.name, d.time_unit) == (3, 2, "Conversion", "s")
    assert [one.message for one in reading.warnings] == ["ignored: 1 constraints."]
    assert (d.species["S"].conversion, d.conversion) == ("factor", None)
    assert (d.parameters["y"].unit, d.parameters["conversion.Vmax"].value) == ("nmol/L", 4.0)
    (product,) = d.reactions["conversion"].products
    assert (product.stoichiometry, product.name, product.constant) == (None, "products", False)
    assert str(d.initial["products"]) == "max(1, Km, 2)"
    assert str(d.assignments["x"]) == "rateOf(y) + products + conversion"
    (event,) = d.events
    assert (event.persistent, event.initial_value, event.from_trigger_time) == (False, False, False)
    assert (str(event.priority), str(event.assign["S"])) == ("1", "quotient(7, 2)")


def test_a_hierarchy_is_made_one_model():
    d = definition(NESTED)
    assert {id: str(rate) for id, rate in d.rates.items()} == {
        "one__x": "one__q * one__x / seconds",
        "two__x": "p * two__x",
    }
    assert list(d.parameters) == ["p", "seconds", "one__q", "one__x", "two__gone", "two__x"]


def test_a_file_is_a_network_that_is_simulated(tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(b"\xef\xbb\xbf" + NEW.encode())
    network = read_sbml(str(path))
    assert float(network.values["S"]) == 3.0
    # S' = -factor * c * Vmax * S / (Km + S) / c
    solution = qsp.simulate(network, qsp.no_doses(), [0.0, 0.1], method=qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-10))
    s = float(solution.observed["S"][1])
    assert abs((3.0 - s) + 0.5 * math_.log(3.0 / s) - 8.0 * 0.1) < 1e-7


# --- mathematics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (apply("plus"), "0"),
        (apply("times"), "1"),
        (apply("and"), "true"),
        (apply("or"), "false"),
        (apply("xor"), "false"),
        (apply("plus", "x"), "x"),
        (apply("plus", "x", "y", 2, "z"), "x + y + 2 + z"),
        (apply("minus", "x"), "-x"),
        (apply("divide", "x", apply("times", "x", "y")), "x / (x * y)"),
        (f"<apply>{apply('minus', 'x')}</apply>", "-x"),
        (apply("divide", f"<apply><apply>{apply('times', 'x', 'y')}</apply></apply>", 4), "x * y / 4"),
        (f"<apply>{apply(csymbol('delay'), 'x', 1)}</apply>", "delay(x, 1)"),
        (apply("power", "x", "<cn type='integer'> 2 </cn>"), "x^2"),
        (apply("root", "<degree><cn>3</cn></degree>", "x"), "root(3, x)"),
        (apply("root", "x"), "sqrt(x)"),
        (apply("log", "x"), "log10(x)"),
        (apply("log", "<logbase><cn>2</cn></logbase>", "x"), "log(2, x)"),
        (apply("ln", "x"), "ln(x)"),
        (apply("ceiling", "x"), "ceil(x)"),
        (apply("arcsech", "x"), "arcsech(x)"),
        (apply("min", "x", "y", "z"), "min(x, y, z)"),
        (apply("lt", "x", "y", "z"), "lt(x, y, z)"),
        (apply("neq", "x", "y"), "x != y"),
        (apply("implies", apply("not", "x"), "<true/>"), "implies(!x, true)"),
        (piecewise("x", apply("eq", "x", "y")), "piecewise(x, x == y)"),
        ("<cn type='rational'> 1 <sep/> 3 </cn>", "0.3333333333333333"),
        ("<cn type='e-notation'> 1.1 <sep/> -7 </cn>", "1.1e-07"),
        ("<cn type='e-notation'> 1e20 <sep/> 3 </cn>", "1e+23"),
        ("<cn> 6.02e23 </cn>", "6.02e+23"),
        ("<notanumber/>", "nan"),
        (apply("minus", "<infinity/>"), "-(inf)"),
        ("<exponentiale/>", "exponentiale"),
        (csymbol("avogadro"), "avogadro"),
        (TIME, "time"),
        (apply(csymbol("delay"), "x", 0), "delay(x, 0)"),
        ("<semantics><ci> x </ci><annotation-xml><math><cn>1,5</cn></math></annotation-xml></semantics>", "x"),
    ],
)
def test_mathematics(inner, text):
    assert mathematics(inner) == text


TWICE = function("twice", apply("plus", "x", "x"), "x")
SWAP = function("swap", apply("minus", apply("<ci> twice </ci>", "y"), "x"), "x", "y")
ONE = function("one", 1)
SLOPE = function("slope", apply(csymbol("rateOf"), "a"), "a")
LOOP = function("loop", apply("<ci> pool </ci>", "x"), "x") + function("pool", apply("<ci> loop </ci>", "x"), "x")


def calling(functions, name, *arguments):
    """Return a model in which a function is called with ids or numbers."""
    inner = apply(f"<ci> {name} </ci>", *arguments)
    values = parameters(x=1, y={"value": 2, "constant": False}, it=None)
    return level3(several("FunctionDefinitions", functions) + values + rules(assignment("it", inner)))


@pytest.mark.parametrize(
    ("functions", "call", "text"),
    [
        (SWAP + TWICE, ("swap", "x", "y"), "y + y - x"),
        (TWICE + SWAP, ("swap", "y", "x"), "x + x - y"),
        (ONE, ("one",), "1"),
        (SLOPE, ("slope", "y"), "rateOf(y)"),
    ],
)
def test_functions_are_put_in_with_their_own_names(functions, call, text):
    assert str(definition(calling(functions, *call)).assignments["it"]) == text


@pytest.mark.parametrize(
    ("functions", "call", "element", "message"),
    [
        (LOOP, ("loop", "x"), "functionDefinition pool", "must not call itself, but does."),
        (
            '<functionDefinition id="nothing"/>',
            ("nothing",),
            "assignmentRule of it",
            "must call functions that have mathematics, but calls nothing.",
        ),
        (TWICE, ("thrice", "x"), "assignmentRule of it", "must call functions that are defined, but calls thrice."),
        (TWICE, ("twice",), "assignmentRule of it", "must call twice with 1 arguments, but does with 0."),
        (SLOPE, ("slope", 1), "assignmentRule of it", "must have an id in rateOf, but has something else."),
        (function("open", "y", "x"), ("open", 1), "functionDefinition open", "must have an argument, but has y."),
    ],
)
def test_functions_that_cannot_be_called(functions, call, element, message):
    one = issue(calling(functions, *call))
    assert (one.element, one.message) == (element, message)


def test_functions_that_grow_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(_math, "MOST_NODES", 5000)
    functions = function("f0", "x", "x") + "".join(
        function(f"f{i}", apply("plus", *(apply(f"<ci>f{i - 1}</ci>", apply("times", "x", k)) for k in (2, 3))), "x")
        for i in range(1, 40)
    )
    assert "must have at most 5000 operations" in issue(calling(functions, "f39", "x")).message


def test_functions_that_share_are_no_problem():
    functions = function("f0", "x", "x") + "".join(
        function(f"f{i}", apply("plus", *2 * (apply(f"<ci>f{i - 1}</ci>", "x"),)), "x") for i in range(1, 200)
    )
    assert definition(calling(functions, "f15", "x")).assignments["it"].op == "+"
    assert "must have at most 1000000 operations" in issue(calling(functions, "f199", "x")).message


def test_what_has_no_mathematics_has_no_effect():
    never = {"initialValue": True, "persistent": True}
    text = level3(
        several("Compartments", compartment())
        + several("Species", species("S", initialAmount=4))
        + parameters(p={"value": 3, "constant": False}, q={"value": 5, "constant": False})
        + several("InitialAssignments", '<initialAssignment symbol="p"/>')
        + rules('<rateRule variable="q"/>', "<algebraicRule/>", '<assignmentRule variable="n"/>')
        + several(
            "Reactions",
            element(
                "reaction",
                several("Reactants", reference("S", id="n", stoichiometry=2, constant=False)) + "<kineticLaw/>",
                id="r",
                reversible=False,
            ),
        )
        + several(
            "Events",
            element(
                "event",
                element("trigger", math("<true/>"), **never)
                + "<priority/><delay/>"
                + several("EventAssignments", '<eventAssignment variable="p"/>'),
                id="e",
                useValuesFromTriggerTime=True,
            ),
            element("event", element("trigger", **never), id="never", useValuesFromTriggerTime=True),
        )
    )
    reading = read_definition(text)
    d = reading.definition
    assert (dict(d.initial), dict(d.assignments), dict(d.rates), d.algebraic) == ({}, {}, {}, ())
    assert str(d.reactions["r"].rate) == "0"
    (event,) = d.events
    assert (event.delay, event.priority, dict(event.assign)) == (None, None, {})
    assert [one.message for one in reading.warnings] == ["ignored: an event without a trigger."]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def ruled(inner):
    return level3(parameters(x=None) + rules(assignment("x", inner)))


@pytest.mark.parametrize(
    ("text", "line", "element", "message"),
    [
        ("<sbml", 1, "", "must be well-formed XML, but is not: unclosed token."),
        ("<html/>", 1, "", "must be SBML, but is <html>."),
        (
            '<sbml xmlns="http://www.sbml.org/sbml/level4"/>',
            1,
            "sbml",
            "must have the level and version that its namespace says, but has level none and version none.",
        ),
        (
            '<sbml xmlns="http://www.sbml.org/sbml/level4" level="3" version="2"/>',
            1,
            "sbml",
            "must have a namespace of SBML, but has http://www.sbml.org/sbml/level4.",
        ),
        ("<!DOCTYPE sbml []>\n<sbml/>", 1, "", "must have no document type (<!DOCTYPE ...>), but has one."),
        (level3(parameters(x="one")), 5, "", "must keep rule 1016 of SBML, but does not"),
        (
            level3(parameters(x=1) + rules(assignment("y", "<cn>1</cn>"))),
            8,
            "assignmentRule of y",
            "must be about an id of the model that has a value, but is about y.",
        ),
        (ruled("<ci> y </ci>"), 8, "assignmentRule of x", "must have an id of the model that has a value, but has y."),
        (ruled("<cn>1,5</cn>"), 8, "<cn> of math", "must be a number of type real, but is 1,5."),
        (ruled("<cn type='integer'>1.5</cn>"), 8, "<cn> of math", "must be a number of type integer, but is 1.5."),
        (ruled("<cn base='2'>101</cn>"), 8, "<cn> of math", "not supported: numbers of base 2."),
        (ruled("<cn type='complex'>1<sep/>2</cn>"), 8, "<cn> of math", "not supported: numbers of type complex."),
        (ruled(apply("sum", 1)), 8, "math", "not supported: <sum> of MathML."),
        (ruled(apply("sin", 1, 2)), 8, "<apply> of math", "must have 1 value in it, but has 2."),
        (ruled(apply("log", "<logbase><cn>2</cn></logbase>")), 8, "<apply> of math", "must have 1 value in it"),
        (ruled(apply(apply("<ci>f</ci>"), 1)), 8, "<apply> of math", "must begin with an operator or a function"),
        (ruled(apply(csymbol("rateOf"), 3)), 8, "<apply> of math", "must have one <ci> after rateOf, but has <cn>."),
        (ruled(apply(csymbol("time"))), 8, "<apply> of math", "must begin with an operator or a function"),
        (ruled("<piecewise><piece><cn>1</cn></piece></piecewise>"), 8, "<piece> of math", "must have 2 values in it"),
        (
            ruled("<piecewise><otherwise><cn>1</cn></otherwise><piece><cn>1</cn><true/></piece></piecewise>"),
            8,
            "<piecewise> of math",
            "must have pieces in it and at most one <otherwise> after them, but has <otherwise>, <piece>.",
        ),
        (
            ruled(apply(csymbol("distribution/normal"), 1)),
            8,
            "<csymbol> of math",
            "not supported: the symbol distribution/normal.",
        ),
        (
            OLD.replace('denominator="2"', 'denominator="0"'),
            16,
            "reaction decay: speciesReference of A",
            "must have a denominator that is not 0, but has 0.",
        ),
        (level3(parameters(x="0x1f")), 5, "parameter value", "must be a decimal number, but is 0x1f."),
    ],
)
def test_a_mistake(text, line, element, message):
    first, *_ = issues(text)
    assert (first.line, first.element) == (line, element)
    assert message in first.message


def test_all_mistakes_are_told_at_once():
    twice = rules(
        assignment("x", "<ci> unknown </ci>"), assignment("x", "<cn> 1 </cn>"), assignment("y", "<cn> 1 </cn>")
    )
    with pytest.raises(FileIssues) as error:
        read_sbml(level3(parameters(x=None, k=1) + twice))
    lines = str(error.value).splitlines()
    assert lines == [
        "text:9: assignmentRule of x: must have an id of the model that has a value, but has unknown.",
        "text:10: assignmentRule of x: must be the only rule of x, but there is another one.",
        "text:11: assignmentRule of y: must be about an id of the model that has a value, but is about y.",
    ]


def test_ids_are_unique():
    text = level3(several("Compartments", compartment("x")) + parameters(x=1))
    assert str(issue(text)) == "text:8: parameter x: must have an id of its own, but has that of compartment x."


def test_a_cycle_and_a_missing_value():
    cycle = level3(parameters(x=None, y=None) + rules(assignment("x", "<ci> y </ci>"), assignment("y", "<ci> x </ci>")))
    assert {one.element for one in issues(cycle)} <= {"parameter x", "parameter y"}
    missing = {"constant": True}
    changing = {"value": 1, "constant": False}
    one = issue(level3(parameters(k=missing, x=changing) + rules(rate("x", "<ci> k </ci>"))))
    assert (one.element, one.message, one.line) == ("parameter k", "must have a value, but has none.", 5)
    assert definition(level3(parameters(k=missing, x=changing) + rules(rate("x", 1)))).parameters["k"].value is None


def test_long_messages_are_cut_and_many_algebraic_rules_refused():
    ids = [f"parameter_{i}" for i in range(201)]
    unknown = parameters(**dict.fromkeys(ids))
    cycle = rules(*(assignment(a, value(b)) for a, b in zip(ids, (*ids[1:], ids[0]), strict=True)))
    assert all(len(one.message) <= 400 for one in issues(level3(unknown + cycle)))
    algebraic = rules(*(element("algebraicRule", math(apply("minus", id, 1))) for id in ids))
    assert issue(level3(unknown + algebraic)).message == "not supported: more than 200 algebraic rules."


def test_fast_reactions_are_refused_by_name():
    text = MIDDLE.replace('<reaction id="binding"', '<reaction id="binding" fast="true"')
    assert issue(text).message == "not supported: fast reaction."


def test_a_reaction_without_a_rate():
    text = level3(several("Reactions", element("reaction", id="r", reversible=True)))
    assert "must have a kinetic law, but has none." in [one.message for one in issues(text)]


def test_packages():
    def using(name, required, space="http://www.sbml.org/sbml/level3/version1/{0}/version1"):
        head = f' xmlns:{name}="{space.format(name)}" {name}:required="{required}"'
        return level3(parameters(x=1), head=head)

    for name in ("qual", "multi", "spatial", "distrib", "arrays"):
        assert issue(using(name, "true")).message == f"not supported: the package {name}."
    assert issue(using("new", "true", "urn:new")).message == "not supported: the package urn:new."
    warnings = read_definition(using("fbc", "false")).warnings
    assert "ignored: the package fbc." in [one.message for one in warnings]


def test_units_that_do_not_agree_are_noticed_where_wanted():
    text = level3(
        several("UnitDefinitions", units("kg_m", ("kilogram", 1, 0, 1), ("metre", -1, 0, 1)))
        + parameters(
            k={"value": 1, "units": "kg_m"},
            x={"units": "second", "constant": False},
        )
        + rules(assignment("x", "<ci> k </ci>"))
    )
    assert not read_definition(text).warnings
    assert any("rule 10513" in one.message for one in read_definition(text, units=True).warnings)
    assert definition(text).parameters["k"].unit == "kg/m"


# --- what no file may do ----------------------------------------------------------------------------------------------


def test_no_entity_is_expanded(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("1")
    lol = '<!DOCTYPE sbml [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    outside = f'<!DOCTYPE sbml [<!ENTITY a SYSTEM "file://{secret}">]>'
    for head in (lol, outside):
        assert "document type" in issue(head + NEW.split("?>")[1].replace(' value="4"', ' value="&a;"')).message


def test_sizes_are_limited(tmp_path):
    path = tmp_path / "large.xml"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(FileIssues, match=f"large.xml: must have at most {MOST_BYTES} bytes, but has {MOST_BYTES + 1}."):
        read_sbml(path)
    deep = "<apply><sin/>" * MOST_DEEP + "<cn>1</cn>" + "</apply>" * MOST_DEEP
    assert "nested elements" in issue(ruled(deep)).message
    long = f'<listOfRules><algebraicRule formula="{"1+" * 6000}c"/></listOfRules>'
    text = level1('<listOfCompartments><compartment name="c"/></listOfCompartments>' + long)
    assert issue(text).element == "algebraicRule formula"


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(FileIssues, match="nothing.xml: must be a file, but does not exist."):
        read_sbml(tmp_path / "nothing.xml")
    with pytest.raises(FileIssues, match="must be a file, but is a directory."):
        read_sbml(tmp_path)
    path = tmp_path / "model.xml"
    path.write_bytes(b"<?xml version='1.0' encoding='utf-7'?><sbml/>")
    with pytest.raises(FileIssues, match="model.xml:1: must be in UTF-8, UTF-16 or ISO-8859-1, but is in utf-7."):
        read_sbml(path)
    path.write_bytes(b"<sbml>\n\xff</sbml>")
    with pytest.raises(FileIssues, match="model.xml:2: must be text in UTF-8, but is not."):
        read_sbml(path)
    with pytest.raises(
        ValueError, match="`path_or_text` must be a path, or text that begins with <, but is of type int."
    ):
        read_sbml(3)


def test_other_encodings(tmp_path):
    path = tmp_path / "model.xml"
    text = level3(parameters(x={"name": "Gr\u00f6\u00dfe"})).split("?>")[1]
    for encoding in ("ISO-8859-1", "UTF-16"):
        path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding))
        assert definition(path).parameters["x"].doc == "Gr\u00f6\u00dfe"


OUTER = level3(
    element("comp:listOfSubmodels", submodel("A", "E")),
    head=COMP,
    after=element(
        "comp:listOfExternalModelDefinitions",
        element("comp:externalModelDefinition", comp__id="E", comp__source="{}"),
    ),
)


def test_models_of_other_files(tmp_path):
    path = tmp_path / "folder" / "outer.xml"
    path.parent.mkdir()
    (path.parent / "inner one.xml").write_text(NEW)
    (tmp_path / "above.xml").write_text(NEW)
    path.write_text(OUTER.format("inner one.xml"))
    assert "A__S" in definition(path).species
    assert "not from a file" in issue(OUTER.format("inner one.xml")).message
    for source in ("../above.xml", str(tmp_path / "above.xml"), "http://example.org/above.xml", "file:inner one.xml"):
        path.write_text(OUTER.format(source))
        assert issue(path).message == f"must be the name of a file in the same folder, but is {source[:80]}."
    path.write_text(OUTER.format("missing.xml"))
    assert issue(path).message == "must be a file in the same folder, but there is no missing.xml."
    (path.parent / "link.xml").symlink_to(tmp_path / "above.xml")
    path.write_text(OUTER.format("link.xml"))
    assert issue(path).message == "must be a file in the same folder, but link.xml lies elsewhere."
    (path.parent / "inner one.xml").write_text("<!DOCTYPE sbml>" + NEW.split("?>")[1])
    path.write_text(OUTER.format("inner one.xml"))
    assert (issue(path).file, issue(path).line) == ("inner one.xml", 1)


def hierarchy(*models):
    """Return a hierarchy: for each model, the models that it has."""
    made = []
    for i, inner in enumerate(models):
        parts = "".join(submodel(f"s{k}", f"m{j}") for k, j in enumerate(inner))
        parts = element("comp:listOfSubmodels", parts) if parts else ""
        made.append(element("comp:modelDefinition", parameters(x=1) + parts, id=f"m{i}"))
    return level3(
        element("comp:listOfSubmodels", submodel("top", "m0")),
        head=COMP,
        after=element("comp:listOfModelDefinitions", "".join(made)),
    )


def test_hierarchies_do_not_grow_without_end():
    assert "top__s0__x" in definition(hierarchy([1], [])).parameters
    assert issue(hierarchy([1], [2], [0])).message == "must not contain itself, but does."
    assert f"at most {MOST_ELEMENTS} elements" in issue(hierarchy(*([i + 1] * 10 for i in range(8)), [])).message


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libsbml", None)
    with pytest.raises(ImportError, match=r"pip install 'qspjax\[sbml\]'"):
        read_sbml(NEW)


def test_only_mathematics_is_in_mathematics():
    text = level3(parameters(x=None) + rules(f'<assignmentRule variable="x"><math xmlns="{MATHML}"><a xmlns="urn:a"/>'))
    assert "must have only elements of MathML in it, but has <a>." in issues(text)[0].message


UNDECLARED = """<sbml xmlns="http://www.sbml.org/sbml/level2/version4" level="2" version="4"><model id="m">
<listOfCompartments><compartment id="c" size="2"/></listOfCompartments>
<listOfSpecies><species id="A" compartment="c" initialAmount="1"/>
<species id="X" compartment="c" boundaryCondition="true"/><species id="B" compartment="c" initialAmount="1"/>
</listOfSpecies><listOfReactions>
<reaction id="r"><listOfReactants><speciesReference species="A"/></listOfReactants>
<listOfProducts><speciesReference species="X"/></listOfProducts><kineticLaw>
<math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/><ci>A</ci><ci>B</ci></apply></math></kineticLaw></reaction>
<reaction id="q"><kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML"><cn>1</cn></math></kineticLaw></reaction>
</listOfReactions></model></sbml>"""


def test_what_reactions_do_not_declare_is_noticed(tmp_path):
    assert [str(one) for one in read_definition(UNDECLARED).warnings] == [
        "text:6: reaction r: must declare each species of its rate as reactant, product or modifier (rule 21111 of "
        "SBML), but B is none.",
        "text:9: reaction q: must have a reactant or a product (rule 21101 of SBML), but has none.",
    ]
    with pytest.warns(UserWarning, match="Reactions are read") as caught:
        declared = read_sbml(UNDECLARED)
    assert [str(one.message) for one in caught] == [
        "Reactions are read as they are, but some break rules of SBML:\n"
        + "\n".join(map(str, read_definition(UNDECLARED).warnings))
    ]
    path = tmp_path / "model.xml"
    path.write_text(UNDECLARED)
    assert [(one.file, one.line, one.element, one.warning) for one in qsp.io.validate(path)] == [
        ("model.xml", 6, "reaction r", True),
        ("model.xml", 9, "reaction q", True),
    ]
    path.write_text(UNDECLARED.replace('size="2"', 'size="two"'))
    assert [one.warning for one in qsp.io.validate(path)] == [False]
    assert not read_definition(qsp.io.write_sbml(declared.drop("q").replace("X", 0.0))).warnings


@pytest.mark.filterwarnings("ignore:Reactions are read")
def test_a_species_without_a_value_that_nothing_uses_is_not_observed():
    network = read_sbml(UNDECLARED)
    assert [*network.observe(0.0, network.initial())] == ["A", "B", "c", "r", "q"]
    assert [*network.amounts(0.0, network.initial())] == ["A", "B"]
    assert "X" in network.replace("X", 1.0).observe(0.0, network.initial())
