"""Laplace's method over the measurements of one patient: the mode of the posterior, and the curvature there.

    z ~ N(m, H^-1),   H = -d^2 log p(z | y) / dz^2 at the mode m
    log p(y) = log p(y | m) - |m|^2 / 2 - log |H| / 2

Reference: Tierney and Kadane, J Am Stat Assoc 1986;81:82, doi:10.1080/01621459.1986.10478240.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._programs import BRIEFLY, program
from qspjax.fit.twin._history import Table
from qspjax.fit.twin._posterior import AbstractPosterior
from qspjax.fit.twin._prior import Draws, Prior, likelihood

DRAWS = 500
"""The number of draws that stand for the normal distribution."""
STEP = 0.01
"""The step of the differences of slopes that give the curvature."""
FLAT = 1e-3
"""The least curvature along any direction."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mode(AbstractPosterior):
    """A normal distribution about the mode.

    Attributes:
        z: The mode, shape (coordinates,).
        factor: F with F F^T the covariance.
        log_evidence: See `AbstractPosterior`.
        failed: See `AbstractPosterior`.
    """

    z: np.ndarray
    factor: np.ndarray
    log_evidence: float = 0.0
    failed: int = 0

    @classmethod
    def begin(cls, coordinates: int) -> "Mode":
        """Return the prior."""
        return cls(np.zeros(coordinates), np.eye(coordinates))

    @property
    def effective(self) -> float:
        return float(DRAWS)

    def weighed(self) -> tuple[np.ndarray, np.ndarray]:
        return self.drawn(DRAWS, np.random.default_rng(0)), np.full(DRAWS, 1.0 / DRAWS)

    def drawn(self, size: int, random: np.random.Generator) -> np.ndarray:
        return self.z + random.standard_normal((size, self.z.size)) @ self.factor.T

    def updated(self, prior: Prior, table: Table, number: int) -> tuple["Mode", dict[str, np.ndarray]]:
        from scipy.optimize import minimize

        draws, weight = self.weighed()
        found, below = likelihood(prior, draws, table)
        failed = int(np.sum(~np.isfinite(found.new)))

        def height(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = (np.asarray(part)[0] for part in sloped(prior, z[None], table))
            return (-float(value), -slope) if np.isfinite(value) else (1e100, np.zeros_like(z))

        start = self.z if height(self.z)[0] < 1e100 else draws[np.argmax(np.asarray(found.old + found.new))]
        if height(start)[0] == 1e100:
            raise RuntimeError(f"No draw has a likelihood. The first: {prior.why(start[None], table)}")
        mode = minimize(height, start, jac=True, method="BFGS", options={"gtol": 1e-5}).x
        steps = STEP * np.concatenate([np.eye(mode.size), -np.eye(mode.size)])
        _, slopes = sloped(prior, mode + steps, table)
        ahead, behind = np.split(np.asarray(slopes), 2)
        bend = (behind - ahead) / (2.0 * STEP)
        if not np.isfinite(bend).all():
            raise RuntimeError("The posterior has no curvature at its mode, next to which simulations fail.")
        curvature, directions = np.linalg.eigh(0.5 * (bend + bend.T))
        curvature = np.maximum(curvature, FLAT)
        evidence = -height(mode)[0] - 0.5 * float(np.log(curvature).sum())
        below = {name: np.einsum("n,nkr->kr", weight, column) for name, column in below.items()}
        return Mode(mode, directions / np.sqrt(curvature), evidence, failed), below


@functools.partial(program, around=BRIEFLY)
def sloped(prior: Prior, z: Draws, table: Table) -> tuple[Array, Array]:
    """Return the log density of draws, without the constant of the prior, and its slopes, shape (draws, coordinates).

    Args:
        prior: The prior.
        z: The draws, shape (draws, coordinates).
        table: The doses and measurements, all of which count.
    """

    def total(z: Array) -> tuple[Array, Array]:
        found, _ = prior.likelihood(z, table)
        value = found.old + found.new - 0.5 * jnp.sum(z * z, axis=1)
        return jnp.sum(jnp.where(jnp.isfinite(value), value, 0.0)), value

    slope, value = jax.grad(total, has_aux=True)(z)
    return value, slope
