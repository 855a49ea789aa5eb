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
from jaxtyping import Bool

from qspjax._jaxpr._walk import dtype_of, shape_of
from qspjax.solve.kernel._layout import AbstractSystem, Lanes
from qspjax.solve.kernel._sparse_lu import Elimination
from qspjax.solve.native._graph import ZERO, AbstractRoutine
from qspjax.solve.native._tables import Factorisation, Substitution
from qspjax.solve.native._translate import OUTLINED, Translator, rule
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

        def outlined(constants: list[jax.Array], t: jax.Array, y: jax.Array) -> jax.Array:
            return self.slope([x[..., 0] for x in constants], t[0], y[:, 0])[:, None]

        outlined.__name__ = outlined.__qualname__ = OUTLINED
        self._outlined = jax.jit(outlined)

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
    def compact(self) -> "LaneSystem":
        """The same: its state is one array already."""
        return self

    def field(self, constants: Sequence[jax.Array], batched: Sequence[bool], t: jax.Array, y: jax.Array) -> jax.Array:
        """Return dy/dt, shape (n, 1)."""
        return self._outlined(list(constants), t, y)

    def split(self, y: jax.Array) -> jax.Array:
        """Return a state as it is."""
        return y

    def join(self, rows: jax.Array) -> jax.Array:
        """Return a state as it is."""
        return rows

    def linear(
        self, gamma: float, lanes: Lanes, t: jax.Array, y: jax.Array, scale: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        """Return the solver of (M/gamma - h J) x = b, factorised once."""
        plan = self.elimination
        check_size(plan)
        rows, cols = plan.rows[: plan.originals], plan.cols[: plan.originals]
        entries = jacobian_p.bind(*lanes.constants, t, y, system=self)
        shift = np.where(rows == cols, self.mass[rows] / gamma, 0.0)
        stored = -(scale if scale.ndim == 1 else scale[rows]) * entries + jnp.asarray(shift, y.dtype)[:, None]
        factors = factorise_p.bind(stored, plan=plan)
        return lambda b: substitute_p.bind(factors, b, plan=plan)

    @functools.cached_property
    def products(self) -> Callable[..., jax.Array]:
        """`(constants, t, y, directions) -> J d` for each direction, shape (directions, n)."""

        def products(constants: list[jax.Array], t: jax.Array, y: jax.Array, directions: jax.Array) -> jax.Array:
            values = [x[..., 0] for x in constants]

            def along(direction: jax.Array) -> jax.Array:
                return jax.jvp(lambda y: self.slope(values, t[0], y), (y[:, 0],), (direction,))[1]

            return jax.vmap(along)(directions)

        return products

    @property
    def colours(self) -> np.ndarray:
        """A colour for each column of the Jacobian; columns of one colour share no row."""
        return self._system.colours


def _primitive(name: str, shape: Callable[..., tuple[int, int]]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda *x, **static: ShapedArray(shape(**static), x[-1].dtype))
    return primitive


jacobian_p = _primitive("lane_jacobian", lambda system: (system.elimination.originals, 1))
factorise_p = _primitive("lane_factorise", lambda plan: (len(plan.rows) + plan.size, 1))
substitute_p = _primitive("lane_substitute", lambda plan: (plan.size, 1))


@rule("lane_jacobian")
def _jacobian(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    system: LaneSystem = eqn.params["system"]
    *constants, t, y = operands
    plan, colours, dtype = system.elimination, system.colours, y.dtype
    rows, cols = plan.rows[: plan.originals], plan.cols[: plan.originals]
    seeds = np.arange(colours.max(initial=0) + 1)[:, None] == colours
    program = jax.make_jaxpr(system.products)(
        [jax.ShapeDtypeStruct(shape_of(var), dtype_of(var)) for var in eqn.invars[:-2]],
        *(jax.ShapeDtypeStruct(shape_of(var), dtype_of(var)) for var in eqn.invars[-2:]),
        jax.ShapeDtypeStruct(seeds.shape, dtype),
    )

    def entries(translator: Translator, values: list[Value]) -> Sequence[Value]:
        directions = np.where(seeds, translator.graph.const(1.0), ZERO)
        (products,) = translator.run(program, [*values, Nodes(directions, dtype)])
        return [Nodes(translator.ids(products)[colours[cols], rows][:, None], dtype)]

    return self.call(("jacobian", id(system)), entries, operands)


def _routine(self: Translator, routine: AbstractRoutine, operands: list[Value]) -> Sequence[Value]:
    """Return the result of a routine of a column for each operand."""
    args = tuple(i for x in operands for i in self.ids(x).ravel().tolist())
    node = self.graph.node("routine", args, routine)
    rows = [self.graph.node("result", (node,), k) for k in range(routine.rows)]
    return [Nodes(np.array(rows, np.int64)[:, None], operands[-1].dtype)]


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
    if plan.operations > WRITTEN_OUT:
        return _routine(self, Substitution(plan), operands)

    def solution(translator: Translator, values: list[Value]) -> Sequence[Value]:
        make = translator.graph.make
        factors, x = (translator.ids(value)[:, 0].tolist() for value in values)
        for target, entry, source in plan.substitutions():
            if target == source:
                x[target] = make("mul", x[target], factors[entry])
            else:
                x[target] = make("sub", x[target], make("mul", factors[entry], x[source]))
        return [Nodes(np.array(x, np.int64)[:, None], values[1].dtype)]

    return self.call(("substitute", id(plan)), solution, operands)
