"""Error models: how a measurement is distributed about its prediction.

Each turns a prediction into a few *predictors* on which the density depends directly, such as location and log scale.
What is known of a density in these (score, Fisher information) gives, by the chain rule with the sensitivities of the
predictors, gradients and Gauss-Newton curvatures of the whole fit.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammainc, gammaincc, gammaln
from jaxtyping import Array

from qspjax._checks import check_above, check_instance, refuse
from qspjax._expression import Expression
from qspjax.fit.data._formula import Formula, as_formula
from qspjax.fit.errors._domains import COUNT, NOT_NEGATIVE, NOT_ZERO, POSITIVE, PROBABILITY, YES_OR_NO, Domain
from qspjax.fit.errors._tails import AbstractTails, Gaussian, log_difference

Predictors = tuple[Array, ...]
LEAVE_OUT = "leave the record out, or use Combined(sd, cv)"
FALL = 1e-6
"""By how much a cumulative hazard may fall from one record to the next: by the tolerance of a solver."""


def _formula(*, since_previous: bool = False, **default: Any) -> Any:
    return eqx.field(metadata={"formula": True, "since_previous": since_previous}, static=True, **default)


class AbstractErrorModel(eqx.Module):
    """The distribution of a measurement y, given its prediction f and numbers of its own.

    Attributes:
        domain: For which predictions and measurements it has a density.

    Example:
        >>> from qspjax.fit import Combined, Output
        >>> sorted(Output("concentration", Combined("sd", "cv")).names())
        ['concentration', 'cv', 'sd']
    """

    domain: ClassVar[Domain] = Domain()

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


def since_previous(model: AbstractErrorModel) -> frozenset[str]:
    """Return the fields whose formulas are counted from the previous record of the subject on."""
    return frozenset(field.name for field in dataclasses.fields(model) if field.metadata.get("since_previous"))


def _log(x: Any) -> Array:
    """Return log(x), which has no slope at 0: where nothing moves, -inf adds nothing to a gradient."""
    zero = x == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, x)))


def _inverse(x: Any) -> Array:
    """Return 1 / x, and 0 at 0."""
    return jnp.where(x > 0, 1.0 / jnp.where(x > 0, x, 1.0), 0.0)


def _standardised(away: Any, variance: Any) -> Array:
    """Return a distance over its standard deviation; 0 where there is neither."""
    return jnp.where(away == 0, 0.0, away / jnp.sqrt(jnp.where(away == 0, 1.0, variance)))


def _density(tails: AbstractTails, y: Any, predictors: Predictors) -> Array:
    """Return the log density of a location and a log scale; NaN where the location is certain."""
    certain, location, log_scale = _uncertain(predictors)
    return jnp.where(certain, jnp.nan, tails.log_density((y - location) * jnp.exp(-log_scale)) - log_scale)


def _between(model: "AbstractScaled | LogNormalError", low: Any, high: Any, predictors: Predictors, at: Any) -> Array:
    """Return the log probability between two limits; 0 or -inf where the measurement is `at` one value for certain."""
    certain, *known = _uncertain(predictors)
    low, high = (jnp.asarray(limit, float) for limit in (low, high))
    inside = model.tails.log_between(*(_edge(model, limit, tuple(known)) for limit in (low, high)))
    return jnp.where(certain, jnp.where((low <= at) & (at <= high), 0.0, -jnp.inf), inside)


def _uncertain(predictors: Predictors) -> tuple[Array, Array, Array]:
    """Return where the scale is 0, and location and log scale, which are 0 there."""
    location, log_scale = predictors
    certain = jnp.isneginf(log_scale) | jnp.isneginf(location)
    return certain, jnp.where(certain, 0.0, location), jnp.where(certain, 0.0, log_scale)


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
    """A location, a log scale, and the shape of what lies about them; with scale 0 the location is certain."""

    tails: eqx.AbstractVar[AbstractTails]

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        return _density(self.tails, y, predictors)

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        return _between(self, low, high, predictors, predictors[0])

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
        return prediction, _log(given["sd"]) * jnp.ones_like(prediction)


class Proportional(AbstractScaled):
    """Error in proportion to the prediction, y = f (1 + cv z).

    Args:
        cv: The coefficient of variation: a number or a formula.
        tails: The distribution of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", Proportional("cv")).names())
        ['concentration', 'cv']
    """

    domain = Domain(prediction=NOT_ZERO, remedy=LEAVE_OUT)
    cv: Formula = _formula()
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, _log(given["cv"]) + _log(jnp.abs(prediction))


class Combined(AbstractScaled):
    """Additive and proportional error, y = f + sqrt(sd^2 + (cv f)^2) z; write others as a formula of `Additive`.

    Args:
        sd: The standard deviation at prediction 0: a number or a formula.
        cv: The coefficient of variation of large predictions: a number or a formula.
        tails: The distribution of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", Combined("sd", "cv")).names())
        ['concentration', 'cv', 'sd']
    """

    sd: Formula = _formula()
    cv: Formula = _formula()
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, 0.5 * _log(given["sd"] ** 2 + (given["cv"] * prediction) ** 2)


class LogNormalError(AbstractErrorModel):
    """Log-normal error, log(y) = log(f) + sd z; the density is that of y itself.

    Args:
        sd: The standard deviation of the logarithm: a number or a formula.
        base: The base of the logarithm that `sd` refers to; by default e.
        tails: The distribution of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", LogNormalError("sd")).names())
        ['concentration', 'sd']
    """

    domain = Domain(prediction=POSITIVE, value=POSITIVE, remedy=LEAVE_OUT)
    sd: Formula = _formula()
    base: float = eqx.field(default=math.e, static=True)
    tails: AbstractTails = Gaussian()

    def __check_init__(self) -> None:
        _check(self)
        if not self.base > 1:
            refuse("base", "be greater than 1", self.base)

    def _log(self, value: Any) -> Array:
        return _log(value) / math.log(self.base)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return self._log(prediction), _log(given["sd"]) * jnp.ones_like(prediction)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        positive = jnp.asarray(y) > 0
        y = jnp.where(positive, y, 1.0)
        jacobian = jnp.log(y) + math.log(math.log(self.base))
        return jnp.where(positive, _density(self.tails, self._log(y), predictors) - jacobian, -jnp.inf)

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        limits = (jnp.asarray(limit, float) for limit in (low, high))
        low, high = (jnp.where(limit > 0, limit, -jnp.inf) for limit in limits)
        known = _between(self, low, high, predictors, self.base ** predictors[0])
        return jnp.where(jnp.isneginf(high), -jnp.inf, known)

    def information(self, predictors: Predictors) -> Predictors:
        on_location, on_log_scale = self.tails.information()
        return on_location * jnp.exp(-2.0 * predictors[1]), on_log_scale * jnp.ones_like(predictors[1])

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return (self._log(y) - predictors[0]) * jnp.exp(-predictors[1])


class Poisson(AbstractErrorModel):
    """Counts, y ~ Poisson(f); where 0 is predicted, 0 is certain.

    Example:
        >>> error = Poisson()
        >>> error.log_density(jnp.zeros(2), error.predictors(jnp.array([0.0, 2.0]), {})).tolist()
        [0.0, -2.0]
    """

    domain = Domain(prediction=NOT_NEGATIVE, value=COUNT, remedy="leave the record out, or bound the prediction by 0")

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return (prediction,)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        (mean,), y = predictors, jnp.asarray(y)
        some, counted = y > 0, COUNT.holds(y)
        events = jnp.where(some, y * jnp.log(jnp.where(some, mean, 1.0)), 0.0)
        known = events - mean - gammaln(jnp.where(counted, y, 0.0) + 1.0)
        return jnp.where(mean < 0, jnp.nan, jnp.where(counted, known, -jnp.inf))

    def _log_at_most(self, k: Any, predictors: Predictors) -> tuple[Array, Array]:
        """Return log P(y <= k) and log P(y > k)."""
        k, mean = jnp.asarray(k, float), predictors[0]
        some, inside = mean > 0, (k >= 0) & jnp.isfinite(k)
        shape, safe = jnp.where(inside, jnp.floor(k) + 1.0, 1.0), jnp.where(some, mean, 1.0)
        below, above = (jnp.log(jnp.maximum(share(shape, safe), 1e-300)) for share in (gammaincc, gammainc))
        below = jnp.where(shape == 1.0, -mean, jnp.where(some, below, 0.0))
        above = jnp.where(some, above, -jnp.inf)
        return jnp.where(inside, below, jnp.where(k < 0, -jnp.inf, 0.0)), jnp.where(
            inside, above, jnp.where(k < 0, 0.0, -jnp.inf)
        )

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        (before, after), (upto, beyond) = (self._log_at_most(k, predictors) for k in (low, high))
        is_far = jnp.asarray(low) > predictors[0]  # the probability is found in the tail that is nearer
        known = log_difference(jnp.where(is_far, after, upto), jnp.where(is_far, beyond, before))
        return jnp.where(predictors[0] < 0, jnp.nan, known)

    def information(self, predictors: Predictors) -> Predictors:
        return (_inverse(predictors[0]),)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return _standardised(y - predictors[0], predictors[0])


class Binary(AbstractErrorModel):
    """Yes or no: y is 1 with the predicted probability, else 0.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("Emax * C / (EC50 + C)", Binary()).names())
        ['C', 'EC50', 'Emax']
    """

    domain = Domain(
        prediction=PROBABILITY, value=YES_OR_NO, remedy="write the prediction as 1 / (1 + exp(-(...))), or bound it"
    )

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return (prediction,)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        (probability,), y = predictors, jnp.asarray(y)
        yes = y > 0
        chosen = jnp.where(yes, jnp.log(jnp.where(yes, probability, 1.0)), jnp.log1p(-jnp.where(yes, 0.0, probability)))
        fine = PROBABILITY.holds(probability)
        return jnp.where(fine, jnp.where(YES_OR_NO.holds(y), chosen, -jnp.inf), jnp.nan)

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        probability = predictors[0]
        has_no, has_yes = ((jnp.asarray(low) < y) & (y <= jnp.asarray(high)) for y in (0, 1))
        no = jnp.log1p(-jnp.where(has_no & ~has_yes, probability, 0.0))
        yes = jnp.log(jnp.where(has_yes & ~has_no, probability, 1.0))
        known = jnp.where(has_no | has_yes, no + yes, -jnp.inf)
        return jnp.where(PROBABILITY.holds(probability), known, jnp.nan)

    def information(self, predictors: Predictors) -> Predictors:
        return (_inverse(predictors[0] * (1.0 - predictors[0])),)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return _standardised(y - predictors[0], predictors[0] * (1.0 - predictors[0]))


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

    domain = Domain(value=COUNT, remedy="check the formula of the prediction")
    thresholds: tuple[Formula, ...] = _formula()

    def __init__(self, *thresholds: Formula) -> None:
        """Keep them."""
        if not thresholds:
            refuse("thresholds", "have one for each step between categories", "empty")
        self.thresholds = tuple(as_formula("thresholds", one) for one in thresholds)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        steps = (given[f"thresholds[{k}]"] for k in range(len(self.thresholds)))
        return tuple(step - prediction for step in steps)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        fine = COUNT.holds(jnp.asarray(y)) & (y <= len(predictors))
        return jnp.where(fine, self.log_between(jnp.asarray(y) - 1, y, predictors), -jnp.inf)

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)) for the logistic function s, accurate in both tails
        lower, upper = (_cut(k, predictors) for k in (low, high))
        inside = jnp.isfinite(lower) & jnp.isfinite(upper)
        gap = jnp.where(inside, lower, 0.0) - jnp.where(inside, upper, 1.0)
        between = jnp.where(inside, jnp.log(-jnp.expm1(gap)), 0.0)
        known = _log_logistic(upper) + _log_logistic(-lower) + between
        return jnp.where(_is_increasing(predictors), known, jnp.nan)

    def information(self, predictors: Predictors) -> Predictors:
        each = [jax.nn.sigmoid(cut) for cut in predictors]
        return tuple(p * (1.0 - p) for p in each)

    def residual(self, y: Any, predictors: Predictors) -> Array:
        above = [1.0 - jax.nn.sigmoid(cut) for cut in predictors]
        mean = sum(above)
        second = sum((2 * k + 1) * p for k, p in enumerate(above))
        return _standardised(y - mean, second - mean**2)


def _cut(k: Any, cuts: Predictors) -> Array:
    """Return the logit of P(y <= k), which is infinite below the least category and from the greatest on."""
    stack, k = jnp.stack(cuts), jnp.floor(jnp.asarray(k, float))
    place = jnp.broadcast_to(jnp.clip(k, 0, len(cuts) - 1).astype(int), stack.shape[1:])
    inner = jnp.take_along_axis(stack, place[None], axis=0)[0]
    return jnp.where(k < 0, -jnp.inf, jnp.where(k < len(cuts), inner, jnp.inf))


def _log_logistic(x: Array) -> Array:
    """Return log(1 / (1 + exp(-x))), with slopes of 0 at infinity."""
    inside = jnp.isfinite(x)
    return jnp.where(inside, -jax.nn.softplus(-jnp.where(inside, x, 0.0)), jnp.where(x > 0, 0.0, x))


def _is_increasing(cuts: Predictors) -> Array:
    return jnp.all(jnp.diff(jnp.stack(cuts), axis=0) >= 0, axis=0)


class TimeToEvent(AbstractErrorModel):
    """The times of events: y is 1 where one happened at that time, 0 where none had since the record before.

    $$ log p = y log h(t) - (H(t) - H(s)), \\quad H(t) = \\int_0^t h $$

    with s the time of the record before of the same subject, 0 for the first: the last record of a subject is an event
    or the end of its observation (right-censored). Events may repeat; after each, the hazard is that of the next one.
    The prediction is the hazard h; a state of the model with slope h, never set back, gives the cumulative one.

    Args:
        cumulative: The cumulative hazard: a formula, such as the name of an observed value.

    Reference: Cook and Lawless, The Statistical Analysis of Recurrent Events, 2007, doi:10.1007/978-0-387-69810-6.

    Example:
        >>> error = TimeToEvent("H")
        >>> own = error.predictors(jnp.array([0.2, 0.0]), {"cumulative": jnp.array([0.6, 0.8])})
        >>> error.log_density(jnp.array([1.0, 0.0]), own).round(3).tolist()
        [-2.209, -0.8]
    """

    domain = Domain(
        prediction=NOT_NEGATIVE, value=YES_OR_NO, remedy="leave the event out, or use a hazard that is positive there"
    )
    cumulative: Formula = _formula(since_previous=True)

    def predictors(self, prediction: Array, given: Mapping[str, Any]) -> Predictors:
        return prediction, given["cumulative"] * jnp.ones_like(prediction)

    def log_density(self, y: Any, predictors: Predictors) -> Array:
        (hazard, cumulative), y = predictors, jnp.asarray(y)
        event = y > 0
        known = jnp.where(event, jnp.log(jnp.where(event, hazard, 1.0)), 0.0) - cumulative
        return jnp.where(cumulative < -FALL, jnp.nan, jnp.where(YES_OR_NO.holds(y), known, -jnp.inf))

    def log_between(self, low: Any, high: Any, predictors: Predictors) -> Array:
        """Return the log probability that the event happened by then (censored below), or did not (above)."""
        later = jnp.isposinf(jnp.asarray(high, float))
        happened = jnp.log(-jnp.expm1(-jnp.where(later, 1.0, predictors[1])))
        return jnp.where(later, -predictors[1], happened)

    def information(self, predictors: Predictors) -> Predictors:
        return jnp.zeros_like(predictors[0]), _inverse(predictors[1])

    def residual(self, y: Any, predictors: Predictors) -> Array:
        return y - predictors[1]
