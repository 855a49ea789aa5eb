"""The transposed derivative of the way of linear patients as text of LLVM: recorded forwards, and then gone back.

A log holds what was before each boundary of some patients, and the motions over intervals that were new. A longer way
is taken in segments: where each begins is kept, and all but the last are gone again when their turn comes.
"""

import jax
import numpy as np
from jaxtyping import PyTree

from qspjax.solve._march_again import Derivative, own_shapes
from qspjax.solve._retrace import Back, OfStop, Passed, Place, Stop, first_back, passed, retraced
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.native._frame import Axis, Rows, all_rows, rows_of
from qspjax.solve.native._lockstep import AbstractLockstep, equations_of
from qspjax.solve.native._values import UnsupportedError

LOG_BYTES = 2**26
"""The most memory that the log of a thread takes."""
STARTS_BYTES = 2**28
"""The most memory for where segments begin."""


class MarchAdjointText(AbstractLockstep):
    """The module that computes the cotangents of the patients.

    After the arrays of the patients, the operands are the cotangents of the columns of states at outputs. The results
    are the cotangents of what is differentiated, with an axis of patients first, and memory: a log, and where segments
    begin.
    """

    def __init__(self, derivative: Derivative, patients: Patients, lanes: int, threads: int) -> None:
        self.derivative, self.threads = derivative, threads
        super().__init__(derivative.march, patients, lanes)
        y = self.shape_of_place.y
        self.marks: Patients = derivative.marks()
        self.results = tuple([*(f"of{k}" for k in range(sum(derivative.wrt))), "log", "starts"])
        shape_of_back = jax.eval_shape(self._turn, self.constants, self.shape_of_place)
        before = self.shape_of_place
        _, shape_of_record = jax.eval_shape(self._pass, self.constants, before, self.shapes_of_stop)
        self.record: Passed = jax.tree.map(self.new_rows, shape_of_record)
        self.back: Back = jax.tree.map(self.new_rows, shape_of_back)
        self.due = self.new_rows(y)
        of_stop = jax.eval_shape(
            self._retrace, self.constants, shape_of_record, before.motion, self.shapes_of_stop, shape_of_back, y
        )[1]
        self.of_stop: OfStop = jax.tree.map(self.new_rows, of_stop)
        self.of_leaves = [self.new_rows(x) for x in self.constants]
        shapes = self.constants, shape_of_back
        self.translate("turn", self._turn, (self.of_constants, self.now), (self.constants, before), self.back)
        self.translate("leave", self._leave, (self.of_constants, self.back), shapes, self.of_leaves)
        rows = self.of_constants, self.now, self.stop
        self.translate("step", self._pass, rows, (self.constants, before, self.shapes_of_stop), (self.now, self.record))
        rows = self.of_constants, self.record, self.now.motion, self.stop, self.back, self.due
        shapes = self.constants, shape_of_record, before.motion, self.shapes_of_stop, shape_of_back, y
        self.translate("retrace", self._retrace, rows, shapes, (self.back, self.of_stop))
        self.write()

    @property
    def more_operands(self) -> int:
        return self.derivative.march.size

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the results."""
        leaves = jax.tree.leaves(self.patients)
        results = [jax.ShapeDtypeStruct(shape, x.dtype) for x, shape in own_shapes(self.derivative, leaves)]
        words = self.length * self.recorded * self.w.lanes, self.segments * self.kept * self.w.lanes
        return [*results, *(jax.ShapeDtypeStruct((self.threads, count), np.float64) for count in words)]

    @property
    def lengths(self) -> dict[str, Axis | None]:
        first = len(self.number)
        return {**super().lengths, "patients": Axis(False, first, 0), "outputs": Axis(False, first, 1)}

    # --- memory ------------------------------------------------------------------------------------------------------

    @property
    def moved(self) -> int:
        """The number of rows of a motion."""
        return sum(rows.size for rows in all_rows(self.now.motion))

    @property
    def written(self) -> int:
        """The number of rows that are written down at a boundary."""
        return sum(rows.size for rows in all_rows(self.record))

    @property
    def recorded(self) -> int:
        """The number of rows in the log for a boundary: what is written down, and a motion."""
        return self.written + self.moved

    @property
    def kept(self) -> int:
        """The number of rows of where a segment begins."""
        return sum(rows.size for rows in all_rows(self.now))

    @property
    def length(self) -> int:
        """The number of boundaries in a segment, whose log has room for a motion more: as many as there are, or fewer.

        A power of two, so that patients with a few boundaries more have the same program.
        """
        needed = 1 << max(self.patients.boundaries.time.shape[-1], 15).bit_length()
        room = LOG_BYTES // (8 * self.w.lanes * self.recorded)
        return min(needed, 1 << room.bit_length() - 1)

    @property
    def segments(self) -> int:
        """The number of segments."""
        count = -(-self.patients.boundaries.time.shape[-1] // (self.length - 1))
        if 8 * count * self.kept * self.w.lanes > STARTS_BYTES:
            raise UnsupportedError("a derivative over so many boundaries")
        return max(count, 1)

    # --- what lanes do -----------------------------------------------------------------------------------------------

    def _pass(self, constants: list, now: Place, stop: Stop) -> tuple[Place, Passed]:
        return passed(equations_of(self.march, constants, now.y), now, stop, None)

    def _turn(self, constants: list, now: Place) -> Back:
        return first_back(equations_of(self.march, constants, now.y), now)

    def _retrace(
        self, constants: list, record: Passed, motion: PyTree, stop: Stop, after: Back, due: jax.Array
    ) -> tuple[Back, OfStop]:
        back, of_stop = retraced(equations_of(self.march, constants, record.y), record, motion, stop, after, due)
        marked = self.marks.boundaries.map(lambda mark, gain: gain if mark else None, of_stop.boundary)
        return back, OfStop(marked, of_stop.vector if self.marks.vectors else None)

    def _leave(self, constants: list, back: Back) -> list[jax.Array]:
        """Return the cotangents of the constants, in their shapes."""

        def parts(constants: list) -> tuple:
            return equations_of(self.march, constants, back.y)[:2]

        return jax.vjp(parts, constants)[1]((back.a, back.b))[0]

    # --- forwards and back -------------------------------------------------------------------------------------------

    def _write_more(self) -> None:
        w, context = self.w, "ptr %ctx, ptr %frame, i64 %first, i64 %count, ptr %log, ptr %motions"
        w.function(f"internal i64 @forward({context}, i64 %from, i64 %many) noinline", self._forward)
        w.function(f"internal void @return({context}, i64 %from, i64 %many, i64 %news) noinline", self._return)
        w.function("internal void @due(ptr %ctx, ptr %frame, i64 %first, i64 %lane)", self._due)
        self.write_group()

    def _some_fresh(self) -> str:
        w = self.w
        return w.any(w.load(w.row("%frame", rows_of(self.record.fresh).first), "bool"))

    def _forward(self) -> None:
        """Pass some boundaries and write them down; return how many motions were new."""
        w, motion = self.w, first_of(self.now.motion)
        w.put("  %news = alloca i64\n  store i64 0, ptr %news")
        self.copy_rows(w.row("%frame", motion), "%motions", self.moved)

        def body(i: str) -> None:
            self.call_boundary(w.add("%from", i))
            w.put("  call void @step(ptr %frame)")
            self.copy_rows(w.row("%frame", first_of(self.record)), w.row("%log", w.mul(i, self.written)), self.written)
            fresh, after = w.fresh("fresh"), w.fresh("after")
            w.branch(self._some_fresh(), fresh, after)
            w.label(fresh)
            news = w.add(w.op("load i64, ptr %news"), 1)
            w.put(f"  store i64 {news}, ptr %news")
            self.copy_rows(w.row("%frame", motion), w.row("%motions", w.mul(news, self.moved)), self.moved)
            w.jump(after)
            w.label(after)

        w.loop("%many", body)
        w.put(f"  ret i64 {w.op('load i64, ptr %news')}")

    def _return(self) -> None:
        """Go back over the boundaries that were written down."""
        w, motion = self.w, first_of(self.now.motion)
        w.put("  %left = alloca i64\n  store i64 %news, ptr %left")

        def body(k: str) -> None:
            i = w.op(f"sub i64 {w.op(f'sub i64 %many, {k}')}, 1")
            self.call_boundary(w.add("%from", i))
            self.copy_rows(w.row("%log", w.mul(i, self.written)), w.row("%frame", first_of(self.record)), self.written)
            self.clear(self.due)
            self.each_lane(lambda lane: w.put(f"  call void @due(ptr %ctx, ptr %frame, i64 %first, i64 {lane})"))
            w.put("  call void @retrace(ptr %frame)")
            self._hand_in_boundary(w.add("%from", i))
            fresh, after = w.fresh("fresh"), w.fresh("after")
            w.branch(self._some_fresh(), fresh, after)
            w.label(fresh)
            left = w.op(f"sub i64 {w.op('load i64, ptr %left')}, 1")
            w.put(f"  store i64 {left}, ptr %left")
            self.copy_rows(w.row("%motions", w.mul(left, self.moved)), w.row("%frame", motion), self.moved)
            w.jump(after)
            w.label(after)

        w.loop("%many", body)
        w.put("  ret void")

    def _due(self) -> None:
        """Load the cotangent of the output that is due."""
        w, output = self.w, self.index_of(self.stop.boundary.output, "%lane")
        w.branch(w.op(f"icmp sge i64 {output}, 0"), "output", "none")
        w.label("output")
        index = w.add(w.mul(w.add("%first", "%lane"), self.field("outputs")), output)
        for k in range(self.march.size):
            self.copy_in(self.field(len(self.number) + k, "ptr"), index, self._element(self.due, k))
        w.jump("none")
        w.label("none")
        w.put("  ret void")

    def _element(self, rows: Rows, k: int) -> Rows:
        return Rows(rows.first + k, 1, rows.dtype)

    # --- what is handed in -------------------------------------------------------------------------------------------

    def _numbered(self) -> PyTree:
        """Return the number of the result with the cotangents of each array, None where it is not differentiated."""
        leaves, structure = jax.tree.flatten(self.marks)
        return jax.tree.unflatten(structure, range(len(leaves)))

    def _hand_in_boundary(self, k: str) -> None:
        w, numbers = self.w, self._numbered()
        for number, rows in zip(numbers.boundaries, self.of_stop.boundary, strict=True):
            if number is not None:

                def one(lane: str, number: int = number, rows: PyTree = rows) -> None:
                    index = w.add(w.mul(w.add("%first", lane), self.field("boundaries")), k)
                    self.copy_out(self.field(f"of{number}", "ptr"), index, rows_of(rows), lane)

                self.each_lane(one)
        if numbers.vectors is not None:
            rows = rows_of(self.of_stop.vector)

            def add(lane: str) -> None:
                start = w.mul(self.vector_of(lane, own=True), rows.size)
                self.add_out(self.field(f"of{numbers.vectors}", "ptr"), start, rows, lane)

            self.each_lane(add)

    def _hand_in(self) -> None:
        w, numbers, back = self.w, self._numbered(), self.back
        pairs = [*zip(numbers.constants, self.of_leaves, strict=True), (numbers.y0, back.y), (numbers.t0, back.before)]
        for number, rows in pairs:
            if number is not None:

                def one(lane: str, number: int = number, rows: PyTree = rows) -> None:
                    start = w.mul(w.add("%first", lane), rows_of(rows).size)
                    self.copy_out(self.field(f"of{number}", "ptr"), start, rows_of(rows), lane)

                self.each_lane(one)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _group(self, first: str, count: str, begun: str) -> None:
        w, numbers = self.w, self._numbered()
        if numbers.vectors is not None:
            size = w.mul(self.field("vectors"), rows_of(self.of_stop.vector).size)
            type = "double" if self.patients.y0.dtype == np.float64 else "float"
            start, array = w.mul(first, size), self.field(f"of{numbers.vectors}", "ptr")
            total = w.mul(count, size)
            w.loop(total, lambda k: w.put(f"  store {type} 0.0, ptr {w.at(type, array, w.add(start, k))}"))
        log = w.row(self.field("log", "ptr"), w.mul(begun, self.length * self.recorded))
        motions = w.row(log, self.length * self.written)
        starts = w.row(self.field("starts", "ptr"), w.mul(begun, self.segments * self.kept))
        step, all = self.length - 1, self.field("boundaries")
        segments = w.op(f"sdiv i64 {w.add(all, step - 1)}, {step}")
        segments = w.op(f"select i1 {w.op(f'icmp sgt i64 {segments}, 1')}, i64 {segments}, i64 1")
        last = w.op(f"sub i64 {segments}, 1")
        some = f"ptr %ctx, ptr %frame, i64 %first, i64 %count, ptr {log}, ptr {motions}"
        place = w.row("%frame", first_of(self.now))
        w.put("  %news = alloca i64")

        def forward(s: str) -> None:
            start = w.mul(s, step)
            many = w.op(f"sub i64 {all}, {start}")
            many = w.op(f"select i1 {w.op(f'icmp slt i64 {many}, {step}')}, i64 {many}, i64 {step}")
            w.put(f"  store i64 {w.op(f'call i64 @forward({some}, i64 {start}, i64 {many})')}, ptr %news")

        def go(s: str) -> None:
            self.copy_rows(place, w.row(starts, w.mul(s, self.kept)), self.kept)
            forward(s)

        def back(k: str) -> None:
            s = w.op(f"sub i64 {last}, {k}")
            again, there = w.fresh("again"), w.fresh("there")
            w.branch(w.op(f"icmp sgt i64 {k}, 0"), again, there)
            w.label(again)
            self.copy_rows(w.row(starts, w.mul(s, self.kept)), place, self.kept)
            forward(s)
            w.jump(there)
            w.label(there)
            start = w.mul(s, step)
            many = w.op(f"sub i64 {all}, {start}")
            many = w.op(f"select i1 {w.op(f'icmp slt i64 {many}, {step}')}, i64 {many}, i64 {step}")
            news = w.op("load i64, ptr %news")
            w.put(f"  call void @return({some}, i64 {start}, i64 {many}, i64 {news})")

        w.loop(segments, go)
        w.put("  call void @turn(ptr %frame)")
        w.loop(segments, back)
        w.put("  call void @leave(ptr %frame)")
        self._hand_in()


def first_of(rows: PyTree) -> int:
    """Return the first of rows that follow one another."""
    return all_rows(rows)[0].first
