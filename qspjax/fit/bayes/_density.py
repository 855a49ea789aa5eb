"""The posterior as one log density over the whole space R^n, with an exact slope.

A point z holds the parameters, transformed from within their bounds to the whole line, and for a mixed-effects model
the whitened random effects u of all subjects, eta = L u (non-centred):

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
class FitPoint(Protocol):
    """The result of a fit: a `Fit`, or a `MixedFit`."""

    @property
    def x(self) -> np.ndarray: ...


@runtime_checkable
class FitPointWithEffects(Protocol):
    """The result of a fit with random effects: a `MixedFit`."""

    @property
    def x(self) -> np.ndarray: ...

    @property
    def u(self) -> np.ndarray: ...


Start: TypeAlias = FitPoint | Point | float
"""Where a run begins: the result of a fit, or a point on the scale of the search."""


class Density:
    """The log density of a posterior.

    Args:
        problem: A `Problem`, or a `MixedModel`.

    Attributes:
        size: The dimension of z.
        names: The names of what is estimated.
        priors: The priors of the parameters.
        line: The bijection between points of the search and the whole line.

    Raises:
        ValueError: If it is not a problem, or some of its parameters are solved for.

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
        if problem.weights.blocks:
            refuse(
                "problem", "have numbers only to sample", f"one with the weights of `{problem.weights.blocks[0].name}`"
            )
        if isinstance(problem, Mixture):
            refuse("problem", "have no subpopulations", "a mixture")
        self.problem = problem
        self.likelihood = likelihood_of(problem)
        self.names = problem.names
        self.blocks = problem.blocks if isinstance(problem, MixedModel) else ()
        self.priors = [_priors.ParameterPrior(name, free) for name, free in problem.free.items()]
        infinite = np.full(len(self.names) - len(self.priors), np.inf)
        self.line = Line(
            np.concatenate([[prior.lower for prior in self.priors], -infinite]),
            np.concatenate([[prior.upper for prior in self.priors], infinite]),
        )
        self.effects = self.likelihood.effects
        self.size = len(self.names) + math.prod(self.effects)
        self.log_likelihood = self._made_likelihood()

    @property
    def start(self) -> Array:
        """The start of the problem, with random effects of zero."""
        return self.packed(jnp.asarray(self.problem.start, float), jnp.zeros(self.effects))

    @property
    def proper(self) -> bool:
        """Whether the prior is a probability density that can be drawn from."""
        return all(prior.proper for prior in self.priors)

    def packed(self, x: Array, u: Array) -> Array:
        """Return the point z of parameters x on the scale of the search and random effects u."""
        return jnp.concatenate([self.line.from_point(x), jnp.ravel(u)])

    def parts(self, z: Array) -> tuple[Array, Array]:
        """Return the parameters x on the scale of the search and the random effects u, (subjects, effects)."""
        count = len(self.names)
        return self.line.point(z[:count]), z[count:].reshape(self.effects)

    def log_prior_of(self, x: Array) -> Array:
        """Return the log density of the prior of x, on the scale of the search."""
        total = jnp.zeros(())
        for k, prior in enumerate(self.priors):
            total += prior.log_density(x[k])
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
        parameters = [prior.from_normal(normal[k])[None] for k, prior in enumerate(self.priors)]
        omega = [_priors.drawn(block.random, key) for block, key in zip(self.blocks, for_blocks, strict=True)]
        return self.packed(jnp.concatenate([*parameters, *omega]), jax.random.normal(for_u, self.effects))

    def simulated(self, z: Array, key: Array) -> list[Array]:
        """Return measurements drawn at z, output by output, NaN where a simulation fails."""
        predictors, succeeded = self.likelihood.predictors(*self.parts(z))
        measured = draws(self.likelihood.rows, key, predictors)
        return [jnp.where(succeeded, values, jnp.nan) for values in measured]

    def pointwise(self, z: Array) -> list[Array]:
        """Return the log likelihood of each measurement at z, output by output."""
        return log_densities(self.likelihood.rows, self.likelihood.predictors(*self.parts(z))[0])

    def natural(self, z: Array) -> dict[str, Array]:
        """Return the natural values at z: those of `names`, and for random effects their covariance and the etas."""
        x, u = self.parts(z)
        natural = {"natural": self.problem.natural(x)}
        if isinstance(self.problem, MixedModel):
            natural |= {"covariance": self.problem.covariance(x), "etas": u @ self.problem.factor(x).T}
        return natural

    def _made_likelihood(self) -> Callable[..., Array]:
        """Return the log likelihood as a function of z, -inf where it fails, with its own derivative rule."""
        likelihood = self.likelihood

        @jax.custom_jvp
        def log_likelihood(z: Array, values: Values = None) -> Array:
            predictors, succeeded = likelihood.predictors(*self.parts(z))
            densities = log_densities(measured(likelihood.rows, values), predictors)
            value = jnp.sum(jnp.stack([jnp.sum(density) for density in densities]))
            return jnp.where(succeeded & jnp.isfinite(value), value, -jnp.inf)

        @log_likelihood.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
            z, values = primals
            x, u = self.parts(z)
            value, slope_x, slope_u, succeeded = likelihood.slopes(x, u, values)
            _, pullback = jax.vjp(self.parts, z)
            (slope,) = pullback((slope_x, slope_u))
            valid = succeeded & jnp.isfinite(value) & jnp.isfinite(slope).all()
            return jnp.where(valid, value, -jnp.inf), jnp.where(valid, slope, 0.0) @ tangents[0]

        return log_likelihood


def starts(density: Density, start: Start | None, count: int, jitter: float, key: Key) -> np.ndarray:
    """Return the points where chains begin: normal about a point, closer to it if nothing can be simulated.

    Args:
        density: The posterior.
        start: The point on the scale of the search, shape (names,); a fit; or None for the start of the problem.
        count: The number of chains.
        jitter: The standard deviation.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If the point has a wrong shape.
        RuntimeError: If the density cannot be computed there; the message says why.
    """
    middle = np.asarray(density.start if start is None else placed(density, start))
    offset = jitter * generator(key).standard_normal((count, density.size))
    program = quickly_compiled(jax.vmap(density), short=True)
    points = middle + offset
    for _ in range(8):
        failed = ~np.isfinite(np.asarray(program(jnp.asarray(points))))
        if not failed.any():
            return points
        offset = np.where(failed[:, None], 0.3 * offset, offset)
        points = middle + offset
    x, u = (np.asarray(part) for part in density.parts(jnp.asarray(middle)))
    problem = density.problem
    reasons = problem.failures(x, u) if isinstance(problem, MixedModel) else problem.failures(x)
    raise RuntimeError(
        f"No chain can begin at the start. {' '.join(reasons[:3]) or 'The density is not finite there.'}"
    )


def placed(density: Density, start: Start) -> Array:
    """Return the point z of a fit, or of a point on the scale of the search."""
    if isinstance(start, FitPoint):
        x, u = np.asarray(start.x, float), np.zeros((0, 0))
        if density.blocks and isinstance(start, FitPointWithEffects):
            u = np.asarray(start.u, float)
    else:
        x, u = np.asarray(start, float), np.zeros(density.effects)
    if x.shape != (len(density.names),) or not np.isfinite(x).all() or u.shape != density.effects:
        refuse("start", f"have {len(density.names)} finite numbers", f"of shape {x.shape}, or not finite")
    return density.packed(jnp.asarray(x), jnp.asarray(u))
