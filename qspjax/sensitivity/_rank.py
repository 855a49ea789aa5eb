"""Partial rank correlation: whether an output goes up or down with an input, all others taken out.

Reference: Marino et al., J Theor Biol 2008;254:178, doi:10.1016/j.jtbi.2008.04.011.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_whole
from qspjax._text import by_output
from qspjax.sensitivity._design import Function, Inputs, by_input, evaluated, without_failures

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Partial rank correlation coefficients, shape (inputs, outputs).

    Attributes:
        names: The inputs.
        coefficients: Between -1 and 1.
        p_values: How probable one so far from 0 is by chance.
        failed: Samples that were left out because an evaluation failed.

    Example:
        >>> from qspjax.sensitivity import Inputs, prcc
        >>> found = prcc(lambda x: x[:, 0] - x[:, 1], Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)}))
        >>> (found.coefficients[:, 0] > 0).tolist()
        [True, False]
    """

    names: tuple[str, ...]
    coefficients: np.ndarray
    p_values: np.ndarray
    failed: int

    def __str__(self) -> str:
        return by_output(self.names, coefficient=self.coefficients, p_value=self.p_values)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with a row an input and output."""
        return by_input(self.names, coefficients=self.coefficients, p_values=self.p_values)


def prcc(function: Function, inputs: Inputs, *, samples: int = 1000, seed: int = 0) -> Ranks:
    """Return partial rank correlation coefficients from a Latin hypercube.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs).
        inputs: What varies.
        samples: How many.
        seed: Of the random numbers.

    Raises:
        ValueError: If there are not enough samples for the inputs.

    Example:
        >>> from qspjax.sensitivity import Inputs, prcc
        >>> found = prcc(lambda x: x[:, 0] - x[:, 1] ** 3, Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)}))
        >>> found.coefficients[:, 0].round(1)
        array([ 0.9, -0.9])
    """
    from scipy.stats import qmc

    check_whole("samples", samples, len(inputs.names) + 3)
    unit = qmc.LatinHypercube(len(inputs.names), rng=seed).random(samples)
    points = inputs.from_unit(unit)
    return ranks_of(points, evaluated(function, points), inputs.names)


def ranks_of(points: np.ndarray, values: np.ndarray, names: tuple[str, ...]) -> Ranks:
    """Return the coefficients from samples of inputs, shape (samples, inputs), and outputs.

    Raises:
        ValueError: If too few evaluations succeed.
    """
    from scipy.stats import rankdata, t

    fine = without_failures(values)
    count, size = len(names), int(fine.sum())
    if size < count + 3:
        raise ValueError(f"At least {count + 3} evaluations must succeed, but {size} of {fine.size} do.")
    ranked = rankdata(points[fine], axis=0)
    found = np.empty((count, values.shape[1]))
    for output in range(values.shape[1]):
        inverse = np.linalg.pinv(np.corrcoef(np.column_stack([ranked, rankdata(values[fine, output])]), rowvar=False))
        found[:, output] = -inverse[:count, count] / np.sqrt(np.diag(inverse)[:count] * inverse[count, count])
    freedom = size - 1 - count
    with np.errstate(divide="ignore"):
        statistic = found * np.sqrt(freedom / np.maximum(1 - found**2, 0.0))
    return Ranks(names, found, 2 * t.sf(np.abs(statistic), freedom), int((~fine).sum()))
