"""The extended Fourier amplitude sensitivity test: Sobol indices from the spectrum along one curve for each input."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_whole, refuse
from qspjax._random import generator
from qspjax._text import by_output
from qspjax._types import Key
from qspjax.sensitivity._design import Function, Inputs, by_input, evaluated

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Fast:
    """First-order and total indices, shape (inputs, outputs).

    Attributes:
        names: The inputs.
        first: First-order indices.
        total: Total indices.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, efast
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = efast(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0))
        >>> found.first.shape
        (2, 1)
    """

    names: tuple[str, ...]
    first: np.ndarray
    total: np.ndarray

    def __str__(self) -> str:
        return by_output(self.names, first=self.first, total=self.total)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per input and output."""
        return by_input(self.names, first=self.first, total=self.total)


def efast(function: Function, inputs: Inputs, *, key: Key, samples: int = 1025, harmonics: int = 4) -> Fast:
    """Estimate first-order and total indices by eFAST.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs).
        inputs: The inputs that vary.
        samples: Points on the curve of each input, more than 4 `harmonics`^2.
        harmonics: Number of harmonics of the frequency of an input that are attributed to it.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If there are too few samples, or an evaluation fails (a curve needs all of them).

    Reference: Saltelli, Tarantola and Chan, Technometrics 1999;41:39, doi:10.1080/00401706.1999.10485594.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, efast
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> efast(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0)).first[:, 0].round(2)
        array([0.2, 0.8])
    """
    check_whole("samples", samples, 4 * harmonics**2 + 1)
    count = len(inputs.names)
    rng = generator(key)
    curve = np.linspace(-np.pi, np.pi, samples, endpoint=False)
    highest = (samples - 1) // (2 * harmonics)
    others = _others(highest // (2 * harmonics), count - 1)
    unit = []
    for k in range(count):
        frequencies = np.insert(others, k, highest)
        phases = rng.uniform(0.0, 2.0 * np.pi, count)
        unit.append(0.5 + np.arcsin(np.sin(frequencies * curve[:, None] + phases)) / np.pi)
    values = evaluated(function, inputs.from_unit(np.concatenate(unit)))
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        refuse("function", "succeed at every sample", f"one that fails at {bad} of {len(values)}")
    return fast_of(values.reshape(count, samples, -1), highest, harmonics, inputs.names)


def _others(largest: int, count: int) -> np.ndarray:
    """Return the frequencies of the other inputs."""
    if count == 0:
        return np.zeros(0, int)
    if largest >= count:
        return np.floor(np.linspace(1, largest, count)).astype(int)
    return np.arange(count) % max(largest, 1) + 1


def fast_of(values: np.ndarray, highest: int, harmonics: int, names: tuple[str, ...]) -> Fast:
    """Return the indices from outputs along the curves, shape (inputs, samples, outputs)."""
    spectrum = np.abs(np.fft.rfft(values, axis=1))[:, 1 : (values.shape[1] + 1) // 2] ** 2
    variance = spectrum.sum(axis=1)
    safe = np.where(variance > 0, variance, np.nan)
    main = spectrum[:, np.arange(1, harmonics + 1) * highest - 1].sum(axis=1)
    complement = spectrum[:, : highest // 2].sum(axis=1)
    return Fast(names, main / safe, 1.0 - complement / safe)
