"""Bounded searches that need only gradients: for many parameters, and for neural networks."""

from typing import TYPE_CHECKING, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from qspjax.fit._problem import Problem
from qspjax.fit.search._search import CONVERGED, EXHAUSTED, FAILED, RUNNING, AbstractSearch, Search

if TYPE_CHECKING:
    import optax

DESCENT = 1e-4
"""The share of the decrease predicted by the slope that a step must achieve (Armijo)."""


class Descent(NamedTuple):
    """The state of L-BFGS: that of the optax optimiser, the slope, the direction, and the length of a step along it."""

    optimiser: PyTree
    gradient: Array
    direction: Array
    length: Array


class LBFGS(AbstractSearch):
    """Limited-memory BFGS with backtracking, projected on the bounds.

    Args:
        ftol: A search has converged when a step changes the log density by less than this, relative to its absolute
            value, or to 1 if that is greater.
        gtol: It has also converged when the projected slope is less than this.
        max_steps: The maximum number of evaluations.
        memory: The number of steps that are remembered.

    Reference: Byrd et al., SIAM J Sci Comput 1995;16:1190, doi:10.1137/0916069.

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
        >>> round(estimate(problem, method=LBFGS()).parameters["CL"], 2)
        2.98
    """

    ftol: float = eqx.field(default=1e-10, static=True, kw_only=True)
    gtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    max_steps: int = eqx.field(default=1000, static=True, kw_only=True)
    memory: int = eqx.field(default=10, static=True, kw_only=True)

    def _optimiser(self) -> "optax.GradientTransformation":
        import optax

        return optax.scale_by_lbfgs(self.memory)

    def begin(self, problem: Problem, x: Array) -> Descent:
        return Descent(self._optimiser().init(x), jnp.zeros_like(x), jnp.zeros_like(x), jnp.ones(()))

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        fresh, state = search.fresh, search.own
        trial = jnp.clip(search.x + state.length * state.direction, *problem.bounds)
        value, gradient, trial = _slope(problem, trial, held)
        finite = jnp.isfinite(value)
        expected = -state.gradient @ (trial - search.x)
        gained = search.value - value
        better = finite & (fresh | (gained >= DESCENT * expected))
        blocked = _blocked(trial, gradient, problem)
        free = jnp.where(blocked, 0.0, gradient)
        updates, optimiser = self._optimiser().update(free, state.optimiser, trial)
        scaled = cast(Array, updates)
        downhill = scaled @ free > 1e-12 * jnp.linalg.norm(scaled) * jnp.linalg.norm(free)
        direction = jnp.where(
            blocked, 0.0, -jnp.where(downhill & ~fresh, scaled, free / jnp.maximum(1.0, jnp.linalg.norm(free)))
        )
        after = Descent(optimiser, gradient, direction, jnp.ones(()))
        next_state = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), after, state._replace(length=0.3 * state.length)
        )
        small = search.small(self.ftol)
        converged = ~fresh & better & (jnp.abs(gained) < small)
        stuck = ~fresh & ~better & (state.length < 1e-10)
        flat = better & (jnp.max(jnp.abs(free), initial=0.0) < self.gtol)
        return _after(self, search, trial, value, better, fresh, converged | stuck | flat, next_state)

    def describe(self) -> str:
        return f"L-BFGS to {self.ftol:g}"


class Adam(AbstractSearch):
    """Adam (optax), projected on the bounds: a fixed number of steps, suitable for rough densities.

    Args:
        learning_rate: The length of a step on the scale of the search.
        max_steps: The number of evaluations.

    Reference: Kingma and Ba, ICLR 2015, doi:10.48550/arXiv.1412.6980.

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
        >>> round(estimate(problem, method=Adam()).parameters["CL"], 1)
        3.0
    """

    learning_rate: float = eqx.field(default=0.02, static=True, kw_only=True)
    max_steps: int = eqx.field(default=1000, static=True, kw_only=True)

    def _optimiser(self) -> "optax.GradientTransformation":
        import optax

        return optax.adam(self.learning_rate)

    def begin(self, problem: Problem, x: Array) -> PyTree:
        return self._optimiser().init(x), x

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        fresh = search.fresh
        state, x = search.own
        value, gradient, x = _slope(problem, x, held)
        finite = jnp.isfinite(value)
        updates, next_state = self._optimiser().update(jnp.where(finite, gradient, 0.0), state, x)
        move = cast(Array, updates)
        best = search.x  # a search goes back to it from a point that fails
        next_x = jnp.where(finite, jnp.clip(x + move, *problem.bounds), best)
        better = finite & (value < search.value)
        return _after(self, search, x, value, better, fresh, jnp.zeros((), bool), (next_state, next_x))

    def describe(self) -> str:
        return f"Adam at {self.learning_rate:g}"


def _slope(problem: Problem, x: Array, held: Array) -> tuple[Array, Array, Array]:
    """Return the value and the slope at a point, and the point with the parameters that are solved for."""
    value, gradient, settled = problem.sloped(x)
    return -value, jnp.where(held, 0.0, -gradient), settled


def _blocked(x: Array, gradient: Array, problem: Problem) -> Array:
    lower, upper = problem.bounds
    return ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))


def _after(
    method: "LBFGS | Adam",
    search: Search,
    x: Array,
    value: Array,
    better: Array,
    fresh: Array,
    done: Array,
    state: PyTree,
) -> Search:
    finite = jnp.isfinite(value)
    steps = search.steps + 1
    status = jnp.where(steps >= method.max_steps, EXHAUSTED, RUNNING)
    status = jnp.where(done, CONVERGED, status)
    status = jnp.where(fresh & ~finite, FAILED, status)
    return search._replace(
        x=jnp.where(better, x, search.x),
        value=jnp.where(better, value, search.value),
        status=status,
        steps=steps,
        failures=search.failures + ~finite,
        own=state,
        tried=x,
    )
