"""What is wrong with an element of a file in SBML, by the name that a reader knows it by."""

from typing import TYPE_CHECKING

from qspjax.io._issues import IssueCollector

if TYPE_CHECKING:
    import libsbml

MOST_ISSUES = 1000
"""The most issues that are collected; a file with more is given up."""


def add_at(issues: IssueCollector, item: "libsbml.SBase", message: str, element: str = "") -> None:
    """Add an issue of an object of libsbml."""
    issues.add(message, element or title(item), line=item.getLine() if issues.has_lines else None)


def title(item: "libsbml.SBase") -> str:
    """Return what an object of libsbml is called: its element and its id, `species S1`, `assignmentRule of x`.

    A part of a reaction or an event has its name before: `reaction J1: kineticLaw`.
    """
    element = item.getElementName()
    target = {
        "initialAssignment": "getSymbol",
        "eventAssignment": "getVariable",
        "assignmentRule": "getVariable",
        "rateRule": "getVariable",
        "speciesReference": "getSpecies",
        "modifierSpeciesReference": "getSpecies",
    }.get(element)
    name = f"{element} of {getattr(item, target)()}" if target else f"{element} {item.getIdAttribute()}".strip()
    for parent in ("reaction", "event"):
        if element != parent:
            above = item.getAncestorOfType(_TYPES[parent])
            if above is not None:
                return f"{parent} {above.getIdAttribute()}: {name}"
    return name


_TYPES = {"reaction": 13, "event": 5}
"""The numbers that libsbml gives to types of objects."""
