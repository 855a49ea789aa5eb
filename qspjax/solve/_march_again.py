"""Derivatives of the way of linear patients through boundaries: primitives, so that `vmap` only makes it more of them.

`again` is the states at outputs, which are known, and has derivatives: `tangent` is that along directions, in which it
is linear, and `adjoint` its transpose. What is differentiated once more is `_passage.marched_again`, in operations of
JAX.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qspjax._programs import alone
from qspjax.solve._march import March, as_patients
from qspjax.solve._passage import System, marched_again
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.kernel.primitives._batch import Axis, Batched, flat, fold_leaves, size_of, unfolded
from qspjax.solve.kernel.primitives._marked import Tangent, instantiated, nonzero, replace, select, widen


class Derivative(NamedTuple):
    """The static part of `tangent` and `adjoint`: the march, and which leaves of the patients are differentiated."""

    march: March
    wrt: tuple[bool, ...]

    def split(self, operands: Sequence) -> tuple[list, list]:
        """Return the leaves of the patients, and the tangents or cotangents."""
        count = len(self.wrt)
        return list(operands[:count]), list(operands[count:])

    def marks(self) -> Patients:
        """Return patients with true where they are differentiated, and None elsewhere."""
        return self.march.of([True if mark else None for mark in self.wrt])


def march_again(
    system: System, lines: Timeline, t0: jax.Array, reached: jax.Array, columns: Sequence[jax.Array]
) -> list[jax.Array]:
    """Return columns of the states at the outputs, which are known, with their derivatives.

    Args:
        system: What a patient is.
        lines: His boundaries.
        t0: Where he starts.
        reached: The number of boundaries that he reaches.
        columns: The columns.
    """
    patients, march = as_patients(system, lines, t0, columns[0].size, reached)
    given = [x[None] for x in columns]
    return [x[0] for x in again_p.bind(*jax.tree.leaves(patients), *given, march=march)]


def _primitive(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(alone(primitive))
    return primitive


again_p, tangent_p, adjoint_p = map(_primitive, ("qspjax_march_again", "qspjax_march_tangent", "qspjax_march_adjoint"))


@again_p.def_abstract_eval
def _(*operands: ShapedArray, march: March) -> list[ShapedArray]:
    return [ShapedArray(x.shape, x.dtype) for x in operands[-march.size :]]


@tangent_p.def_abstract_eval
def _(*operands: ShapedArray, derivative: Derivative) -> list[ShapedArray]:
    march, (leaves, tangents) = derivative.march, derivative.split(operands)
    shape = tangents[0].shape[0], march.patients, march.outputs
    return [ShapedArray(shape, march.of(leaves).y0.dtype)] * march.size


@adjoint_p.def_abstract_eval
def _(*operands: ShapedArray, derivative: Derivative) -> list[ShapedArray]:
    return [ShapedArray(shape, x.dtype) for x, shape in own_shapes(derivative, derivative.split(operands)[0])]


def own_shapes(derivative: Derivative, leaves: Sequence[ShapedArray]) -> list[tuple[ShapedArray, tuple[int, ...]]]:
    """Return the leaves that are differentiated, and the shape of each with one for every patient."""
    march = derivative.march
    pairs = zip(leaves, march.batched, strict=True)
    shapes = [(march.patients, *(leaf.shape[1:] if batched else leaf.shape)) for leaf, batched in pairs]
    return select(list(zip(leaves, shapes, strict=True)), derivative.wrt)


# ---- in operations of JAX


def _of_one(march: March) -> Callable[..., list[jax.Array]]:
    """Return the function from the leaves of one patient to his columns."""

    def one(*leaves: jax.Array) -> list[jax.Array]:
        patients = march.of(leaves)
        lines = Timeline(patients.boundaries, patients.vectors, march.protected)
        system = march.system_of(patients.constants, patients.y0)
        assert patients.ended is not None
        return marched_again(system, lines, patients.t0, march.outputs, patients.ended)

    return one


def _of_all(function: Callable[..., list[jax.Array]], march: March, more: int = 0) -> Callable[..., list[jax.Array]]:
    """Return a function of one patient for all of them; he has so many operands more, each with an axis of patients."""
    axes = [*(0 if batched else None for batched in march.batched), *[0] * more]

    def all(*operands: jax.Array) -> list[jax.Array]:
        if 0 in axes:
            return jax.vmap(function, in_axes=axes, axis_size=march.patients)(*operands)
        return [widen(x, march.patients) for x in function(*operands)]

    return all


def _again(*operands: jax.Array, march: March) -> list[jax.Array]:
    return list(operands[-march.size :])


def _tangent(*operands: jax.Array, derivative: Derivative) -> list[jax.Array]:
    leaves, tangents = derivative.split(operands)
    march, wrt = derivative

    def along(tangents: Sequence[jax.Array]) -> list[jax.Array]:
        columns = functools.partial(_columns, march, leaves, wrt)
        return jax.jvp(columns, (select(leaves, wrt),), (list(tangents),))[1]

    return jax.vmap(along)(tangents)


def _columns(
    march: March, leaves: Sequence[jax.Array], wrt: Sequence[bool], chosen: Sequence[jax.Array]
) -> list[jax.Array]:
    return _of_all(_of_one(march), march)(*replace(leaves, wrt, chosen))


def _adjoint(*operands: jax.Array, derivative: Derivative) -> list[jax.Array]:
    march, wrt = derivative

    def pull(*operands: jax.Array) -> list[jax.Array]:
        leaves, cotangents = derivative.split(operands)
        chosen = select(leaves, wrt)
        _, back = jax.vjp(lambda chosen: _of_one(march)(*replace(leaves, wrt, chosen)), chosen)
        return back(cotangents)[0]

    return _of_all(pull, march, more=march.size)(*operands)


for_xla = {
    primitive: mlir.lower_fun(compute, multiple_results=True)
    for primitive, compute in ((again_p, _again), (tangent_p, _tangent), (adjoint_p, _adjoint))
}
"""The lowerings that any platform has."""
for _primitive_, _lowering in for_xla.items():
    mlir.register_lowering(_primitive_, _lowering)


# ---- derivatives


def _again_rule(
    operands: Sequence[jax.Array], tangents: Sequence[Tangent], *, march: March
) -> tuple[list[jax.Array], Sequence[Tangent]]:
    columns, leaves, wrt = operands[-march.size :], operands[: -march.size], nonzero(tangents[: -march.size])
    if not any(wrt):
        return list(columns), [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in columns]
    along = [x[None] for x in instantiated(select(tangents[: -march.size], wrt))]
    pushed = tangent_p.bind(*leaves, *along, derivative=Derivative(march, wrt))
    return again_p.bind(*operands, march=march), [x[0] for x in pushed]


def _differentiate(compute: Callable[..., list[jax.Array]], primitive: Primitive) -> Callable:
    """Return the rule of a primitive that is linear in its last operands: native there, and in operations of JAX."""

    def differentiated(
        primals: Sequence[jax.Array], tangents: Sequence[Tangent], *, derivative: Derivative
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        values = primitive.bind(*primals, derivative=derivative)
        (leaves, given), (of_leaves, of_given) = derivative.split(primals), derivative.split(tangents)
        terms = []
        if any(nonzero(of_given)):
            terms.append(primitive.bind(*leaves, *instantiated(of_given), derivative=derivative))
        moves = nonzero(of_leaves)
        if any(moves):

            def moved(chosen: Sequence[jax.Array]) -> list[jax.Array]:
                return compute(*replace(leaves, moves, chosen), *given, derivative=derivative)

            terms.append(jax.jvp(moved, (select(leaves, moves),), (instantiated(select(of_leaves, moves)),))[1])
        return values, functools.reduce(lambda x, y: list(map(jnp.add, x, y)), terms)

    return differentiated


def _transpose_tangent(
    cotangents: Sequence[Tangent], *operands: jax.Array | ad.UndefinedPrimal, derivative: Derivative
) -> list[jax.Array | None]:
    leaves, tangents = derivative.split(operands)

    def pull(*cotangents: jax.Array) -> list[jax.Array]:
        return adjoint_p.bind(*leaves, *cotangents, derivative=derivative)

    given = instantiated(cotangents)
    pulled = [x[None] for x in pull(*(x[0] for x in given))] if len(given[0]) == 1 else jax.vmap(pull)(*given)
    batched = select(derivative.march.batched, derivative.wrt)
    totals = [x if each else x.sum(axis=1) for x, each in zip(pulled, batched, strict=True)]
    pairs = zip(totals, tangents, strict=True)
    return [*[None] * len(leaves), *(x if ad.is_undefined_primal(tangent) else None for x, tangent in pairs)]


def _transpose_adjoint(
    cotangents: Sequence[Tangent], *operands: jax.Array | ad.UndefinedPrimal, derivative: Derivative
) -> list[jax.Array | None]:
    leaves, given = derivative.split(operands)
    march, wrt = derivative
    batched = [before or mark for before, mark in zip(march.batched, wrt, strict=True)]
    pairs = zip(leaves, march.batched, batched, strict=True)
    own = [leaf if before == now else widen(leaf, march.patients) for leaf, before, now in pairs]
    along = [x[None] for x in instantiated(cotangents)]
    each = Derivative(march._replace(batched=tuple(batched)), wrt)
    pushed = tangent_p.bind(*own, *along, derivative=each)
    pairs = zip(pushed, given, strict=True)
    return [*[None] * len(leaves), *(x[0] if ad.is_undefined_primal(column) else None for x, column in pairs)]


ad.primitive_jvps[again_p] = _again_rule
ad.primitive_jvps[tangent_p] = _differentiate(_tangent, tangent_p)
ad.primitive_jvps[adjoint_p] = _differentiate(_adjoint, adjoint_p)
ad.primitive_transposes[tangent_p] = _transpose_tangent
ad.primitive_transposes[adjoint_p] = _transpose_adjoint


# ---- batches


def _folded(march: March, leaves: Sequence[jax.Array], axes: Sequence[Axis], size: int) -> tuple[March, list]:
    """Fold an axis into the patients."""
    longer, batched = fold_leaves(leaves, axes, march.batched, march.patients, size)
    return march._replace(patients=size * march.patients, batched=tuple(batched)), longer


def _batch_again(operands: Sequence[jax.Array], axes: Sequence[Axis], *, march: March) -> Batched:
    size, n = size_of(operands, axes), march.size
    longer, leaves = _folded(march, operands[:-n], axes[:-n], size)
    pairs = zip(operands[-n:], axes[-n:], strict=True)
    columns = [flat(widen(x, size) if axis is None else jnp.moveaxis(x, axis, 0)) for x, axis in pairs]
    return [unfolded(x, size) for x in again_p.bind(*leaves, *columns, march=longer)], [0] * n


def _batch_tangent(operands: Sequence[jax.Array], axes: Sequence[Axis], *, derivative: Derivative) -> Batched:
    """Make more directions where only they are mapped, and more patients elsewhere."""
    size, (march, wrt) = size_of(operands, axes), derivative
    (leaves, tangents), (of_leaves, of_tangents) = derivative.split(operands), derivative.split(axes)
    moved = [
        widen(x, size) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(tangents, of_tangents, strict=True)
    ]
    if all(axis is None for axis in of_leaves):
        columns = tangent_p.bind(*leaves, *map(flat, moved), derivative=derivative)
        return [unfolded(x, size) for x in columns], [0] * march.size
    for k, marked in enumerate(wrt):  # what has tangents is one for each patient
        if marked and of_leaves[k] is None and not march.batched[k]:
            leaves[k], of_leaves[k] = widen(leaves[k], size), 0
    longer, leaves = _folded(march, leaves, of_leaves, size)
    had_patients = select(march.batched, wrt)
    inner = [jnp.moveaxis(x, 0, 1) for x in moved]  # directions first, then the mapped axis
    pairs = zip(inner, had_patients, strict=True)
    along = [flat(x, 1) if batched else jnp.repeat(x, march.patients, axis=1) for x, batched in pairs]
    columns = tangent_p.bind(*leaves, *along, derivative=Derivative(longer, wrt))
    return [unfolded(x, size, axis=1) for x in columns], [1] * march.size


def _batch_adjoint(operands: Sequence[jax.Array], axes: Sequence[Axis], *, derivative: Derivative) -> Batched:
    size, (march, wrt) = size_of(operands, axes), derivative
    (leaves, given), (of_leaves, of_given) = derivative.split(operands), derivative.split(axes)
    longer, leaves = _folded(march, leaves, of_leaves, size)
    pairs = zip(given, of_given, strict=True)
    moved = [widen(x, size) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
    results = adjoint_p.bind(*leaves, *map(flat, moved), derivative=Derivative(longer, wrt))
    return [unfolded(x, size) for x in results], [0] * len(results)


batching.primitive_batchers[again_p] = _batch_again
batching.primitive_batchers[tangent_p] = _batch_tangent
batching.primitive_batchers[adjoint_p] = _batch_adjoint
