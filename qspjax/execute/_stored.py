"""Results that stream into a folder while they are computed, and are never computed twice."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from qspjax._cache import version_of
from qspjax._checks import check_instance
from qspjax._extras import require
from qspjax._fingerprint import fingerprint
from qspjax._identity import environment
from qspjax._progress import Progress
from qspjax.execute._executor import (
    AbstractChunks,
    AbstractExecutor,
    Chunked,
    Each,
    PatientFunction,
    Results,
    check_numbers,
    gathered,
)
from qspjax.execute._store import Contents, Store


class Stored(AbstractExecutor):
    """Stores the results of every chunk in a folder, and goes on there after an interruption of any kind.

    Memory is that of a chunk, and of the numbers that each patient has one of (endpoints, how the solve ended), which
    are columns of tables in Parquet. Trajectories are arrays of Zarr: in the solution, too, where `[...]` reads the
    part that is asked for, and `np.asarray` everything. The same call again computes only chunks that are missing, with
    the same numbers to the last bit, and nothing where all are there.

    Args:
        folder: The folder, made if it does not exist.
        executor: What computes the chunks.
        progress: Called with a `Progress` of patients after every chunk, whose figures are the number `found`, the
            `rate` a second since, and how many seconds are `left`; `print` will do.

    Raises:
        ImportError: If zarr or pyarrow is missing (`pip install 'qspjax[data]'`).
        ValueError: If the folder is the store of another simulation (another model, regimen, method, ..., or another
            version of qspjax or JAX), or not a store.
        OSError: If the folder cannot be written to; what was stored stays as it is.

    Example:
        >>> import tempfile, qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0, 20.0]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = qsp.execute.Stored(folder, qsp.execute.Chunked(2))
        ...     solution = qsp.simulate_cohort(cohort, qsp.bolus(30.0, to="central"), [0.0], executor=stored)
        ...     solution.observed["concentration"][1:, 0]
        array([0.5, 1.5])
    """

    folder: str | os.PathLike[str] = eqx.field(static=True)
    executor: AbstractChunks = Chunked(4096)
    progress: Callable[[Progress], None] | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("folder", self.folder, (str, os.PathLike), "the path of a folder")
        check_instance("executor", self.executor, AbstractChunks, "an executor of chunks, such as Chunked(4096)")

    def map(self, function: PatientFunction, each: Each, shared: PyTree, *, size: int, note: str = "") -> Results:
        require("pyarrow.parquet", extra="data")
        require("zarr", extra="data")
        check_numbers(each, shared, self)
        width = min(self.executor.size, size)
        store = Store(Path(self.folder), Contents(_identity(function, each, shared), size, width, note))
        store.begin()
        missing = store.missing()
        found = done = size - sum(_length(store, chunk) for chunk in missing)
        began, like = time.perf_counter(), None
        for chunk, results in self.executor.chunks(function, each, shared, size=size, wanted=missing):
            store.write(chunk, results)
            done, like = done + _length(store, chunk), results
            if self.progress is not None:
                rate = (done - found) / (time.perf_counter() - began)
                self.progress(Progress(done, size, {"found": found, "rate": rate, "left": (size - done) / rate}))
        return store.read(_nobody(function, each, shared) if like is None else like)


def _identity(function: PatientFunction, each: Each, shared: PyTree) -> dict[str, str]:
    """Return the fingerprints of all that results depend on."""
    return {
        "method, or what is kept or reduced": fingerprint(function),
        "patients, or what differs between them": fingerprint(each),
        "model, regimen or times": fingerprint(shared),
        "settings of XLA and of qspjax": fingerprint(jax.default_backend(), environment()),
        **{f"version of {name}": version_of(name) for name in ("qspjax", "jax", "jaxlib", "llvmlite")},
    }


def _length(store: Store, chunk: int) -> int:
    members = store.contents.members(chunk)
    return members.stop - members.start


def _nobody(function: PatientFunction, each: Each, shared: PyTree) -> PyTree:
    """Return the results of no patient."""
    first = jax.tree.map(lambda leaf: leaf[:1], each)
    shapes = eqx.filter_eval_shape(eqx.filter_vmap(function, in_axes=(0, None), axis_size=1), first, shared)
    return gathered(function, jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes))
