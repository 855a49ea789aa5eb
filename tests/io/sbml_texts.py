"""Small models in SBML, written for these tests: one for each level, and one that is hierarchical."""

MATHML = "http://www.w3.org/1998/Math/MathML"
SYMBOLS = "http://www.sbml.org/sbml/symbols"
CORE = "http://www.sbml.org/sbml/level3/version2/core"
COMP = ' xmlns:comp="http://www.sbml.org/sbml/level3/version1/comp/version1" comp:required="true"'


# --- mathematics ------------------------------------------------------------------------------------------------------


def value(one):
    """Return a number, an id, or what is MathML already, as MathML."""
    if isinstance(one, (int, float)):
        return f"<cn> {one} </cn>"
    return one if one.startswith("<") else f"<ci> {one} </ci>"


def apply(operator, *arguments):
    """Return an operator, or (with a capital letter or as MathML) a function, applied to values."""
    head = operator if operator.startswith("<") else f"<{operator}/>"
    return f"<apply>{head}{''.join(map(value, arguments))}</apply>"


def csymbol(name):
    return f'<csymbol encoding="text" definitionURL="{SYMBOLS}/{name}"> {name} </csymbol>'


def piecewise(*parts):
    """Return value, condition, value, condition, ..., otherwise."""
    parts = list(map(value, parts))
    pieces = "".join(f"<piece>{a}{b}</piece>" for a, b in zip(parts[::2], parts[1::2], strict=False))
    return f"<piecewise>{pieces}{f'<otherwise>{parts[-1]}</otherwise>' if len(parts) % 2 else ''}</piecewise>"


def function(id, body, *arguments):
    bound = "".join(f"<bvar>{value(one)}</bvar>" for one in arguments)
    return element("functionDefinition", math(f"<lambda>{bound}{value(body)}</lambda>"), id=id)


def math(inner):
    return f'<math xmlns="{MATHML}">{value(inner)}</math>'


TIME = csymbol("time")


# --- elements ---------------------------------------------------------------------------------------------------------


def element(tag, inner="", /, **attributes):
    """Return an element; true and false are written as XML does."""
    written = {key: str(one).lower() if isinstance(one, bool) else one for key, one in attributes.items()}
    text = "".join(f' {key.replace("__", ":")}="{one}"' for key, one in written.items())
    return f"<{tag}{text}>{inner}</{tag}>\n" if inner else f"<{tag}{text}/>\n"


def several(name, *items):
    return element(f"listOf{name}", "\n" + "".join(items))


def parameters(**values):
    """Return parameters of Level 3: a number is constant, a dict has the attributes, None has no value and changes."""
    items = []
    for id, one in values.items():
        given = {"constant": False} if one is None else one if isinstance(one, dict) else {"value": one}
        items.append(element("parameter", id=id, **({"constant": True} | given)))
    return several("Parameters", *items) if items else ""


def compartment(id="c", **attributes):
    return element("compartment", id=id, **({"spatialDimensions": 3, "size": 1, "constant": True} | attributes))


def species(id, **attributes):
    """Return a species of Level 3."""
    flags = {"hasOnlySubstanceUnits": False, "boundaryCondition": False, "constant": False}
    return element("species", id=id, **({"compartment": "c"} | flags | attributes))


def reference(species, **attributes):
    return element("speciesReference", species=species, **attributes)


def assignment(id, inner):
    return element("assignmentRule", math(inner), variable=id)


def rate(id, inner):
    return element("rateRule", math(inner), variable=id)


def rules(*items):
    return several("Rules", *items)


def units(id, *parts):
    """Return a unit definition of Level 3: parts are kind, exponent, scale, multiplier."""
    names = ("kind", "exponent", "scale", "multiplier")
    made = (element("unit", **dict(zip(names, part, strict=True))) for part in parts)
    return element("unitDefinition", several("Units", *made), id=id)


def sbml(inner, level, version, *, model, after="", head=""):
    space = f"http://www.sbml.org/sbml/level{level}"
    space += "/version2/core" if level == 3 else f"/version{version}" if level == 2 and version > 1 else ""
    body = element("model", "\n" + inner, **model)
    return f'<sbml xmlns="{space}" level="{level}" version="{version}"{head}>\n{body}{after}</sbml>'


def level3(inner, *, after="", head="", **model):
    """Return a document of Level 3 Version 2."""
    return '<?xml version="1.0"?>\n' + sbml(inner, 3, 2, model={"id": "m"} | model, after=after, head=head)


def level2(inner, version=4):
    return sbml(inner, 2, version, model={"id": "m"})


def level1(inner, version=2):
    return sbml(inner, 1, version, model={"name": "m"})


# --- models -----------------------------------------------------------------------------------------------------------

OLD = level1(
    """
<listOfCompartments><compartment name="cell" volume="2"/></listOfCompartments>
<listOfSpecies>
  <species name="A" compartment="cell" initialAmount="10"/>
  <species name="B" compartment="cell" initialAmount="0" boundaryCondition="true"/>
</listOfSpecies>
<listOfParameters><parameter name="k" value="0.5"/><parameter name="twice"/></listOfParameters>
<listOfRules>
  <parameterRule name="twice" formula="2 * pow(A, 2) + log(3)"/>
  <speciesConcentrationRule species="B" formula="0.25 * A" type="rate"/>
</listOfRules>
<listOfReactions>
  <reaction name="decay" reversible="false">
    <listOfReactants><speciesReference species="A" stoichiometry="3" denominator="2"/></listOfReactants>
    <kineticLaw formula="k * A * cell * local">
      <listOfParameters><parameter name="local" value="4"/></listOfParameters>
    </kineticLaw>
  </reaction>
</listOfReactions>
"""
)

MIDDLE = level2(
    several("FunctionDefinitions", function("saturated", apply("divide", "x", apply("plus", "half", "x")), "x", "half"))
    + '<listOfUnitDefinitions><unitDefinition id="per_hour"><listOfUnits>'
    '<unit kind="second" multiplier="3600" exponent="-1"/></listOfUnits></unitDefinition></listOfUnitDefinitions>'
    + several(
        "Compartments",
        '<compartment id="blood" size="5"/>',
        '<compartment id="skin" spatialDimensions="2" size="1.5" constant="false"/>',
    )
    + several(
        "Species",
        '<species id="drug" compartment="blood" initialConcentration="2"/>',
        '<species id="bound" compartment="skin" initialAmount="0" hasOnlySubstanceUnits="true"/>',
    )
    + several(
        "Parameters",
        '<parameter id="k" value="1.5e-2" units="per_hour"/>',
        '<parameter id="level" constant="false"/>',
        '<parameter id="n" value="2" constant="false"/>',
    )
    + several("InitialAssignments", element("initialAssignment", math(apply("times", "k", 3)), symbol="level"))
    + rules(rate("skin", apply("minus", 0.1, apply("root", "<cn type='e-notation'> 1 <sep/> -2 </cn>"))))
    + several(
        "Reactions",
        element(
            "reaction",
            several("Reactants", reference("drug"))
            + several(
                "Products",
                element(
                    "speciesReference",
                    element("stoichiometryMath", math(apply("power", "n", "<cn type='integer'> 2 </cn>"))),
                    species="bound",
                ),
            )
            + several("Modifiers", element("modifierSpeciesReference", species="drug"))
            + element(
                "kineticLaw",
                math(apply("times", "k", apply("<ci> saturated </ci>", "drug", "level")))
                + several("Parameters", '<parameter id="k" value="7"/>'),
            ),
            id="binding",
            reversible=False,
        ),
    )
    + several(
        "Events",
        element(
            "event",
            element("trigger", math(apply("and", apply("gt", TIME, 3), apply("leq", "drug", 1))))
            + element("delay", math(0.5))
            + several(
                "EventAssignments",
                element("eventAssignment", math(piecewise(1, apply("lt", "n", 3), "drug")), variable="level"),
            ),
            id="switch",
        ),
    )
)

NEW = level3(
    several("UnitDefinitions", units("nM", ("mole", 1, -9, 1), ("litre", -1, 0, 1)))
    + several("Compartments", compartment(size=2, units="litre"))
    + several(
        "Species",
        species("S", initialConcentration=3, substanceUnits="mole", conversionFactor="factor"),
        species("P", initialAmount=1, hasOnlySubstanceUnits=True),
    )
    + parameters(factor=2, Km=0.5, x=None, y={"value": 1, "constant": False, "units": "nM"})
    + several("InitialAssignments", element("initialAssignment", math(apply("max", 1, "Km", 2)), symbol="products"))
    + rules(
        assignment("x", apply("plus", apply(csymbol("rateOf"), "y"), "products", "conversion")),
        rate("y", apply("rem", apply("times", "<cn type='rational'> 1 <sep/> 4 </cn>", "<pi/>"), 2)),
    )
    + several("Constraints", element("constraint", math(apply("gt", "S", 0))))
    + several(
        "Reactions",
        element(
            "reaction",
            several("Reactants", reference("S", stoichiometry=1, constant=True))
            + several("Products", reference("P", id="products", constant=False))
            + element(
                "kineticLaw",
                math(apply("times", "c", "Vmax", apply("divide", "S", apply("plus", "Km", "S"))))
                + several("LocalParameters", element("localParameter", id="Vmax", value=4)),
            ),
            id="conversion",
            reversible=True,
            compartment="c",
        ),
    )
    + several(
        "Events",
        element(
            "event",
            element(
                "trigger",
                math(apply("implies", "<true/>", apply("lt", "S", 1))),
                initialValue=False,
                persistent=False,
            )
            + element("priority", math(apply("times")))
            + several("EventAssignments", element("eventAssignment", math(apply("quotient", 7, 2)), variable="S")),
            id="refill",
            useValuesFromTriggerTime=False,
        ),
    ),
    name="Conversion",
    timeUnits="second",
    substanceUnits="mole",
    extentUnits="mole",
)


def submodel(id, model, inner="", **attributes):
    return element("comp:submodel", inner, comp__id=id, comp__modelRef=model, **attributes)


NESTED = level3(
    several(
        "Parameters",
        element(
            "parameter",
            '<comp:listOfReplacedElements><comp:replacedElement comp:submodelRef="two" comp:portRef="q_port"/>'
            "</comp:listOfReplacedElements>",
            id="p",
            value=5,
            constant=True,
        ),
        element("parameter", id="seconds", value=60, constant=True),
    )
    + element(
        "comp:listOfSubmodels",
        submodel(
            "one",
            "inner",
            '<comp:listOfDeletions><comp:deletion comp:idRef="gone"/></comp:listOfDeletions>',
            comp__timeConversionFactor="seconds",
        )
        + submodel("two", "inner"),
    ),
    head=COMP,
    after=element(
        "comp:listOfModelDefinitions",
        element(
            "comp:modelDefinition",
            parameters(q=7, gone=1, x={"value": 2, "constant": False})
            + rules(rate("x", apply("times", "q", "x")))
            + '<comp:listOfPorts><comp:port comp:id="q_port" comp:idRef="q"/></comp:listOfPorts>',
            id="inner",
        ),
    ),
)

SEEDS = {"level 1": OLD, "level 2": MIDDLE, "level 3": NEW, "hierarchical": NESTED}
