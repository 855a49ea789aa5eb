"""Error models: how a measurement is distributed about its prediction.

Each turns a prediction into a few *predictors* on which the density depends directly, such as location and log scale.
What is known of a density in these (score, Fisher information) gives, by the chain rule with the sensitivities of the
predictors, gradients and Gauss-Newton curvatures of the whole fit.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammainc, gammaincc, gammaln
from jaxtyping import Array

from qspjax._checks import check_above, check_instance, refuse
from qspjax._expression import Expression
from qspjax.fit._formula import Formula, as_formula
from qspjax.fit._tails import AbstractTails, Gaussian, log_difference

Predictors = tuple[Array, ...]


def _formula(**default: Any) -> Any:
    return eqx.field(metadata={"formula": True}, static=True, **default)


class AbstractErrorModel(eqx.Module):
    """The distribution of a measurement y, given its prediction f and numbers of its own."""

    @abc.abstractmethod
    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        """Return what the density depends on, each of the shape of `prediction`.

        Args:
            prediction: The prediction of each measurement.
            given: The values of the formulas of this error model, by field.
        """

    @abc.abstractmethod
    def log_density(self, y: Any, predictors: Predictors) -> Array:
        """Return the log density (or probability) of a measurement."""

    @abc.abstractmethod
    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        """Return the log probability of a measurement above `low` and at or below `high`; either may be infinite."""

    @abc.abstractmethod
    def information(self, predictors: Predictors) -> Predictors:
        """Return the Fisher information on each predictor."""

    @abc.abstractmethod
    def residual(self, y: Any, predictors: Predictors) -> Array:
        """Return the standardised residual."""


def formulas_of(model: AbstractErrorModel) -> dict[str, float | Expression]:
    """Return the formulas of an error model by field."""
    found: dict[str, float | Expression] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.metadata.get("formula"):
            several = value if isinstance(value, tuple) else None
            each = {field.name: value} if several is None else {f"{field.name}[{k}]": x for k, x in enumerate(several)}
            found |= {name: as_formula(field.name, one) for name, one in each.items()}
    return found


def _check(model: Any) -> None:
    check_instance("tails", model.tails, AbstractTails, "a shape such as Gaussian() or StudentT(4)")
    for name, value in formulas_of(model).items():
        if not isinstance(value, Expression):
            check_above(name, value, 0.0)


def _edge(model: AbstractErrorModel, limit: Array, predictors: Predictors) -> Array:
    """Return a limit as a standardised residual; an infinite one stays, without a derivative."""
    is_open = jnp.isinf(limit)
    return jnp.where(is_open, limit, model.residual(jnp.where(is_open, 1.0, limit), predictors))


class AbstractScaled(AbstractErrorModel):
    """A location, a log scale, and the shape of what lies about them."""

    tails: eqx.AbstractVar[AbstractTails]

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        location, log_scale = predictors
        return self.tails.log_density((y - location) * jnp.exp(-log_scale)) - log_scale

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        return self.tails.log_between(*(_edge(self, jnp.asarray(limit, float), predictors) for limit in (low, high)))

    def information(self, predictors: Predictors) -> Predictors:
        on_location, on_log_scale = self.tails.information()
        return on_location * jnp.exp(-2.0 * predictors[1]), on_log_scale * jnp.ones_like(predictors[1])

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return (y - predictors[0]) * jnp.exp(-predictors[1])


class Additive(AbstractScaled):
    """Constant error, y = f + sd z.

    Args:
        sd: The standard deviation (for other tails than normal ones, their scale): a number, or a formula over
            parameters, observed values, `time` and `prediction`.
        tails: The distribution of z.

    Example:
        >>> error = Additive("sigma")
        >>> float(error.log_density(1.2, error.predictors(jnp.array(1.0), {"sigma": 0.1, "sd": 0.1})).round(3))
        -0.616
    """

    sd: Formula = _formula()
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, jnp.log(given["sd"]) * jnp.ones_like(prediction)


class Proportional(AbstractScaled):
    """Error in proportion to the prediction, y = f (1 + cv z).

    Args:
        cv: The coefficient of variation: a number or a formula.
        tails: The distribution of z.
    """

    cv: Formula = _formula()
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, jnp.log(given["cv"]) + jnp.log(jnp.abs(prediction))


class Combined(AbstractScaled):
    """Additive and proportional error, y = f + sqrt(sd^2 + (cv f)^2) z; write others as a formula of `Additive`.

    Args:
        sd: The standard deviation at prediction 0: a number or a formula.
        cv: The coefficient of variation of large predictions: a number or a formula.
        tails: The distribution of z.
    """

    sd: Formula = _formula()
    cv: Formula = _formula()
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, 0.5 * jnp.log(given["sd"] ** 2 + (given["cv"] * prediction) ** 2)


class LogNormalError(AbstractErrorModel):
    """Log-normal error, log(y) = log(f) + sd z; the density is that of y itself.

    Args:
        sd: The standard deviation of the logarithm: a number or a formula.
        base: The base of the logarithm that `sd` refers to; by default e.
        tails: The distribution of z.
    """

    sd: Formula = _formula()
    base: float = eqx.field(default=math.e, static=True)
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)
        if not self.base > 1:
            refuse("base", "be greater than 1", self.base)

    def _log(self, value: Any) -> Array:
        return jnp.log(value) / math.log(self.base)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return self._log(prediction), jnp.log(given["sd"]) * jnp.ones_like(prediction)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        jacobian = jnp.log(y) + math.log(math.log(self.base))
        return self.tails.log_density(self.residual(y, predictors)) - predictors[1] - jacobian

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        limits = (jnp.asarray(limit, float) for limit in (low, high))
        low, high = (_edge(self, jnp.where(limit > 0, limit, -jnp.inf), predictors) for limit in limits)
        return jnp.where(jnp.isneginf(high), -jnp.inf, self.tails.log_between(low, high))

    def information(self, predictors: Predictors) -> Predictors:
        on_location, on_log_scale = self.tails.information()
        return on_location * jnp.exp(-2.0 * predictors[1]), on_log_scale * jnp.ones_like(predictors[1])

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return (self._log(y) - predictors[0]) * jnp.exp(-predictors[1])


class Poisson(AbstractErrorModel):
    """Counts, y ~ Poisson(f)."""

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return (jnp.log(prediction),)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        return y * predictors[0] - jnp.exp(predictors[0]) - gammaln(jnp.asarray(y) + 1.0)

    def _log_at_most(self, k: Any, predictors: Predictors) -> tuple[Array, Array]:
        """Return log P(y <= k) and log P(y > k)."""
        k, mean = jnp.asarray(k, float), jnp.exp(predictors[0])
        inside = (k >= 0) & jnp.isfinite(k)
        shape = jnp.where(inside, jnp.floor(k) + 1.0, 1.0)
        below, above = (jnp.log(jnp.maximum(share(shape, mean), 1e-300)) for share in (gammaincc, gammainc))
        return jnp.where(inside, below, jnp.where(k < 0, -jnp.inf, 0.0)), jnp.where(
            inside, above, jnp.where(k < 0, 0.0, -jnp.inf)
        )

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        (before, after), (upto, beyond) = (self._log_at_most(k, predictors) for k in (low, high))
        is_far = jnp.asarray(low) > jnp.exp(predictors[0])  # the probability is found in the tail that is nearer
        return log_difference(jnp.where(is_far, after, upto), jnp.where(is_far, beyond, before))

    def information(self, predictors: Predictors) -> Predictors:
        return (jnp.exp(predictors[0]),)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return (y - jnp.exp(predictors[0])) * jnp.exp(-0.5 * predictors[0])


class Binary(AbstractErrorModel):
    """Yes or no: y is 1 with the predicted probability, else 0."""

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return (jnp.log(prediction) - jnp.log1p(-prediction),)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        return y * predictors[0] - jax.nn.softplus(predictors[0])

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        no, yes = -jax.nn.softplus(predictors[0]), -jax.nn.softplus(-predictors[0])
        has_no, has_yes = ((jnp.asarray(low) < y) & (y <= jnp.asarray(high)) for y in (0, 1))
        return jnp.where(has_no, jnp.where(has_yes, 0.0, no), jnp.where(has_yes, yes, -jnp.inf))

    def information(self, predictors: Predictors) -> Predictors:
        probability = jax.nn.sigmoid(predictors[0])
        return (probability * (1.0 - probability),)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        probability = jax.nn.sigmoid(predictors[0])
        return (y - probability) / jnp.sqrt(probability * (1.0 - probability))


class Ordinal(AbstractErrorModel):
    """Ordered categories 0, 1, ..., K, by proportional odds: P(y <= k) = 1 / (1 + exp(f - threshold_k)).

    Args:
        thresholds: The K thresholds, increasing: numbers or formulas.

    Reference: McCullagh, J R Stat Soc B 1980;42:109, doi:10.1111/j.2517-6161.1980.tb01109.x.
    """

    thresholds: tuple[Formula, ...] = _formula()

    def __init__(self, *thresholds: Formula) -> None:
        """Keep them."""
        if not thresholds:
            refuse("thresholds", "have one for each step between categories", "empty")
        self.thresholds = tuple(as_formula("thresholds", one) for one in thresholds)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        steps = (given[f"thresholds[{k}]"] for k in range(len(self.thresholds)))
        return tuple(step - prediction for step in steps)

    def _log_at_most(self, k: Any, predictors: Predictors) -> tuple[Array, Array]:
        """Return log P(y <= k) and log P(y > k)."""
        cuts = jnp.stack(predictors)
        place = jnp.clip(jnp.asarray(k).astype(int), 0, len(predictors) - 1)
        cut = jnp.take_along_axis(cuts, jnp.broadcast_to(place, cuts.shape[1:])[None], axis=0)[0]
        inside = k < len(predictors)
        below = jnp.where(inside, -jax.nn.softplus(-cut), 0.0)
        return jnp.where(k < 0, -jnp.inf, below), jnp.where(
            k < 0, 0.0, jnp.where(inside, -jax.nn.softplus(cut), -jnp.inf)
        )

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        return self.log_between(jnp.asarray(y) - 1, y, predictors)

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        top = len(predictors)
        before, upto = (
            self._log_at_most(jnp.clip(jnp.floor(jnp.asarray(k, float)), -1, top), predictors)[0] for k in (low, high)
        )
        gap = jnp.where(jnp.isfinite(before), before - upto, -1.0)
        return upto + jnp.where(jnp.isfinite(before), jnp.log(-jnp.expm1(jnp.minimum(gap, -1e-300))), 0.0)

    def information(self, predictors: Predictors) -> Predictors:
        each = [jax.nn.sigmoid(cut) for cut in predictors]
        return tuple(p * (1.0 - p) for p in each)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        above = [1.0 - jax.nn.sigmoid(cut) for cut in predictors]
        mean = sum(above)
        second = sum((2 * k + 1) * p for k, p in enumerate(above))
        return (y - mean) / jnp.sqrt(second - mean**2)


class TimeToEvent(AbstractErrorModel):
    """The time of an event: y is 1 where it happened at that time, 0 where it had not by then (right-censored).

    $$ log p = y log h(t) - H(t), \\quad H(t) = \\int_0^t h $$

    The prediction is the hazard h; a state of the model with slope h gives the cumulative one.

    Args:
        cumulative: The cumulative hazard: a formula, such as the name of an observed value.
    """

    cumulative: Formula = _formula()

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return jnp.log(prediction), given["cumulative"] * jnp.ones_like(prediction)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        return jnp.where(jnp.asarray(y) > 0, predictors[0], 0.0) - predictors[1]

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        """Return the log probability that the event happened by then (censored below), or did not (above)."""
        return jnp.where(jnp.isposinf(jnp.asarray(high, float)), -predictors[1], jnp.log(-jnp.expm1(-predictors[1])))

    def information(self, predictors: Predictors) -> Predictors:
        return jnp.zeros_like(predictors[0]), 1.0 / jnp.maximum(predictors[1], 1e-9)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return y - predictors[1]
