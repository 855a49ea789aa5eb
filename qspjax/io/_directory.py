"""A directory of results: its location and its tables."""

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._extras import require

if TYPE_CHECKING:
    import pandas


def check_destination(directory: str | Path, files: Collection[str], markers: Collection[str]) -> Path:
    """Return the directory as a path, if results can be written there.

    Args:
        directory: New, empty, or with an earlier result.
        files: The files that a directory of results may hold.
        markers: The files that it always holds.

    Raises:
        OSError: If it holds something that is not an earlier result, or cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> check_destination(folder / "results", ["summary.txt"], ["summary.txt"]) == folder.resolve() / "results"
        True
    """
    path = Path(directory).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{directory} must be a directory, but is a file.")
    if path.is_mount():
        raise PermissionError(f"{directory} must not be a mount point: name a directory inside it.")
    entries = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if entries and not entries >= {*markers}:
        raise FileExistsError(f"{directory} must be new, empty or hold an earlier result, but holds other files.")
    if entries - {*files}:
        others = ", ".join(sorted(entries - {*files})[:3])
        raise FileExistsError(
            f"{directory} must hold nothing but an earlier result to be replaced, but holds {others}."
        )
    above = next(parent for parent in path.parents if parent.exists())
    try:  # permissions are not enough: nobody can write in /proc
        with tempfile.TemporaryDirectory(prefix=".qspjax.", dir=above):
            return path
    except OSError:
        must = "must be in a directory that can be written"
        raise PermissionError(f"{directory} {must}, but {above} cannot.") from None


def write_csv(path: Path, columns: "Mapping[str, Collection[object]] | pandas.DataFrame") -> None:
    """Write a table: columns by name, or a data frame."""
    require("pandas", extra="data").DataFrame(columns).to_csv(path, index=False, lineterminator="\n")
