"""A solve that writes down its steps, as text of LLVM.

Patients are taken some at a time: a thread solves these, and writes down what every lane had before each step, so that
a derivative can retrace them. Where the record of one such chunk begins, and how many iterations it has, is in a table;
what finds no room is not recorded, and is computed again by who needs it.
"""

import abc
import platform
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import PyTree

from qspjax.solve.kernel._lanes import BLOCK, Patients, Program
from qspjax.solve.native._emit import Emitter
from qspjax.solve.native._frame import Rows, all_rows, rows_of
from qspjax.solve.native._graph import Region
from qspjax.solve.native._lane import trace
from qspjax.solve.native._loop import SOLVED, AbstractText
from qspjax.solve.native._translate import Translator

ROUNDS = 16
"""So many patients for each lane are solved before the next ones are taken; lanes that are done early wait."""
_HUGE_PAGES = 14
SPARE = 256
"""The room, in iterations, for steps that are not recorded."""


class Record(NamedTuple):
    """What is recorded of an iteration: what a lane had before, the step size and where it landed, and whose it was."""

    y: PyTree
    rate: PyTree
    t: PyTree
    h: PyTree
    landed: PyTree
    patient: PyTree
    memory: PyTree = None
    cause: PyTree = None


class Layout(NamedTuple):
    """How a solve is recorded.

    Attributes:
        recorded: The number of rows in an entry of the log.
        chunk: The number of patients that a thread takes at a time.
        room: The number of iterations that a thread can write down, `SPARE` of them overwritten; 0 for no record.
    """

    recorded: int
    chunk: int
    room: int


def layout(program: Program, patients: Patients, lanes: int, threads: int) -> Layout:
    """Return how a solve is recorded in the memory that there is for its log."""
    chunk = lanes * min(ROUNDS, -(-program.patients // (threads * lanes)))
    kept = program.system.size * (2 if patients.infused else 1)
    recorded = kept + 4 + (0 if patients.memory is None else patients.memory.shape[-1] + 1)
    entries = program.capacity * BLOCK * program.lanes
    room = entries * (kept + 2) * patients.y0.dtype.itemsize // (8 * recorded * lanes * threads)
    fits = room >= 4 * SPARE and 2 * (program.patients // chunk + 1) <= entries
    return Layout(recorded, chunk, room if fits else 0)


class AbstractRecordText(AbstractText):
    """A module in which threads solve some patients at a time and write down what they do."""

    def __init__(self, program: Program, patients: Patients, lanes: int, threads: int) -> None:
        self.threads, self.program = threads, program
        self.recorded, self.chunk, self.room = layout(program, patients, lanes, threads)
        super().__init__(trace(program, patients), patients, program.batched, lanes)

    def _plan(self) -> None:
        """Plan where in an entry of the log each of its parts is."""
        y, one = self.program.system.size, 1
        sizes = [y, y if self.patients.infused else 0, one, one, one, one]
        if self.patients.memory is not None:
            sizes += [self.patients.memory.shape[-1], one]
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        self.entry = Record(*starts)

    @abc.abstractmethod
    def _chunk(self) -> None:
        """Write what is done with some patients."""

    def _write_chunk(self) -> None:
        self._write_forward()
        head = "internal void @chunk(ptr %ctx, ptr %frame, ptr %used, i64 %begun, i64 %first, i64 %end) noinline"
        self.w.function(head, self._chunk)

    def _write_forward(self) -> None:
        head = "internal i64 @forward(ptr %ctx, ptr %frame, ptr %log, i64 %room) noinline"
        self.w.function(head, self._forward)

    def _forward(self) -> None:
        """Step until there is no room in the log or no lane has a patient; return the number of iterations."""
        self.w.put("  %done = alloca i64\n  store i64 0, ptr %done")
        self._iterate()

    def _over(self) -> None:
        self.w.put(f"  ret i64 {self.w.op('load i64, ptr %done')}")

    def _call_step(self) -> None:
        w, place, lane = self.w, self.entry, self.frame.lane
        done = w.op("load i64, ptr %done")
        w.branch(w.op(f"icmp slt i64 {done}, %room"), "fits", "full")
        w.label("full")
        w.put(f"  ret i64 {done}")
        w.label("fits")
        w.put(f"  store i64 {w.add(done, 1)}, ptr %done")
        log = w.row("%log", w.mul(done, self.recorded))

        def write(rows: Sequence[Rows], at: int) -> None:
            for source in rows:
                self.copy_rows(w.row("%frame", source.first), w.row(log, at), source.size)
                at += source.size

        write(all_rows(lane.y), place.y)
        write(all_rows(lane.rate), place.rate)
        write([rows_of(lane.clock.t)], place.t)
        write([rows_of(lane.patient)], place.patient)
        if lane.events is not None:
            write(all_rows(lane.events.memory), place.memory)
        super()._call_step()
        write([self.h], place.h)
        write([self.landed], place.landed)
        if self.cause is not None:
            write([self.cause], place.cause)

    def copy_word(self, source: str, to: str) -> None:
        """Copy an integer."""
        self.w.put(f"  store i64 {self.w.op(f'load i64, ptr {source}')}, ptr {to}")

    def copy_rows(self, source: str, to: str, count: int | str) -> None:
        """Copy rows of lanes."""
        w = self.w
        w.loop(count, lambda k: w.store(w.load(w.row(source, k), "int"), w.row(to, k), "int"))

    def take_all(self) -> None:
        """Let every lane take a patient."""
        self.w.loop(self.w.lanes, lambda lane: self.w.put(f"  call void @take(ptr %ctx, ptr %frame, i64 {lane})"))

    def cell_of(self, table: str, k: int) -> str:
        """Return the address of a number in the table: where the record of a chunk begins, or how long it is."""
        index = self.w.op(f"sdiv i64 %first, {self.chunk}")
        return self.w.at("i32", table, self.w.add(self.w.mul(index, 2), k))

    def _at(self, log: str, iteration: str) -> str:
        """Return where in a log an iteration is."""
        return self.w.row(log, self.w.mul(iteration, self.recorded))

    def _begin(self, begun: str) -> None:
        """Prepare the memory of a thread, which is given by its number."""

    def _run(self) -> None:
        w = self.w
        everyone, fields = self.field("patients"), self.place(self.results[-1]) + 1
        begun = w.op(f"atomicrmw add ptr {w.at('i64', '%ctx', self.place('begun'))}, i64 1 monotonic")
        counter = self.field("counter", "ptr")
        w.put(f"  %own = alloca [{fields} x i64]\n  %next = alloca i64\n  %used = alloca i64\n  store i64 0, ptr %used")
        w.loop(fields, lambda k: self.copy_word(w.at("i64", "%ctx", k), w.at("i64", "%own", k)))
        w.put(f"  store ptr %next, ptr {w.at('i64', '%own', self.place('counter'))}")
        self._prepare_frame()
        self._begin(begun)
        w.jump("chunk")
        w.label("chunk")
        first = w.op(f"atomicrmw add ptr {counter}, i64 {self.chunk} monotonic")
        w.branch(w.op(f"icmp slt i64 {first}, {everyone}"), "some", "over")
        w.label("over")
        w.put("  ret void")
        w.label("some")
        end = w.add(first, self.chunk)
        end = w.op(f"select i1 {w.op(f'icmp slt i64 {end}, {everyone}')}, i64 {end}, i64 {everyone}")
        w.put(f"  store i64 {first}, ptr %next")
        w.put(f"  store i64 {end}, ptr {w.at('i64', '%own', self.place('patients'))}")
        w.put(f"  call void @chunk(ptr %own, ptr %frame, ptr %used, i64 {begun}, i64 {first}, i64 {end})")
        w.jump("chunk")


class RecordText(AbstractRecordText):
    """The module that solves a program and writes down its steps."""

    results = (*SOLVED, "log", "table")

    def _more(self, translator: Translator) -> list[Region]:
        self._plan()
        return super()._more(translator)

    def _write_more(self, emitter: Emitter, regions: Sequence[Region]) -> None:
        super()._write_more(emitter, regions)
        self._write_chunk()

    def _chunk(self) -> None:
        """Solve some patients."""
        w = self.w
        self.take_all()
        used, most = w.op("load i64, ptr %used"), self.room - SPARE
        first = w.add(w.mul("%begun", self.room), used)
        room, log = w.op(f"sub i64 {most}, {used}"), self.field("log", "ptr")
        count = w.op(f"call i64 @forward(ptr %ctx, ptr %frame, ptr {self._at(log, first)}, i64 {room})")
        whole = w.op(f"icmp slt i64 {count}, {room}")
        for k, x in enumerate((w.op(f"select i1 {whole}, i64 {first}, i64 -1"), count)):
            narrow = w.op(f"trunc i64 {x} to i32")
            w.put(f"  store i32 {narrow}, ptr {self.cell_of(self.field('table', 'ptr'), k)}")
        w.branch(whole, "whole", "rest")
        w.label("whole")
        w.put(f"  store i64 {w.add(used, count)}, ptr %used")
        w.put("  ret void")
        w.label("rest")
        spare = self._at(log, w.add(w.mul("%begun", self.room), most))
        count = w.op(f"call i64 @forward(ptr %ctx, ptr %frame, ptr {spare}, i64 {SPARE})")
        w.branch(w.op(f"icmp slt i64 {count}, {SPARE}"), "over", "rest")
        w.label("over")
        w.put("  ret void")

    def _begin(self, begun: str) -> None:
        """Ask for large pages for the log of a thread: it is written to once, and small ones cost more than that."""
        if platform.system() != "Linux":
            return
        w, bytes = self.w, 8 * self.w.lanes * self.recorded * self.room
        start = w.op(f"ptrtoint ptr {w.at('i8', self.field('log', 'ptr'), w.mul(begun, bytes))} to i64")
        page = w.op(f"inttoptr i64 {w.op(f'and i64 {start}, -4096')} to ptr")
        w.declared["madvise"] = "declare i32 @madvise(ptr, i64, i32)"
        w.op(f"call i32 @madvise(ptr {page}, i64 {bytes}, i32 {_HUGE_PAGES})")
