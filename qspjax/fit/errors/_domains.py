"""Where an error model has a density: what predictions and measurements must be, and what helps where they are not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Condition(NamedTuple):
    """What numbers must be.

    Attributes:
        words: In words, such as "positive".
        holds: Whether a number is.
    """

    words: str
    holds: Callable[[Any], Any]


ANY = Condition("a number", np.isfinite)
NOT_ZERO = Condition("other than 0", lambda x: x != 0)
POSITIVE = Condition("positive", lambda x: x > 0)
NOT_NEGATIVE = Condition("at least 0", lambda x: x >= 0)
PROBABILITY = Condition("between 0 and 1", lambda x: (x >= 0) & (x <= 1))
COUNT = Condition("a whole number of at least 0", lambda x: (x >= 0) & (x % 1 == 0))
YES_OR_NO = Condition("0 or 1", lambda x: (x == 0) | (x == 1))


class Domain(NamedTuple):
    """For which predictions and measurements there is a density.

    Attributes:
        prediction: What predictions must be.
        value: What measurements must be.
        remedy: What helps where a prediction is not, as an imperative.
    """

    prediction: Condition = ANY
    value: Condition = ANY
    remedy: str = ""
