"""From a graph of scalars to text of LLVM: every node becomes a vector of lanes.

Loops and branches are masked: they run as long as, or where, any lane needs them, and change only what belongs to the
lanes that do. A product that is added to something, and used nowhere else, is a fused multiply-add: the choice is made
here, so that results do not depend on the machine.
"""

import math
from collections.abc import Callable, Container, Sequence

import numpy as np

from qspjax.solve.native._graph import (
    AbstractRoutine,
    Argument,
    Branches,
    Function,
    Graph,
    Loop,
    Node,
    Region,
    Repetition,
    Shared,
)
from qspjax.solve.native._order import INPUTS, Arm, Order
from qspjax.solve.native._rows import LONG, Place, RowArithmetic, RowLoop
from qspjax.solve.native._text import Writer, each
from qspjax.solve.native._values import UnsupportedError

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {
    **{"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"},
    **{"shl": "shl", "lshr": "lshr", "ashr": "ashr"},
}
_FLOAT_ORDER = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_INTEGER_ORDER = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
_INTRINSIC = {
    **{"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "rint": "roundeven", "round": "round"},
    **{"max": "maximum", "min": "minimum"},
}
_OWN = {"exp", "log", "pow", "exp32", "log32", "tanh", "expm1", "log1p"}
_LIBRARY = {
    *("exp2", "cbrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh"),
    *("asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "fmod", "nextafter"),
}

QUICKLY = "noinline optnone"
"""The attributes of functions that are called too seldom to be worth the time of a good compilation."""

Read = Callable[[Node], str]
"""From a node that is an input of a region to its value."""


class Emitter:
    """Writes graphs."""

    def __init__(self, writer: Writer) -> None:
        self.w = writer
        self.functions: dict[str, Function] = {}
        self._memory: dict[tuple[Graph, int], str] = {}

    def region(self, region: Region, read: Read, outputs: Sequence[int] | None = None) -> list[str]:
        """Write a region; return the values of its outputs, or of some of them."""
        graph, w = region.graph, self.w
        nodes, order = graph.nodes, Order(graph, region.outputs)
        released: dict[float, list[int]] = {}
        for index, last in order.last.items():
            released.setdefault(last, []).append(index)
        names: dict[int, str] = {}

        def value(index: int) -> str:
            """Return the value of a node; what waits is written now."""
            if index not in names:
                node = nodes[index]
                if node.op == "result":
                    names[index] = w.load(w.row(value(node.args[0]), node.attr_as(int)), node.kind)
                elif node.op in INPUTS:
                    names[index] = read(node)
                else:
                    names[index] = w.f("fmul", *map(value, node.args))
            return names[index]

        def product(index: int) -> bool:
            return nodes[index].op == "mul" and order.waits(index) and index not in names

        def guarded(arm: Arm) -> str:
            """Write an arm of a selection, for when any lane takes it; return its value."""
            nonlocal names
            index, place = arm
            mask, result = value(nodes[index].args[0]), nodes[index].args[place]
            here = mask if place == 1 else w.op(f"xor {w.masks} {mask}, splat (i1 true)")
            taken, after, before = w.fresh("taken"), w.fresh("after"), w.block
            w.branch(w.any(here), taken, after)
            w.label(taken)
            outside, names = names, dict(names)
            write(order.arms[arm])
            x, end = value(result), w.block
            names = outside
            w.jump(after)
            w.label(after)
            return w.op(f"phi {w.type_of(graph.kind(result))} [{x}, %{end}], [zeroinitializer, %{before}]")

        def write(indices: Sequence[int]) -> None:
            for index in indices:
                node = nodes[index]
                arms = [(index, place) for place in (1, 2) if (index, place) in order.arms]
                if arms:
                    x = {place: guarded((index, place)) for _, place in arms}
                    mask, yes, no = (x.get(place) or value(i) for place, i in enumerate(node.args))
                    names[index] = w.select(mask, yes, no, w.type_of(node.kind))
                elif node.op in ("add", "sub") and any(map(product, node.args)):
                    names[index] = self._fused(graph, node, value, product)
                elif not order.waits(index):
                    names[index] = self._node(graph, index, node, value)
                for dead in released.get(index, ()):
                    w.release(self._memory[graph, dead])

        write(order.nodes)
        return [value(i) for i in (region.outputs if outputs is None else outputs)]

    def _fused(self, graph: Graph, node: Node, value: Callable[[int], str], product: Callable[[int], bool]) -> str:
        """Return a product plus or minus something, rounded once."""
        w, (left, right) = self.w, node.args
        if product(right):
            a, b = map(value, graph.nodes[right].args)
            return w.fma(w.op(f"fneg {w.floats} {a}") if node.op == "sub" else a, b, value(left))
        a, b = map(value, graph.nodes[left].args)
        c = value(right)
        return w.fma(a, b, w.op(f"fneg {w.floats} {c}") if node.op == "sub" else c)

    def _node(self, graph: Graph, index: int, node: Node, value: Callable[[int], str]) -> str:
        w, op = self.w, node.op
        if op == "const":
            number = graph.value(index)
            return w.constant(0.0 if number is None else number)
        if op == "call":
            self._memory[graph, index] = self._call(graph, node, value)
            return self._memory[graph, index]
        if op == "routine":
            self._memory[graph, index] = self._routine(graph, node, value)
            return self._memory[graph, index]
        if op == "lookup":
            return self._lookup(graph, node, value)
        args = [value(i) for i in node.args]
        if op == "given":
            return args[0]
        if op == "rows":
            self._memory[graph, index] = self._rows(graph, node, args)
            return self._memory[graph, index]
        if op in ("while", "cond", "repeat"):
            write = {"while": self._while, "cond": self._cond, "repeat": self._repeat}[op]
            self._memory[graph, index] = write(graph, node, args)
            return self._memory[graph, index]
        return self.operation(op, [graph.kind(i) for i in node.args], args, node.attr)

    def operation(self, op: str, kinds: Sequence[str], x: Sequence[str], attr: object = None) -> str:
        """Write an elementwise operation."""
        w, kind = self.w, kinds[0]
        if op == "select":
            return w.select(x[0], x[1], x[2], w.type_of(kinds[1]))
        if op in _FLOAT_ORDER:
            if kind == "float":
                return w.compare(_FLOAT_ORDER[op], *x)
            order = _INTEGER_ORDER[op] if kind == "int" or op in ("eq", "ne") else f"u{op}"
            return w.op(f"icmp {order} {w.type_of(kind)} {x[0]}, {x[1]}")
        if kind == "bool":
            if op == "not":
                return w.op(f"xor {w.masks} {x[0]}, splat (i1 true)")
            if op in ("and", "or", "xor"):
                return w.op(f"{op} {w.masks} {x[0]}, {x[1]}")
            if op in ("max", "min"):
                return w.op(f"{'or' if op == 'max' else 'and'} {w.masks} {x[0]}, {x[1]}")
        elif kind == "int":
            return self._integer(op, x, attr)
        elif kind == "float":
            return self._bits(x[0], attr) if op == "bits" else self._float(op, x)
        raise UnsupportedError(f"the operation `{op}` on values of kind {kind}")

    def _float(self, op: str, x: Sequence[str]) -> str:
        w = self.w
        if op in _ARITHMETIC:
            return w.f(_ARITHMETIC[op], *x)
        if op == "neg":
            return w.op(f"fneg {w.floats} {x[0]}")
        if op in _INTRINSIC:
            return w.intrinsic(_INTRINSIC[op], *x)
        if op in _OWN:
            return w.call(f"lanes_{op}", *x)
        if op in _LIBRARY:
            return each(w, op, *x)
        if op == "is_finite":
            return w.compare("olt", w.intrinsic("fabs", x[0]), w.splat(math.inf))
        if op == "sign":
            one = w.intrinsic("copysign", w.splat(1.0), x[0])
            return w.select(w.compare("one", x[0], w.splat(0.0)), one, x[0])
        if op == "round32":
            narrow = w.op(f"fptrunc {w.floats} {x[0]} to <{w.lanes} x float>")
            return w.op(f"fpext <{w.lanes} x float> {narrow} to {w.floats}")
        if op == "order":
            bits = w.op(f"bitcast {w.floats} {x[0]} to {w.ints}")
            return w.i("xor", bits, w.i("lshr", w.i("ashr", bits, w.whole(63)), w.whole(1)))
        if op == "int":
            name = f"llvm.fptosi.sat.v{w.lanes}i64.v{w.lanes}f64"
            w.declared.setdefault(name, f"declare {w.ints} @{name}({w.floats})")
            return w.op(f"call {w.ints} @{name}({w.floats} {x[0]})")
        raise UnsupportedError(f"the operation `{op}` on floats")

    def _integer(self, op: str, x: Sequence[str], attr: object) -> str:
        w = self.w
        if op in _INTEGER:
            return w.i(_INTEGER[op], *x)
        if op == "neg":
            return w.i("sub", "zeroinitializer", x[0])
        if op in ("max", "min"):
            return w.select(w.i("icmp sgt" if op == "max" else "icmp slt", *x), x[0], x[1], w.ints)
        if op == "abs":
            return w.select(w.i("icmp slt", x[0], "zeroinitializer"), w.i("sub", "zeroinitializer", x[0]), x[0], w.ints)
        if op in ("remainder", "quotient"):
            return self._division(op, x)
        if op == "sign":
            positive = w.select(w.i("icmp sgt", x[0], "zeroinitializer"), w.whole(1), "zeroinitializer", w.ints)
            return w.select(w.i("icmp slt", x[0], "zeroinitializer"), w.whole(-1), positive, w.ints)
        if op == "float":
            return w.op(f"sitofp {w.ints} {x[0]} to {w.floats}")
        if op == "from_bits" and attr == 64:
            return w.op(f"bitcast {w.ints} {x[0]} to {w.floats}")
        if op == "from_bits":
            narrow = w.op(f"trunc {w.ints} {x[0]} to <{w.lanes} x i32>")
            single = w.op(f"bitcast <{w.lanes} x i32> {narrow} to <{w.lanes} x float>")
            return w.op(f"fpext <{w.lanes} x float> {single} to {w.floats}")
        if op == "wrap":
            sign, size = str(attr)[1], int(str(attr)[2:]) * 8
            narrow = w.op(f"trunc {w.ints} {x[0]} to <{w.lanes} x i{size}>")
            return w.op(f"{'sext' if sign == 'i' else 'zext'} <{w.lanes} x i{size}> {narrow} to {w.ints}")
        raise UnsupportedError(f"the operation `{op}` on integers")

    def _bits(self, x: str, size: object) -> str:
        """Return the bits of floats of 64 or 32 bits as integers."""
        w = self.w
        if size == 64:
            return w.op(f"bitcast {w.floats} {x} to {w.ints}")
        single = w.op(f"fptrunc {w.floats} {x} to <{w.lanes} x float>")
        narrow = w.op(f"bitcast <{w.lanes} x float> {single} to <{w.lanes} x i32>")
        return w.op(f"sext <{w.lanes} x i32> {narrow} to {w.ints}")

    def _division(self, op: str, x: Sequence[str]) -> str:
        """Divide integers as XLA does: by zero gives -1, and the dividend as remainder; so does what overflows."""
        w = self.w
        by_zero = w.i("icmp eq", x[1], "zeroinitializer")
        by_minus = w.i("icmp eq", x[1], w.whole(-1))
        safe = w.select(w.op(f"or {w.masks} {by_zero}, {by_minus}"), w.whole(1), x[1], w.ints)
        if op == "quotient":
            result = w.select(by_minus, w.i("sub", "zeroinitializer", x[0]), w.i("sdiv", x[0], safe), w.ints)
            return w.select(by_zero, w.whole(-1), result, w.ints)
        return w.select(by_zero, x[0], w.i("srem", x[0], safe), w.ints)

    # --- functions, branches and loops -------------------------------------------------------------------------------

    def _slots(self, kinds: Sequence[str], values: Sequence[str] | None = None) -> str:
        """Reserve rows of memory; return their address."""
        w = self.w
        base = w.reserve(max(len(kinds), 1))
        for k, (kind, value) in enumerate(zip(kinds, values or [], strict=False)):
            w.store(value, w.row(base, k), kind)
        return base

    def _call(self, graph: Graph, node: Node, value: Callable[[int], str]) -> str:
        function = node.attr_as(Function)
        self.functions.setdefault(function.name, function)
        places, copies = self._blocks(graph, node, function.blocks, value)
        out = self._slots(["float"] * len(function.region.outputs))
        given = ", ".join(f"ptr {place}" for place in ("%frame", *places, out))
        self.w.put(f"  call void @{function.name}({given})")
        for copy in copies:
            self.w.release(copy)
        return out

    def _routine(self, graph: Graph, node: Node, value: Callable[[int], str]) -> str:
        routine = node.attr_as(AbstractRoutine)
        places, copies = self._blocks(graph, node, routine.blocks, value)
        out = self._slots(["float"] * routine.rows)
        routine.write(self.w, places, out)
        for copy in copies:
            self.w.release(copy)
        return out

    def _blocks(
        self, graph: Graph, node: Node, sizes: Sequence[int], value: Callable[[int], str]
    ) -> tuple[list[str], list[str]]:
        """Return the addresses of blocks of operands, and those of them that are copies."""
        places, copies, first = [], [], 0
        for size in sizes:
            nodes = node.args[first : first + size]
            place = self._in_place(graph, nodes)
            if place is None:
                place = self._slots([graph.kind(i) for i in nodes], [value(i) for i in nodes])
                copies.append(place)
            places.append(place)
            first += size
        return places, copies

    def _lookup(self, graph: Graph, node: Node, value: Callable[[int], str]) -> str:
        """Return an element, of each lane at an index of its own."""
        w, (index, *elements) = self.w, node.args
        numbers = [graph.value(i) for i in elements]
        wanted, table = value(index), None
        if node.kind == "float" and None not in numbers:
            table = w.table(tuple(float(x) for x in numbers if x is not None))
        place, copy = table or self._in_place(graph, elements), None
        if place is None:
            place = copy = self._slots([node.kind] * len(elements), [value(i) for i in elements])
        type, out = "double" if node.kind == "float" else "i64", "poison"
        for lane in range(w.lanes):
            k = w.op(f"extractelement {w.ints} {wanted}, i64 {lane}")
            k = k if table else w.add(w.mul(k, w.lanes), lane)
            x = w.op(f"load {type}, ptr {w.at(type, place, k)}")
            out = w.op(f"insertelement <{w.lanes} x {type}> {out}, {type} {x}, i64 {lane}")
        if copy is not None:
            w.release(copy)
        return w.i("icmp ne", out, "zeroinitializer") if node.kind == "bool" else out

    def _in_place(self, graph: Graph, nodes: Sequence[int]) -> str | None:
        """Return where nodes stand in memory, None if they do not stand there one after the other."""
        source = RowArithmetic(graph).source(np.array(nodes)) if nodes else None
        return None if source is None or source.op == "shared" else self._place(graph, source)

    def _place(self, graph: Graph, source: Place) -> str:
        """Return the address of an array in memory."""
        if isinstance(source.first, Shared):
            return self.w.shared(source.first)
        if isinstance(source.first, Argument):
            return self.w.row(f"%in{source.first.block}", source.first.number)
        base = "%frame" if source.op == "in" else self._memory[graph, source.args[0]]
        return self.w.row(base, source.first)

    def _rows(self, graph: Graph, node: Node, args: Sequence[str]) -> str:
        """Write a loop over rows."""
        w = self.w
        loop = node.attr_as(RowLoop)
        outer = dict(zip(loop.outer, args, strict=True))
        inside, kind = loop.graph, loop.graph.kind(loop.output)
        sources = {n.attr_as(Place) for i in inside.needed([loop.output]) if (n := inside.nodes[i]).op == "row"}
        places = {source: self._place(graph, source) for source in sorted(sources, key=repr)}
        out = self._slots(["float"] * loop.length)

        def body(k: str) -> None:
            def read(inner: Node) -> str:
                if inner.op == "outer":
                    return outer[inner.attr_as(int)]
                if inner.op == "index":
                    return w.spread("i64", k)
                if inner.op == "table":
                    return self._number(inner, k)
                place = inner.attr_as(Place)
                if place.op == "shared":
                    return w.spread("double", w.op(f"load double, ptr {w.at('double', places[place], k)}"))
                return w.load(w.row(places[place], k), inner.kind)

            (result,) = self.region(Region(inside, [loop.output]), read)
            w.store(result, w.row(out, k), kind)

        w.loop(loop.length, body)
        return out

    def _number(self, node: Node, k: str) -> str:
        """Load a number of a table into every lane."""
        cell = self.w.at("double", self.w.table(node.attr_as(tuple)), k)
        return self.w.spread("double", self.w.op(f"load double, ptr {cell}"))

    def write_functions(self, hot: Container[str]) -> None:
        """Write the functions that were called, and those that these call; what is not `hot` is compiled quickly."""
        w, written = self.w, set()
        while waiting := [name for name in self.functions if name not in written]:
            for name in waiting:
                written.add(name)
                function = self.functions[name]

                def body(region: Region = function.region) -> None:
                    self.stored(region, "%out", range(len(region.outputs)))
                    w.put("  ret void")

                blocks = "".join(f"ptr %in{k}, " for k in range(len(function.blocks)))
                effort = "noinline" if name in hot else QUICKLY
                w.function(f"internal void @{name}(ptr %frame, {blocks}ptr noalias %out) {effort}", body)

    def stored(self, region: Region, base: str, rows: Sequence[int]) -> None:
        """Write a region of whose outputs each goes to a row; those that follow one another in memory are copied.

        Of outputs there may be more than rows: what is needed for what it does.
        """
        w, graph, outputs, runs = self.w, region.graph, region.outputs[: len(rows)], []
        first = 0
        while first < len(outputs):
            count = 1
            if graph.nodes[outputs[first]].op == "result":
                source = graph.nodes[outputs[first]]
                while first + count < len(outputs) and rows[first + count] == rows[first] + count:
                    if graph.nodes[outputs[first + count]] != source._replace(attr=source.attr_as(int) + count):
                        break
                    count += 1
            runs.append((first, count))
            first += count
        alone = [k for k, count in runs if count <= LONG for k in range(k, k + count)]
        values = self.region(region, self.read_frame, [outputs[k] for k in alone])
        for k, value in zip(alone, values, strict=True):
            w.store(value, w.row(base, rows[k]), graph.kind(outputs[k]))
        for first, count in runs:
            if count > LONG:
                source = graph.nodes[outputs[first]]
                place, into = w.row(self._memory[graph, source.args[0]], source.attr_as(int)), w.row(base, rows[first])
                w.loop(count, lambda k: w.store(w.load(w.row(place, k), "int"), w.row(into, k), "int"))  # noqa: B023

    def read_frame(self, node: Node) -> str:
        """Load an input from the frame of the patients, or an argument of a function."""
        if node.op == "in":
            return self.w.load(self.w.row("%frame", node.attr_as(int)), node.kind)
        if node.op == "shared":
            return self.w.spread("double", self.w.op(f"load double, ptr {self.w.shared(node.attr_as(Shared))}"))
        argument = node.attr_as(Argument)
        return self.w.load(self.w.row(f"%in{argument.block}", argument.number), node.kind)

    def _cond(self, graph: Graph, node: Node, args: Sequence[str]) -> str:
        w = self.w
        regions = node.attr_as(Branches).regions
        which, *values = args
        outputs = [regions[0].graph.kind(i) for i in regions[0].outputs]
        slots = self._slots(outputs)
        boolean = graph.kind(node.args[0]) == "bool"
        for k, region in enumerate(regions):
            if boolean:
                here = which if k else w.op(f"xor {w.masks} {which}, splat (i1 true)")
            elif k == 0:
                here = w.i("icmp sle", which, w.whole(0))
            else:
                here = w.i("icmp sge" if k == len(regions) - 1 else "icmp eq", which, w.whole(k))
            taken, after = w.fresh("taken"), w.fresh("after")
            w.branch(w.any(here), taken, after)
            w.label(taken)
            results = self.region(region, lambda inner: values[inner.attr_as(int)])  # noqa: B023
            self._keep(slots, outputs, results, here)
            w.jump(after)
            w.label(after)
        return slots

    def _keep(self, slots: str, kinds: Sequence[str], results: Sequence[str], here: str) -> None:
        w = self.w
        for k, (kind, result) in enumerate(zip(kinds, results, strict=True)):
            row = w.row(slots, k)
            w.store(w.select(here, result, w.load(row, kind), w.type_of(kind)), row, kind)

    def _while(self, graph: Graph, node: Node, args: Sequence[str]) -> str:
        w = self.w
        condition, body, n_cond, n_body = node.attr_as(Loop)
        cond_consts, body_consts = list(args[:n_cond]), list(args[n_cond : n_cond + n_body])
        kinds = [graph.kind(i) for i in node.args[n_cond + n_body :]]
        slots = self._slots(kinds, args[n_cond + n_body :])
        running = self._slots(["bool"], ["splat (i1 true)"])
        head, inside, after = (w.fresh(name) for name in ("head", "inside", "after"))
        w.jump(head)
        w.label(head)
        carry = [w.load(w.row(slots, k), kind) for k, kind in enumerate(kinds)]
        (goes_on,) = self.region(condition, lambda inner: [*cond_consts, *carry][inner.attr_as(int)])
        here = w.op(f"and {w.masks} {w.load(running, 'bool')}, {goes_on}")
        w.store(here, running, "bool")
        w.branch(w.any(here), inside, after)
        w.label(inside)
        carry = [w.load(w.row(slots, k), kind) for k, kind in enumerate(kinds)]
        results = self.region(body, lambda inner: [*body_consts, *carry][inner.attr_as(int)])
        self._keep(slots, kinds, results, w.load(running, "bool"))
        w.jump(head)
        w.label(after)
        w.release(running)
        return slots

    def _repeat(self, graph: Graph, node: Node, args: Sequence[str]) -> str:
        w = self.w
        region, length, n_body = node.attr_as(Repetition)
        consts, kinds = list(args[:n_body]), [graph.kind(i) for i in node.args[n_body:]]
        slots = self._slots(kinds, args[n_body:])

        def body(k: str) -> None:
            values = [*consts, *(w.load(w.row(slots, i), kind) for i, kind in enumerate(kinds))]

            def read(inner: Node) -> str:
                return self._number(inner, k) if inner.op == "table" else values[inner.attr_as(int)]

            for i, (kind, result) in enumerate(zip(kinds, self.region(region, read), strict=True)):
                w.store(result, w.row(slots, i), kind)

        w.loop(length, body)
        return slots
