"""The step control of every adaptive loop, element by element: one patient, or lanes of patients each on its own.

An attempt at a step is proposed, judged and then counted: `propose` chooses its length, so that steps land on
boundaries; `judge` decides whether its error is small enough, and how long the next one may be; `advance` returns the
clock of the patient afterwards, and whether it failed.

A step is accepted where the root mean square of error / (atol + rtol |y|) over the states is at most 1. The elementary
controller, without memory: steps are clipped at outputs and restarted at doses, so the error of the step before says
little about the next. Its two powers are taken in float32: a step size needs no more digits.

Reference: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4, doi:10.1007/978-3-540-78862-1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qspjax._arrays import argmax_first, first_true
from qspjax._jaxpr._rows import total
from qspjax._solution import RESULTS
from qspjax.solve.kernel._layout import Rows

SAFETY, SHRINK, GROW = 0.9, 0.2, 8.0
"""The next step is `SAFETY` of the one that would just fit, between `SHRINK` and `GROW` times this one."""
SUCCESS, MAX_STEPS, NONFINITE, STEP_TOO_SMALL, UNSETTLED, INCONSISTENT, STIFF, INTERRUPTED = range(8)
"""Codes of the loops; a patient who is `STIFF` is solved again by another method."""

_RESULTS = {
    SUCCESS: RESULTS.successful,
    MAX_STEPS: RESULTS.max_steps_reached,
    NONFINITE: RESULTS.state_nonfinite,
    STEP_TOO_SMALL: RESULTS.step_too_small,
    UNSETTLED: RESULTS.events_unsettled,
    INCONSISTENT: RESULTS.algebraic_unsolved,
    INTERRUPTED: RESULTS.interrupted,
}


def result_of(code: Int[Array, "..."]) -> RESULTS:
    """Return the result that a code of a loop stands for."""
    result = _RESULTS[SUCCESS]
    for number, item in _RESULTS.items():
        result = RESULTS.where(code == number, item, result)
    return result


class Control(NamedTuple):
    """Tolerances, and the order of the method; the absolute one is the same for all states, or one for each."""

    rtol: float
    atol: float | tuple[float, ...]
    order: int

    def squared_ratio(self, error: Rows, y0: Rows, y1: Rows) -> Float[Array, "..."]:
        """Return the mean over the states of (error / tolerance)^2, NaN where y1 is not finite."""

        def ratio(atol: float | np.ndarray, error: Array, y0: Array, y1: Array) -> Array:
            return error / (atol + self.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1)))

        mean = _mean_square(jax.tree.map(ratio, self._absolute(y0), error, y0, y1))
        return jnp.where(jnp.isfinite(total(jax.tree.map(jnp.abs, y1))), jnp.minimum(mean, 1e30), jnp.nan)

    def first_step(self, y: Rows, slope: Rows) -> Float[Array, "..."]:
        """Return a safe step after a jump: 1 % of the time in which the state would change by its own size."""
        scale = jax.tree.map(lambda atol, y: 1.0 / (atol + self.rtol * jnp.abs(y)), self._absolute(y), y)
        size = _mean_square(jax.tree.map(jnp.multiply, y, scale))
        speed = _mean_square(jax.tree.map(jnp.multiply, slope, scale))
        return jnp.where((size < 1e-10) | ~(speed >= 1e-10), 1e-6, 0.01 * jnp.sqrt(size / speed))

    def _absolute(self, rows: Rows) -> float | tuple[float, ...] | np.ndarray:
        """Return the absolute tolerances, for rows as they are."""
        if not isinstance(self.atol, tuple):
            return jax.tree.map(lambda _: self.atol, rows)
        return self.atol if isinstance(rows, tuple) else np.reshape(self.atol, (-1, *[1] * (rows.ndim - 1)))

    def factor(self, squared_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the factor for the next step, after an accepted step (ratio <= 1) or a rejected one."""
        small = jnp.clip(squared_ratio, 1e-20, 1e20).astype(jnp.float32)
        power = SAFETY * jnp.exp(jnp.log(small) * (-0.5 / self.order))
        factor = jnp.clip(power, SHRINK, GROW).astype(squared_ratio.dtype)
        return jnp.where(jnp.isfinite(squared_ratio), factor, SHRINK)


def _mean_square(rows: Rows) -> Float[Array, "..."]:
    size = len(rows) if isinstance(rows, tuple) else rows.shape[0]
    return total(jax.tree.map(jnp.square, rows)) / size


class Clock(NamedTuple):
    """The progress of patients through time.

    Attributes:
        t: The time.
        boundary: The index of the next boundary.
        due: Its time, inf after the last.
        h: The length that error control allows the next step.
        fresh: Whether that is not known, because something jumped.
        code: The status code.
        accepted: The number of accepted steps.
        rejected: The number of rejected steps.
    """

    t: Float[Array, "..."]
    boundary: Int[Array, "..."]
    due: Float[Array, "..."]
    h: Float[Array, "..."]
    fresh: Bool[Array, "..."]
    code: Int[Array, "..."]
    accepted: Int[Array, "..."]
    rejected: Int[Array, "..."]

    @property
    def live(self) -> Bool[Array, "..."]:
        """Whether the patient goes on."""
        return (self.code == SUCCESS) & jnp.isfinite(self.due)

    def failed(self, failure: Bool[Array, "..."], code: int) -> "Clock":
        """Return the clock of patients some of whom failed."""
        return self._replace(code=jnp.where(failure, code, self.code).astype(self.code.dtype))


def start_clock(
    t: Float[Array, "..."], due: Float[Array, "..."], code: Int[Array, "..."], zero: Int[Array, "..."]
) -> Clock:
    """Return the clock of patients before their first step."""
    return Clock(t, zero, due, jnp.ones_like(t), jnp.ones(t.shape, bool), code, zero, zero)


class Proposal(NamedTuple):
    """The step that is attempted.

    Attributes:
        allowed: The length that error control allows.
        remaining: The time to the next boundary.
        h: Its length.
        lands: Whether it ends on the boundary.
    """

    allowed: Float[Array, "..."]
    remaining: Float[Array, "..."]
    h: Float[Array, "..."]
    lands: Bool[Array, "..."]

    def limited(self, limit: Float[Array, "..."], precise: Float[Array, "..."]) -> "Proposal":
        """Return a step that is no longer than a limit, which is known to a precision."""
        lands = self.lands & (limit >= self.remaining - precise)
        return self._replace(h=jnp.where(lands, self.remaining, jnp.minimum(self.h, limit)), lands=lands)


def propose(clock: Clock, first: Float[Array, "..."]) -> Proposal:
    """Return the step to attempt, `first` being a safe length after a jump.

    It lands on the next boundary if it can reach it, and goes halfway if two steps can.
    """
    allowed = jnp.where(clock.fresh, first, clock.h)
    remaining = jnp.where(clock.live, clock.due - clock.t, 0.0)
    lands = allowed >= remaining * (1.0 - 1e-12)
    h = jnp.where(lands, remaining, jnp.where(2.0 * allowed > remaining, 0.5 * remaining, allowed))
    return Proposal(allowed, remaining, h, lands)


class Judgement(NamedTuple):
    """How an attempt went.

    Attributes:
        finite: Whether its state is finite.
        fits: Whether its error is small enough.
        following: The length that error control allows the next step.
    """

    finite: Bool[Array, "..."]
    fits: Bool[Array, "..."]
    following: Float[Array, "..."]


def judge(
    control: Control,
    clock: Clock,
    proposal: Proposal,
    error: Rows,
    y0: Rows,
    y1: Rows,
    looser: Float[Array, "..."] | None = None,
) -> Judgement:
    """Judge a step by its error; one that a boundary clipped does not shorten the next.

    Args:
        control: Error control.
        clock: The clock of patients before it.
        proposal: What was attempted.
        error: The error.
        y0: The state before it.
        y1: The state after it.
        looser: The factor by which both tolerances are greater than those of the control, None for 1.
    """
    ratio = control.squared_ratio(error, y0, y1)
    if looser is not None:
        ratio = ratio / (looser * looser)
    fits = clock.live & (ratio <= 1.0)
    following = proposal.h * control.factor(ratio)
    clipped = fits & (proposal.h < 0.5 * proposal.allowed)
    following = jnp.where(clipped, jnp.maximum(proposal.allowed, following), following)
    return Judgement(jnp.isfinite(ratio), fits, following)


def advance(
    clock: Clock,
    proposal: Proposal,
    judgement: Judgement,
    *,
    good: Bool[Array, "..."],
    landed: Bool[Array, "..."],
    jumps: Bool[Array, "..."],
    end: Float[Array, "..."],
    due: Float[Array, "..."],
    max_steps: int,
    bracketing: bool | Bool[Array, "..."] = False,
) -> Clock:
    """Return the clock of patients after an attempt.

    Args:
        clock: Their clock before it.
        proposal: What was attempted.
        judgement: How it went.
        good: Whether the step is accepted.
        landed: Whether it landed on the boundary.
        jumps: Whether something jumped at its end.
        end: Its end, unless it landed.
        due: The time of the next boundary then.
        max_steps: The maximum number of steps, rejected ones included.
        bracketing: Whether the step may be as short as it is, because it brackets an event.
    """
    live, h = clock.live, proposal.h
    rounding = 0.45 * jnp.finfo(h.dtype).eps
    least = jnp.where(good, 0.0, 1e-10 * jnp.abs(clock.due - clock.t))
    smallest = rounding * jnp.maximum(jnp.abs(clock.t), least)
    long_enough = (jnp.where(judgement.fits, h, judgement.following) > smallest) | bracketing
    too_small = live & ~landed & ~long_enough
    too_many = live & (clock.accepted + clock.rejected + 1 >= max_steps) & jnp.isfinite(due)
    failure = jnp.where(judgement.finite, STEP_TOO_SMALL, NONFINITE)
    code = jnp.where(too_small, failure, jnp.where(too_many, MAX_STEPS, clock.code))
    return Clock(
        t=jnp.where(landed, clock.due, jnp.where(good, end, clock.t)),
        boundary=clock.boundary + landed,
        due=due,
        h=jnp.where(live, judgement.following, clock.h),
        fresh=jnp.where(live, jumps, clock.fresh),
        code=code.astype(clock.code.dtype),
        accepted=clock.accepted + good,
        rejected=clock.rejected + (live & ~good),
    )


def failing_state(
    slope: Callable[[Float[Array, ""], Float[Array, " states"]], Float[Array, " states"]],
    control: Control,
    mass: np.ndarray,
    *,
    t: Float[Array, ""],
    y: Float[Array, " states"],
    span: Float[Array, ""],
    code: Int[Array, ""],
) -> Int[Array, ""]:
    """Return the index of the state that failed: the first that is not finite, else the one that changes fastest.

    A linear solve spreads NaN to all states, so the vector field itself is evaluated: at the state, in its derivative
    along the solution, and a little later.

    Args:
        slope: `(t, y) -> dy/dt`.
        control: Its tolerances are those of the states.
        mass: The diagonal of the mass matrix.
        t: The time at which the patient failed.
        y: The state there.
        span: The latest time of interest.
        code: Why the patient failed.
    """

    def look(dydt: Array, delay: Array) -> tuple[Array, Array]:
        """Return the slope at the end, and what to check: the slope and its derivative a little later."""
        dt = delay * span
        later, curvature = jax.jvp(lambda y: slope(t + dt, y), (y + dt * dydt,), (dydt,))
        return jnp.where(delay == 0.0, later, dydt), jnp.stack([later, curvature])

    dydt, probes = jax.lax.scan(look, jnp.zeros_like(y), jnp.asarray([0.0, 0.0, 1e-9, 1e-4], t.dtype))
    index = argmax_first(jnp.abs(dydt) / (jnp.asarray(control.atol) + control.rtol * jnp.abs(y)))
    for vector in (probes[3, 0], probes[2, 0], probes[1, 1], dydt, y):
        bad = ~jnp.isfinite(vector)
        index = jnp.where((code == NONFINITE) & bad.any(), first_true(bad), index)
    if not mass.all():
        residuals = jnp.where(mass == 0, jnp.abs(dydt), -1.0)
        index = jnp.where(code == INCONSISTENT, argmax_first(residuals), index)
    return jnp.where(code == SUCCESS, 0, index)
