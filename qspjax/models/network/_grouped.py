"""Many formulas at once, for large networks: those of one form are computed together, over vectors.

What several formulas share (the concentration of a species, an assignment rule) is computed first, level by level, so
that each thing is computed once.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._expression import Expression, call, evaluate_grouped, nodes, symbol, symbols
from qspjax._tables import LabelledState, ParameterTable
from qspjax._types import Scalar
from qspjax.models.network._sums import taken


class Grouped:
    """Expressions over states and numbers, to be computed together.

    Args:
        expressions: The expressions.
        places: The place of each state.
    """

    def __init__(self, expressions: Sequence[Expression], places: Mapping[str, int]) -> None:
        """Find what is shared, and its levels."""
        cuts = _shared(expressions)
        names = {cut: f"@{number}" for number, cut in enumerate(cuts)}
        depth: dict[Expression, int] = {}
        self._levels: list[list[Expression]] = []
        self._places: dict[str, tuple[int, int]] = {}
        short = dict(zip(cuts, _shortened(cuts, names), strict=True))
        below: dict[Expression, int] = {}
        for node in nodes(*expressions):
            below[node] = max((depth[arg] + 1 if arg in depth else below[arg] for arg in node.args), default=0)
            if node in names:
                depth[node] = level = below[node]
                self._levels += [[] for _ in range(level + 1 - len(self._levels))]
                self._places[names[node]] = (2 + level, len(self._levels[level]))
                self._levels[level].append(short[node])
        self._wanted = _shortened(expressions, names, whole=True)
        needed = sorted(symbols(*expressions))
        self._leaves = [name[:-2] for name in needed if name.endswith("#v")]
        self._places |= {f"{id}#v": (0, place) for place, id in enumerate(self._leaves)}
        self._places |= {name: (1, places[name[:-2]]) for name in needed if name.endswith("#y")}

    def __call__(self, values: ParameterTable, t: Scalar, y: LabelledState | None) -> jax.Array:
        """Compute them, shape (expressions,)."""
        own = values.gather(self._leaves) if self._leaves else jnp.zeros((0,))
        state = own[:0] if y is None else y.values
        if isinstance(state, tuple):
            state = jnp.stack([jnp.asarray(x, float) for x in state]) if state else own[:0]
        sources = [own, state]
        for level in self._levels:
            sources.append(evaluate_grouped(level, lambda names: self._lookup(sources, names), t))
        if not self._wanted:
            return jnp.zeros((0,), state.dtype)
        return evaluate_grouped(self._wanted, lambda names: self._lookup(sources, names), t)

    def _lookup(self, sources: Sequence[jax.Array], names: Sequence[str]) -> jax.Array:
        found = [self._places[name] for name in names]
        parts, order = [], np.zeros(len(names), int)
        begun = 0
        for source in dict.fromkeys(source for source, _ in found):
            own = [i for i, (other, _) in enumerate(found) if other == source]
            parts.append(taken(sources[source], np.array([found[i][1] for i in own], int)))
            order[own] = np.arange(begun, begun + len(own))
            begun += len(own)
        return parts[0] if len(parts) == 1 else taken(jnp.concatenate(parts), order)


def _shared(expressions: Sequence[Expression]) -> list[Expression]:
    """Return what is used more than once, arguments before what is made of them."""
    uses: dict[Expression, int] = {}
    order = nodes(*expressions)
    for node in order:
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    for expression in dict.fromkeys(expressions):
        uses[expression] = uses.get(expression, 0) + 1
    return [node for node in order if node.args and uses[node] > 1]


def _shortened(
    expressions: Sequence[Expression], names: Mapping[Expression, str], *, whole: bool = False
) -> list[Expression]:
    """Return expressions in which what is shared is a symbol; numbers, parameters and states in this order.

    Args:
        expressions: The expressions.
        names: The symbols of what is shared.
        whole: Whether an expression that is itself shared becomes a symbol.
    """
    own: dict[Expression, Expression] = {}
    for node in nodes(*expressions):
        args = [symbol(names[arg]) if arg in names else own[arg] for arg in node.args]
        if node.op in ("+", "*"):
            args.sort(key=_rank)
        own[node] = node if not args else call(node.op, *args)
    return [symbol(names[one]) if whole and one in names else own[one] for one in expressions]


def _rank(argument: Expression) -> int:
    """Return where an operand of a sum or a product stands, so that vectors of one kind are gathered at once."""
    name = argument.value
    if not isinstance(name, str):
        return 1 if argument.op == "number" else 4
    return 0 if name.endswith("#v") else 3 if name.endswith("#y") else 2
