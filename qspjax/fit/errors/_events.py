"""The error model of the times of events."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._expression import Formula
from qspjax._types import Key
from qspjax.fit.errors._contract import AbstractErrorModel, Information, Predictors, formula, safe_inverse
from qspjax.fit.errors._domains import NOT_NEGATIVE, YES_OR_NO, Domain, Numbers

FALL = 1e-6
"""How much a cumulative hazard may fall from one record to the next, as the tolerance of a solver allows."""


class TimeToEvent(AbstractErrorModel):
    """The times of events: y is 1 if an event happened at that time, 0 if none has since the record before.

    $$ log p = y log h(t) - (H(t) - H(s)), \\quad H(t) = \\int_0^t h $$

    with s the time of the previous record of the subject, 0 for the first: the last record of a subject is an event
    or the end of its observation (right-censored). Events may repeat; after each, the hazard is that of the next one.
    The prediction is the hazard h; a state of the model with slope h, never reset, gives the cumulative one.

    Args:
        cumulative: The cumulative hazard: a formula, such as the name of an observed value.

    Reference: Cook and Lawless, The Statistical Analysis of Recurrent Events, 2007, doi:10.1007/978-0-387-69810-6.

    Example:
        >>> error = TimeToEvent("H")
        >>> predictors = error.predictors(jnp.array([0.2, 0.0]), {"cumulative": jnp.array([0.6, 0.8])})
        >>> error.log_density(jnp.array([1.0, 0.0]), predictors).round(3).tolist()
        [-2.209, -0.8]
    """

    word: ClassVar[str] = ""
    domain: ClassVar[Domain] = Domain(
        prediction=NOT_NEGATIVE, value=YES_OR_NO, remedy="leave the event out, or use a hazard that is positive there"
    )
    cumulative: Formula = formula(since_previous=True)

    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        return prediction, jnp.asarray(given["cumulative"]) * jnp.ones_like(prediction)

    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        (hazard, cumulative), y = predictors, jnp.asarray(y)
        event = y > 0
        log_density = jnp.where(event, jnp.log(jnp.where(event, hazard, 1.0)), 0.0) - cumulative
        return jnp.where(cumulative < -FALL, jnp.nan, jnp.where(YES_OR_NO.holds(y), log_density, -jnp.inf))

    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        """Return the log probability that the event has happened (censored below), or has not (censored above)."""
        later = jnp.isposinf(jnp.asarray(high, float))
        happened = jnp.log(-jnp.expm1(-jnp.where(later, 1.0, predictors[1])))
        return jnp.where(later, -predictors[1], happened)

    def information(self, predictors: Predictors) -> Information:
        return Information((jnp.zeros_like(predictors[0]), safe_inverse(predictors[1])))

    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        return jnp.asarray(y) - predictors[1]

    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        raise TypeError("Nothing can be drawn from TimeToEvent.")
