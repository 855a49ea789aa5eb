"""A model as the kernel sees it: constants of a patient, and a slope over rows of lanes.

The vector field is traced once, for one patient. What depends on parameters alone (CL / V, an allometric power, the
half-life of a cell) is split off and computed once per patient, in plain JAX, where it is differentiated and batched
like anything else; the rest is the slope, mapped over lanes.

Small states are unrolled, a row of shape (lanes,) for each; where the model itself holds arrays, or is large, the
state is one array of shape (states, lanes).
"""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from qspjax._jaxpr._guarded import guarded
from qspjax._jaxpr._lanes import evaluate
from qspjax._jaxpr._regular import bound, not_below, under_roots
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax._jaxpr._split import partition_equations, variables_in
from qspjax._jaxpr._walk import Atom, compute, dtype_of, shape_of
from qspjax._model import AbstractModel, check_slope
from qspjax._types import State
from qspjax.solve.kernel._jacobian import colouring
from qspjax.solve.kernel._rates import Parts, RatesJacobian, matrix_of, parts_of
from qspjax.solve.kernel._sparse_lu import Elimination

UNROLLED_STATES = 40
"""Up to this many states, the arithmetic is unrolled, one row of lanes per state."""
DIRECT_COLOURS = 16
"""Up to this many colours, a Jacobian is computed directly."""
UNROLLED_STAGES = 12
"""Up to this many states, the stages of a step, and its derivative, are unrolled as well: both compile slowly."""

Rows: TypeAlias = PyTree[Float[Array, "..."] | Float[np.ndarray, "..."]]
"""A state in lanes: a tuple of rows (lanes,), or one array (states, lanes); in numpy what is constant."""


class _Traced(NamedTuple):
    """The traced vector field of one patient, its equations partitioned by what they depend on.

    Attributes:
        constvars: The variables of the constants of the program.
        consts: Their values.
        numbers: Equations of numbers alone.
        leaves: The leaves of the model.
        parameters: Equations of the leaves alone.
        constants: The variables, of leaves and of parameters, that the slope reads.
        inputs: The time and the states.
        slope: All other equations.
        outputs: dy/dt.
    """

    constvars: list[Var]
    consts: list[ArrayLike]
    numbers: list[JaxprEqn]
    leaves: list[Var]
    parameters: list[JaxprEqn]
    constants: list[Var]
    inputs: list[Var]
    slope: list[JaxprEqn]
    outputs: list[Atom]

    @classmethod
    def of(cls, traced: ClosedJaxpr, parameters: int) -> "_Traced":
        """Partition a program whose first inputs, `parameters` of them, are the leaves of the model."""
        jaxpr = traced.jaxpr
        leaves, inputs = jaxpr.invars[:parameters], jaxpr.invars[parameters:]
        partition = partition_equations(jaxpr, leaves)
        used = variables_in(partition.moving, jaxpr.outvars)
        computed = [var for eqn in partition.parameters for var in eqn.outvars]
        constants = [var for var in [*leaves, *computed] if var in used]
        return cls(
            constvars=jaxpr.constvars,
            consts=traced.consts,
            numbers=partition.numbers,
            leaves=leaves,
            parameters=partition.parameters,
            constants=constants,
            inputs=inputs,
            slope=partition.moving,
            outputs=jaxpr.outvars,
        )

    @property
    def shapes(self) -> tuple[list[jax.ShapeDtypeStruct], list[jax.ShapeDtypeStruct]]:
        """The shapes of the constants and of the inputs."""
        constants, inputs = (
            [jax.ShapeDtypeStruct(shape_of(var), dtype_of(var)) for var in variables]
            for variables in (self.constants, self.inputs)
        )
        return constants, inputs


class Lanes(NamedTuple):
    """What a step needs besides the state: the constants of the patients in the lanes, and which of them have lanes."""

    constants: list[jax.Array]
    batched: tuple[bool, ...]


Linear: TypeAlias = Callable[[float, Lanes, jax.Array, Rows, Rows], Callable[[Rows], Rows]]
"""`(gamma, lanes, t, y, h) -> b -> x`, the solver of (M/gamma - h J) x = b, factorised once; h for each row."""


class AbstractSystem(abc.ABC):
    """The vector field of one structure of model, in lanes; compared by identity.

    Attributes:
        size: Number of states.
        unrolled: Whether the state is unrolled, one row per state.
        autonomous: Whether the vector field ignores the time.
        mass: The diagonal of the mass matrix, 1 for a differential and 0 for an algebraic state.
        algebraic: The indices of the algebraic states.
        floor: For a state of which a root is taken, how far below zero it may be and still count as zero; else 0.
        unrolled_stages: Whether the stages of a step are unrolled.
        pattern: Where dy_i/dt depends on y_j.
        elimination: The order and the fill of the sparse LU factorisation.
        colours: A colour for each column of the Jacobian; columns of one colour share no row.
        compact: The same vector field for solves that are differentiated.
        linear: How to solve the linear systems of a step, None for that of `_rosenbrock`.
    """

    size: int
    unrolled: bool
    autonomous: bool
    mass: Float[np.ndarray, " states"]
    algebraic: Int[np.ndarray, " algebraic"]
    floor: Float[np.ndarray, " states"]
    unrolled_stages: bool
    pattern: Bool[np.ndarray, "states states"]
    elimination: Elimination
    colours: Int[np.ndarray, " states"]
    compact: "AbstractSystem"
    linear: Linear | None

    @abc.abstractmethod
    def slope(self, constants: Sequence[jax.Array], t: jax.Array, y: Rows) -> Rows:
        """Return dy/dt of one patient."""

    @abc.abstractmethod
    def slope_of_patient(
        self, constants: Sequence[jax.Array]
    ) -> Callable[[Float[Array, ""], Float[Array, " states"]], Float[Array, " states"]]:
        """Return dy/dt of one patient as a function of time and of a state in one array."""

    @abc.abstractmethod
    def field(self, constants: Sequence[jax.Array], batched: Sequence[bool], t: jax.Array, y: Rows) -> Rows:
        """Return dy/dt in lanes; a constant has its lanes last where `batched`, or is shared."""

    @abc.abstractmethod
    def split(self, y: jax.Array) -> Rows:
        """Return an array (states, lanes) as rows."""

    @abc.abstractmethod
    def join(self, rows: Rows) -> jax.Array:
        """Return rows as an array (states, lanes)."""


class TracedSystem(AbstractSystem):
    """The vector field of a model as its program was traced."""

    linear = None

    def __init__(
        self,
        traced: ClosedJaxpr,
        parameters: int,
        *,
        size: int,
        unrolled: bool,
        mass: Float[np.ndarray, " states"],
        floor: Float[np.ndarray, " states"],
    ) -> None:
        self.size, self.unrolled, self.mass, self.floor = size, unrolled, mass, floor
        self.algebraic: Int[np.ndarray, " algebraic"] = np.flatnonzero(mass == 0)
        self._traced = program = _Traced.of(traced, parameters)
        self.autonomous = program.inputs[0] not in variables_in(program.slope, program.outputs)

    def prepare(self, parameters: Sequence[jax.Array]) -> list[jax.Array]:
        """Return the constants of one patient from the leaves of the model."""
        program = self._traced

        given = dict(zip(program.leaves, parameters, strict=True))
        computed = [var for var in program.constants if var not in given]

        def constants(*values: ArrayLike) -> list[jax.Array]:
            variables = [*program.constvars, *program.leaves]
            results = compute(variables, values, [*program.numbers, *program.parameters], computed)
            return cast("list[jax.Array]", results)  # none is a number of the program

        if computed:
            given.update(zip(computed, guarded(constants)(*program.consts, *parameters), strict=True))
        return [given[var] for var in program.constants]

    def slope(self, constants: Sequence[jax.Array], t: jax.Array, y: Rows) -> Rows:
        """Return dy/dt of one patient: n scalars if unrolled, else shape (n,)."""
        program, y = self._traced, self.raised(y)
        variables = [*program.constvars, *program.constants, *program.inputs]
        values = [*program.consts, *constants, t, *(y if self.unrolled else [y])]
        out = compute(variables, values, [*program.numbers, *program.slope], program.outputs, bound)
        return tuple(out) if self.unrolled else out[0]

    def slope_of_patient(
        self, constants: Sequence[jax.Array]
    ) -> Callable[[Float[Array, ""], Float[Array, " states"]], Float[Array, " states"]]:
        """Return dy/dt of one patient as a function of time and of a state in one array."""
        return lambda t, y: self.join(self.slope(constants, t, self.split(y)))

    def field(self, constants: Sequence[jax.Array], batched: Sequence[bool], t: jax.Array, y: Rows) -> Rows:
        """Return dy/dt in lanes; a constant has its lanes last where `batched`, or is shared."""
        if self.unrolled:
            axes = [-1 if has_lanes else None for has_lanes in batched]
            return jax.vmap(self.slope, in_axes=(axes, -1, -1), out_axes=-1)(list(constants), t, y)
        return self._in_lanes(constants, batched, t, y, self._traced.slope, self._traced.outputs)[0]

    def rates(
        self, constants: Sequence[jax.Array], batched: Sequence[bool], t: jax.Array, y: jax.Array
    ) -> Float[Array, "rates lanes"]:
        """Return the rates of which dy/dt is a fixed linear function (see `_rates`)."""
        values = self._in_lanes(constants, batched, t, y, self._parts.head, self._parts.rates)
        return jnp.concatenate([rates.reshape(-1, rates.shape[-1]) for rates in values])

    def _in_lanes(
        self,
        constants: Sequence[jax.Array],
        batched: Sequence[bool],
        t: jax.Array,
        y: jax.Array,
        eqns: Sequence[JaxprEqn],
        outputs: Sequence[Atom],
    ) -> list[jax.Array]:
        program = self._traced
        return evaluate(
            [*program.constvars, *program.constants, *program.inputs],
            [*program.consts, *constants, t, self.raised(y)],
            [*[False] * len(program.consts), *batched, True, True],
            [*program.numbers, *eqns],
            outputs,
        )

    @property
    def unrolled_stages(self) -> bool:
        """Whether the stages of a step are unrolled."""
        return self.unrolled and self.size <= UNROLLED_STAGES

    @functools.cached_property
    def pattern(self) -> Bool[np.ndarray, "states states"]:
        """Where dy_i/dt depends on y_j, from the traced program."""
        constants, (t, *y) = self._traced.shapes
        state = tuple(y) if self.unrolled else y[0]
        return jacobian_pattern(lambda y, t, *constants: self.slope(constants, t, y), state, t, *constants)

    @functools.cached_property
    def elimination(self) -> Elimination:
        """The order and the fill of the sparse LU factorisation."""
        return Elimination.of(self.pattern, algebraic=self.algebraic.tolist())

    @functools.cached_property
    def colours(self) -> Int[np.ndarray, " states"]:
        """A colour for each column of the Jacobian; columns of one colour share no row."""
        return colouring(self.pattern | np.eye(self.size, dtype=bool))

    @functools.cached_property
    def rates_jacobian(self) -> RatesJacobian | None:
        """How to sum up the Jacobian from that of the rates; None where that does not need fewer colours."""
        program = self._traced
        symbolic = any(isinstance(value, Tracer) for value in program.consts)
        if self.unrolled or symbolic or self.colours.max(initial=0) < DIRECT_COLOURS or not self._parts.tail:
            return None
        parts, numbers = self._parts, self._numbers
        constants, (t, y) = program.shapes

        def rates(y: jax.Array, t: jax.Array, *constants: jax.Array) -> list[ArrayLike]:
            variables = [*numbers, *program.constants, *program.inputs]
            return compute(variables, [*numbers.values(), *constants, t, y], parts.head, parts.rates, bound)

        pattern = jacobian_pattern(rates, y, t, *constants)
        colours = colouring(pattern)
        if 2 * colours.max(initial=0) > self.colours.max():
            return None
        lu = self.elimination
        matrix = matrix_of(parts, program.outputs[0], numbers)
        return RatesJacobian.of(matrix, pattern, colours, lu.rows[: lu.originals], lu.cols[: lu.originals])

    @functools.cached_property
    def _parts(self) -> Parts:
        return parts_of(self._traced.slope, self._traced.outputs[0], self._numbers)

    @functools.cached_property
    def _numbers(self) -> dict[Var, ArrayLike]:
        """The values that are computed from numbers alone."""
        program = self._traced
        variables = [*program.constvars, *(var for eqn in program.numbers for var in eqn.outvars)]
        with jax.ensure_compile_time_eval():
            values = compute(program.constvars, program.consts, program.numbers, variables)
        return dict(zip(variables, values, strict=True))

    @functools.cached_property
    def compact(self) -> "TracedSystem":
        """The same slope for solves that are differentiated: with the state as one array, unless it is small."""
        if not self.unrolled or self.size <= UNROLLED_STAGES:
            return self
        constants, (t, *y) = self._traced.shapes
        state = jax.ShapeDtypeStruct((self.size,), y[0].dtype)

        def slope(constants: list[jax.Array], t: jax.Array, y: jax.Array) -> jax.Array:
            rows = [row.reshape(()) for row in jax.lax.split(y, [1] * self.size)]
            return jnp.concatenate([row.reshape(1) for row in self.slope(constants, t, rows)])

        traced = jax.make_jaxpr(slope)(constants, t, state)
        return TracedSystem(
            traced, len(constants), size=self.size, unrolled=False, mass=self.mass, floor=np.zeros(self.size)
        )

    def raised(self, y: Rows) -> Rows:
        """Return a state, raised to zero where it is so little below zero that it is effectively zero for a root."""
        if not self.floor.any():
            return y
        if self.unrolled:
            return tuple(not_below(row, floor) if floor else row for row, floor in zip(y, self.floor, strict=True))
        return not_below(y, self.floor.reshape(-1, *[1] * (y.ndim - 1)))

    def split(self, y: jax.Array) -> Rows:
        """Return an array (states, lanes) as rows."""
        return tuple(y[i] for i in range(self.size)) if self.unrolled else y

    def join(self, rows: Rows) -> jax.Array:
        """Return rows as an array (states, lanes)."""
        return jnp.stack(rows) if self.unrolled else rows


def system_of(
    model: AbstractModel,
    start: State,
    mass: Float[np.ndarray, " states"] | None = None,
    atol: float | Float[np.ndarray, " states"] = 0.0,
) -> tuple[TracedSystem, list[jax.Array]]:
    """Trace the vector field of a model; return it with the leaves of the model that it is a function of.

    Args:
        model: The model.
        start: A state.
        mass: The diagonal of the mass matrix, by default 1.
        atol: The size below which a state is effectively zero, for all states or for each.
    """
    arrays, static = eqx.partition(model, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    flat, unravel = ravel_pytree(start)
    scalars = all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(start))
    unrolled = scalars and flat.size <= UNROLLED_STATES

    def slope(leaves: list[jax.Array], t: jax.Array, *y: jax.Array) -> PyTree[jax.Array]:
        patient = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        state = jax.tree.unflatten(jax.tree.structure(start), y) if unrolled else unravel(y[0])
        dydt = patient.vector_field(t, state)
        check_slope(dydt, start, patient)
        rows = jax.tree.map(lambda row, leaf: jnp.broadcast_to(jnp.asarray(row, flat.dtype), leaf.shape), dydt, start)
        return jax.tree.leaves(rows) if unrolled else ravel_pytree(rows)[0]

    number = jax.ShapeDtypeStruct((), flat.dtype)
    y = [number] * flat.size if unrolled else [jax.ShapeDtypeStruct(flat.shape, flat.dtype)]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traced = jax.make_jaxpr(slope)(shapes, number, *y)
    mass = np.ones(flat.size) if mass is None else mass
    marks = [{k} for k in range(flat.size)] if unrolled else [set(range(flat.size))]
    rooted = under_roots(traced, [*[set()] * (len(leaves) + 1), *marks])
    floor = np.where(np.isin(np.arange(flat.size), list(rooted)), atol, 0.0)
    return TracedSystem(traced, len(leaves), size=flat.size, unrolled=unrolled, mass=mass, floor=floor), leaves
