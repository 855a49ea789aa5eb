"""The inputs of a global analysis: distributions or bounds by name."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from qspjax._checks import check_instance, check_number, refuse
from qspjax._distribution import AbstractDistribution
from qspjax._extras import require
from qspjax._types import ArrayInput, Numeric

if TYPE_CHECKING:
    import pandas

Function: TypeAlias = Callable[[np.ndarray], ArrayLike]
"""A function from inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs)."""


class Inputs:
    """Inputs by name: distributions, or bounds of uniform ones.

    With a correlation, they follow from correlated standard normal numbers, z = L z' with independent z'. An index of
    variance is then that of z': what an input adds to those before it, in the order of the names.

    Reference: Mara and Tarantola, Reliab Eng Syst Saf 2012;107:115, doi:10.1016/j.ress.2011.08.008.

    Args:
        inputs: Distributions or pairs of bounds, by name.
        typical: Typical values by name, for distributions that leave their location to the model.
        correlation: That of the normal numbers, shape (inputs, inputs); None for independent inputs.

    Raises:
        ValueError: If bounds are not increasing, there is no input, or the correlation is not positive definite.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> Inputs({"CL": qsp.LogNormal(3.0, cv=0.3), "F": (0.2, 0.8)}).from_unit(np.array([[0.5, 0.5]]))
        array([[3. , 0.5]])
    """

    def __init__(
        self,
        inputs: Mapping[str, AbstractDistribution | tuple[float, float]],
        *,
        typical: Mapping[str, Numeric] | None = None,
        correlation: ArrayInput | None = None,
    ) -> None:
        """Check the inputs."""
        check_instance("inputs", inputs, Mapping, "a mapping of names to distributions or bounds")
        if not inputs:
            refuse("inputs", "have at least one input", "empty")
        self._each, self._typical = dict(inputs), dict(typical or {})
        for name, value in inputs.items():
            if callable(getattr(value, "from_normal", None)):  # a distribution, or categories
                continue
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                refuse(f'inputs["{name}"]', "be a distribution or a pair of bounds", value)
            for edge in value:
                check_number(f'inputs["{name}"]', edge)
            if not value[0] < value[1]:
                refuse(f'inputs["{name}"]', "be bounds in increasing order", tuple(value))

        self._factor = None if correlation is None else _factor(correlation, len(self._each))

    @classmethod
    def of(cls, population: Any) -> "Inputs":
        """Return the inputs that vary between the patients of a population, with their correlation.

        Args:
            population: A `Population`; `OfModel.of` simulates its patients.

        Example:
            >>> import qspjax as qsp
            >>> population = qsp.Population(
            ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
            ...     between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)},
            ...     correlation={("CL", "V"): 0.5},
            ... )
            >>> Inputs.of(population).names
            ('CL', 'V')
        """
        each, typical, correlation = population.inputs()
        independent = np.array_equal(correlation, np.eye(len(each)))
        return cls(each, typical=typical, correlation=None if independent else correlation)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(self._each)

    def from_unit(self, u: np.ndarray) -> np.ndarray:
        """Return inputs for numbers between 0 and 1, by the inverse distribution functions, shape (samples, inputs)."""
        from scipy.special import ndtr, ndtri

        z = ndtri(np.clip(u, 1e-16, 1 - 1e-16))
        if self._factor is not None:
            z = z @ self._factor.T
            u = ndtr(z)
        columns = []
        for k, (name, distribution) in enumerate(self._each.items()):
            if isinstance(distribution, (tuple, list)):
                columns.append(distribution[0] + (distribution[1] - distribution[0]) * u[:, k])
            else:
                columns.append(np.asarray(distribution.from_normal(z[:, k], self._typical.get(name)), float))
        return np.stack(columns, axis=1)


def _factor(correlation: ArrayInput | None, size: int) -> np.ndarray:
    matrix = np.asarray(correlation, float)
    if matrix.shape != (size, size):
        refuse("correlation", f"have shape ({size}, {size}), one row per input", f"of shape {matrix.shape}")
    if not (np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1.0)):
        refuse("correlation", "be symmetric with ones on the diagonal", "not")
    if np.linalg.eigvalsh(matrix).min() <= 0:
        refuse("correlation", "be positive definite", "not")
    return np.linalg.cholesky(matrix)


def evaluated(function: Function, points: np.ndarray) -> np.ndarray:
    """Return the outputs at many points, shape (samples, outputs).

    Raises:
        ValueError: If the function returns another number of rows.
    """
    if not callable(function):
        must = "be a function from samples to outputs, such as `OfModel(model, ...)`"
        refuse("function", must, f"of type {type(function).__name__}")
    values = np.asarray(function(points), float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[0] != len(points):
        refuse("function", f"return one row per sample ({len(points)})", f"one that returns shape {values.shape}")
    return values


def by_input(names: tuple[str, ...], **columns: np.ndarray) -> "pandas.DataFrame":
    """Return a table with one row per input and output, from arrays of shape (inputs, outputs)."""
    pandas = require("pandas", extra="data")
    outputs = next(iter(columns.values())).shape[1]
    labels = {"input": np.repeat(names, outputs), "output": np.tile(np.arange(outputs), len(names))}
    return pandas.DataFrame(labels | {name: values.ravel() for name, values in columns.items()})


def without_failures(*parts: np.ndarray) -> np.ndarray:
    """Return which rows are finite in all parts."""
    return np.all([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts], axis=0)
