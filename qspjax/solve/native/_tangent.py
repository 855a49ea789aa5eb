"""Derivatives of a solve along some directions as text of LLVM: tangents that are carried from step to step.

Of second order, so are the derivatives along either direction, and the mixed one. Nothing is recorded: a step is
differentiated where it is taken, so that what its derivatives share with it (Jacobian, factors, slopes of the stages)
is computed once, for all directions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._jaxpr._walk import shape_of
from qspjax.solve.kernel._adjoint import moving, pushed
from qspjax.solve.kernel._lanes import Landing, Lane, Patients, Program
from qspjax.solve.kernel._layout import Lanes
from qspjax.solve.kernel._replay import Inputs, Recorded
from qspjax.solve.native._emit import Emitter
from qspjax.solve.native._frame import Rows, all_rows, element_of, nodes, region_of, rows_of
from qspjax.solve.native._graph import Region
from qspjax.solve.native._lane import trace
from qspjax.solve.native._loop import AbstractText
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import UnsupportedError


def at_once(directions: int, size: int, order: int) -> int:
    """Return along how many of some directions, or pairs of them, a system of a size is differentiated at once."""
    first = 8 if size <= 12 else 4 if size <= 40 else 2 if size <= 80 else 1
    blocks = -(-directions // max(first >> 2 * (order - 1), 1))
    return -(-directions // blocks)


def by_blocks(
    along: Callable[[Sequence[jax.Array]], Sequence[jax.Array]], tangents: Sequence[jax.Array], count: int
) -> list[jax.Array]:
    """Return what a function of tangents along so many directions returns along all, one block after the other."""
    all = tangents[0].shape[0]
    if all == count:
        return [*along(tangents)]
    blocks = -(-all // count)
    padded = [
        jnp.pad(x, [(0, blocks * count - all), *[(0, 0)] * (x.ndim - 1)]).reshape(blocks, count, *x.shape[1:])
        for x in tangents
    ]
    return [x.reshape(-1, *x.shape[2:])[:all] for x in jax.lax.map(along, padded)]


class Tried(NamedTuple):
    """What was attempted: the size of the step that was tried, whether it was to land; what `Attempted` says of it."""

    width: PyTree
    lands: PyTree
    h: PyTree
    landed: PyTree
    cause: PyTree


class TangentText(AbstractText):
    """The module that computes the derivative of the states at outputs along some directions.

    After the arrays of the patients, the operands are the tangents of those that are marked, each with an axis of
    directions first, and so has the result; for a derivative of second order, those along the one direction, and then
    those along the other.

    Attributes:
        count: The number of directions.
        order: The order of the derivative.
    """

    results = ("tangents",)
    sparse = True

    def __init__(
        self, program: Program, patients: Patients, lanes: int, marks: Patients, count: int, order: int = 1
    ) -> None:
        if marks.span:
            raise UnsupportedError("a derivative by the span of a solve")
        self.program, self.marks, self.count, self.order = program, marks, count, order
        self.more_operands = order * len(jax.tree.leaves(marks))
        super().__init__(trace(program, patients), patients, program.batched, lanes)

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        """The shape of the result."""
        program = self.program
        shape = self.count, program.patients, program.outputs, program.system.size
        return jax.ShapeDtypeStruct(shape, self.patients.y0.dtype)

    def _step(self, translator: Translator) -> Region:
        own, frame, marks = self.frame, self.traced.frame, self.marks

        def along_all(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.count, *leaf.shape), leaf.dtype)

        pairs = zip(marks.constants, frame.constants, strict=True)
        constants = [leaf if mark else None for mark, leaf in pairs]
        boundary = marks.boundaries.map(lambda mark, leaf: leaf if mark else None, frame.landing.boundary)
        pairs = zip(marks.leaves if frame.leaves else (), frame.leaves, strict=True)
        leaves = tuple(leaf if mark else None for mark, leaf in pairs)
        vector = frame.landing.vector if marks.vectors else None
        given = [jax.tree.map(along_all, (constants, boundary, vector, leaves))] * self.order
        y, time = frame.start.y, frame.span
        infused, moves = self.patients.infused, moving(self.program, marks)
        part = jax.tree.map(along_all, (y, y if infused else None, time if moves else None, frame.start.memory))
        carried = [part for _ in self._parts()]
        self.given, self.carried = jax.tree.map(self.new_rows, (given, carried))
        lane, tried = self._attempt(translator)
        index = frame.lane.patient
        cause = None if frame.start.memory is None else index
        shapes = Tried(time, jax.ShapeDtypeStruct(time.shape, bool), time, index, cause)
        program = jax.make_jaxpr(self._push)(
            frame.constants, frame.leaves, frame.span, frame.landing, frame.lane, shapes, given, carried
        )
        like = [shape_of(var) for var in program.jaxpr.invars]
        before = own.constants, own.leaves, own.span, own.landing, own.lane
        after = self.given, self.carried
        count = len(all_rows(before))
        values = [*nodes(translator, before, like[:count]), tried.width, tried.lands, tried.h, tried.landed]
        values += [] if cause is None else [tried.cause]
        values += nodes(translator, after, like[len(values) :])
        return region_of(translator, (lane, translator.run(program, values), tried[:4]))

    def _push(
        self,
        constants: list,
        leaves: tuple,
        span: jax.Array,
        landing: Landing,
        now: Lane,
        tried: Tried,
        given: list,
        carried: list,
    ) -> list[PyTree]:
        """Return the derivatives of state, rate and time after a step along all directions."""
        t, boundary = now.clock.t, landing.boundary
        landed = jnp.where(tried.lands, now.clock.boundary, -1)
        at = boundary._replace(time=jnp.where(tried.lands, boundary.time, t))
        lanes, each = Lanes(constants, (True,) * len(constants)), (True,) * len(leaves)
        step = Recorded(lanes, t, tried.width, landed, at, landing.vector, tried.cause, span, leaves, each, True)
        before = Inputs([], now.y, now.rate, memory=None if now.events is None else now.events.memory)
        taken = (tried.h != 0.0) | (tried.landed >= 0)

        def part(given: tuple, carried: tuple) -> Inputs:
            of_constants, of_boundary, vector, of_leaves = given
            y, rate, time, memory = carried
            if time is not None and of_boundary.time is None:
                of_boundary = of_boundary._replace(time=jnp.zeros_like(t))
            return Inputs(of_constants, y, rate, time, of_boundary, vector, memory, of_leaves)

        def along(given: list, carried: list) -> list[PyTree]:
            nothing = jax.tree.map(jnp.zeros_like, given[0])  # of which there is no mixed derivative
            orders = self._parts()
            parts = [part(nothing if i is None else given[i], each) for i, each in zip(orders, carried, strict=True)]
            new = [(x.y, x.rate, x.t, x.memory) for x in pushed(self.program, step, before, self.marks, parts)]
            return jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, carried)

        return jax.vmap(along)(given, carried)

    def _parts(self) -> list[int | None]:
        """Return for each derivative that is carried the direction that it is along, None if it is a mixed one."""
        parts = range(1, 2**self.order)
        return [part.bit_length() - 1 if part.bit_count() == 1 else None for part in parts]

    # --- what is loaded ----------------------------------------------------------------------------------------------

    def _numbered(self, direction: int) -> PyTree:
        """Return for each array of the patients the number of the operand with its tangents, None where not marked."""
        leaves, structure = jax.tree.flatten(self.marks)
        first = len(self.number) + direction * len(leaves)
        return jax.tree.unflatten(structure, range(first, first + len(leaves)))

    def _load(self, number: int, leaf: PyTree, index: str, rows: Rows) -> None:
        """Load the tangents of an element of an array, or of a slice of it, along all directions."""
        w, stride = self.w, int(np.prod(leaf.shape))
        for k in range(self.count):
            place = self._along(rows, k)
            self.copy_in(self.field(number, "ptr"), w.add(w.mul(index, place.size), k * stride), place)

    def _along(self, rows: Rows, k: int) -> Rows:
        """Return the rows of a direction."""
        size = rows.size // self.count
        return Rows(rows.first + k * size, size, rows.dtype)

    def _take_too(self, patient: str) -> None:
        for direction, carried in zip(self._parts(), self.carried, strict=True):
            if direction is None:
                for rows in all_rows(carried):
                    self._clear(rows)
            else:
                self._take_along(direction, carried, patient)

    def _take_along(self, direction: int, carried: tuple, patient: str) -> None:
        numbers, batched, patients = self._numbered(direction), self.program.batched, self.patients
        constants, _, _, leaves = self.given[direction]
        y, rate, time, memory = carried
        names = {"y0": y, "t0": time, "memory": memory}
        starts = [(getattr(numbers, k), getattr(patients, k), getattr(batched, k), rows) for k, rows in names.items()]
        fixed = zip(numbers.constants, patients.constants, batched.constants, constants, strict=True)
        own = leaves and zip(numbers.leaves, patients.leaves, batched.leaves, leaves, strict=True)
        for number, leaf, each, rows in [*fixed, *own, *starts]:
            if number is not None:
                self._load(number, leaf, patient if each else "0", rows_of(rows))
        for rows in [*(rows for number, _, _, rows in starts if number is None), rate]:
            if rows is not None:
                self._clear(rows_of(rows))

    def _clear(self, rows: Rows) -> None:
        w = self.w
        w.repeat(rows.size, lambda k: w.put(f"  store double 0.0, ptr {self.cell(w.add(k, rows.first))}"))

    def _boundary_too(self) -> None:
        for direction in range(self.order):
            self._boundary_along(direction)

    def _boundary_along(self, direction: int) -> None:
        w, numbers, batched = self.w, self._numbered(direction), self.program.batched
        _, boundary, vector, _ = self.given[direction]
        columns = zip(numbers.boundaries, self.patients.boundaries, batched.boundaries, boundary, strict=True)
        for number, leaf, each, rows in columns:
            if number is not None:
                own = w.add(w.mul("%patient", self.field("boundaries")), "%index") if each else "%index"
                self._load(number, leaf, own, rows_of(rows))
        if numbers.vectors is not None:
            self._load(numbers.vectors, self.patients.vectors, self._vector_of("%patient"), rows_of(vector))

    # --- what is handed in -------------------------------------------------------------------------------------------

    def _begin_outputs(self, patient: str) -> None:
        """Mark all outputs of a patient as constant."""
        w, size = self.w, self.program.system.size
        count = w.mul(self.field("outputs"), size)

        def clear(k: str) -> None:
            type, base = element_of(self.shape.dtype)[0], self._direction(k)
            start = w.add(base, w.mul(patient, count))
            result = self.field("tangents", "ptr")
            w.loop(count, lambda i: w.put(f"  store {type} 0.0, ptr {w.at(type, result, w.add(start, i))}"))

        w.loop(self.count, clear)

    def _direction(self, k: str | int) -> str:
        """Return where the tangents along a direction begin in the result."""
        w, size = self.w, self.program.system.size
        return w.mul(k, w.mul(self.field("patients"), w.mul(self.field("outputs"), size)))

    def _states_out(self, name: str, offset: str) -> None:
        for k in range(self.count):
            y = self._along(rows_of(self.carried[-1][0]), k)
            self.copy_out(self.field("tangents", "ptr"), self.w.add(self._direction(k), offset), y)

    def _ended(self, patient: str) -> None:
        """Nothing: how a patient ends is not a result here."""

    def _more(self, translator: Translator) -> list[Region]:
        return []

    def _write_more(self, emitter: Emitter, regions: Sequence[Region]) -> None:
        """Nothing: a step is all that a lane does."""
