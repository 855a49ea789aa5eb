"""Derivatives of the way of linear patients along some directions, as text of LLVM: tangents that are carried along."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax.solve._march_again import Derivative
from qspjax.solve._retrace import Place, Stop, passed
from qspjax.solve.dosing._boundary import Boundary
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.native._frame import Axis, Rows, element_of, rows_of
from qspjax.solve.native._lockstep import AbstractLockstep, equations_of


class Given(NamedTuple):
    """Tangents of what is given: constants, boundary and vector; None where there is none."""

    constants: list
    boundary: Boundary
    vector: PyTree


class Carried(NamedTuple):
    """Tangents of what is carried: state, motion, rates, and the time of the boundary before."""

    y: PyTree
    motion: PyTree
    rate: PyTree
    before: PyTree


class MarchTangentText(AbstractLockstep):
    """The module that computes the derivatives of the columns of states at outputs along some directions.

    After the arrays of the patients, the operands are the tangents of what is differentiated, each with an axis of
    directions first, and so has every column.
    """

    def __init__(self, derivative: Derivative, patients: Patients, lanes: int, count: int) -> None:
        self.derivative, self.count = derivative, count
        super().__init__(derivative.march, patients, lanes)
        self.marks: Patients = derivative.marks()
        self.results = tuple(f"column{k}" for k in range(self.march.size))
        stop, now = self.shapes_of_stop, self.shape_of_place
        pairs = zip(self.marks.constants, self.constants, strict=True)
        boundary = self.marks.boundaries.map(lambda mark, leaf: leaf if mark else None, stop.boundary)
        given = Given([x if mark else None for mark, x in pairs], boundary, stop.vector if self.marks.vectors else None)
        carried = Carried(now.y, now.motion, now.rate, now.pace.t)
        given, carried = jax.tree.map(self._along_all, (given, carried))
        self.given: Given = jax.tree.map(self.new_rows, given)
        self.carried: Carried = jax.tree.map(self.new_rows, carried)
        self.last, shown = self.new_rows(now.pace.t), jax.ShapeDtypeStruct((), bool)
        self.shown = self.new_rows(shown)
        rows = self.of_constants, self.now, self.stop, self.last, self.given, self.carried
        shapes = self.constants, now, stop, now.pace.t, given, carried
        results = self.now, self.last, self.shown, self.carried
        self.translate("step", self._push, rows, shapes, results)
        self.write()

    @property
    def more_operands(self) -> int:
        return sum(self.derivative.wrt)

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the results."""
        march = self.march
        column = jax.ShapeDtypeStruct((self.count, march.patients, march.outputs), self.patients.y0.dtype)
        return [column] * march.size

    @property
    def lengths(self) -> dict[str, Axis | None]:
        return {**super().lengths, "patients": Axis(True, 0, 1), "outputs": Axis(True, 0, 2)}

    def _along_all(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.count, *leaf.shape), leaf.dtype)

    def _push(
        self, constants: list, now: Place, stop: Stop, last: jax.Array, given: Given, carried: Carried
    ) -> tuple[Place, jax.Array, jax.Array, Carried]:
        """Return where a patient is after a boundary, its time, whether outputs show it, and tangents."""

        def merged(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda new, old: old if new is None else new, new, old, is_leaf=lambda x: x is None)

        def moved(given: Given, carried: Carried) -> tuple[Carried, tuple[Place, jax.Array]]:
            boundary = stop.boundary.merged(given.boundary)
            own = Stop(boundary, merged(given.vector, stop.vector), stop.number, stop.reached)
            place = Place(carried.y, carried.motion, now.pace, carried.rate)
            equations = equations_of(self.march, merged(given.constants, constants), now.y)
            after, record = passed(equations, place, own, carried.before)
            time = jnp.where(record.live, boundary.time, carried.before)
            return Carried(after.y, after.motion, after.rate, time), (after, record.shown)

        primals = self._chosen(constants, stop), Carried(now.y, now.motion, now.rate, last)

        def along(given: Given, carried: Carried) -> tuple[Carried, tuple[Place, jax.Array]]:
            _, tangents, about = jax.jvp(moved, primals, (given, carried), has_aux=True)
            return tangents, about

        tangents, (after, shown) = jax.vmap(along, out_axes=(0, None))(given, carried)
        time = jnp.where(jnp.isfinite(stop.boundary.time), stop.boundary.time, last)
        return after, time, shown, tangents

    def _chosen(self, constants: list, stop: Stop) -> Given:
        """Return what has tangents."""
        marks = self.marks
        boundary = marks.boundaries.map(lambda mark, leaf: leaf if mark else None, stop.boundary)
        pairs = zip(marks.constants, constants, strict=True)
        return Given([x if mark else None for mark, x in pairs], boundary, stop.vector if marks.vectors else None)

    # --- what is loaded ----------------------------------------------------------------------------------------------

    def _numbered(self) -> PyTree:
        """Return the number of the operand with the tangents of each array, None where it is not differentiated."""
        leaves, structure = jax.tree.flatten(self.marks)
        first = len(self.number)
        return jax.tree.unflatten(structure, range(first, first + len(leaves)))

    def _along(self, rows: Rows, k: int) -> Rows:
        """Return the rows of a direction."""
        size = rows.size // self.count
        return Rows(rows.first + k * size, size, rows.dtype)

    def _load(
        self, number: int, leaf: jax.ShapeDtypeStruct, each: bool, stride: str | int, at: str, rows: Rows
    ) -> None:
        """Load the tangents of an array, or of an element, along all directions."""
        w, size = self.w, int(np.prod(leaf.shape))
        for k in range(self.count):
            self.load(number, each, stride, w.add(k * size, at), self._along(rows, k))

    def _write_more(self) -> None:
        self.w.function("internal void @show(ptr %ctx, ptr %frame, i64 %first, i64 %lane)", self._show)
        self.write_group()

    def _boundary_too(self) -> None:
        numbers, batched = self._numbered(), self.batched
        columns = zip(
            numbers.boundaries, self.patients.boundaries, batched.boundaries, self.given.boundary, strict=True
        )
        for number, leaf, each, rows in columns:
            if number is not None:
                self._load(number, leaf, bool(each), self.field("boundaries"), "%k", rows_of(rows))
        if numbers.vectors is not None:
            self._load_vectors(numbers.vectors)

    def _load_vectors(self, number: int) -> None:
        w, size = self.w, int(np.prod(self.patients.vectors.shape))

        def one(lane: str) -> None:
            for k in range(self.count):
                rows = self._along(rows_of(self.given.vector), k)
                start = w.add(w.mul(self.vector_of(lane), rows.size), k * size)
                self.copy_in(self.field(number, "ptr"), start, rows, lane)

        self.each_lane(one)

    def _group(self, first: str, count: str, begun: str) -> None:
        w, numbers, patients, batched = self.w, self._numbered(), self.patients, self.batched
        self.clear((self.carried, self.last))
        triples = [
            *zip(numbers.constants, patients.constants, batched.constants, self.given.constants, strict=True),
            (numbers.y0, patients.y0, batched.y0, self.carried.y),
            (numbers.t0, patients.t0, batched.t0, self.carried.before),
        ]
        for number, leaf, each, rows in triples:
            if number is not None:
                stride = rows_of(rows).size // self.count
                self._load(number, leaf, bool(each), stride, "0", rows_of(rows))
        self.copy_rows(w.row("%frame", self.t0.first), w.row("%frame", self.last.first), 1)
        self._clear_outputs(first, count)

        def body(k: str) -> None:
            self.call_boundary(k)
            w.put("  call void @step(ptr %frame)")
            self.each_lane(lambda lane: w.put(f"  call void @show(ptr %ctx, ptr %frame, i64 %first, i64 {lane})"))

        w.loop(self.field("boundaries"), body)

    # --- what is handed in -------------------------------------------------------------------------------------------

    def _clear_outputs(self, first: str, count: str) -> None:
        """Mark all outputs of the patients in the lanes as constant."""
        w, outputs, type = self.w, self.field("outputs"), element_of(self.patients.y0.dtype)[0]
        total = w.mul(count, outputs)
        for name in self.results:
            for k in range(self.count):
                array = w.at(
                    type, self.field(name, "ptr"), w.mul(w.add(first, w.mul(k, self.field("patients"))), outputs)
                )
                w.loop(total, lambda i: w.put(f"  store {type} 0.0, ptr {w.at(type, array, i)}"))  # noqa: B023

    def _show(self) -> None:
        """Hand in the tangents of the output that is due."""
        w, output = self.w, self.index_of(self.stop.boundary.output, "%lane")
        shown = w.op(f"icmp ne i64 {self.index_of(self.shown, '%lane')}, 0")
        w.branch(w.op(f"and i1 {shown}, {w.op(f'icmp sge i64 {output}, 0')}"), "output", "none")
        w.label("output")
        for k in range(self.count):
            patient = w.add(w.add("%first", "%lane"), w.mul(k, self.field("patients")))
            index, rows = w.add(w.mul(patient, self.field("outputs")), output), self._along(rows_of(self.carried.y), k)
            for state, name in enumerate(self.results):
                self.copy_out(self.field(name, "ptr"), index, Rows(rows.first + state, 1, rows.dtype), "%lane")
        w.jump("none")
        w.label("none")
        w.put("  ret void")
