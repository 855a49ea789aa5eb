"""The posterior as one log density over the whole space R^n, with an exact slope.

A point z holds the parameters, brought from within their bounds to the line, and for a mixed-effects model the whitened
random effects u of all subjects, eta = L u (non-centred):

    log p(z | y) = log p(y | x, u) + log p(x) + log |dx / dz| + log N(u; 0, 1) + constant

Reference: Papaspiliopoulos, Roberts and Skoeld, Stat Sci 2007;22:59, doi:10.1214/088342307000000014.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import check_instance, refuse
from qspjax._random import generator
from qspjax._types import Key
from qspjax.fit._problem import Problem
from qspjax.fit._types import Point
from qspjax.fit.bayes import _priors
from qspjax.fit.bayes._likelihood import Values, likelihood_of, measured
from qspjax.fit.bayes._line import Line
from qspjax.fit.data._dependence import draws, log_densities
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.search._search import quickly_compiled


@runtime_checkable
class Found(Protocol):
    """Where something was found: a `Fit`, or a `MixedFit`."""

    @property
    def x(self) -> np.ndarray: ...


@runtime_checkable
class FoundEffects(Protocol):
    """The same with random effects: a `MixedFit`."""

    @property
    def x(self) -> np.ndarray: ...

    @property
    def u(self) -> np.ndarray: ...


Start: TypeAlias = Found | Point | float
"""Where a run begins: where something was found, or a point on the scale of the search."""


class Density:
    """The log density of a posterior.

    Args:
        problem: A `Problem`, or a `MixedModel`.

    Attributes:
        size: The dimension of z.
        names: The names of what is estimated.
        priors: The priors of the parameters.
        line: From points of the search to the line.

    Raises:
        ValueError: If it is no problem, or one whose parameters are solved for.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> from qspjax.fit.bayes._density import Density
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.3))},
        ... )
        >>> density = Density(problem)
        >>> density.size, density(density.start).round(3)
        (1, Array(3.223, dtype=float64))
    """

    def __init__(self, problem: Problem | MixedModel) -> None:
        check_instance("problem", problem, (Problem, MixedModel, Mixture), "a Problem or a MixedModel")
        if isinstance(problem, Problem) and problem.solver is not None:
            refuse("problem", "have parameters that are all sampled", "one in which some are solved for")
        if isinstance(problem, Mixture):
            refuse("problem", "have no subpopulations", "a mixture")
        self.problem = problem
        self.likelihood = likelihood_of(problem)
        self.names = problem.names
        self.blocks = problem.blocks if isinstance(problem, MixedModel) else ()
        self.priors = [_priors.ParameterPrior(name, one) for name, one in problem.free.items()]
        spare = np.full(len(self.names) - len(self.priors), np.inf)
        self.line = Line(
            np.concatenate([[one.lower for one in self.priors], -spare]),
            np.concatenate([[one.upper for one in self.priors], spare]),
        )
        self.effects = self.likelihood.effects
        self.size = len(self.names) + math.prod(self.effects)
        self.log_likelihood = self._made_likelihood()

    @property
    def start(self) -> Array:
        """Where the problem starts, with random effects of zero."""
        return self.joined(jnp.asarray(self.problem.start, float), jnp.zeros(self.effects))

    @property
    def proper(self) -> bool:
        """Whether the prior is a probability density that can be drawn from."""
        return all(one.proper for one in self.priors)

    def joined(self, x: Array, u: Array) -> Array:
        """Return the point z of parameters x on the scale of the search and random effects u."""
        return jnp.concatenate([self.line.from_point(x), jnp.ravel(u)])

    def parts(self, z: Array) -> tuple[Array, Array]:
        """Return the parameters x on the scale of the search and the random effects u, (subjects, effects)."""
        count = len(self.names)
        return self.line.point(z[:count]), z[count:].reshape(self.effects)

    def log_prior_of(self, x: Array) -> Array:
        """Return the log density of the prior of x, on the scale of the search."""
        total = jnp.zeros(())
        for k, one in enumerate(self.priors):
            total += one.log_density(x[k])
        for block in self.blocks:
            total += _priors.log_density(block.random, x[block.point])
        return total

    def log_prior(self, z: Array) -> Array:
        """Return the log density of the prior of z."""
        x, u = self.parts(z)
        normal = -0.5 * jnp.sum(u * u) - 0.5 * u.size * math.log(2.0 * math.pi)
        return self.log_prior_of(x) + jnp.sum(self.line.log_slope(z[: len(self.names)])) + normal

    def __call__(self, z: Array, values: Values = None) -> Array:
        """Return the log density at z, without the constant log p(y)."""
        return self.log_likelihood(z, values) + self.log_prior(z)

    def drawn(self, key: Array) -> Array:
        """Return a draw z from the prior."""
        for_x, for_u, *for_blocks = jax.random.split(key, 2 + len(self.blocks))
        normal = jax.random.normal(for_x, (len(self.priors),))
        own = [one.from_normal(normal[k])[None] for k, one in enumerate(self.priors)]
        omega = [_priors.drawn(block.random, one) for block, one in zip(self.blocks, for_blocks, strict=True)]
        return self.joined(jnp.concatenate([*own, *omega]), jax.random.normal(for_u, self.effects))

    def simulated(self, z: Array, key: Array) -> list[Array]:
        """Return measurements drawn at z, output by output, NaN where a simulation fails."""
        predictors, fine = self.likelihood.predictors(*self.parts(z))
        measured = draws(self.likelihood.rows, key, predictors)
        return [jnp.where(fine, values, jnp.nan) for values in measured]

    def pointwise(self, z: Array) -> list[Array]:
        """Return the log likelihood of each measurement at z, output by output."""
        return log_densities(self.likelihood.rows, self.likelihood.predictors(*self.parts(z))[0])

    def natural(self, z: Array) -> dict[str, Array]:
        """Return the natural values at z: of `names`; and for random effects their covariance and the etas."""
        x, u = self.parts(z)
        found = {"natural": self.problem.natural(x)}
        if isinstance(self.problem, MixedModel):
            found |= {"covariance": self.problem.covariance(x), "etas": u @ self.problem.factor(x).T}
        return found

    def _made_likelihood(self) -> Callable[..., Array]:
        """Return the log likelihood over z, -inf where it cannot be computed, whose derivative is given."""
        likelihood = self.likelihood

        @jax.custom_jvp
        def log_likelihood(z: Array, values: Values = None) -> Array:
            predictors, fine = likelihood.predictors(*self.parts(z))
            densities = log_densities(measured(likelihood.rows, values), predictors)
            value = jnp.sum(jnp.stack([jnp.sum(one) for one in densities]))
            return jnp.where(fine & jnp.isfinite(value), value, -jnp.inf)

        @log_likelihood.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
            z, values = primals
            x, u = self.parts(z)
            value, slope_x, slope_u, fine = likelihood.slopes(x, u, values)
            _, back = jax.vjp(self.parts, z)
            (slope,) = back((slope_x, slope_u))
            good = fine & jnp.isfinite(value) & jnp.isfinite(slope).all()
            return jnp.where(good, value, -jnp.inf), jnp.where(good, slope, 0.0) @ tangents[0]

        return log_likelihood


def starts(density: Density, given: Start | None, count: int, jitter: float, key: Key) -> np.ndarray:
    """Return where chains begin: normal about a point, closer to it where nothing can be simulated.

    Args:
        density: The posterior.
        given: The point on the scale of the search (names,); a fit; or None for the start of the problem.
        count: How many chains.
        jitter: The standard deviation.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If the point has a wrong shape.
        RuntimeError: If the density cannot be computed there; the message says why.
    """
    middle = np.asarray(density.start if given is None else placed(density, given))
    away = jitter * generator(key).standard_normal((count, density.size))
    program = quickly_compiled(jax.vmap(density))
    found = middle + away
    for _ in range(8):
        lost = ~np.isfinite(np.asarray(program(jnp.asarray(found))))
        if not lost.any():
            return found
        away = np.where(lost[:, None], 0.3 * away, away)
        found = middle + away
    x, u = (np.asarray(part) for part in density.parts(jnp.asarray(middle)))
    problem = density.problem
    reasons = problem.failures(x, u) if isinstance(problem, MixedModel) else problem.failures(x)
    raise RuntimeError(f"No chain can begin at the start. {' '.join(reasons[:3]) or 'The density is no number there.'}")


def placed(density: Density, given: Start) -> Array:
    """Return the point z of a fit, or of a point on the scale of the search."""
    if isinstance(given, Found):
        x, u = np.asarray(given.x, float), np.zeros((0, 0))
        if density.blocks and isinstance(given, FoundEffects):
            u = np.asarray(given.u, float)
    else:
        x, u = np.asarray(given, float), np.zeros(density.effects)
    if x.shape != (len(density.names),) or not np.isfinite(x).all() or u.shape != density.effects:
        refuse("start", f"have {len(density.names)} finite numbers", f"of shape {x.shape}, or not finite")
    return density.joined(jnp.asarray(x), jnp.asarray(u))
