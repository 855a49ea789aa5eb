"""Many expressions at once: those of the same form are evaluated as one, over vectors of their leaves.

`k1 * A * B` and `B * k7 * C` have one form, a product of three symbols. A network of 700 reactions has a dozen forms,
so that its program has a dozen lines, not thousands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._expression._evaluate import evaluate
from qspjax._expression._tree import Expression, node, nodes, symbol

FEWEST = 4
"""Members of a form that is worth a vector."""
LARGEST = 200
"""Leaves of an expression that is brought into a form; a larger one is evaluated by itself."""

Leaf = str | float | None
"""A symbol, a number, or the time (None)."""


def evaluate_grouped(
    expressions: Sequence[Expression], lookup: Callable[[Sequence[str]], jax.Array], time: Any
) -> jax.Array:
    """Return the values of expressions as one vector, shape (expressions,).

    Args:
        expressions: What to evaluate.
        lookup: The values of a list of symbols, shape (symbols,).
        time: The time.
    """
    forms = _Forms(expressions)
    groups: dict[int, list[int]] = {}
    alone = []
    for i, one in enumerate(expressions):
        form = forms.of(one)
        groups.setdefault(-1 if form is None else form, []).append(i)
    alone += groups.pop(-1, [])
    for form, members in list(groups.items()):
        if len(members) < FEWEST:
            alone += groups.pop(form)
    parts, order = [], []
    for members in groups.values():
        parts.append(_group([expressions[i] for i in members], forms, lookup, time))
        order += members
    if alone:
        wanted = [expressions[i] for i in alone]
        needed = sorted({str(one.value) for one in nodes(*wanted) if one.op == "symbol"})
        found = lookup(needed)
        values = {name: found[i] for i, name in enumerate(needed)}
        parts.append(jnp.stack([jnp.asarray(x, float) for x in evaluate(wanted, values, time)]))
        order += alone
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    return jnp.concatenate(parts)[place]


def _group(
    members: Sequence[Expression], forms: "_Forms", lookup: Callable[[Sequence[str]], jax.Array], time: Any
) -> jax.Array:
    table = [forms.leaves(one) for one in members]
    template = forms.template(members[0])
    values: dict[str, Any] = {}
    for slot, column in enumerate(zip(*table, strict=True)):
        name = f"#{slot}"
        same = all(leaf == column[0] for leaf in column)
        if column[0] is None:
            values[name] = time
        elif isinstance(column[0], str):
            found = lookup([column[0]] if same else list(column))
            values[name] = found[0] if same else found
        else:
            values[name] = float(column[0]) if same else jnp.asarray(np.array(column, float))
    (value,) = evaluate([template], values, time)
    return jnp.broadcast_to(jnp.asarray(value, float), (len(members),))


class _Forms:
    """The forms of expressions: sums and products in an order that depends on the form of the operands alone."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        self._number: dict[Expression, int] = {}
        self._size: dict[Expression, int] = {}
        self._known: dict[tuple, int] = {}
        for one in nodes(*expressions):
            self._size[one] = sum(self._size[arg] for arg in one.args) or 1
            args = [self._key(one, k) for k in range(len(one.args))]
            key = (one.op, *(sorted(args) if one.op in ("+", "*") else args))
            self._number[one] = self._known.setdefault(key, len(self._known))

    def _key(self, one: Expression, k: int) -> int:
        arg = one.args[k]
        if arg.op == "number" and one.op in ("^", "root", "log", "piecewise"):  # part of the form
            return self._known.setdefault(("number", arg.value), len(self._known))
        return self._number[arg]

    def of(self, one: Expression) -> int | None:
        return self._number[one] if self._size[one] <= LARGEST else None

    def _ordered(self, one: Expression) -> list[tuple[Expression, bool]]:
        """Return the operands in the order of their forms, and whether each is a number that belongs to the form."""
        pairs = [(self._key(one, k), k) for k in range(len(one.args))]
        pairs = sorted(pairs) if one.op in ("+", "*") else pairs
        fixed = one.op in ("^", "root", "log", "piecewise")
        return [(one.args[k], fixed and one.args[k].op == "number") for _, k in pairs]

    def leaves(self, one: Expression) -> list[Leaf]:
        """Return the leaves of an expression, in the order of its form."""
        found: list[Leaf] = []
        stack = [(one, False)]
        while stack:
            here, fixed = stack.pop()
            if fixed:
                continue
            if here.op in ("symbol", "number"):
                found.append(here.value)
            stack.extend(reversed(self._ordered(here)))
        return found

    def template(self, one: Expression) -> Expression:
        """Return the form with a symbol `#0`, `#1`, ... for each leaf."""
        count = 0

        def build(here: Expression) -> Expression:
            nonlocal count
            if here.op in ("symbol", "number"):
                count += 1
                return symbol(f"#{count - 1}")
            args = [arg if fixed else build(arg) for arg, fixed in self._ordered(here)]
            return node(here.op, tuple(args), here.value)

        return build(one)
