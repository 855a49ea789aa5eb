"""Priors as densities on the scale of the search.

A prior of the natural value theta = g^-1(x) becomes one of x by the Jacobian,

    log p(x) = log p(theta) + log |d theta / dx|

and the covariance of a block of random effects, Omega = D C D with standard deviations D and correlations C, has

    p(Omega) = prod p(sd_i) LKJ(C),   LKJ(C) ~ |C|^(eta - 1)

Reference: Lewandowski, Kurowicka and Joe, J Multivar Anal 2009;100:1989, doi:10.1016/j.jmva.2009.04.008.
"""

import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, multigammaln
from jaxtyping import Array

from qspjax._checks import ArgumentError
from qspjax._distribution import AbstractDistribution, LogNormal, Normal, Truncated, Uniform
from qspjax._types import Scalar
from qspjax.fit._free import Free
from qspjax.fit.mixed._random import RandomEffects


class ParameterPrior:
    """The prior of one parameter on the scale of the search, within its bounds.

    A distribution is truncated to the bounds; without a prior it is uniform between them, on the scale of the search.

    Args:
        name: The parameter.
        free: Its bounds, transform and prior.

    Attributes:
        lower: The least point that has a density.
        upper: The greatest.
        proper: Whether it is a probability density that can be drawn from.
    """

    def __init__(self, name: str, free: Free) -> None:
        self.name, self.free = name, free
        self.law = None
        lower, upper = (float(edge) for edge in free.searched_bounds())
        if isinstance(free.prior, AbstractDistribution):
            ends = (lower, upper) if free.prior_scaled else (free.lower, free.upper)
            least, most = _support(free.prior)
            ends = max(ends[0], least), min(ends[1], most)
            if not ends[0] < ends[1]:
                raise ArgumentError("prior", f"must have a density within the bounds of `{name}`, but has none.")
            self.law = Truncated(free.prior, *ends)
            lower, upper = ends if free.prior_scaled else (float(free.transform.forward(edge)) for edge in ends)
        self.lower, self.upper = lower, upper
        self.proper = self.law is not None or (free.prior is None and bool(np.isfinite([lower, upper]).all()))

    def log_density(self, x: Array) -> Array:
        """Return the log density at a point of the search; where it is not proper, without its constant."""
        free = self.free
        if free.prior is None:
            return jnp.zeros(()) - (math.log(self.upper - self.lower) if self.proper else 0.0)
        density = self.law.log_prob if self.law is not None else cast(Callable[[Array], Scalar], free.prior)
        if free.prior_scaled:
            return jnp.asarray(density(x), float)
        natural = free.transform.inverse(x)
        return jnp.asarray(density(natural), float) + free.transform.log_det(natural)

    def from_normal(self, normal: Array) -> Array:
        """Return the point that corresponds to a standard normal variate."""
        if not self.proper:
            must = f"must have a distribution, or no prior but bounds, to be drawn from, but that of `{self.name}` has "
            raise ArgumentError("prior", must + ("neither." if self.free.prior is None else "a function."))
        if self.law is None:
            return self.lower + (self.upper - self.lower) * jax.scipy.special.ndtr(normal)
        value = self.law.from_normal(normal)
        return value if self.free.prior_scaled else self.free.transform.forward(value)


def _support(law: AbstractDistribution) -> tuple[float, float]:
    if isinstance(law, Uniform):
        return float(law.low), float(law.high)
    if isinstance(law, LogNormal):
        return 0.0, math.inf
    if isinstance(law, Truncated):
        least, most = _support(law.distribution)
        return max(least, float(law.low)), min(most, float(law.high))
    return -math.inf, math.inf


def deviation_law(block: RandomEffects) -> AbstractDistribution:
    """Return the prior of each standard deviation of a block; by default half-normal with scale 1."""
    return Truncated(Normal(0.0, sd=1.0) if block.sd_prior is None else block.sd_prior, 0.0)


def log_density(block: RandomEffects, x: Array) -> Array:
    """Return the log density of the covariance of a block, for its point on the scale of the search.

    With the rows of the Cholesky factor in polar coordinates, L_ij = sd_i C_ij, the Jacobian is the product of

        prod_i sd_i^-i C_ii  (rows from 0)  and that of the logarithms of the diagonal, prod_i L_ii

    Args:
        block: The block.
        x: The logarithms of the diagonal of L, then what is below it, shape (size,).
    """
    if block.fixed:
        return jnp.zeros(())
    count = len(block.names)
    if not block.full:
        return jnp.sum(deviation_law(block).log_prob(jnp.exp(x)) + x)
    log_sd = 0.5 * jnp.log(jnp.sum(block.factor(x) ** 2, axis=1))
    density = jnp.sum(deviation_law(block).log_prob(jnp.exp(log_sd)) + x[:count])
    row = np.arange(count)
    log_diagonal = x[:count] - log_sd
    weight = np.where(row > 0, count - row + 2.0 * (block.lkj - 1.0), 0.0)
    return density + jnp.sum(weight * log_diagonal - row * log_sd) - _log_constant(count, block.lkj)


def _log_constant(count: int, lkj: float) -> Array:
    """Return the logarithm of the integral of |C|^(lkj - 1)."""
    if count == 1:
        return jnp.zeros(())
    others = count - 1
    alpha = lkj + 0.5 * others
    return 0.5 * others * math.log(math.pi) + multigammaln(alpha - 0.5, others) - others * gammaln(alpha)


def drawn(block: RandomEffects, key: Array) -> Array:
    """Return a draw from the prior of the covariance of a block, on the scale of the search, shape (size,)."""
    if block.fixed:
        return jnp.zeros(0)
    count = len(block.names)
    for_sd, for_length, for_direction = jax.random.split(key, 3)
    sd = deviation_law(block).from_normal(jax.random.normal(for_sd, (count,)))
    if not block.full:
        return jnp.log(sd)
    row = np.arange(1, count)
    length = jax.random.beta(for_length, 0.5 * row, block.lkj + 0.5 * (count - 1 - row))
    direction = jnp.tril(jax.random.normal(for_direction, (count, count)), -1)[1:]
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True) * jnp.sqrt(length)[:, None]
    below = sd[:, None] * jnp.concatenate([jnp.zeros((1, count)), direction])
    diagonal = jnp.log(sd) + 0.5 * jnp.concatenate([jnp.zeros(1), jnp.log1p(-length)])
    return jnp.concatenate([diagonal, below[np.tril_indices(count, -1)]])
