"""In which order the nodes of a region are computed, which of them only where they are needed, and until when."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from qspjax.solve.native._graph import MEMORY, Function, Graph

Arm: TypeAlias = tuple[int, int]
"""A selection, and which of its operands: 1 where the mask is true, 2 where it is not."""

INPUTS = {"in", "value", "arg", "shared", "row", "outer", "index", "table"}
GUARDED = 40
"""What costs as much as this many sums, and serves one arm of a selection, is computed if a lane needs it."""
_COST = {
    **{
        "div": 8,
        "sqrt": 8,
        "exp": 20,
        "log": 25,
        "tanh": 25,
        "expm1": 20,
        "log1p": 30,
        "exp32": 15,
        "log32": 15,
        "pow": 60,
    },
    **{"call": 100, "while": 100, "cond": 100, "rows": 30, "routine": 100, "repeat": 100},
}
_COST.update(dict.fromkeys(INPUTS | {"const", "result", "neg"}, 0))


class Order:
    """The order of a region.

    Attributes:
        nodes: The nodes outside of arms, in order.
        arms: By arm that is computed only if a lane needs it, its nodes in order.
        uses: How often each node is an operand or an output.
        last: By node that leaves results in memory, the node outside of arms that reads them last, or infinity.
    """

    def __init__(self, graph: Graph, outputs: Sequence[int]) -> None:
        self._graph = graph
        needed = graph.needed(outputs)
        users: dict[int, list[Arm]] = {i: [] for i in needed}
        for i in needed:
            for place, arg in enumerate(graph.nodes[i].args):
                users[arg].append((i, place))
        self.uses = Counter({i: len(by) for i, by in users.items()})
        self.uses.update(outputs)
        arm = self._arms(needed, users, set(outputs))
        self.nodes = [i for i in needed if arm[i] is None]
        self.arms: dict[Arm, list[int]] = {}
        for i in needed:
            if (where := arm[i]) is not None:
                self.arms.setdefault(where, []).append(i)
        self.last = self._lives(needed, users, set(outputs), arm)

    def waits(self, index: int) -> bool:
        """Return whether a node is computed where it is used: loads, and products that may be part of one sum."""
        node = self._graph.nodes[index]
        product = node.op == "mul" and node.kind == "float" and self.uses[index] == 1
        return product or node.op == "result" or node.op in INPUTS

    def _guards(self, index: int, place: int) -> bool:
        """Return whether a node is a selection one operand of which may not be needed."""
        node, nodes = self._graph.nodes[index], self._graph.nodes
        if node.op != "select" or not place or node.args[1] == node.args[2]:
            return False
        return place == 2 or nodes[node.args[0]].op != "is_finite"

    def _arms(self, needed: list[int], users: dict[int, list[Arm]], outputs: set[int]) -> dict[int, Arm | None]:
        """Return by node the arm that alone needs it, None where there is none that is worth a branch."""
        nodes = self._graph.nodes
        arm: dict[int, Arm | None] = {}

        def around(where: Arm | None) -> list[Arm]:
            """Return an arm, and those that it is within."""
            out = []
            while where is not None:
                out.append(where)
                where = arm[where[0]]
            return out

        for i in reversed(needed):
            places = {(user, place) if self._guards(user, place) else arm[user] for user, place in users[i]}
            chains = [around(where) for where in places] if i not in outputs else []
            shared = [where for where in chains[0] if all(where in chain for chain in chains)] if chains else []
            arm[i] = shared[0] if shared else None
        costs: Counter[Arm] = Counter()
        for i in needed:
            if (where := arm[i]) is not None:
                costs[where] += _COST.get(nodes[i].op, 1)
        for inner in sorted(costs):  # an arm within an arm belongs to an earlier selection
            if (outer := arm[inner[0]]) is not None:
                costs[outer] += costs[inner]

        def worthwhile(where: Arm | None) -> Arm | None:
            while where is not None and costs[where] < GUARDED:
                where = arm[where[0]]
            return where

        return {i: worthwhile(where) for i, where in arm.items()}

    def _lives(
        self, needed: list[int], users: dict[int, list[Arm]], outputs: set[int], arm: dict[int, Arm | None]
    ) -> dict[int, float]:
        """Return by node in memory the last node outside of arms that reads it."""
        read: dict[int, float] = {}
        last: dict[int, float] = {}
        for i in reversed(needed):
            if i in outputs:
                read[i] = math.inf
                continue
            later = max((read[user] for user, _ in users[i]), default=i)
            if self._graph.nodes[i].op in MEMORY:
                last[i] = later
            if self.waits(i):
                read[i] = later
                continue
            at, where = i, arm[i]
            while where is not None:
                at, where = where[0], arm[where[0]]
            read[i] = at
        return last


def functions_of(graph: Graph, outputs: Sequence[int]) -> list[Function]:
    """Return the functions that nodes call, and those that these call."""
    found: dict[str, Function] = {}
    waiting = [(graph, outputs)]
    while waiting:
        graph, outputs = waiting.pop()
        for i in graph.needed(outputs):
            if graph.nodes[i].op == "call" and (function := graph.nodes[i].attr_as(Function)).name not in found:
                found[function.name] = function
                waiting.append((function.region.graph, function.region.outputs))
    return list(found.values())
