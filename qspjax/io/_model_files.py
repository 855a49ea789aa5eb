"""Files that hold a model, in SBML or Antimony, compressed or not: opened as a network, and described."""

import dataclasses
import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.parsers import expat

from qspjax.io._content import ARCHIVES, content_of, unpacked_name
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.antimony._antimony import ENDINGS as ANTIMONY, read_antimony, sbml_of_antimony
from qspjax.io.sbml import read_definition, read_sbml
from qspjax.io.sbml._text import MOST_BYTES
from qspjax.models import Network

SBML = (".xml", ".sbml", *ARCHIVES)
ENDINGS = (*SBML, *ANTIMONY)
"""Endings of files that hold a model; before `.gz`, `.bz2` or `.xz` where they are compressed."""

_MOST_SHOWN = 20
_UNCHECKED = re.compile(r"(?i)no (\w+ )?units (\w+ )?defined|no declared units|not been declared|unit declarations")
"""Messages of libsbml that it cannot check units because one is missing."""

_KINDS = {
    "listOfCompartments": "Compartments",
    "listOfSpecies": "Species",
    "listOfParameters": "Parameters",
    "listOfReactions": "Reactions",
    "listOfRules": "Rules",
    "listOfInitialAssignments": "Initial assignments",
    "listOfEvents": "Events",
    "listOfFunctionDefinitions": "Function definitions",
    "listOfUnitDefinitions": "Unit definitions",
    "listOfConstraints": "Constraints",
    "listOfSubmodels": "Submodels",
}
"""The elements of a model that are counted, by the lists that hold them."""

_PACKAGE = re.compile(r"http://www\.sbml\.org/sbml/level3/version\d+/(\w+)/version\d+")
_CORE = ("core", "l3v2extendedmath")


def is_model_file(name: str | Path) -> bool:
    """Return whether a name is that of a file with a model, by its ending."""
    return Path(unpacked_name(name)).suffix.lower() in ENDINGS


def open_model(path: str | Path) -> Network:
    """Read a model from a file in SBML or Antimony, by its ending.

    Raises:
        FileIssues: If the file has mistakes, or something in it is not supported.
    """
    return (read_antimony if _in_antimony(path) else read_sbml)(Path(path))


@dataclasses.dataclass(frozen=True)
class ModelContents:
    """The contents of a file with a model, and whether they are supported.

    Attributes:
        file: Name of the file.
        format: The format, such as "SBML Level 3 Version 2".
        name: The name of the model.
        packages: The packages of SBML that the file uses.
        counts: The number of elements of each kind in the file.
        issues: Mistakes, and constructs that are not supported; without any, the model can be simulated.
        warnings: Remarks that leave the file usable, such as units that do not agree.

    Example:
        >>> print(ModelContents("decay.xml", "SBML Level 3 Version 2", "decay", (), {"Reactions": 1}, (), ()))
        File:      decay.xml
        Format:    SBML Level 3 Version 2
        Name:      decay
        Reactions: 1
        Supported: yes
    """

    file: str
    format: str
    name: str
    packages: tuple[str, ...]
    counts: dict[str, int]
    issues: tuple[Issue, ...]
    warnings: tuple[Issue, ...]

    def __str__(self) -> str:
        head = {"File": self.file, "Format": self.format, "Name": self.name, "Packages": ", ".join(self.packages)}
        rows = {key: value for key, value in head.items() if value}
        rows |= {kind: str(count) for kind, count in self.counts.items() if count}
        refused = refusals(self.issues)
        rows["Supported"] = "yes" if not self.issues else "no"
        width = max(map(len, rows)) + 2
        lines = [f"{key + ':':<{width}}{value}" for key, value in rows.items()]
        if refused:
            lines += ["", "Not supported"] + [f"{count:5}  {construct}" for construct, count in refused.items()]
        shown = [issue for issue in self.warnings if not _UNCHECKED.search(issue.message)]
        lines += ["", "Warnings"] if self.warnings else []
        lines += [f"  {textwrap.shorten(str(issue), 200, placeholder=' ...')}" for issue in shown[:_MOST_SHOWN]]
        if len(shown) > _MOST_SHOWN:
            lines.append(f"  ... and {len(shown) - _MOST_SHOWN} more")
        if len(shown) < len(self.warnings):
            unchecked = len(self.warnings) - len(shown)
            lines.append(f"  units are not checked in {unchecked} places, where one is missing")
        return "\n".join(lines)


def refusals(issues: tuple[Issue, ...]) -> dict[str, int]:
    """Return the constructs that are not supported, each with the number of its uses."""
    start = "not supported: "
    constructs = (issue.message.removeprefix(start).rstrip(".") for issue in issues if issue.message.startswith(start))
    return dict(Counter(constructs).most_common())


def contents_of(path: str | Path, *, units: bool = True) -> ModelContents:
    """Return the contents of a file with a model.

    Args:
        path: The file.
        units: Whether to warn of units that do not agree.

    Raises:
        FileIssues: If it cannot be opened as SBML or Antimony at all.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> decay = qsp.models.Reaction("A ->", "k * A")
        >>> network = qsp.models.Network(species={"A": 1.0}, parameters={"k": 0.1}, reactions={"decay": decay})
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "decay.xml"
        >>> _ = path.write_text(qsp.io.write_sbml(network))
        >>> print(contents_of(path).counts["Reactions"])
        1
    """
    path = Path(path)
    in_antimony = _in_antimony(path)
    text = sbml_of_antimony(path) if in_antimony else None
    issues, warnings = _checked(path, text, units)
    if in_antimony:  # the lines are those of the SBML that antimony made
        issues, warnings = _without_lines(issues), _without_lines(warnings)
    outline = _Outline()
    try:
        outline.read(content_of(path, path.name, MOST_BYTES, archives=True) if text is None else text.encode())
    except (OSError, ValueError, expat.ExpatError):
        if issues:
            raise FileIssues(issues) from None
        raise
    level = f"SBML Level {outline.level} Version {outline.version}"
    packages = tuple(outline.packages)
    return ModelContents(
        path.name, "Antimony" if in_antimony else level, outline.name, packages, outline.counts, issues, warnings
    )


class _Outline:
    """The contents of a text in SBML, counted without libsbml, and so also of a text that libsbml must not read."""

    def __init__(self) -> None:
        self.level = self.version = self.name = ""
        self.packages: dict[str, None] = {}
        self.counts = dict.fromkeys(_KINDS.values(), 0)
        self._path: list[str] = []

    def read(self, text: bytes) -> None:
        """Read a text.

        Raises:
            ExpatError: If it is not well-formed.
            ValueError: If it is not SBML, or has a document type.
        """
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartDoctypeDeclHandler = self._refuse
        parser.Parse(text, True)

    def _namespace(self, _: str | None, uri: str) -> None:
        package = _PACKAGE.fullmatch(uri)
        if package and package[1] not in _CORE:
            self.packages[package[1]] = None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self._path.append(local)
        if len(self._path) == 1:
            if local != "sbml":
                raise ValueError(f"must be SBML, but is <{local}>")
            self.level, self.version = attributes.get("level", "?"), attributes.get("version", "?")
        elif self._path == ["sbml", "model"]:
            self.name = attributes.get("name") or attributes.get("id", "")
        elif len(self._path) == 4 and self._path[1] == "model" and self._path[2] in _KINDS:
            self.counts[_KINDS[self._path[2]]] += local not in ("notes", "annotation")

    def _end(self, _: str) -> None:
        self._path.pop()

    def _refuse(self, *_: object) -> None:
        raise ValueError("must have no document type")


def _checked(path: Path, text: str | None, units: bool) -> tuple[tuple[Issue, ...], tuple[Issue, ...]]:
    try:
        reading = read_definition(path if text is None else text, units=units)
    except FileIssues as error:
        return _named(error.issues, path), ()
    return (), _named(reading.warnings, path)


def _named(issues: Iterable[Issue], path: Path) -> tuple[Issue, ...]:
    return tuple(dataclasses.replace(issue, file=path.name) for issue in issues)


def _without_lines(issues: tuple[Issue, ...]) -> tuple[Issue, ...]:
    return tuple(dataclasses.replace(issue, line=None, place=None) for issue in issues)


def _in_antimony(path: str | Path) -> bool:
    return Path(unpacked_name(path)).suffix.lower() in ANTIMONY
