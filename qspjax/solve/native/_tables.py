"""Elimination as loops over tables, for systems that would be too much code if they were written out.

The operations on every number are those of the code that is written out, in the same order, so results are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qspjax.solve.kernel._sparse_lu import Elimination
from qspjax.solve.native._graph import AbstractRoutine
from qspjax.solve.native._text import Writer


@dataclass(frozen=True, eq=False)
class Factorisation(AbstractRoutine):
    """From the entries of a matrix to those of its factors, and one over every pivot."""

    plan: Elimination

    @property
    def blocks(self) -> tuple[int, ...]:
        return (self.plan.originals,)

    @property
    def rows(self) -> int:
        return len(self.plan.rows) + self.plan.size

    def write(self, w: Writer, places: Sequence[str], out: str) -> None:
        plan, (entries,) = self.plan, places
        scaled: list[int] = []
        products: list[int] = []
        pivots: list[int] = []
        for p in plan.order:
            pivots += [int(plan.diagonal[p]), len(plan.rows) + p, len(scaled), len(products)]
            for target, left, up in plan.updates(p):
                if target == left:
                    scaled.append(left)
                else:
                    products += [target, left, up]
        pivots += [0, 0, len(scaled), len(products)]
        w.loop(plan.originals, lambda k: w.store(w.load(w.row(entries, k)), w.row(out, k)))
        filled = len(plan.rows) - plan.originals
        w.loop(filled, lambda k: w.store(w.splat(0.0), w.row(out, w.add(k, plan.originals))))
        heads, lefts, triples = (w.indices(tuple(x)) for x in (pivots, scaled, products))

        def pivot(k: str) -> None:
            first = w.mul(k, 4)
            diagonal, inverse, scale, update = (w.entry(heads, w.add(first, i)) for i in range(4))
            last_scale, last_update = (w.entry(heads, w.add(first, i)) for i in (6, 7))
            reciprocal = w.f("fdiv", w.splat(1.0), w.load(w.row(out, diagonal)))
            w.store(reciprocal, w.row(out, inverse))

            def rescale(i: str) -> None:
                place = w.row(out, w.entry(lefts, w.add(scale, i)))
                w.store(w.f("fmul", w.load(place), reciprocal), place)

            def subtract(i: str) -> None:
                at = w.add(update, w.mul(i, 3))
                target, left, up = (w.row(out, w.entry(triples, w.add(at, j))) for j in range(3))
                w.store(w.minus_product(w.load(left), w.load(up), w.load(target)), target)

            w.loop(w.op(f"sub i64 {last_scale}, {scale}"), rescale)
            w.loop(w.op(f"sdiv i64 {w.op(f'sub i64 {last_update}, {update}')}, 3"), subtract)

        w.loop(plan.size, pivot)


@dataclass(frozen=True, eq=False)
class Substitution(AbstractRoutine):
    """From factors and right side to the solution."""

    plan: Elimination

    @property
    def blocks(self) -> tuple[int, ...]:
        return len(self.plan.rows) + self.plan.size, self.plan.size

    @property
    def rows(self) -> int:
        return self.plan.size

    def write(self, w: Writer, places: Sequence[str], out: str) -> None:
        plan, (factors, b) = self.plan, places
        down = [x for p in plan.order for i in plan.below[p] for x in (i, plan.entry[i, p], p)]
        up: list[int] = []
        rows: list[int] = []
        for p in reversed(plan.order):
            rows += [p, len(plan.rows) + p, len(up)]
            up += [x for j in plan.right[p] for x in (plan.entry[p, j], j)]
        rows += [0, 0, len(up)]
        triples, pairs, heads = (w.indices(tuple(x)) for x in (down, up, rows))
        w.loop(plan.size, lambda k: w.store(w.load(w.row(b, k)), w.row(out, k)))

        def subtract(i: str) -> None:
            at = w.mul(i, 3)
            target, entry, source = (w.entry(triples, w.add(at, j)) for j in range(3))
            product = w.load(w.row(factors, entry)), w.load(w.row(out, source))
            w.store(w.minus_product(*product, w.load(w.row(out, target))), w.row(out, target))

        def solve(k: str) -> None:
            first = w.mul(k, 3)
            unknown, inverse, start, end = (w.entry(heads, w.add(first, i)) for i in (0, 1, 2, 5))

            def term(i: str, so_far: str) -> str:
                at = w.add(start, w.mul(i, 2))
                entry, source = (w.entry(pairs, w.add(at, j)) for j in range(2))
                return w.minus_product(w.load(w.row(factors, entry)), w.load(w.row(out, source)), so_far)

            count = w.op(f"sdiv i64 {w.op(f'sub i64 {end}, {start}')}, 2")
            total = w.fold(count, w.load(w.row(out, unknown)), term)
            w.store(w.f("fmul", total, w.load(w.row(factors, inverse))), w.row(out, unknown))

        w.loop(len(down) // 3, subtract)
        w.loop(plan.size, solve)
