"""The adaptive loop: one patient from boundary to boundary, in one flat `while_loop`.

Every iteration is one attempted step. The step lands on the next boundary (dose, end of an infusion, output) or takes
the size that the error control allows; a clipped step does not shrink the next one. Because there is no inner loop, a
patient in a batch never waits for another one's dose interval, only for the slowest patient at the end. A batch goes on
while any patient does (`unvmap_any`), so that patients who are done cost arithmetic but no copy of their results.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from qspjax._arrays import first_true, place_of_greatest
from qspjax.solve.dosing._boundary import NONE, changed, rate_after
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.events._locate import NO_EVENT, Bracket, narrowed, open_bracket
from qspjax.solve.events._monitor import Begun, Watch, watch_one

SAFETY, SHRINK, GROW = 0.9, 0.2, 8.0
SUCCESS, MAX_STEPS, NONFINITE, STEP_TOO_SMALL, UNSETTLED = range(5)
"""Codes of the loop, in the order of `solve._diffrax.CODES`."""


class Stepper(eqx.Module):
    """One step of a diffrax solver for a flat state, with a constant rate (the running infusions) added.

    Attributes:
        solver: The diffrax solver.
        term: The vector field over flat states, `f(t, y, model)`.
    """

    solver: diffrax.AbstractSolver
    term: diffrax.ODETerm

    def __call__(self, model: Any, t0: Any, t1: Any, y: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """Return y at t1, the error estimate, and whether the solver itself is content."""
        args = (model, rate)
        state = self.solver.init(self.term, t0, t1, y, args)
        y1, error, _, _, result = self.solver.step(self.term, t0, t1, y, args, state, made_jump=True)
        return y1, error, result == diffrax.RESULTS.successful

    def slope(self, model: Any, t: Any, y: jax.Array, rate: jax.Array) -> jax.Array:
        """Return dy/dt."""
        return self.term.vf(t, y, (model, rate))


class Tolerance(NamedTuple):
    """Error control: a step is accepted where the root mean square of error / (atol + rtol |y|) is at most 1."""

    rtol: Any
    atol: Any
    order: int

    def ratio(self, error: jax.Array, y0: jax.Array, y1: jax.Array) -> jax.Array:
        """Return each state's error over its tolerance."""
        return jnp.abs(error) / (self.atol + self.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1)))

    def first_step(self, y: jax.Array, slope: jax.Array) -> jax.Array:
        """Return a safe step after a jump: 1 % of the time in which the state would change by itself.

        Reference: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.
        """
        scale = self.atol + self.rtol * jnp.abs(y)
        size, speed = _rms(y / scale), _rms(slope / scale)
        return jnp.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)

    def factor(self, ratio: jax.Array) -> jax.Array:
        """Return the factor for the next step, after an accepted step (ratio <= 1) or a rejected one.

        The elementary controller, without memory: steps are clipped at outputs and restarted at doses, so the error of
        the step before says little about the next.
        """
        return jnp.clip(SAFETY * jnp.maximum(ratio, 1e-10) ** (-1.0 / self.order), SHRINK, GROW)


class Progress(NamedTuple):
    """Where one patient stands."""

    t: jax.Array
    y: jax.Array
    rate: jax.Array
    boundary: jax.Array
    h: jax.Array
    fresh: jax.Array
    code: jax.Array
    culprit: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    memory: jax.Array | None
    bracket: Bracket | None


class Path(NamedTuple):
    """What a solve leaves behind: where it ended, the states at the outputs, and the recorded step sizes and causes."""

    end: Progress
    outputs: jax.Array
    record: jax.Array
    causes: jax.Array | None


def after_boundary(
    timeline: Timeline, index: jax.Array, landed: jax.Array, y: jax.Array, rate: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return states and rates of infusion after a boundary; as they are where it was not landed on."""
    boundary = timeline.at(index)
    y = changed(y, *timeline.effect(boundary, y.size, landed))
    if boundary.rate_change is not None:
        rate = rate_after(rate, boundary, jnp.arange(y.size), landed)
    return y, rate


class _Loop(NamedTuple):
    """The loop of one patient: all that stands still while it runs."""

    stepper: Stepper
    tolerance: Tolerance
    model: Any
    timeline: Timeline
    watch: Watch | None
    span: jax.Array
    max_steps: int
    record: bool

    def due(self, boundary: Any) -> jax.Array:
        """Return the time of a boundary, inf after the last."""
        time = self.timeline.boundaries.time
        return jnp.where(boundary < time.size, time[jnp.minimum(boundary, time.size - 1)], jnp.inf)

    def unfinished(self, now: Progress) -> jax.Array:
        """Return whether the patient goes on."""
        return (now.code == SUCCESS) & jnp.isfinite(self.due(now.boundary))

    def advance(self, path: Path) -> Path:
        """Attempt one step."""
        stepper, tolerance, model, timeline, watch = self.stepper, self.tolerance, self.model, self.timeline, self.watch
        now, due, outputs = path.end, self.due, path.outputs.shape[0]
        slope = stepper.slope(model, now.t, now.y, now.rate)
        wanted = jnp.where(now.fresh, tolerance.first_step(now.y, slope), now.h)
        remaining = due(now.boundary) - now.t
        lands = wanted >= remaining * (1.0 - 1e-12)
        h = jnp.where(lands, remaining, jnp.where(2.0 * wanted > remaining, 0.5 * remaining, wanted))
        sight, ends = None, (now.t, jnp.where(lands, due(now.boundary), now.t + h))
        if watch is not None:
            sight = watch.foresee(now.t, now.y, now.memory, now.bracket, remaining, slope)
            lands &= sight.limit >= remaining - sight.precise
            h = jnp.where(lands, remaining, jnp.minimum(h, sight.limit))
            ends = watch.within(now.t, jnp.where(lands, due(now.boundary), now.t + h), sight)
        t = jnp.where(lands, due(now.boundary), now.t + h)
        y, error, content = stepper(model, *ends, now.y, now.rate)
        ratios = tolerance.ratio(error, now.y, y)
        ratio = _rms(ratios)
        finite = jnp.all(jnp.isfinite(y)) & jnp.isfinite(ratio) & content
        fits = good = finite & (ratio <= 1.0)
        happens, cause, seen = jnp.zeros((), bool), NO_EVENT, None
        if watch is not None:
            (met, happens, switches, cause), seen = watch.find(sight, h, t, y, now.memory, good)
            good, lands = good & ~met, lands & ~happens & ~switches
        factor = jnp.where(finite, tolerance.factor(ratio), SHRINK)
        clipped = (h < 0.5 * wanted) & (lands if watch is None else True)
        following = jnp.where(fits & clipped, jnp.maximum(wanted, h * factor), h * factor)

        landed = good & lands
        output = timeline.boundaries.output[now.boundary]
        jumps = happens | (landed & (output == NONE))
        y, rate = after_boundary(timeline, now.boundary, landed, y, now.rate)
        memory, bracket, settled = now.memory, now.bracket, True
        if watch is not None:
            bracket = narrowed(bracket, h, seen.gaps, met=met, passed=good, over=jumps)
            y, memory, settled = watch.apply(jumps, t, y, jnp.where(good, seen.memory, memory))
        y = jnp.where(good, y, now.y)
        too_small = ~fits & ~(following > 1e-16 * jnp.maximum(jnp.abs(now.t), 1e-6 * self.span))
        too_many = (now.accepted + now.rejected + 1 >= self.max_steps) & jnp.isfinite(due(now.boundary + landed))
        code = jnp.where(too_small, jnp.where(finite, STEP_TOO_SMALL, NONFINITE), jnp.where(too_many, MAX_STEPS, 0))
        code = jnp.where(settled, code, UNSETTLED)
        after = Progress(
            t=jnp.where(good, t, now.t),
            y=y,
            rate=rate,
            boundary=now.boundary + landed,
            h=following,
            fresh=jumps,
            code=code,
            culprit=jnp.where(code == SUCCESS, now.culprit, place_of_greatest(ratios)),
            accepted=now.accepted + good,
            rejected=now.rejected + ~good,
            memory=memory,
            bracket=bracket,
        )
        # a patient who is done keeps still; the large arrays are written in place, or not at all
        live = self.unfinished(now)
        slot = jnp.where(live & landed & (output != NONE), output, outputs)
        number = jnp.where(live & good, now.accepted, self.max_steps)
        return Path(
            jax.tree.map(lambda new, old: jnp.where(live, new, old), after, now),
            path.outputs.at[slot].set(y, mode="drop"),
            path.record.at[number].set(jnp.where(lands, jnp.inf, h), mode="drop") if self.record else path.record,
            None if path.causes is None else path.causes.at[number].set(cause, mode="drop"),
        )


def integrate(
    stepper: Stepper,
    tolerance: Tolerance,
    model: Any,
    timeline: Timeline,
    y0: jax.Array,
    t0: jax.Array,
    *,
    outputs: int,
    max_steps: int,
    record: bool,
    events: Begun | None,
) -> Path:
    """Integrate one patient; with `record`, keep the accepted step sizes (inf where a step landed on a boundary).

    With `events`, these are located and applied, and `record` also keeps what caused them.
    """
    span = timeline.span
    loop = _Loop(stepper, tolerance, model, timeline, watch_one(events, model), span, max_steps, record)
    zero = jnp.zeros((), dtype=int)
    unknown = timeline.unknown()
    start = Progress(
        t=t0,
        y=y0,
        rate=jnp.zeros_like(y0),
        boundary=zero,
        h=jnp.ones_like(t0),
        fresh=jnp.ones((), dtype=bool),
        code=jnp.where(
            unknown.any(), NONFINITE, SUCCESS if events is None else jnp.where(events.settled, SUCCESS, UNSETTLED)
        ),
        culprit=timeline.failing_state(unknown),
        accepted=zero,
        rejected=zero,
        memory=None if events is None else events.memory,
        bracket=None if events is None else open_bracket(t0, events.hybrid.gaps),
    )
    whole = jnp.full((outputs, y0.size), jnp.nan, y0.dtype)
    steps = jnp.zeros((max_steps if record else 0,), y0.dtype)
    causes = jnp.full(steps.shape, NO_EVENT, jnp.int32) if record and events is not None else None
    begun = Path(start, whole, steps, causes)
    path = jax.lax.while_loop(lambda path: eqxi.unvmap_any(loop.unfinished(path.end)), loop.advance, begun)
    return path._replace(end=path.end._replace(culprit=_culprit(stepper, model, path.end, span)))


def _culprit(stepper: Stepper, model: Any, end: Progress, span: jax.Array) -> jax.Array:
    """Return the number of the state to blame: the first that is not finite, else that of the worst error.

    A linear solve spreads NaN to all states, so the vector field itself is asked: here, in its derivative along the
    solution, and a little later.
    """

    def slope(t: Any, y: jax.Array) -> jax.Array:
        return stepper.slope(model, t, y, end.rate)

    here = slope(end.t, end.y)
    bend = jax.jvp(lambda y: slope(end.t, y), (end.y,), (here,))[1]
    later = [slope(end.t + ahead * span, end.y + ahead * span * here) for ahead in (1e-9, 1e-4)]
    culprit = end.culprit
    for vector in reversed([end.y, here, bend, *later]):
        bad = ~jnp.isfinite(vector)
        culprit = jnp.where((end.code == NONFINITE) & bad.any(), first_true(bad), culprit)
    return culprit


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x))
