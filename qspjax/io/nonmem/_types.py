"""Types of the modules of this folder: arrays with one entry per record."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from qspjax._types import Scalar

Flags: TypeAlias = Bool[np.ndarray, " records"]
"""The records of which something is true."""

Integers: TypeAlias = Int[np.ndarray, " records"]
"""Lines, numbers of records, codes."""

Floats: TypeAlias = Float[np.ndarray, " records"]

Numbers: TypeAlias = Scalar | Sequence[float] | Sequence[Sequence[float]]
"""Numbers of the user, of one dimension or two: an array or lists."""

Values: TypeAlias = dict[str, np.ndarray]
"""The columns of a table: numbers, or compartments by number and name (`CMT`, an array of objects)."""

Labels: TypeAlias = dict[str, tuple[str, ...]]
"""The labels of the categories 0, 1, ... by column."""
