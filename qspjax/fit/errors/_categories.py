"""Error models of ordered categories."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qspjax._checks import refuse
from qspjax._expression import Formula, as_formula
from qspjax._types import Key
from qspjax.fit.errors._contract import AbstractErrorModel, Information, Predictors, formula, standardised
from qspjax.fit.errors._domains import COUNT, Domain, Numbers


class Ordinal(AbstractErrorModel):
    """Ordered categories 0, 1, ..., K, by proportional odds: P(y <= k) = 1 / (1 + exp(f - threshold_k)).

    Args:
        thresholds: The K thresholds, increasing: numbers or formulas.

    Reference: McCullagh, J R Stat Soc B 1980;42:109, doi:10.1111/j.2517-6161.1980.tb01109.x.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("slope * concentration", Ordinal("first", "second")).names())
        ['concentration', 'first', 'second', 'slope']
    """

    word: ClassVar[str] = ""
    domain: ClassVar[Domain] = Domain(value=COUNT, remedy="check the formula of the prediction")
    thresholds: tuple[Formula, ...] = formula()

    def __init__(self, *thresholds: Formula) -> None:
        """Read the formulas."""
        if not thresholds:
            refuse("thresholds", "have one for each step between categories", "empty")
        self.thresholds = tuple(as_formula("thresholds", threshold) for threshold in thresholds)

    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        steps = (given[f"thresholds[{k}]"] for k in range(len(self.thresholds)))
        return tuple(jnp.asarray(step) - prediction for step in steps)

    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        is_category = COUNT.holds(jnp.asarray(y)) & (y <= len(predictors))
        return jnp.where(is_category, self.log_between(jnp.asarray(y) - 1, y, predictors), -jnp.inf)

    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)) for the logistic function s, accurate in both tails
        lower, upper = (_cut(k, predictors) for k in (low, high))
        inside = jnp.isfinite(lower) & jnp.isfinite(upper)
        gap = jnp.where(inside, lower, 0.0) - jnp.where(inside, upper, 1.0)
        between = jnp.where(inside, jnp.log(-jnp.expm1(gap)), 0.0)
        log_probability = _log_logistic(upper) + _log_logistic(-lower) + between
        return jnp.where(_is_increasing(predictors), log_probability, jnp.nan)

    def information(self, predictors: Predictors) -> Information:
        at_most = [jax.nn.sigmoid(cut) for cut in predictors]
        return Information(tuple(p * (1.0 - p) for p in at_most))

    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        above = [1.0 - jax.nn.sigmoid(cut) for cut in predictors]
        mean = sum(above)
        second = sum((2 * k + 1) * p for k, p in enumerate(above))
        return standardised(y - mean, second - mean**2)

    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        uniform = jax.random.uniform(key, predictors[0].shape)
        return jnp.sum(uniform > jax.nn.sigmoid(jnp.stack(predictors)), axis=0).astype(float)


def _cut(k: Numbers, cuts: Predictors) -> Float[Array, "..."]:
    """Return the logit of P(y <= k), which is -inf below the least category and inf from the greatest on."""
    stack, k = jnp.stack(cuts), jnp.floor(jnp.asarray(k, float))
    index = jnp.broadcast_to(jnp.clip(k, 0, len(cuts) - 1).astype(int), stack.shape[1:])
    inner = jnp.take_along_axis(stack, index[None], axis=0)[0]
    return jnp.where(k < 0, -jnp.inf, jnp.where(k < len(cuts), inner, jnp.inf))


def _log_logistic(x: Array) -> Float[Array, "..."]:
    """Return log(1 / (1 + exp(-x))), with slopes of 0 at infinity."""
    inside = jnp.isfinite(x)
    return jnp.where(inside, -jax.nn.softplus(-jnp.where(inside, x, 0.0)), jnp.where(x > 0, 0.0, x))


def _is_increasing(cuts: Predictors) -> Bool[Array, "..."]:
    return jnp.all(jnp.diff(jnp.stack(cuts), axis=0) >= 0, axis=0)
