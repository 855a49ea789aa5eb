"""Random effects: blocks of normal variables, each with a covariance to be estimated.

A block is searched by the Cholesky factor of its covariance, Omega = L L^T, with the logarithms of its diagonal: every
point of the search is a valid covariance, and a variance may come arbitrarily close to zero.

Reference: Pinheiro and Bates, Stat Comput 1996;6:289, doi:10.1007/BF00140873.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import ArgumentError, check_above, check_finite, check_instance, check_number, refuse
from qspjax._distribution import AbstractDistribution
from qspjax.fit._frozen import settle
from qspjax.fit._types import Numbers


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class RandomEffects:
    """A block of random effects, normal with mean 0 and their own covariance.

    Args:
        effects: The variance of one effect or of several independent ones by name, with which the search begins; or
            names, with a `covariance`.
        covariance: The covariance of the effects, shape (names, names): all of its elements are estimated.
        fixed: Whether the covariance is known.
        occasion: The covariate that gives the occasion: effects then differ between occasions (inter-occasion
            variability).
        sd_prior: The prior of each standard deviation, only for `fit.sample`: a distribution, which is truncated below
            at 0; by default half-normal with scale 1, wide for effects that enter as exp(eta).
        lkj: The concentration of the prior of their correlations, only for `fit.sample`: 1 is uniform
            over all correlation matrices; greater values favour weak correlations.

    Attributes:
        names: The names.
        start: The covariance at the start.
        full: Whether the effects are correlated.

    Raises:
        ValueError: If a variance is not positive, or a covariance not symmetric and positive definite.

    Example:
        >>> from qspjax.fit import RandomEffects
        >>> RandomEffects({"eta_ka": 0.4}).names
        ('eta_ka',)
        >>> RandomEffects({"kappa_CL": 0.05}, occasion="OCC").occasion
        'OCC'
        >>> RandomEffects(["eta_CL", "eta_V"], [[0.07, 0.01], [0.01, 0.02]]).size
        3
    """

    names: tuple[str, ...]
    start: Float[np.ndarray, "names names"]
    full: bool
    fixed: bool
    occasion: str | None
    sd_prior: AbstractDistribution | None
    lkj: float

    def __init__(
        self,
        effects: Mapping[str, float] | Sequence[str],
        covariance: Numbers | None = None,
        *,
        fixed: bool = False,
        occasion: str | None = None,
        sd_prior: AbstractDistribution | None = None,
        lkj: float = 2.0,
    ) -> None:
        """Check the covariance."""
        if sd_prior is not None:
            check_instance("sd_prior", sd_prior, AbstractDistribution, "a distribution such as Normal(0.0, sd=0.5)")
        check_number("lkj", lkj)
        check_above("lkj", lkj, 0.0)
        names = tuple(effects)
        if not names:
            raise ArgumentError("effects", "must name one effect or several, but are empty.")
        if len(set(names)) < len(names):
            refuse("effects", "have names of their own", ", ".join(names))
        if isinstance(effects, Mapping) and covariance is None:
            start = _variances(effects)
        elif covariance is not None and not isinstance(effects, Mapping):
            start = _covariance(names, covariance)
        else:
            must = "must be variances by name, or names and a covariance, but are neither or both."
            raise ArgumentError("effects", must)
        settle(self, names=names, start=start, full=covariance is not None)
        settle(self, fixed=fixed, occasion=occasion, sd_prior=sd_prior, lkj=float(lkj))

    @property
    def size(self) -> int:
        """The number of parameters of the covariance, 0 if it is fixed."""
        count = len(self.names)
        return 0 if self.fixed else count * (count + 1) // 2 if self.full else count

    def point(self) -> Float[np.ndarray, " size"]:
        """Return the start on the scale of the search."""
        return np.zeros(0) if self.fixed else self.point_of(self.start)

    def point_of(self, covariance: Float[np.ndarray, "names names"]) -> Float[np.ndarray, " size"]:
        """Return a covariance on the scale of the search."""
        factor = np.linalg.cholesky(covariance)
        diagonal = np.log(np.diag(factor))
        return np.concatenate([diagonal, factor[np.tril_indices(len(self.names), -1)]]) if self.full else diagonal

    def factor(self, x: Float[Array, " size"]) -> Float[Array, "names names"]:
        """Return the lower Cholesky factor at a point of the search."""
        count = len(self.names)
        if self.fixed:
            return jnp.asarray(np.linalg.cholesky(self.start))
        factor = jnp.diag(jnp.exp(x[:count]))
        return factor.at[np.tril_indices(count, -1)].set(x[count:]) if self.full else factor

    def labels(self) -> tuple[str, ...]:
        """Return names for the estimated elements of the covariance: variances, then covariances."""
        variances = tuple(f"var({name})" for name in self.names)
        if self.fixed or not self.full:
            return () if self.fixed else variances
        rows, cols = np.tril_indices(len(self.names), -1)
        pairs = zip(rows, cols, strict=True)
        return (*variances, *(f"cov({self.names[i]}, {self.names[j]})" for i, j in pairs))

    def elements(self, covariance: Float[Array, "names names"]) -> Float[Array, " size"]:
        """Return the elements of a covariance in the order of `labels`."""
        if self.fixed:
            return jnp.zeros((0,), covariance.dtype)
        variances = jnp.diagonal(covariance)
        below = np.tril_indices(len(self.names), -1)
        return jnp.concatenate([variances, covariance[below]]) if self.full else variances


def _variances(effects: Mapping[str, float]) -> Float[np.ndarray, "names names"]:
    for name, value in effects.items():
        check_finite(f'effects["{name}"]', value)
        if not value > 0:
            refuse(f'effects["{name}"]', "be a positive variance", value)
    return np.diag([float(value) for value in effects.values()])


def _covariance(names: tuple[str, ...], covariance: Numbers) -> Float[np.ndarray, "names names"]:
    matrix = np.asarray(covariance, float)
    if matrix.shape != (len(names), len(names)):
        refuse("covariance", f"have shape ({len(names)}, {len(names)})", f"of shape {matrix.shape}")
    check_finite("covariance", matrix)
    wrong = np.argwhere(~np.isclose(matrix, matrix.T, rtol=1e-9, atol=0.0))
    if wrong.size:
        i, j = wrong[0]
        between = f"between `{names[i]}` and `{names[j]}`"
        refuse("covariance", "be symmetric", f"{matrix[i, j]:g} and {matrix[j, i]:g} {between}")
    least = float(np.linalg.eigvalsh(matrix).min())
    if least <= 0:
        raise ArgumentError("covariance", f"must be positive definite, but its least eigenvalue is {least:.3g}.")
    return matrix
