"""Where the patients of a cohort are computed: all at once, or in chunks of one shape.

An executor maps any function over a leading axis and knows nothing of models. The function is an equinox module, so
that a second call with the same static parts does not trace again.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_whole

PatientFunction = Callable[[Any, Any], Any]


class AbstractExecutor(eqx.Module):
    """Maps a function of one patient over many."""

    @abc.abstractmethod
    def map(self, function: PatientFunction, each: Any, shared: Any, *, size: int) -> Any:
        """Return `function(each[i], shared)` for every i, stacked.

        Args:
            function: A module that computes one patient.
            each: A tree of arrays with a leading axis of patients.
            shared: A tree that is the same for all patients.
            size: Number of patients.
        """


class Vmap(AbstractExecutor):
    """All patients in one vectorised call: fastest for small cohorts, memory grows with the cohort."""

    def map(self, function: PatientFunction, each: Any, shared: Any, *, size: int) -> Any:
        return _vectorised(function, each, shared, size)


class Chunked(AbstractExecutor):
    """Patients in chunks of one shape, so that memory is bounded by the chunk and one compiled program serves all.

    Args:
        size: Patients in a chunk; the last chunk is padded with copies of its last patient.
        progress: Called after every chunk with the number of patients done and the chunk's result.

    Raises:
        ValueError: If `size` is not positive.
    """

    size: int = eqx.field(default=1024, static=True)
    progress: Callable[[int, Any], None] | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 1)

    def map(self, function: PatientFunction, each: Any, shared: Any, *, size: int) -> Any:
        width, chunks = min(self.size, size), []
        for first in range(0, size, width):
            members = jnp.minimum(jnp.arange(first, first + width), size - 1)
            done = min(first + width, size)
            chunk = _vectorised(function, jax.tree.map(lambda leaf, m=members: leaf[m], each), shared, width)
            chunk = jax.tree.map(lambda leaf, n=done - first: leaf[:n], chunk)
            chunks.append(chunk)
            if self.progress is not None:
                self.progress(done, chunk)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks)


LANES = 8
"""The batch is padded to a multiple of this, so that a patient has the same bits in every batch and chunk."""


@eqx.filter_jit
def _vectorised(function: PatientFunction, each: Any, shared: Any, size: int) -> Any:
    width = -(-size // LANES) * LANES
    padded = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(width), size - 1)], each)
    whole = eqx.filter_vmap(function, in_axes=(0, None), axis_size=width)(padded, shared)
    return jax.tree.map(lambda leaf: leaf[:size], whole)
