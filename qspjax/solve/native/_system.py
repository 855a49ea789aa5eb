"""A vector field as one lane sees it: the state as one array, and linear algebra written out entry by entry.

Derivatives are taken of the slope along a few directions at once, each the sum of columns of the Jacobian that share no
row. A direction is zero for most states, and what is zero is not computed: see `_graph.ZERO`.
"""

import functools
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn, Primitive
from jax.interpreters import batching
from jaxtyping import Bool, Int

from qspjax._jaxpr._products import WIDE, largest_product
from qspjax.solve.kernel._layout import AbstractSystem, Lanes
from qspjax.solve.kernel._sparse_lu import Elimination
from qspjax.solve.native._graph import ZERO, AbstractRoutine
from qspjax.solve.native._outlined import Kinds, Outlined
from qspjax.solve.native._tables import Factorisation, Substitution
from qspjax.solve.native._translate import Translator, rule
from qspjax.solve.native._values import Nodes, UnsupportedError, Value

WRITTEN_OUT = 15_000
"""Factorisations of more products are loops over tables; written out, they would be too much code."""


def check_size(plan: Elimination) -> None:
    """Check that a factorisation is not so large that compiling it takes long, unless native code is asked for."""
    if plan.operations > WRITTEN_OUT and os.environ.get("QSPJAX_BACKEND", "").lower() != "native":
        raise UnsupportedError("a system so large that compiling it takes long; QSPJAX_BACKEND=native asks for it")


class LaneSystem(AbstractSystem):
    """The vector field of a system, to be translated."""

    unrolled = False
    unrolled_stages = True

    def __init__(self, system: AbstractSystem) -> None:
        self._system = system
        self.size, self.mass, self.floor = system.size, system.mass, system.floor
        self.algebraic, self.autonomous = system.algebraic, system.autonomous
        self._field = Outlined(self._field_of_lane, numbers=False)
        self._entries = Outlined(self._entries_of_lane, self._sparse, shapes=self._shape_of_entries)

    def slope(self, constants: Sequence[jax.Array], t: jax.Array, y: jax.Array) -> jax.Array:
        """Return dy/dt of one patient, shape (n,)."""
        system = self._system
        return system.join(system.slope(constants, t, system.split(y)))

    def slope_of_patient(self, constants: Sequence[jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """Return dy/dt of one patient as a function of time and state, shape (n,)."""
        return lambda t, y: self.field([x[..., None] for x in constants], (), t[None], y[:, None])[:, 0]

    @property
    def pattern(self) -> Bool[np.ndarray, "states states"]:
        """Where dy_i/dt depends on y_j."""
        return self._system.pattern

    @property
    def elimination(self) -> Elimination:
        """The order and the fill of the sparse LU factorisation, planned only for a method that has one."""
        return self._system.elimination

    @property
    def colours(self) -> Int[np.ndarray, " states"]:
        """A colour for each column of the Jacobian; columns of one colour share no row."""
        return self._system.colours

    @property
    def compact(self) -> "LaneSystem":
        """The same: its state is one array already."""
        return self

    def field(self, constants: Sequence[jax.Array], batched: Sequence[bool], t: jax.Array, y: jax.Array) -> jax.Array:
        """Return dy/dt, shape (n, 1)."""
        return self._field(*constants, t, y)[0]

    def split(self, y: jax.Array) -> jax.Array:
        """Return a state as it is."""
        return y

    def join(self, rows: jax.Array) -> jax.Array:
        """Return a state as it is."""
        return rows

    def linear(
        self, gamma: float, lanes: Lanes, t: jax.Array, y: jax.Array, scale: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        """Return the solver of (M/gamma - h J) x = b, factorised once; its derivatives solve with the same factors."""
        plan, (rows, cols) = self.elimination, self._positions
        check_size(plan)
        (entries,) = self._entries(*lanes.constants, t, y)
        shift = np.where(rows == cols, self.mass[rows] / gamma, 0.0)
        stored = -(scale if scale.ndim == 1 else scale[rows]) * entries + jnp.asarray(shift, y.dtype)[:, None]
        factors = factorise_p.bind(jax.lax.stop_gradient(stored), plan=plan)

        def product(x: jax.Array) -> jax.Array:
            return jnp.zeros_like(x).at[rows].add(stored * x[cols])

        def solve(_: Callable, b: jax.Array) -> jax.Array:
            return substitute_p.bind(factors, b, plan=plan, transposed=False)

        def solve_transposed(_: Callable, b: jax.Array) -> jax.Array:
            return substitute_p.bind(factors, b, plan=plan, transposed=True)

        return jax.jit(lambda b: jax.lax.custom_linear_solve(product, b, solve, solve_transposed))  # traced once

    def _field_of_lane(self, *operands: jax.Array) -> list[jax.Array]:
        *constants, t, y = operands
        return [self.slope([x[..., 0] for x in constants], t[0], y[:, 0])[:, None]]

    @property
    def _positions(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the columns of the entries of the Jacobian."""
        plan = self.elimination
        return plan.rows[: plan.originals], plan.cols[: plan.originals]

    @functools.cached_property
    def _seeds(self) -> np.ndarray:
        """The directions along which derivatives are taken, each the sum of columns of one colour."""
        return np.arange(self.colours.max(initial=0) + 1)[:, None] == self.colours

    def _entries_of_lane(self, *operands: jax.Array) -> list[jax.Array]:
        """Return the entries of the Jacobian."""
        products = self._products(*operands, jnp.asarray(self._seeds, operands[-1].dtype))
        rows, cols = self._positions
        return [products[self.colours[cols], rows][:, None]]

    def _shape_of_entries(self, operands: Kinds) -> Kinds:
        return (((self.elimination.originals, 1), operands[-1][1]),)

    def _products(self, *operands: jax.Array) -> jax.Array:
        """Return J d for each direction, from constants, time, state and the directions."""
        *constants, t, y, directions = operands
        values = [x[..., 0] for x in constants]

        def slope(y: jax.Array) -> jax.Array:
            return self.slope(values, t[0], y)

        if largest_product(jax.make_jaxpr(slope)(y[:, 0]).jaxpr) >= WIDE:
            _, derivative = jax.linearize(slope, y[:, 0])
            return jnp.stack([derivative(direction) for direction in directions])

        def along(direction: jax.Array) -> jax.Array:
            return jax.jvp(slope, (y[:, 0],), (direction,))[1]

        return jax.vmap(along)(directions)

    def _sparse(self, translator: Translator, values: Sequence[Value]) -> Sequence[Value]:
        """Translate the entries of the Jacobian, with directions that are zero not there."""
        dtype = values[-1].dtype
        directions = np.where(self._seeds, translator.graph.const(1.0), ZERO)
        shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*values, directions))
        *operands, seeds = shapes
        program = jax.make_jaxpr(self._products)(*operands, jax.ShapeDtypeStruct(seeds.shape, dtype))
        (products,) = translator.run(program, [*values, Nodes(directions, dtype)])
        rows, cols = self._positions
        return [Nodes(translator.ids(products)[self.colours[cols], rows][:, None], dtype)]


def _primitive(name: str, shape: Callable[..., tuple[int, int]]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda *x, **static: ShapedArray(shape(**static), x[-1].dtype))
    return primitive


factorise_p = _primitive("lane_factorise", lambda plan: (len(plan.rows) + plan.size, 1))
substitute_p = _primitive("lane_substitute", lambda plan, **_: (plan.size, 1))


def _routine(self: Translator, routine: AbstractRoutine, operands: list[Value]) -> Sequence[Value]:
    """Return the result of a routine of a column for each operand."""
    args = tuple(i for x in operands for i in self.ids(x).ravel().tolist())
    node = self.graph.node("routine", args, routine)
    rows = [self.graph.node("result", (node,), k) for k in range(routine.rows)]
    return [Nodes(np.array(rows, np.int64)[:, None], operands[-1].dtype)]


def _substitute_each(
    operands: Sequence[jax.Array], axes: Sequence[int | None], **static: Elimination | bool
) -> tuple[jax.Array, int]:
    """Solve for right sides along an axis one after the other, with the same factors."""
    factors, b = operands
    assert axes[0] is None
    columns = jnp.moveaxis(b, axes[1] or 0, 0)
    return jnp.stack([substitute_p.bind(factors, x, **static) for x in columns]), 0


batching.primitive_batchers[substitute_p] = _substitute_each


@rule("lane_factorise")
def _factorise(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    plan: Elimination = eqn.params["plan"]
    if plan.operations > WRITTEN_OUT:
        return _routine(self, Factorisation(plan), operands)

    def factors(translator: Translator, values: list[Value]) -> Sequence[Value]:
        make, one = translator.graph.make, translator.graph.const(1.0)
        a = [*translator.ids(values[0])[:, 0].tolist(), *[ZERO] * (len(plan.rows) - plan.originals)]
        reciprocals = [ZERO] * plan.size
        for p in plan.order:
            reciprocals[p] = make("div", one, a[int(plan.diagonal[p])])
            for target, left, up in plan.updates(p):
                if target == left:
                    a[target] = make("mul", a[target], reciprocals[p])
                else:
                    a[target] = make("sub", a[target], make("mul", a[left], a[up]))
        return [Nodes(np.array([*a, *reciprocals], np.int64)[:, None], values[0].dtype)]

    return self.call(("factorise", id(plan)), factors, operands)


@rule("lane_substitute")
def _substitute(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    plan: Elimination = eqn.params["plan"]
    transposed: bool = eqn.params["transposed"]
    if plan.operations > WRITTEN_OUT:
        if transposed:
            raise UnsupportedError("a derivative of a system so large that its factors are tables")
        return _routine(self, Substitution(plan), operands)

    def solution(translator: Translator, values: list[Value]) -> Sequence[Value]:
        make = translator.graph.make
        factors, x = (translator.ids(value)[:, 0].tolist() for value in values)
        for target, entry, source in plan.substitutions(transposed=transposed):
            if target == source:
                x[target] = make("mul", x[target], factors[entry])
            else:
                x[target] = make("sub", x[target], make("mul", factors[entry], x[source]))
        return [Nodes(np.array(x, np.int64)[:, None], values[1].dtype)]

    return self.call(("substitute", id(plan), transposed), solution, operands)
