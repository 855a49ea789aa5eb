"""A folder of results, chunk by chunk: a manifest, tables in Parquet and trajectories in Zarr.

    manifest.json         of what the results are: fingerprints, numbers of patients, versions
    tables/00000.parquet  of each chunk what is one number per patient, a column each; written last
    trajectories/         a group of Zarr with an array for everything else, one chunk of it per chunk of patients
    sketches/00000.npz    of each chunk the counts of sketches, where there are any

Every file is written under another name and renamed, the table of a chunk after all else of it, so that a chunk is
stored whole where its table is there.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from qspjax._arrays import put
from qspjax._extras import require
from qspjax._files import as_file_name, replaced, write_text
from qspjax.execute._sketch import AbstractCounts

if TYPE_CHECKING:
    import zarr

MANIFEST = "manifest.json"
PATIENT = "patient"
"""The column, and the axis, of the numbers of patients."""


class Contents(NamedTuple):
    """What a store is of.

    Attributes:
        identity: Fingerprints of all that the results depend on, and versions, each under the words that name it.
        patients: The number of patients.
        width: The number of patients in a chunk.
        note: What else there is to say of them, such as what `do` set.
    """

    identity: Mapping[str, str]
    patients: int
    width: int
    note: str = ""

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-self.patients // self.width)

    def members(self, chunk: int) -> slice:
        """Return the numbers of the patients of a chunk."""
        return slice(chunk * self.width, min((chunk + 1) * self.width, self.patients))

    def differences(self, written: Mapping[str, object]) -> list[str]:
        """Return in words what differs from what a manifest says."""
        here, there = self._asdict(), dict(written)
        words = {"patients": "number of patients", "width": "number of patients in a chunk"}
        found = [f"the {word}" for name, word in words.items() if here[name] != there.get(name)]
        theirs = there.get("identity")
        theirs = theirs if isinstance(theirs, dict) else {}
        return [*(f"the {word}" for word, mark in self.identity.items() if theirs.get(word) != mark), *found]


class Store:
    """The folder of some results.

    Args:
        folder: The folder.
        contents: What the results are of.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self.contents = folder, contents
        self._open: dict[str, zarr.Array] = {}

    def begin(self) -> None:
        """Write the manifest, or check the one that is there.

        Raises:
            ValueError: If the folder holds something else.
            OSError: If it cannot be written to.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise ValueError(f"{self.folder} must be a results store or an empty folder, but holds something else.")
            with self.writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(self.contents._asdict(), indent=2) + "\n")
            return
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            written = None
        if not isinstance(written, dict):
            raise ValueError(f"{path} must be the manifest of a results store, but cannot be read as one.")
        if differences := self.contents.differences(written):
            raise ValueError(
                f"{self.folder} must be the results store of this simulation, but is that of another one, which "
                f"differs in {' and '.join(differences)}: name another folder, or remove this one."
            )

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not stored."""
        return [chunk for chunk in range(self.contents.chunks) if not self._table(chunk).exists()]

    def write(self, chunk: int, results: PyTree) -> None:
        """Store the results of a chunk, whole or not at all.

        Raises:
            OSError: If the folder cannot be written to.
        """
        leaves = named(results)
        sketches = {name: leaf.arrays() for name, leaf in leaves.items() if isinstance(leaf, AbstractCounts)}
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items() if name not in sketches}
        members = self.contents.members(chunk)
        columns = {PATIENT: np.arange(members.start, members.stop)}
        columns |= {name: array for name, array in arrays.items() if is_column(array)}
        table = io.BytesIO()
        require("pyarrow.parquet", extra="data").write_table(require("pyarrow", extra="data").table(columns), table)
        with self.writing():
            self._table(chunk).parent.mkdir(exist_ok=True)
            for name, array in arrays.items():
                if not is_column(array):
                    self._array(name, array)[members] = array
            if sketches:
                content = {f"{name}/{part}": array for name, kept in sketches.items() for part, array in kept.items()}
                self._sketches(chunk).parent.mkdir(exist_ok=True)
                with replaced(self._sketches(chunk)) as new, new.open("wb") as file:
                    np.savez(file, allow_pickle=False, **content)
            with replaced(self._table(chunk)) as new:
                new.write_bytes(table.getvalue())  # no view, whose collection crashes Python 3.12.1

    def read(self, like: PyTree) -> PyTree:
        """Return the results: numbers of patients as arrays, and what is read when it is used as arrays of Zarr.

        Args:
            like: Results of some patients, or of none.
        """
        leaves = named(like)
        sketches = self._merged({name: leaf for name, leaf in leaves.items() if isinstance(leaf, AbstractCounts)})
        arrays = {name: leaf for name, leaf in leaves.items() if name not in sketches}
        columns = self.columns([name for name, leaf in arrays.items() if is_column(leaf)])
        values = {name: put(columns[name]) if name in columns else self._reading(name) for name in arrays}
        values |= sketches
        return jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in leaves])

    def _merged(self, like: Mapping[str, AbstractCounts]) -> dict[str, AbstractCounts]:
        """Return sketches of all patients, merged in the order of chunks."""
        merged = {}
        for chunk in range(self.contents.chunks if like else 0):
            try:
                with np.load(self._sketches(chunk), allow_pickle=False) as content:
                    kept = dict(content)
            except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
                raise self._damaged(self._sketches(chunk), "sketches", chunk, error) from None
            for name, counts in like.items():
                here = counts.replaced({part: kept[f"{name}/{part}"] for part in counts.arrays()})
                merged[name] = merged[name].merged(here) if name in merged else here
        return merged

    def columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns of the tables, each of shape (patients,)."""
        parquet = require("pyarrow.parquet", extra="data")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for chunk in range(self.contents.chunks):
            path = self._table(chunk)
            try:
                table = parquet.read_table(io.BytesIO(path.read_bytes()), columns=list(names))
            except require("pyarrow", extra="data").ArrowException as error:
                raise self._damaged(path, "a table", chunk, error) from None
            for name in names:
                parts[name].append(table[name].to_numpy())
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _damaged(self, path: Path, kind: str, chunk: int, error: Exception) -> ValueError:
        table = self._table(chunk)
        remove = "it" if path == table else table.relative_to(self.folder)
        return ValueError(
            f"{path} must be {kind} of the results store, but is damaged ({error}): remove {remove}, and the same call "
            "computes its chunk again."
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say in one sentence that the folder cannot be written to, and what is stored."""
        try:
            yield
        except OSError as error:
            stored = self.contents.chunks - len(self.missing())
            raise OSError(
                f"The results store {self.folder} cannot be written to ({error.strerror or error}); "
                f"{stored} of {self.contents.chunks} chunks are stored intact, and the same call goes on from there."
            ) from None

    def _table(self, chunk: int) -> Path:
        return self.folder / "tables" / f"{chunk:05d}.parquet"

    def _sketches(self, chunk: int) -> Path:
        return self.folder / "sketches" / f"{chunk:05d}.npz"

    def _reading(self, name: str) -> "zarr.Array":
        return require("zarr", extra="data").open_array(self.folder / "trajectories" / as_file_name(name), mode="r")

    def _array(self, name: str, like: np.ndarray) -> "zarr.Array":
        """Return an array of the group, made if it is not there."""
        if name not in self._open:
            group = require("zarr", extra="data").open_group(self.folder / "trajectories", mode="a")
            quoted = as_file_name(name)
            whole, part = ((count, *like.shape[1:]) for count in (self.contents.patients, self.contents.width))
            if quoted not in group:
                group.create_array(quoted, shape=whole, chunks=part, dtype=like.dtype)
            # a chunk of zeros is written as any other
            self._open[name] = group[quoted].with_config({"write_empty_chunks": True})
        return self._open[name]


def named(tree: PyTree) -> dict[str, PyTree]:
    """Return the leaves of a tree by their names: the keys that lead to them, with dots."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = ".".join(filter(None, (jax.tree_util.keystr((key,), simple=True).lstrip("_") for key in path)))
        leaves[name if name not in leaves else f"{name}#{len(leaves)}"] = leaf
    return leaves


def is_column(array: np.ndarray) -> bool:
    """Whether an array of results is one real number per patient, and so a column of a table."""
    return len(array.shape) == 1 and np.dtype(array.dtype).kind in "biuf"
