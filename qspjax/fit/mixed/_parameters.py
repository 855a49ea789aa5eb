"""What is estimated of a population, as points of a search: parameters, the covariance Omega, weights of networks."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

from qspjax._transform import AbstractTransform, Identity, Log, Logit
from qspjax.fit._free import Free, log_priors, natural_values
from qspjax.fit._frozen import settle
from qspjax.fit._types import Point, Vector
from qspjax.fit._weights import Blocks
from qspjax.fit.mixed._occasions import Block


def share_label(subpopulation: str) -> str:
    """Return the name of the probability of a subpopulation."""
    return f"P({subpopulation})"


@dataclasses.dataclass(frozen=True, eq=False)
class PopulationParameters:
    """Parameters, then the elements of Omega, then all weights, in the order of a point x.

    Attributes:
        free: What is estimated of the parameters, by name.
        fixed: The values of the others.
        blocks: The blocks of random effects, with their indices.
        weights: The weights that are estimated.
        subpopulations: The names of those of a mixture: the last of the free parameters are then log(pi_k / pi_K), the
            logarithms of the ratios of their probabilities to that of the last one.
        start: The point at which a search begins.
        bounds: The least and the greatest point.
    """

    free: Mapping[str, Free]
    fixed: Mapping[str, float]
    blocks: tuple[Block, ...]
    weights: Blocks
    subpopulations: tuple[str, ...] = ()
    start: Float[np.ndarray, " parameters"] = dataclasses.field(init=False)
    bounds: tuple[Float[np.ndarray, " parameters"], Float[np.ndarray, " parameters"]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        thetas = np.array([float(free.transform.forward(free.start)) for free in self.free.values()], float)
        omegas = np.concatenate([np.zeros(0), *(block.random.point() for block in self.blocks)])
        lower, upper = np.array([free.searched_bounds() for free in self.free.values()], float).reshape(-1, 2).T
        infinite = np.full(omegas.size + self.weights.size, np.inf)
        settle(self, start=np.concatenate([thetas, omegas, self.weights.start]))
        settle(self, bounds=(np.concatenate([lower, -infinite]), np.concatenate([upper, infinite])))

    @property
    def shares(self) -> tuple[str, ...]:
        """The names of the probabilities that are estimated."""
        return tuple(share_label(name) for name in self.subpopulations[:-1])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is estimated: the numbers, and then each weight."""
        return (*self.numbers, *self.weights.labels)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of the numbers that are estimated: free parameters, and elements of Omega."""
        return (*self.free, *(label for block in self.blocks for label in block.random.labels()))

    def split(self, x: Point) -> tuple[Vector, Float[Array, " weights"]]:
        """Return the numbers and the weights of a point."""
        x = jnp.asarray(x, float)
        end = x.size - self.weights.size
        return x[:end], x[end:]

    def log_shares(self, x: Point) -> Float[Array, " subpopulations"]:
        """Return the logarithms of the probabilities of the subpopulations at a point."""
        end = len(self.free)
        ratios = jnp.asarray(x, float)[end - len(self.shares) : end]
        return jax.nn.log_softmax(jnp.append(ratios, 0.0))

    def values(self, x: Point) -> dict[str, Float[Array, ""]]:
        """Return the natural values of all parameters at a point, by name."""
        natural = natural_values([*self.free.values()], jnp.asarray(x, float)[: len(self.free)])
        values = {name: natural[i] for i, name in enumerate(self.free)}
        values |= {name: jnp.asarray(value, float) for name, value in self.fixed.items()}
        if self.subpopulations:
            shares = jnp.exp(self.log_shares(x))
            values |= {name: shares[k] for k, name in enumerate(self.shares)}
        return values

    def factor(self, x: Point) -> Float[Array, "effects effects"]:
        """Return the lower Cholesky factor of Omega at a point."""
        x = jnp.asarray(x, float)
        factors = [block.random.factor(x[block.point]) for block in self.blocks for _ in block.effects]
        return jax.scipy.linalg.block_diag(*factors)

    def covariance(self, x: Point) -> Float[Array, "effects effects"]:
        """Return Omega at a point."""
        factor = self.factor(x)
        return factor @ factor.T

    def natural(self, x: Point) -> Vector:
        """Return the natural values of what is estimated, in the order of `names`."""
        values, omega = self.values(x), self.covariance(x)
        pieces = [jnp.stack([values[name] for name in self.free])] if self.free else []
        pieces += [block.random.elements(omega[block.effects[0], block.effects[0]]) for block in self.blocks]
        return jnp.concatenate([*pieces, self.split(x)[1]])

    def scales(self, x: Point) -> tuple[AbstractTransform, ...]:
        """Return the scale on which uncertainty about each of `names` is symmetric: see `Free`, and of Omega

        log var,   atanh(cov / (sd sd'))

        the logit of probabilities, and for weights their values.
        """
        natural, omega = np.asarray(self.natural(x)), np.asarray(self.covariance(x))
        scales: list[AbstractTransform] = [
            Logit() if name in self.shares else free.scale(float(natural[k]))
            for k, (name, free) in enumerate(self.free.items())
        ]
        for block in self.blocks:
            sd = np.sqrt(np.diag(omega[block.effects[0], block.effects[0]]))
            rows, columns = np.tril_indices(sd.size, -1)
            labels = len(block.random.labels())
            scales += [Log()] * min(labels, sd.size)
            if labels > sd.size:
                scales += [Logit(-greatest, greatest) for greatest in sd[rows] * sd[columns]]
        return (*scales, *[Identity()] * self.weights.size)

    def log_prior(self, x: Point) -> Float[Array, ""]:
        """Return the log density of the priors of parameters and weights at a point."""
        x, free = jnp.asarray(x, float), [*self.free.values()]
        of_weights = self.weights.log_prior(self.split(x)[1])
        return of_weights + (log_priors(free, natural_values(free, x[: len(free)])) if free else 0.0)

    def prior(
        self, x: Point
    ) -> tuple[Float[np.ndarray, ""], Float[np.ndarray, " parameters"], Float[np.ndarray, "parameters parameters"]]:
        """Return the log density of the priors at a point, its slope and its second derivative."""
        x = jnp.asarray(x, float)
        if all(parameter.prior is None for parameter in (*self.free.values(), *self.weights.blocks)):
            return np.zeros(()), np.zeros(x.size), np.zeros((x.size, x.size))
        value, slope, curvature = self._prior_program(x)
        return np.asarray(value), np.asarray(slope), np.asarray(curvature)

    @cached_property
    def _prior_program(self) -> Callable[[Vector], tuple[Array, Array, Array]]:
        def derivatives(x: Vector) -> tuple[Array, Array, Array]:
            value, slope = jax.value_and_grad(self.log_prior)(x)
            curvature = jax.jvp(jax.grad(self.log_prior), (x,), (jnp.ones_like(x),))[1]  # each has its own prior
            return value, slope, jnp.diag(curvature)

        return jax.jit(derivatives)
