"""A Gaussian process with a quadratic trend, fitted as `population._plausible._emulator` says, as a function of JAX.

Its errors are those at each point, as all others predict it, which have a closed form.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import check_whole
from qspjax._types import Key
from qspjax.population._plausible._emulator import Emulator, fitted
from qspjax.surrogate._contract import AbstractEmulator, AbstractPredictor, Learnt


class GaussianProcess(AbstractEmulator):
    """A Gaussian process: learns most from few simulations of smooth outputs; its cost grows with their number cubed.

    Args:
        most: The maximum number of simulations that it learns from: the first, and the latest ones.

    Reference: Dubrule, J Int Assoc Math Geol 1983;15:687, doi:10.1007/BF01033232.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.GaussianProcess().most
        1024
    """

    most: int = eqx.field(default=1024, static=True)

    def __check_init__(self) -> None:
        check_whole("most", self.most, 8)

    def learn(self, points: np.ndarray, values: np.ndarray, even: np.ndarray, key: Key) -> Learnt:
        count = len(points)
        rows = np.arange(count)
        if count > self.most:
            first = self.most // 2
            rows = np.concatenate([rows[:first], rows[count - (self.most - first) :]])
        emulator = fitted(points[rows], values[rows])
        return Learnt(Process.of(emulator), values[rows] - emulator.left_out, emulator.left_out_sd, rows)


class Process(AbstractPredictor):
    """A fitted process; the attributes are those of `Emulator`, and the `factors` of its `Terms`."""

    points: np.ndarray
    length: np.ndarray
    nugget: np.ndarray
    factor: np.ndarray
    trend: np.ndarray
    triangle: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray
    spread: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, emulator: Emulator) -> "Process":
        """Return a fitted emulator as a function of JAX."""
        alike = ("points", "factor", "trend", "triangle", "slopes", "weights", "spread")
        numbers = {name: np.asarray(getattr(emulator, name)) for name in ("length", "nugget")}
        arrays = {name: getattr(emulator, name) for name in alike}
        return cls(**arrays, **numbers, factors=emulator.terms.factors)

    def mean(self, points: Array) -> Array:
        return self._terms(points) @ self.slopes + self._correlation(points) @ self.weights

    def deviation(self, points: Array) -> Array:
        solve = jax.scipy.linalg.solve_triangular
        explained = solve(jnp.asarray(self.factor), self._correlation(points).T, lower=True)
        added = solve(jnp.asarray(self.triangle), self._terms(points).T - self.trend.T @ explained, trans=1)
        variance = 1.0 + self.nugget - jnp.sum(explained**2, axis=0) + jnp.sum(added**2, axis=0)
        return jnp.sqrt(jnp.maximum(variance, 1e-12))[:, None] * self.spread

    def _terms(self, points: Array) -> Array:
        x = jnp.concatenate([jnp.ones((len(points), 1)), 2.0 * points - 1.0], axis=1)
        return x[:, self.factors[0]] * x[:, self.factors[1]]

    def _correlation(self, points: Array) -> Array:
        scale = jnp.sqrt(5.0) / self.length
        first, second = points * scale, self.points * scale
        squares = jnp.sum(first**2, axis=1)[:, None] + jnp.sum(second**2, axis=1) - 2.0 * first @ second.T
        r = jnp.sqrt(jnp.maximum(squares, 1e-30))  # not 0, where the root has no slope
        return (1.0 + r + r * r / 3.0) * jnp.exp(-r)
