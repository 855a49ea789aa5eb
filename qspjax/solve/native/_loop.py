"""The loop over lanes as text of LLVM: each lane takes a patient from a queue, steps, and hands in what it found.

What a lane does in a step is `kernel._lanes.attempt`, traced for one patient and translated; this module only moves
numbers: from the arrays of the patients into the rows of a frame, one row of lanes for every number, and from there
into the arrays of results. All lanes of all threads take patients from one counter, in the order in which they are
done; which lane a patient runs in has no influence on his numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.typing import DTypeLike
from jaxtyping import PyTree

from qspjax._jaxpr._walk import shape_of
from qspjax.solve._control import INTERRUPTED
from qspjax.solve.events._monitor import monitor_lanes
from qspjax.solve.kernel._failing import failing_index
from qspjax.solve.kernel._lanes import Landing, Lane, Patients, Program, attempt, begin
from qspjax.solve.kernel._layout import Lanes
from qspjax.solve.native._emit import QUICKLY, Emitter
from qspjax.solve.native._graph import Graph, Region
from qspjax.solve.native._order import functions_of
from qspjax.solve.native._prepared import prepared
from qspjax.solve.native._rows import RowArithmetic
from qspjax.solve.native._text import Elementary, Writer
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import Nodes, Value, kind_of

CONTEXT = ("patients", "outputs", "boundaries", "vectors", "counter", "states", "end_t", "end_y", "end_code")
CONTEXT = (*CONTEXT, "end_accepted", "end_rejected", "failing", "interrupts", "heard")
"""What the context holds before the addresses of the arrays of the patients, 8 bytes each."""


class Start(NamedTuple):
    """What is known of a patient at the start."""

    t: jax.Array
    y: jax.Array
    due: jax.Array
    ended: jax.Array | None
    memory: jax.Array | None


class Frame(NamedTuple):
    """Everything that a lane holds: in place of arrays their shapes while it is traced, in a `Text` their `Rows`."""

    constants: PyTree
    leaves: PyTree
    landing: Landing
    lane: Lane
    start: Start
    span: jax.Array


class Attempted(NamedTuple):
    """What the loop asks of a step: the boundary that was landed on, or -1, and whether there is something to do."""

    landed: jax.Array
    busy: jax.Array


@dataclass(frozen=True)
class Traced:
    """The programs of one lane, and where in the frame their inputs and outputs are.

    Attributes:
        step: A step: from constants, leaves, landing and lane to the lane afterwards and `Attempted`.
        start: From the number of the patient and `Start` to a lane, and whether it has nothing to do.
        failing: From constants, lane and span to the state for which it failed.
        frame: The shapes of the frame.
    """

    step: ClosedJaxpr
    start: ClosedJaxpr
    failing: ClosedJaxpr
    frame: Frame


def like(shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Return what stands for an array while programs are traced."""
    return cast("jax.Array", jax.ShapeDtypeStruct(shape, dtype))


def shapes_of(program: Program, patients: Patients) -> Frame:
    """Return the shapes of what a lane holds."""

    def one(leaf: jax.ShapeDtypeStruct, batched: bool) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leaf.shape[batched:], 1), leaf.dtype)

    def fields(name: str) -> PyTree:
        return jax.tree.map(one, getattr(patients, name), getattr(program.batched, name))

    number, index = like((1,), patients.y0.dtype), like((1,), jnp.int32)
    column = patients.boundaries.map(lambda leaf: None if leaf is None else like((1,), leaf.dtype))
    vector = None
    if patients.vectors is not None and patients.boundaries.vector is not None:
        vector = like((program.system.size, 1), patients.y0.dtype)
    start = Start(number, fields("y0"), number, fields("ended"), fields("memory"))
    lane = jax.eval_shape(
        lambda start, patient: begin(program, patient, *start, infused=patients.infused), start, index
    )
    leaves = fields("leaves") if program.events is not None else ()
    return Frame(fields("constants"), leaves, Landing(column, vector, number), lane, start, number)


def trace(program: Program, patients: Patients) -> Traced:
    """Trace the programs of one lane.

    Args:
        program: The solve, with a system that is to be translated.
        patients: The shapes of the patients.
    """
    frame = shapes_of(program, patients)

    def step(constants: list, leaves: tuple, landing: Landing, lane: Lane) -> tuple[Lane, Attempted]:
        monitor = None
        if program.events is not None:
            monitor = monitor_lanes(program.events, leaves, [True] * len(leaves))
        lanes = Lanes(constants, (True,) * len(constants))
        after, tried = attempt(program, lanes, monitor, lane, landing)
        return after, Attempted(tried.landed, (tried.landed >= 0) | ~after.clock.live)

    def start(patient: jax.Array, start: Start) -> tuple[Lane, jax.Array]:
        lane = begin(program, patient, *start, infused=patients.infused)
        return lane, ~lane.clock.live

    def failing(constants: list, lane: Lane, span: jax.Array) -> jax.Array:
        values, clock = [x[..., 0] for x in constants], lane.clock
        return failing_index(program, values, clock.t[0], lane.y[:, 0], span[0], clock.code[0])[None]

    return Traced(
        step=jax.make_jaxpr(step)(frame.constants, frame.leaves, frame.landing, frame.lane),
        start=jax.make_jaxpr(start)(frame.lane.patient, frame.start),
        failing=jax.make_jaxpr(failing)(frame.constants, frame.lane, frame.span),
        frame=frame,
    )


class Rows(NamedTuple):
    """The rows of an array in the frame, and the type of its elements."""

    first: int
    size: int
    dtype: np.dtype


def rows_of(leaf: object) -> Rows:
    """Return the rows that stand for an array in the frame of a `Text`."""
    assert isinstance(leaf, Rows)
    return leaf


def all_rows(leaves: PyTree) -> list[Rows]:
    """Return all rows in a part of the frame of a `Text`."""
    return jax.tree.leaves(leaves, is_leaf=lambda x: isinstance(x, Rows))


class Text:
    """The module that solves a program.

    Attributes:
        text: The text.
        arrays: The number of arrays of the patients.
    """

    def __init__(self, traced: Traced, patients: Patients, batched: PyTree, lanes: int, columns: int = 1) -> None:
        """Write a module.

        Args:
            traced: The programs of a lane.
            patients: The shapes of the patients.
            batched: Which of their arrays have an axis of patients.
            lanes: The number of lanes.
            columns: The number of arrays for states at outputs: one for all of them, or one for each.
        """
        self.patients, self.batched, self.w, self.columns = patients, batched, Writer(lanes), columns
        self.size = 0
        self.frame: Frame = jax.tree.map(self._rows, traced.frame)
        self.landed, self.busy, self.new, self.failing = (self._rows(x) for x in (_INDEX, _MASK, _MASK, _INDEX))
        self.number = {id(leaf): k for k, leaf in enumerate(jax.tree.leaves(patients))}
        self.arrays = len(self.number)
        emitter = Emitter(self.w)
        frame = self.frame
        fixed = sum(rows.size for rows in all_rows(frame.constants))
        translator = Translator(Graph(fixed))
        translator.rows = RowArithmetic(translator.graph)
        step = self._translated(translator, traced.step, (frame.constants, frame.leaves, frame.landing, frame.lane))
        start_translator = Translator(Graph(fixed), translator.functions)
        start = self._translated(start_translator, traced.start, (frame.lane.patient, frame.start))
        failing_translator = Translator(Graph(fixed), translator.functions)
        failing_translator.rows = RowArithmetic(failing_translator.graph)
        failing = self._translated(failing_translator, traced.failing, (frame.constants, frame.lane, frame.span))
        self.prepared = prepared([step], self.size)
        self.size += len(self.prepared.outputs)
        self._write(emitter, step, start, failing)
        self.text = self.w.module()

    @property
    def results(self) -> list[int]:
        """Where in the context the address of each result is; those of further columns follow those of the patients."""
        first, others = CONTEXT.index("states"), range(len(CONTEXT) + self.arrays, self.context)
        return [first, *others, *range(first + 1, CONTEXT.index("failing") + 1)]

    @property
    def context(self) -> int:
        """The size of the context."""
        return len(CONTEXT) + self.arrays + self.columns - 1

    def _rows(self, leaf: jax.ShapeDtypeStruct) -> Rows:
        count = int(np.prod(leaf.shape, dtype=int))
        self.size += count
        return Rows(self.size - count, count, np.dtype(leaf.dtype))

    def _translated(self, translator: Translator, program: ClosedJaxpr, inputs: PyTree) -> Region:
        values: list[Value] = [
            Nodes(translator.inputs(row.size, row.dtype, row.first).reshape(shape_of(var)), row.dtype)
            for row, var in zip(all_rows(inputs), program.jaxpr.invars, strict=True)
        ]
        results = translator.run(program, values)
        return Region(translator.graph, [i for x in results for i in translator.ids(x).ravel().tolist()])

    def _write(self, emitter: Emitter, step: Region, start: Region, failing: Region) -> None:
        w = self.w
        places = [rows.first + k for rows in all_rows(self.frame.lane) for k in range(rows.size)]

        def stepped() -> None:
            values = emitter.region(step, emitter.read_frame)
            rows = [*places, self.landed.first, self.busy.first]
            for value, row, index in zip(values, rows, step.outputs, strict=True):
                node = step.graph.nodes[index]
                if node.op != "in" or node.attr != row:  # else it is there already
                    w.store(value, w.row("%frame", row), node.kind)
            w.put("  ret void")

        def started() -> None:
            first = self.size - len(self.prepared.outputs)
            values = emitter.region(self.prepared, emitter.read_frame)
            for row, (index, value) in enumerate(zip(self.prepared.outputs, values, strict=True), first):
                w.store(value, w.row("%frame", row), self.prepared.graph.kind(index))
            new = w.load(w.row("%frame", self.new.first), "bool")
            values = emitter.region(start, emitter.read_frame)
            for value, row, index in zip(values, [*places, self.busy.first], start.outputs, strict=True):
                kind, address = start.graph.kind(index), w.row("%frame", row)
                w.store(w.select(new, value, w.load(address, kind), w.type_of(kind)), address, kind)
            w.put("  ret void")

        def failed() -> None:
            (value,) = emitter.region(failing, emitter.read_frame)
            w.store(value, w.row("%frame", self.failing.first), "int")
            w.put("  ret void")

        w.function(f"internal void @failing(ptr %frame) {QUICKLY}", failed)
        w.function("internal void @step(ptr %frame) noinline", stepped)
        w.function("internal void @start(ptr %frame) noinline", started)
        hot = {f.name for region in (step, start) for f in functions_of(region.graph, region.outputs)}
        emitter.write_functions(hot)
        Elementary(w).write()
        w.function("internal void @land(ptr %ctx, ptr %frame, i64 %lane) noinline", self._land)
        w.function("internal void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 %patient, i64 %index)", self._boundary)
        w.function("internal void @finish(ptr %ctx, ptr %frame, i64 %lane) noinline", self._finish)
        w.function("internal void @take(ptr %ctx, ptr %frame, i64 %lane) noinline", self._take)
        w.function("void @run(ptr %ctx)", self._run)

    # --- numbers -----------------------------------------------------------------------------------------------------

    def field(self, name: str | int, type: str = "i64") -> str:
        """Load a field of the context; a number is that of an array of the patients."""
        index = CONTEXT.index(name) if isinstance(name, str) else len(CONTEXT) + name
        return self.w.op(f"load {type}, ptr {self.w.at('i64', '%ctx', index)}")

    def cell(self, row: int | str, lane: str = "%lane") -> str:
        """Return the address of a number of a lane."""
        base = self.w.mul(row, self.w.lanes) if isinstance(row, str) else row * self.w.lanes
        return self.w.at("i64", "%frame", self.w.add(base, lane))

    def get(self, rows: Rows) -> str:
        """Return an integer of a lane."""
        return self.w.op(f"load i64, ptr {self.cell(rows.first)}")

    def copy_in(self, array: str, offset: str, rows: Rows, lane: str = "%lane") -> None:
        """Copy elements of an array into rows."""
        w, (type, into, widen) = self.w, _element(rows.dtype)

        def element(k: str) -> None:
            x = w.op(f"load {type}, ptr {w.at(type, array, w.add(offset, k))}")
            x = w.op(f"{widen} {type} {x} to {into}") if widen else x
            w.put(f"  store {into} {x}, ptr {self.cell(w.add(k, rows.first), lane)}")

        w.repeat(rows.size, element)

    def copy_out(self, array: str, offset: str, rows: Rows) -> None:
        """Copy rows into elements of an array."""
        w, (type, into, widen) = self.w, _element(rows.dtype)
        narrow = {"fpext": "fptrunc", "sext": "trunc", "zext": "trunc"}.get(widen or "")

        def element(k: str) -> None:
            x = w.op(f"load {into}, ptr {self.cell(w.add(k, rows.first))}")
            x = w.op(f"{narrow} {into} {x} to {type}") if narrow else x
            w.put(f"  store {type} {x}, ptr {w.at(type, array, w.add(offset, k))}")

        w.repeat(rows.size, element)

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
        y, due_at = rows_of(self.frame.start.y), rows_of(self.frame.start.due)
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
        # no output is reached yet
        count = w.mul(self.field("outputs"), y.size // self.columns)
        for column in self._columns():
            self._fill(column, w.mul(patient, count), count, _element(y.dtype)[0])
        w.put(f"  call void @boundary(ptr %ctx, ptr %frame, i64 %lane, i64 {patient}, i64 0)")
        some = w.op(f"icmp sgt i64 {self.field('boundaries')}, 0")
        time = rows_of(self.frame.landing.boundary.time).first
        due = w.op(f"select i1 {some}, double {w.op(f'load double, ptr {self.cell(time)}')}, double {_INF}")
        w.put(f"  store double {due}, ptr {self.cell(due_at.first)}")
        w.put("  ret void")

    def _columns(self) -> list[str]:
        """Return the addresses of the arrays of states at outputs."""
        fields = ["states", *range(self.arrays, self.arrays + self.columns - 1)]
        return [self.field(name, "ptr") for name in fields]

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
            vector, number = rows_of(landing.vector), self.get(rows_of(landing.boundary.vector))
            number = w.op(f"select i1 {w.op(f'icmp sgt i64 {number}, 0')}, i64 {number}, i64 0")
            if batched.vectors:
                number = w.add(number, w.mul("%patient", self.field("vectors")))
            offset = w.mul(number, vector.size)
            self.copy_in(self.array(patients.vectors), offset, vector)
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
        w, clock = self.w, self.frame.lane.clock
        patient = self.get(rows_of(self.frame.lane.patient))
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
        w.put("  call void @take(ptr %ctx, ptr %frame, i64 %lane)")
        w.put("  ret void")

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        w = self.w
        frame = w.alloca(w.floats, self.size)
        w.put(f"  %frame = getelementptr i8, ptr {frame}, i64 0")
        # rows that no lane has written to yet hold ones: what is computed with them is defined
        w.loop(self.size, lambda k: w.store("zeroinitializer", w.row("%frame", k)))

        def shared(lane: str) -> None:
            for leaf, batched, rows in self._fields():
                if not batched:
                    self.copy_in(self.array(leaf), "0", rows, lane)

        w.loop(w.lanes, shared)
        w.loop(w.lanes, lambda lane: w.put(f"  call void @take(ptr %ctx, ptr %frame, i64 {lane})"))
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
        w.put("  ret void")
        w.label("on")
        count = w.op(f"load atomic i64, ptr {self.field('interrupts', 'ptr')} monotonic, align 8")
        w.branch(w.op(f"icmp eq i64 {count}, {self.field('heard')}"), "undisturbed", "interrupted")
        w.label("interrupted")
        w.store(w.whole(INTERRUPTED), w.row("%frame", rows_of(self.frame.lane.clock.code).first), "int")
        w.store("splat (i1 true)", w.row("%frame", self.busy.first), "bool")
        self._each_busy("finish")
        w.jump("fill")
        w.label("undisturbed")
        w.put("  call void @step(ptr %frame)")
        self._each_busy("land")
        w.jump("fill")

    def _each_busy(self, function: str) -> None:
        """Call a function for each lane with a patient for whom there is something to do."""
        w = self.w
        patients = w.spread("i64", self.field("patients"))
        present = w.i("icmp slt", w.load(w.row("%frame", rows_of(self.frame.lane.patient).first), "int"), patients)
        row = w.row("%frame", self.busy.first)
        busy = w.op(f"and {w.masks} {w.load(row, 'bool')}, {present}")
        w.store("zeroinitializer", row, "int")
        bits, before = w.bits(busy), w.block
        head, inside, after = (w.fresh(name) for name in ("head", "inside", "after"))
        left, rest = w.fresh("%left"), w.fresh("%rest")
        w.jump(head)
        w.label(head)
        w.put(f"  {left} = phi i64 [{bits}, %{before}], [{rest}, %{inside}]")
        w.branch(w.op(f"icmp ne i64 {left}, 0"), inside, after)
        w.label(inside)
        w.declared["llvm.cttz.i64"] = "declare i64 @llvm.cttz.i64(i64, i1)"
        lane = w.op(f"call i64 @llvm.cttz.i64(i64 {left}, i1 true)")
        w.put(f"  {rest} = and i64 {left}, {w.op(f'sub i64 {left}, 1')}")
        w.put(f"  call void @{function}(ptr %ctx, ptr %frame, i64 {lane})")
        w.jump(head)
        w.label(after)


_INF, _NAN = "0x7FF0000000000000", "0x7FF8000000000000"
_INDEX, _MASK = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.bool_))


def _element(dtype: np.dtype) -> tuple[str, str, str | None]:
    """Return the type of an element in memory, of its row, and how it is widened."""
    if dtype == np.float64:
        return "double", "double", None
    if dtype == np.float32:
        return "float", "double", "fpext"
    kind_of(dtype)
    if dtype == np.bool_:
        return "i8", "i64", "sext"
    size = f"i{8 * dtype.itemsize}"
    return size, "i64", None if size == "i64" else "sext" if dtype.kind == "i" else "zext"
