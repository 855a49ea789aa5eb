"""Functions of the numbers of a patient, or of a patient at a time, computed natively for all of them.

What is observed at every output, and what depends on parameters alone, are hundreds of operations on scalars, of which
XLA makes a program that takes longer to compile than all solves. Here they are one operation of it. Each axis that
`vmap` maps over is a leading axis of the operands, of length 1 in those that are not mapped; so nothing is repeated.
"""

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

from qspjax._jaxpr._products import WIDE, largest_product
from qspjax._jaxpr._walk import called, walk
from qspjax.solve.native import _call, _engine, rules  # noqa: F401  (the rules register themselves)
from qspjax.solve.native._emit import Emitter
from qspjax.solve.native._frame import CONTEXT, AbstractModule, Axis, nodes, region_of
from qspjax.solve.native._graph import Graph, Region
from qspjax.solve.native._order import functions_of
from qspjax.solve.native._outlined import Kinds, Outlined, kinds
from qspjax.solve.native._rows import RowArithmetic
from qspjax.solve.native._text import Elementary
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import UnsupportedError

FEW = 40
"""Up to this many equations, XLA compiles a function sooner."""
FEWER = 8
"""Up to this many equations, it compiles the derivatives of the function sooner, too."""
AXES = 4
"""The number of axes that can be mapped over natively."""
CHUNK = 64
"""So many vectors of lanes are taken from the queue at once."""
THREADED = 2048
"""So long is the first axis from which on another thread is worth its start."""

Result = TypeVar("Result")
Shape = tuple[int, ...]


def natively(function: Callable[..., Result], *arguments: PyTree) -> Result:
    """Compute a function of trees of arrays, natively where that compiles sooner.

    The results are those of the function up to rounding, in both modes of differentiation.

    Args:
        function: The function.
        arguments: Its arguments.
    """
    leaves, of_leaves = _over_leaves(function, arguments)
    return _Computed(of_leaves, leaves).result(leaves)


class Native(Generic[Result]):
    """A function of arrays, and of trees of arrays, that is computed as by `natively` whenever it is called."""

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._known: dict[Hashable, _Computed] = {}

    def __call__(self, *arguments: PyTree[jax.Array]) -> Result:
        """Compute it; arguments of the same shapes are traced once."""
        leaves, of_leaves = _over_leaves(self.function, arguments)
        key = jax.tree.structure(arguments), tuple((x.shape, x.dtype, x.weak_type) for x in leaves)
        computed = self._known.get(key) or _Computed(of_leaves, leaves)
        if not computed.traced:
            self._known[key] = computed
        return computed.result(leaves)


def _over_leaves(
    function: Callable[..., Result], arguments: tuple[PyTree, ...]
) -> tuple[list[jax.Array], Callable[..., Result]]:
    """Return the arrays in arguments, and a function as one of these."""
    arrays, static = eqx.partition(arguments, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def of_leaves(*leaves: jax.Array) -> Result:
        return function(*eqx.combine(jax.tree.unflatten(structure, leaves), static))

    return leaves, of_leaves


class _Computed:
    """How a function of arrays of some shapes is computed.

    Attributes:
        traced: Whether it refers to numbers that are traced.
    """

    def __init__(self, function: Callable[..., PyTree], leaves: Sequence[jax.Array]) -> None:
        self._program, shape = jax.make_jaxpr(function, return_shape=True)(*leaves)
        self._structure = jax.tree.structure(shape)
        consts = self._program.consts
        self.traced = any(isinstance(x, Tracer) for x in consts)
        self._parts: list[_Part] | None = None
        size = _size(self._program)
        keys = any(jnp.issubdtype(x.dtype, jax.dtypes.extended) for x in (*leaves, *consts))
        wide = largest_product(self._program.jaxpr) >= WIDE  # XLA makes one product of those of all patients
        if size > FEWER and not self._program.effects and not keys and not wide:
            self._origins = _origins(self._program, [Origin(k, {k}) for k in range(len(consts) + len(leaves))])
            self._parts = self._parts_of([*consts, *leaves], brief=size <= FEW)

    def _parts_of(self, values: Sequence[jax.Array], *, brief: bool) -> list["_Part"]:
        """Return what is computed natively: what has derivatives, and what has none."""
        computed = [k for k, x in enumerate(self._origins) if x.itself is None]
        floats = [k for k in computed if jnp.issubdtype(self._program.out_avals[k].dtype, jnp.inexact)]
        others = [k for k in computed if k not in floats]
        parts = ((floats, True), (others, False))
        return [
            _Part.of(self._program, values, self._origins, places, has_derivatives=has, brief=brief)
            for places, has in parts
            if places
        ]

    def result(self, leaves: Sequence[jax.Array]) -> PyTree:
        """Return the result."""
        return jax.tree.unflatten(self._structure, self._results(leaves))

    def _results(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        if self._parts is None:
            return jaxpr_as_fun(self._program)(*leaves)
        values = [*self._program.consts, *leaves]
        results = {k: values[x.itself] for k, x in enumerate(self._origins) if x.itself is not None}
        for part in self._parts:
            given = [values[k] for k in part.operands]
            given = given if part.has_derivatives else map(jax.lax.stop_gradient, given)
            native = bool(part.operands)  # else it is a number
            made = mapped_p.bind(*given, function=part.function, rank=0) if native else part.function.compute()
            results.update(zip(part.places, made, strict=True))
        return [results[k] for k in range(len(results))]


def _size(program: ClosedJaxpr) -> int:
    """Return the number of equations of a program, those of the functions that it calls included."""
    bodies = ((eqn, called(eqn, derivatives=False)) for eqn in program.jaxpr.eqns)
    return sum(1 if body is None else _size(body) for _, body in bodies)


class Origin(NamedTuple):
    """What a value is made of.

    Attributes:
        itself: The number of the input that it is, None if it is computed.
        sources: The numbers of the inputs that it is computed from.
    """

    itself: int | None
    sources: set[int]


def _origins(program: ClosedJaxpr, inputs: Sequence[Origin]) -> list[Origin]:
    """Return what each result is made of, from what constants and inputs are."""
    nothing = Origin(None, set())

    def apply(eqn: JaxprEqn, operands: Sequence[Origin]) -> Sequence[Origin]:
        body = called(eqn, derivatives=False)
        if body is not None:
            origins = _origins(body, [*[nothing] * len(body.consts), *operands])
            same = called(eqn) is not None  # or else what has the value of an input may have other derivatives
            return origins if same else [x._replace(itself=None) for x in origins]
        return [Origin(None, set[int]().union(*(x.sources for x in operands)))] * len(eqn.outvars)

    jaxpr = program.jaxpr
    return walk([*jaxpr.constvars, *jaxpr.invars], inputs, jaxpr.eqns, jaxpr.outvars, apply, lambda _: nothing)


class _Part(NamedTuple):
    """Some results of a program, as a function of those of its constants and inputs of which they are made.

    Attributes:
        function: The function.
        operands: The numbers of its operands among constants and inputs.
        places: Which results it computes.
        has_derivatives: Whether these have derivatives.
    """

    function: Outlined
    operands: Sequence[int]
    places: Sequence[int]
    has_derivatives: bool

    @classmethod
    def of(
        cls,
        program: ClosedJaxpr,
        values: Sequence[jax.Array],
        origins: Sequence[Origin],
        places: Sequence[int],
        *,
        has_derivatives: bool,
        brief: bool,
    ) -> "_Part":
        """Return some results of a program whose constants and inputs are `values`; only the shapes of inputs count."""
        count = len(program.consts)
        known = {k: values[k] for k in range(count) if not isinstance(values[k], Tracer)}
        used = set[int]().union(*(origins[k].sources for k in places))
        operands = sorted(used - known.keys())
        unused = {k: np.zeros(np.shape(x), x.dtype) for k, x in enumerate(values) if k not in used}

        def compute(*given: jax.Array) -> list[jax.Array]:
            all = known | unused | dict(zip(operands, given, strict=True))
            consts, inputs = ([all[k] for k in range(*span)] for span in ((0, count), (count, len(values))))
            results = jaxpr_as_fun(program.replace(consts=consts))(*inputs)
            return [results[k] for k in places]

        return cls(Outlined(compute, brief=brief), operands, places, has_derivatives)


mapped_p = Primitive("qspjax_mapped")
"""A function for each element of `rank` leading axes, which have the length 1 in operands that are the same for all."""
mapped_p.multiple_results = True


def _axes(shapes: Sequence[Shape], rank: int) -> Shape:
    """Return the lengths of the axes that are mapped over."""
    return tuple(max(shape[axis] for shape in shapes) for axis in range(rank))


@mapped_p.def_abstract_eval
def _shapes(*operands: ShapedArray, function: Outlined, rank: int) -> list[ShapedArray]:
    axes = _axes([x.shape for x in operands], rank)
    return [ShapedArray((*axes, *shape), dtype) for shape, dtype in function.shapes(_own(operands, rank))]


def _own(operands: Sequence[ShapedArray], rank: int) -> Kinds:
    """Return the shapes of the operands of one element."""
    return tuple((shape[rank:], dtype) for shape, dtype in kinds(operands))


def _by_jax(*operands: jax.Array, function: Outlined, rank: int) -> list[jax.Array]:
    """Compute it in operations of JAX."""
    if not rank:
        return function.compute(*operands)
    inner = functools.partial(_by_jax, function=function, rank=rank - 1)
    axes = tuple(0 if x.shape[0] > 1 else None for x in operands)
    alone = [x if axis == 0 else x[0] for x, axis in zip(operands, axes, strict=True)]
    return jax.vmap(inner, in_axes=axes)(*alone) if 0 in axes else [x[None] for x in inner(*alone)]


@mapped_p.def_impl
def _alone(*operands: jax.Array, function: Outlined, rank: int) -> list[jax.Array]:
    with jax.disable_jit(False):
        return _program(*operands, function=function, rank=rank)


@functools.partial(jax.jit, static_argnames=("function", "rank"))
def _program(*operands: jax.Array, function: Outlined, rank: int) -> list[jax.Array]:
    return mapped_p.bind(*operands, function=function, rank=rank)


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero], *, function: Outlined, rank: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    there = [tangent for tangent in tangents if not isinstance(tangent, ad.Zero)]
    marks = tuple(not isinstance(tangent, ad.Zero) for tangent in tangents)
    values = mapped_p.bind(*primals, function=function, rank=rank)
    return values, mapped_p.bind(*primals, *there, function=function.tangent(marks), rank=rank)


def _transpose(
    cotangents: Sequence[jax.Array | ad.Zero],
    *operands: jax.Array | ad.UndefinedPrimal,
    function: Outlined,
    rank: int,
) -> list[jax.Array | None]:
    assert function.origin is not None  # only derivatives are linear
    origin, marks = function.origin
    primals = cast("Sequence[jax.Array]", operands[: len(marks)])
    there = tuple(not isinstance(x, ad.Zero) for x in cotangents)
    given = [x for x in cotangents if not isinstance(x, ad.Zero)]
    axes, linear = _axes([x.shape for x in (*primals, *given)], rank), operands[len(marks) :]
    groups: dict[tuple[int, ...], list[int]] = {}  # by the axes that they do not have
    for k, x in enumerate(linear):
        if ad.is_undefined_primal(x):
            shared = tuple(axis for axis in range(rank) if x.aval.shape[axis] < axes[axis])
            groups.setdefault(shared, []).append(k)
    pulled = origin.cotangent(marks, there).joined(tuple(map(tuple, groups.values())))
    values = mapped_p.bind(*primals, *given, function=pulled, rank=rank)
    results: list[jax.Array | None] = [None] * len(operands)
    for (shared, places), value in zip(groups.items(), values, strict=True):
        value = value.sum(axis=shared, keepdims=True) if shared else value
        shapes = [linear[k].aval.shape for k in places]
        parts = jax.lax.split(value, [math.prod(shape[rank:]) for shape in shapes], axis=rank)
        for k, shape, part in zip(places, shapes, parts, strict=True):
            results[len(marks) + k] = part.reshape(shape)
    return results


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, function: Outlined, rank: int
) -> tuple[list[jax.Array], list[int]]:
    pairs = zip(operands, axes, strict=True)
    moved = [x.reshape(1, *x.shape) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    results = mapped_p.bind(*moved, function=function, rank=rank + 1)
    return results, [0] * len(results)


ad.primitive_jvps[mapped_p] = _jvp
ad.primitive_transposes[mapped_p] = _transpose
batching.primitive_batchers[mapped_p] = _batch


# native code


class MapText(AbstractModule):
    """The module of a function that is mapped.

    Attributes:
        mapped: For each operand, which axes it has.
    """

    def __init__(
        self,
        function: Outlined,
        shapes: Kinds,
        mapped: Sequence[tuple[bool, ...]],
        lanes: int,
    ) -> None:
        """Write it.

        Args:
            function: The function.
            shapes: The shapes of its operands.
            mapped: For each operand, which axes it has.
            lanes: The number of lanes.
        """
        super().__init__(lanes)
        self.mapped, self.operands, self.rank = mapped, len(shapes), len(mapped[0])
        self.inputs, self.outputs = (
            [self.new_rows(jax.ShapeDtypeStruct(*kind)) for kind in all] for all in (shapes, function.shapes(shapes))
        )
        translator = Translator(Graph(sparse=function.sparse))
        translator.rows = RowArithmetic(translator.graph)
        values = function.translate(translator, nodes(translator, self.inputs, [shape for shape, _ in shapes]))
        self.results = tuple(f"result{k}" for k in range(len(self.outputs)))
        self._write(region_of(translator, values))

    @property
    def lengths(self) -> Mapping[str, Axis | None]:
        places: dict[str, Axis | None] = {CONTEXT[axis]: Axis(True, 0, axis) for axis in range(self.rank)}
        return places or {CONTEXT[0]: None}

    def _write(self, region: Region) -> None:
        w, emitter = self.w, Emitter(self.w)

        def compute() -> None:
            values = emitter.region(region, emitter.read_frame)
            for row, (node, value) in enumerate(zip(region.outputs, values, strict=True), self.outputs[0].first):
                w.store(value, w.row("%frame", row), region.graph.kind(node))
            w.put("  ret void")

        w.function("internal void @compute(ptr %frame) noinline", compute)
        emitter.write_functions({f.name for f in functions_of(region.graph, region.outputs)})
        Elementary(w).write()
        w.function("void @run(ptr %ctx)", self._run)

    def _run(self) -> None:
        """Take vectors of lanes from the queue until there are none."""
        w = self.w
        frame = w.alloca(w.floats, max(self.size, 1))
        w.put(f"  %frame = getelementptr i8, ptr {frame}, i64 0")
        w.loop(w.lanes, lambda lane: self._load(lane, None, []))
        axes = [self.field(name) for name in CONTEXT[: self.rank]]
        total = functools.reduce(w.mul, axes, "1")
        w.jump("more")
        w.label("more")
        begin = w.op(f"atomicrmw add ptr {self.field('counter', 'ptr')}, i64 {CHUNK * w.lanes} monotonic")
        w.branch(w.op(f"icmp slt i64 {begin}, {total}"), "some", "none")
        w.label("none")
        w.put("  ret void")
        w.label("some")
        left = w.op(f"sub i64 {w.add(total, w.lanes - 1)}, {begin}")
        vectors = w.op(f"udiv i64 {left}, {w.lanes}")
        count = w.op(f"select i1 {w.op(f'icmp slt i64 {vectors}, {CHUNK}')}, i64 {vectors}, i64 {CHUNK}")
        last = w.op(f"sub i64 {total}, 1")

        def vector(k: str) -> None:
            first = w.add(begin, w.mul(k, w.lanes))

            def element(lane: str) -> str:
                """Return the number of the element in a lane; after the last one it is that again."""
                number = w.add(first, lane)
                return w.op(f"select i1 {w.op(f'icmp slt i64 {number}, {last}')}, i64 {number}, i64 {last}")

            w.loop(w.lanes, lambda lane: self._load(lane, element(lane), axes))
            w.put("  call void @compute(ptr %frame)")

            def store(lane: str) -> None:
                number = element(lane)
                for name, rows in zip(self.results, self.outputs, strict=True):
                    self.copy_out(self.field(name, "ptr"), w.mul(number, rows.size), rows, lane)

            w.loop(w.lanes, store)

        w.loop(count, vector)
        w.jump("more")

    def _load(self, lane: str, number: str | None, axes: Sequence[str]) -> None:
        """Copy the operands of an element into a lane; without a number, those that are the same for all."""
        w = self.w
        places: dict[tuple[bool, ...], str] = {}
        index: list[str] = []
        for axis in reversed(axes):
            assert number is not None
            if axis is not axes[0]:
                index.insert(0, w.op(f"urem i64 {number}, {axis}"))
                number = w.op(f"udiv i64 {number}, {axis}")
            else:
                index.insert(0, number)
        for k, (mapped, rows) in enumerate(zip(self.mapped, self.inputs, strict=True)):
            if any(mapped) != bool(axes):
                continue
            if mapped not in places:
                place = "0"
                for there, i, length in zip(mapped, index, axes, strict=bool(axes)):
                    place = w.add(w.mul(place, length), i) if there else place
                places[mapped] = place
            self.copy_in(self.field(k, "ptr"), w.mul(places[mapped], rows.size), rows, lane)


def _joined(shapes: Sequence[Shape], rank: int) -> list[tuple[int, ...]]:
    """Return the axes in groups, each of neighbours that the same operands have; those of length 1 are in none."""
    axes = [axis for axis, length in enumerate(_axes(shapes, rank)) if length > 1]
    groups: list[list[int]] = []
    for axis in axes:
        if groups and all((shape[axis] > 1) == (shape[groups[-1][-1]] > 1) for shape in shapes):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return [tuple(group) for group in groups]


def _lower(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, function: Outlined, rank: int) -> Sequence:
    avals = cast("Sequence[ShapedArray]", ctx.avals_in)
    shapes, own = [x.shape for x in avals], _own(avals, rank)
    lengths, results = _axes(shapes, rank), function.shapes(own)
    groups = _joined(shapes, rank)
    joined = tuple(math.prod(lengths[axis] for axis in group) for group in groups)
    mapped = [tuple(shape[group[0]] > 1 for group in groups) for shape in shapes]
    try:
        _check(function, (*kinds(avals), *results), groups)
        name = _call.register(MapText(function, own, mapped, _engine.widest()), {}, THREADED)
    except UnsupportedError:
        return for_xla(ctx, *operands, function=function, rank=rank)
    made = [jax.ShapeDtypeStruct((*joined, *shape), dtype) for shape, dtype in results]

    def call(*operands: jax.Array) -> list[jax.Array]:
        values = jax.ffi.ffi_call(name, made)(*operands)
        return [value.reshape(*lengths, *shape) for value, (shape, _) in zip(values, results, strict=True)]

    return mlir.lower_fun(call, multiple_results=True)(ctx, *operands)


def _check(function: Outlined, arrays: Kinds, axes: Sequence[tuple[int, ...]]) -> None:
    """Check that a function is to be compiled here.

    Raises:
        UnsupportedError: If it is not.
    """
    _call.check_backend()
    if function.brief:
        raise UnsupportedError("a function of a few operations")
    if len(axes) > AXES:
        raise UnsupportedError(f"more than {AXES} axes that are mapped over")
    if not all(math.prod(shape) for shape, _ in arrays):
        raise UnsupportedError("arrays without elements")
    if any(jnp.issubdtype(dtype, jnp.inexact) and dtype != np.float64 for _, dtype in arrays):
        raise UnsupportedError("single precision")


for_xla = mlir.lower_fun(_by_jax, multiple_results=True)
mlir.register_lowering(mapped_p, for_xla)
mlir.register_lowering(mapped_p, _lower, platform="cpu")
