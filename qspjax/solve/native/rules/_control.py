"""Branches and loops."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from qspjax._jaxpr._walk import Atom, dtype_of, scan_counts, shape_of
from qspjax.solve.native._graph import Branches, Loop, Node, Region, Repetition
from qspjax.solve.native._translate import ROLLED, SMALL, UNROLLED, Translator, rule
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError, Value, kind_of


@rule("cond")
def _cond(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    which, *values = operands
    branches = eqn.params["branches"]
    if not isinstance(which, AbstractNodes):
        return self.run(branches[int(np.clip(int(which), 0, len(branches) - 1))], values)
    regions = [self.region(branch, values) for branch in branches]
    if all(len(region.graph.nodes) < SMALL and not _loops(region) for region, _ in regions):
        return _chosen(self, eqn, which, [self.run(branch, values) for branch in branches])
    args = tuple(int(i) for x in values if isinstance(x, AbstractNodes) for i in x.ids.ravel())
    node = self.graph.node("cond", (int(which.ids), *args), Branches(tuple(region for region, _ in regions)))
    return _results(self, node, eqn.outvars)


def _loops(region: Region) -> bool:
    return any(node.op in ("while", "cond", "call", "repeat") for node in region.graph.nodes)


def _chosen(
    self: Translator, eqn: JaxprEqn, which: AbstractNodes, results: Sequence[Sequence[Value]]
) -> Sequence[Value]:
    """Return the results of the branch that each patient takes."""
    chosen = list(results[0])
    for k, branch in enumerate(results[1:], 1):
        here = which if which.dtype == bool else self.each("ge", np.dtype(bool), which, np.asarray(k, which.dtype))
        chosen = [
            self.each("select", dtype_of(var), here, new, old)
            for var, new, old in zip(eqn.outvars, branch, chosen, strict=True)
        ]
    return chosen


def _results(self: Translator, node: int, outvars: Sequence[Atom]) -> list[Value]:
    """Return the results of a loop or a branch."""
    results: list[Value] = []
    count = 0
    for var in outvars:
        size, kind = int(np.prod(shape_of(var), dtype=int)), kind_of(dtype_of(var))
        ids = [self.graph.node("result", (node,), count + k, kind) for k in range(size)]
        results.append(Nodes(np.array(ids, np.int64).reshape(shape_of(var)), dtype_of(var)))
        count += size
    return results


@rule("while")
def _while(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    params = eqn.params
    at, into = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    cond_consts, body_consts = operands[:at], operands[at:into]
    carry: list[Value] = [Nodes(self.ids(x), x.dtype) for x in operands[into:]]
    condition, _ = self.region(params["cond_jaxpr"], [*cond_consts, *carry])
    body, _ = self.region(params["body_jaxpr"], [*body_consts, *carry])
    groups = [
        [int(i) for x in part if isinstance(x, AbstractNodes) for i in x.ids.ravel()]
        for part in (cond_consts, body_consts, carry)
    ]
    loop = Loop(condition, body, len(groups[0]), len(groups[1]))
    return _results(self, self.graph.node("while", tuple(i for group in groups for i in group), loop), eqn.outvars)


@rule("scan")
def _scan(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    params = eqn.params
    length, program = params["length"], params["jaxpr"]
    at, carried = scan_counts(params)
    into = at + carried
    consts, carry, xs = operands[:at], operands[at:into], operands[into:]
    rolled = _rolled(self, eqn, consts, carry, xs) if self.within else None
    if rolled is not None:
        return rolled
    if length * len(program.jaxpr.eqns) > UNROLLED:
        raise UnsupportedError(f"a loop of {length} iterations")
    collected: list[list[Value]] = []
    for k in range(length)[:: -1 if params["reverse"] else 1]:
        row = [Nodes(x.ids[k], x.dtype) if isinstance(x, AbstractNodes) else x[k] for x in xs]
        results = self.run(program, [*consts, *carry, *row])
        carry, ys = results[: len(carry)], results[len(carry) :]
        collected.append(list(ys))
    collected = collected[::-1] if params["reverse"] else collected
    shapes = [(shape_of(var), dtype_of(var)) for var in eqn.outvars[len(carry) :]]
    stacked = [
        Nodes(np.stack([self.ids(row[k]) for row in collected]) if collected else np.zeros(shape, int), dtype)
        for k, (shape, dtype) in enumerate(shapes)
    ]
    return [*carry, *stacked]


def _rolled(
    self: Translator, eqn: JaxprEqn, consts: Sequence[Value], carry: Sequence[Value], xs: Sequence[Value]
) -> Sequence[Value] | None:
    """Return the results of a loop that is not written out, over numbers that are known; None if it is none."""
    program, length = eqn.params["jaxpr"], eqn.params["length"]
    known = all(isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype == np.float64 for x in xs)
    if not known or len(eqn.outvars) > len(carry) or eqn.params["reverse"]:
        return None
    unknown: list[Value] = [Nodes(self.ids(x), x.dtype) for x in carry]
    rows: list[Value] = [Nodes(np.zeros((), np.int64), x.dtype) for x in xs]  # they become entries of tables
    region, _ = self.region(program, [*consts, *unknown, *rows])
    if region.size * length < ROLLED:
        return None
    first = sum(x.ids.size for x in (*consts, *unknown) if isinstance(x, AbstractNodes))
    for k, node in enumerate(region.graph.nodes):
        if node.op == "value" and (place := node.attr_as(int) - first) >= 0:
            region.graph.nodes[k] = Node("table", (), tuple(np.asarray(xs[place]).tolist()))
    groups = [
        [int(i) for x in part if isinstance(x, AbstractNodes) for i in x.ids.ravel()] for part in (consts, unknown)
    ]
    repetition = Repetition(region, length, len(groups[0]))
    return _results(self, self.graph.node("repeat", (*groups[0], *groups[1]), repetition), eqn.outvars)


@rule("custom_linear_solve")
def _custom_linear_solve(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    before = lengths.matvec + lengths.vecmat
    consts = operands[before : before + lengths.solve]
    b = operands[before + lengths.solve + lengths.transpose_solve :]
    return self.run(jaxprs.solve, [*consts, *b])
