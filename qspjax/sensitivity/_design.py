"""The inputs of a global analysis: by name, what they may be."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qspjax._checks import check_instance, check_number, refuse
from qspjax._distribution import AbstractDistribution
from qspjax._extras import require

if TYPE_CHECKING:
    import pandas

Function: TypeAlias = Callable[[np.ndarray], Any]
"""From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs)."""


class Inputs:
    """Independent inputs by name: distributions, or bounds of a uniform one.

    Args:
        inputs: By name, a distribution or a pair of bounds.
        typical: By name, typical values, for distributions that leave their location to the model.

    Raises:
        ValueError: If bounds are not increasing, or there is no input.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> Inputs({"CL": qsp.LogNormal(3.0, cv=0.3), "F": (0.2, 0.8)}).from_unit(np.array([[0.5, 0.5]]))
        array([[3. , 0.5]])
    """

    def __init__(
        self,
        inputs: Mapping[str, AbstractDistribution | tuple[float, float]],
        *,
        typical: Mapping[str, Any] | None = None,
    ) -> None:
        """Check them."""
        check_instance("inputs", inputs, Mapping, "a mapping of names to distributions or bounds")
        if not inputs:
            refuse("inputs", "have at least one input", "empty")
        self._each, self._typical = dict(inputs), dict(typical or {})
        for name, one in inputs.items():
            if isinstance(one, AbstractDistribution):
                continue
            if not isinstance(one, (tuple, list)) or len(one) != 2:
                refuse(f'inputs["{name}"]', "be a distribution or a pair of bounds", one)
            for edge in one:
                check_number(f'inputs["{name}"]', edge)
            if not one[0] < one[1]:
                refuse(f'inputs["{name}"]', "be bounds in increasing order", tuple(one))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._each)

    def from_unit(self, u: np.ndarray) -> np.ndarray:
        """Return inputs for numbers between 0 and 1, by the inverse distribution functions, shape (samples, inputs)."""
        from scipy.special import ndtri

        columns = []
        for k, (name, one) in enumerate(self._each.items()):
            if isinstance(one, AbstractDistribution):
                columns.append(
                    np.asarray(one.from_normal(ndtri(np.clip(u[:, k], 1e-16, 1 - 1e-16)), self._typical.get(name)))
                )
            else:
                columns.append(one[0] + (one[1] - one[0]) * u[:, k])
        return np.stack(columns, axis=1)


def evaluated(function: Function, points: np.ndarray) -> np.ndarray:
    """Return the outputs at many points, shape (samples, outputs).

    Raises:
        ValueError: If the function returns another number of rows.
    """
    values = np.asarray(function(points), float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[0] != len(points):
        refuse("function", f"return one row a sample ({len(points)})", f"one that returns shape {values.shape}")
    return values


def by_input(names: tuple[str, ...], **columns: np.ndarray) -> "pandas.DataFrame":
    """Return a table with a row an input and output, from arrays of shape (inputs, outputs)."""
    pandas = require("pandas", extra="data")
    outputs = next(iter(columns.values())).shape[1]
    places = {"input": np.repeat(names, outputs), "output": np.tile(np.arange(outputs), len(names))}
    return pandas.DataFrame(places | {name: values.ravel() for name, values in columns.items()})


def without_failures(*parts: np.ndarray) -> np.ndarray:
    """Return which rows are finite in all parts."""
    return np.all([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts], axis=0)
