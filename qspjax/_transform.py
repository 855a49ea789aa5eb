"""Transforms of one quantity: the scale on which a parameter is searched, sampled or drawn.

    x = g(theta),  theta = g^-1(x)

A model holds numbers on their natural scale only; a transform belongs to the problem in which they are unknown.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._checks import check_number, concrete, refuse
from qspjax._types import ArrayInput


class AbstractTransform(eqx.Module):
    """A monotone, differentiable function from a natural scale to another one, and back.

    Example:
        >>> import qspjax as qsp
        >>> transform = qsp.Log()
        >>> transform.forward(1.0), transform.inverse(0.0), transform.log_det(1.0)
        (Array(0., dtype=float64), Array(1., dtype=float64), Array(0., dtype=float64))
    """

    @abc.abstractmethod
    def forward(self, natural: ArrayInput) -> Array:
        """Return x = g(theta); not finite outside the domain."""

    @abc.abstractmethod
    def inverse(self, transformed: ArrayInput) -> Array:
        """Return theta = g^-1(x)."""

    @abc.abstractmethod
    def log_det(self, natural: ArrayInput) -> Array:
        """Return log |d theta / d x| at theta: what a density on the natural scale gains on the other one."""


class Identity(AbstractTransform):
    """No transform, x = theta.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Identity().forward(-2.0))
        -2.0
    """

    def forward(self, natural: ArrayInput) -> Array:
        return jnp.asarray(natural, float)

    def inverse(self, transformed: ArrayInput) -> Array:
        return jnp.asarray(transformed, float)

    def log_det(self, natural: ArrayInput) -> Array:
        return jnp.zeros_like(jnp.asarray(natural, float))


class Log(AbstractTransform):
    """The logarithm, x = ln(theta) / ln(base), for what is positive and known by its order of magnitude.

    Args:
        base: The base; by default e. With `Log(10)` a step of 1 is a decade.

    Raises:
        ValueError: If the base is not greater than 1.

    Example:
        >>> Log(10.0).forward(1000.0).round(6)
        Array(3., dtype=float64)
    """

    base: float = eqx.field(default=math.e, static=True)

    def __check_init__(self) -> None:
        if not self.base > 1.0:
            refuse("base", "be greater than 1", self.base)

    def forward(self, natural: ArrayInput) -> Array:
        return jnp.log(jnp.asarray(natural, float)) / math.log(self.base)

    def inverse(self, transformed: ArrayInput) -> Array:
        return jnp.exp(jnp.asarray(transformed, float) * math.log(self.base))

    def log_det(self, natural: ArrayInput) -> Array:
        return jnp.log(jnp.asarray(natural, float) * math.log(self.base))


class Logit(AbstractTransform):
    """The logit between two bounds, x = ln((theta - lower) / (upper - theta)), for fractions and other bounded numbers.

    Args:
        lower: The lower bound.
        upper: The upper bound.

    Raises:
        ValueError: If the bounds are not numbers in increasing order.

    Example:
        >>> Logit().inverse(0.0)
        Array(0.5, dtype=float64)
    """

    lower: float = 0.0
    upper: float = 1.0

    def __check_init__(self) -> None:
        check_number("lower", self.lower)
        check_number("upper", self.upper)
        lower, upper = concrete(self.lower), concrete(self.upper)
        if lower is not None and upper is not None and not lower < upper:
            refuse("upper", f"be greater than lower ({lower:g})", upper)

    def forward(self, natural: ArrayInput) -> Array:
        natural = jnp.asarray(natural, float)
        return jnp.log(natural - self.lower) - jnp.log(self.upper - natural)

    def inverse(self, transformed: ArrayInput) -> Array:
        return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(jnp.asarray(transformed, float))

    def log_det(self, natural: ArrayInput) -> Array:
        natural = jnp.asarray(natural, float)
        return jnp.log(natural - self.lower) + jnp.log(self.upper - natural) - jnp.log(self.upper - self.lower)
