"""Results in a file: a zip archive of a JSON text and of arrays, none of which is executed when it is read."""

import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from qspjax._files import replaced

RECORD = "result.json"
FORMAT = 1
"""The version of the format, which increases when earlier readers could misunderstand it."""


def versions() -> dict[str, str]:
    """Return the versions of the software on which a result depends."""
    try:
        version = importlib.metadata.version("qspjax")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {"qspjax": version, "Python": ".".join(map(str, sys.version_info[:2]))}


def write(path: Path, record: Mapping[str, PyTree], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a result, whole or not at all; `numpy.load` reads the arrays.

    Args:
        path: The file.
        record: Values that JSON can hold, by name.
        arrays: Arrays by name.
    """
    with replaced(path) as new, zipfile.ZipFile(new, "w") as archive:
        text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False)
        archive.writestr(_member(RECORD), text)
        for name, value in arrays.items():
            with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    """Return the header of a member: without a date, so that equal results are equal files, readable when unpacked."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info


def read(path: Path) -> tuple[dict[str, PyTree], dict[str, np.ndarray]]:
    """Return the record and the arrays of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another kind of file, is damaged, or was written by a later version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if RECORD not in archive.namelist():
                raise ValueError(f"it has no {RECORD}")
            record, arrays = json.loads(archive.read(RECORD)), {}
            if record.get("format", FORMAT + 1) > FORMAT:
                written = record.get("versions", {}).get("qspjax", "of later")
                raise ValueError(f"it was written by the later version {written} of qspjax, which is needed to read it")
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} must be a file, but does not exist.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a saved result of a fit, but cannot be read: {error}.") from None
    return record, arrays
