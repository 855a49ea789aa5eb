"""The ensemble as JAX primitives: every operand may have an axis of patients, and `vmap` only makes it longer.

A rule of our own in both modes exists in no public form of JAX: `custom_vjp` forbids forward mode, and a loop of
unknown length cannot be transposed. So there are primitives: `solve` has a tangent rule that records (`record`) and
calls `tangent`, which is linear, and whose transpose is `adjoint`. The tangent of `tangent` is `tangent` of one order
more, and so on. What else derivatives of second and higher order need, that of `adjoint` and the transposes of these,
comes from a replay in plain JAX of the steps of each patient (`steps`).

The record belongs to the whole ensemble. Batching folds the mapped axis into the patients of all primitives alike, so
a record is never mapped itself: under `vmap` it is that of the longer ensemble.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qspjax.solve.kernel._adjoint import pull_back, push_forward
from qspjax.solve.kernel._fusion import fused
from qspjax.solve.kernel._lanes import BLOCK, End, Patients, Program, Record, blank, solve
from qspjax.solve.kernel._replay import replay

LANES = 64
"""Most lanes on a CPU: a hundred rows of so many numbers stay in the nearest cache."""


def run(program: Program, patients: Patients) -> tuple[jax.Array, End]:
    """Solve an ensemble; return the states at outputs, shape (patients, outputs, states), and how each patient ended.

    Args:
        program: What to solve; the number of lanes and the length of the log are chosen here.
        patients: The patients.
    """
    leaves, structure = jax.tree.flatten(patients)
    states, *end = solve_p.bind(*leaves, program=sized(program), structure=structure)
    return states, End(*end)


def sized(program: Program) -> Program:
    """Return the program with the number of lanes and the length of the log for its patients."""
    everyone = -(-program.patients // 16) * 16  # fewer, or a remainder, may be compiled to other roundings
    lanes = min(everyone, LANES) if jax.default_backend() == "cpu" else everyone
    rounds = -(-program.patients // lanes) + 1
    block = 8 * (2 * program.system.size + 4) * lanes * BLOCK  # bytes
    capacity = max(1, min(rounds * (program.expected // BLOCK + 2), program.memory // block))
    return dataclasses.replace(program, lanes=lanes, capacity=capacity)


class Operands(NamedTuple):
    """The operands of `tangent` and `adjoint`: a record, how many steps each patient took, the leaves, and what moves.

    `moved` are the tangents of those leaves that `wrt` marks, for a derivative of order k those of k ways one after the
    other; or the one cotangent of the states. Each has an axis of directions first.
    """

    record: Record
    accepted: jax.Array
    leaves: list[jax.Array]
    moved: list[jax.Array]


def _parted(operands: Sequence[Any], structure: Any, kept: Any) -> Operands:
    operands = list(operands)
    at, count = kept.num_leaves, structure.num_leaves
    record = jax.tree.unflatten(kept, operands[:at])
    return Operands(record, operands[at], operands[at + 1 : at + 1 + count], operands[at + 1 + count :])


def _laned(program: Program) -> list[bool]:
    return jax.tree.leaves(program.laned)


def _with_laned(program: Program, laned: Sequence[bool], structure: Any, **changes: Any) -> Program:
    return dataclasses.replace(program, laned=jax.tree.unflatten(structure, laned), **changes)


def _placed(structure: Any, wrt: Sequence[bool], values: Sequence[Any]) -> Patients:
    """Return patients that hold values at the leaves that `wrt` marks, and None elsewhere."""
    following = iter(values)
    return jax.tree.unflatten(structure, [next(following) if want else None for want in wrt])


# what the primitives compute


def _solve(*leaves: jax.Array, program: Program, structure: Any) -> list:
    solved = solve(program, jax.tree.unflatten(structure, leaves))
    return [solved.states, *solved.end]


def _record(*leaves: jax.Array, program: Program, structure: Any) -> list:
    solved = solve(program, jax.tree.unflatten(structure, leaves), record=True)
    return [solved.states, *solved.end, *jax.tree.leaves(solved.record)]


def _steps(*leaves: jax.Array, program: Program, structure: Any) -> list:
    solved = solve(program, jax.tree.unflatten(structure, leaves), steps=True)
    return [solved.steps, *([] if solved.causes is None else [solved.causes])]


def _tangent(*operands: jax.Array, program: Program, structure: Any, kept: Any, wrt: tuple[bool, ...]) -> list:
    record, accepted, leaves, moved = _parted(operands, structure, kept)
    apart = _apart(program, leaves, structure, wrt)
    wide = [own for own, want in zip(apart, wrt, strict=True) if want]
    moved = [
        [_widened(x, program.patients, axis=1) if own else x for x, own in zip(way, wide, strict=True)]
        for way in _ways(moved, wrt)
    ]
    program, patients = _spread(program, leaves, structure, apart)

    def push(moved: Sequence[Sequence[jax.Array]]) -> jax.Array:
        ways = [_placed(structure, wrt, way) for way in moved]
        return push_forward(program, patients, record, accepted, ways)

    return [_over_directions(push, moved)]


def _ways(moved: Sequence[Any], wrt: Sequence[bool]) -> list[Sequence[Any]]:
    """Return the tangents way by way."""
    return [moved[k : k + sum(wrt)] for k in range(0, len(moved), sum(wrt))]


def _adjoint(*operands: jax.Array, program: Program, structure: Any, kept: Any, wrt: tuple[bool, ...]) -> list:
    record, accepted, leaves, moved = _parted(operands, structure, kept)
    apart = _apart(program, leaves, structure, wrt)
    program, patients = _spread(program, leaves, structure, apart)
    wanted = _placed(structure, wrt, [True] * sum(wrt))
    wide = [own for own, want in zip(apart, wrt, strict=True) if want]

    def pull(moved: Sequence[jax.Array]) -> list:
        found = jax.tree.leaves(pull_back(program, patients, record, accepted, wanted, moved[0]))
        return [value.sum(axis=0) if own else value for value, own in zip(found, wide, strict=True)]

    return _over_directions(pull, moved)


def _apart(program: Program, leaves: Sequence[jax.Array], structure: Any, wrt: Sequence[bool]) -> list[bool]:
    """Return which shared leaves get a copy for each patient: what is differentiated, but for arrays of constants."""
    positions = jax.tree.unflatten(structure, range(structure.num_leaves))
    arrays = {k for k in positions.constants if leaves[k].ndim > 0}
    return [
        want and not own and k not in arrays for k, (want, own) in enumerate(zip(wrt, _laned(program), strict=True))
    ]


def _spread(
    program: Program, leaves: Sequence[jax.Array], structure: Any, apart: Sequence[bool]
) -> tuple[Program, Patients]:
    wide = [_widened(leaf, program.patients) if own else leaf for leaf, own in zip(leaves, apart, strict=True)]
    laned = [own or new for own, new in zip(_laned(program), apart, strict=True)]
    return _with_laned(program, laned, structure), jax.tree.unflatten(structure, wide)


def _widened(x: jax.Array, size: int, axis: int = 0) -> jax.Array:
    """Repeat along a new axis."""
    return jnp.repeat(jnp.expand_dims(x, axis), size, axis=axis)


def _over_directions(function: Callable[[Any], Any], moved: Any) -> Any:
    """Map over the leading axis of directions; a single one is computed as it is."""
    if jax.tree.leaves(moved)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], moved)))
    return jax.vmap(function)(moved)


def _primitive(name: str, compute: Callable[..., list]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True

    def compiled(*operands: jax.Array, **params: Any) -> list:
        return fused(functools.partial(compute, **params), params["program"].system)(*operands)

    primitive.def_impl(lambda *operands, **params: jax.jit(functools.partial(compiled, **params))(*operands))
    mlir.register_lowering(primitive, mlir.lower_fun(compiled, multiple_results=True))
    return primitive


solve_p = _primitive("qspjax_solve", _solve)
record_p = _primitive("qspjax_record", _record)
steps_p = _primitive("qspjax_steps", _steps)
tangent_p = _primitive("qspjax_tangent", _tangent)
adjoint_p = _primitive("qspjax_adjoint", _adjoint)


# shapes


def _solved_shapes(program: Program, dtype: Any) -> list[ShapedArray]:
    N, size = program.patients, program.system.size
    count = ShapedArray((N,), np.dtype(np.int32))
    states = ShapedArray((N, program.outputs, size), dtype)
    return [states, ShapedArray((N,), dtype), ShapedArray((N, size), dtype), count, count, count]


def _blank(program: Program, leaves: Sequence[Any], structure: Any) -> Record:
    patients = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves])
    return jax.eval_shape(functools.partial(blank, program), patients)


def _dtype(leaves: Sequence[Any], structure: Any) -> Any:
    return jax.tree.unflatten(structure, leaves).y0.dtype


@solve_p.def_abstract_eval
def _(*leaves: Any, program: Program, structure: Any) -> list:
    return _solved_shapes(program, _dtype(leaves, structure))


@record_p.def_abstract_eval
def _(*leaves: Any, program: Program, structure: Any) -> list:
    record = jax.tree.leaves(_blank(program, leaves, structure))
    kept = [ShapedArray(leaf.shape, leaf.dtype) for leaf in record]
    return [*_solved_shapes(program, _dtype(leaves, structure)), *kept]


@steps_p.def_abstract_eval
def _(*leaves: Any, program: Program, structure: Any) -> list:
    shape = (program.max_steps, program.patients)
    causes = [] if program.events is None else [ShapedArray(shape, np.dtype(np.int32))]
    return [ShapedArray(shape, _dtype(leaves, structure)), *causes]


@tangent_p.def_abstract_eval
def _(*operands: Any, program: Program, structure: Any, kept: Any, **_: Any) -> list:
    one = _parted(operands, structure, kept)
    states = _solved_shapes(program, _dtype(one.leaves, structure))[0]
    return [ShapedArray((one.moved[0].shape[0], *states.shape), states.dtype)]


@adjoint_p.def_abstract_eval
def _(*operands: Any, structure: Any, kept: Any, wrt: tuple[bool, ...], **_: Any) -> list:
    one = _parted(operands, structure, kept)
    directions = one.moved[0].shape[0]
    return [
        ShapedArray((directions, *leaf.shape), leaf.dtype) for leaf, want in zip(one.leaves, wrt, strict=True) if want
    ]


# batching: the mapped axis is folded into the patients


def _fold(program: Program, leaves: Sequence[Any], dims: Sequence[Any], structure: Any, size: int) -> tuple:
    """Return the program and the leaves of the longer ensemble."""
    N = program.patients
    long, laned = [], []
    for leaf, dim, own in zip(leaves, dims, _laned(program), strict=True):
        if dim is None:
            long.append(jnp.tile(leaf, (size, *[1] * (leaf.ndim - 1))) if own else leaf)
            laned.append(own)
        else:
            leaf = jnp.moveaxis(leaf, dim, 0)
            leaf = leaf.reshape(size * N, *leaf.shape[2:]) if own else jnp.repeat(leaf, N, axis=0)
            long.append(leaf)
            laned.append(True)
    return sized(_with_laned(program, laned, structure, patients=size * N)), long


def _unfolded(x: jax.Array, size: int, axis: int = 0) -> jax.Array:
    return x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :])


def _size(operands: Sequence[Any], dims: Sequence[Any]) -> int:
    return next(x.shape[dim] for x, dim in zip(operands, dims, strict=True) if dim is not None)


def _batch_solve(leaves: Sequence[Any], dims: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    size = _size(leaves, dims)
    program, leaves = _fold(program, leaves, dims, structure, size)
    out = solve_p.bind(*leaves, program=program, structure=structure)
    return [_unfolded(x, size) for x in out], [0] * len(out)


def _batch_record(leaves: Sequence[Any], dims: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    size = _size(leaves, dims)
    program, leaves = _fold(program, leaves, dims, structure, size)
    out = record_p.bind(*leaves, program=program, structure=structure)
    solved, record = out[:_SOLVED], out[_SOLVED:]
    return [*(_unfolded(x, size) for x in solved), *record], [0] * _SOLVED + [None] * len(record)


def _batch_steps(leaves: Sequence[Any], dims: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    size = _size(leaves, dims)
    program, leaves = _fold(program, leaves, dims, structure, size)
    out = steps_p.bind(*leaves, program=program, structure=structure)
    return [_unfolded(x, size, axis=1) for x in out], [1] * len(out)


def _batch_moved(
    primitive: Primitive,
    operands: Sequence[Any],
    dims: Sequence[Any],
    *,
    program: Program,
    structure: Any,
    kept: Any,
    wrt: tuple[bool, ...],
) -> tuple:
    """Batch `tangent` or `adjoint`.

    Where the patients are mapped, so were they when they were recorded: they are folded. Else only what moves is
    mapped: more directions, with the factorisations shared.
    """
    size, N = _size(operands, dims), program.patients
    _, accepted, leaves, moved = _parted(operands, structure, kept)
    at, count = kept.num_leaves, structure.num_leaves
    leaf_dims, moved_dims = dims[at + 1 : at + 1 + count], dims[at + 1 + count :]
    params = {"structure": structure, "wrt": wrt}
    # a mapped record holds the same ensemble `size` times over
    record = [x if dim is None else jnp.take(x, 0, axis=dim) for x, dim in zip(operands[:at], dims[:at], strict=True)]
    if all(dim is None for dim in leaf_dims):
        if dims[at] is not None:
            accepted = jnp.take(accepted, 0, axis=dims[at])
        moved = [_more_directions(x, dim, size) for x, dim in zip(moved, moved_dims, strict=True)]
        out = primitive.bind(*record, accepted, *leaves, *moved, program=program, kept=kept, **params)
        return [_unfolded_directions(x, size) for x in out], [0] * len(out)

    # every differentiated leaf gets patients of its own: its derivative is one for each element of the mapped axis
    before = _laned(program)
    leaves, leaf_dims = list(leaves), list(leaf_dims)
    for k, want in enumerate(wrt):
        if want and leaf_dims[k] is None and not before[k]:
            leaves[k], leaf_dims[k] = _widened(leaves[k], size), 0
    accepted = jnp.tile(accepted, size) if dims[at] is None else jnp.moveaxis(accepted, dims[at], 0).reshape(-1)
    longer, leaves = _fold(program, leaves, leaf_dims, structure, size)
    kept = jax.tree.structure(_blank(longer, leaves, structure))
    flat = [
        jnp.moveaxis(x, dim, 0) if dim is not None else _widened(x, size)
        for x, dim in zip(moved, moved_dims, strict=True)
    ]
    wanted = [own for own, want in zip(before, wrt, strict=True) if want]
    if primitive is tangent_p:
        moved = [
            jnp.moveaxis(x, 0, 1).reshape(x.shape[1], size * N, *x.shape[3:])
            if own
            else jnp.repeat(jnp.moveaxis(x, 0, 1), N, axis=1)
            for way in _ways(flat, wrt)
            for x, own in zip(way, wanted, strict=True)
        ]
    else:
        moved = [jnp.moveaxis(x, 0, 1).reshape(x.shape[1], size * N, *x.shape[3:]) for x in flat]
    out = primitive.bind(*record, accepted, *leaves, *moved, program=longer, kept=kept, **params)
    out = [_unfolded(x, size, axis=1) for x in out]
    if primitive is adjoint_p:
        out = [x if own else x.sum(axis=2) for x, own in zip(out, wanted, strict=True)]
    return out, [1] * len(out)


def _more_directions(x: jax.Array, dim: int | None, size: int) -> jax.Array:
    x = _widened(x, size) if dim is None else jnp.moveaxis(x, dim, 0)
    return x.reshape(-1, *x.shape[2:])


def _unfolded_directions(x: jax.Array, size: int) -> jax.Array:
    return x.reshape(size, -1, *x.shape[1:])


_SOLVED = 6
batching.primitive_batchers[solve_p] = _batch_solve
batching.primitive_batchers[record_p] = _batch_record
batching.primitive_batchers[steps_p] = _batch_steps
batching.primitive_batchers[tangent_p] = functools.partial(_batch_moved, tangent_p)
batching.primitive_batchers[adjoint_p] = functools.partial(_batch_moved, adjoint_p)


# derivatives


def _still(values: Sequence[Any]) -> list:
    return [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in values]


def _along(primitive: Primitive, leaves: Sequence[Any], tangents: Sequence[Any], program: Program, structure: Any):
    """Record the solve; return what it returns, and the tangents of that."""
    program = dataclasses.replace(program, system=program.system.compact)
    out = record_p.bind(*leaves, program=program, structure=structure)
    solved = out if primitive is record_p else out[:_SOLVED]
    wrt = tuple(type(tangent) is not ad.Zero for tangent in tangents)
    if not any(wrt):
        return solved, _still(solved)
    record, accepted = out[_SOLVED:], out[_ACCEPTED]
    kept = jax.tree.structure(_blank(program, leaves, structure))
    moved = [tangent[None] for tangent, want in zip(tangents, wrt, strict=True) if want]
    (states,) = tangent_p.bind(
        *record, accepted, *leaves, *moved, program=program, structure=structure, kept=kept, wrt=wrt
    )
    return solved, [states[0], *_still(solved[1:])]


_ACCEPTED = 4


def _transpose_tangent(
    cotangents: Sequence[Any], *operands: Any, program: Program, structure: Any, kept: Any, wrt: tuple[bool, ...]
) -> list:
    record, accepted, leaves, moved = _parted(operands, structure, kept)
    (cotangent,) = cotangents
    if type(cotangent) is ad.Zero:
        return [None] * len(operands)
    ways = _ways(moved, wrt)
    if len(ways) == 1:
        params = {"program": program, "structure": structure, "kept": kept, "wrt": wrt}
        found = adjoint_p.bind(*jax.tree.leaves(record), accepted, *leaves, cotangent, **params)
    else:
        found = _transposed(program, structure, leaves, accepted, wrt, ways, cotangent)
    fixed = [None] * (len(operands) - len(moved))
    return [*fixed, *(g if ad.is_undefined_primal(x) else None for g, x in zip(found, moved, strict=True))]


def _transposed(
    program: Program,
    structure: Any,
    leaves: Sequence[Any],
    accepted: jax.Array,
    wrt: Sequence[bool],
    ways: Sequence[Sequence[Any]],
    cotangent: jax.Array,
) -> list:
    """Transpose a derivative of second or higher order in that of its ways which is not known; None for the others."""
    replayed = _replayed(program, structure, leaves, accepted)
    smooth, directions = _smooth(leaves), len(cotangent)
    # every number moves, some by zero: jax transposes no linear solve of which a part stands still
    numbers = [leaf for leaf, moves in zip(leaves, smooth, strict=True) if moves]
    still = [jnp.zeros((directions, *leaf.shape), leaf.dtype) for leaf in numbers]
    marks = [want for want, moves in zip(wrt, smooth, strict=True) if moves]
    unknown = next(k for k, way in enumerate(ways) if any(map(ad.is_undefined_primal, way)))
    whole = [_replaced(still, marks, way) for k, way in enumerate(ways) if k != unknown]

    def along(way: Sequence[Any]) -> jax.Array:
        return jax.vmap(lambda *ways: _derivative_along(replayed, leaves, ways))(*whole, way)

    (found,) = jax.vjp(along, still)[1](cotangent)
    mine = [value for value, want in zip(found, marks, strict=True) if want]
    return [g for k in range(len(ways)) for g in (mine if k == unknown else [None] * len(mine))]


def _derivative_along(
    function: Callable[[Sequence[Any]], jax.Array], leaves: Sequence[Any], ways: Sequence[Any]
) -> jax.Array:
    """Return the derivative of a function of the leaves along ways, which have tangents of all smooth leaves."""
    smooth = _smooth(leaves)

    def derivative(numbers: Sequence[Any], ways: Sequence[Any]) -> jax.Array:
        if not ways:
            return function(_replaced(leaves, smooth, numbers))
        return jax.jvp(lambda numbers: derivative(numbers, ways[1:]), (numbers,), (ways[0],))[1]

    return derivative([leaf for leaf, moves in zip(leaves, smooth, strict=True) if moves], ways)


def _smooth(leaves: Sequence[Any]) -> list[bool]:
    return [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]


def _replaced(values: Sequence[Any], marks: Sequence[bool], new: Sequence[Any]) -> list:
    """Return the values, with those that are marked replaced in order."""
    following = iter(new)
    return [next(following) if mark else value for value, mark in zip(values, marks, strict=True)]


def _tangent_rule(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    program: Program,
    structure: Any,
    kept: Any,
    wrt: tuple[bool, ...],
) -> tuple:
    """Differentiate `tangent`: one order more along what the leaves are moved by, and it is linear in its ways."""
    record, accepted, leaves, moved = _parted(primals, structure, kept)
    _, _, leaf_tangents, moved_tangents = _parted(tangents, structure, kept)
    params = {"program": program, "structure": structure, "kept": kept}
    ways = _ways(moved, wrt)

    def derivative(ways: Sequence[Sequence[Any]], wrt: tuple[bool, ...]) -> jax.Array:
        (found,) = tangent_p.bind(
            *jax.tree.leaves(record), accepted, *leaves, *itertools.chain.from_iterable(ways), wrt=wrt, **params
        )
        return found

    terms = []
    for k, way in enumerate(_ways(moved_tangents, wrt)):
        if any(type(tangent) is not ad.Zero for tangent in way):
            terms.append(derivative([*ways[:k], _instantiated(way), *ways[k + 1 :]], wrt))
    moves = [type(tangent) is not ad.Zero for tangent in leaf_tangents]
    if any(moves):
        directions = moved[0].shape[0]
        both = tuple(want or move for want, move in zip(wrt, moves, strict=True))
        still = [
            jnp.zeros((directions, *leaf.shape), leaf.dtype) if own else None
            for leaf, own in zip(leaves, both, strict=True)
        ]
        new = [_widened(tangent, directions) for tangent, move in zip(leaf_tangents, moves, strict=True) if move]
        longer = [*(_replaced(still, wrt, way) for way in ways), _replaced(still, moves, new)]
        terms.append(derivative([[x for x in way if x is not None] for way in longer], both))
    value = derivative(ways, wrt)
    return [value], [functools.reduce(jnp.add, terms)] if terms else _still([value])


def _adjoint_rule(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    program: Program,
    structure: Any,
    kept: Any,
    wrt: tuple[bool, ...],
) -> tuple:
    """Differentiate `adjoint`, which equals the transposed derivative of the replay of the recorded steps."""
    _, accepted, leaves, moved = _parted(primals, structure, kept)
    _, _, leaf_tangents, moved_tangents = _parted(tangents, structure, kept)
    replayed, smooth = _replayed(program, structure, leaves, accepted), _smooth(leaves)

    def linear(numbers: Sequence[Any], moved: Sequence[Any]) -> list:
        whole = _replaced(leaves, smooth, numbers)
        wanted = [leaf for leaf, want in zip(whole, wrt, strict=True) if want]
        _, pull = jax.vjp(lambda wanted: replayed(_replaced(whole, wrt, wanted)), wanted)
        return jax.vmap(lambda cotangent: pull(cotangent)[0])(moved[0])

    chosen = [leaf for leaf, moves in zip(leaves, smooth, strict=True) if moves]
    chosen_tangents = [tangent for tangent, moves in zip(leaf_tangents, smooth, strict=True) if moves]
    return jax.jvp(
        linear,
        (chosen, list(moved)),
        (_instantiated(chosen_tangents), _instantiated(moved_tangents)),
    )


def _replayed(
    program: Program, structure: Any, leaves: Sequence[Any], accepted: jax.Array
) -> Callable[[Sequence[Any]], jax.Array]:
    """Return the states at outputs as a function of the leaves, by the steps that these leaves take."""
    fixed = [jax.lax.stop_gradient(leaf) for leaf in leaves]
    steps, *causes = steps_p.bind(*fixed, program=program, structure=structure)
    causes = causes[0] if causes else None

    def replayed(leaves: Sequence[Any]) -> jax.Array:
        return replay(program, jax.tree.unflatten(structure, leaves), steps, accepted, causes)

    return replayed


def _along_events(leaves: Sequence[Any], tangents: Sequence[Any], program: Program, structure: Any) -> tuple:
    """Solve; return what the solve returns, and the tangents of that by a replay, which knows of events."""
    program = dataclasses.replace(program, system=program.system.compact)
    solved = solve_p.bind(*leaves, program=program, structure=structure)
    replayed = _replayed(program, structure, leaves, solved[_ACCEPTED])
    if all(type(tangent) is ad.Zero for tangent in tangents):
        return solved, _still(solved)
    # every number moves, some by zero: jax transposes no linear solve of which a part stands still
    moved = [tangent for tangent, moves in zip(tangents, _smooth(leaves), strict=True) if moves]
    states = _derivative_along(replayed, leaves, [_instantiated(moved)])
    return solved, [states, *_still(solved[1:])]


def _instantiated(tangents: Sequence[Any]) -> list:
    return [ad.instantiate_zeros(tangent) for tangent in tangents]


def _solve_rule(leaves: Sequence[Any], tangents: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    if program.events is not None:
        return _along_events(leaves, tangents, program, structure)
    return _along(solve_p, leaves, tangents, program, structure)


def _record_rule(leaves: Sequence[Any], tangents: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    return _along(record_p, leaves, tangents, program, structure)


def _steps_rule(leaves: Sequence[Any], _: Sequence[Any], *, program: Program, structure: Any) -> tuple:
    steps = steps_p.bind(*leaves, program=program, structure=structure)
    return steps, _still(steps)


ad.primitive_jvps[solve_p] = _solve_rule
ad.primitive_jvps[record_p] = _record_rule
ad.primitive_jvps[steps_p] = _steps_rule
ad.primitive_jvps[tangent_p] = _tangent_rule
ad.primitive_jvps[adjoint_p] = _adjoint_rule
ad.primitive_transposes[tangent_p] = _transpose_tangent
