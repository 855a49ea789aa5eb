"""Patients of a linear model on their way through boundaries, as a primitive: `vmap` only makes the ensemble longer.

See `kernel.primitives`. Derivatives do not come here: see `_march_again`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from qspjax._jaxpr._linearity import Structure
from qspjax._programs import alone
from qspjax.solve._control import NONFINITE, SUCCESS
from qspjax.solve._passage import System, marched
from qspjax.solve._phi import split
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.kernel.primitives._batch import Axis, Batched, fold_leaves, size_of, unfolded
from qspjax.solve.kernel.primitives._define import Structure as TreeStructure


class March(NamedTuple):
    """The static part of the primitive.

    Attributes:
        pattern: Which entries of exp(A) can differ from zero.
        affine: Whether b can.
        system: The structure of A and b, which are the constants of a patient.
        outputs: The number of outputs.
        protected: The number of last states that resets and steady states do not touch.
        patients: The number of patients.
        structure: The structure of the patients.
        batched: For each of their leaves, whether it has an axis of patients.
    """

    pattern: tuple[tuple[bool, ...], ...]
    affine: bool
    system: TreeStructure
    outputs: int
    protected: int
    patients: int
    structure: TreeStructure
    batched: tuple[bool, ...]

    @property
    def size(self) -> int:
        """The number of states."""
        return len(self.pattern)

    def of(self, leaves: Sequence) -> Patients:
        """Return the patients with these leaves."""
        return jax.tree.unflatten(self.structure, leaves)

    def system_of(self, constants: Sequence[jax.Array], y0: jax.Array) -> System:
        """Return the system of one patient."""
        a, b = jax.tree.unflatten(self.system, constants)
        return System(a, b, split(y0), Structure(np.array(self.pattern), self.affine))


class Course(NamedTuple):
    """How the solve of one patient went.

    Attributes:
        columns: The states at outputs.
        code: The status code.
        steps: The number of boundaries until the last time.
        last_time: The last time that was reached.
        culprit: The state for which it failed.
        reached: The number of boundaries before a state was not finite.
    """

    columns: list[jax.Array]
    code: jax.Array
    steps: jax.Array
    last_time: jax.Array
    culprit: jax.Array
    reached: jax.Array


def march(system: System, lines: Timeline, t0: jax.Array, outputs: int, certain: jax.Array) -> Course:
    """Solve for one patient.

    Args:
        system: What he is.
        lines: His boundaries.
        t0: Where to start.
        outputs: The number of outputs.
        certain: Whether all times and doses are known; else nothing happens.
    """
    ended = jnp.where(certain, SUCCESS, NONFINITE).astype(jnp.int32)
    patients, static = as_patients(system, lines, t0, outputs, ended)
    leaves = jax.tree.leaves(patients)
    *columns, last_time, _, code, steps, sound, failing = (x[0] for x in march_p.bind(*leaves, march=static))
    reached = jnp.where(code == SUCCESS, lines.boundaries.time.size, sound)
    return Course(columns, code, steps.astype(int), last_time, failing, reached)


def as_patients(
    system: System, lines: Timeline, t0: jax.Array, outputs: int, ended: jax.Array
) -> tuple[Patients, March]:
    """Return one patient as the primitives have him; `ended` is a status code, or how many boundaries he reaches."""
    y0 = jnp.stack(jax.tree.leaves(system.y0)) if isinstance(system.y0, tuple) else system.y0
    t0 = jnp.asarray(t0, y0.dtype)
    constants, tree = jax.tree.flatten((system.a, system.b))
    patients = Patients(
        constants=constants,
        y0=y0,
        t0=t0,
        boundaries=lines.boundaries.cast(y0.dtype),
        vectors=None if lines.vectors is None else lines.vectors.astype(y0.dtype),
        span=jax.lax.stop_gradient(t0),
        ended=ended.astype(jnp.int32),
    )
    leaves, structure = jax.tree.flatten(patients)
    pattern = tuple(map(tuple, system.structure.pattern.tolist()))
    batched = (False,) * len(leaves)
    return patients, March(pattern, system.structure.affine, tree, outputs, lines.protected, 1, structure, batched)


march_p = Primitive("qspjax_march")
march_p.multiple_results = True
march_p.def_impl(alone(march_p))


@march_p.def_abstract_eval
def _(*leaves: ShapedArray, march: March) -> list[ShapedArray]:
    dtype, size, count = march.of(leaves).y0.dtype, march.size, march.patients
    number, index = ShapedArray((count,), np.dtype(np.int32)), jax.dtypes.canonicalize_dtype(int)
    column, last = ShapedArray((count, march.outputs), dtype), ShapedArray((count, size), dtype)
    end = [ShapedArray((count,), dtype), last, number, number, number, ShapedArray((count,), index)]
    return [*[column] * size, *end]


def _by_xla(*leaves: jax.Array, march: March) -> list[jax.Array]:
    def one(*leaves: jax.Array) -> list[jax.Array]:
        patients = march.of(leaves)
        lines = Timeline(patients.boundaries, patients.vectors, march.protected)
        certain = patients.ended == SUCCESS
        columns, end = marched(
            march.system_of(patients.constants, patients.y0), lines, patients.t0, march.outputs, certain
        )
        code = jnp.where(end.succeeded, SUCCESS, NONFINITE).astype(jnp.int32)
        steps, reached = end.steps.astype(jnp.int32), end.reached.astype(jnp.int32)
        return [*columns, end.last_time, jnp.zeros_like(patients.y0), code, steps, reached, end.culprit]

    if not any(march.batched):
        return [x[None] for x in one(*leaves)]
    return jax.vmap(one, in_axes=[0 if batched else None for batched in march.batched])(*leaves)


for_xla = mlir.lower_fun(_by_xla, multiple_results=True)
mlir.register_lowering(march_p, for_xla)


def _batch(leaves: Sequence[jax.Array], axes: Sequence[Axis], *, march: March) -> Batched:
    size = size_of(leaves, axes)
    leaves, batched = fold_leaves(leaves, axes, march.batched, march.patients, size)
    longer = march._replace(patients=size * march.patients, batched=tuple(batched))
    results = march_p.bind(*leaves, march=longer)
    return [unfolded(x, size) for x in results], [0] * len(results)


batching.primitive_batchers[march_p] = _batch
