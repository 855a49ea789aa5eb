"""Derivatives of the primitives in both modes and of every order."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from qspjax.solve.kernel.primitives._define import (
    ACCEPTED,
    SOLVED,
    Derivative,
    Ensemble,
    Operands,
    adjoint_p,
    derivative_along,
    record_p,
    replayed,
    smooth,
    solve_p,
    steps_p,
    tangent_p,
)
from qspjax.solve.kernel.primitives._marked import Tangent, instantiated, nonzero, replace, select, widen

Results = tuple[list[jax.Array], list[Tangent]]
"""Results of a primitive, and their tangents."""


def _zeros(values: Sequence[jax.Array]) -> list[Tangent]:
    return [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in values]


# solve and record


def _solve_rule(leaves: Sequence[jax.Array], tangents: Sequence[Tangent], *, ensemble: Ensemble) -> Results:
    return _record_and_push(solve_p, leaves, tangents, ensemble)


def _record_rule(leaves: Sequence[jax.Array], tangents: Sequence[Tangent], *, ensemble: Ensemble) -> Results:
    return _record_and_push(record_p, leaves, tangents, ensemble)


def _steps_rule(leaves: Sequence[jax.Array], _: Sequence[Tangent], *, ensemble: Ensemble) -> Results:
    steps = steps_p.bind(*leaves, ensemble=ensemble)
    return steps, _zeros(steps)


def _record_and_push(
    primitive: Primitive, leaves: Sequence[jax.Array], tangents: Sequence[Tangent], ensemble: Ensemble
) -> Results:
    """Record the solve; return its results, and their tangents."""
    ensemble = ensemble.with_compact_system()
    results = record_p.bind(*leaves, ensemble=ensemble)
    solved = results if primitive is record_p else results[:SOLVED]
    wrt = nonzero(tangents)
    if not any(wrt):
        return solved, _zeros(solved)
    derivative = Derivative(ensemble, jax.tree.structure(ensemble.empty_record(leaves)), wrt)
    directions = [tangent[None] for tangent in instantiated(select(tangents, wrt))]
    (states,) = Operands(results[SOLVED:], results[ACCEPTED], list(leaves), directions).bind(tangent_p, derivative)
    return solved, [states[0], *_zeros(solved[1:])]


# tangent


def _tangent_rule(
    primals: Sequence[jax.Array], tangents: Sequence[Tangent], *, derivative: Derivative
) -> tuple[list[jax.Array], list[Tangent]]:
    """Differentiate `tangent`: of one more order along the tangents of the leaves, and linear in each of its own."""
    values, along = derivative.unpack(primals), derivative.unpack(tangents)
    by_order = derivative.by_order(values.tangents)

    def pushed(by_order: Sequence[Sequence[jax.Array]], wrt: tuple[bool, ...]) -> jax.Array:
        flat = list(itertools.chain.from_iterable(by_order))
        (states,) = dataclasses.replace(values, tangents=flat).bind(tangent_p, derivative._replace(wrt=wrt))
        return states

    terms = []
    for k, patient_tangents in enumerate(derivative.by_order(along.tangents)):
        if any(nonzero(patient_tangents)):
            terms.append(pushed([*by_order[:k], instantiated(patient_tangents), *by_order[k + 1 :]], derivative.wrt))
    moves = nonzero(along.leaves)
    if any(moves):
        directions = values.tangents[0].shape[0]
        combined = tuple(before or new for before, new in zip(derivative.wrt, moves, strict=True))
        zeros = [jnp.zeros((directions, *leaf.shape), leaf.dtype) for leaf in select(values.leaves, combined)]
        longer = [replace(zeros, select(derivative.wrt, combined), patients) for patients in by_order]
        new = [widen(tangent, directions) for tangent in instantiated(select(along.leaves, moves))]
        terms.append(pushed([*longer, replace(zeros, select(moves, combined), new)], combined))
    states = pushed(by_order, derivative.wrt)
    return [states], [functools.reduce(jnp.add, terms)] if terms else _zeros([states])


def _transpose_tangent(
    cotangents: Sequence[Tangent], *operands: jax.Array | ad.UndefinedPrimal, derivative: Derivative
) -> list[jax.Array | None]:
    values = derivative.unpack(operands)
    (cotangent,) = cotangents
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    fixed = _known(operands[: len(operands) - len(values.tangents)])
    known = derivative.unpack([*fixed, cotangent])
    by_order = derivative.by_order(values.tangents)
    pulled = known.bind(adjoint_p, derivative) if len(by_order) == 1 else _transposed(derivative, known, by_order)
    pairs = zip(pulled, values.tangents, strict=True)
    return [*[None] * len(fixed), *(value if ad.is_undefined_primal(x) else None for value, x in pairs)]


def _known(operands: Sequence[jax.Array | ad.UndefinedPrimal]) -> list[jax.Array]:
    """Return operands of which all are known."""
    return [x for x in operands if not isinstance(x, ad.UndefinedPrimal)]


def _transposed(
    derivative: Derivative, known: Operands[jax.Array], by_order: Sequence[Sequence[jax.Array | ad.UndefinedPrimal]]
) -> list[jax.Array | None]:
    """Transpose a derivative of second or higher order in the tangent that is not known; None for the others.

    Args:
        derivative: The derivative.
        known: The operands that are known, with the cotangent of the states.
        by_order: The tangents, of which one is not known.
    """
    leaves, (cotangent,) = known.leaves, known.tangents
    states = replayed(derivative.ensemble, leaves, known.accepted)
    numbers, directions = smooth(leaves), len(cotangent)
    # all numbers have tangents, some of zero: jax transposes no linear solve of which a part is constant
    zeros = [jnp.zeros((directions, *leaf.shape), leaf.dtype) for leaf in select(leaves, numbers)]
    marks = select(derivative.wrt, numbers)
    unknown = next(k for k, patients in enumerate(by_order) if any(map(ad.is_undefined_primal, patients)))
    others = [replace(zeros, marks, _known(patients)) for k, patients in enumerate(by_order) if k != unknown]

    def along(unknown_tangents: Sequence[jax.Array]) -> jax.Array:
        return jax.vmap(lambda *tangents: derivative_along(states, leaves, tangents))(*others, unknown_tangents)

    (pulled,) = jax.vjp(along, zeros)[1](cotangent)
    selected = select(pulled, marks)
    return [value for k in range(len(by_order)) for value in (selected if k == unknown else [None] * len(selected))]


# adjoint


def _adjoint_rule(
    primals: Sequence[jax.Array], tangents: Sequence[Tangent], *, derivative: Derivative
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Differentiate `adjoint`, which equals the transposed derivative of the replay of the recorded steps."""
    values, along = derivative.unpack(primals), derivative.unpack(tangents)
    leaves, wrt, numbers = values.leaves, derivative.wrt, smooth(values.leaves)
    states = replayed(derivative.ensemble, leaves, values.accepted)

    def linear(chosen: Sequence[jax.Array], cotangents: Sequence[jax.Array]) -> list[jax.Array]:
        patients = replace(leaves, numbers, chosen)
        _, pull = jax.vjp(lambda chosen: states(replace(patients, wrt, chosen)), select(patients, wrt))
        return jax.vmap(lambda cotangent: pull(cotangent)[0])(cotangents[0])

    return jax.jvp(
        linear,
        (select(leaves, numbers), list(values.tangents)),
        (instantiated(select(along.leaves, numbers)), instantiated(along.tangents)),
    )


ad.primitive_jvps[solve_p] = _solve_rule
ad.primitive_jvps[record_p] = _record_rule
ad.primitive_jvps[steps_p] = _steps_rule
ad.primitive_jvps[tangent_p] = _tangent_rule
ad.primitive_jvps[adjoint_p] = _adjoint_rule
ad.primitive_transposes[tangent_p] = _transpose_tangent
