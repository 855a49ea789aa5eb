"""Chunks as tasks on a cluster of Dask."""

import copyreg
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox._module._flatten import MISSING
from jaxtyping import PyTree

from qspjax._checks import check_instance, check_whole
from qspjax._extras import require
from qspjax.execute._executor import AbstractChunks, Each, Members, PatientFunction, Results, check_numbers, computed
from qspjax.execute._sketch import AbstractCounts

if TYPE_CHECKING:
    import distributed

copyreg.pickle(type(MISSING), lambda _: "MISSING")  # equinox tells it by `is`, so a copy would be another program
AHEAD = 2
"""How many chunks are on their way for each thread of the cluster, so that none waits for its next."""


class Dask(AbstractChunks):
    """Computes chunks on a cluster that is there: one task a chunk, done again elsewhere where a worker is lost.

    Workers need the same packages; with one thread each, as a chunk uses all cores that a worker may use. Results are
    those of `Chunked`, to the last bit where workers have the same processor. Only some chunks are on their way at a
    time, so `Stored(folder, Dask(client))` runs in bounded memory here, too.

    Args:
        client: A `distributed.Client`.
        size: Patients in a chunk.
        progress: Called after every chunk with the number of patients computed and the chunk's result.

    Raises:
        ImportError: If the package distributed is missing (`pip install 'qspjax[distributed]'`).
        ValueError: If `client` is not a client, or `size` not positive.

    Example:
        >>> import distributed, qspjax as qsp  # doctest: +SKIP
        >>> client = distributed.Client("scheduler:8786")  # doctest: +SKIP
        >>> qsp.simulate_cohort(cohort, dose, ts, executor=qsp.execute.Dask(client))  # doctest: +SKIP
    """

    client: "distributed.Client" = eqx.field(static=True)
    size: int = eqx.field(default=4096, static=True)
    progress: Callable[[int, PyTree], None] | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        client = require("distributed", extra="distributed").Client
        check_instance("client", self.client, client, "a client of Dask (a `distributed.Client`)")
        check_whole("size", self.size, 1)

    def chunks(
        self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Results]]:
        check_numbers(each, shared, self)
        each = jax.tree.map(np.asarray, each)
        width, waiting, done = min(self.size, size), list(reversed(wanted)), 0
        numbers, running = {}, require("distributed", extra="distributed").as_completed(loop=self.client.loop)
        while waiting or numbers:
            threads: Any = self.client.nthreads()
            while waiting and len(numbers) < AHEAD * max(1, sum(threads.values())):
                number = waiting.pop()
                patients = np.minimum(np.arange(number * width, (number + 1) * width), size - 1)
                members = jax.tree.map(lambda leaf, patients=patients: leaf[patients], each)
                count = min(width, size - number * width)
                future = self.client.submit(_on_worker, function, members, shared, width, count, pure=False)
                numbers[future.key] = number
                running.add(future)
            future = next(running)
            chunk, number = future.result(), numbers.pop(future.key)
            del future  # and so its result on the cluster
            done += min(width, size - number * width)
            if self.progress is not None:
                self.progress(done, chunk)
            yield number, chunk


def _on_worker(function: PatientFunction, each: Members, shared: PyTree, width: int, count: int) -> Results:
    """Compute a chunk, on a worker; the results are arrays of numpy, or sketches."""
    chunk = computed(function, jax.tree.map(jnp.asarray, each), shared, width, count)
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, AbstractCounts) else np.asarray(leaf), chunk)
