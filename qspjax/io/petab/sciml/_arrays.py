"""Arrays of networks in HDF5 files: weights by network and layer, inputs by condition; plain numbers, nothing else."""

import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from qspjax._extras import require
from qspjax.io._content import content_of
from qspjax.io._issues import FileIssues, Issue

if TYPE_CHECKING:
    import h5py

LARGEST = 2**31
"""The maximum number of bytes of a file."""
MOST = 2**27
"""The maximum number of elements of an array."""
ALL = "0"
"""Stands for all conditions."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array and where it was."""

    value: np.ndarray
    file: str
    path: tuple[str, ...]

    def refuse(self, message: str) -> NoReturn:
        """Raise an issue of this array."""
        raise FileIssues([Issue(self.file, self.path, message)])


@dataclasses.dataclass
class Arrays:
    """The arrays of several files.

    Attributes:
        files: The names of the files.
        parameters: By network, layer and name.
        inputs: By input and condition.
        outputs: By output and name, in files of results.
    """

    files: tuple[str, ...] = ()
    parameters: dict[tuple[str, str, str], Stored] = dataclasses.field(default_factory=dict)
    inputs: dict[tuple[str, str], Stored] = dataclasses.field(default_factory=dict)
    outputs: dict[tuple[str, str], Stored] = dataclasses.field(default_factory=dict)

    def input(self, id: str) -> dict[str, Stored]:
        """Return the arrays of an input by condition, an empty dictionary if there are none."""
        found: dict[str, Stored] = {}
        for (name, conditions), stored in self.inputs.items():
            for condition in conditions.split(";") if name == id else ():
                if condition.strip() in found:
                    stored.refuse(f"must be the only array of condition {condition.strip()}, but there is another.")
                found[condition.strip()] = stored
        if ALL in found and len(found) > 1:
            found[ALL].refuse("must be the only array of its input, as 0 means all conditions, but there are others.")
        return found


def read_arrays(paths: Sequence[Path]) -> Arrays:
    """Read all arrays of several files.

    Raises:
        FileIssues: If a file cannot be read, is not HDF5, or holds what is no array of numbers in the order of PyTorch.
        ImportError: If the extra `petab` is not installed.
    """
    arrays = Arrays(tuple(path.name for path in paths))
    tables = {"parameters": arrays.parameters, "inputs": arrays.inputs, "outputs": arrays.outputs}
    for path in paths:
        for place, stored in _stored(path):
            table = tables.get(place[0])
            depth = 4 if place[0] == "parameters" else 3
            if table is None or len(place) != depth:
                stored.refuse("must lie in parameters/network/layer/name or inputs/input/conditions, but does not.")
            if place[1:] in table:
                stored.refuse(f"must be in one file, but is in {table[place[1:]].file} too.")
            table[place[1:]] = stored  # pyright: ignore[reportArgumentType]
    return arrays


def _stored(path: Path) -> Iterator[tuple[tuple[str, ...], Stored]]:
    h5py = require("h5py", extra="petab")
    content = content_of(path, path.name, LARGEST)
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            _check_order(file, path.name)
            yield from _of_group(file, path.name, ())
    except FileIssues:
        raise
    except Exception as error:  # noqa: BLE001  (whatever the library trips over is wrong with the file)
        raise FileIssues([Issue(path.name, (), f"must be a file in HDF5, but cannot be read ({error}).")]) from None


def _of_group(group: "h5py.Group", file: str, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Stored]]:
    h5py = require("h5py", extra="petab")
    for name in map(str, group):
        here = (*place, name)
        if here == ("metadata",):
            continue
        if len(here) > 4 or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FileIssues([Issue(file, here, "must be an array in this file, but is a link or nested too deeply.")])
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield here, Stored(_numbers(item, file, here), file, here)  # pyright: ignore[reportArgumentType]
        elif isinstance(item, h5py.Group):
            yield from _of_group(item, file, here)  # pyright: ignore[reportArgumentType]


def _numbers(item: "h5py.Dataset", file: str, place: tuple[str, ...]) -> np.ndarray:
    def stop(message: str) -> NoReturn:
        raise FileIssues([Issue(file, place, message)])

    kind = getattr(getattr(item, "dtype", None), "kind", "?")
    if kind not in "fiub" or item.shape is None or item.is_virtual or item.external:
        stop("must be an array of numbers in this file, but is not.")
    if math.prod(item.shape) > MOST:
        stop(f"must have at most {MOST} elements, but has {math.prod(item.shape)}.")
    value = np.asarray(item[()], float)
    if not np.isfinite(value).all():
        stop("must have finite numbers, but has others.")
    return value


def _check_order(file: "h5py.File", name: str) -> None:
    """Check that a file says that its arrays are in the order of PyTorch, if it says anything."""
    for key, good in (("pytorch_format", ("1", "True", "true")), ("perm", ("row",))):
        if f"metadata/{key}" in file:
            value = file[f"metadata/{key}"][()]  # pyright: ignore[reportIndexIssue]
            text = value.decode() if isinstance(value, bytes) else str(value)
            if text not in good:
                message = f"must be {good[0]}, as only arrays in the order of PyTorch are supported, but is {text}."
                raise FileIssues([Issue(name, ("metadata", key), message)])
