"""Approximations of the likelihood of a subject, in which the random effects u are integrated out.

With l(u) = -2 log p(y | u) + u^T u and its minimum at u*, Laplace's method gives

    -2 log p(y) = l(u*) + log |H / 2|,   H = d^2 l / du^2 at u*

The first-order conditional methods put the expected information into H; first order alone takes u* from one linear step
from 0. All are written in the whitened effects u, eta = L u, where Omega needs no inverse. As in NONMEM the constant
n log 2 pi of normal measurements is left out.

References: Lindstrom and Bates, Biometrics 1990;46:673, doi:10.2307/2532087; Wang, J Pharmacokinet Pharmacodyn
2007;34:575, doi:10.1007/s10928-007-9060-6.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._solution import RESULTS
from qspjax.fit.mixed._conditional import (
    conditional,
    observed_information,
    predictors_of,
    twice_of,
)
from qspjax.fit.mixed._individuals import Expansion
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._symmetric import factorised

ITERATIONS = 200
"""Maximum number of iterations of a search, by default."""


class AbstractApproximation(eqx.Module):
    """How the likelihood of a subject is approximated.

    Attributes:
        conditional: Whether it is expanded about the mode of the random effects instead of zero.
        interaction: Whether the standard deviation of a measurement depends on the random effects.

    Example:
        >>> isinstance(FOCEI(), AbstractApproximation)
        True
    """

    conditional: eqx.AbstractClassVar[bool]
    interaction: eqx.AbstractClassVar[bool]

    @property
    def iterations(self) -> int:
        """Maximum number of iterations of a search, by default."""
        return ITERATIONS

    @abc.abstractmethod
    def order(self, mixed: MixedModel) -> int:
        """Return the order of the derivatives of the simulations in the objective."""

    @abc.abstractmethod
    def objective(
        self, mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
    ) -> Array:
        """Return -2 log p(y) of each subject, shape (subjects,); arguments as in `predictors_of`."""


class FO(AbstractApproximation):
    """First order: the model is linear in the random effects, about zero.

    $$ -2 \\log p(y) = \\log |V| + r^T V^{-1} r, \\quad V = A \\Omega A^T + R, \\quad r = y - f(0) $$

    Example:
        >>> from qspjax.fit import FO
        >>> FO()
        FO()
    """

    conditional: ClassVar[bool] = False
    interaction: ClassVar[bool] = False

    def order(self, mixed: MixedModel) -> int:
        return 1

    def objective(
        self, mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
    ) -> Array:
        zero = jnp.zeros_like(u)
        subjects = conditional(mixed, x, zero, expansion, expansion)
        H = factorised(subjects.information + jnp.eye(u.shape[1]))
        return subjects.twice - jnp.sum(subjects.slope * H.solve(subjects.slope), axis=-1) + H.log_determinant


class FOCE(AbstractApproximation):
    """First-order conditional estimation: expanded about the mode, with the standard deviations of a typical subject.

    Example:
        >>> from qspjax.fit import FOCE
        >>> FOCE()
        FOCE()
    """

    conditional: ClassVar[bool] = True
    interaction: ClassVar[bool] = False

    def order(self, mixed: MixedModel) -> int:
        return 2 if mixed.censored.any() else 1

    def objective(
        self, mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
    ) -> Array:
        return _about_mode(mixed, x, u, expansion, typical)


class FOCEI(AbstractApproximation):
    """First-order conditional estimation with interaction: standard deviations are those at the mode.

    For subjects with measurements below the limit of quantification the curvature is that of `Laplace`.

    Example:
        >>> from qspjax.fit import FOCEI
        >>> FOCEI()
        FOCEI()
    """

    conditional: ClassVar[bool] = True
    interaction: ClassVar[bool] = True

    def order(self, mixed: MixedModel) -> int:
        return 2 if mixed.censored.any() else 1

    def objective(
        self, mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
    ) -> Array:
        return _about_mode(mixed, x, u, expansion, typical)


class Laplace(AbstractApproximation):
    """Laplace's method: the curvature at the mode is that of the likelihood itself.

    Reference: Tierney and Kadane, J Am Stat Assoc 1986;81:82, doi:10.1080/01621459.1986.10478240.

    Example:
        >>> from qspjax.fit import Laplace
        >>> Laplace()
        Laplace()
    """

    conditional: ClassVar[bool] = True
    interaction: ClassVar[bool] = True

    def order(self, mixed: MixedModel) -> int:
        return 2

    def objective(
        self, mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
    ) -> Array:
        twice = twice_of(mixed, predictors_of(mixed, x, u, expansion, typical))
        H = observed_information(mixed, x, u, expansion, typical) + jnp.eye(u.shape[1])
        return twice + jnp.sum(u * u, axis=-1) + factorised(H).log_determinant


def _about_mode(mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None) -> Array:
    subjects = conditional(mixed, x, u, expansion, typical)
    information = subjects.information
    if mixed.censored.any():
        observed = observed_information(mixed, x, u, expansion, typical)
        information = jnp.where(jnp.asarray(mixed.censored)[:, None, None], observed, information)
    return subjects.twice + jnp.sum(u * u, axis=-1) + factorised(information + jnp.eye(u.shape[1])).log_determinant


def subject_objectives(
    mixed: MixedModel, method: AbstractApproximation, x: Array, u: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the objective of each subject at its mode, its derivative in x, and the mode, improved by a Newton step.

    One expansion of the simulations at `u`, one order higher than that of the objective, gives the derivative: the
    mode moves by the implicit function theorem, du*/dx = -(d^2 l / du^2)^-1 d^2 l / du dx.

    Args:
        mixed: The problem.
        method: The approximation.
        x: The point, shape (names,), whose weights are constants.
        u: The modes there, shape (subjects, effects).

    Returns:
        The objectives, shape (subjects,); their derivatives in the numbers, shape (subjects, numbers); the modes; which
        subjects failed.
    """
    u = u if method.conditional else jnp.zeros_like(u)
    expansion = jax.lax.stop_gradient(mixed.expanded(x, u, method.order(mixed) + 1))
    typical = None
    if method.conditional and not method.interaction:
        typical = jax.lax.stop_gradient(mixed.expanded(x, jnp.zeros_like(u), 1))

    def penalised(x: Array, u: Array) -> Array:
        twice = twice_of(mixed, predictors_of(mixed, x, u, expansion, typical))
        return 0.5 * jnp.sum(twice) + 0.5 * jnp.sum(u * u)

    curvature = None
    if method.conditional:
        curvature = factorised(observed_information(mixed, x, u, expansion, typical) + jnp.eye(u.shape[1]))

    numbers, weights = mixed.space.split(x)

    def objectives_at(numbers: Array) -> tuple[Array, tuple[Array, Array]]:
        x = jnp.concatenate([numbers, weights])
        # the curvature need not be positive: far from the optimum, a mode may be a saddle
        mode = u if curvature is None else u - curvature.solve(jax.grad(penalised, argnums=1)(x, u))
        value = method.objective(mixed, x, mode, expansion, typical)
        return value, (value, mode)

    slopes, (values, improved) = jax.jacfwd(objectives_at, has_aux=True)(numbers)
    return values, slopes, improved, (expansion.result != RESULTS.successful) | ~jnp.isfinite(values)
