"""Where the patients of a cohort are computed: all at once, or in chunks of one shape; on a CPU, on all cores.

An executor maps any function over a leading axis and knows nothing of models. The function is an equinox module, so
that a second call with the same static parts does not trace again.

XLA runs the loops of one program one after the other, so the cores of a CPU are used by threads: each runs the same
compiled program on a part of the patients. Inside `jit` or `grad` there is one program, and so one core.
"""

import abc
import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree, Shaped

from qspjax._arrays import namespace, put, taken
from qspjax._checks import check_whole, refuse
from qspjax._programs import program
from qspjax.execute._sketch import AbstractCounts

PatientFunction = Callable[[PyTree, PyTree], PyTree]
Each = PyTree[Shaped[Array | np.ndarray, "patients ..."]]
Members = PyTree[Shaped[Array | np.ndarray, "members ..."]]
Results = PyTree[Shaped[Array, "patients ..."]]


class AbstractGathering(eqx.Module):
    """A function of one patient that says what is kept of many: sketches in place of one number per patient."""

    @abc.abstractmethod
    def gathered(self, results: Results) -> PyTree:
        """Return what is kept of the results of some patients; a leaf is an array of them, or `AbstractCounts`."""


class AbstractExecutor(eqx.Module):
    """Maps a function of one patient over many.

    Example:
        >>> import jax, qspjax as qsp
        >>> class Double(eqx.Module):
        ...     def __call__(self, each, shared):
        ...         return 2 * each + shared
        >>> qsp.execute.Vmap().map(Double(), jnp.arange(3), 1, size=3)
        Array([1, 3, 5], dtype=int64)
    """

    @abc.abstractmethod
    def map(self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, note: str = "") -> Results:
        """Return `function(each[i], shared)` for every i, stacked, or as the function gathers them.

        Args:
            function: A module that computes one patient.
            each: A tree of arrays with a leading axis of patients.
            shared: A tree that is the same for all patients.
            size: Number of patients.
            note: What else there is to say of the results, for an executor that keeps them.
        """


class Vmap(AbstractExecutor):
    """All patients at once, on all cores of a CPU: fastest for small cohorts, memory grows with the cohort.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> dose = qsp.bolus(30.0, to="central")
        >>> qsp.simulate_cohort(cohort, dose, [0.0], executor=qsp.execute.Vmap()).observed["concentration"]
        Array([[1. ],
               [0.5]], dtype=float64)
    """

    def map(self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, note: str = "") -> Results:
        del note
        return gathered(function, _on_all_cores(function, each, shared, size))


class AbstractChunks(AbstractExecutor):
    """Computes patients in chunks of one shape, each of which can be computed alone, with the same numbers.

    Attributes:
        size: Patients in a chunk; the last chunk is padded with copies of its last patient.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.execute.Chunked(4), qsp.execute.AbstractChunks), qsp.execute.Chunked(4).count(10)
        (True, 3)
    """

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def chunks(
        self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Results]]:
        """Yield the number and the results of each wanted chunk, when it is computed.

        Args:
            function: A module that computes one patient.
            each: A tree of arrays with a leading axis of patients.
            shared: A tree that is the same for all patients.
            size: Number of patients.
            wanted: The numbers of the chunks to compute, from 0.
        """

    def count(self, size: int) -> int:
        """Return how many chunks so many patients are."""
        return -(-size // min(self.size, size))

    def map(self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, note: str = "") -> Results:
        del note
        stacked, merged = {}, None
        for number, chunk in self.chunks(function, each, shared, size=size, wanted=range(self.count(size))):
            counts, stacked[number] = eqx.partition(chunk, lambda leaf: isinstance(leaf, AbstractCounts))
            merged = counts if merged is None else jax.tree.map(lambda all, more: all.merged(more), merged, counts)
        return eqx.combine(merged, jax.tree.map(_joined, *(stacked[number] for number in sorted(stacked))))


class Chunked(AbstractChunks):
    """Patients in chunks of one shape, so that memory is bounded by the chunk and one compiled program serves all.

    Args:
        size: Patients in a chunk; the last chunk is padded with copies of its last patient.
        progress: Called after every chunk with the number of patients computed and the chunk's result.

    Raises:
        ValueError: If `size` is not positive.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0, 20.0]})
        >>> dose = qsp.bolus(30.0, to="central")
        >>> qsp.simulate_cohort(cohort, dose, [0.0], executor=qsp.execute.Chunked(2)).observed["concentration"]
        Array([[1. ],
               [0.5],
               [1.5]], dtype=float64)
    """

    size: int = eqx.field(default=1024, static=True)
    progress: Callable[[int, PyTree], None] | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 1)

    def chunks(
        self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Results]]:
        width, done = min(self.size, size), 0
        for number in wanted:
            first = number * width
            count = min(width, size - first)
            chunk, done = computed(function, _patients(each, first, width, size), shared, width, count), done + count
            if self.progress is not None:
                self.progress(done, chunk)
            yield number, chunk


def computed(function: PatientFunction, each: Members, shared: PyTree, width: int, count: int) -> PyTree:
    """Return what is kept of the first patients of a chunk, which the others fill up."""
    results = _on_all_cores(function, each, shared, width, count)
    return gathered(function, jax.tree.map(lambda leaf: leaf[:count] if len(leaf) > count else leaf, results))


def check_numbers(each: Each, shared: PyTree, executor: AbstractExecutor) -> None:
    """Check that all numbers are known, as what leaves this process must be."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((each, shared))):
        must = "be another one inside `jit`, `grad` and `vmap`, where there are no numbers yet"
        refuse("executor", must, type(executor).__name__)


def gathered(function: PatientFunction, results: Results) -> PyTree:
    """Return what a function keeps of the results of some patients."""
    return function.gathered(results) if isinstance(function, AbstractGathering) else results


def _joined(*leaves: jax.Array) -> jax.Array:
    """Return a leaf of the results of all chunks from those of each, without a program where all are at hand."""
    if namespace(*leaves) is np and jax.default_backend() == "cpu":
        return put(np.concatenate(leaves))
    return jnp.concatenate(leaves)


MIN_PATIENTS = 128
"""Minimum number of patients per core for which another thread pays off."""


def _on_all_cores(
    function: PatientFunction, each: Each, shared: PyTree, size: int, count: int | None = None
) -> Results:
    """Compute the first `count` patients (all), in one part per core if there are enough of them.

    Parts have the shape of `size` patients whatever the count, so that one program serves the last chunk, too.
    """
    parts = min(cores(), size // MIN_PATIENTS)
    leaves = jax.tree.leaves((each, shared))
    if any(isinstance(leaf, Tracer) for leaf in leaves) or jax.default_backend() != "cpu":
        return _vectorised(function, each, shared, size)
    if parts < 2:
        return _in_class(function, each, shared, size)
    count = size if count is None else count
    width, share = (-(-number // (parts * LANES)) * LANES for number in (size, count))

    def part(first: int) -> Results:
        real = min(share, count - first)
        members = jax.tree.map(lambda leaf: _filled(np.asarray(leaf)[first : first + real], width), each)
        results = jax.block_until_ready(_vectorised(function, members, shared, width))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:real], results)

    with concurrent.futures.ThreadPoolExecutor(parts) as pool:
        done = list(pool.map(part, range(0, count, share)))
    return jax.tree.map(lambda *leaves: put(np.concatenate(leaves)), *done)


def _in_class(function: PatientFunction, each: Each, shared: PyTree, size: int) -> Results:
    """Compute the patients in a batch that is filled up, by the program that serves every batch of its class."""
    width = _class_of(size)
    results = _vectorised(function, jax.tree.map(lambda leaf: _filled(np.asarray(leaf), width), each), shared, width)
    return jax.tree.map(lambda leaf: put(np.asarray(leaf)[:size]), results) if width > size else results


def _filled(values: np.ndarray, width: int) -> jax.Array:
    """Return an array of this length; what is added is not a number, which fails at once, or copies of the last."""
    filling = np.nan if np.issubdtype(values.dtype, np.floating) else values[-1:]
    rest = np.broadcast_to(np.asarray(filling, values.dtype), (width - len(values), *values.shape[1:]))
    return put(np.concatenate([values, rest]))


def _class_of(size: int) -> int:
    """Return the number that a batch is filled up to: a power of two, in eighths of one for large batches."""
    power = 1 << max(size - 1, 0).bit_length()
    step = power if power <= SMALL else power // 16
    return max(-(-size // step) * step, LANES)


def _patients(each: Each, first: int, width: int, size: int) -> Members:
    """Return `width` patients from the first on; past the end, copies of the last."""
    if first == 0 and width >= size:
        return jax.tree.map(lambda leaf: _repeated(leaf, width - size), each)
    members = np.minimum(np.arange(first, first + width), size - 1)
    return jax.tree.map(lambda leaf: taken(leaf, members), each)


def _repeated(leaf: jax.Array, count: int) -> jax.Array:
    """Return an array with so many copies of its last element after it."""
    last = jnp.broadcast_to(leaf[-1:], (count, *leaf.shape[1:]))
    return jnp.concatenate([leaf, last]) if count else leaf


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


SMALL = 1024
"""Up to this many patients, the classes of batches are powers of two."""
LANES = 8
"""The batch is padded to a multiple of this, so that a patient has the same bits in every batch and chunk."""


@program
def _vectorised(function: PatientFunction, each: Each, shared: PyTree, size: int) -> Results:
    width = -(-size // LANES) * LANES
    padded = _patients(each, 0, width, size)
    results = eqx.filter_vmap(function, in_axes=(0, None), axis_size=width)(padded, shared)
    return jax.tree.map(lambda leaf: leaf[:size], results)
