"""The likelihood of each subject itself: its random effects are integrated out numerically.

    p(y) = int p(y | u) phi(u) du = |C| E[exp(-l(u* + C z) / 2) / q(z)],   l(u) = -2 log p(y | u) + u^T u + E log 2 pi

about the mode u*, with C C^T the inverse of the second derivative of l / 2 there: by adaptive Gauss-Hermite quadrature,
exact in the limit of many points, if there are few effects, or by importance sampling if there are many.

References: Pinheiro and Bates, J Comput Graph Stat 1995;4:12, doi:10.2307/1390625; Geweke, Econometrica 1989;57:1317,
doi:10.2307/1913710.
"""

import abc
import itertools
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from qspjax._checks import check_above, check_whole, refuse
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._types import Point
from qspjax.fit.mixed._conditional import conditional, observed_information, twice_and_effects
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.mixed._modes import modes
from qspjax.fit.mixed._parts import SHARED, on_all_cores
from qspjax.fit.mixed._symmetric import backward, factorised
from qspjax.fit.search._search import quickly_compiled

MOST_POINTS = 100_000
LANES = 16_384
"""Simulations that run side by side."""


class Marginal(NamedTuple):
    """Likelihoods in which the random effects are integrated out.

    Attributes:
        objective: -2 log L without the constant n log 2 pi of normal measurements.
        subject_objectives: The part of each subject, shape (subjects,).
        standard_error: That of the objective, from the spread of the weights; 0 for a quadrature.
        reasons: Which subjects have no likelihood, so that the objective is not finite, and why.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> found = marginal(mixed, mixed.start, Quadrature(5))
        >>> bool(np.isfinite(found.objective))
        True
    """

    objective: float
    subject_objectives: np.ndarray
    standard_error: float
    reasons: tuple[str, ...] = ()


class AbstractIntegral(eqx.Module):
    """How random effects are integrated out.

    Example:
        >>> isinstance(Quadrature(7), AbstractIntegral)
        True
    """

    @abc.abstractmethod
    def points(self, effects: int) -> tuple[np.ndarray, np.ndarray]:
        """Return points z, shape (points, effects), and the logarithm of weight over density, shape (points,)."""

    @abc.abstractmethod
    def is_random(self) -> bool:
        """Whether the points are random, so that the result has a standard error."""


class Quadrature(AbstractIntegral):
    """Adaptive Gauss-Hermite quadrature, a grid of size^effects points; one point is Laplace's method.

    Args:
        size: The number of points for each effect.

    Raises:
        ValueError: If there are more than 100,000 points.

    Example:
        >>> from qspjax.fit import Quadrature
        >>> Quadrature(3).points(2)[0].shape
        (9, 2)
    """

    size: int = eqx.field(default=7, static=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 1)

    def points(self, effects: int) -> tuple[np.ndarray, np.ndarray]:
        if self.size**effects > MOST_POINTS:
            refuse("size", f"give at most {MOST_POINTS:,} points", f"{self.size}^{effects}")
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.size)
        z = np.array([*itertools.product(nodes, repeat=effects)]).reshape(-1, effects)
        logs = np.array([*itertools.product(np.log(weights), repeat=effects)]).reshape(-1, effects)
        return z, logs.sum(axis=1) + 0.5 * (z**2).sum(axis=1)

    def is_random(self) -> bool:
        return False


class ImportanceSampling(AbstractIntegral):
    """Importance sampling from a multivariate t distribution about the mode, at scrambled Sobol points.

    Args:
        samples: The number of points, preferably a power of two.
        df: Degrees of freedom; the fewer, the farther points reach into the tails.
        key: `jax.random.key(seed)`, for the scrambling.

    Example:
        >>> import jax
        >>> from qspjax.fit import ImportanceSampling
        >>> ImportanceSampling(1024, key=jax.random.key(0)).points(3)[0].shape
        (1024, 3)
    """

    samples: int = eqx.field(default=1024, static=True)
    df: float = eqx.field(default=6.0, static=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        check_whole("samples", self.samples, 2)
        check_above("df", self.df, 0.0)
        check_key(self.key)

    def points(self, effects: int) -> tuple[np.ndarray, np.ndarray]:
        from scipy import stats

        uniform = stats.qmc.Sobol(effects + 1, rng=generator(self.key)).random(self.samples)
        uniform = np.clip(uniform, 1e-12, 1.0 - 1e-12)
        spread = np.sqrt(self.df / stats.chi2(self.df).ppf(uniform[:, -1]))
        z = stats.norm.ppf(uniform[:, :-1]) * spread[:, None]
        law = stats.multivariate_t(np.zeros(effects), np.eye(effects), df=self.df)  # pyright: ignore[reportArgumentType]
        density = law.logpdf(z)
        return z, -np.log(self.samples) - np.asarray(density).reshape(-1)

    def is_random(self) -> bool:
        return True


def marginal(mixed: AbstractMixed, x: Point, method: AbstractIntegral | None = None) -> Marginal:
    """Return the likelihood at a point, with the random effects integrated out.

    Args:
        mixed: The model and the data.
        x: The point, on the scale of the search, such as `fit.x`.
        method: `Quadrature(points)` (the default) or `ImportanceSampling(samples, key=...)`.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Experiment, Free, Measurements, MixedModel, Output, Quadrature, RandomEffects, marginal,
        ... )
        >>> data = Measurements([1.0, 8.0], [9.1, 4.6], output="concentration")
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {"one": Experiment(data, qsp.bolus(300.0, to="central"))},
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.0)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> coarse, fine = (marginal(mixed, mixed.start, Quadrature(n)).objective for n in (5, 15))
        >>> abs(coarse - fine) < 1e-4
        True
    """
    method = Quadrature() if method is None else method
    x, copies = jnp.asarray(x, float), mixed.copies
    about = copies.program("about the modes", lambda: quickly_compiled(partial(_about, copies), short=True))
    result = integrated(mixed, x, *about(x), method)
    failed = ~np.isfinite(result.subject_objectives)
    return result._replace(reasons=mixed.reasons(failed, x)) if failed.any() else result


def integrated(
    mixed: AbstractMixed,
    x: Point,
    u: Float[Array, "copies effects"],
    spread: Float[Array, "copies effects effects"] | Float[np.ndarray, "copies effects effects"],
    method: AbstractIntegral,
) -> Marginal:
    """Return the likelihood at a point, integrated over points about the modes.

    Args:
        mixed: The model and the data.
        x: The point.
        u: The modes of all copies, shape (copies, effects).
        spread: C, with C C^T the approximate covariance of u given the data, shape (copies, effects, effects).
        method: The integral.
    """
    copies = mixed.copies
    z, logs = method.points(len(copies.effects))
    objectives_at = on_all_cores(
        copies,
        "at points",
        lambda part: jax.vmap(partial(twice_and_effects, part), in_axes=(None, 0)),
        (SHARED, 1),
        1,
    )
    chunk = min(max(1, LANES // copies.count), len(z))
    padded = np.concatenate([z, np.zeros((-len(z) % chunk, z.shape[1]))])
    parts = [
        np.asarray(objectives_at(x, u[None] + jnp.einsum("nab,kb->kna", spread, jnp.asarray(padded[k : k + chunk]))))
        for k in range(0, len(padded), chunk)
    ]
    terms = -0.5 * np.concatenate(parts)[: len(z)] + logs[:, None]
    terms -= 0.5 * z.shape[1] * np.log(2.0 * np.pi)
    total = np.asarray(logsumexp(terms, axis=0))
    values = -2.0 * (total + np.linalg.slogdet(np.asarray(spread))[1])
    with np.errstate(invalid="ignore"):  # a subject without a likelihood has no shares
        shares = np.exp(terms - total)
    scatter = 4.0 * ((shares**2).sum(axis=0) - 1.0 / len(z)) if method.is_random() else np.zeros(copies.count)
    if isinstance(mixed, Mixture):
        values, shares = (np.asarray(part) for part in mixed.joined(x, values))
        scatter = (shares.T**2 * scatter.reshape(shares.T.shape)).sum(axis=0)
    error = float(np.sqrt(scatter.sum()))
    return Marginal(float(values.sum()), values, error)


def _about(mixed: MixedModel, x: Array) -> tuple[Array, Array]:
    """Return the modes and C."""
    u = modes(mixed, x, jnp.zeros((mixed.count, len(mixed.effects)))).u
    expansion = mixed.expanded(x, u, 2)
    unit = jnp.eye(u.shape[1])
    exact = factorised(observed_information(mixed, x, u, expansion, None) + unit)
    expected = factorised(conditional(mixed, x, u, expansion, None).information + unit)
    root = jnp.where(exact.positive[..., None, None], exact.root, expected.root)
    return u, backward(root, unit)
