"""Partial rank correlation: whether an output rises or falls with an input, adjusted for all others.

Reference: Marino et al., J Theor Biol 2008;254:178, doi:10.1016/j.jtbi.2008.04.011.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_whole
from qspjax._random import generator
from qspjax._text import by_output
from qspjax._types import Key
from qspjax.sensitivity._design import Function, Inputs, by_input, evaluated, without_failures

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Partial rank correlation coefficients, shape (inputs, outputs).

    Attributes:
        names: The inputs.
        coefficients: Between -1 and 1; 0 where the other inputs leave nothing of the output, or of the input.
        p_values: The probability that a coefficient is as far from 0 by chance.
        failed: Samples that were left out because an evaluation failed.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, prcc
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = prcc(lambda x: x[:, 0] - x[:, 1], inputs, key=jax.random.key(0))
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
        """Return a table with one row per input and output."""
        return by_input(self.names, coefficients=self.coefficients, p_values=self.p_values)


def prcc(function: Function, inputs: Inputs, *, key: Key, samples: int = 1000) -> Ranks:
    """Return partial rank correlation coefficients from a Latin hypercube.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs).
        inputs: The inputs that vary.
        key: `jax.random.key(seed)`.
        samples: Number of samples.

    Raises:
        ValueError: If there are not enough samples for the inputs.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, prcc
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = prcc(lambda x: x[:, 0] - x[:, 1] ** 3, inputs, key=jax.random.key(0))
        >>> found.coefficients[:, 0].round(1)
        array([ 0.9, -0.9])
    """
    from scipy.stats import qmc

    check_whole("samples", samples, len(inputs.names) + 3)
    unit = qmc.LatinHypercube(len(inputs.names), rng=generator(key)).random(samples)
    points = inputs.from_unit(unit)
    return ranks_of(points, evaluated(function, points), inputs.names)


def ranks_of(points: np.ndarray, values: np.ndarray, names: tuple[str, ...]) -> Ranks:
    """Return the coefficients from samples of inputs, shape (samples, inputs), and outputs.

    Raises:
        ValueError: If too few evaluations succeed.
    """
    from scipy.stats import rankdata, t

    succeeded = without_failures(values)
    count, size = len(names), int(succeeded.sum())
    if size < count + 3:
        raise ValueError(f"At least {count + 3} evaluations must succeed, but {size} of {succeeded.size} do.")
    inputs, outputs = _centred(rankdata(points[succeeded], axis=0)), _centred(rankdata(values[succeeded], axis=0))
    coefficients = np.stack([_partial(inputs[:, k], np.delete(inputs, k, axis=1), outputs) for k in range(count)])
    freedom = size - 1 - count
    with np.errstate(divide="ignore"):
        statistic = coefficients * np.sqrt(freedom / np.maximum(1 - coefficients**2, 0.0))
    return Ranks(names, coefficients, 2 * t.sf(np.abs(statistic), freedom), int((~succeeded).sum()))


def _centred(ranks: np.ndarray) -> np.ndarray:
    return ranks - ranks.mean(axis=0)


def _partial(column: np.ndarray, others: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return the correlation of what the other inputs leave of an input and of each output; 0 if they leave nothing.

    It uses residuals, as the correlation matrix is singular if an output depends on one input alone.
    """
    both = np.column_stack([column, outputs])
    residuals = both - others @ np.linalg.lstsq(others, both, rcond=None)[0]
    residuals[:, np.linalg.norm(residuals, axis=0) <= 1e-9 * np.linalg.norm(both, axis=0)] = 0.0
    length = np.linalg.norm(residuals, axis=0)
    scale = length[0] * length[1:]
    return np.divide(residuals[:, 0] @ residuals[:, 1:], scale, out=np.zeros_like(scale), where=scale > 0)
