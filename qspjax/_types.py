"""The types that appear in public signatures."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Real, UInt32

import qspjax._precision  # noqa: F401  (the precision is decided before the first array is made)

Scalar: TypeAlias = Real[Array, "*batch"] | Real[np.ndarray, "*batch"] | np.number | float | int
"""A number: a Python float, or an array of no dimensions (a leading axis where patients differ)."""

Numeric: TypeAlias = Real[Array, "..."] | Real[np.ndarray, "..."] | np.number | float | int
"""Numbers of any shape, to be computed with."""

ArrayInput: TypeAlias = ArrayLike | Sequence[ArrayLike] | Sequence[Sequence[ArrayLike]]
"""Numbers as users give them: a number, an array, or lists."""

Key: TypeAlias = PRNGKeyArray | UInt32[Array, "2"]
"""A PRNG key: `jax.random.key(seed)`."""

State: TypeAlias = PyTree
"""The state of a model: a `NamedTuple` (or any pytree) with one leaf per state."""

Observed: TypeAlias = Mapping[str, Any]
"""What can be observed of a model: one value per name."""

Times: TypeAlias = Float[Array, " times"] | Float[Array, "patients times"]
"""Increasing times, the same for all patients or one row per patient, padded with inf."""
