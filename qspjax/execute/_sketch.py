"""What is kept of the numbers of all patients where there are too many to keep the numbers themselves.

Everything that is kept are counts, whole numbers, so that a sketch has the same bits however the patients were divided
into chunks, and whoever counted them in whatever order.
"""

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from qspjax._arrays import floats
from qspjax._checks import check_increasing, check_whole, refuse
from qspjax._types import ArrayInput


class AbstractCounts(abc.ABC):
    """The counts of the numbers of some patients; those of others can be added.

    Attributes:
        counts: Whole numbers.
        missing: How many numbers of each kind were NaN.
    """

    counts: np.ndarray
    missing: np.ndarray

    @abc.abstractmethod
    def merged(self, other: "AbstractCounts") -> "AbstractCounts":
        """Return the counts of the patients of both."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that differ between chunks, by name, as `replaced` takes them."""

    @abc.abstractmethod
    def replaced(self, arrays: Mapping[str, np.ndarray]) -> "AbstractCounts":
        """Return the same kind of counts with other arrays."""


class AbstractSketch(eqx.Module):
    """A `reduce` of `simulate_cohort` that keeps counts of what a function returns, in place of a number per patient.

    Attributes:
        function: A function of one patient's `Solution`, such as an endpoint; a tree of numbers, or of arrays.
    """

    function: eqx.AbstractVar[Callable[[Any], PyTree]]

    def __check_init__(self) -> None:
        if not callable(self.function):
            refuse("function", "be a function of one patient's solution, such as an endpoint", self.function)

    def __call__(self, solution: Any) -> PyTree:
        return self.function(solution)

    def of(self, values: PyTree) -> PyTree:
        """Return the counts of the values of some patients, each leaf of shape (patients, ...)."""
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
            must = "be no sketch inside `jit`, `grad` and `vmap`, where there are no numbers yet"
            refuse("reduce", must, type(self).__name__)
        return jax.tree.map(lambda leaf: self.counted(np.asarray(leaf, float)), values)

    @abc.abstractmethod
    def counted(self, values: np.ndarray) -> AbstractCounts:
        """Return the counts of an array of shape (patients, ...)."""


def _in_numpy(values: ArrayInput) -> np.ndarray:
    return np.asarray(floats(values))


class Histogram(AbstractSketch):
    """Counts how many patients lie between edges.

    In the solution, each number (or array) that the function returns has become its `counts`, shape (..., edges + 1),
    the first below all edges and the last above; `missing` is how many were NaN.

    Args:
        function: A function of one patient's `Solution`.
        edges: The edges of the bins, increasing, shape (edges,). A number on an edge belongs to the bin above it.

    Raises:
        ValueError: If `function` cannot be called, or the edges do not increase.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0, 20.0]})
        >>> first = qsp.endpoints.Value("concentration", at=0.0)
        >>> histogram = qsp.execute.Histogram(first, [0.0, 1.0, 2.0])
        >>> dose = qsp.bolus(30.0, to="central")
        >>> qsp.simulate_cohort(cohort, dose, [0.0], save=(), reduce=histogram).reduced.counts
        array([0, 1, 2, 0])
    """

    function: Callable[[Any], PyTree]
    edges: np.ndarray = eqx.field(converter=_in_numpy)

    def __check_init__(self) -> None:
        if self.edges.ndim != 1 or self.edges.size < 2:
            refuse("edges", "be two or more numbers, of shape (edges,)", f"of shape {self.edges.shape}")
        check_increasing("edges", self.edges)
        if not (np.diff(self.edges) > 0).all():
            refuse("edges", "be different numbers", self.edges)

    def counted(self, values: np.ndarray) -> AbstractCounts:
        patients, kinds = values.shape[:1], values.shape[1:]
        flat = values.reshape(*patients, math.prod(kinds))
        bins, missing = self.edges.size + 1, np.isnan(flat)
        at = np.searchsorted(self.edges, flat, side="right") + bins * np.arange(flat.shape[1])
        counts = np.bincount(at[~missing], minlength=bins * flat.shape[1])
        return HistogramCounts(self.edges, counts.reshape(*kinds, bins), missing.sum(axis=0).reshape(kinds))


class HistogramCounts(AbstractCounts):
    """How many patients lie between edges.

    Attributes:
        edges: The edges, shape (edges,).
        counts: By kind of number and bin, shape (..., edges + 1): the first below all edges, the last above.
        missing: How many numbers of each kind were NaN, shape (...).
    """

    def __init__(self, edges: np.ndarray, counts: np.ndarray, missing: np.ndarray) -> None:
        self.edges, self.counts, self.missing = edges, counts, missing

    def merged(self, other: AbstractCounts) -> "HistogramCounts":
        return HistogramCounts(self.edges, self.counts + other.counts, self.missing + other.missing)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts, "missing": self.missing}

    def replaced(self, arrays: Mapping[str, np.ndarray]) -> "HistogramCounts":
        return HistogramCounts(self.edges, arrays["counts"], arrays["missing"])


class Quantiles(AbstractSketch):
    """Keeps quantiles to a relative error, by counting numbers with the same leading bits.

    In the solution, each number (or array) that the function returns has become its counts, whose `quantile(q)` is of
    shape (quantiles, ...), and `missing` how many were NaN.

    Numbers are the same if their sign, their exponent and the first `bits` bits of their fraction are: a bin is 2^-bits
    of its numbers wide, so that a quantile is within 2^-(bits + 1) of a number of that rank (0.05 % with 10). This is
    the histogram of HdrHistogram and DDSketch (doi:10.14778/3352063.3352135), with bins that need no logarithm.

    Args:
        function: A function of one patient's `Solution`.
        bits: How many bits of the fraction count, up to 20.

    Raises:
        ValueError: If `function` cannot be called, or `bits` is not a whole number from 1 to 20.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": np.linspace(10.0, 60.0, 501)})
        >>> quantiles = qsp.execute.Quantiles(qsp.endpoints.Value("concentration", at=0.0))
        >>> dose = qsp.bolus(30.0, to="central")
        >>> kept = qsp.simulate_cohort(cohort, dose, [0.0], save=(), reduce=quantiles).reduced
        >>> kept.quantile([0.0, 0.5, 1.0]).round(2)
        array([0.5 , 0.86, 3.  ])
    """

    function: Callable[[Any], PyTree]
    bits: int = eqx.field(default=10, static=True)

    def __check_init__(self) -> None:
        check_whole("bits", self.bits, 1)
        if self.bits > _FIELD - 12:
            refuse("bits", f"be at most {_FIELD - 12}", self.bits)

    def counted(self, values: np.ndarray) -> AbstractCounts:
        kinds = values.shape[1:]
        flat = values.reshape(values.shape[0], math.prod(kinds))
        missing = np.isnan(flat)
        keys = (np.arange(flat.shape[1]) << _FIELD) + _bin(flat, self.bits) + _MIDDLE
        keys, counts = np.unique(keys[~missing], return_counts=True)
        return QuantileCounts(self.bits, keys, counts, missing.sum(axis=0).reshape(kinds))


_FIELD = 32
"""The bits of a key in which a bin is counted; those above are the number of the kind."""
_MIDDLE = 1 << (_FIELD - 1)
_FRACTION = 52


def _bin(values: np.ndarray, bits: int) -> np.ndarray:
    """Return the sign, exponent and leading bits of numbers as whole numbers in the same order."""
    size = np.abs(values).view(np.int64) >> (_FRACTION - bits)
    return np.where(np.signbit(values), -size - 1, size)


def _middle(bins: np.ndarray, bits: int) -> np.ndarray:
    """Return the numbers in the middle of bins."""
    size = np.where(bins < 0, -bins - 1, bins)
    low = size << (_FRACTION - bits)
    exact = (low == 0) | (low == np.float64(np.inf).view(np.int64))
    middle = np.where(exact, low, low + (1 << (_FRACTION - bits - 1))).view(np.float64)
    return np.where(bins < 0, -middle, middle)


class QuantileCounts(AbstractCounts):
    """How many patients have numbers with the same leading bits.

    Attributes:
        bits: How many bits of the fraction count.
        keys: The bins that are not empty, with the kind of number in the leading bits.
        counts: How many numbers are in each of them.
        missing: How many numbers of each kind were NaN, shape (...).
    """

    def __init__(self, bits: int, keys: np.ndarray, counts: np.ndarray, missing: np.ndarray) -> None:
        self.bits, self.keys, self.counts, self.missing = bits, keys, counts, missing

    def quantile(self, q: ArrayInput) -> np.ndarray:
        """Return quantiles of the numbers that are not missing, shape (quantiles, ...); NaN where there is none.

        Args:
            q: Shares from 0 to 1, a number or shape (quantiles,). The number of rank `ceil(q n)` of n is taken.
        """
        shares = _in_numpy(q)
        if not ((shares >= 0) & (shares <= 1)).all():
            refuse("q", "be from 0 to 1", q)
        kind, found = self.keys >> _FIELD, np.full((self.missing.size, shares.size), np.nan)
        for i in np.unique(kind):
            counts, keys = self.counts[kind == i], self.keys[kind == i]
            ranks = np.maximum(np.ceil(shares.ravel() * counts.sum()), 1)
            bins = keys[np.searchsorted(np.cumsum(counts), ranks)] - (i << _FIELD) - _MIDDLE
            found[i] = _middle(bins, self.bits)
        return np.moveaxis(found, -1, 0).reshape((*shares.shape, *self.missing.shape))

    def merged(self, other: AbstractCounts) -> "QuantileCounts":
        theirs = other.arrays()
        keys = np.concatenate([self.keys, theirs["keys"]])
        order = np.argsort(keys, kind="stable")  # a merge of two that are in order
        keys, counts = keys[order], np.concatenate([self.counts, other.counts])[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        keys, counts = keys[first], np.add.reduceat(counts, first) if first.size else counts
        return QuantileCounts(self.bits, keys, counts, self.missing + other.missing)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"keys": self.keys, "counts": self.counts, "missing": self.missing}

    def replaced(self, arrays: Mapping[str, np.ndarray]) -> "QuantileCounts":
        return QuantileCounts(self.bits, arrays["keys"], arrays["counts"], arrays["missing"])
