"""A model as the kernel sees it: constants of a patient, and a slope over rows of lanes.

The vector field is traced once, for one patient. What depends on parameters alone (CL / V, an allometric power, the
half-life of a cell) is split off and computed once a patient, in plain JAX, where it is differentiated and batched as
anything else; the rest is the slope, mapped over lanes.

Small states are written out, a row of shape (lanes,) for each; where the model itself holds arrays, or is large, the
state is one array of shape (states, lanes).
"""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.flatten_util import ravel_pytree

from qspjax._jaxpr._guarded import guarded
from qspjax._jaxpr._lanes import evaluate
from qspjax._jaxpr._regular import bound, not_below, under_roots
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax._jaxpr._split import partition_equations, variables_in
from qspjax._jaxpr._walk import compute
from qspjax._model import AbstractModel, check_slope
from qspjax._types import State
from qspjax.solve.kernel._jacobian import colouring
from qspjax.solve.kernel._rates import Parts, RatesJacobian, matrix_of, parts_of
from qspjax.solve.kernel._sparse_lu import Elimination

WRITTEN_OUT = 40
"""States up to which the arithmetic is written out, one row of lanes a state."""
FEW_COLOURS = 16
"""Colours up to which a Jacobian is computed as it is."""
UNROLLED = 12
"""States up to which the stages of a step, and its derivative, are written out as well: both compile slowly."""

Rows = Any
"""A state in lanes: a tuple of rows (lanes,), or one array (states, lanes)."""


class System:
    """The vector field of one structure of model, traced; compared by identity.

    Attributes:
        size: Number of states.
        written: Whether the state is written out, one row a state.
        autonomous: Whether the vector field ignores the time.
        mass: The diagonal of the mass matrix, 1 for a differential and 0 for an algebraic state.
        algebraic: The numbers of the algebraic states.
        floor: Of a state that a root is taken of: by how little it may be below zero, and is as good as zero; else 0.
    """

    def __init__(
        self, slope: ClosedJaxpr, parameters: int, *, size: int, written: bool, mass: np.ndarray, floor: np.ndarray
    ) -> None:
        jaxpr = slope.jaxpr
        self.size, self.written, self.mass, self.floor = size, written, mass, floor
        leaves, moving = jaxpr.invars[:parameters], jaxpr.invars[parameters:]
        fixed, own, rest = partition_equations(jaxpr, leaves)
        used = variables_in(rest, jaxpr.outvars)
        kept = [var for var in [*leaves, *(var for eqn in own for var in eqn.outvars)] if var in used]
        self._fixed = (jaxpr.constvars, slope.consts, fixed)
        self._prepare = (leaves, own, kept)
        self._slope = (kept, moving, rest, jaxpr.outvars)
        self.autonomous = moving[0] not in used
        self.algebraic = np.flatnonzero(mass == 0)

    def prepare(self, parameters: Sequence[jax.Array]) -> list[jax.Array]:
        """Return the constants of one patient from the leaves of the model."""
        leaves, own, kept = self._prepare
        constvars, consts, fixed = self._fixed

        def constants(*values: jax.Array) -> list[jax.Array]:
            return compute([*constvars, *leaves], values, [*fixed, *own], kept)

        return guarded(constants)(*consts, *parameters) if own else constants(*consts, *parameters)

    def slope(self, constants: Sequence[jax.Array], t: jax.Array, y: Any) -> Any:
        """Return dy/dt of one patient: n scalars if written out, else shape (n,)."""
        kept, moving, rest, outvars = self._slope
        constvars, consts, fixed = self._fixed
        y = self.raised(y)
        y = list(y) if self.written else [y]
        out = compute([*constvars, *kept, *moving], [*consts, *constants, t, *y], [*fixed, *rest], outvars, bound)
        return tuple(out) if self.written else out[0]

    def field(self, constants: Sequence[jax.Array], laned: Sequence[bool], t: jax.Array, y: Rows) -> Rows:
        """Return dy/dt in lanes; a constant has its lanes last where `laned`, or is shared."""
        if self.written:
            axes = [-1 if own else None for own in laned]
            return jax.vmap(self.slope, in_axes=(axes, -1, -1), out_axes=-1)(list(constants), t, y)
        _, _, rest, outvars = self._slope
        return self._in_lanes(constants, laned, t, y, rest, outvars)[0]

    def rates(self, constants: Sequence[jax.Array], laned: Sequence[bool], t: jax.Array, y: jax.Array) -> jax.Array:
        """Return the rates, shape (rates, lanes), of which dy/dt is a fixed linear function (see `_rates`)."""
        found = self._in_lanes(constants, laned, t, y, self._parts.head, self._parts.rates)
        return jnp.concatenate([rates.reshape(-1, rates.shape[-1]) for rates in found])

    def _in_lanes(
        self, constants: Sequence[jax.Array], laned: Sequence[bool], t: Any, y: Any, eqns: Sequence, wanted: Sequence
    ) -> list[jax.Array]:
        kept, moving, _, _ = self._slope
        constvars, consts, fixed = self._fixed
        return evaluate(
            [*constvars, *kept, *moving],
            [*consts, *constants, t, self.raised(y)],
            [*[False] * len(consts), *laned, True, True],
            [*fixed, *eqns],
            wanted,
        )

    @functools.cached_property
    def pattern(self) -> np.ndarray:
        """Where dy_i/dt depends on y_j, shape (states, states), from the traced program."""
        kept, moving, _, _ = self._slope
        constants = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in kept]
        t, *y = (jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in moving)
        state = tuple(y) if self.written else y[0]
        return jacobian_pattern(lambda y, t, *constants: self.slope(constants, t, y), state, t, *constants)

    @functools.cached_property
    def elimination(self) -> Elimination:
        """The order and the fill of the sparse LU factorisation."""
        return Elimination.of(self.pattern, algebraic=self.algebraic.tolist())

    @functools.cached_property
    def colours(self) -> np.ndarray:
        """A colour for each column of the Jacobian; columns of one colour share no row."""
        return colouring(self.pattern | np.eye(self.size, dtype=bool))

    @functools.cached_property
    def rates_jacobian(self) -> RatesJacobian | None:
        """How to sum up the Jacobian from that of the rates; None where that needs no fewer colours."""
        _, consts, _ = self._fixed
        traced = any(isinstance(value, jax.core.Tracer) for value in consts)
        if self.written or traced or self.colours.max(initial=0) < FEW_COLOURS or not self._parts.tail:
            return None
        parts, numbers = self._parts, self._numbers
        kept, moving, _, outvars = self._slope
        constants = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in kept]
        t, y = (jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in moving)

        def rates(y: jax.Array, t: jax.Array, *constants: jax.Array) -> list:
            known = [*numbers, *kept, *moving], [*numbers.values(), *constants, t, y]
            return compute(*known, parts.head, parts.rates, bound)

        pattern = jacobian_pattern(rates, y, t, *constants)
        colours = colouring(pattern)
        if 2 * colours.max(initial=0) > self.colours.max():
            return None
        lu = self.elimination
        matrix = matrix_of(parts, outvars[0], numbers)
        return RatesJacobian.of(matrix, pattern, colours, lu.rows[: lu.given], lu.cols[: lu.given])

    @functools.cached_property
    def _parts(self) -> Parts:
        _, _, rest, outvars = self._slope
        return parts_of(rest, outvars[0], self._numbers)

    @functools.cached_property
    def _numbers(self) -> dict:
        """What is computed from numbers alone."""
        constvars, consts, fixed = self._fixed
        made = [var for eqn in fixed for var in eqn.outvars]
        with jax.ensure_compile_time_eval():
            return dict(zip([*constvars, *made], compute(constvars, consts, fixed, [*constvars, *made]), strict=True))

    @functools.cached_property
    def compact(self) -> "System":
        """The same slope for solves that are differentiated: with the state as one array, unless it is small."""
        if not self.written or self.size <= UNROLLED:
            return self
        kept, moving, _, _ = self._slope
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in kept]
        t, *y = (jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in moving)
        state = jax.ShapeDtypeStruct((self.size,), y[0].dtype)

        def slope(constants: list, t: jax.Array, y: jax.Array) -> jax.Array:
            parts = [part.reshape(()) for part in jax.lax.split(y, [1] * self.size)]
            return jnp.concatenate([part.reshape(1) for part in self.slope(constants, t, parts)])

        traced = jax.make_jaxpr(slope)(shapes, t, state)
        return System(traced, len(kept), size=self.size, written=False, mass=self.mass, floor=np.zeros(self.size))

    def raised(self, y: Rows) -> Rows:
        """Return a state, zero where it is so little below zero that it is as good as zero to a root."""
        if not self.floor.any():
            return y
        if self.written:
            return tuple(not_below(row, floor) if floor else row for row, floor in zip(y, self.floor, strict=True))
        return not_below(y, self.floor.reshape(-1, *[1] * (y.ndim - 1)))

    def split(self, y: jax.Array) -> Rows:
        """Return an array (states, lanes) as rows."""
        return tuple(y[i] for i in range(self.size)) if self.written else y

    def join(self, rows: Rows) -> jax.Array:
        """Return rows as an array (states, lanes)."""
        return jnp.stack(rows) if self.written else rows


def system_of(
    model: AbstractModel, start: State, mass: np.ndarray | None = None, atol: Any = 0.0
) -> tuple[System, list[jax.Array]]:
    """Trace the vector field of a model; return it with the leaves of the model that it is a function of.

    Args:
        model: The model.
        start: A state.
        mass: The diagonal of the mass matrix, by default 1.
        atol: Below which a state is as good as zero, of all states or of each.
    """
    arrays, static = eqx.partition(model, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    flat, unravel = ravel_pytree(start)
    scalars = all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(start))
    written = scalars and flat.size <= WRITTEN_OUT

    def slope(leaves: list, t: jax.Array, *y: jax.Array) -> Any:
        patient = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        state = jax.tree.unflatten(jax.tree.structure(start), y) if written else unravel(y[0])
        moved = patient.vector_field(t, state)
        check_slope(moved, start)
        rows = jax.tree.map(lambda own, leaf: jnp.broadcast_to(jnp.asarray(own, flat.dtype), leaf.shape), moved, start)
        return jax.tree.leaves(rows) if written else ravel_pytree(rows)[0]

    number = jax.ShapeDtypeStruct((), flat.dtype)
    y = [number] * flat.size if written else [jax.ShapeDtypeStruct(flat.shape, flat.dtype)]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traced = jax.make_jaxpr(slope)(shapes, number, *y)
    mass = np.ones(flat.size) if mass is None else mass
    marks = [{k} for k in range(flat.size)] if written else [set(range(flat.size))]
    rooted = under_roots(traced, [*[set()] * (len(leaves) + 1), *marks])
    floor = np.where(np.isin(np.arange(flat.size), list(rooted)), atol, 0.0)
    return System(traced, len(leaves), size=flat.size, written=written, mass=mass, floor=floor), leaves
