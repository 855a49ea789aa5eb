"""Solvers of diffrax for dosed models: exact stops, failures as data, derivatives in both modes.

diffrax provides the steps of its solvers; the loop around them is ours, because a dose is a jump of the state and
`diffeqsolve` has none.
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from qspjax._checks import refuse
from qspjax._declared import mass_of
from qspjax._jaxpr._regular import not_below, regular, rooted
from qspjax._model import AbstractModel, as_state, check_slope
from qspjax._names import state_names
from qspjax._types import Scalar, State
from qspjax.solve._adaptive import Path, Stepper, integrate
from qspjax.solve._constant import constant, stop_gradient_where, zero_where
from qspjax.solve._control import Clock, Control, result_of
from qspjax.solve._method import AbstractMethod, Trajectory, absolute, check_settings
from qspjax.solve._near import Near
from qspjax.solve._replay import replay
from qspjax.solve._rosenbrock_solver import RosenbrockSolver
from qspjax.solve.dosing._schedule import Schedule
from qspjax.solve.dosing._timeline import Timeline, timeline
from qspjax.solve.events._monitor import EventStart, start_events
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau
from qspjax.solve.tableaux._rodas5p import Rodas5P


class Diffrax(AbstractMethod):
    """Solve with an adaptive solver of diffrax, or a Rosenbrock tableau, one loop over the steps of each patient.

    Derivatives are those of the steps that were taken: with respect to parameters, initial state, dose amounts and
    every moving boundary, in forward and reverse mode and of higher order. Step sizes count as constants.

    Args:
        solver: A Rosenbrock tableau, or a diffrax solver with an error estimate. `Rodas5P()` suits stiff and smooth
            models alike; `diffrax.Tsit5()` and `diffrax.Dopri8()` only models that are not stiff; an implicit solver of
            diffrax (`diffrax.Kvaerno5()`) is given full Newton iterations to the tolerances here.
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the units of the states: below it a state is effectively zero, so lower it where
            states that matter are small numbers (amounts in mol).
        max_steps: Maximum number of steps per patient, rejected ones included; by default 16384, and 64 more for every
            dose, end of an infusion and output. The memory of a derivative grows with it, by 8 bytes per step and
            patient.

    Raises:
        ValueError: If a tolerance is not positive, or the solver has no error estimate.

    Example:
        >>> import diffrax, qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> method = qsp.solve.Diffrax(diffrax.Tsit5(), rtol=1e-8)
        >>> qsp.simulate(patient, dose, [10.0], method=method).observed["concentration"].round(6)
        Array([0.367879], dtype=float64)
    """

    solver: diffrax.AbstractSolver | AbstractRosenbrockTableau = Rodas5P()
    rtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    atol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    max_steps: int | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_settings(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps)
        if isinstance(self.solver, AbstractRosenbrockTableau):
            return
        adaptive = isinstance(self.solver, diffrax.AbstractAdaptiveSolver)
        if not adaptive or self.solver.term_structure not in (diffrax.AbstractTerm, diffrax.ODETerm):
            must = "be a diffrax solver for one ordinary differential equation, with an error estimate"
            refuse("solver", must, type(self.solver).__name__)

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        states, clock, failed = _solve(model, schedule, ts, initial, jnp.asarray(t0, ts.dtype), method=self)
        stats = {
            "steps": clock.accepted + clock.rejected,
            "rejected": clock.rejected,
            "last_time": clock.t,
            "culprit": failed,
        }
        return Trajectory(states, result_of(clock.code), stats)

    def describe(self) -> str:
        return f"{type(self.solver).__name__} at rtol {self.rtol:g}, atol {self.atol:g}"


class _Flat(NamedTuple):
    """One patient as the loop needs it: flat state, boundaries and the step over flat states."""

    y0: jax.Array
    unravel: Callable[[jax.Array], State]
    timeline: Timeline
    stepper: Stepper
    events: EventStart | None
    floor: Float[np.ndarray, " states"]


def _flatten(
    method: Diffrax,
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: jax.Array,
    *,
    differentiated: bool,
) -> _Flat:
    start, states = as_state(model, initial), state_names(as_state(model, initial))
    if not mass_of(model, states).all():
        refuse("method", "be `Rosenbrock` for a model with algebraic states", "Diffrax")
    y0, unravel = ravel_pytree(start)
    floor = np.where(rooted(model.vector_field, start), absolute(method.atol, model, states), 0.0)

    def field(t: Scalar, y: jax.Array, args: tuple) -> jax.Array:
        model, rate = args
        slope = regular(model.vector_field)(t, unravel(not_below(y, floor)))
        check_slope(slope, start, model)
        leaves = jax.tree.map(lambda row, leaf: jnp.broadcast_to(row, leaf.shape), slope, start)
        return ravel_pytree(leaves)[0] + rate

    y0, events, _ = start_events(model, start, t0, Near(method.rtol, absolute(method.atol, model, states)))
    stepper = Stepper(solver=_stepping(method, differentiated=differentiated), term=diffrax.ODETerm(field))
    return _Flat(y0, unravel, timeline(schedule, ts), stepper, events, floor)


def _stepping(method: Diffrax, *, differentiated: bool) -> diffrax.AbstractSolver:
    """Return the solver as the loop needs it: Newton to the tolerances, inner loops that suit the derivative."""
    solver = method.solver
    if isinstance(solver, AbstractRosenbrockTableau):
        return RosenbrockSolver(solver, unrolled=not differentiated)  # a loop is less to compile
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        newton = optx.Newton(rtol=method.rtol, atol=method.atol)
        solver = eqx.tree_at(lambda s: s.root_finder, solver, newton)
    if isinstance(solver, diffrax.AbstractRungeKutta):
        kind = "bounded" if differentiated else "lax"
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, kind, is_leaf=lambda x: x is None)
    return solver


@eqx.filter_custom_jvp
def _solve(
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: jax.Array,
    *,
    method: Diffrax,
) -> tuple[State, Clock, Int[Array, ""]]:
    states, path, failed = _integrate(model, schedule, ts, initial, t0, method=method, record=False)
    return states, path.end.clock, failed


@_solve.def_jvp
def _solve_jvp(primals: tuple, tangents: tuple, *, method: Diffrax) -> tuple:
    reached, path, failed = _integrate(*constant(primals), method=method, record=True)
    clock = path.end.clock
    started = clock.accepted > 0

    def repeated(
        model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: jax.Array
    ) -> State:
        patient = _flatten(method, model, schedule, ts, initial, t0, differentiated=True)
        states = replay(patient.stepper, model, patient.timeline, patient.y0, t0, path=path, events=patient.events)
        return jax.vmap(patient.unravel)(states)

    # a patient who took no step contributes a zero derivative of every order: all ends are masked, so that its NaN
    # meets no cotangent
    states, derivatives = eqx.filter_jvp(
        repeated, stop_gradient_where(~started, primals), zero_where(~started, tangents)
    )
    states = jax.tree.map(lambda new, old: jnp.where(started, new, old), states, reached)
    none = jax.tree.map(lambda _: None, (clock, failed))
    return (states, clock, failed), (zero_where(~started, derivatives), *none)


def _integrate(
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: jax.Array,
    *,
    method: Diffrax,
    record: bool,
) -> tuple[State, Path, Int[Array, ""]]:
    patient = _flatten(method, model, schedule, ts, initial, t0, differentiated=False)
    stepper, timeline = patient.stepper, patient.timeline
    atol = absolute(method.atol, model, state_names(as_state(model, initial)))
    tolerances = tuple(atol.tolist()) if isinstance(atol, np.ndarray) else atol
    order = int(stepper.solver.order(stepper.term) or 1)
    path, failed = integrate(
        stepper,
        Control(method.rtol, tolerances, order),
        model,
        timeline,
        patient.y0,
        t0,
        outputs=ts.size,
        max_steps=16384 + 64 * timeline.size if method.max_steps is None else method.max_steps,
        record=record,
        events=patient.events,
    )
    return jax.vmap(patient.unravel)(not_below(path.outputs, patient.floor)), path, failed
