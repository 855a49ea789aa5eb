"""The text of an SBML file, checked before libsbml reads it.

A file may come from anyone, and libsbml is a large program in C++ that trusts its input: it goes through elements by
recursion, reads `1,5` as 1 and skips what it does not know. So the text is first read by expat, which opens no other
file and expands no entity, to find what would be dangerous (a document type, elements nested too deeply) or misread
(see `_mathml`).
"""

import codecs
import dataclasses
import re
from pathlib import Path
from xml.parsers import expat

from qspjax.io._content import ARCHIVES, content_of, in_archive, plain
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import MOST_ISSUES
from qspjax.io.sbml._mathml import MATHML, Mathematics

MOST_BYTES = 64 * 2**20
"""The maximum number of bytes of a file."""

MOST_DEEP = 400
"""The maximum depth of nested elements; libsbml would crash from a few thousand on."""

MOST_FORMULA = 10_000
"""The maximum number of characters of a formula of Level 1, which has mathematics as text."""

SBML = "http://www.sbml.org/sbml/level"

_NAMESPACES = {
    "1": (("1", "1"), ("1", "2")),
    "2": (("2", "1"),),
    **{f"2/version{version}": (("2", str(version)),) for version in (2, 3, 4, 5)},
    **{f"3/version{version}/core": (("3", str(version)),) for version in (1, 2)},
}
"""The ends of the namespaces of SBML, with their levels and versions."""

_HANDLED = ("comp", "l3v2extendedmath")
_PACKAGE = re.compile(r"http://www\.sbml\.org/sbml/level3/version\d/(\w+)/version\d")
_DECLARATION = re.compile(r"\s*<\?xml\s[^>]*?\?>", re.ASCII)
_ENCODING = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_ENCODINGS = ("utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be")
_NUMBERS = ("value", "size", "volume", "initialAmount", "initialConcentration", "stoichiometry", "spatialDimensions")
_NO_DECIMAL = re.compile(r"\s*[+-]?0[xX]")
_NO_MODEL = ("notes", "annotation", "message")
_ANTIMONY = re.compile(r"^\s*(?:\*?model|module)\s|->|:=|^\s*[\w$]+\s*=[^=]", re.MULTILINE)
"""What a text in Antimony has."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A text in SBML.

    Attributes:
        name: Its name in messages: that of its file.
        text: The text, with a declaration of UTF-8.
        folder: The folder of its file, None for text that is not from a file.
        ignored: The packages of SBML that the file uses but does not require, and that are not read.
    """

    name: str
    text: str
    folder: Path | None
    ignored: tuple[str, ...]


def source_of(path_or_text: str | Path) -> Source:
    """Read a file, which may be compressed or in an archive, or take text that begins with `<`, and check it.

    Raises:
        FileIssues: If it cannot be read, is too large, is not well-formed, or has something that no file may have.
    """
    if isinstance(path_or_text, str) and path_or_text.lstrip("\ufeff \t\r\n").startswith("<"):
        issues = IssueCollector("text", most=MOST_ISSUES)
        size = len(path_or_text.encode("utf-8", "replace"))
        if size > MOST_BYTES:
            issues.stop(f"must have at most {MOST_BYTES} bytes, but has {size}.")
        return _checked_source("text", path_or_text, None, issues)
    path = Path(path_or_text)
    inner = in_archive(path)
    name = path.name if inner is None else f"{inner[0].name}/{inner[1]}"
    content = content_of(path, name, MOST_BYTES, archives=True)
    folder = None if inner is not None or path.suffix.lower() in ARCHIVES else path.resolve().parent
    issues = IssueCollector(name, most=MOST_ISSUES)
    return _checked_source(name, _decoded(content, issues), folder, issues)


def _decoded(content: bytes, issues: IssueCollector) -> str:
    """Return the text of a file, decoded by its mark of byte order, else by its declaration, else as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    else:
        declared = _ENCODING.match(content[3:] if content.startswith(codecs.BOM_UTF8) else content)
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        try:
            name = codecs.lookup(encoding).name
        except LookupError:
            name = encoding
        if name not in _ENCODINGS:
            issues.stop(f"must be in UTF-8, UTF-16 or ISO-8859-1, but is in {encoding}.", line=1)
    try:
        text = content.decode("utf-8-sig" if name == "utf-8" else name)
    except UnicodeDecodeError as error:
        issues.stop(f"must be text in {name.upper()}, but is not.", line=content[: error.start].count(b"\n") + 1)
    return text


def _checked_source(name: str, text: str, folder: Path | None, issues: IssueCollector) -> Source:
    text = plain(text, name)
    declaration = _DECLARATION.match(text)
    if declaration:
        text = "\n" * declaration[0].count("\n") + text[declaration.end() :]
    text = '<?xml version="1.0" encoding="UTF-8"?>' + text
    checker = _Checker(issues)
    checker.read(text)
    issues.close()
    return Source(name, text, folder, tuple(checker.ignored))


class _Checker:
    """Checks a text, element by element."""

    def __init__(self, issues: IssueCollector):
        self.issues = issues
        self.depth = 0
        self.ignored: list[str] = []
        self.outside: list[int] = []
        self.mathematics = Mathematics(self._issue)
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")

    def read(self, text: str) -> None:
        """Read a text; add mistakes to the issues."""
        parser = self.parser
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self.mathematics.text
        parser.StartDoctypeDeclHandler = self._document_type
        try:
            parser.Parse(text.encode("utf-8", "surrogatepass"), True)
        except expat.ExpatError as error:
            body = text.partition("?>")[2].lstrip()
            if not body.startswith("<") and _ANTIMONY.search(body):
                self.issues.stop("must be SBML, but looks like Antimony: read it with `read_antimony`.")
            problem = expat.ErrorString(error.code)
            self.issues.stop(
                f"must be well-formed XML, but is not: {problem}.", line=error.lineno, place=error.offset + 1
            )

    @property
    def _position(self) -> tuple[int, int]:
        return self.parser.CurrentLineNumber, self.parser.CurrentColumnNumber + 1

    def _issue(self, message: str, element: str = "", position: tuple[int, int] | None = None) -> None:
        line, place = position or self._position
        self.issues.add(message, element, line=line, place=place)

    def _document_type(self, *_: object) -> None:
        self._issue("must have no document type (<!DOCTYPE ...>), but has one.")
        self.issues.close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        namespace, _, local = name.rpartition(" ")
        if self.depth == 1:
            self._root(namespace, local, attributes)
        if self.depth > MOST_DEEP:
            self._issue(f"must have at most {MOST_DEEP} nested elements, but has more.", local)
            self.issues.close()
        if self.outside or (local in _NO_MODEL and namespace.startswith(SBML)):
            self.outside.append(self.depth)
        elif namespace == MATHML:
            self.mathematics.start(local, attributes, self._position)
        elif self.mathematics.inside:
            self._issue(f"must have only elements of MathML in it, but has <{local}>.", "math")
        else:
            self._attributes(local, attributes)

    def _root(self, namespace: str, local: str, attributes: dict[str, str]) -> None:
        """Check that the namespace, the level and the version agree; libsbml ends the process if they do not."""
        if local != "sbml" or not namespace.startswith(SBML):
            self._issue(f"must be SBML, but is <{local}>" + (f" of {namespace}." if namespace else "."))
            self.issues.close()
        stated = attributes.get("level", "none").strip(), attributes.get("version", "none").strip()
        if stated not in _NAMESPACES.get(namespace.removeprefix(SBML), ()):
            known = namespace.removeprefix(SBML) in _NAMESPACES
            level = f"has level {stated[0]} and version {stated[1]}"
            if known or stated not in {pair for pairs in _NAMESPACES.values() for pair in pairs}:
                self._issue(f"must have the level and version that its namespace says, but {level[:60]}.", "sbml")
            else:
                self._issue(f"must have a namespace of SBML, but has {namespace[:80]}.", "sbml")
            self.issues.close()
        for name, value in attributes.items():
            space, _, part = name.rpartition(" ")
            package = _PACKAGE.sub(r"\1", space)[:80]
            if not space or part != "required" or package in _HANDLED:
                continue
            if value.strip() in ("false", "0"):
                self.ignored.append(package)
            else:
                self._issue(f"not supported: the package {package}.", "sbml")

    def _attributes(self, local: str, attributes: dict[str, str]) -> None:
        for key in _NUMBERS:
            if _NO_DECIMAL.match(attributes.get(key, "")):
                self._issue(f"must be a decimal number, but is {attributes[key]}.", f"{local} {key}")
        if len(attributes.get("formula", "")) > MOST_FORMULA:
            length = len(attributes["formula"])
            self._issue(f"must have at most {MOST_FORMULA} characters, but has {length}.", f"{local} formula")

    def _end(self, name: str) -> None:
        self.depth -= 1
        if self.outside:
            self.outside.pop()
        elif name.startswith(MATHML + " "):
            self.mathematics.end()
