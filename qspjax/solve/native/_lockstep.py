"""Linear patients who go from boundary to boundary side by side, as text of LLVM: what their derivatives share.

All patients of a call have the same number of boundaries, so the lanes take as many patients as they are, and go
together; what is the same for all patients is loaded once.
"""

import abc
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jaxtyping import PyTree

from qspjax._jaxpr._walk import shape_of
from qspjax.solve._driven import Layout
from qspjax.solve._march import March
from qspjax.solve._retrace import Equations, Place, Stop, first_place
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.native._emit import Emitter
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
from qspjax.solve.native._lane import like
from qspjax.solve.native._order import functions_of
from qspjax.solve.native._text import Elementary
from qspjax.solve.native._translate import Translator


def one_of(leaf: jax.ShapeDtypeStruct, batched: bool) -> jax.ShapeDtypeStruct:
    """Return the shape of an array for one patient."""
    return jax.ShapeDtypeStruct(leaf.shape[batched:], leaf.dtype)


def equations_of(march: March, constants: Sequence[jax.Array], y0: jax.Array) -> Equations:
    """Return the equations of a patient."""
    a, b, _, structure = march.system_of(constants, y0)
    layout = Layout.of(structure.pattern)
    entries = jnp.stack([a[i, j] for i, j in zip(layout.rows.tolist(), layout.columns.tolist(), strict=True)])
    return Equations(entries, jnp.stack(list(b)), layout, structure.affine, march.protected)


class AbstractLockstep(AbstractModule):
    """A module in which each lane has a patient, and all go through their boundaries together.

    Attributes:
        march: What is solved.
        patients: The shapes of the patients; `ended` is the number of boundaries that each reaches.
        now: Where the patients are; its rows follow one another, and so do those of its parts.
    """

    def __init__(self, march: March, patients: Patients, lanes: int) -> None:
        super().__init__(lanes)
        batched: PyTree = march.of(march.batched)
        shapes: PyTree = patients
        self.march, self.patients, self.batched = march, shapes, batched
        self.number = {id(leaf): k for k, leaf in enumerate(jax.tree.leaves(patients))}
        self.operands = len(self.number) + self.more_operands
        y0, number = one_of(shapes.y0, batched.y0), like((), patients.y0.dtype)
        self.constants = list(map(one_of, shapes.constants, batched.constants))
        boundary = shapes.boundaries.map(lambda leaf: None if leaf is None else like((), leaf.dtype))
        has_vectors = patients.vectors is not None and patients.boundaries.vector is not None
        index, vector = like((), jnp.int32), like(y0.shape, y0.dtype) if has_vectors else None
        self.shapes_of_stop = Stop(boundary, vector, index, index)
        self.shape_of_place = jax.eval_shape(self._start, self.constants, y0, number)
        self.y0, self.t0 = self.new_rows(y0), self.new_rows(number)
        self.of_constants: list[Rows] = [self.new_rows(x) for x in self.constants]
        self.stop: Stop = jax.tree.map(self.new_rows, self.shapes_of_stop)
        self.now: Place = jax.tree.map(self.new_rows, self.shape_of_place)
        self.emitter, self.functions = Emitter(self.w), {}
        self._regions: dict[str, tuple[Region, PyTree]] = {}
        self.translate(
            "start", self._start, (self.of_constants, self.y0, self.t0), (self.constants, y0, number), self.now
        )

    @property
    @abc.abstractmethod
    def more_operands(self) -> int:
        """The number of operands after the arrays of the patients."""

    @abc.abstractmethod
    def _group(self, first: str, count: str, begun: str) -> None:
        """Write what is done with the patients in the lanes, who are at their start."""

    def _start(self, constants: list, y0: jax.Array, t0: jax.Array) -> Place:
        return first_place(equations_of(self.march, constants, y0), y0, t0, infused=self.patients.infused)

    # --- programs ----------------------------------------------------------------------------------------------------

    def translate(self, name: str, function: Callable, rows: PyTree, shapes: PyTree, results: PyTree) -> None:
        """Translate a function of rows of the frame, whose results are others, under a name."""
        program: ClosedJaxpr = jax.make_jaxpr(function)(*shapes)
        translator = Translator(Graph(sparse=True), self.functions)
        inputs = nodes(translator, rows, [shape_of(var) for var in program.jaxpr.invars])
        self._regions[name] = region_of(translator, translator.run(program, inputs)), results

    def write(self) -> None:
        """Write the module."""
        w = self.w
        for name, (region, results) in self._regions.items():
            places = [rows.first + k for rows in all_rows(results) for k in range(rows.size)]

            def body(region: Region = region, places: list[int] = places) -> None:
                values = self.emitter.region(region, self.emitter.read_frame)
                for value, row, index in zip(values, places, region.outputs, strict=True):
                    node = region.graph.nodes[index]
                    if node.op != "in" or node.attr != row:  # else it is there already
                        w.store(value, w.row("%frame", row), node.kind)
                w.put("  ret void")

            w.function(f"internal void @{name}(ptr %frame) noinline", body)
        hot = {f.name for region, _ in self._regions.values() for f in functions_of(region.graph, region.outputs)}
        self.emitter.write_functions(hot)
        Elementary(w).write()
        w.function("internal void @boundary(ptr %ctx, ptr %frame, i64 %first, i64 %count, i64 %k)", self._boundary)
        self._write_more()
        w.function("void @run(ptr %ctx)", self._run)

    def _write_more(self) -> None:
        """Write other functions."""

    # --- numbers -----------------------------------------------------------------------------------------------------

    @property
    def lengths(self) -> Mapping[str, Axis | None]:
        """By field of the context the axis of an array whose length it is."""
        return lengths_of(self.patients, self.number)

    def array(self, leaf: object) -> str:
        """Return the address of an array of the patients."""
        return self.field(self.number[id(leaf)], "ptr")

    def each_lane(self, body: Callable[[str], None], count: str | int | None = None) -> None:
        """Write something for each lane that has a patient."""
        self.w.loop("%count" if count is None else count, body)

    def fill(self, array: str, offset: str, rows: Rows) -> None:
        """Copy elements of an array into rows, the same for all lanes."""
        w, (type, into, widen) = self.w, element_of(rows.dtype)

        def element(k: str) -> None:
            x = w.op(f"load {type}, ptr {w.at(type, array, w.add(offset, k))}")
            x = w.op(f"{widen} {type} {x} to {into}") if widen else x
            kind = "float" if into == "double" else "int"
            w.store(w.spread(into, x), w.row("%frame", w.add(k, rows.first)), kind)

        w.repeat(rows.size, element)

    def load(self, number: int, each: bool, stride: str | int, offset: str, rows: Rows) -> None:
        """Copy elements of an operand into rows: of every patient, whose elements are so many apart, or of all."""
        array = self.field(number, "ptr")
        if not each:
            self.fill(array, offset, rows)
            return

        def one(lane: str) -> None:
            start = self.w.mul(self.w.add("%first", lane), stride)
            self.copy_in(array, self.w.add(start, offset), rows, lane)

        self.each_lane(one)

    def copy_rows(self, source: str, to: str, count: int) -> None:
        """Copy rows of lanes."""
        w = self.w
        w.repeat(count, lambda k: w.store(w.load(w.row(source, k), "int"), w.row(to, k), "int"))

    def clear(self, rows: PyTree) -> None:
        """Set rows to zero."""
        w = self.w
        for part in all_rows(rows):

            def zero(k: str, part: Rows = part) -> None:
                w.store("zeroinitializer", w.row("%frame", w.add(k, part.first)), "int")

            w.repeat(part.size, zero)

    # --- patients ----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[tuple[jax.ShapeDtypeStruct, bool, Rows]]:
        """Return the arrays that lanes copy, whether each has an axis of patients, and its rows."""
        patients, batched = self.patients, self.batched
        return [
            *zip(patients.constants, batched.constants, self.of_constants, strict=True),
            (patients.y0, batched.y0, self.y0),
            (patients.t0, batched.t0, self.t0),
            (patients.ended, batched.ended, rows_of(self.stop.reached)),
        ]

    def _boundary(self) -> None:
        """Load a boundary of the patients."""
        w, stop, patients, batched = self.w, self.stop, self.patients, self.batched
        w.store(w.spread("i64", "%k"), w.row("%frame", rows_of(stop.number).first), "int")
        for leaf, each, rows in zip(patients.boundaries, batched.boundaries, stop.boundary, strict=True):
            if leaf is not None:
                self.load(self.number[id(leaf)], bool(each), self.field("boundaries"), "%k", rows_of(rows))
        if stop.vector is not None:
            self._vectors(self.number[id(patients.vectors)], stop.vector)
        self._boundary_too()
        w.put("  ret void")

    def _boundary_too(self) -> None:
        """Load what else is known of a boundary."""

    def _vectors(self, number: int, vector: PyTree) -> None:
        """Load the vectors of a boundary, from an operand."""
        rows = rows_of(vector)

        def one(lane: str) -> None:
            self.copy_in(self.field(number, "ptr"), self.w.mul(self.vector_of(lane), rows.size), rows, lane)

        self.each_lane(one)

    def vector_of(self, lane: str, *, own: bool | None = None) -> str:
        """Return the number of the vector of the boundary in a lane, among those of all patients if these are `own`."""
        w, number = self.w, self.index_of(self.stop.boundary.vector, lane)
        number = w.op(f"select i1 {w.op(f'icmp sgt i64 {number}, 0')}, i64 {number}, i64 0")
        if self.batched.vectors if own is None else own:
            number = w.add(number, w.mul(w.add("%first", lane), self.field("vectors")))
        return number

    def index_of(self, rows: PyTree, lane: str) -> str:
        """Return an integer of a lane."""
        return self.w.op(f"load i64, ptr {self.cell(rows_of(rows).first, lane)}")

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        w = self.w
        frame = w.alloca(w.floats, self.size)
        w.put(f"  %frame = getelementptr i8, ptr {frame}, i64 0")
        # rows that no lane has written to yet hold zeros: what is computed with them is defined
        w.loop(self.size, lambda k: w.store("zeroinitializer", w.row("%frame", k)))
        for leaf, each, rows in self._fields():
            if not each:
                self.fill(self.array(leaf), "0", rows)
        begun = w.op(f"atomicrmw add ptr {w.at('i64', '%ctx', self.place('begun'))}, i64 1 monotonic")
        w.jump("more")
        w.label("more")
        first = w.op(f"atomicrmw add ptr {self.field('counter', 'ptr')}, i64 {w.lanes} monotonic")
        heard = w.op(f"load atomic i64, ptr {self.field('interrupts', 'ptr')} monotonic, align 8")
        goes = w.op(f"icmp eq i64 {heard}, {self.field('heard')}")
        some = w.op(f"icmp slt i64 {first}, {self.field('patients')}")
        w.branch(w.op(f"and i1 {some}, {goes}"), "some", "none")
        w.label("none")
        w.put("  ret void")
        w.label("some")
        left = w.op(f"sub i64 {self.field('patients')}, {first}")
        count = w.op(f"select i1 {w.op(f'icmp slt i64 {left}, {w.lanes}')}, i64 {left}, i64 {w.lanes}")
        w.put(f"  call void @group(ptr %ctx, ptr %frame, i64 {first}, i64 {count}, i64 {begun})")
        w.jump("more")

    def write_group(self) -> None:
        """Write what is done with some patients."""

        def body() -> None:
            for leaf, each, rows in self._fields():
                if each:
                    self.load(self.number[id(leaf)], True, rows.size, "0", rows)
            self.w.put("  call void @start(ptr %frame)")
            self._group("%first", "%count", "%begun")
            self.w.put("  ret void")

        head = "internal void @group(ptr %ctx, ptr %frame, i64 %first, i64 %count, i64 %begun) noinline"
        self.w.function(head, body)

    def call_boundary(self, k: str) -> None:
        """Load a boundary."""
        self.w.put(f"  call void @boundary(ptr %ctx, ptr %frame, i64 %first, i64 %count, i64 {k})")
