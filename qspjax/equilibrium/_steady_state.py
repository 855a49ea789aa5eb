"""The steady state that a system reaches without doses: found by simulation and Newton, differentiated implicitly.

    f(y; p) = 0,  L (y - y0) = 0

The rows of L are the conserved quantities: the Jacobian J is singular where there are any, and J + L'L is not. The
simulation decides which steady state it is (the one that is reached), Newton's method makes it exact, and the
derivative is that of the equations, dy = -(J + L'L)^-1 (f_p dp - L'L dy0), in both modes and also of second order.

A steady state is stable if all eigenvalues of J have negative real parts, those left out that are zero because
something is conserved: with orthonormal rows L, J - s L'L has -s in their place. Algebraic states are eliminated first.

Reference: Fiedler et al., BMC Syst Biol 2016;10:80, doi:10.1186/s12918-016-0319-7 (steady states and their
sensitivities); Reder, J Theor Biol 1988;135:175, doi:10.1016/S0022-5193(88)80073-0 (stability where totals are
conserved).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax._arrays import argmax_first, first_true
from qspjax._checks import concrete
from qspjax._declared import mass_of
from qspjax._dosing._doses import no_doses
from qspjax._jaxpr._regular import regular
from qspjax._lost import lost
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._simulate import default_method, simulate
from qspjax._solution import RESULTS, Solution
from qspjax._types import Scalar, State
from qspjax.equilibrium._oscillation import period_of
from qspjax.solve._method import AbstractMethod, absolute

DECADES = range(-1, 11)
"""The state is examined after 10^k units of time."""
POLISH = 4
"""The number of steps of Newton's method after the simulation."""
SETTLED = 1e3
"""The state has settled if it changes by less than this many tolerances in a decade."""
SAMPLES, FEW, MANY = 256, 500, 5000
"""An oscillation is sought in this many samples over few steps of the simulation, then in as many over many steps."""


class Equilibrium(NamedTuple):
    """A steady state.

    Attributes:
        state: The state, in the structure of the model's.
        result: `RESULTS` item: successful, why the simulation failed, or that the model `oscillates` or is
            `not_at_rest` yet.
        time: The time at which the simulation was close to it; without a steady state, the last time that was reached.
        period: The approximate period with which the model oscillates; NaN if it does not.
        rightmost: The largest real part of the eigenvalues of the Jacobian, conserved totals left out: negative where
            the steady state is stable, and 0 where its sign is lost in rounding error. It has no derivative.
        culprit: The number of the state that leaves an unstable steady state fastest, relative to its size; without a
            steady state, that of the one that failed or that changes most.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.Network(
        ...     species={"R": 5.0}, parameters={"kin": 6.0, "kout": 0.5},
        ...     reactions={"in": qsp.models.Reaction("-> R", "kin"), "out": qsp.models.Reaction("R ->", "kout * R")},
        ... )
        >>> found = qsp.equilibrium.steady_state(response)
        >>> float(found.state["R"].round(6)), bool(found.result == qsp.RESULTS.successful)
        (12.0, True)
        >>> float(found.rightmost.round(6))
        -0.5
    """

    state: State
    result: Any
    time: Scalar
    period: Scalar
    rightmost: Scalar
    culprit: Scalar


def steady_state(
    model: AbstractModel,
    *,
    initial: State | None = None,
    t0: Scalar = 0.0,
    method: AbstractMethod | None = None,
    throw: bool = True,
) -> Equilibrium:
    """Return the steady state that a model reaches without doses.

    It can be differentiated with respect to the parameters and the initial state, and mapped over patients with `vmap`.
    The model must not depend on time after `t0`.

    Args:
        model: The patient.
        initial: The initial state; by default that of the model.
        t0: The initial time.
        method: How to simulate, and the tolerances; by default that of `simulate`.
        throw: Raise an error if no steady state is found within 10^10 units of time; otherwise its state is NaN, and
            its `result` says why.

    Returns:
        An `Equilibrium`.

    Raises:
        RuntimeError: If none is found and `throw` is true (inside `jit`, jax's own error with the same reason).

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.equilibrium import steady_state
        >>> response = qsp.models.Network(
        ...     species={"R": 5.0},
        ...     parameters={"kin": 6.0, "kout": 0.5},
        ...     reactions={
        ...         "production": qsp.models.Reaction("-> R", "kin"), "loss": qsp.models.Reaction("R ->", "kout * R"),
        ...     },
        ... )
        >>> steady_state(response).state["R"].round(6)
        Array(12., dtype=float64)
    """
    equilibrium, course = _search(model, initial, t0, method)
    if course is None:
        return equilibrium
    failed = concrete(equilibrium.result != RESULTS.successful)
    if failed is None or failed:
        equilibrium = _explained(equilibrium, course)
    state = jax.lax.stop_gradient(ravel_pytree(equilibrium.state)[0])
    rightmost, leaving = course.near.rightmost(state)
    culprit = jnp.where(rightmost > 0.0, leaving, equilibrium.culprit)
    equilibrium = equilibrium._replace(rightmost=rightmost, culprit=culprit)
    return _raise_if_failed(equilibrium, course) if throw else equilibrium


def settled(
    model: AbstractModel, *, initial: State | None = None, t0: Scalar = 0.0, method: AbstractMethod | None = None
) -> Equilibrium:
    """Return the result of `steady_state`, without examining its stability, or whether a model oscillates."""
    return _search(model, initial, t0, method)[0]


class _Course(NamedTuple):
    """The simulation of a model that may not have come to rest.

    Attributes:
        simulate: Returns the states at some times after another state and time, shape (times, states).
        near: Measures distances from a steady state.
        names: The names of the states.
        y: The last state that was examined.
        t: Its time.
        step: The mean step that the simulation took.
    """

    simulate: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    near: "_Near"
    names: tuple[str, ...]
    y: jax.Array
    t: jax.Array
    step: jax.Array


def _search(
    model: AbstractModel, initial: State | None, t0: Scalar, method: AbstractMethod | None
) -> tuple[Equilibrium, _Course | None]:
    start = as_state(model, initial)
    y0, unravel = ravel_pytree(start)
    nan, none = jnp.full((), jnp.nan), jnp.zeros((), int)
    if not y0.size:
        return Equilibrium(start, RESULTS.successful, jnp.asarray(t0, float), nan, nan, none), None
    method = default_method(model) if method is None else method
    states = state_names(start)
    rtol, atol = getattr(method, "rtol", 1e-8), jnp.asarray(absolute(getattr(method, "atol", 1e-12), model, states))

    def slope(model: AbstractModel, y: jax.Array) -> jax.Array:
        dydt = regular(model.vector_field)(jnp.asarray(t0, float), unravel(y))
        return ravel_pytree(
            jax.tree.map(lambda derivative, leaf: jnp.broadcast_to(derivative, leaf.shape), dydt, start)
        )[0]

    still, begin = jax.lax.stop_gradient((model, y0))

    def simulated(times: jax.Array, y: jax.Array, t: Scalar) -> Solution:
        return simulate(still, no_doses(), times, initial=unravel(y), t0=t, method=method, throw=False)

    def after(times: jax.Array, y: jax.Array, t: Scalar) -> jax.Array:
        return jax.vmap(lambda y: ravel_pytree(y)[0])(simulated(times, y, t).states)

    times = jnp.asarray([10.0**k for k in DECADES])
    solution = simulated(jnp.asarray(t0 + times), begin, t0)
    passed = jax.vmap(lambda y: ravel_pytree(y)[0])(solution.states)
    near = _Near(lambda y: slope(still, y), rtol, atol, mass_of(model, states))
    index, comes = near.first_settled(passed)
    y = jnp.where(comes, passed[index], begin)
    linear = near.linear(y)
    for _ in range(POLISH):
        y = y - linear.solve(slope(still, y))
        linear = near.linear(y)
    converged = comes & (near.size(linear.solve(slope(still, y)), y) < 1.0)
    y = jnp.where(converged, y, begin)
    matrix = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), linear)
    for _ in range(2):  # the derivative of the equations, of first and second order
        residual = slope(model, y) + linear.drift(y - y0 - jax.lax.stop_gradient(y - y0))
        y = jnp.where(converged, y - matrix.solve(residual), y)
    broke = (solution.result != RESULTS.successful) & (solution.result != RESULTS.max_steps_reached)
    result = RESULTS.where(converged, RESULTS.successful, RESULTS.not_at_rest)  # type: ignore  # items are inherited
    result = RESULTS.where(~comes & broke, solution.result, result)
    (y,) = lost(
        (jnp.where(converged, y, jnp.nan)[None],), ~converged[None], eqx.filter((model, y0), eqx.is_inexact_array)
    )
    last = t0 + jnp.where(comes, times[index], solution.stats["last_time"] - t0)

    visited = jnp.concatenate([begin[None], passed])
    reached = jnp.sum(jnp.isfinite(visited).all(axis=1)) - 1
    changes = jnp.abs(visited[reached] - visited[jnp.maximum(reached - 1, 0)]) / near.scale(visited[reached])
    course = _Course(
        after,
        near,
        states,
        visited[reached],
        jnp.asarray(t0 + jnp.append(0.0, times)[reached]),
        (solution.stats["last_time"] - t0) / jnp.maximum(solution.stats["steps"], 1),
    )
    culprit = jnp.where(broke, solution.stats["culprit"], argmax_first(changes))
    return Equilibrium(unravel(y[0]), result, last, nan, nan, culprit), course


def _explained(equilibrium: Equilibrium, course: _Course) -> Equilibrium:
    """Distinguish a model that oscillates from one that has not come to rest yet."""
    unsettled = equilibrium.result == RESULTS.not_at_rest

    def look(y: jax.Array) -> jax.Array:
        first = jnp.linspace(0.0, FEW, SAMPLES + 1)
        elapsed = course.step * jnp.concatenate([first, jnp.linspace(FEW, MANY, SAMPLES + 1)[1:]])
        passed = course.simulate(course.t + jnp.where(unsettled, elapsed, jnp.inf), y, course.t)
        least = SETTLED * course.near.scale(jnp.max(jnp.abs(passed), axis=0))
        short, long = (period_of(elapsed[:end], passed[:end], least) for end in (SAMPLES + 1, elapsed.size))
        return jnp.where(jnp.isfinite(short), short, long)

    period = jax.lax.cond(eqxi.unvmap_any(unsettled), look, lambda _: jnp.full((), jnp.nan), course.y)
    oscillates = unsettled & jnp.isfinite(period)
    result = RESULTS.where(oscillates, RESULTS.oscillates, equilibrium.result)
    return equilibrium._replace(result=result, period=jnp.where(unsettled, period, jnp.nan))


def _raise_if_failed(equilibrium: Equilibrium, course: _Course) -> Equilibrium:
    failed = concrete(equilibrium.result != RESULTS.successful)
    if failed is None:
        return equilibrium._replace(
            state=equilibrium.result.error_if(equilibrium.state, equilibrium.result != RESULTS.successful)
        )
    if failed:
        period = "" if np.isnan(equilibrium.period) else f", with a period of about {float(equilibrium.period):.3g}"
        raise RuntimeError(
            f"No steady state was found: state `{course.names[int(equilibrium.culprit)]}` was still moving at time "
            f"{float(equilibrium.time):g}{period}. {RESULTS[equilibrium.result]}"
        )
    return equilibrium


class _Linear(NamedTuple):
    """The Jacobian at a steady state, made regular by the conserved quantities.

    Attributes:
        inverse: The inverse of J + L'L.
        conserved: L'L.
    """

    inverse: jax.Array
    conserved: jax.Array

    def solve(self, residual: jax.Array) -> jax.Array:
        """Return the change of state that removes a residual."""
        return self.inverse @ residual

    def drift(self, change: jax.Array) -> jax.Array:
        """Return the residual of the conserved quantities."""
        return self.conserved @ change


class _Near(NamedTuple):
    """The neighbourhood of a steady state.

    Attributes:
        slope: The slope at a state, or the residual of an algebraic state.
        rtol: The relative tolerance.
        atol: The absolute tolerance of each state.
        mass: 0 for algebraic states, else 1.
    """

    slope: Callable[[jax.Array], jax.Array]
    rtol: float
    atol: jax.Array
    mass: np.ndarray

    def scale(self, y: jax.Array) -> jax.Array:
        return self.atol + self.rtol * jnp.abs(y)

    def size(self, change: jax.Array, y: jax.Array) -> jax.Array:
        """Return the largest change in tolerances, inf if it is not finite."""
        size = jnp.max(jnp.abs(change) / self.scale(y))
        return jnp.where(jnp.isfinite(size), size, jnp.inf)

    def jacobian(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the Jacobian at a state, and the sizes of the states."""
        jacobian = jax.jacfwd(self.slope)(y)
        jacobian = jnp.where(jnp.isfinite(jacobian).all(), jacobian, jnp.eye(y.size))
        return jacobian, jnp.abs(y) + self.atol / self.rtol

    def linear(self, y: jax.Array) -> _Linear:
        """Return the linear system at a state; the rows of L span the conserved quantities."""
        jacobian, size = self.jacobian(y)
        left, greatest, _ = _conserved(jacobian * size / size[:, None])
        rows = left.T / size  # in the units of the state
        conserved = (jnp.where(greatest > 0, greatest, 1.0) * size[:, None]) * (left @ rows)
        return _Linear(jnp.linalg.inv(jacobian + conserved), conserved)

    def rightmost(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the largest real part of the eigenvalues, 0 within rounding error, and the state that it moves most.

        It is NaN where the state is.
        """
        jacobian, size = self.jacobian(y)
        matrix = jnp.where(jnp.isfinite(size).all(), jacobian * size / size[:, None], jnp.eye(y.size))
        dynamic, fixed = np.flatnonzero(self.mass), np.flatnonzero(self.mass == 0)
        if fixed.size:
            eliminated = jnp.linalg.solve(matrix[np.ix_(fixed, fixed)], matrix[np.ix_(fixed, dynamic)])
            matrix = matrix[np.ix_(dynamic, dynamic)] - matrix[np.ix_(dynamic, fixed)] @ eliminated
        left, greatest, rounding = _conserved(matrix)
        values, vectors = jnp.linalg.eig(matrix - greatest * (left @ left.T))
        first = argmax_first(values.real)
        largest = jnp.where(jnp.abs(values.real[first]) <= rounding, 0.0, values.real[first])
        moved = jnp.asarray(dynamic)[argmax_first(jnp.abs(vectors[:, first]))]
        return jnp.where(jnp.isfinite(y).all(), largest, jnp.nan), moved

    def first_settled(self, passed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the index of the first of the states that has settled, and whether there is one."""
        distance = jax.lax.map(lambda y: self.size(self.linear(y).solve(self.slope(y)), y), passed)
        changes = jax.vmap(self.size)(passed[1:] - passed[:-1], passed[:-1])
        settled = (distance[:-1] < SETTLED) & (changes < SETTLED)
        return first_true(settled), settled.any()


def _conserved(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what a Jacobian conserves: orthonormal columns or zeros, its greatest singular value, its rounding."""
    left, sizes, _ = jnp.linalg.svd(matrix, full_matrices=True)
    rounding = 10 * sizes.size * jnp.finfo(matrix.dtype).eps * sizes[0]
    return jnp.where(sizes <= rounding, left, 0.0), sizes[0], rounding
