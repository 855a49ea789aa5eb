"""The transposed derivative of a solve as text of LLVM: the steps are recorded, and then retraced backwards.

A thread takes some patients at a time. It solves them as `_loop` does, and writes down what every lane had before each
step: as many iterations as its log holds. A longer run is taken in segments: the frame at the start of each is kept,
and all but the last are computed again when their turn comes. Backwards, each lane meets its patients in the opposite
order; `kernel._adjoint.pulled`, traced for one patient and translated, is what it does in an iteration. Every patient
has cotangents of his own, so that no sum depends on the number of threads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax.solve.dosing._boundary import Boundary
from qspjax.solve.kernel._adjoint import moving, pulled
from qspjax.solve.kernel._lanes import Landing, Patients, Program
from qspjax.solve.kernel._layout import Lanes
from qspjax.solve.kernel._replay import Inputs, Recorded
from qspjax.solve.native._emit import Emitter
from qspjax.solve.native._frame import Rows, all_rows, rows_of
from qspjax.solve.native._graph import Graph, Region
from qspjax.solve.native._record import SPARE, AbstractRecordText, Record
from qspjax.solve.native._rows import RowArithmetic
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import UnsupportedError
from qspjax.solve.native.rules._products import accumulated

LOG_BYTES = 2**26
"""The most memory that the log of a thread takes."""
SUMMED = 64
"""Cotangents of larger arrays that patients share are added up for each chunk of patients."""
ITERATIONS = 2**14
"""The most iterations in a log."""
STARTS_BYTES = 2**28
"""The most memory for the frames at the starts of segments."""


class Backwards(NamedTuple):
    """What a lane holds while it retraces its steps.

    Attributes:
        record: The iteration.
        back: The cotangents of the patient's constants so far, and those of state, rate and time after the iteration.
        due: The cotangent of the output that is landed on, or zero.
        boundary: The cotangent of the boundary that is landed on.
        vector: The cotangent of its vector.
        patient: The patient, -1 for none.
    """

    record: Record
    back: Inputs
    due: PyTree
    boundary: Boundary
    vector: PyTree
    patient: PyTree


class AdjointText(AbstractRecordText):
    """The module that computes the cotangents of the patients.

    After the arrays of the patients, the operands are the log and the table of the solve that was recorded, and the
    cotangents of the states at outputs. The results are the cotangents of what is marked, with an axis of patients
    first, and memory: a log and the starts of segments for what was not recorded.
    """

    more_operands = 3

    def __init__(self, program: Program, patients: Patients, lanes: int, marks: Patients, threads: int) -> None:
        if marks.span:
            raise UnsupportedError("a derivative by the span of a solve")
        self.marks = marks
        self.results = tuple([f"of{k}" for k in range(len(jax.tree.leaves(marks)))] + ["log", "starts"])
        super().__init__(program, patients, lanes, threads)

    # --- memory ------------------------------------------------------------------------------------------------------

    @property
    def iterations(self) -> int:
        """How many iterations a log holds."""
        room = min(LOG_BYTES, self.program.memory // self.threads) // (8 * self.w.lanes * self.recorded)
        return max(SPARE, min(ITERATIONS, room))

    @property
    def segments(self) -> int:
        """How many segments the patients of a chunk need at most."""
        longest = (self.chunk // self.w.lanes + 1) * (self.program.max_steps + 2)
        return -(-longest // self.iterations) + 1

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Return the shapes of the results."""
        program, patients = self.program, self.patients

        def each(mark: bool | None, leaf: jax.Array, batched: bool) -> jax.ShapeDtypeStruct | None:
            if mark is None:
                return None
            return jax.ShapeDtypeStruct((program.patients, *leaf.shape[batched:]), leaf.dtype)

        of_marked = jax.tree.map(each, self.marks, patients, program.batched, is_leaf=lambda x: x is None)
        chunks = -(-program.patients // self.chunk)
        of_marked = of_marked._replace(
            constants=[
                jax.ShapeDtypeStruct((chunks, *x.shape[1:]), x.dtype) if x is not None and summed else x
                for x, summed in zip(of_marked.constants, self._summed(), strict=True)
            ]
        )
        words = self.iterations * self.recorded * self.w.lanes, self.segments * self.kept * self.w.lanes
        if 8 * words[1] > STARTS_BYTES:
            raise UnsupportedError(f"a derivative of {program.max_steps} steps, whose segments are too many")
        memory = [jax.ShapeDtypeStruct((self.threads, count), np.float64) for count in words]
        return [*jax.tree.leaves(of_marked), *memory]

    def _summed(self) -> list[bool]:
        """Return which constants have cotangents that are added up: of large arrays that patients share."""
        pairs = zip(self.patients.constants, self.program.batched.constants, strict=True)
        return [not batched and leaf.size > SUMMED for leaf, batched in pairs]

    # --- what a lane does --------------------------------------------------------------------------------------------

    def _more(self, translator: Translator) -> list[Region]:
        program, patients, frame = self.program, self.patients, self.frame
        self.kept = self.size + 1  # and the counter
        traced = self.traced.frame
        y, time, index = traced.start.y, traced.span, traced.lane.patient
        rate = y if patients.infused else None
        constants = [
            value if mark else None for value, mark in zip(traced.constants, self.marks.constants, strict=True)
        ]
        pairs = zip(traced.leaves, self.marks.leaves if traced.leaves else (), strict=True)
        leaves = [value if mark else None for value, mark in pairs]
        memory, cause = traced.start.memory, None if traced.start.memory is None else index
        back = Inputs(constants, y, rate, time if moving(program, self.marks) else None, memory=memory, leaves=leaves)
        vector = traced.landing.vector if self.marks.vectors else None
        boundary = self.marks.boundaries.map(lambda mark, leaf: leaf if mark else None, traced.landing.boundary)
        self._plan()
        record = Record(y, rate, time, time, index, index, memory, cause)
        shapes = Backwards(record, back, y, boundary, vector, index)
        self.backwards: Backwards = jax.tree.map(self.new_rows, shapes)

        def retrace(
            constants: list,
            leaves: tuple,
            span: jax.Array,
            landing: Landing,
            record: Record,
            back: Inputs,
            due: jax.Array,
        ) -> tuple[Inputs, Boundary, jax.Array | None]:
            lanes = Lanes(constants, (True,) * len(constants))
            arrives = record.landed >= 0
            at = landing.boundary._replace(time=jnp.where(arrives, landing.boundary.time, record.t))
            each = (True,) * len(leaves)
            step = Recorded(
                lanes, record.t, record.h, record.landed, at, landing.vector, record.cause, span, leaves, each, True
            )
            after = Inputs([None] * len(constants), back.y + due, back.rate, back.t, memory=back.memory)
            carried = Inputs([], record.y, record.rate, memory=record.memory)
            before = pulled(program, step, carried, self.marks, after)
            still = (record.h == 0.0) & ~arrives

            def moved(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(still, old, new)

            gathered, of_leaves = (
                [
                    None if total is None or gain is None else accumulated(total, gain, still)
                    for total, gain in zip(totals, gains, strict=True)
                ]
                for totals, gains in ((back.constants, before.constants), (back.leaves, before.leaves))
            )
            state = jax.tree.map(moved, before[1:4], after[1:4])
            memory = jax.tree.map(moved, before.memory, after.memory)
            assert before.boundary is not None
            marked = self.marks.boundaries.map(lambda mark, gain: gain if mark else None, before.boundary)
            totals = Inputs(gathered, *state, memory=memory, leaves=of_leaves)
            return totals, marked, before.vector if self.marks.vectors else None

        program_of_lane = jax.make_jaxpr(retrace)(
            traced.constants, traced.leaves, traced.span, traced.landing, shapes.record, shapes.back, shapes.due
        )
        inside = Translator(Graph(translator.graph.constants, sparse=True), translator.functions)
        inside.rows = RowArithmetic(inside.graph)
        own = self.backwards
        rows = (frame.constants, frame.leaves, frame.span, frame.landing, own.record, own.back, own.due)
        return [self._translated(inside, program_of_lane, rows)]

    def _write_more(self, emitter: Emitter, regions: Sequence[Region]) -> None:
        w, (region,) = self.w, regions
        results = (self.backwards.back, self.backwards.boundary, self.backwards.vector)
        places = [rows.first + k for rows in all_rows(results) for k in range(rows.size)]

        def retraced() -> None:
            nodes = region.graph.nodes
            new = [
                (index, row)
                for index, row in zip(region.outputs, places, strict=False)  # what is done in place comes after them
                if nodes[index].op != "in" or nodes[index].attr != row  # else it is there already
            ]
            done = region.outputs[len(places) :]
            outputs = [index for index, _ in new]
            emitter.stored(Region(region.graph, [*outputs, *done]), "%frame", [row for _, row in new])
            w.put("  ret void")

        def prepared() -> None:
            self._prepare(emitter)
            w.put("  ret void")

        w.function("internal void @retrace(ptr %frame) noinline", retraced)
        w.function("internal void @prepare(ptr %frame) noinline", prepared)
        w.function("internal void @hand_in(ptr %ctx, ptr %frame, i64 %lane, i64 %patient)", self._hand_in)
        w.function("internal void @meet(ptr %ctx, ptr %frame, i64 %lane)", self._meet)
        w.function("internal void @arrive(ptr %ctx, ptr %frame, i64 %lane)", self._arrive)
        w.function("internal void @leave(ptr %ctx, ptr %frame, i64 %lane)", self._leave)
        w.function("internal void @back(ptr %ctx, ptr %frame, ptr %log) noinline", self._back)
        self._write_chunk()

    # --- forwards ----------------------------------------------------------------------------------------------------

    def _states_out(self, name: str, offset: str) -> None:
        """Nothing: outputs are not results here."""

    def _ended(self, patient: str) -> None:
        """Nothing: how a patient ends is not a result here."""

    def _begin_outputs(self, patient: str) -> None:
        """Nothing: outputs are not results here."""

    # --- backwards ---------------------------------------------------------------------------------------------------

    def _handed(self) -> list[tuple[str, Rows]]:
        """Return the results that are handed in when a lane leaves a patient, and the rows that they are in."""
        marks, back = self.marks, self.backwards.back
        constants = [rows for rows in back.constants if rows is not None]
        rest = [(marks.y0, back.y), (marks.t0, back.t)]
        first = [*constants, *(rows for mark, rows in rest if mark is not None)]
        between = len(jax.tree.leaves((marks.boundaries, marks.vectors)))
        last = [back.memory] if marks.memory else []
        last += [rows for rows in back.leaves if rows is not None]
        numbers = [*range(len(first)), *range(len(first) + between, len(first) + between + len(last))]
        return [(f"of{k}", rows_of(place)) for k, place in zip(numbers, [*first, *last], strict=True)]

    def _hand_in(self) -> None:
        w, pairs = self.w, zip(self.backwards.back.constants, self._summed(), strict=True)
        summed = [rows for rows, summed in pairs if rows is not None and summed]
        chunk = w.op(f"sdiv i64 %patient, {self.chunk}") if summed else ""
        for name, rows in self._handed():
            if rows in summed:
                self.add_out(self.field(name, "ptr"), w.mul(chunk, rows.size), rows)
            else:
                self.copy_out(self.field(name, "ptr"), w.mul("%patient", rows.size), rows)
        w.put("  ret void")

    def _meet(self) -> None:
        """Load what is known of the patient in a lane, who is to have no cotangents yet."""
        patient = self.get(rows_of(self.backwards.patient))
        for leaf, batched, rows in self._fields():
            if batched:
                self.copy_in(self.array(leaf), self.w.mul(patient, rows.size), rows)
        self.w.put("  ret void")

    def _arrive(self) -> None:
        """Look up the boundary that a lane landed on, and the cotangent of its output."""
        w, record = self.w, self.backwards.record
        patient, landed = (self.get(rows_of(x)) for x in (record.patient, record.landed))
        w.put(f"  call void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 {patient}, i64 {landed})")
        output = self.get(rows_of(self.frame.landing.boundary.output))
        w.branch(w.op(f"icmp sge i64 {output}, 0"), "output", "dose")
        w.label("output")
        due = rows_of(self.backwards.due)
        first = w.add(w.mul(patient, self.field("outputs")), output)
        self.copy_in(self.field(self.operands - 1, "ptr"), w.mul(first, due.size), due)
        w.jump("dose")
        w.label("dose")
        w.put("  ret void")

    def _leave(self) -> None:
        """Hand in the cotangents of the boundary that a lane landed on."""
        w, record, marks = self.w, self.backwards.record, self.marks
        patient, landed = (self.get(rows_of(x)) for x in (record.patient, record.landed))
        index = w.add(w.mul(patient, self.field("boundaries")), landed)
        number = len(jax.tree.leaves((marks.constants, marks.y0, marks.t0)))
        for rows in all_rows(self.backwards.boundary):
            self.copy_out(self.field(f"of{number}", "ptr"), index, rows)
            number += 1
        if marks.vectors is not None:
            which, rows = self.get(rows_of(self.frame.landing.boundary.vector)), rows_of(self.backwards.vector)
            w.branch(w.op(f"icmp sge i64 {which}, 0"), "vector", "none")
            w.label("vector")
            first = w.mul(w.add(w.mul(patient, self.field("vectors")), which), rows.size)
            self.add_out(self.field(f"of{number}", "ptr"), first, rows)
            w.jump("none")
            w.label("none")
        w.put("  ret void")

    def _back(self) -> None:
        """Retrace an iteration in every lane."""
        w, record, backwards = self.w, self.backwards.record, self.backwards
        rows = all_rows(record)
        self.copy_rows("%log", w.row("%frame", rows[0].first), self.recorded)
        new, old = (w.load(w.row("%frame", rows_of(x).first), "int") for x in (record.patient, backwards.patient))
        others = w.i("icmp ne", new, old)
        w.branch(w.any(others), "others", "same")
        w.label("others")
        self._leave_patients(w.op(f"and {w.masks} {others}, {self._there(old)}"))
        w.store(new, w.row("%frame", rows_of(backwards.patient).first), "int")
        for part in all_rows(backwards.back):

            def clear(k: str, part: Rows = part) -> None:
                row = w.row("%frame", w.add(k, part.first))
                w.store(w.select(others, "zeroinitializer", w.load(row)), row)

            w.repeat(part.size, clear)
        self._meet_patients(w.op(f"and {w.masks} {others}, {self._there(new)}"))
        w.jump("same")
        w.label("same")
        due = rows_of(backwards.due)
        w.loop(due.size, lambda k: w.store("zeroinitializer", w.row("%frame", w.add(k, due.first))))
        landed = w.i("icmp sge", w.load(w.row("%frame", rows_of(record.landed).first), "int"), "zeroinitializer")
        moved = w.compare("une", w.load(w.row("%frame", rows_of(record.h).first)), "zeroinitializer")
        w.branch(w.any(w.op(f"or {w.masks} {moved}, {landed}")), "some", "none")
        w.label("some")
        self.each(landed, lambda lane: w.put(f"  call void @arrive(ptr %ctx, ptr %frame, i64 {lane})"))
        w.put("  call void @retrace(ptr %frame)")
        self.each(landed, lambda lane: w.put(f"  call void @leave(ptr %ctx, ptr %frame, i64 {lane})"))
        w.jump("none")
        w.label("none")
        w.put("  ret void")

    def _leave_patients(self, mask: str) -> None:
        """Hand in the cotangents of the patients in some lanes."""
        w, row = self.w, rows_of(self.backwards.patient).first

        def hand_in(lane: str) -> None:
            patient = w.op(f"load i64, ptr {self.cell(row, lane)}")
            w.put(f"  call void @hand_in(ptr %ctx, ptr %frame, i64 {lane}, i64 {patient})")

        self.each(mask, hand_in)

    def _meet_patients(self, mask: str) -> None:
        """Load what is known of the patients in some lanes, and what depends on it alone."""
        self.each(mask, lambda lane: self.w.put(f"  call void @meet(ptr %ctx, ptr %frame, i64 {lane})"))
        self.w.put("  call void @prepare(ptr %frame)")

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _chunk(self) -> None:
        """Retrace the steps of some patients."""
        w = self.w
        for k, shape in enumerate(self.shapes[:-2]):
            size, own = int(np.prod(shape.shape[1:], dtype=int)), shape.shape[0] == self.program.patients
            type, base = "double" if shape.dtype == np.float64 else "float", self.field(f"of{k}", "ptr")
            start = w.mul("%first" if own else w.op(f"sdiv i64 %first, {self.chunk}"), size)
            count = w.mul(w.op("sub i64 %end, %first") if own else "1", size)
            w.loop(count, lambda k: w.put(f"  store {type} 0.0, ptr {w.at(type, base, w.add(start, k))}"))  # noqa: B023
        w.store(w.whole(-1), w.row("%frame", rows_of(self.backwards.patient).first), "int")
        places = (("log", self.iterations * self.recorded), ("starts", self.segments * self.kept))
        log, starts = (w.row(self.field(name, "ptr"), w.mul("%begun", rows)) for name, rows in places)
        w.put(f"  %log = getelementptr i8, ptr {log}, i64 0\n  %starts = getelementptr i8, ptr {starts}, i64 0")
        w.put("  %last = alloca i64\n  store i64 0, ptr %last")
        if self.room:
            table = self.field(self.operands - 2, "ptr")
            begins, length = (
                w.op(f"sext i32 {w.op(f'load i32, ptr {self.cell_of(table, k)}')} to i64") for k in (0, 1)
            )
            recorded = self._at(self.field(self.operands - 3, "ptr"), begins)
            w.branch(w.op(f"icmp sge i64 {begins}, 0"), "recorded", "solve")
            w.label("recorded")
            self._retrace_log(recorded, length)
            w.jump("handing")
            w.label("solve")
        self.take_all()
        w.jump("segment")
        w.label("segment")
        number = w.op("load i64, ptr %last")
        self.copy_rows("%frame", self._start_of(number), self.kept - 1)
        self.copy_word(self.field("counter", "ptr"), self._counter_of(number))
        count = w.op(f"call i64 @forward(ptr %ctx, ptr %frame, ptr %log, i64 {self.iterations})")
        w.branch(w.op(f"icmp slt i64 {count}, {self.iterations}"), "turn", "more")
        w.label("more")
        w.put(f"  store i64 {w.add(number, 1)}, ptr %last")
        w.jump("segment")
        w.label("turn")
        w.store(w.whole(-1), w.row("%frame", rows_of(self.backwards.patient).first), "int")
        self._retrace_log("%log", count)
        w.loop(number, self._retrace_segment)
        w.jump("handing")
        w.label("handing")
        patients = w.load(w.row("%frame", rows_of(self.backwards.patient).first), "int")
        self._leave_patients(self._there(patients))
        w.put("  ret void")

    def _retrace_log(self, log: str, count: str) -> None:
        """Retrace the iterations in a log."""
        w = self.w

        def back(i: str) -> None:
            entry = w.op(f"sub i64 {w.op(f'sub i64 {count}, {i}')}, 1")
            w.put(f"  call void @back(ptr %ctx, ptr %frame, ptr {self._at(log, entry)})")

        w.loop(count, back)

    def _retrace_segment(self, k: str) -> None:
        """Compute a segment again and retrace it, the last but one first."""
        w, last = self.w, self.w.op("load i64, ptr %last")
        number = w.op(f"sub i64 {w.op(f'sub i64 {last}, {k}')}, 1")
        self.copy_rows(self._start_of(number), "%frame", self.kept - 1)
        self.copy_word(self._counter_of(number), self.field("counter", "ptr"))
        w.put("  call void @prepare(ptr %frame)")
        count = w.op(f"call i64 @forward(ptr %ctx, ptr %frame, ptr %log, i64 {self.iterations})")
        patients = w.load(w.row("%frame", rows_of(self.backwards.patient).first), "int")
        self._meet_patients(self._there(patients))
        self._retrace_log("%log", count)

    def _there(self, patients: str) -> str:
        """Return which lanes have one of the patients of the chunk."""
        w, end = self.w, self.w.spread("i64", self.field("patients"))
        return w.op(f"and {w.masks} {w.i('icmp sge', patients, 'zeroinitializer')}, {w.i('icmp slt', patients, end)}")

    def _start_of(self, number: str) -> str:
        return self.w.row("%starts", self.w.mul(number, self.kept))

    def _counter_of(self, number: str) -> str:
        return self.w.row(self._start_of(number), self.kept - 1)
