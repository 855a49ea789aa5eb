"""Mathematics: the trees of libsbml as expressions, with inlined function definitions."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from qspjax._checks import ArgumentError
from qspjax._expression import FALSE, FUNCTIONS, TIME, TRUE, Expression, call, nodes, number, substitute, symbol
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import add_at
from qspjax.io.sbml._library import library

if TYPE_CHECKING:
    import libsbml

    WithMath: TypeAlias = (
        libsbml.Rule
        | libsbml.InitialAssignment
        | libsbml.KineticLaw
        | libsbml.StoichiometryMath
        | libsbml.Trigger
        | libsbml.Delay
        | libsbml.Priority
        | libsbml.EventAssignment
    )
    """An object with mathematics."""

AVOGADRO = 6.02214179e23
"""Avogadro's number in SBML (Level 3 Version 2, section 3.4.6), 1/mol."""

MOST_NODES = 500_000
"""The maximum number of operations from inlined functions: functions that call functions grow exponentially."""

MOST_OPERATIONS = 1_000_000
"""The maximum number of operations of an expression, with shared parts counted as often as they are used."""

_EMPTY = {"+": number(0.0), "*": number(1.0), "and": TRUE, "or": FALSE, "xor": FALSE}
_WRONG = number(math.nan)
"""The stand-in for mathematics with an issue."""


class Mathematics:
    """Reads the mathematics of one model; adds mistakes to the issues."""

    def __init__(self, model: "libsbml.Model", known: Callable[[str], bool], issues: IssueCollector):
        """Collect the function definitions; `known` returns whether an id may occur in mathematics."""
        self._known = known
        self._issues = issues
        self._functions = {
            function.getIdAttribute(): function for function in _all(model.getListOfFunctionDefinitions())
        }
        self._bodies: dict[str, Expression | None] = {}
        self._inlined_nodes = 0

    def of(self, item: "WithMath | None", local: Mapping[str, str] | None = None) -> Expression | None:
        """Return the mathematics of an object, None if it has none; `local` has the names of local parameters."""
        if item is None or not item.isSetMath():
            return None
        root = item.getMath()
        if root.getType() == _kinds().unknown and root.getNumChildren() == 0:
            return None
        self._prepare(root, item)

        def leaf(name: str) -> Expression | None:
            global_name = (local or {}).get(name, name)
            return symbol(global_name) if global_name != name or self._known(name) else None

        expression = self._walk(root, leaf, item, "an id of the model that has a value")
        if _operations_of(expression) > MOST_OPERATIONS:
            return self._issue(item, f"must have at most {MOST_OPERATIONS} operations with its functions inlined.")
        return expression

    def _prepare(self, root: "libsbml.ASTNode", item: "libsbml.SBase") -> None:
        """Read the functions that a tree calls, after those that they call."""
        waiting: list[tuple[str, libsbml.SBase]] = [(name, item) for name in self._called(root)]
        path: dict[str, None] = {}
        while waiting:
            name, caller = waiting[-1]
            function = self._functions.get(name)
            if name in self._bodies or function is None:
                waiting.pop()
                continue
            body = _body(function)
            inner = [other for other in self._called(body) if other not in self._bodies and other in self._functions]
            path[name] = None
            if any(other in path for other in inner):
                add_at(self._issues, function, "must not call itself, but does.")
                self._bodies[name] = _WRONG
            elif inner:
                waiting.append((inner[0], function))
                continue
            else:
                self._bodies[name] = self._read_function(function, body)
            path.pop(name)
            waiting.pop()

    def _called(self, root: "libsbml.ASTNode | None") -> list[str]:
        calls = _kinds().call
        return list(dict.fromkeys(node.getName() for node in _nodes(root) if node.getType() == calls))

    def _read_function(
        self, function: "libsbml.FunctionDefinition", body: "libsbml.ASTNode | None"
    ) -> Expression | None:
        if body is None:
            return None
        names = _arguments(function)
        if len(set(names)) < len(names):
            add_at(self._issues, function, f"must have arguments with different names, but has {', '.join(names)}.")
        return self._walk(body, lambda name: symbol(name) if name in names else None, function, "an argument")

    def _walk(
        self, root: "libsbml.ASTNode", leaf: Callable[[str], Expression | None], item: "libsbml.SBase", expected: str
    ) -> Expression:
        """Return the expression of a tree, from the leaves up and without recursion."""
        todo: list[tuple[libsbml.ASTNode, int | None]] = [(root, None)]
        done: list[Expression] = []
        while todo:
            node, count = todo.pop()
            if count is None:
                parts = _operands(node)
                todo.append((node, len(parts)))
                todo.extend((part, None) for part in reversed(parts))
                continue
            args = tuple(done[len(done) - count :])
            del done[len(done) - count :]
            done.append(self._node(node, args, leaf, item, expected))
        return done[0]

    def _node(
        self,
        node: "libsbml.ASTNode",
        args: tuple[Expression, ...],
        leaf: Callable[[str], Expression | None],
        item: "libsbml.SBase",
        expected: str,
    ) -> Expression:
        kind = node.getType()
        make = _leaves().get(kind)
        if make is not None:
            return make(node)
        if kind == _kinds().name:
            expression, name = leaf(node.getName()), node.getName()
            return self._issue(item, f"must have {expected}, but has {name}.") if expression is None else expression
        if kind == _kinds().call:
            return self._inlined(node.getName(), args, item)
        op = _operations().get(kind)
        if op is None:
            return self._issue(item, f"not supported: {node.getName() or node.getOperatorName() or 'an operator'}.")
        if not args and op in _EMPTY:
            return _EMPTY[op]
        if len(args) == 1 and op in ("+", "*"):
            return args[0]
        try:
            return call(op, *args)
        except ArgumentError as error:
            if op == "rate":
                return self._issue(item, "must have an id in rateOf, but has something else.")
            return self._issue(item, f"must have the right number of arguments of {op}: {error.must}")

    def _inlined(self, name: str, args: tuple[Expression, ...], item: "libsbml.SBase") -> Expression:
        function = self._functions.get(name)
        if function is None:
            return self._issue(item, f"must call functions that are defined, but calls {name}.")
        body = self._bodies.get(name)
        if body is None:
            return self._issue(item, f"must call functions that have mathematics, but calls {name}.")
        names = _arguments(function)
        if len(names) != len(args):
            return self._issue(item, f"must call {name} with {len(names)} arguments, but does with {len(args)}.")
        values, parts = dict(zip(names, args, strict=True)), nodes(body)
        rates = [node.args[0] for node in parts if node.op == "rate"]
        if any(values.get(str(node.value), node).op != "symbol" for node in rates):
            return self._issue(item, "must have an id in rateOf, but has something else.")
        self._inlined_nodes += len(parts)
        if self._inlined_nodes > MOST_NODES:
            self._issues.stop(f"must have at most {MOST_NODES} operations where functions are called, but has more.")
        return substitute(body, values)

    def _issue(self, item: "libsbml.SBase", message: str) -> Expression:
        add_at(self._issues, item, message)
        return _WRONG


def _body(function: "libsbml.FunctionDefinition") -> "libsbml.ASTNode | None":
    """Return the tree of a function's body, None if it has none."""
    if not function.isSetMath() or not function.getMath().isLambda():
        return None
    root = function.getMath()
    count = root.getNumChildren()
    return root.getChild(count - 1) if count > root.getNumBvars() else None


def _arguments(function: "libsbml.FunctionDefinition") -> list[str]:
    root = function.getMath()
    return [root.getChild(i).getName() for i in range(root.getNumBvars())]


def _operands(node: "libsbml.ASTNode") -> "list[libsbml.ASTNode]":
    """Return the operands of an operation; a sum of three, which libsbml reads as `(a + b) + c`, is flattened."""
    kind = node.getType()
    parts = [node.getChild(i) for i in range(node.getNumChildren())]
    if kind not in _kinds().associative:
        return parts
    last: list[libsbml.ASTNode] = []
    while len(parts) > 1 and parts[0].getType() == kind and parts[0].getNumChildren() > 1:
        first, *others = parts
        last += reversed(others)
        parts = [first.getChild(i) for i in range(first.getNumChildren())]
    return parts + last[::-1]


def _nodes(root: "libsbml.ASTNode | None") -> "list[libsbml.ASTNode]":
    """Return a node and all below it."""
    reached, stack = [], [root] if root is not None else []
    while stack:
        node = stack.pop()
        reached.append(node)
        stack.extend(node.getChild(i) for i in range(node.getNumChildren()))
    return reached


def _all(items: "libsbml.ListOfFunctionDefinitions") -> "list[libsbml.FunctionDefinition]":
    return [items.get(i) for i in range(items.size())]


def _operations_of(expression: Expression) -> int:
    """Return the number of operations of an expression, with shared parts counted as often as they are used."""
    counts: dict[Expression, int] = {}
    for node in nodes(expression):
        counts[node] = 1 + sum(counts[arg] for arg in node.args)
    return counts[expression]


def _e_notation(node: "libsbml.ASTNode") -> Expression:
    """Return a number by its text: a product of mantissa and power of 10 would be rounded twice."""
    mantissa = node.getMantissa()
    if not math.isfinite(mantissa):
        return number(mantissa)
    digits, _, power = repr(mantissa).partition("e")
    return number(float(f"{digits}e{int(power or 0) + node.getExponent()}"))


class _Kinds(NamedTuple):
    name: int
    call: int
    unknown: int
    associative: tuple[int, int]


@functools.cache
def _kinds() -> _Kinds:
    """Return types of nodes that need special treatment."""
    types = library()
    return _Kinds(types.AST_NAME, types.AST_FUNCTION, types.AST_UNKNOWN, (types.AST_PLUS, types.AST_TIMES))


@functools.cache
def _leaves() -> "dict[int, Callable[[libsbml.ASTNode], Expression]]":
    """Return functions that make an expression of a node without arguments, by type."""
    types = library()
    return {
        types.AST_INTEGER: lambda node: number(float(node.getInteger())),
        types.AST_REAL: lambda node: number(node.getReal()),
        types.AST_REAL_E: _e_notation,
        types.AST_RATIONAL: lambda node: number(node.getNumerator() / node.getDenominator()),
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
    types = library()
    operations = {
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
                operations[kind] = op
    return operations
