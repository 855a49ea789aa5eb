"""Bounded searches on a quadratic model with the Gauss-Newton curvature: trust region, and Levenberg-Marquardt.

    m(s) = g's + s'Hs / 2

Both use forward sensitivities of all measurements, one evaluation per step, and never leave the bounds.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._arrays import argmax_first
from qspjax.fit._problem import Problem
from qspjax.fit.search._search import CONVERGED, EXHAUSTED, FAILED, RUNNING, AbstractSearch, Search

SHRINK, GROW = 0.25, 0.75
"""The quality of a step below which the next ones are shorter, and that above which they may be longer."""
LEAST_GAIN = 1e-4
"""The least quality of a step that is accepted."""
BISECTIONS = 60
ROUNDS = 4
"""How often a step is found anew within what remains free, once parts of it have met bounds."""
SLOW, LITTLE = 8, 0.05
"""A search is in a valley after this many successive steps that each gained less than this."""
PATIENCE, STALLED = 30, 3e-3
"""A search has converged, too, when so many successive evaluations gained less than this all together."""
NARROWEST, STIFFEST = 1e-2, 1e-2
"""The least radius and the greatest damping with which a search goes on with other tolerances."""
CAUGHT = 1e-3
"""A parameter closer than this to the bound that the slope points to is put on it, until the slope turns."""


class Quadratic(NamedTuple):
    """The state of both methods.

    Attributes:
        gradient: The slope at the best point.
        curvature: The curvature there.
        radius: The greatest length of a step.
        damping: The damping of a step.
        slow: The number of successive steps that gained little.
        since: The number of evaluations since the gain was last looked at.
        before: The value then.
    """

    gradient: Array
    curvature: Array
    radius: Array
    damping: Array
    slow: Array
    since: Array
    before: Array


class _Move(NamedTuple):
    """A proposed step, the quadratic model by which it is judged, its length, and the greatest scaled slope."""

    step: Array
    gradient: Array
    curvature: Array
    length: Array
    flat: Array


class TrustRegion(AbstractSearch):
    """A trust-region method that stays inside the bounds, then Levenberg-Marquardt: robust, and fast in valleys.

    The trust region is a ball on the scale of the search (in decades, for `Log(10)`), so that a search does not rush
    to the bounds along directions on which the data have little information. Near the optimum such directions are long,
    curved valleys; once steps gain little, they are damped in proportion to the curvature instead.

    Args:
        ftol: A search has converged when a step changes the log density by less than this, relative to its absolute
            value, or to 1 if that is greater.
        gtol: It has also converged when the scaled slope is less than this; and where 30 evaluations have gained less
            than 3e-3 all together.
        max_steps: The maximum number of evaluations.
        radius: The greatest length of the first step, in parameters relative to the root of their distance to the bound
            ahead, on the scale of the search.

    Reference: Coleman and Li, SIAM J Optim 1996;6:418, doi:10.1137/0806023; Froehlich and Sorger, PLoS Comput Biol
    2022;18:e1010322, doi:10.1371/journal.pcbi.1010322.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> round(estimate(problem, method=TrustRegion()).parameters["CL"], 2)
        2.98
    """

    keeps: ClassVar[bool] = True

    ftol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    gtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    max_steps: int = eqx.field(default=500, static=True, kw_only=True)
    radius: float = eqx.field(default=3.0, static=True, kw_only=True)

    def begin(self, problem: Problem, x: Array) -> Quadratic:
        return _initial_state(x, self.radius, 1e-3)

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        model: Quadratic = search.own
        valley = model.slow >= SLOW
        interior = _interior(search.x, model, held, problem)
        damped = _damped(search.x, model, held, problem)
        move = jax.tree.map(
            lambda interior_part, damped_part: jnp.where(valley, damped_part, interior_part), interior, damped
        )
        return _evaluated_step(self, problem, search, move)

    def describe(self) -> str:
        return f"trust region to {self.ftol:g}"


class LevenbergMarquardt(AbstractSearch):
    """Levenberg-Marquardt with active bounds: parameters at a bound stay there if the slope points beyond it.

    $$ (H + \\lambda\\, diag(H)) s = -g $$

    Args:
        ftol: A search has converged when a step changes the log density by less than this, relative to its absolute
            value, or to 1 if that is greater.
        gtol: It has also converged when the slope is less than this; and where 30 evaluations have gained less than
            3e-3 all together.
        max_steps: The maximum number of evaluations.
        damping: The initial lambda.

    Reference: Marquardt, J Soc Indust Appl Math 1963;11:431, doi:10.1137/0111030; Kanzow et al., J Comput Appl Math
    2004;172:375, doi:10.1016/j.cam.2004.02.013 (bounds).

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> round(estimate(problem, method=LevenbergMarquardt()).parameters["CL"], 2)
        2.98
    """

    keeps: ClassVar[bool] = True

    ftol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    gtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    max_steps: int = eqx.field(default=500, static=True, kw_only=True)
    damping: float = eqx.field(default=1e-2, static=True, kw_only=True)

    def begin(self, problem: Problem, x: Array) -> Quadratic:
        return _initial_state(x, 1.0, self.damping)

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        return _evaluated_step(self, problem, search, _damped(search.x, search.own, held, problem))

    def describe(self) -> str:
        return f"Levenberg-Marquardt to {self.ftol:g}"


def _initial_state(x: Array, radius: float, damping: float) -> Quadratic:
    radius_and_damping = jnp.asarray(radius, float), jnp.asarray(damping, float)
    none = jnp.zeros((), int)
    return Quadratic(jnp.zeros_like(x), jnp.eye(x.size), *radius_and_damping, none, none, jnp.asarray(jnp.inf, float))


def _interior(x: Array, model: Quadratic, held: Array, problem: Problem) -> _Move:
    """Return the step of the trust region, in variables scaled by the distance to the bounds (Coleman and Li)."""
    lower, upper = problem.bounds
    edge = jnp.where(model.gradient < 0, upper, lower)
    bounded = jnp.isfinite(edge)
    distance = jnp.where(bounded, jnp.abs(x - edge), 1.0)
    caught = ~held & bounded & (distance < CAUGHT)  # at the bound that the slope points to
    stays = held | caught
    gradient = jnp.where(stays, 0.0, model.gradient)
    curvature = jnp.where(stays[:, None] | stays[None, :], 0.0, model.curvature)
    scale = jnp.where(stays, 0.0, jnp.sqrt(distance))
    bend = scale[:, None] * curvature * scale + jnp.diag(jnp.where(bounded, jnp.abs(gradient), 0.0))
    slope = scale * gradient
    length, step = _chosen_step(x, gradient, curvature, bend, slope, scale, model.radius, lower, upper)
    flat = jnp.max(jnp.abs(slope * scale), initial=0.0)
    return _Move(jnp.where(caught, edge - x, step), gradient, curvature, length, flat)


def _damped(x: Array, model: Quadratic, held: Array, problem: Problem) -> _Move:
    """Return the step damped in proportion to the curvature, the best within the bounds."""
    lower, upper = problem.bounds
    stays = held | ((x <= lower) & (model.gradient > 0)) | ((x >= upper) & (model.gradient < 0))
    gradient = jnp.where(stays, 0.0, model.gradient)
    curvature = jnp.where(stays[:, None] | stays[None, :], 0.0, model.curvature)
    sizes = jnp.diag(curvature)
    weight = jnp.where(stays, 1.0, jnp.maximum(sizes, 1e-10 * jnp.max(sizes) + 1e-12))
    damped = curvature + jnp.diag(jnp.where(stays, 1.0, model.damping * weight))
    step = jnp.where(stays, 0.0, _within_bounds(damped, gradient, lower - x, upper - x, stays))
    most = jnp.max(jnp.abs(gradient), initial=0.0)
    return _Move(step, gradient, curvature, jnp.max(jnp.abs(step), initial=0.0), most)


def _evaluated_step(
    method: "TrustRegion | LevenbergMarquardt", problem: Problem, search: Search, move: _Move
) -> Search:
    """Evaluate a step, and accept it if it is good."""
    fresh, model = search.fresh, search.own
    step = jnp.where(fresh, 0.0, move.step)
    trial = search.x + step
    evaluation = problem.quadratic(trial)
    value = -evaluation.value
    finite = jnp.isfinite(value)
    expected = -(move.gradient @ step + 0.5 * step @ move.curvature @ step)
    gained = search.value - value
    noise = 1e-14 * jnp.abs(search.value)
    quality = jnp.where(expected > noise, gained / jnp.where(expected > noise, expected, 1.0), 0.0)
    better = finite & (fresh | ((gained > 0) & (quality > LEAST_GAIN)))
    good, best = finite & (quality > SHRINK), finite & (quality > GROW)
    longer = jnp.where(best & (move.length > 0.9 * model.radius), 2.0 * model.radius, model.radius)
    radius = jnp.where(good, longer, 0.25 * jnp.minimum(model.radius, move.length))
    damping = jnp.where(good, jnp.where(best, 0.2, 1.0) * model.damping, 4.0 * model.damping)
    unit = jnp.maximum(1.0, 1e-3 * jnp.abs(search.value))
    little = (gained < LITTLE * unit) & ~fresh
    x, new_value = jnp.where(better, evaluation.x, search.x), jnp.where(better, value, search.value)
    looks = model.since >= PATIENCE
    stalled = looks & (model.before - new_value < STALLED * unit)
    again = fresh & (search.steps > 0)
    state = Quadratic(
        jnp.where(better, -evaluation.gradient, model.gradient),
        jnp.where(better, evaluation.curvature, model.curvature),
        jnp.where(
            fresh, jnp.where(again, jnp.maximum(model.radius, NARROWEST), model.radius), jnp.maximum(radius, 1e-12)
        ),
        jnp.where(
            fresh,
            jnp.where(again, jnp.minimum(model.damping, STIFFEST), model.damping),
            jnp.clip(damping, 1e-12, 1e12),
        ),
        jnp.where(model.slow >= SLOW, model.slow, jnp.where(little, model.slow + 1, 0)),
        jnp.where(fresh | looks, 0, model.since + 1),
        jnp.where(fresh | looks, new_value, model.before),
    )
    steps = search.steps + 1
    small, loose = search.small(method.ftol), search.looser > 1.0
    confined = (move.length > 0.9 * model.radius) & (model.slow < SLOW)
    noise_alone = loose & ~better & ~confined  # what is gained is less than the error of loose simulations
    converged = finite & (expected < small) & ((jnp.abs(gained) < small) | noise_alone)
    done = ~fresh & (converged | stalled | (move.length < 1e-12) | (move.flat < method.gtol))
    status = jnp.where(steps >= method.max_steps, EXHAUSTED, RUNNING)
    status = jnp.where(done, CONVERGED, status)
    status = jnp.where(fresh & ~finite, FAILED, status)
    failures = search.failures + ~finite
    return search._replace(x=x, value=new_value, status=status, steps=steps, failures=failures, own=state, tried=trial)


def _chosen_step(
    x: Array,
    gradient: Array,
    curvature: Array,
    bend: Array,
    slope: Array,
    scale: Array,
    radius: Array,
    lower: Array,
    upper: Array,
) -> tuple[Array, Array]:
    """Return the best of some steps by the quadratic model, and its length on the scale of the trust region.

    They are the step of the trust region, that step reflected where it meets a bound, and steepest descent, each cut
    off before the bounds.
    """
    best = _within_radius(bend, slope, radius)
    steepest = -slope * (jnp.minimum(radius, _along(bend, slope)) / jnp.maximum(jnp.linalg.norm(slope), 1e-300))
    theta = jnp.maximum(0.95, 1.0 - jnp.linalg.norm(slope))
    first, share, met = _to_bound(x, scale * best, lower, upper)
    onward = jnp.where(met, -1.0, 1.0) * scale * best * (1.0 - share)
    reflected = first + _cut(x + first, onward, lower, upper, theta)
    moves = jnp.stack(
        [
            _cut(x, scale * best, lower, upper, theta),
            jnp.where(share < 1.0, reflected, first * theta),
            _cut(x, scale * steepest, lower, upper, theta),
        ]
    )
    extra_curvature = jnp.where(
        scale > 0, (jnp.diag(bend) - scale**2 * jnp.diag(curvature)) / jnp.maximum(scale, 1e-300) ** 2, 0.0
    )
    models = moves @ gradient + 0.5 * jnp.sum((moves @ curvature + moves * extra_curvature) * moves, axis=1)
    best_index = argmax_first(-models)
    move = moves[best_index]
    return jnp.linalg.norm(jnp.where(scale > 0, move / jnp.maximum(scale, 1e-300), 0.0)), move


def _within_radius(bend: Array, slope: Array, radius: Array) -> Array:
    """Return the minimum of slope's + s'(bend)s / 2 within a radius, by eigenvalues and bisection on the shift."""
    sizes, vectors = jnp.linalg.eigh(bend)
    rotated = vectors.T @ slope
    least = jnp.maximum(-sizes[0], 0.0)
    floor = 1e-14 * jnp.maximum(jnp.abs(sizes[-1]), 1e-12)

    def length(shift: Array) -> Array:
        return jnp.linalg.norm(rotated / jnp.maximum(sizes + shift, floor))

    def halve(_: Array, edges: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = edges
        middle = jnp.sqrt(low * high)
        over = length(least + middle) > radius
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    most = jnp.linalg.norm(slope) / radius + floor
    _, high = jax.lax.fori_loop(0, BISECTIONS, halve, (floor, jnp.maximum(most, 2.0 * floor)))
    shift = jnp.where(length(least) > radius, least + high, least)
    return -vectors @ (rotated / jnp.maximum(sizes + shift, floor))


def _within_bounds(curvature: Array, gradient: Array, lowest: Array, highest: Array, stays: Array) -> Array:
    """Return the step to the minimum of a quadratic model within bounds.

    What leaves them is put on its bound, and the others follow: cutting it off alone would leave the valley.
    """

    def settle(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        fixed, step = state
        kept = jnp.where(fixed, step, 0.0)
        matrix = jnp.where(fixed[:, None] | fixed[None, :], 0.0, curvature) + jnp.diag(fixed.astype(float))
        found = -jnp.linalg.solve(matrix, jnp.where(fixed, 0.0, gradient + curvature @ kept))
        step = jnp.where(fixed, kept, found)
        return fixed | (step < lowest) | (step > highest), jnp.clip(step, lowest, highest)

    return jax.lax.fori_loop(0, ROUNDS, settle, (stays, jnp.zeros_like(gradient)))[1]


def _along(bend: Array, slope: Array) -> Array:
    """Return the length of steepest descent to its minimum."""
    length = jnp.linalg.norm(slope)
    unit = slope / jnp.maximum(length, 1e-300)
    curve = unit @ bend @ unit
    return jnp.where(curve > 0, length / jnp.where(curve > 0, curve, 1.0), jnp.inf)


def _shares(x: Array, move: Array, lower: Array, upper: Array) -> Array:
    """Return the share of a step that leads to the bound of each parameter."""
    room = jnp.where(move > 0, upper - x, lower - x)
    return jnp.where(move == 0, jnp.inf, room / jnp.where(move == 0, 1.0, move))


def _to_bound(x: Array, move: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Return the step up to the first bound, its share of the whole step, and which parameter meets the bound."""
    shares = _shares(x, move, lower, upper)
    share = jnp.clip(jnp.min(shares, initial=jnp.inf), 0.0, 1.0)
    return share * move, share, (shares <= share) & (share < 1.0)


def _cut(x: Array, move: Array, lower: Array, upper: Array, theta: Array) -> Array:
    """Return a step that stays strictly inside the bounds."""
    share = jnp.min(_shares(x, move, lower, upper), initial=jnp.inf)
    return jnp.where(share <= 1.0, theta * jnp.maximum(share, 0.0), 1.0) * move
