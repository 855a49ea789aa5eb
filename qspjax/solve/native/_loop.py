"""The loop over lanes as text of LLVM: each lane takes a patient from a queue, steps, and hands in what it found.

What a lane does in a step is `kernel._lanes.attempt`, traced for one patient and translated; this module only moves
numbers: from the arrays of the patients into the rows of a frame, one row of lanes for every number, and from there
into the arrays of results. All lanes of all threads take patients from one counter, in the order in which they are
done; which lane a patient runs in has no influence on his numbers.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import PyTree

from qspjax._jaxpr._walk import shape_of
from qspjax.solve._control import INTERRUPTED
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.native._emit import QUICKLY, Emitter
from qspjax.solve.native._frame import (
    AbstractModule,
    Axis,
    Rows,
    all_rows,
    element_of,
    lengths_of,
    nodes,
    region_of,
    rows_of,
)
from qspjax.solve.native._graph import Graph, Region
from qspjax.solve.native._lane import Attempted, Frame, Traced
from qspjax.solve.native._order import functions_of
from qspjax.solve.native._prepared import prepared
from qspjax.solve.native._rows import RowArithmetic
from qspjax.solve.native._text import Elementary
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import UnsupportedError, Value

FRAME = 2**22
"""The most bytes that lanes hold, on the stack of a thread."""
SOLVED = ("states", "end_t", "end_y", "end_code", "end_accepted", "end_rejected", "failing")
"""The results of a solve."""


def _numbers(leaves: PyTree) -> list[int]:
    """Return the numbers of all rows in a part of the frame of a `Text`, one after the other."""
    return [rows.first + k for rows in all_rows(leaves) for k in range(rows.size)]


class AbstractText(AbstractModule):
    """A module that solves a program: what it writes is what every patient results in, unless a subclass says else.

    Of the arrays that it reads, those of the patients come first.
    """

    more_operands = 0
    sparse = False

    def __init__(self, traced: Traced, patients: Patients, batched: PyTree, lanes: int, columns: int = 1) -> None:
        """Write a module.

        Args:
            traced: The programs of a lane.
            patients: The shapes of the patients.
            batched: Which of their arrays have an axis of patients.
            lanes: The number of lanes.
            columns: The number of arrays for states at outputs: one for all of them, or one for each.
        """
        super().__init__(lanes)
        self.patients, self.batched, self.columns = patients, batched, columns
        self.results = self.results or (SOLVED[0], *(f"states{k}" for k in range(1, columns)), *SOLVED[1:])
        self.traced = traced
        constants = [
            self._rows_of_constant(*pair) for pair in zip(traced.frame.constants, batched.constants, strict=True)
        ]
        others = jax.tree.map(self.new_rows, traced.frame._replace(constants=()))
        self.frame: Frame = others._replace(constants=constants)
        self.landed, self.busy, self.new, self.failing = (self.new_rows(x) for x in (_INDEX, _MASK, _MASK, _INDEX))
        self.h = self.new_rows(traced.frame.span)
        self.cause = self.new_rows(traced.frame.lane.patient) if traced.frame.leaves else None
        self.number = {id(leaf): k for k, leaf in enumerate(jax.tree.leaves(patients))}
        self.operands = len(self.number) + self.more_operands
        emitter = Emitter(self.w)
        frame = self.frame
        fixed = sum(rows.size for rows in all_rows(frame.constants))
        translator = Translator(Graph(fixed, sparse=self.sparse))
        translator.rows = RowArithmetic(translator.graph)
        self.carried: PyTree = ()
        step = self._step(translator)
        start_translator = Translator(Graph(fixed), translator.functions)
        start = self._translated(start_translator, traced.start, (frame.lane.patient, frame.start))
        others = self._more(translator)
        self.prepared = prepared([step, *others], self.size)
        self.size += len(self.prepared.outputs)
        if self.size * lanes * 8 > FRAME:
            raise UnsupportedError(f"a lane that holds {self.size} numbers")
        self._write(emitter, step, start, others)

    def _rows_of_constant(self, leaf: jax.ShapeDtypeStruct, batched: bool) -> Rows:
        """Reserve the rows of a constant: one for the address of an array that all patients share."""
        large = int(np.prod(leaf.shape, dtype=int)) > 1 and leaf.dtype == np.float64
        return self.shared_row(leaf) if large and not batched else self.new_rows(leaf)

    def _step(self, translator: Translator) -> Region:
        """Translate a step."""
        lane, tried = self._attempt(translator)
        return region_of(translator, (lane, (), tried[:4]))

    def _attempt(self, translator: Translator) -> tuple[PyTree, Attempted]:
        """Return the nodes of a lane after a step, and of what was attempted."""
        frame = self.frame
        results = self.run(translator, self.traced.step, (frame.constants, frame.leaves, frame.landing, frame.lane))
        return jax.tree.unflatten(self.traced.stepped, results)

    def _more(self, translator: Translator) -> list[Region]:
        """Return what else a lane does often; `_write_more` writes it."""
        inside = Translator(Graph(translator.graph.constants), translator.functions)
        inside.rows = RowArithmetic(inside.graph)
        frame = self.frame
        self._failing = self._translated(inside, self.traced.failing, (frame.constants, frame.lane, frame.span))
        return []

    def _write_more(self, emitter: Emitter, regions: Sequence[Region]) -> None:
        """Write what else a lane does than steps."""
        assert not regions
        w = self.w

        def failed() -> None:
            (value,) = emitter.region(self._failing, emitter.read_frame)
            w.store(value, w.row("%frame", self.failing.first), "int")
            w.put("  ret void")

        w.function(f"internal void @failing(ptr %frame) {QUICKLY}", failed)

    @property
    def lengths(self) -> dict[str, Axis | None]:
        """By field of the context the axis of an array of the patients whose length it is."""
        return lengths_of(self.patients, self.number)

    def run(self, translator: Translator, program: ClosedJaxpr, inputs: PyTree) -> list[Value]:
        """Translate a program whose inputs are rows of the frame; return its results."""
        return translator.run(program, nodes(translator, inputs, [shape_of(var) for var in program.jaxpr.invars]))

    def _translated(self, translator: Translator, program: ClosedJaxpr, inputs: PyTree) -> Region:
        return region_of(translator, self.run(translator, program, inputs))

    def _write(self, emitter: Emitter, step: Region, start: Region, more: Sequence[Region]) -> None:
        w = self.w
        places = _numbers(self.frame.lane)

        def stepped() -> None:
            values = emitter.region(step, emitter.read_frame)
            rows = _numbers((self.frame.lane, self.carried, self.landed, self.busy, self.h, self.cause))
            for value, row, index in zip(values, rows, step.outputs, strict=False):  # h may be missing
                node = step.graph.nodes[index]
                if node.op != "in" or node.attr != row:  # else it is there already
                    w.store(value, w.row("%frame", row), node.kind)
            w.put("  ret void")

        def started() -> None:
            self._prepare(emitter)
            new = w.load(w.row("%frame", self.new.first), "bool")
            values = emitter.region(start, emitter.read_frame)
            for value, row, index in zip(values, [*places, self.busy.first], start.outputs, strict=True):
                kind, address = start.graph.kind(index), w.row("%frame", row)
                w.store(w.select(new, value, w.load(address, kind), w.type_of(kind)), address, kind)
            w.put("  ret void")

        w.function("internal void @step(ptr %frame) noinline", stepped)
        w.function("internal void @start(ptr %frame) noinline", started)
        self._write_more(emitter, more)
        hot = {f.name for region in (step, start, *more) for f in functions_of(region.graph, region.outputs)}
        emitter.write_functions(hot)
        Elementary(w).write()
        w.function("internal void @land(ptr %ctx, ptr %frame, i64 %lane) noinline", self._land)
        w.function("internal void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 %patient, i64 %index)", self._boundary)
        w.function("internal void @finish(ptr %ctx, ptr %frame, i64 %lane) noinline", self._finish)
        w.function("internal void @take(ptr %ctx, ptr %frame, i64 %lane) noinline", self._take)
        w.function("void @run(ptr %ctx)", self._run)

    def _prepare(self, emitter: Emitter) -> None:
        """Write what depends on constants of the patients alone."""
        w, first = self.w, self.size - len(self.prepared.outputs)
        values = emitter.region(self.prepared, emitter.read_frame)
        for row, (index, value) in enumerate(zip(self.prepared.outputs, values, strict=True), first):
            w.store(value, w.row("%frame", row), self.prepared.graph.kind(index))

    # --- numbers -----------------------------------------------------------------------------------------------------

    def array(self, leaf: object) -> str:
        """Return the address of an array of the patients."""
        return self.field(self.number[id(leaf)], "ptr")

    # --- patients ----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[tuple[jax.ShapeDtypeStruct, bool, Rows]]:
        """Return the arrays that a lane copies, whether each has an axis of patients, and the rows it is copied to."""
        patients, batched, frame = self.patients, self.batched, self.frame
        pairs = [
            (patients.constants, batched.constants, frame.constants),
            (patients.t0, batched.t0, frame.start.t),
            (patients.y0, batched.y0, frame.start.y),
            (patients.ended, batched.ended, frame.start.ended),
            (patients.memory, batched.memory, frame.start.memory),
            (patients.looser, batched.looser, frame.start.looser),
            (patients.span, batched.span, frame.span),
        ]
        if frame.leaves:
            pairs.append((tuple(patients.leaves), tuple(batched.leaves), frame.leaves))
        return [
            triple
            for arrays, each, places in pairs
            for triple in zip(jax.tree.leaves(arrays), jax.tree.leaves(each), all_rows(places), strict=True)
        ]

    def _take(self) -> None:
        w, lane = self.w, self.frame.lane
        due_at = rows_of(self.frame.start.due)
        counter = self.field("counter", "ptr")
        patient = w.op(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        w.put(f"  store i64 {patient}, ptr {self.cell(rows_of(lane.patient).first)}")
        w.branch(w.op(f"icmp slt i64 {patient}, {self.field('patients')}"), "some", "none")
        w.label("none")
        w.put(f"  store double {_INF}, ptr {self.cell(rows_of(lane.clock.due).first)}")
        w.put("  ret void")
        w.label("some")
        w.put(f"  store i64 -1, ptr {self.cell(self.new.first)}")
        for leaf, batched, rows in self._fields():
            if batched:
                self.copy_in(self.array(leaf), w.mul(patient, rows.size), rows)
        self._begin_outputs(patient)
        self._take_too(patient)
        w.put(f"  call void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 {patient}, i64 0)")
        some = w.op(f"icmp sgt i64 {self.field('boundaries')}, 0")
        time = rows_of(self.frame.landing.boundary.time).first
        due = w.op(f"select i1 {some}, double {w.op(f'load double, ptr {self.cell(time)}')}, double {_INF}")
        w.put(f"  store double {due}, ptr {self.cell(due_at.first)}")
        w.put("  ret void")

    def _vector_of(self, patient: str) -> str:
        """Return the number of the vector of the boundary in a lane."""
        w, number = self.w, self.get(rows_of(self.frame.landing.boundary.vector))
        number = w.op(f"select i1 {w.op(f'icmp sgt i64 {number}, 0')}, i64 {number}, i64 0")
        if self.batched.vectors:
            number = w.add(number, w.mul(patient, self.field("vectors")))
        return number

    def _take_too(self, patient: str) -> None:
        """Load what else a lane holds of the patient that it takes."""

    def _boundary_too(self) -> None:
        """Load what else a lane holds of a boundary."""

    def _begin_outputs(self, patient: str) -> None:
        """Mark all outputs of a patient as not reached."""
        w, y = self.w, rows_of(self.frame.start.y)
        count = w.mul(self.field("outputs"), y.size // self.columns)
        for column in self._columns():
            self._fill(column, w.mul(patient, count), count, element_of(y.dtype)[0])

    def _columns(self) -> list[str]:
        """Return the addresses of the arrays of states at outputs."""
        return [self.field(name, "ptr") for name in self.results[: self.columns]]

    def _fill(self, array: str, offset: str, count: str, type: str) -> None:
        """Fill elements of an array with NaN."""
        w, many = self.w, 8
        some = f"<{many} x {type}>"
        whole = w.op(f"lshr i64 {count}, 3")
        at = w.at(type, array, offset)
        size = {"double": 8, "float": 4}[type]
        w.loop(whole, lambda k: w.put(f"  store {some} splat ({type} {_NAN}), ptr {w.at(some, at, k)}, align {size}"))
        done = w.op(f"and i64 {count}, -8")
        rest = w.op(f"sub i64 {count}, {done}")
        w.loop(rest, lambda k: w.put(f"  store {type} {_NAN}, ptr {w.at(type, at, w.add(done, k))}"))

    def _boundary(self) -> None:
        """Load a boundary of a patient, its vector, and the time of the boundary after it."""
        w, patients, batched = self.w, self.patients, self.batched
        count, landing = self.field("boundaries"), self.frame.landing
        upcoming = rows_of(landing.following)
        w.branch(w.op(f"icmp slt i64 %index, {count}"), "some", "none")
        w.label("none")
        w.put("  ret void")
        w.label("some")
        own = w.mul("%patient", count)

        def at(each: bool, index: str) -> str:
            return w.add(own, index) if each else index

        pairs = zip(patients.boundaries, batched.boundaries, landing.boundary, strict=True)
        for leaf, each, rows in pairs:
            if leaf is not None and rows is not None:
                self.copy_in(self.array(leaf), at(bool(each), "%index"), rows_of(rows))
        if landing.vector is not None and landing.boundary.vector is not None:
            vector = rows_of(landing.vector)
            self.copy_in(self.array(patients.vectors), w.mul(self._vector_of("%patient"), vector.size), vector)
        self._boundary_too()
        following = w.op("add i64 %index, 1")
        w.branch(w.op(f"icmp slt i64 {following}, {count}"), "more", "last")
        w.label("last")
        w.put(f"  store double {_INF}, ptr {self.cell(upcoming.first)}")
        w.put("  ret void")
        w.label("more")
        self.copy_in(self.array(patients.boundaries.time), at(bool(batched.boundaries.time), following), upcoming)
        w.put("  ret void")

    def _land(self) -> None:
        """Hand in the output that a lane landed on, and look up what it lands on next."""
        w, lane, rows = self.w, self.frame.lane, rows_of(self.frame.start.y)
        patient = self.get(rows_of(lane.patient))
        w.branch(w.op(f"icmp sge i64 {self.get(self.landed)}, 0"), "landed", "stopped")
        w.label("landed")
        output = self.get(rows_of(self.frame.landing.boundary.output))
        w.branch(w.op(f"icmp sge i64 {output}, 0"), "output", "dose")
        w.label("output")
        first = w.add(w.mul(patient, self.field("outputs")), output)
        if self.columns == 1:
            self._states_out("states", w.mul(first, rows.size))
        else:
            shown = [Rows(x.first + k, 1, x.dtype) for x in all_rows(lane.y) for k in range(x.size)]
            for column, state in zip(self._columns(), shown, strict=True):
                self.copy_out(column, first, state)
        w.jump("dose")
        w.label("dose")
        index = self.get(rows_of(lane.clock.boundary))
        w.put(f"  call void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 {patient}, i64 {index})")
        w.jump("stopped")
        w.label("stopped")
        due = w.op(f"load double, ptr {self.cell(rows_of(lane.clock.due).first)}")
        live = w.op(f"fcmp one double {due}, {_INF}")
        live = w.op(f"and i1 {live}, {w.op(f'icmp eq i64 {self.get(rows_of(lane.clock.code))}, 0')}")
        w.branch(live, "goes", "done")
        w.label("done")
        w.put("  call void @finish(ptr %ctx, ptr %frame, i64 %lane)")
        w.jump("goes")
        w.label("goes")
        w.put("  ret void")

    def _states_out(self, name: str, offset: str) -> None:
        states = all_rows(self.frame.lane.y)
        for k, rows in enumerate(states):
            start = sum(before.size for before in states[:k])
            self.copy_out(self.field(name, "ptr"), self.w.add(offset, start), rows)

    def _finish(self) -> None:
        """Hand in how a patient ended, and take the next."""
        self._ended(self.get(rows_of(self.frame.lane.patient)))
        self.w.put("  call void @take(ptr %ctx, ptr %frame, i64 %lane)")
        self.w.put("  ret void")

    def _ended(self, patient: str) -> None:
        """Hand in how a patient ended."""
        w, clock = self.w, self.frame.lane.clock
        self.copy_out(self.field("end_t", "ptr"), patient, rows_of(clock.t))
        self._states_out("end_y", w.mul(patient, rows_of(self.frame.start.y).size))
        for name, rows in (
            ("end_code", clock.code),
            ("end_accepted", clock.accepted),
            ("end_rejected", clock.rejected),
        ):
            self.copy_out(self.field(name, "ptr"), patient, rows_of(rows))
        index = self.cell(self.failing.first)
        w.put(f"  store i64 0, ptr {index}")
        w.branch(w.op(f"icmp eq i64 {self.get(rows_of(clock.code))}, 0"), "well", "failed")
        w.label("failed")
        w.put("  call void @failing(ptr %frame)")
        w.jump("well")
        w.label("well")
        found = w.op(f"load i64, ptr {index}")
        w.put(f"  store i64 {found}, ptr {w.at('i64', self.field('failing', 'ptr'), patient)}")

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._prepare_frame()
        self.w.loop(self.w.lanes, lambda lane: self.w.put(f"  call void @take(ptr %ctx, ptr %frame, i64 {lane})"))
        self._iterate()

    def _prepare_frame(self) -> None:
        """Reserve the frame, with what all patients share."""
        w = self.w
        frame = w.alloca(w.floats, self.size)
        w.put(f"  %frame = getelementptr i8, ptr {frame}, i64 0")
        # rows that no lane has written to yet hold zeros: what is computed with them is defined
        w.loop(self.size, lambda k: w.store("zeroinitializer", w.row("%frame", k)))

        def shared(lane: str) -> None:
            for leaf, batched, rows in self._fields():
                if rows.shared:
                    w.put(f"  store ptr {self.array(leaf)}, ptr {self.cell(rows.first, lane)}")
                elif not batched:
                    self.copy_in(self.array(leaf), "0", rows, lane)

        w.loop(w.lanes, shared)

    def _iterate(self) -> None:
        """Step until no lane has a patient."""
        w = self.w
        w.jump("fill")
        w.label("fill")
        new = w.row("%frame", self.new.first)
        w.branch(w.any(w.load(new, "bool")), "begin", "go")
        w.label("begin")
        w.put("  call void @start(ptr %frame)")
        w.store("zeroinitializer", new, "int")
        self._each_busy("finish")
        w.jump("fill")
        w.label("go")
        patients = w.spread("i64", self.field("patients"))
        present = w.i("icmp slt", w.load(w.row("%frame", rows_of(self.frame.lane.patient).first), "int"), patients)
        w.branch(w.any(present), "on", "over")
        w.label("over")
        self._over()
        w.label("on")
        count = w.op(f"load atomic i64, ptr {self.field('interrupts', 'ptr')} monotonic, align 8")
        w.branch(w.op(f"icmp eq i64 {count}, {self.field('heard')}"), "undisturbed", "interrupted")
        w.label("interrupted")
        w.store(w.whole(INTERRUPTED), w.row("%frame", rows_of(self.frame.lane.clock.code).first), "int")
        w.store("splat (i1 true)", w.row("%frame", self.busy.first), "bool")
        self._each_busy("finish")
        w.jump("fill")
        w.label("undisturbed")
        self._call_step()
        self._each_busy("land")
        w.jump("fill")

    def _over(self) -> None:
        """Leave the loop."""
        self.w.put("  ret void")

    def _call_step(self) -> None:
        """Step in every lane."""
        self.w.put("  call void @step(ptr %frame)")

    def _each_busy(self, function: str) -> None:
        """Call a function for each lane with a patient for whom there is something to do."""
        w, row = self.w, self.w.row("%frame", self.busy.first)
        patients = w.spread("i64", self.field("patients"))
        present = w.i("icmp slt", w.load(w.row("%frame", rows_of(self.frame.lane.patient).first), "int"), patients)
        busy = w.op(f"and {w.masks} {w.load(row, 'bool')}, {present}")
        w.store("zeroinitializer", row, "int")
        self.each(busy, lambda lane: w.put(f"  call void @{function}(ptr %ctx, ptr %frame, i64 {lane})"))

    def each(self, mask: str, body: Callable[[str], None]) -> None:
        """Write something for each lane of a mask."""
        w = self.w
        bits, before = w.bits(mask), w.block
        head, inside, after = (w.fresh(name) for name in ("head", "inside", "after"))
        left, rest = w.fresh("%left"), w.fresh("%rest")
        w.jump(head)
        w.label(head)
        place = w.fresh("; each ")
        w.put(place)
        w.branch(w.op(f"icmp ne i64 {left}, 0"), inside, after)
        w.label(inside)
        w.declared["llvm.cttz.i64"] = "declare i64 @llvm.cttz.i64(i64, i1)"
        lane = w.op(f"call i64 @llvm.cttz.i64(i64 {left}, i1 true)")
        w.put(f"  {rest} = and i64 {left}, {w.op(f'sub i64 {left}, 1')}")
        body(lane)
        w.lines[w.lines.index(place)] = f"  {left} = phi i64 [{bits}, %{before}], [{rest}, %{w.block}]"
        w.jump(head)
        w.label(after)


class Text(AbstractText):
    """The module that solves a program."""


_INF, _NAN = "0x7FF0000000000000", "0x7FF8000000000000"
_INDEX, _MASK = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.bool_))
