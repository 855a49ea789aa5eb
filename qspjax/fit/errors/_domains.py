"""The domain of an error model: what predictions and measurements must be, and what helps if they are not."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Real

Numbers: TypeAlias = Real[Array, "..."] | Real[np.ndarray, "..."] | np.number | float | int
"""A number, or an array of them."""
Truth: TypeAlias = Bool[Array, "..."] | Bool[np.ndarray, "..."] | np.bool_ | bool


class Condition(NamedTuple):
    """A condition that numbers must meet.

    Attributes:
        words: The condition in words, such as "positive".
        holds: Returns whether a number meets it.
    """

    words: str
    holds: Callable[[Numbers], Truth]


def between(low: float, high: float) -> Condition:
    """Return the condition to lie strictly between two bounds."""
    return Condition(f"between {low:g} and {high:g}", lambda x: (jnp.asarray(x) > low) & (jnp.asarray(x) < high))


ANY = Condition("a number", jnp.isfinite)
NOT_ZERO = Condition("other than 0", lambda x: jnp.asarray(x) != 0)
POSITIVE = Condition("positive", lambda x: jnp.asarray(x) > 0)
NOT_NEGATIVE = Condition("at least 0", lambda x: jnp.asarray(x) >= 0)
PROBABILITY = Condition("between 0 and 1", lambda x: (jnp.asarray(x) >= 0) & (jnp.asarray(x) <= 1))
COUNT = Condition("a whole number of at least 0", lambda x: (jnp.asarray(x) >= 0) & (jnp.asarray(x) % 1 == 0))
YES_OR_NO = Condition("0 or 1", lambda x: (jnp.asarray(x) == 0) | (jnp.asarray(x) == 1))


class Domain(NamedTuple):
    """The predictions and measurements for which there is a density.

    Attributes:
        prediction: What predictions must be.
        value: What measurements must be.
        remedy: What helps if a prediction is not, as an imperative.
        fields: What the formulas of the error model must be, by field.
    """

    prediction: Condition = ANY
    value: Condition = ANY
    remedy: str = ""
    fields: Mapping[str, Condition] = {}
