"""The adaptive loop: one patient from boundary to boundary, in one flat `while_loop`.

Every iteration is one attempted step. The step lands on the next boundary (dose, end of an infusion, output) or takes
the size that the error control allows; a clipped step does not shrink the next one. Because there is no inner loop, a
patient in a batch never waits for another one's dose interval, only for the slowest patient at the end. A batch goes on
while any patient does (`unvmap_any`), so that patients who are done cost arithmetic but no copy of their results.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qspjax._model import AbstractModel
from qspjax.solve._control import (
    NONFINITE,
    SUCCESS,
    UNSETTLED,
    Clock,
    Control,
    advance,
    failing_state,
    judge,
    propose,
    start_clock,
)
from qspjax.solve.dosing._boundary import NONE, changed, rate_after
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.events._locate import NO_EVENT
from qspjax.solve.events._monitor import Awaited, EventMonitor, EventStart, awaited, monitor_one

States = Float[Array, " states"]


class Stepper(eqx.Module):
    """One step of a diffrax solver for a flat state, with a constant rate (the running infusions) added.

    Attributes:
        solver: The diffrax solver.
        term: The vector field over flat states, `f(t, y, model)`.
    """

    solver: diffrax.AbstractSolver
    term: diffrax.ODETerm

    def __call__(
        self, model: AbstractModel, t0: Float[Array, ""], t1: Float[Array, ""], y: States, rate: States
    ) -> tuple[States, States]:
        """Return y at t1, NaN where the solver itself gave up, and the error estimate."""
        args = (model, rate)
        state = self.solver.init(self.term, t0, t1, y, args)
        y1, error, _, _, result = self.solver.step(self.term, t0, t1, y, args, state, made_jump=True)
        y1 = jnp.where(result == diffrax.RESULTS.successful, y1, jnp.nan)
        return y1, jnp.full_like(y1, jnp.nan) if error is None else error

    def slope(self, model: AbstractModel, t: Float[Array, ""], y: States, rate: States) -> States:
        """Return dy/dt."""
        return self.term.vf(t, y, (model, rate))


class Progress(NamedTuple):
    """The progress of one patient."""

    clock: Clock
    y: States
    rate: States
    events: Awaited | None


class Path(NamedTuple):
    """The results and the record of a solve.

    Attributes:
        end: The progress at its end.
        outputs: The states at the outputs, NaN where it did not arrive.
        steps: The sizes of the accepted steps, inf where one landed on a boundary, NaN after the last.
        causes: What caused the event after each, see `StepOutcome`; None without events.
    """

    end: Progress
    outputs: Float[Array, "outputs states"]
    steps: Float[Array, " max_steps"]
    causes: Int[Array, " max_steps"] | None


def after_boundary(
    timeline: Timeline, index: Int[Array, ""], landed: Bool[Array, ""], y: States, rate: States
) -> tuple[States, States]:
    """Return states and rates of infusion after a boundary; unchanged where it was not landed on."""
    boundary = timeline.at(index)
    y = changed(y, *timeline.effect(boundary, y.size, landed))
    return y, rate_after(rate, boundary, jnp.arange(y.size), landed)


class _Loop(NamedTuple):
    """The loop of one patient: everything that is constant while it runs."""

    stepper: Stepper
    control: Control
    model: AbstractModel
    timeline: Timeline
    monitor: EventMonitor | None
    max_steps: int
    record: bool

    def due(self, boundary: Int[Array, ""]) -> Float[Array, ""]:
        """Return the time of a boundary, inf after the last."""
        time = self.timeline.boundaries.time
        return jnp.where(boundary < time.size, time[jnp.minimum(boundary, time.size - 1)], jnp.inf)

    def attempt(self, path: Path) -> Path:
        """Attempt one step."""
        stepper, model, monitor, now = self.stepper, self.model, self.monitor, path.end
        clock, outputs = now.clock, path.outputs.shape[0]
        slope = stepper.slope(model, clock.t, now.y, now.rate)
        proposal = propose(clock, self.control.first_step(now.y, slope))
        ahead, ends = None, (clock.t, jnp.where(proposal.lands, clock.due, clock.t + proposal.h))
        if monitor is not None and now.events is not None:
            ahead = monitor.ahead(now.events, clock.t, now.y, proposal.remaining, slope)
            proposal = proposal.limited(ahead.horizon.limit, ahead.horizon.precise)
            ends = monitor.within(clock.t, jnp.where(proposal.lands, clock.due, clock.t + proposal.h), ahead.horizon)
        h, lands = proposal.h, proposal.lands
        end = jnp.where(lands, clock.due, clock.t + h)
        y, error = stepper(model, *ends, now.y, now.rate)
        judgement = judge(self.control, clock, proposal, error, now.y, y)
        judgement = judgement if ahead is None else ahead.judged(judgement, proposal, end, y)
        good, happens, cause = judgement.fits, jnp.zeros((), bool), NO_EVENT
        step_events = None if ahead is None else ahead.classify(h, end, y, good)
        if step_events is not None:
            met, happens, switches, cause = step_events.outcome
            good, lands = good & ~met, lands & ~happens & ~switches

        landed = good & lands
        output = self.timeline.boundaries.output[clock.boundary]
        jumps = happens | (landed & (output == NONE))
        y, rate = after_boundary(self.timeline, clock.boundary, landed, y, now.rate)
        events, settled, bracketing = now.events, jnp.ones((), bool), False
        if step_events is not None:
            bracketing = step_events.bracketing
            y, events, settled = step_events.apply(jumps, end, y, good)
        y = jnp.where(good, y, now.y)
        after = advance(
            clock,
            proposal,
            judgement,
            good=good,
            landed=landed,
            jumps=jumps,
            end=end,
            due=self.due(clock.boundary + landed),
            max_steps=self.max_steps,
            bracketing=bracketing,
        )
        after = Progress(after.failed(~settled, UNSETTLED), y, rate, events)
        # a patient who is done does not change; the large arrays are written in place, or not at all
        live = clock.live
        slot = jnp.where(live & landed & (output != NONE), output, outputs)
        index = jnp.where(live & good, clock.accepted, self.max_steps)
        return Path(
            jax.tree.map(lambda new, old: jnp.where(live, new, old), after, now),
            path.outputs.at[slot].set(y, mode="drop"),
            path.steps.at[index].set(jnp.where(lands, jnp.inf, h), mode="drop") if self.record else path.steps,
            None if path.causes is None else path.causes.at[index].set(cause, mode="drop"),
        )


def integrate(
    stepper: Stepper,
    control: Control,
    model: AbstractModel,
    timeline: Timeline,
    y0: States,
    t0: Float[Array, ""],
    *,
    outputs: int,
    max_steps: int,
    record: bool,
    events: EventStart | None,
) -> tuple[Path, Int[Array, ""]]:
    """Integrate one patient; return also the index of the state that failed, 0 if none did.

    With `record`, the accepted steps are kept, and with `events` what caused these.
    """
    loop = _Loop(stepper, control, model, timeline, monitor_one(events, model), max_steps, record)
    zero, unknown = jnp.zeros((), dtype=int), timeline.unknown()
    code = jnp.where(unknown.any(), NONFINITE, SUCCESS)
    start = Progress(
        clock=start_clock(t0, loop.due(zero), code, zero),
        y=y0,
        rate=jnp.zeros_like(y0),
        events=None if events is None else awaited(events.system, events.memory, t0),
    )
    if events is not None:
        start = start._replace(clock=start.clock.failed(~events.settled & (code == SUCCESS), UNSETTLED))
    steps = jnp.full((max_steps if record else 0,), jnp.nan, y0.dtype)
    causes = jnp.full(steps.shape, NO_EVENT, jnp.int32) if record and events is not None else None
    initial = Path(start, jnp.full((outputs, y0.size), jnp.nan, y0.dtype), steps, causes)
    path = jax.lax.while_loop(lambda path: eqxi.unvmap_any(path.end.clock.live), loop.attempt, initial)

    clock, y, rate, *_ = path.end
    failed = failing_state(
        lambda t, y: stepper.slope(model, t, y, rate),
        control,
        np.ones(y0.size),
        t=clock.t,
        y=y,
        span=timeline.span,
        code=clock.code,
    )
    return path, jnp.where(unknown.any(), timeline.failing_state(unknown), failed)
