"""Penalties that keep a network from taking over what the mechanism explains.

    maximise  log p(y | x) + log p(x) - lambda/2 |d|^2 - mu/2 |P d|^2

with d what the term contributes along the simulated trajectories, and P the projection on the span of the mechanism's
sensitivities there.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_minimum
from qspjax.fit._penalty import AbstractPenalty, Trajectories

RIDGE = 1e-8
"""What is added to the squares of sensitivities, relative to their mean, so that alike ones have a projection."""


class Magnitude(AbstractPenalty):
    """A term is to move the states as little as the data allow, relative to the rest of the model.

    $$ \\frac{\\lambda}{2} \\sum_j \\frac{\\sum_i d_{ij}^2}{\\sum_i (f_{ij}^0)^2 + d_{ij}^2} $$

    where d is the difference of the vector field with the term and f^0 without it (where it gives 0), at each state j
    and at each point i: all times of measurements of all subjects, along their simulated trajectories. So each state
    adds the share of the term in the squares of its motion, between 0 and 1.

    Args:
        term: The name of the weights of the term, a part of the model that is called.
        weight: lambda, in units of the log density.

    Raises:
        ValueError: If the weight is negative; from a `Problem`, if it has no such weights.

    Reference: Yin et al., J Stat Mech 2021:124012, doi:10.1088/1742-5468/ac3ae5.

    Example:
        >>> from qspjax.fit import Magnitude
        >>> Magnitude("rate", weight=10.0).term
        'rate'
    """

    term: str = eqx.field(static=True)
    weight: float = eqx.field(default=1.0, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_minimum("weight", self.weight, 0.0)

    def value(self, along: Trajectories) -> Float[Array, ""]:
        contributed, _ = along.contributed(self.term)
        return 0.5 * self.weight * jnp.sum(contributed**2)


class Orthogonal(AbstractPenalty):
    """A term is not to do what other values of the mechanism's numbers could do.

    $$ \\frac{\\mu}{2} |P d|^2, \\quad P = S (S^T S)^{-1} S^T, \\quad S = \\partial f^0 / \\partial \\theta $$

    with d and f^0 as in `Magnitude`, each state of d and S divided by the root of the sum of squares there, and theta
    the free numbers of the problem, on the scale of the search. What is left of the term is orthogonal to the
    sensitivities of the mechanism, so that its numbers keep their meaning.

    Args:
        term: The name of the weights of the term, a part of the model that is called.
        weight: mu, in units of the log density.

    Raises:
        ValueError: If the weight is negative; from a `Problem`, if it has no such weights.

    Reference: Plumlee, J Am Stat Assoc 2017;112:1274, doi:10.1080/01621459.2016.1211016.

    Example:
        >>> from qspjax.fit import Orthogonal
        >>> Orthogonal("rate", weight=10.0).weight
        10.0
    """

    term: str = eqx.field(static=True)
    weight: float = eqx.field(default=1.0, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_minimum("weight", self.weight, 0.0)

    def value(self, along: Trajectories) -> Float[Array, ""]:
        if not along.free:
            return jnp.zeros(())
        contributed, _ = along.contributed(self.term)
        slopes = along.sensitivities(self.term).reshape(along.free, -1)
        squares = slopes @ slopes.T
        ridge = RIDGE * jnp.trace(squares) / along.free + 1e-300
        onto = slopes @ contributed.ravel()
        return 0.5 * self.weight * onto @ jnp.linalg.solve(squares + ridge * jnp.eye(along.free), onto)
