"""The form of MathML, checked as text, for what libsbml would skip or misread.

Only the elements of MathML 2 that SBML Level 3 Version 2 (section 3.4) has are accepted; others are refused by name.
"""

import dataclasses
import re
from collections.abc import Callable

MATHML = "http://www.w3.org/1998/Math/MathML"
SYMBOLS = "http://www.sbml.org/sbml/symbols/"

_TRIGONOMETRIC = tuple(
    f"{arc}{name}{h}" for arc in ("", "arc") for name in ("sin", "cos", "tan", "sec", "csc", "cot") for h in ("", "h")
)
_OPERATORS = frozenset(
    (
        *("eq", "neq", "gt", "lt", "geq", "leq", "plus", "minus", "times", "divide", "power", "root", "abs", "exp"),
        *("ln", "log", "floor", "ceiling", "factorial", "quotient", "max", "min", "rem", "and", "or", "xor", "not"),
        *("implies", *_TRIGONOMETRIC),
    )
)
_VALUES = frozenset(
    ("cn", "ci", "csymbol", "apply", "piecewise", "lambda", "semantics", "true", "false", "notanumber", "pi")
    + ("infinity", "exponentiale")
)
_PARTS = frozenset(("math", "sep", "piece", "otherwise", "bvar", "degree", "logbase", "annotation", "annotation-xml"))
_KNOWN = _OPERATORS | _VALUES | _PARTS
_ARGUMENTS = {
    **dict.fromkeys(
        (*_TRIGONOMETRIC, "abs", "exp", "ln", "floor", "ceiling", "factorial", "not", "root", "log"), (1, 1)
    ),
    **dict.fromkeys(("divide", "power", "quotient", "rem", "implies", "neq", "delay"), (2, 2)),
    **dict.fromkeys(("eq", "gt", "lt", "geq", "leq"), (2, 2_000)),
    **dict.fromkeys(("and", "or", "xor"), (0, 2_000)),
    **dict.fromkeys(("min", "max"), (1, 2_000)),
    "minus": (1, 2),
}
"""The least and the greatest number of values of an operator; very many make libsbml slow."""

_APPLIED, _NOT_APPLIED = ("delay", "rateOf"), ("time", "avogadro")
_QUALIFIED = {"root": "degree", "log": "logbase"}
_FUNCTIONS = frozenset(("ci", "csymbol"))
_ASIDE = frozenset(("annotation", "annotation-xml"))
_KNOWN_SYMBOLS = frozenset(SYMBOLS + name for name in ("time", "delay", "avogadro", "rateOf"))

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_REAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_FORMS = {
    "real": (_REAL,),
    "integer": (_INTEGER,),
    "rational": (_INTEGER, _INTEGER),
    "e-notation": (_REAL, _INTEGER),
}
_LARGEST = 2**31 - 1
_MOST_SUMMED = 20_000
_MOST_PIECES = 1_000
_SEPARATOR = "\x1f"


@dataclasses.dataclass
class _Element:
    name: str
    attributes: dict[str, str]
    position: tuple[int, int]
    children: list[str] = dataclasses.field(default_factory=list)
    functions: dict[int, str] = dataclasses.field(default_factory=dict)
    text: list[str] = dataclasses.field(default_factory=list)


class Mathematics:
    """Checks the elements of MathML as they begin and end; mistakes go to `issue(message, element, position)`."""

    def __init__(self, issue: Callable[[str, str, tuple[int, int]], None]):
        """Start outside mathematics."""
        self._issue = issue
        self._open: list[_Element] = []
        self._aside = 0

    @property
    def inside(self) -> bool:
        """Whether an element of MathML is open that may only have elements of MathML in it."""
        return bool(self._open) and not self._aside

    def start(self, name: str, attributes: dict[str, str], position: tuple[int, int]) -> None:
        """Note that an element begins."""
        if not self._aside:
            if name not in _KNOWN:
                self._issue(f"not supported: <{name}> of MathML.", "math", position)
            if self._open:
                self._open[-1].children.append(name)
                if name == "sep":
                    self._open[-1].text.append(_SEPARATOR)
        self._aside += bool(self._aside) or name in _ASIDE
        self._open.append(_Element(name, attributes, position))

    def text(self, text: str) -> None:
        """Note text between elements."""
        if self._open:
            self._open[-1].text.append(text)

    def end(self) -> None:
        """Note that an element ends, and check it."""
        element = self._open.pop()
        if self._aside:
            self._aside -= 1
            return
        if element.name == "csymbol" and self._open:
            url = element.attributes.get("definitionURL", "").strip()
            self._open[-1].functions[len(self._open[-1].children) - 1] = url.removeprefix(SYMBOLS)
        message = _CHECKS.get(element.name, _nothing_inside)(element) or _functions(element)
        if message:
            self._issue(message, f"<{element.name}> of math", element.position)


def _nothing_inside(element: _Element) -> str:
    return f"must be empty, but has {_listed(element.children)} in it." if element.children else ""


def _math(element: _Element) -> str:
    return _values(element.children, 0, 1)


def _values(names: list[str], least: int, most: int) -> str:
    """Check that elements are values, and their number."""
    for name in names:
        if name not in _VALUES and name in _KNOWN:
            return f"must have only values in it, but has <{name}>."
    if least <= len(names) <= most:
        return ""
    expected = f"{least}" if least == most else f"at most {most}" if len(names) > most else f"at least {least}"
    return f"must have {expected} value{'s' * (expected != '1')} in it, but has {len(names)}."


def _functions(element: _Element) -> str:
    """Check that symbols of functions are applied, and that others are not."""
    for position, name in element.functions.items():
        applied = element.name == "apply" and position == 0
        if name in _APPLIED and not applied:
            return f"must have values in it, but has the function {name}."
        if name in _NOT_APPLIED and applied:
            return f"must begin with an operator or a function, but begins with {name}."
    return ""


def _apply(element: _Element) -> str:
    if not element.children:
        return "must begin with an operator or a function, but is empty."
    if element.children == ["apply"]:  # nested brackets, which libsbml removes
        return ""
    first, *others = element.children
    if first not in _OPERATORS and first not in _FUNCTIONS and first in _KNOWN:
        return f"must begin with an operator or a function, but begins with <{first}>."
    if others[:1] == [_QUALIFIED.get(first)]:
        others = others[1:]
    applied = element.functions.get(0, "") if first == "csymbol" else first
    least, most = _ARGUMENTS.get(applied, (0, _MOST_SUMMED))
    if applied == "rateOf" and others != ["ci"]:
        return f"must have one <ci> after rateOf, but has {_listed(others)}."
    return _values(others, least, most)


def _number(element: _Element) -> str:
    kind = element.attributes.get("type", "real")
    text = "".join(element.text)
    shown = " ".join(text.replace(_SEPARATOR, "<sep/>").split()) or "empty"
    parts = text.split(_SEPARATOR)
    if kind not in ("real", "integer", "rational", "e-notation"):
        return f"not supported: numbers of type {kind}."
    if element.attributes.get("base", "10").strip() != "10":
        return f"not supported: numbers of base {element.attributes['base']}."
    if any(name != "sep" for name in element.children):
        return f"must be a number, but has {_listed(element.children)} in it."
    if len(parts) != 1 + (kind in ("rational", "e-notation")):
        return f"must be a number of type {kind}, but is {shown[:40]}."
    forms = {
        "real": (_REAL,),
        "integer": (_INTEGER,),
        "rational": (_INTEGER, _INTEGER),
        "e-notation": (_REAL, _INTEGER),
    }[kind]
    if not all(form.fullmatch(part) for form, part in zip(forms, parts, strict=True)):
        return f"must be a number of type {kind}, but is {shown[:40]}."
    if kind in ("integer", "rational") and any(len(part) > 30 or abs(int(part)) > _LARGEST for part in parts):
        return f"must be an integer of at most {_LARGEST}, but is {shown[:40]}; type real takes larger ones."
    if kind == "rational" and int(parts[1]) == 0:
        return f"must have a divisor that is not 0, but is {shown}."
    return ""


def _name(element: _Element) -> str:
    text = "".join(element.text).strip()
    if element.children:
        return f"must be an id, but has {_listed(element.children)} in it."
    return "" if text and len(text.split()) == 1 else f"must be an id, but is {text[:40] or 'empty'}."


def _symbol(element: _Element) -> str:
    url = element.attributes.get("definitionURL", "").strip()
    return (
        ""
        if url in _KNOWN_SYMBOLS
        else f"not supported: the symbol {url.removeprefix(SYMBOLS)[:80] or 'without a URL'}."
    )


def _piecewise(element: _Element) -> str:
    *pieces, last = element.children or ["piece"]
    if last not in ("piece", "otherwise") or any(name != "piece" for name in pieces):
        return f"must have pieces in it and at most one <otherwise> after them, but has {_listed(element.children)}."
    if len(pieces) > _MOST_PIECES:
        return f"must have at most {_MOST_PIECES} pieces, but has {len(pieces)}."
    return ""


def _lambda(element: _Element) -> str:
    bound = next((i for i, name in enumerate(element.children) if name != "bvar"), len(element.children))
    return _values(element.children[bound:], 1, 1)


def _bound(element: _Element) -> str:
    return "" if element.children == ["ci"] else f"must have one <ci> in it, but has {_listed(element.children)}."


def _semantics(element: _Element) -> str:
    return _values([name for name in element.children if name not in _ASIDE], 1, 1)


def _listed(names: list[str]) -> str:
    return ", ".join(f"<{name}>" for name in names[:5]) + (", ..." if len(names) > 5 else "") or "nothing"


_CHECKS: dict[str, Callable[[_Element], str]] = {
    "math": _math,
    "apply": _apply,
    "cn": _number,
    "ci": _name,
    "csymbol": _symbol,
    "piecewise": _piecewise,
    "piece": lambda element: _values(element.children, 2, 2),
    "otherwise": lambda element: _values(element.children, 1, 1),
    "degree": lambda element: _values(element.children, 1, 1),
    "logbase": lambda element: _values(element.children, 1, 1),
    "lambda": _lambda,
    "bvar": _bound,
    "semantics": _semantics,
}
