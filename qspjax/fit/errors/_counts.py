"""Error models of counts and of binary measurements."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import gammainc, gammaincc, gammaln
from jaxtyping import Array, Float

from qspjax._types import Key
from qspjax.fit.errors._contract import AbstractErrorModel, Information, Predictors, safe_inverse, standardised
from qspjax.fit.errors._distributions import log_difference
from qspjax.fit.errors._domains import COUNT, NOT_NEGATIVE, PROBABILITY, YES_OR_NO, Domain, Numbers


class Poisson(AbstractErrorModel):
    """Counts, y ~ Poisson(f); where 0 is predicted, 0 is certain.

    Example:
        >>> error = Poisson()
        >>> error.log_density(jnp.zeros(2), error.predictors(jnp.array([0.0, 2.0]), {})).tolist()
        [0.0, -2.0]
    """

    word: ClassVar[str] = "poisson"
    domain: ClassVar[Domain] = Domain(
        prediction=NOT_NEGATIVE,
        value=COUNT,
        remedy="leave the record out, or keep the prediction above 0, as by adding a positive baseline",
    )

    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        return (prediction,)

    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        (mean,), y = predictors, jnp.asarray(y)
        positive, counted = y > 0, COUNT.holds(y)
        events = jnp.where(positive, y * jnp.log(jnp.where(positive, mean, 1.0)), 0.0)
        log_probability = events - mean - gammaln(jnp.where(counted, y, 0.0) + 1.0)
        return jnp.where(mean < 0, jnp.nan, jnp.where(counted, log_probability, -jnp.inf))

    def _log_at_most(self, k: Numbers, predictors: Predictors) -> tuple[Array, Array]:
        """Return log P(y <= k) and log P(y > k)."""
        k, mean = jnp.asarray(k, float), predictors[0]
        positive, inside = mean > 0, (k >= 0) & jnp.isfinite(k)
        shape, safe = jnp.where(inside, jnp.floor(k) + 1.0, 1.0), jnp.where(positive, mean, 1.0)
        below, above = (jnp.log(jnp.maximum(share(shape, safe), 1e-300)) for share in (gammaincc, gammainc))
        below = jnp.where(shape == 1.0, -mean, jnp.where(positive, below, 0.0))
        above = jnp.where(positive, above, -jnp.inf)
        return jnp.where(inside, below, jnp.where(k < 0, -jnp.inf, 0.0)), jnp.where(
            inside, above, jnp.where(k < 0, 0.0, -jnp.inf)
        )

    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        (before, after), (up_to, beyond) = (self._log_at_most(k, predictors) for k in (low, high))
        is_far = jnp.asarray(low) > predictors[0]  # the probability is taken from the nearer tail
        log_probability = log_difference(jnp.where(is_far, after, up_to), jnp.where(is_far, beyond, before))
        return jnp.where(predictors[0] < 0, jnp.nan, log_probability)

    def information(self, predictors: Predictors) -> Information:
        return Information((safe_inverse(predictors[0]),))

    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        return standardised(y - predictors[0], predictors[0])

    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        return jax.random.poisson(key, predictors[0]).astype(float)


class Binary(AbstractErrorModel):
    """Yes or no: y is 1 with the predicted probability, else 0.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("Emax * C / (EC50 + C)", Binary()).names())
        ['C', 'EC50', 'Emax']
    """

    word: ClassVar[str] = "binary"
    domain: ClassVar[Domain] = Domain(
        prediction=PROBABILITY, value=YES_OR_NO, remedy="write the prediction as 1 / (1 + exp(-(...))), or bound it"
    )

    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        return (prediction,)

    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        (probability,), y = predictors, jnp.asarray(y)
        yes = y > 0
        outcome = jnp.where(
            yes, jnp.log(jnp.where(yes, probability, 1.0)), jnp.log1p(-jnp.where(yes, 0.0, probability))
        )
        allowed = jnp.where(YES_OR_NO.holds(y), outcome, -jnp.inf)
        return jnp.where(PROBABILITY.holds(probability), allowed, jnp.nan)

    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        probability = predictors[0]
        has_no, has_yes = ((jnp.asarray(low) < y) & (y <= jnp.asarray(high)) for y in (0, 1))
        no = jnp.log1p(-jnp.where(has_no & ~has_yes, probability, 0.0))
        yes = jnp.log(jnp.where(has_yes & ~has_no, probability, 1.0))
        log_probability = jnp.where(has_no | has_yes, no + yes, -jnp.inf)
        return jnp.where(PROBABILITY.holds(probability), log_probability, jnp.nan)

    def information(self, predictors: Predictors) -> Information:
        return Information((safe_inverse(predictors[0] * (1.0 - predictors[0])),))

    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        return standardised(y - predictors[0], predictors[0] * (1.0 - predictors[0]))

    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        return jax.random.bernoulli(key, predictors[0]).astype(float)
