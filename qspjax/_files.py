"""Files that are written completely or not at all."""

import contextlib
import os
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path


def as_file_name(name: str) -> str:
    """Return a name as that of a file: without slashes, colons and the like, and none that leads to another folder.

    Example:
        >>> as_file_name("10 mg/kg (daily)"), as_file_name("..")
        ('10 mg%2Fkg (daily)', '%2E%2E')
    """
    quoted = urllib.parse.quote(name, safe=" ()+,[]")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file next to `path`, which replaces it once it is written."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must be in a folder that exists, but {path.parent} does not.")
    new = path.with_name(f".{path.stem}.{os.getpid()}.new{path.suffix}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with replaced(path) as new:
        new.write_text(text, encoding="utf-8", newline="\n")


def replaced_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Fill a new directory next to `path` and replace `path` by it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        new.mkdir()
        write(new)
        try:
            if path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
