"""What is wrong with an SBML file and what is worth knowing about it, gathered as it is found."""

from typing import Any, NoReturn

from qspjax.io._issues import FileIssues, Issue

MOST = 1000
"""The most issues that are gathered; a file with more is given up."""


class Notes:
    """The issues of one file (`found`), and what was noticed in it and leaves it usable (`noticed`).

    Attributes:
        lines: Whether the lines of objects are those of the file.
    """

    def __init__(self, source: str):
        """Start without issues; `source` is the name of the file."""
        self.source = source
        self.lines = True
        self.found: list[Issue] = []
        self.noticed: list[Issue] = []

    def add(self, message: str, element: str = "", *, line: int | None = None, place: int | None = None) -> None:
        """Note an issue of an element."""
        self.found.append(Issue(self.source, (), message, line or None, element=element, place=place or None))
        if len(self.found) >= MOST:
            self.close()

    def at(self, item: Any, message: str, element: str = "") -> None:
        """Note an issue of an object of libsbml."""
        self.add(message, element or title(item), line=item.getLine() if self.lines else None)

    def notice(self, message: str, element: str = "", *, line: int | None = None) -> None:
        """Note what leaves the file usable, each thing once."""
        issue = Issue(self.source, (), message, line or None, element=element)
        if len(self.noticed) < MOST and issue not in self.noticed:
            self.noticed.append(issue)

    def stop(self, message: str, element: str = "", *, line: int | None = None, place: int | None = None) -> NoReturn:
        """Note an issue after which nothing else can be read, and raise all of them."""
        self.add(message, element, line=line, place=place)
        self.close()
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Raise the issues, if there are any, each once and in the order of lines."""
        if self.found:
            raise FileIssues(sorted(dict.fromkeys(self.found), key=lambda issue: (issue.line or 0, issue.place or 0)))


def title(item: Any) -> str:
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
