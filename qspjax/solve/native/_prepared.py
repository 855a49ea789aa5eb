"""What depends on constants of a patient alone: computed once, when a lane takes him."""

from collections.abc import Sequence

from qspjax.solve.native._graph import ALL, Graph, Node, Region
from qspjax.solve.native._order import functions_of


def prepared(regions: Sequence[Region], row: int) -> Region:
    """Take what does not change with the steps out of some regions, and of the functions that they call.

    There, it becomes inputs that follow one another from a row of the frame on.

    Args:
        regions: The regions, which are changed.
        row: The first row that is free.

    Returns:
        What computes these rows.
    """
    out = Region(Graph(constants=ALL))
    rows: dict[int, int] = {}
    functions = [f.region for region in regions for f in functions_of(region.graph, region.outputs)]
    for region in {id(region): region for region in (*regions, *functions)}.values():
        graph = region.graph
        needed = graph.needed(region.outputs)
        used = {arg for i in needed if not graph.fixed[i] for arg in graph.nodes[i].args} | set(region.outputs)
        copies: dict[int, int] = {}
        for i in needed:
            node = graph.nodes[i]
            if not graph.fixed[i]:
                continue
            copies[i] = out.graph.node(node.op, tuple(copies[arg] for arg in node.args), node.attr, node.kind)
            if i in used and node.op not in ("const", "in", "shared"):
                number = rows.setdefault(copies[i], len(rows))
                graph.nodes[i] = Node("in", (), row + number, node.kind)
    out.outputs.extend(rows)
    return out
