"""Many formulas at once, for large networks: those of one form are computed together, over vectors.

Subexpressions that several formulas share (the concentration of a species, an assignment rule) are computed first,
level by level, each of them once.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._expression import Expression, evaluate_grouped, nodes, symbol, symbols, with_arguments
from qspjax._tables import LabelledState, ParameterTable
from qspjax._types import Scalar
from qspjax.models.network._sums import gather


class Grouped:
    """Expressions over states and numbers, to be computed together.

    Args:
        expressions: The expressions.
        indices: The index of each state.
    """

    def __init__(self, expressions: Sequence[Expression], indices: Mapping[str, int]) -> None:
        """Find the shared subexpressions, and their levels."""
        cuts = _shared(expressions)
        names = {cut: f"@{number}" for number, cut in enumerate(cuts)}
        depth: dict[Expression, int] = {}
        self._levels: list[list[Expression]] = []
        self._positions: dict[str, tuple[int, int]] = {}
        short = dict(zip(cuts, _shortened(cuts, names), strict=True))
        below: dict[Expression, int] = {}
        for node in nodes(*expressions):
            below[node] = max((depth[arg] + 1 if arg in depth else below[arg] for arg in node.args), default=0)
            if node in names:
                depth[node] = level = below[node]
                self._levels += [[] for _ in range(level + 1 - len(self._levels))]
                self._positions[names[node]] = (2 + level, len(self._levels[level]))
                self._levels[level].append(short[node])
        self._expressions = _shortened(expressions, names, roots=True)
        needed = sorted(symbols(*expressions))
        self._leaves = [name[:-2] for name in needed if name.endswith("#v")]
        self._positions |= {f"{id}#v": (0, index) for index, id in enumerate(self._leaves)}
        self._positions |= {name: (1, indices[name[:-2]]) for name in needed if name.endswith("#y")}

    def __call__(
        self, values: ParameterTable, functions: Mapping[str, Callable], t: Scalar, y: LabelledState | None
    ) -> jax.Array:
        """Return the values of the expressions, shape (expressions,)."""
        numbers = values.gather(self._leaves) if self._leaves else jnp.zeros((0,))
        state = numbers[:0] if y is None else y.values
        if isinstance(state, tuple):
            state = jnp.stack([jnp.asarray(x, float) for x in state]) if state else numbers[:0]
        sources = [numbers, state]
        for level in self._levels:
            sources.append(evaluate_grouped(level, lambda names: self._lookup(sources, names), t, functions))
        if not self._expressions:
            return jnp.zeros((0,), state.dtype)
        return evaluate_grouped(self._expressions, lambda names: self._lookup(sources, names), t, functions)

    def _lookup(self, sources: Sequence[jax.Array], names: Sequence[str]) -> jax.Array:
        positions = [self._positions[name] for name in names]
        parts, order = [], np.zeros(len(names), int)
        offset = 0
        for source in dict.fromkeys(source for source, _ in positions):
            members = [i for i, (origin, _) in enumerate(positions) if origin == source]
            parts.append(gather(sources[source], np.array([positions[i][1] for i in members], int)))
            order[members] = np.arange(offset, offset + len(members))
            offset += len(members)
        return parts[0] if len(parts) == 1 else gather(jnp.concatenate(parts), order)


def _shared(expressions: Sequence[Expression]) -> list[Expression]:
    """Return the subexpressions used more than once, arguments before what is made of them.

    A call with several outputs is none, because it is not one number.
    """
    uses: dict[Expression, int] = {}
    order = nodes(*expressions)
    for node in order:
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    for expression in dict.fromkeys(expressions):
        uses[expression] = uses.get(expression, 0) + 1
    several = {node.args[0] for node in order if node.op == "output"}
    return [node for node in order if node.args and uses[node] > 1 and node not in several]


def _shortened(
    expressions: Sequence[Expression], names: Mapping[Expression, str], *, roots: bool = False
) -> list[Expression]:
    """Return expressions with symbols for what is shared, and with operands of sums and products sorted by kind.

    Args:
        expressions: The expressions.
        names: The symbols of what is shared.
        roots: Whether an expression that is itself shared becomes a symbol.
    """
    short: dict[Expression, Expression] = {}
    for node in nodes(*expressions):
        args = [symbol(names[arg]) if arg in names else short[arg] for arg in node.args]
        if node.op in ("+", "*"):
            args.sort(key=_rank)
        short[node] = with_arguments(node, args)
    return [
        symbol(names[expression]) if roots and expression in names else short[expression] for expression in expressions
    ]


def _rank(argument: Expression) -> int:
    """Return the rank of an operand in a sum or a product, so that vectors of one kind are gathered at once."""
    if argument.op != "symbol":
        return 1 if argument.op == "number" else 4
    name = str(argument.value)
    return 0 if name.endswith("#v") else 3 if name.endswith("#y") else 2
