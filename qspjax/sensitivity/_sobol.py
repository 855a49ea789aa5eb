"""Sobol indices: which part of the variance of an output is due to each input, alone and with all others.

    S_i = Var(E[Y | X_i]) / Var(Y),  S_Ti = E[Var(Y | X_~i)] / Var(Y)

Two independent samples A and B, and for each input the sample A with the column of B: N (d + 2) evaluations.
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
class Sobol:
    """Sobol indices of each input, shape (inputs, outputs).

    Attributes:
        names: The inputs.
        first: First-order indices.
        total: Total indices.
        first_error: Half the width of the confidence interval of `first`.
        total_error: Half the width of that of `total`.
        variance: The variance of each output.
        failed: Samples that were left out because an evaluation failed.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, sobol
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = sobol(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0), samples=64)
        >>> found.first.shape, found.failed
        ((2, 1), 0)
    """

    names: tuple[str, ...]
    first: np.ndarray
    total: np.ndarray
    first_error: np.ndarray
    total_error: np.ndarray
    variance: np.ndarray
    failed: int

    def __str__(self) -> str:
        return by_output(
            self.names, first=self.first, first_error=self.first_error, total=self.total, total_error=self.total_error
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per input and output."""
        return by_input(
            self.names, first=self.first, first_error=self.first_error, total=self.total, total_error=self.total_error
        )


def sobol(
    function: Function,
    inputs: Inputs,
    *,
    key: Key,
    samples: int = 1024,
    level: float = 0.95,
    resamples: int = 200,
) -> Sobol:
    """Estimate first-order and total Sobol indices with confidence intervals.

    First order by the estimator of Saltelli et al. (2010), total by that of Jansen, on a scrambled Sobol sequence; the
    intervals are bootstrapped.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs), such as
            an `OfModel`.
        inputs: The inputs that vary.
        key: `jax.random.key(seed)`.
        samples: N; a power of 2 keeps the sequence balanced.
        level: The confidence level.
        resamples: Number of bootstrap samples.

    Raises:
        ValueError: If `samples` is less than 2, or fewer than two evaluations succeed.

    Reference: Saltelli et al., Comput Phys Commun 2010;181:259, doi:10.1016/j.cpc.2009.09.018.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, sobol
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = sobol(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0), samples=512)
        >>> found.first[:, 0].round(2)
        array([0.2, 0.8])
    """
    check_whole("samples", samples, 2)
    points = saltelli(inputs, samples, key)
    values = evaluated(function, points)
    return sobol_of(values, inputs.names, key=key, level=level, resamples=resamples)


def saltelli(inputs: Inputs, samples: int, key: Key) -> np.ndarray:
    """Return the points of the analysis, blocks of `samples`: A, B, and A with each column of B, in turn."""
    import warnings

    from scipy.stats import qmc

    count = len(inputs.names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The balance properties", category=UserWarning)
        unit = qmc.Sobol(2 * count, rng=generator(key)).random(samples)
    first, second = unit[:, :count], unit[:, count:]
    blocks = [first, second]
    for k in range(count):
        mixed = first.copy()
        mixed[:, k] = second[:, k]
        blocks.append(mixed)
    return inputs.from_unit(np.concatenate(blocks))


def sobol_of(
    values: np.ndarray, names: tuple[str, ...], *, key: Key, level: float = 0.95, resamples: int = 200
) -> Sobol:
    """Return the indices from outputs at the points of `saltelli`, shape (samples (inputs + 2), outputs).

    Raises:
        ValueError: If fewer than two evaluations succeed.
    """
    from scipy.stats import norm

    parts = values.reshape(len(names) + 2, -1, values.shape[1])
    succeeded = without_failures(*parts)
    if succeeded.sum() < 2:
        raise ValueError(f"At least two evaluations must succeed, but {succeeded.sum()} of {succeeded.size} do.")
    parts = parts[:, succeeded]
    first, total, variance = _indices(parts)
    rng = generator(key)
    drawn = [_indices(parts[:, rng.integers(0, parts.shape[1], parts.shape[1])])[:2] for _ in range(resamples)]
    quantile = norm.ppf(0.5 + level / 2)
    first_error, total_error = (quantile * np.std([pair[k] for pair in drawn], axis=0, ddof=1) for k in (0, 1))
    return Sobol(names, first, total, first_error, total_error, variance, int((~succeeded).sum()))


def _indices(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second, mixed = parts[0], parts[1], parts[2:]
    both = np.concatenate([first, second])
    variance = both.var(axis=0)
    safe = np.where(variance > 0, variance, np.nan)
    middle = parts.mean(axis=(0, 1))
    main = np.mean((second - middle) * (mixed - first), axis=1) / safe
    total = 0.5 * np.mean((first - mixed) ** 2, axis=1) / safe
    return main, total, variance
