"""Batching: the axis that `vmap` maps over is folded into the patients, so that it makes the ensemble longer."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching

from qspjax.solve.kernel.primitives._define import (
    SOLVED,
    Derivative,
    Ensemble,
    Operands,
    adjoint_p,
    record_p,
    sized,
    solve_p,
    steps_p,
    tangent_p,
)
from qspjax.solve.kernel.primitives._marked import select, widen

Axis = int | None
"""The axis of an operand that is mapped over, None where it is not mapped."""
Batched = tuple[list[jax.Array], list[Axis]]


def fold_leaves(
    leaves: Sequence[jax.Array], axes: Sequence[Axis], had: Sequence[bool], patients: int, size: int
) -> tuple[list[jax.Array], list[bool]]:
    """Fold an axis into the patients.

    Args:
        leaves: The leaves of the patients.
        axes: The axis of each that is mapped over.
        had: Which of them had an axis of patients before.
        patients: The length of that.
        size: The length of the axis that is mapped over.

    Returns:
        The leaves, and which of them have an axis of patients now.
    """
    longer, batched = [], []
    for leaf, axis, has_patients in zip(leaves, axes, had, strict=True):
        if axis is None:
            longer.append(jnp.tile(leaf, (size, *[1] * (leaf.ndim - 1))) if has_patients else leaf)
            batched.append(has_patients)
        else:
            leaf = jnp.moveaxis(leaf, axis, 0)
            longer.append(flat(leaf) if has_patients else jnp.repeat(leaf, patients, axis=0))
            batched.append(True)
    return longer, batched


def _fold(
    ensemble: Ensemble, leaves: Sequence[jax.Array], axes: Sequence[Axis], size: int
) -> tuple[Ensemble, list[jax.Array]]:
    """Return the longer ensemble and its leaves."""
    N = ensemble.program.patients
    longer, batched = fold_leaves(leaves, axes, ensemble.batched, N, size)
    folded = ensemble.with_batched(batched, patients=size * N)
    return folded._replace(program=sized(folded.program)), longer


def flat(x: jax.Array, axis: int = 0) -> jax.Array:
    """Make one axis of two."""
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def unfolded(x: jax.Array, size: int, axis: int = 0) -> jax.Array:
    """Make two axes of one, of which the first is that which was mapped over."""
    return x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :])


def size_of(operands: Sequence[jax.Array], axes: Sequence[Axis]) -> int:
    """Return the length of the axis that is mapped over."""
    return next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)


def _batch_solve(leaves: Sequence[jax.Array], axes: Sequence[Axis], *, ensemble: Ensemble) -> Batched:
    size = size_of(leaves, axes)
    ensemble, leaves = _fold(ensemble, leaves, axes, size)
    results = solve_p.bind(*leaves, ensemble=ensemble)
    return [unfolded(x, size) for x in results], [0] * len(results)


def _batch_record(leaves: Sequence[jax.Array], axes: Sequence[Axis], *, ensemble: Ensemble) -> Batched:
    size = size_of(leaves, axes)
    ensemble, leaves = _fold(ensemble, leaves, axes, size)
    results = record_p.bind(*leaves, ensemble=ensemble)
    solved, record = results[:SOLVED], results[SOLVED:]
    return [*(unfolded(x, size) for x in solved), *record], [*[0] * SOLVED, *[None] * len(record)]


def _batch_steps(leaves: Sequence[jax.Array], axes: Sequence[Axis], *, ensemble: Ensemble) -> Batched:
    size = size_of(leaves, axes)
    ensemble, leaves = _fold(ensemble, leaves, axes, size)
    results = steps_p.bind(*leaves, ensemble=ensemble)
    return [unfolded(x, size, axis=1) for x in results], [1] * len(results)


def _batch_derivative(
    primitive: Primitive, operands: Sequence[jax.Array], axes: Sequence[Axis], *, derivative: Derivative
) -> Batched:
    """Batch `tangent` or `adjoint`.

    Where the patients are mapped, they were so when they were recorded, too: they are folded. Otherwise only tangents
    are mapped: more directions, with the factorisations shared.
    """
    size = size_of(operands, axes)
    values, mapped = derivative.unpack(operands), derivative.unpack(axes)
    # a mapped record holds the same ensemble `size` times over
    record = [
        x if axis is None else jnp.take(x, 0, axis=axis) for x, axis in zip(values.record, mapped.record, strict=True)
    ]
    values = dataclasses.replace(values, record=record)
    if all(axis is None for axis in mapped.leaves):
        if mapped.accepted is not None:
            values = dataclasses.replace(values, accepted=jnp.take(values.accepted, 0, axis=mapped.accepted))
        pairs = zip(values.tangents, mapped.tangents, strict=True)
        values = dataclasses.replace(values, tangents=[_more_directions(x, axis, size) for x, axis in pairs])
        results = values.bind(primitive, derivative)
        return [unfolded(x, size) for x in results], [0] * len(results)
    return _batch_patients(primitive, values, mapped, derivative, size)


def _batch_patients(
    primitive: Primitive, values: Operands[jax.Array], mapped: Operands[Axis], derivative: Derivative, size: int
) -> Batched:
    """Batch `tangent` or `adjoint` where patients are mapped."""
    ensemble, wrt, N = derivative.ensemble, derivative.wrt, derivative.program.patients
    # every differentiated leaf gets patients of its own: its derivative is one for each element of the mapped axis
    leaves, axes = list(values.leaves), list(mapped.leaves)
    for k, marked in enumerate(wrt):
        if marked and axes[k] is None and not ensemble.batched[k]:
            leaves[k], axes[k] = widen(leaves[k], size), 0
    if mapped.accepted is None:
        accepted = jnp.tile(values.accepted, size)
    else:
        accepted = jnp.moveaxis(values.accepted, mapped.accepted, 0).reshape(-1)
    longer, leaves = _fold(ensemble, leaves, axes, size)
    folded = Derivative(longer, jax.tree.structure(longer.empty_record(leaves)), wrt)
    had_patients = select(ensemble.batched, wrt)
    # directions first, then the mapped axis
    tangents = [
        jnp.moveaxis(jnp.moveaxis(x, axis, 0) if axis is not None else widen(x, size), 0, 1)
        for x, axis in zip(values.tangents, mapped.tangents, strict=True)
    ]
    if primitive is tangent_p:
        tangents = [
            flat(x, 1) if batched else jnp.repeat(x, N, axis=1)
            for patients in derivative.by_order(tangents)
            for x, batched in zip(patients, had_patients, strict=True)
        ]
    else:
        tangents = [flat(x, 1) for x in tangents]
    results = Operands(values.record, accepted, leaves, tangents).bind(primitive, folded)
    results = [unfolded(x, size, axis=1) for x in results]
    if primitive is adjoint_p:
        results = [x if batched else x.sum(axis=2) for x, batched in zip(results, had_patients, strict=True)]
    return results, [1] * len(results)


def _more_directions(x: jax.Array, axis: Axis, size: int) -> jax.Array:
    return flat(widen(x, size) if axis is None else jnp.moveaxis(x, axis, 0))


batching.primitive_batchers[solve_p] = _batch_solve
batching.primitive_batchers[record_p] = _batch_record
batching.primitive_batchers[steps_p] = _batch_steps
batching.primitive_batchers[tangent_p] = functools.partial(_batch_derivative, tangent_p)
batching.primitive_batchers[adjoint_p] = functools.partial(_batch_derivative, adjoint_p)
