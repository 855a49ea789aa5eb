"""What the primitives compute, and the shapes of their results.

`solve`, `record` and `steps` have the leaves of the patients as operands, and an `Ensemble` as their static part;
`tangent` and `adjoint` have `Operands`, and a `Derivative`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array, Float, Int, PyTreeDef

from qspjax._programs import alone
from qspjax.solve.kernel._adjoint import pull_back, push_forward
from qspjax.solve.kernel._failing import failing_indices
from qspjax.solve.kernel._fusion import fused
from qspjax.solve.kernel._lanes import BLOCK, End, Patients, Program, Record, blank, solve
from qspjax.solve.kernel._replay import replay
from qspjax.solve.kernel.primitives._marked import replace, select, widen

LANES = 64
"""Maximum number of lanes on a CPU: a hundred rows of that many numbers stay in the nearest cache."""
SOLVED, ACCEPTED = 7, 4
"""The number of results of `solve` (the first ones of `record`), and which of them is the number of accepted steps."""

T = TypeVar("T")
Structure: TypeAlias = PyTreeDef  # pyright: ignore[reportInvalidTypeForm] (a variable in the stubs of jaxlib)


def run(
    program: Program, patients: Patients
) -> tuple[Float[Array, "patients outputs states"], End, Int[Array, " patients"]]:
    """Solve an ensemble; return the states at outputs, how each patient ended, and the state for which each failed.

    Args:
        program: What to solve; the number of lanes and the length of the log are chosen here.
        patients: The patients.
    """
    leaves, structure = jax.tree.flatten(patients)
    states, *end, failing = solve_p.bind(*leaves, ensemble=Ensemble(sized(program), structure))
    return states, End(*end), failing


def sized(program: Program) -> Program:
    """Return the program with the number of lanes and the length of the log for its patients."""
    everyone = -(-program.patients // 16) * 16  # fewer, or a remainder, may be compiled to other roundings
    lanes = min(everyone, LANES) if jax.default_backend() == "cpu" else everyone
    rounds = -(-program.patients // lanes) + 1
    block = 8 * (2 * program.system.size + 4) * lanes * BLOCK  # bytes
    capacity = max(1, min(rounds * (program.expected // BLOCK + 2), program.memory // block))
    return dataclasses.replace(program, lanes=lanes, capacity=capacity)


class Ensemble(NamedTuple):
    """The static part of `solve`, `record` and `steps`: the program, and the structure of its patients."""

    program: Program
    structure: Structure

    @property
    def batched(self) -> list[bool]:
        """Which leaves have an axis of patients."""
        return jax.tree.leaves(self.program.batched)

    def patients(self, leaves: Sequence[object]) -> Patients:
        """Return the patients with these leaves."""
        return jax.tree.unflatten(self.structure, leaves)

    def with_batched(self, batched: Sequence[bool], **changes: int) -> "Ensemble":
        """Return the ensemble with an axis of patients where `batched`."""
        batched = jax.tree.unflatten(self.structure, batched)
        return self._replace(program=dataclasses.replace(self.program, batched=batched, **changes))

    def with_compact_system(self) -> "Ensemble":
        """Return the ensemble as it is solved where it is differentiated."""
        return self._replace(program=dataclasses.replace(self.program, system=self.program.system.compact))

    def empty_record(self, leaves: Sequence[ShapedArray | jax.Array]) -> Record:
        """Return the shapes of what a solve of these patients records."""
        patients = self.patients([jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves])
        return jax.eval_shape(functools.partial(blank, self.program), patients)


class Derivative(NamedTuple):
    """The static part of `tangent` and `adjoint`.

    Attributes:
        ensemble: What was recorded.
        record: The structure of the record.
        wrt: Which leaves of the patients are differentiated.
    """

    ensemble: Ensemble
    record: Structure
    wrt: tuple[bool, ...]

    @property
    def program(self) -> Program:
        """The program that was recorded."""
        return self.ensemble.program

    def placed(self, values: Sequence[T]) -> Patients:
        """Return patients that hold values at the leaves that are differentiated, and None elsewhere."""
        remaining = iter(values)
        return self.ensemble.patients([next(remaining) if marked else None for marked in self.wrt])

    def by_order(self, tangents: Sequence[T]) -> list[Sequence[T]]:
        """Return tangents grouped by the order of the derivative, each of the leaves that are differentiated."""
        count = sum(self.wrt)
        return [tangents[k : k + count] for k in range(0, len(tangents), count)]

    def unpack(self, operands: Sequence[T]) -> "Operands[T]":
        """Return the operands by their roles."""
        operands = list(operands)
        at, count = self.record.num_leaves, self.ensemble.structure.num_leaves
        leaves, tangents = operands[at + 1 : at + 1 + count], operands[at + 1 + count :]
        return Operands(operands[:at], operands[at], leaves, tangents)


@dataclasses.dataclass(frozen=True)
class Operands(Generic[T]):
    """The operands of `tangent` and `adjoint`, or a property of each: a shape, a tangent, the axis it is mapped over.

    Attributes:
        record: The leaves of the record.
        accepted: How many steps each patient took, shape (patients,).
        leaves: The leaves of the patients.
        tangents: Of those leaves that are differentiated, for a derivative of order k those of k tangents of the
            patients one after the other; or the one cotangent of the states. Each has an axis of directions first.
    """

    record: list[T]
    accepted: T
    leaves: list[T]
    tangents: list[T]

    def bind(self, primitive: Primitive, derivative: Derivative) -> list[T]:
        """Return the results of `tangent` or `adjoint`."""
        operands = (*self.record, self.accepted, *self.leaves, *self.tangents)
        return primitive.bind(*operands, derivative=derivative)


# what the primitives compute


def _solve(*leaves: jax.Array, ensemble: Ensemble) -> list[jax.Array]:
    program, patients = ensemble.program, ensemble.patients(leaves)
    solved = solve(program, patients)
    return jax.tree.leaves((solved.states, solved.end, failing_indices(program, patients, solved.end)))


def _record(*leaves: jax.Array, ensemble: Ensemble) -> list[jax.Array]:
    program, patients = ensemble.program, ensemble.patients(leaves)
    solved = solve(program, patients, record=program.events is None)  # a replay handles events
    failing = failing_indices(program, patients, solved.end)
    record = blank(program, patients) if solved.record is None else solved.record
    return jax.tree.leaves((solved.states, solved.end, failing, record))


def _steps(*leaves: jax.Array, ensemble: Ensemble) -> list[jax.Array]:
    solved = solve(ensemble.program, ensemble.patients(leaves), steps=True)
    return jax.tree.leaves((solved.steps, solved.causes))


def _tangent(*operands: jax.Array, derivative: Derivative) -> list[jax.Array]:
    values = derivative.unpack(operands)
    if derivative.program.events is not None:
        return [_replay_along(derivative, values)]
    leaves, record = values.leaves, jax.tree.unflatten(derivative.record, values.record)
    copied = _copied(derivative, leaves)
    wide = select(copied, derivative.wrt)
    size = derivative.program.patients
    by_order = [
        [widen(x, size, axis=1) if each else x for x, each in zip(patients, wide, strict=True)]
        for patients in derivative.by_order(values.tangents)
    ]
    program, patients = _spread(derivative.ensemble, leaves, copied)

    def push(by_order: Sequence[Sequence[jax.Array]]) -> jax.Array:
        return push_forward(
            program, patients, record, values.accepted, [derivative.placed(tangents) for tangents in by_order]
        )

    return [_over_directions(push, by_order)]


def _adjoint(*operands: jax.Array, derivative: Derivative) -> list[jax.Array]:
    values = derivative.unpack(operands)
    if derivative.program.events is not None:
        return _replay_back(derivative, values)
    leaves, record = values.leaves, jax.tree.unflatten(derivative.record, values.record)
    copied = _copied(derivative, leaves)
    program, patients = _spread(derivative.ensemble, leaves, copied)
    marks = derivative.placed([True] * sum(derivative.wrt))
    wide = select(copied, derivative.wrt)

    def pull(cotangents: Sequence[jax.Array]) -> list[jax.Array]:
        pulled = jax.tree.leaves(pull_back(program, patients, record, values.accepted, marks, cotangents[0]))
        return [value.sum(axis=0) if each else value for value, each in zip(pulled, wide, strict=True)]

    return _over_directions(pull, values.tangents)


# a replay in plain JAX


def replayed(
    ensemble: Ensemble, leaves: Sequence[jax.Array], accepted: jax.Array
) -> Callable[[Sequence[jax.Array]], jax.Array]:
    """Return the states at outputs as a function of the leaves, by the steps that these leaves take."""
    fixed = [jax.lax.stop_gradient(leaf) for leaf in leaves]
    steps, *causes = steps_p.bind(*fixed, ensemble=ensemble)

    def states(leaves: Sequence[jax.Array]) -> jax.Array:
        return replay(ensemble.program, ensemble.patients(leaves), steps, accepted, causes[0] if causes else None)

    return states


def derivative_along(
    function: Callable[[Sequence[jax.Array]], jax.Array],
    leaves: Sequence[jax.Array],
    tangents: Sequence[Sequence[jax.Array]],
) -> jax.Array:
    """Return the mixed derivative of a function of the leaves along tangents of all smooth leaves, one per order."""
    numbers = smooth(leaves)

    def derivative(values: Sequence[jax.Array], tangents: Sequence[Sequence[jax.Array]]) -> jax.Array:
        if not tangents:
            return function(replace(leaves, numbers, values))
        return jax.jvp(lambda values: derivative(values, tangents[1:]), (values,), (tangents[0],))[1]

    return derivative(select(leaves, numbers), tangents)


def smooth(leaves: Sequence[jax.Array]) -> list[bool]:
    """Return which leaves are real numbers."""
    return [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]


def _replay_along(derivative: Derivative, values: Operands[jax.Array]) -> jax.Array:
    leaves, numbers = values.leaves, smooth(values.leaves)
    states = replayed(derivative.ensemble, leaves, values.accepted)
    # all numbers have tangents, some of zero: jax transposes no linear solve of which a part is constant
    zeros = [jnp.zeros_like(leaf) for leaf in select(leaves, numbers)]
    marks = select(derivative.wrt, numbers)

    def along(by_order: Sequence[Sequence[jax.Array]]) -> jax.Array:
        return derivative_along(states, leaves, [replace(zeros, marks, tangents) for tangents in by_order])

    return _over_directions(along, derivative.by_order(values.tangents))


def _replay_back(derivative: Derivative, values: Operands[jax.Array]) -> list[jax.Array]:
    leaves, numbers = values.leaves, smooth(values.leaves)
    states = replayed(derivative.ensemble, leaves, values.accepted)
    _, pull = jax.vjp(lambda chosen: states(replace(leaves, numbers, chosen)), select(leaves, numbers))
    marks = select(derivative.wrt, numbers)
    return _over_directions(lambda cotangents: select(pull(cotangents[0])[0], marks), values.tangents)


def _copied(derivative: Derivative, leaves: Sequence[jax.Array]) -> list[bool]:
    """Return which shared leaves get a copy for each patient: those differentiated, except arrays of constants."""
    ensemble = derivative.ensemble
    positions = ensemble.patients(range(ensemble.structure.num_leaves))
    arrays = {k for k in jax.tree.leaves(positions.constants) if leaves[k].ndim > 0}
    return [
        marked and not batched and k not in arrays
        for k, (marked, batched) in enumerate(zip(derivative.wrt, ensemble.batched, strict=True))
    ]


def _spread(ensemble: Ensemble, leaves: Sequence[jax.Array], copied: Sequence[bool]) -> tuple[Program, Patients]:
    size = ensemble.program.patients
    wide = [widen(leaf, size) if each else leaf for leaf, each in zip(leaves, copied, strict=True)]
    batched = [before or each for before, each in zip(ensemble.batched, copied, strict=True)]
    return ensemble.with_batched(batched).program, ensemble.patients(wide)


Result = TypeVar("Result")


def _over_directions(function: Callable[[list[T]], Result], tangents: list[T]) -> Result:
    """Map over the leading axis of directions; a single one is computed as it is."""
    if jax.tree.leaves(tangents)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], tangents)))
    return jax.vmap(function)(tangents)


def _primitive(name: str, compute: Callable[..., list[jax.Array]]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True

    def compiled(*operands: jax.Array, **static: Ensemble | Derivative) -> list[jax.Array]:
        (static_part,) = static.values()
        program = static_part.program
        return fused(functools.partial(compute, **static), unrolled=program.system.unrolled)(*operands)

    primitive.def_impl(alone(primitive))
    _COMPUTED[primitive] = compiled
    mlir.register_lowering(primitive, for_xla(primitive))
    return primitive


_COMPUTED: dict[Primitive, Callable[..., list[jax.Array]]] = {}


def computed(primitive: Primitive) -> Callable[..., list[jax.Array]]:
    """Return what a primitive computes, in operations of JAX."""
    return _COMPUTED[primitive]


def for_xla(primitive: Primitive) -> Callable:
    """Return the lowering of a primitive that any platform has."""
    return mlir.lower_fun(computed(primitive), multiple_results=True)


solve_p = _primitive("qspjax_solve", _solve)
record_p = _primitive("qspjax_record", _record)
steps_p = _primitive("qspjax_steps", _steps)
tangent_p = _primitive("qspjax_tangent", _tangent)
adjoint_p = _primitive("qspjax_adjoint", _adjoint)


# shapes


def _solved_shapes(ensemble: Ensemble, leaves: Sequence[ShapedArray]) -> list[ShapedArray]:
    program, dtype = ensemble.program, ensemble.patients(leaves).y0.dtype
    N, size = program.patients, program.system.size
    count = ShapedArray((N,), np.dtype(np.int32))
    states = ShapedArray((N, program.outputs, size), dtype)
    index = ShapedArray((N,), jax.dtypes.canonicalize_dtype(int))
    return [states, ShapedArray((N,), dtype), ShapedArray((N, size), dtype), count, count, count, index]


@solve_p.def_abstract_eval
def _(*leaves: ShapedArray, ensemble: Ensemble) -> list[ShapedArray]:
    return _solved_shapes(ensemble, leaves)


@record_p.def_abstract_eval
def _(*leaves: ShapedArray, ensemble: Ensemble) -> list[ShapedArray]:
    record = jax.tree.leaves(ensemble.empty_record(leaves))
    return [*_solved_shapes(ensemble, leaves), *(ShapedArray(leaf.shape, leaf.dtype) for leaf in record)]


@steps_p.def_abstract_eval
def _(*leaves: ShapedArray, ensemble: Ensemble) -> list[ShapedArray]:
    program = ensemble.program
    shape = (program.max_steps, program.patients)
    causes = [] if program.events is None else [ShapedArray(shape, np.dtype(np.int32))]
    return [ShapedArray(shape, ensemble.patients(leaves).y0.dtype), *causes]


@tangent_p.def_abstract_eval
def _(*operands: ShapedArray, derivative: Derivative) -> list[ShapedArray]:
    values = derivative.unpack(operands)
    states = _solved_shapes(derivative.ensemble, values.leaves)[0]
    return [ShapedArray((values.tangents[0].shape[0], *states.shape), states.dtype)]


@adjoint_p.def_abstract_eval
def _(*operands: ShapedArray, derivative: Derivative) -> list[ShapedArray]:
    values = derivative.unpack(operands)
    leaves, directions = values.leaves, values.tangents[0].shape[0]
    return [ShapedArray((directions, *leaf.shape), leaf.dtype) for leaf in select(leaves, derivative.wrt)]
