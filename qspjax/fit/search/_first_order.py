"""Bounded searches that need only gradients, by the adjoint: for many parameters, and for neural networks."""

from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from qspjax.fit._problem import Problem
from qspjax.fit.search._search import CONVERGED, EXHAUSTED, FAILED, RUNNING, AbstractSearch, Search

DESCENT = 1e-4
"""The part of the decrease that the slope promises which a step must keep (Armijo)."""


class Descent(NamedTuple):
    """What a method remembers: the optimiser of optax, the slope, the direction, and how far along it to go."""

    optimiser: PyTree
    gradient: Array
    direction: Array
    length: Array


class LBFGS(AbstractSearch):
    """Limited-memory BFGS with backtracking, projected on the bounds.

    Args:
        ftol: A search has converged where a step changes the log density by less than this part of it (of 1, if it is
            smaller).
        gtol: Or where the projected slope is smaller.
        max_steps: Most evaluations.
        memory: Steps that are remembered.

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

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.scale_by_lbfgs(self.memory)

    def begin(self, problem: Problem, x: Array) -> Descent:
        return Descent(self._optimiser().init(x), jnp.zeros_like(x), jnp.zeros_like(x), jnp.ones(()))

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        fresh, own = search.steps == 0, search.own
        trial = jnp.clip(search.x + own.length * own.direction, *problem.bounds)
        value, gradient, trial = _slope(problem, trial, held)
        finite = jnp.isfinite(value)
        promised = -own.gradient @ (trial - search.x)
        gained = search.value - value
        better = finite & (fresh | (gained >= DESCENT * promised))
        blocked = _blocked(trial, gradient, problem)
        free = jnp.where(blocked, 0.0, gradient)
        updates, optimiser = self._optimiser().update(free, own.optimiser, trial)
        scaled = cast(Array, updates)
        downhill = scaled @ free > 1e-12 * jnp.linalg.norm(scaled) * jnp.linalg.norm(free)
        usual = jnp.where(
            blocked, 0.0, -jnp.where(downhill & ~fresh, scaled, free / jnp.maximum(1.0, jnp.linalg.norm(free)))
        )
        after = Descent(optimiser, gradient, usual, jnp.ones(()))
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), after, own._replace(length=0.3 * own.length))
        small = self.ftol * jnp.maximum(1.0, jnp.abs(search.value))
        settled = ~fresh & better & (jnp.abs(gained) < small)
        stuck = ~fresh & ~better & (own.length < 1e-10)
        flat = better & (jnp.max(jnp.abs(free), initial=0.0) < self.gtol)
        return _after(self, search, trial, value, better, fresh, settled | stuck | flat, kept)

    def describe(self) -> str:
        return f"L-BFGS to {self.ftol:g}"


class Adam(AbstractSearch):
    """Adam (optax), projected on the bounds: a fixed number of steps, good where the density is rough.

    Args:
        learning_rate: Length of a step on the scale of the search.
        max_steps: Evaluations.

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

    def begin(self, problem: Problem, x: Array) -> PyTree:
        return optax.adam(self.learning_rate).init(x), x

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        fresh = search.steps == 0
        state, here = search.own
        value, gradient, here = _slope(problem, here, held)
        finite = jnp.isfinite(value)
        updates, following = optax.adam(self.learning_rate).update(jnp.where(finite, gradient, 0.0), state, here)
        move = cast(Array, updates)
        back = search.x  # a point that fails is left for the best one
        going = jnp.where(finite, jnp.clip(here + move, *problem.bounds), back)
        better = finite & (value < search.value)
        return _after(self, search, here, value, better, fresh, jnp.zeros((), bool), (following, going))

    def describe(self) -> str:
        return f"Adam at {self.learning_rate:g}"


def _slope(problem: Problem, x: Array, held: Array) -> tuple[Array, Array, Array]:
    """Return value and slope at a point, and that point with the parameters that are solved for."""

    def density(x: Array) -> tuple[Array, Array]:
        likelihood, settled = problem.settled(x)
        return likelihood + problem.log_prior(settled), settled

    (value, settled), gradient = jax.value_and_grad(density, has_aux=True)(x)
    fine = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    return jnp.where(fine, -value, jnp.inf), jnp.where(fine & ~held, -gradient, 0.0), settled


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
    own: PyTree,
) -> Search:
    finite = jnp.isfinite(value)
    steps = search.steps + 1
    status = jnp.where(steps >= method.max_steps, EXHAUSTED, RUNNING)
    status = jnp.where(done, CONVERGED, status)
    status = jnp.where(fresh & ~finite, FAILED, status)
    return Search(
        jnp.where(better, x, search.x),
        jnp.where(better, value, search.value),
        status,
        steps,
        search.failures + ~finite,
        own,
    )
