"""Which outputs of a function depend on which inputs, read off its traced program.

The program is that of the *derivative*, `t -> jvp(function, y, t)`: it is linear in t, so that only the linear
primitives matter, comparisons and `stop_gradient` do not occur, and custom derivative rules count as they are written.
Every element of every array in it carries the set of those elements of t it is made of: the bits of a Python integer.
The result is a superset of the non-zero entries of the Jacobian at every y; a primitive without a rule makes every
output depend on all that any operand depends on. Numbers that depend on constants alone (indices, masks, matrices)
are computed, so that indexing is followed element by element and a coefficient that is exactly zero drops its term.

The idea: Griewank and Walther, Evaluating Derivatives, 2nd ed., 2008, chapter 7, doi:10.1137/1.9780898717761.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.typing import ArrayLike
from jaxtyping import Bool, PyTree, Shaped

from qspjax._jaxpr._known import computed, places
from qspjax._jaxpr._walk import called, dtype_of, scan_counts, shape_of, walk_all

MAX_CONSTANT = 1_000_000
"""Arrays of constants larger than this are not computed."""

MAX_UNROLLED = 1000
"""Loops up to this length are followed step by step, longer ones to a fixed point."""


def jacobian_pattern(
    function: Callable[..., PyTree], y: PyTree, *constants: PyTree
) -> Bool[np.ndarray, "outputs inputs"]:
    """Return where the Jacobian of `function(y, *constants)` with respect to y can be other than zero.

    Args:
        function: Maps y to arrays; traced once, never computed.
        y: Arrays or `jax.ShapeDtypeStruct`s, in any container.
        constants: Further arguments: arrays of unknown value, or `jax.ShapeDtypeStruct`s. Concrete arrays that
            `function` closes over are taken at their value instead.

    Returns:
        A Boolean matrix, elements of the flattened outputs by elements of the flattened y.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(_abstract, y))

    def derivative(leaves: list, tangents: list, constants: tuple) -> list:
        def flat(*leaves: jax.Array) -> list[jax.Array]:
            outputs = function(jax.tree.unflatten(structure, leaves), *constants)
            return [jnp.asarray(x, float) for x in jax.tree.leaves(outputs)]

        return jax.jvp(flat, tuple(leaves), tuple(tangents))[1]

    constants = jax.tree.map(_abstract, constants)
    traced = jax.make_jaxpr(derivative)(leaves, leaves, constants)
    unknown = [_UNKNOWN] * (len(traced.in_avals) - 2 * len(leaves))
    results = _walk(traced, [*[_UNKNOWN] * len(leaves), *_unit_sets(leaves), *unknown])
    sets = [_sets(result, aval.shape).ravel() for result, aval in zip(results, traced.out_avals, strict=True)]
    return _unpacked(np.concatenate([*sets, np.zeros(0, object)]), sum(leaf.size for leaf in leaves))


Sets = Shaped[np.ndarray, "..."]
"""An array of sets: Python integers."""
Result = Sets | int | list[Sets] | list[int]
"""The sets of each result of an equation, or one set for all elements."""


@dataclass(frozen=True, eq=False)
class _Array:
    """What is known of an array: the set each element depends on (None: all empty), and how to compute it."""

    sets: Sets | None = None
    value: Callable[[], ArrayLike] | None = None

    @property
    def dependent(self) -> Sets:
        """The sets, where it is known that there are any."""
        assert self.sets is not None
        return self.sets

    def concrete(self) -> Shaped[np.ndarray, "..."] | None:
        return None if self.value is None else np.asarray(self.value())


_UNKNOWN = _Array()


def _abstract(x: ArrayLike | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _constant(x: ArrayLike) -> _Array:
    return _UNKNOWN if isinstance(x, Tracer) else _Array(value=lambda: x)


def _unit_sets(leaves: Sequence[jax.ShapeDtypeStruct]) -> list[_Array]:
    """Return the inputs, of which each element depends on itself alone."""
    start, inputs = 0, []
    for leaf in leaves:
        bits = [1 << j for j in range(start, start + leaf.size)]
        inputs.append(_Array(np.array(bits, object).reshape(leaf.shape)))
        start += leaf.size
    return inputs


def _unpacked(sets: np.ndarray, inputs: int) -> np.ndarray:
    width = -(-inputs // 8)
    packed = np.frombuffer(b"".join(s.to_bytes(width, "little") for s in sets), np.uint8)
    return np.unpackbits(packed.reshape(len(sets), width), axis=1, count=inputs, bitorder="little").astype(bool)


def _sets(array: _Array, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, object) if array.sets is None else array.sets


def _union_of_all(arrays: Iterable[_Array]) -> int:
    return functools.reduce(int.__or__, (int(_reduced(a.sets)) for a in arrays if a.sets is not None), 0)


def _reduced(sets: Sets, axes: tuple[int, ...] | None = None) -> Sets | int:
    return np.bitwise_or.reduce(sets, axis=axes, initial=0)


def _with_sets(sets: Sets | int, var: Var) -> _Array:
    """Wrap the sets of one result; an integer has no derivative."""
    sets = np.asarray(sets, object)
    if not jnp.issubdtype(dtype_of(var), jnp.inexact) or not sets.any():
        return _UNKNOWN
    return _Array(np.broadcast_to(sets, shape_of(var)))


# --- the walk ------------------------------------------------------------------------------------------------------


def _walk(program: ClosedJaxpr, arguments: Sequence[_Array]) -> list[_Array]:
    return walk_all(program, arguments, _apply, _constant)


def _apply(equation: JaxprEqn, operands: list[_Array]) -> list[_Array]:
    inner, name = called(equation, derivatives=False), equation.primitive.name
    if inner is not None:
        return _walk(inner, operands)
    if all(operand.sets is None for operand in operands):
        return _computed(equation, operands)
    if name in _CONTROL:
        return _CONTROL[name](equation, operands)
    results = _RULES.get(name, _dense)(equation, operands)
    several = results if isinstance(results, list) else [results]
    return [_with_sets(sets, var) for sets, var in zip(several, equation.outvars, strict=True)]


def _computed(equation: JaxprEqn, operands: list[_Array]) -> list[_Array]:
    """Return results that do not depend on y, which are computed on demand if the operands can be."""
    results, values = equation.outvars, [x.value for x in operands if x.value is not None]
    if len(values) < len(operands) or any(getattr(v.aval, "size", 0) > MAX_CONSTANT for v in results):
        return [_UNKNOWN] * len(results)

    @functools.cache
    def compute() -> Sequence[ArrayLike]:
        return computed(equation, [value() for value in values])

    return [_Array(value=lambda i=i: compute()[i]) for i in range(len(results))]


# --- rules: the sets of the result from those of the operands --------------------------------------------------------


def _dense(equation: JaxprEqn, operands: list[_Array]) -> int | list[int]:
    union = _union_of_all(operands)
    return [union] * len(equation.outvars) if equation.primitive.multiple_results else union


def _elementwise(_: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    return np.asarray(functools.reduce(np.bitwise_or, [x.sets for x in operands if x.sets is not None]), object)


def _product(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    sets = _elementwise(equation, operands)
    for x in operands:
        if x.sets is None and (factor := x.concrete()) is not None:
            sets = np.where(factor != 0, sets, 0)
    return sets


def _selected(equation: JaxprEqn, operands: list[_Array]) -> Sets | int:
    selector, *cases = operands
    choice = selector.concrete()
    if choice is None:
        return _elementwise(equation, cases)
    shape = shape_of(equation.outvars[0])
    return functools.reduce(
        lambda sets, case: np.where(choice == case[0], _sets(case[1], shape), sets), enumerate(cases), 0
    )


def _sliced(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    p = equation.params
    strides = p["strides"] or [None] * len(p["start_indices"])
    return operands[0].dependent[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


def _reshaped(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    return operands[0].dependent.reshape(shape_of(equation.outvars[0]))


def _broadcast(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    shape = shape_of(equation.outvars[0])
    aligned = [1] * len(shape)
    for size, axis in zip(operands[0].dependent.shape, equation.params["broadcast_dimensions"], strict=True):
        aligned[axis] = size
    return np.broadcast_to(operands[0].dependent.reshape(aligned), shape)


def _concatenated(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    parts = [_sets(x, shape_of(atom)) for x, atom in zip(operands, equation.invars, strict=True)]
    return np.concatenate(parts, axis=equation.params["dimension"])


def _piled(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    parts = [_sets(x, shape_of(atom)) for x, atom in zip(operands, equation.invars, strict=True)]
    return np.stack(parts, axis=equation.params["axis"])


def _split(equation: JaxprEqn, operands: list[_Array]) -> list[np.ndarray]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    return np.split(operands[0].dependent, np.cumsum(sizes)[:-1], axis=axis)


def _unstacked(equation: JaxprEqn, operands: list[_Array]) -> list[np.ndarray]:
    return list(np.moveaxis(operands[0].dependent, equation.params["axis"], 0))


def _summed(equation: JaxprEqn, operands: list[_Array]) -> Sets | int:
    return _reduced(operands[0].dependent, tuple(equation.params["axes"]))


def _accumulated(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    axis, step = equation.params["axis"], -1 if equation.params["reverse"] else 1
    ordered = (slice(None),) * axis + (slice(None, None, step),)
    return np.bitwise_or.accumulate(operands[0].dependent[ordered], axis=axis)[ordered]


def _permuted(equation: JaxprEqn, sets: np.ndarray, *others: ArrayLike) -> tuple[Sets, Bool[np.ndarray, "..."]]:
    """Apply a primitive that only permutes or fills to the numbers of elements; return the sets, and where it fills."""
    numbers = np.arange(1, sets.size + 1, dtype=np.int32).reshape(sets.shape)
    with jax.ensure_compile_time_eval():
        permuted = np.asarray(equation.primitive.bind(jnp.asarray(numbers), *others, **equation.params))
    return np.concatenate([[0], sets.ravel()]).astype(object)[permuted], permuted == 0


def _padded(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    inside, value = (_sets(x, shape_of(atom)) for x, atom in zip(operands, equation.invars, strict=True))
    sets, filled = _permuted(equation, inside, jnp.int32(0))
    return np.where(filled, value, sets)


def _gathered(equation: JaxprEqn, operands: list[_Array]) -> Sets | int:
    indices = operands[1].concrete()
    if indices is None or operands[0].sets is None:
        return _union_of_all(operands[:1])
    sets = operands[0].dependent
    return np.array([0, *sets.ravel()], object)[places(equation, sets.shape, indices) + 1]


def _window(starts: Sequence[_Array], inside: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return the window that a dynamic slice reads or writes, if its start is known."""
    indices = [start for start in (start.concrete() for start in starts) if start is not None]
    if len(indices) < len(starts):
        return None
    clamped = [min(max(int(start), 0), n - size) for start, n, size in zip(indices, inside, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(clamped, sizes, strict=True))


def _dynamic_slice(equation: JaxprEqn, operands: list[_Array]) -> Sets | int:
    array, *starts = operands
    window = _window(starts, shape_of(equation.invars[0]), equation.params["slice_sizes"])
    return _union_of_all([array]) if window is None else array.dependent[window]


def _dynamic_update(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    array, update, *starts = operands
    shape, size = (shape_of(atom) for atom in equation.invars[:2])
    sets, window = _sets(array, shape), _window(starts, shape, size)
    if window is None:
        return sets | _union_of_all([update])
    sets = sets.copy()
    sets[window] = _sets(update, size)
    return sets


def _scattered(equation: JaxprEqn, operands: list[_Array]) -> np.ndarray:
    array, indices, update = operands
    sets = _sets(array, shape_of(equation.invars[0]))
    if (where := indices.concrete()) is None:
        return sets | _union_of_all([update])
    flat, targets = sets.flatten(), _targets(equation, where)
    if equation.primitive.name == "scatter":
        flat[targets[targets >= 0]] = 0
    for target, new in zip(targets.ravel(), _sets(update, targets.shape).ravel(), strict=True):
        if target >= 0:
            flat[target] |= new
    return flat.reshape(sets.shape)


def _targets(equation: JaxprEqn, indices: np.ndarray) -> np.ndarray:
    """Return which element of the array each element of the update lands on, -1 for none."""
    shape, _, update = (shape_of(atom) for atom in equation.invars)
    p = equation.params

    def add(update: jax.Array) -> jax.Array:
        zeros = jnp.zeros(shape)
        return jax.lax.scatter_add(zeros, jnp.asarray(indices), update, p["dimension_numbers"], mode=p["mode"])

    with jax.ensure_compile_time_eval():
        numbers = jnp.arange(1.0, math.prod(shape) + 1.0).reshape(shape)
        (gathered,) = jax.linear_transpose(add, jax.ShapeDtypeStruct(update, numbers.dtype))(numbers)
        return np.asarray(gathered).astype(int) - 1


def _dot(equation: JaxprEqn, operands: list[_Array]) -> Result:
    """Multiply by a matrix, of which only the non-zero entries count if it is known."""
    left, right = operands
    if left.sets is not None and right.sets is not None:
        return _dense(equation, operands)
    (contract_l, contract_r), (batch_l, batch_r) = equation.params["dimension_numbers"]
    shapes = [shape_of(atom) for atom in equation.invars]
    layouts = [(batch_l, contract_l), (batch_r, contract_r)]
    if swapped := left.sets is None:
        left, right, shapes, layouts = right, left, shapes[::-1], layouts[::-1]
    weights = right.concrete()
    weights = np.ones(shapes[1], bool) if weights is None else weights != 0
    sets, weights = (_as_matrices(x, *layout) for x, layout in zip((left.dependent, weights), layouts, strict=True))
    products = np.stack([_set_product(s, w) for s, w in zip(sets, weights, strict=True)])
    return (products.transpose(0, 2, 1) if swapped else products).reshape(shape_of(equation.outvars[0]))


def _as_matrices(array: np.ndarray, batch: Sequence[int], contract: Sequence[int]) -> np.ndarray:
    """Bring an operand of a dot product to the axes (batch, free, contracted)."""
    free = [axis for axis in range(array.ndim) if axis not in (*batch, *contract)]
    sizes = [int(np.prod([array.shape[axis] for axis in axes], dtype=int)) for axes in (batch, free, contract)]
    return array.transpose(*batch, *free, *contract).reshape(sizes)


def _set_product(sets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, by row of sets and row of weights, the union of the sets whose weight is not zero."""
    if weights.all():
        return np.broadcast_to(np.asarray(_reduced(sets, (1,)))[:, None], (len(sets), len(weights)))
    columns = [_reduced(sets[:, np.flatnonzero(row)], (1,)) for row in weights]
    return np.array(columns, object).reshape(len(weights), len(sets)).T


# --- control flow ----------------------------------------------------------------------------------------------------


def _cond(equation: JaxprEqn, operands: list[_Array]) -> list[_Array]:
    index, *arguments = operands
    branches, chosen = equation.params["branches"], index.concrete()
    if chosen is not None:
        return _walk(branches[min(max(int(chosen), 0), len(branches) - 1)], arguments)
    results = [_walk(branch, arguments) for branch in branches]
    return [_merged(alternatives) for alternatives in zip(*results, strict=True)]


def _merged(arrays: Iterable[_Array]) -> _Array:
    sets = [array.sets for array in arrays if array.sets is not None]
    return _Array(np.asarray(functools.reduce(np.bitwise_or, sets), object)) if sets else _UNKNOWN


def _while(equation: JaxprEqn, operands: list[_Array]) -> list[_Array]:
    p = equation.params
    constants, carry = operands[p["cond_nconsts"] :][: p["body_nconsts"]], operands[p["cond_nconsts"] :]
    return _fixed_point(lambda carry: _walk(p["body_jaxpr"], [*constants, *carry]), carry[len(constants) :])


def _fixed_point(body: Callable[[list[_Array]], list[_Array]], carry: list[_Array]) -> list[_Array]:
    """Return what a carry depends on after any number of iterations."""
    carry = [_Array(x.sets) for x in carry]
    while True:
        following = [_merged(pair) for pair in zip(carry, body(carry), strict=True)]
        if all(_is_same(a.sets, b.sets) for a, b in zip(carry, following, strict=True)):
            return carry
        carry = following


def _is_same(first: Sets | None, second: Sets | None) -> bool:
    return first is second if first is None or second is None else np.array_equal(first, second)


def _scan(equation: JaxprEqn, operands: list[_Array]) -> list[_Array]:
    p = equation.params
    fixed, carried = scan_counts(p)
    constants, carry, inputs = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]

    def body(carry: Sequence[_Array], inputs: Sequence[_Array]) -> tuple[list[_Array], list[_Array]]:
        results = _walk(p["jaxpr"], [*constants, *carry, *inputs])
        return results[:carried], results[carried:]

    shapes = [shape_of(var) for var in equation.outvars[carried:]]
    if p["length"] > MAX_UNROLLED:
        any_input = [_UNKNOWN if x.sets is None else _Array(np.asarray(_reduced(x.sets, (0,)), object)) for x in inputs]
        carry = _fixed_point(lambda carry: body(carry, any_input)[0], carry)
        outputs = body(carry, any_input)[1]
        stacked = [np.broadcast_to(_sets(x, shape[1:]), shape) for x, shape in zip(outputs, shapes, strict=True)]
    else:
        order = range(p["length"])
        outputs_by_step: list[list[_Array]] = [[]] * len(order)
        for i in reversed(order) if p["reverse"] else order:
            carry, outputs_by_step[i] = body([_counted(x) for x in carry], [_item(x, i) for x in inputs])
        stacked = [_stacked([outputs[k] for outputs in outputs_by_step], shape) for k, shape in enumerate(shapes)]
    return [*carry, *(_Array(sets) if sets.any() else _UNKNOWN for sets in stacked)]


def _stacked(steps: list[_Array], shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([_sets(x, shape[1:]) for x in steps]) if steps else np.zeros(shape, object)


def _counted(array: _Array) -> _Array:
    """Keep the value of a counter from iteration to iteration; forget that of a real number."""
    value = array.concrete()
    if value is None:
        return array
    return _constant(value) if value.dtype.kind in "biu" else _Array(array.sets)


def _item(array: _Array, i: int) -> _Array:
    sets = None if array.sets is None else np.asarray(array.dependent[i], object)
    value = array.value
    return _Array(sets, None if value is None else lambda: np.asarray(value())[i])


_CONTROL = {"cond": _cond, "while": _while, "scan": _scan}

_RULES: dict[str, Callable[[JaxprEqn, list[_Array]], Result]] = {
    **dict.fromkeys(
        ("add", "add_any", "sub", "neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "name", "real"),
        _elementwise,
    ),
    "mul": _product,
    "div": _elementwise,
    "select_n": _selected,
    "slice": _sliced,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "transpose": lambda equation, operands: operands[0].dependent.transpose(equation.params["permutation"]),
    "rev": lambda equation, operands: np.flip(operands[0].dependent, equation.params["dimensions"]),
    "concatenate": _concatenated,
    "stack": _piled,
    "split": _split,
    "unstack": _unstacked,
    "pad": _padded,
    "reduce_sum": _summed,
    "cumsum": _accumulated,
    "gather": _gathered,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter_add", "scatter_mul"), _scattered),
    "dot_general": _dot,
}
