"""Linear models without steps: matrix exponentials from boundary to boundary.

Between two boundaries (doses, ends of infusions, outputs) a linear model with running infusions r is

    y' = A y + b + r,   y(t + h) = exp(h A) y(t) + h phi_1(h A) (b + r),   phi_1(z) = (exp(z) - 1) / z

which is exact. Both matrices, computed in `_phi`, are kept while the interval stays the same, as it does for outputs on
a grid. Which models are linear is decided in `_linear`, and derivatives are those of `_march_again`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from qspjax._checks import refuse
from qspjax._declared import declared
from qspjax._model import AbstractModel, as_state
from qspjax._types import Scalar, State
from qspjax.solve import native as _native  # noqa: F401
from qspjax.solve._constant import constant, stop_gradient_where, zero_where
from qspjax.solve._control import result_of
from qspjax.solve._linear import MAX_STATES, structure_of
from qspjax.solve._march import march
from qspjax.solve._march_again import march_again
from qspjax.solve._method import AbstractMethod, Trajectory
from qspjax.solve._passage import System
from qspjax.solve._phi import entries, split
from qspjax.solve.dosing._schedule import Schedule
from qspjax.solve.dosing._timeline import timeline


class MatrixExponential(AbstractMethod):
    """Solve a linear model exactly, from dose to dose and output to output, without steps and tolerances.

    $$ y' = A y + b + r, \\quad y(t + h) = e^{h A} y(t) + h \\varphi_1(h A) (b + r) $$

    with r the running infusions. Derivatives are exact in both modes and of every order, with respect to parameters,
    initial state, dose amounts and every moving boundary. A patient whose numbers are not finite is reported as such.

    Raises:
        ValueError: On solving a model that is not linear with constant coefficients, has algebraic states, or has more
            than 30 states.

    Reference: Al-Mohy and Higham 2009, doi:10.1137/09074721X.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> regimen = qsp.bolus(200.0, to="depot")
        >>> solution = qsp.simulate(patient, regimen, [0.0, 2.0, 24.0], method=qsp.solve.MatrixExponential())
        >>> solution.observed["concentration"].round(3)
        Array([0.   , 5.295, 0.66 ], dtype=float64)
    """

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        if declared(model).events():
            refuse("method", "be `Rosenbrock`, `Explicit` or `Diffrax` for a model with events", "MatrixExponential")
        if structure_of(model, as_state(model, initial)) is None:
            must = f"be linear with constant coefficients and have at most {MAX_STATES} states for this method"
            refuse("model", must, f"`{type(model).__name__}`, which is not")
        states, end = _solve(model, schedule, ts, initial, jnp.asarray(t0, ts.dtype))
        stats = {"steps": end.steps, "rejected": jnp.zeros((), dtype=int)}
        stats |= {"last_time": end.last_time, "culprit": end.culprit}
        return Trajectory(states, result_of(end.code), stats)

    def describe(self) -> str:
        return "MatrixExponential, exact"


# ---- one patient


def _system(model: AbstractModel, start: State) -> System:
    structure = structure_of(model, start)
    assert structure is not None, "`solve` has refused such a model"
    y0, unravel = ravel_pytree(start)

    def field(y: jax.Array) -> jax.Array:
        slope = model.vector_field(jnp.zeros((), y.dtype), unravel(y))
        return ravel_pytree(jax.tree.map(lambda dydt, leaf: jnp.broadcast_to(dydt, leaf.shape), slope, start))[0]

    origin, unit = jnp.zeros_like(y0), np.eye(y0.size, dtype=y0.dtype)
    columns = [jax.jvp(field, (origin,), (unit[j],))[1] for j in range(y0.size)]
    return System(entries(columns, structure.pattern), split(field(origin)), split(y0), structure)


def _course(
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: jax.Array,
    *,
    recorded: "_Outcome",
    columns: list[jax.Array],
) -> list[jax.Array]:
    """Return columns of the states at the outputs, which are known, to be differentiated."""
    start, lines = as_state(model, initial), timeline(schedule, ts)
    # numbers that are not finite are constants
    sound, started = recorded.sound, recorded.reached > 0
    system = _system(stop_gradient_where(~sound, model), stop_gradient_where(~started, start))
    a, b = jax.tree.map(lambda x: jnp.where(sound, x, 0.0), (system.a, system.b))
    system = System(a, b, jax.tree.map(lambda x: jnp.where(started, x, 0.0), system.y0), system.structure)
    return march_again(system, lines, t0, recorded.reached, columns)


def _shaped(columns: Sequence[jax.Array], start: State) -> State:
    """Return columns of states in the structure of a model."""
    leaves, tree = jax.tree.flatten(start)
    shaped = []
    for leaf in leaves:
        elements, columns = columns[: leaf.size], columns[leaf.size :]
        stacked = elements[0] if leaf.ndim == 0 else jnp.stack(elements, axis=1)
        shaped.append(stacked.reshape(-1, *leaf.shape))
    return jax.tree.unflatten(tree, shaped)


def _columns(states: State) -> list[jax.Array]:
    """Return the columns of states at outputs."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(states)]
    return [leaf[:, k] for leaf in leaves for k in range(leaf.shape[1])]


class _Outcome(NamedTuple):
    """How the solve of one patient went.

    `sound` is whether all numbers of his system are finite, `reached` the number of boundaries before a state was not.
    """

    code: jax.Array
    steps: jax.Array
    last_time: jax.Array
    culprit: jax.Array
    sound: jax.Array
    reached: jax.Array


@eqx.filter_custom_jvp
def _solve(
    model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: jax.Array
) -> tuple[State, _Outcome]:
    start, lines = as_state(model, initial), timeline(schedule, ts)
    unknown, system = lines.unknown(), _system(model, start)
    certain = ~unknown.any()
    course = march(system, lines, t0, ts.size, certain)
    culprit = jnp.where(certain, course.culprit, lines.failing_state(unknown))
    sound = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((system.a, system.b))]).all()
    steps = jnp.where(certain, course.steps, 0)
    outcome = _Outcome(course.code, steps, course.last_time, culprit, sound, course.reached)
    return _shaped(course.columns, start), outcome


@_solve.def_jvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple:
    states, outcome = _solve(*primals)
    recorded, known = constant((outcome, _columns(states)))
    start = as_state(primals[0], primals[3])

    def repeated(*arguments: PyTree) -> State:
        return _shaped(_course(*arguments, recorded=recorded, columns=known), start)

    # what was not reached is a constant, NaN, and has no derivative of any order
    _, derivatives = eqx.filter_jvp(repeated, primals, zero_where(recorded.reached == 0, tangents))
    return (states, outcome), (derivatives, jax.tree.map(lambda _: None, outcome))
