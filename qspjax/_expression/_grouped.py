"""Many expressions at once: those of the same form are evaluated as one, over vectors of their leaves.

`k1 * A * B` and `B * k7 * C` have one form, a product of three symbols. A network of 700 reactions has a dozen forms,
so that its program has a dozen lines, not thousands.

A form is itself an expression, over the symbols `#0`, `#1`, ... in place of the symbols and numbers, so that two
expressions have the same form exactly if their forms are the same object. To find it, operands that may be exchanged
are put into an order that does not depend on the names of their leaves.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qspjax._expression._arithmetic import as_number
from qspjax._expression._evaluate import evaluate
from qspjax._expression._nodes import nodes, number_in, written_size
from qspjax._expression._tree import Expression, node, substitute, symbol, symbols

FEWEST = 4
"""Members of a form that is worth a vector."""

LARGEST = 500
"""Nodes, written out, of an expression in which each leaf is exchanged alone; in a larger one each distinct leaf is."""

_EXCHANGED = {"+", "*", "and", "or", "xor", "min", "max", "eq", "neq"}
_FIXED = {("^", 1), ("root", 0), ("log", 0)}
"""Operations, each with the operand in which a number belongs to the form: `x^2` is not computed as `x^n`."""

Lookup = Callable[[Sequence[str]], jax.Array]


@dataclasses.dataclass(frozen=True)
class Form:
    """Expressions that differ in their symbols and numbers alone.

    Attributes:
        template: The form, an expression over `#0`, `#1`, ...
        members: The places of the expressions that have it.
        table: For each member what stands for `#0`, `#1`, ...: symbols (text) and numbers.
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
    for i, one in enumerate(expressions):
        template, leaves = _form(one)
        key = (template, tuple(map(type, leaves)))
        members.setdefault(key, []).append(i)
        rows.setdefault(key, []).append(leaves)
    return tuple(_without_copies(Form(key[0], tuple(own), tuple(rows[key]))) for key, own in members.items())


def _without_copies(form: Form) -> Form:
    """Return a form in which leaves that are the same in every member are one."""
    columns: dict[tuple[str | float, ...], Expression] = {}
    new = {}
    for slot, column in enumerate(zip(*form.table, strict=True)):
        new[f"#{slot}"] = columns.setdefault(column, symbol(f"#{len(columns)}"))
    if len(columns) == len(new):
        return form
    return Form(substitute(form.template, new), form.members, tuple(zip(*columns, strict=True)))


def evaluate_grouped(expressions: Sequence[Expression], lookup: Lookup, time: ArrayLike) -> jax.Array:
    """Return the values of expressions as one vector, shape (expressions,).

    Args:
        expressions: What to evaluate.
        lookup: The values of a list of symbols, as one vector of shape (symbols,): a gather where the caller has them
            in a vector, `lambda names: y[places(names)]`.
        time: The time.
    """
    if not expressions:
        return jnp.zeros((0,))
    forms = grouped(expressions)
    parts = [_together(form, lookup, time) for form in forms if len(form.members) >= FEWEST]
    order = [i for form in forms if len(form.members) >= FEWEST for i in form.members]
    alone = [i for form in forms if len(form.members) < FEWEST for i in form.members]
    if alone:
        parts.append(_each([expressions[i] for i in alone], lookup, time))
    order += alone
    found = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    if order == sorted(order):
        return found
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    return found.at[place].get(mode="promise_in_bounds", unique_indices=True)


def _together(form: Form, lookup: Lookup, time: ArrayLike) -> jax.Array:
    """Evaluate a form over the vectors of its leaves; what all members share stays a single number."""
    values: dict[str, ArrayLike] = {}
    for slot, column in enumerate(zip(*form.table, strict=True)):
        same = all(leaf == column[0] for leaf in column)
        if isinstance(column[0], str):
            found = lookup(list(column[:1] if same else column))
            values[f"#{slot}"] = found.reshape(()) if same else found
        else:
            values[f"#{slot}"] = column[0] if same else np.array(column)
    (value,) = evaluate([form.template], values, time)
    value = jnp.asarray(as_number(value), float)
    return value if value.shape else jnp.broadcast_to(value, (len(form.members),))


def _each(expressions: Sequence[Expression], lookup: Lookup, time: ArrayLike) -> jax.Array:
    """Evaluate expressions one by one, and what they share once."""
    names = sorted(symbols(*expressions))
    found = jax.lax.split(lookup(names), [1] * len(names)) if names else ()
    values = {name: value.reshape(()) for name, value in zip(names, found, strict=True)}
    each = [as_number(value) for value in evaluate(expressions, values, time)]
    return jnp.stack([jnp.asarray(value, float) for value in each])


# the form of an expression


def _form(expression: Expression) -> tuple[Expression, tuple[str | float, ...]]:
    """Return the form of an expression, and its leaves in the order of the form."""
    ordered = _ordered(nodes(expression))
    large = written_size(expression) > LARGEST
    known: dict[Expression, Expression] = {}
    leaves: list[str | float] = []
    made: list[Expression] = []
    stack: list[tuple[Expression, str]] = [(expression, "")]
    while stack:
        one, state = stack.pop()
        if state == "fixed" or one in known or not (one.args or one.op in ("symbol", "number")):
            made.append(known.get(one, one))
            continue
        if one.args and not state:
            stack.append((one, "ready"))
            stack.extend((arg, "fixed" if _is_fixed(one, k) else "") for k, arg in reversed(ordered[one]))
            continue
        if one.args:
            first = len(made) - len(one.args)
            new = node(one.op, tuple(made[first:]))
            del made[first:]
        else:
            new = symbol(f"#{len(leaves)}")
            leaves.append(number_in(one) if one.op == "number" else str(one.value))
        made.append(new)
        if large:
            known[one] = new
    return made[0], tuple(leaves)


def _is_fixed(one: Expression, k: int) -> bool:
    return (one.op, k) in _FIXED and one.args[k].op == "number"


def _ordered(order: Sequence[Expression]) -> dict[Expression, list[tuple[int, Expression]]]:
    """Return the operands of each node, each with its place; those that may be exchanged in the order of their looks.

    A node looks like its operation and the looks of its operands. Of two that look the same, such as the leaves in
    `k * S / (K + S)`, the order depends on where else they stand: S is in two places.
    """
    around: dict[Expression, list[int]] = {one: [] for one in order if not one.args}
    for one in order:
        for k, arg in enumerate(one.args):
            if arg in around:
                around[arg].append(_look(one.op, [0 if one.op in _EXCHANGED else k]))
    looks: dict[Expression, tuple[int, int]] = {}
    ordered: dict[Expression, list[tuple[int, Expression]]] = {}
    for one in order:
        if not one.args:
            looks[one] = _look(one.op, []), _look(one.op, sorted(around[one]))
            continue
        own = list(enumerate(one.args))
        if one.op in _EXCHANGED:
            own.sort(key=lambda pair: looks[pair[1]])
        ordered[one] = own
        parts = [(hash(arg), 0) if _is_fixed(one, k) else looks[arg] for k, arg in own]
        looks[one] = _look(one.op, [bare for bare, _ in parts]), _look(one.op, [placed for _, placed in parts])
    return ordered


def _look(op: str, parts: Iterable[int]) -> int:
    return hash((zlib.crc32(op.encode()), *parts))
