"""Mathematics: the trees of libsbml as expressions, function definitions put in where they are called."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qspjax._checks import ArgumentError
from qspjax._expression import FALSE, FUNCTIONS, TIME, TRUE, Expression, call, nodes, number, substitute, symbol
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import add_at
from qspjax.io.sbml._library import libsbml

AVOGADRO = 6.02214179e23
"""The number that SBML fixes (Level 3 Version 2, section 3.4.6), 1/mol."""

MOST_NODES = 500_000
"""The most operations that all calls of functions may put in: functions that call functions grow exponentially."""

MOST_WRITTEN = 1_000_000
"""The most operations that an expression may have when it is written out."""

_EMPTY = {"+": number(0.0), "*": number(1.0), "and": TRUE, "or": FALSE, "xor": FALSE}
_WRONG = number(math.nan)
"""What stands for mathematics with an issue."""


class Mathematics:
    """Reads the mathematics of one model; what is wrong goes to the issues."""

    def __init__(self, model: Any, known: Callable[[str], bool], issues: IssueCollector):
        """Gather the function definitions; `known` says whether an id may stand in mathematics."""
        self._known = known
        self._issues = issues
        self._functions = {one.getIdAttribute(): one for one in _all(model.getListOfFunctionDefinitions())}
        self._bodies: dict[str, Expression | None] = {}
        self._inlined_nodes = 0

    def of(self, item: Any, local: Mapping[str, str] | None = None) -> Expression | None:
        """Return the mathematics of an object, None if it has none; `local` has the names of local parameters."""
        if item is None or not item.isSetMath():
            return None
        root = item.getMath()
        if root.getType() == _kinds().unknown and root.getNumChildren() == 0:
            return None
        self._prepare(root, item)

        def leaf(name: str) -> Expression | None:
            own = (local or {}).get(name, name)
            return symbol(own) if own != name or self._known(name) else None

        found = self._walk(root, leaf, item, "an id of the model that has a value")
        if _written(found) > MOST_WRITTEN:
            return self._issue(item, f"must have at most {MOST_WRITTEN} operations with its functions put in.")
        return found

    def _prepare(self, root: Any, item: Any) -> None:
        """Read the functions that a tree calls, those that they call first."""
        waiting: list[tuple[str, Any]] = [(name, item) for name in self._called(root)]
        path: dict[str, None] = {}
        while waiting:
            name, caller = waiting[-1]
            function = self._functions.get(name)
            if name in self._bodies or function is None:
                waiting.pop()
                continue
            body = _body(function)
            inner = [one for one in self._called(body) if one not in self._bodies and one in self._functions]
            path[name] = None
            if any(one in path for one in inner):
                add_at(self._issues, function, "must not call itself, but does.")
                self._bodies[name] = _WRONG
            elif inner:
                waiting.append((inner[0], function))
                continue
            else:
                self._bodies[name] = self._read_function(function, body)
            path.pop(name)
            waiting.pop()

    def _called(self, root: Any) -> list[str]:
        calls = _kinds().call
        return list(dict.fromkeys(one.getName() for one in _nodes(root) if one.getType() == calls))

    def _read_function(self, function: Any, body: Any) -> Expression | None:
        if body is None:
            return None
        names = _arguments(function)
        if len(set(names)) < len(names):
            add_at(self._issues, function, f"must have arguments with different names, but has {', '.join(names)}.")
        return self._walk(body, lambda name: symbol(name) if name in names else None, function, "an argument")

    def _walk(self, root: Any, leaf: Callable[[str], Expression | None], item: Any, wanted: str) -> Expression:
        """Return the expression of a tree, from the leaves up and without recursion."""
        todo: list[tuple[Any, int | None]] = [(root, None)]
        done: list[Expression] = []
        while todo:
            one, count = todo.pop()
            if count is None:
                parts = _operands(one)
                todo.append((one, len(parts)))
                todo.extend((part, None) for part in reversed(parts))
                continue
            args = tuple(done[len(done) - count :])
            del done[len(done) - count :]
            done.append(self._node(one, args, leaf, item, wanted))
        return done[0]

    def _node(
        self, one: Any, args: tuple[Expression, ...], leaf: Callable[[str], Expression | None], item: Any, wanted: str
    ) -> Expression:
        kind = one.getType()
        make = _leaves().get(kind)
        if make is not None:
            return make(one)
        if kind == _kinds().name:
            found = leaf(one.getName())
            return found if found is not None else self._issue(item, f"must have {wanted}, but has {one.getName()}.")
        if kind == _kinds().call:
            return self._inlined(one.getName(), args, item)
        op = _operations().get(kind)
        if op is None:
            return self._issue(item, f"not supported: {one.getName() or one.getOperatorName() or 'an operator'}.")
        if not args and op in _EMPTY:
            return _EMPTY[op]
        if len(args) == 1 and op in ("+", "*"):
            return args[0]
        try:
            return call(op, *args)
        except ArgumentError as error:
            if op == "rate":
                return self._issue(item, "must have an id in rateOf, but has something else.")
            return self._issue(item, f"must have a right number of arguments of {op}: {error.must}")

    def _inlined(self, name: str, args: tuple[Expression, ...], item: Any) -> Expression:
        function = self._functions.get(name)
        if function is None:
            return self._issue(item, f"must call functions that are defined, but calls {name}.")
        body = self._bodies.get(name)
        if body is None:
            return self._issue(item, f"must call functions that have mathematics, but calls {name}.")
        names = _arguments(function)
        if len(names) != len(args):
            return self._issue(item, f"must call {name} with {len(names)} arguments, but does with {len(args)}.")
        given = dict(zip(names, args, strict=True))
        own = nodes(body)
        if any(one.op == "rate" and given.get(str(one.args[0].value), one.args[0]).op != "symbol" for one in own):
            return self._issue(item, "must have an id in rateOf, but has something else.")
        self._inlined_nodes += len(own)
        if self._inlined_nodes > MOST_NODES:
            self._issues.stop(f"must have at most {MOST_NODES} operations where functions are called, but has more.")
        return substitute(body, given)

    def _issue(self, item: Any, message: str) -> Expression:
        add_at(self._issues, item, message)
        return _WRONG


def _body(function: Any) -> Any:
    """Return the tree of a function's body, None if it has none."""
    if not function.isSetMath() or not function.getMath().isLambda():
        return None
    root = function.getMath()
    count = root.getNumChildren()
    return root.getChild(count - 1) if count > root.getNumBvars() else None


def _arguments(function: Any) -> list[str]:
    root = function.getMath()
    return [root.getChild(i).getName() for i in range(root.getNumBvars())]


def _operands(one: Any) -> list[Any]:
    """Return what an operation is applied to; a sum of three, which libsbml makes `(a + b) + c`, is one again."""
    kind = one.getType()
    parts = [one.getChild(i) for i in range(one.getNumChildren())]
    if kind not in _kinds().joined:
        return parts
    late: list[Any] = []
    while len(parts) > 1 and parts[0].getType() == kind and parts[0].getNumChildren() > 1:
        first, *rest = parts
        late += reversed(rest)
        parts = [first.getChild(i) for i in range(first.getNumChildren())]
    return parts + late[::-1]


def _nodes(root: Any) -> list[Any]:
    found, stack = [], [root] if root is not None else []
    while stack:
        one = stack.pop()
        found.append(one)
        stack.extend(one.getChild(i) for i in range(one.getNumChildren()))
    return found


def _all(items: Any) -> list[Any]:
    return [items.get(i) for i in range(items.size())]


def _written(expression: Expression) -> int:
    """Return how many operations an expression has when it is written out, what is shared as often as it is used."""
    counts: dict[Expression, int] = {}
    for one in nodes(expression):
        counts[one] = 1 + sum(counts[arg] for arg in one.args)
    return counts[expression]


def _e_notation(one: Any) -> Expression:
    """Return a number as its text says: a product of mantissa and power of 10 would be rounded twice."""
    mantissa = one.getMantissa()
    if not math.isfinite(mantissa):
        return number(mantissa)
    digits, _, power = repr(mantissa).partition("e")
    return number(float(f"{digits}e{int(power or 0) + one.getExponent()}"))


class _Kinds(NamedTuple):
    name: int
    call: int
    unknown: int
    joined: tuple[int, int]


@functools.cache
def _kinds() -> _Kinds:
    """Return the types of nodes that are no operation."""
    types = libsbml()
    return _Kinds(types.AST_NAME, types.AST_FUNCTION, types.AST_UNKNOWN, (types.AST_PLUS, types.AST_TIMES))


@functools.cache
def _leaves() -> dict[int, Callable[[Any], Expression]]:
    """Return what makes an expression of a node without arguments, by type."""
    types = libsbml()
    return {
        types.AST_INTEGER: lambda one: number(float(one.getInteger())),
        types.AST_REAL: lambda one: number(one.getReal()),
        types.AST_REAL_E: _e_notation,
        types.AST_RATIONAL: lambda one: number(one.getNumerator() / one.getDenominator()),
        types.AST_CONSTANT_E: lambda _: number(math.e),
        types.AST_CONSTANT_PI: lambda _: number(math.pi),
        types.AST_CONSTANT_TRUE: lambda _: TRUE,
        types.AST_CONSTANT_FALSE: lambda _: FALSE,
        types.AST_NAME_AVOGADRO: lambda _: number(AVOGADRO),
        types.AST_NAME_TIME: lambda _: TIME,
    }


@functools.cache
def _operations() -> dict[int, str]:
    """Return the name of each operation, by the type of the node."""
    types = libsbml()
    found = {
        types.AST_PLUS: "+",
        types.AST_MINUS: "-",
        types.AST_TIMES: "*",
        types.AST_DIVIDE: "/",
        types.AST_POWER: "^",
        types.AST_FUNCTION_POWER: "^",
        types.AST_FUNCTION_CEILING: "ceil",
        types.AST_FUNCTION_RATE_OF: "rate",
    }
    for op in FUNCTIONS:
        for group in ("FUNCTION", "LOGICAL", "RELATIONAL"):
            kind = getattr(types, f"AST_{group}_{op.upper()}", None)
            if kind is not None:
                found[kind] = op
    return found
