"""Issues of elements of a file in SBML, by their titles."""

from typing import TYPE_CHECKING

from qspjax.io._issues import IssueCollector

if TYPE_CHECKING:
    import libsbml

MOST_ISSUES = 1000
"""The maximum number of issues that are collected; reading stops after them."""


def add_at(issues: IssueCollector, item: "libsbml.SBase", message: str, element: str = "") -> None:
    """Add an issue of an object of libsbml."""
    issues.add(message, element or title(item), line=item.getLine() if issues.has_lines else None)


def title(item: "libsbml.SBase") -> str:
    """Return the title of an object of libsbml: its element and its id, `species S1`, `assignmentRule of x`.

    For a part of a reaction or an event, that comes first: `reaction J1: kineticLaw`.
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
            ancestor = item.getAncestorOfType(_TYPES[parent])
            if ancestor is not None:
                return f"{parent} {ancestor.getIdAttribute()}: {name}"
    return name


_TYPES = {"reaction": 13, "event": 5}
"""The numbers of types of objects in libsbml."""
