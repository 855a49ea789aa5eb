"""Many expressions at once: those of the same form are evaluated as one, over vectors of their leaves.

`k1 * A * B` and `B * k7 * C` have one form, a product of three symbols. A network of 700 reactions has a dozen forms,
so its program has a dozen lines, not thousands.

A form is itself an expression, over the symbols `#0`, `#1`, ... in place of the symbols and numbers, so that two
expressions have the same form exactly if their forms are the same object. To find it, operands of commutative
operations are sorted in an order that does not depend on the names of their leaves.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qspjax._expression._arithmetic import as_number
from qspjax._expression._evaluate import evaluate
from qspjax._expression._nodes import expanded_size, nodes, number_in
from qspjax._expression._tree import Expression, substitute, symbol, symbols, with_arguments

MIN_MEMBERS = 4
"""Minimum number of members of a form that is worth a vector."""

MAX_EXPANDED = 500
"""Up to this many nodes, written out, each leaf of an expression is a slot; of a larger one, each distinct leaf."""

_COMMUTATIVE = {"+", "*", "and", "or", "xor", "min", "max", "eq", "neq"}
_FIXED = {("^", 1), ("root", 0), ("log", 0), ("output", 1)}
"""Operations, each with the operand in which a number belongs to the form: `x^2` is not computed as `x^n`."""

Lookup = Callable[[Sequence[str]], jax.Array]


@dataclasses.dataclass(frozen=True)
class Form:
    """Expressions that differ only in their symbols and numbers.

    Attributes:
        template: The form, an expression over `#0`, `#1`, ...
        members: The indices of the expressions that have it.
        table: For each member, the values of `#0`, `#1`, ...: symbols (text) and numbers.
    """

    template: Expression
    members: tuple[int, ...]
    table: tuple[tuple[str | float, ...], ...]


def grouped(expressions: Sequence[Expression]) -> tuple[Form, ...]:
    """Return the forms of expressions, in the order of their first members.

    Example:
        >>> from qspjax._expression import parse
        >>> for form in grouped([parse("k1 * A"), parse("2 * A"), parse("B * k2")]):
        ...     print(form.template, form.members, form.table)
        `#0` * `#1` (0, 2) (('k1', 'A'), ('B', 'k2'))
        `#0` * `#1` (1,) (('A', 2.0),)
    """
    return _grouped(tuple(expressions))


@functools.lru_cache(maxsize=64)
def _grouped(expressions: tuple[Expression, ...]) -> tuple[Form, ...]:
    members: dict[tuple, list[int]] = {}
    rows: dict[tuple, list[tuple[str | float, ...]]] = {}
    for i, expression in enumerate(expressions):
        template, leaves = _form(expression)
        key = (template, tuple(map(type, leaves)))
        members.setdefault(key, []).append(i)
        rows.setdefault(key, []).append(leaves)
    return tuple(_without_copies(Form(key[0], tuple(indices), tuple(rows[key]))) for key, indices in members.items())


def _without_copies(form: Form) -> Form:
    """Return a form with one slot for leaves that are the same in every member."""
    columns: dict[tuple[str | float, ...], Expression] = {}
    new = {}
    for slot, column in enumerate(zip(*form.table, strict=True)):
        new[f"#{slot}"] = columns.setdefault(column, symbol(f"#{len(columns)}"))
    if len(columns) == len(new):
        return form
    return Form(substitute(form.template, new), form.members, tuple(zip(*columns, strict=True)))


def evaluate_grouped(
    expressions: Sequence[Expression], lookup: Lookup, time: ArrayLike, functions: Mapping[str, Callable] | None = None
) -> jax.Array:
    """Return the values of expressions as one vector, shape (expressions,).

    Args:
        expressions: What to evaluate.
        lookup: The values of a list of symbols, as one vector of shape (symbols,): a gather where the caller has them
            in a vector, `lambda names: y[indices(names)]`.
        time: The time.
        functions: By name, the functions that are learned.
    """
    functions = functions or {}
    if not expressions:
        return jnp.zeros((0,))
    forms = grouped(expressions)
    parts = [_together(form, lookup, time, functions) for form in forms if len(form.members) >= MIN_MEMBERS]
    order = [i for form in forms if len(form.members) >= MIN_MEMBERS for i in form.members]
    single = [i for form in forms if len(form.members) < MIN_MEMBERS for i in form.members]
    if single:
        parts.append(_each([expressions[i] for i in single], lookup, time, functions))
    order += single
    values = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    if order == sorted(order):
        return values
    inverse = np.empty(len(order), int)
    inverse[order] = np.arange(len(order))
    return values.at[inverse].get(mode="promise_in_bounds", unique_indices=True)


def _together(form: Form, lookup: Lookup, time: ArrayLike, functions: Mapping[str, Callable]) -> jax.Array:
    """Evaluate a form over the vectors of its leaves; a leaf that all members share stays a single number."""
    values: dict[str, ArrayLike | Callable] = dict(functions)
    for slot, column in enumerate(zip(*form.table, strict=True)):
        same = all(leaf == column[0] for leaf in column)
        if isinstance(column[0], str):
            gathered = lookup(list(column[:1] if same else column))
            values[f"#{slot}"] = gathered.reshape(()) if same else gathered
        else:
            values[f"#{slot}"] = column[0] if same else np.array(column)
    (value,) = evaluate([form.template], values, time)
    value = jnp.asarray(as_number(value), float)
    return value if value.shape else jnp.broadcast_to(value, (len(form.members),))


def _each(
    expressions: Sequence[Expression], lookup: Lookup, time: ArrayLike, functions: Mapping[str, Callable]
) -> jax.Array:
    """Evaluate expressions one by one, and what they share only once."""
    names = sorted(symbols(*expressions))
    gathered = jax.lax.split(lookup(names), [1] * len(names)) if names else ()
    values = {**functions, **{name: value.reshape(()) for name, value in zip(names, gathered, strict=True)}}
    results = [as_number(value) for value in evaluate(expressions, values, time)]
    return jnp.stack([jnp.asarray(value, float) for value in results])


# the form of an expression


def _form(expression: Expression) -> tuple[Expression, tuple[str | float, ...]]:
    """Return the form of an expression, and its leaves in the order of the form."""
    ordered = _ordered(nodes(expression))
    large = expanded_size(expression) > MAX_EXPANDED
    forms: dict[Expression, Expression] = {}
    leaves: list[str | float] = []
    built: list[Expression] = []
    stack: list[tuple[Expression, str]] = [(expression, "")]
    while stack:
        current, state = stack.pop()
        if state == "fixed" or current in forms or not (current.args or current.op in ("symbol", "number")):
            built.append(forms.get(current, current))
            continue
        if current.args and not state:
            stack.append((current, "ready"))
            stack.extend((arg, "fixed" if _is_fixed(current, k) else "") for k, arg in reversed(ordered[current]))
            continue
        if current.args:
            first = len(built) - len(current.args)
            new = with_arguments(current, built[first:])
            del built[first:]
        else:
            new = symbol(f"#{len(leaves)}")
            leaves.append(number_in(current) if current.op == "number" else str(current.value))
        built.append(new)
        if large:
            forms[current] = new
    return built[0], tuple(leaves)


def _is_fixed(expression: Expression, k: int) -> bool:
    return (expression.op, k) in _FIXED and expression.args[k].op == "number"


def _ordered(order: Sequence[Expression]) -> dict[Expression, list[tuple[int, Expression]]]:
    """Return the operands of each node, each with its index; those of commutative operations sorted by signature.

    The signature of a node is made of its operation and the signatures of its operands. The order of two operands with
    the same signature, such as the leaves in `k * S / (K + S)`, depends on where else they occur: S occurs twice.
    """
    contexts: dict[Expression, list[int]] = {current: [] for current in order if not current.args}
    for current in order:
        for k, arg in enumerate(current.args):
            if arg in contexts:
                contexts[arg].append(_signature(_kind(current), [0 if current.op in _COMMUTATIVE else k]))
    signatures: dict[Expression, tuple[int, int]] = {}
    ordered: dict[Expression, list[tuple[int, Expression]]] = {}
    for current in order:
        if not current.args:
            signatures[current] = _signature(current.op, []), _signature(current.op, sorted(contexts[current]))
            continue
        operands = list(enumerate(current.args))
        if current.op in _COMMUTATIVE:
            operands.sort(key=lambda pair: signatures[pair[1]])
        ordered[current] = operands
        parts = [(hash(arg), 0) if _is_fixed(current, k) else signatures[arg] for k, arg in operands]
        signatures[current] = (
            _signature(_kind(current), [bare for bare, _ in parts]),
            _signature(_kind(current), [placed for _, placed in parts]),
        )
    return ordered


def _kind(expression: Expression) -> str:
    return str(expression.value) if expression.op == "learned" else expression.op


def _signature(op: str, parts: Iterable[int]) -> int:
    return hash((zlib.crc32(op.encode()), *parts))
