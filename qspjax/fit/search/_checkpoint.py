"""The state of a calculation in a file, with the fingerprint of what it belongs to."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from qspjax._files import replaced


def save(path: Path, mark: str, state: Mapping[str, ArrayLike | str]) -> None:
    """Write a state atomically.

    Args:
        path: The file.
        mark: The fingerprint of the calculation.
        state: Arrays, numbers and text by name.
    """
    with replaced(path) as new, new.open("wb") as file:
        arrays = {name: np.asarray(value) for name, value in state.items()}
        np.savez(file, allow_pickle=False, fingerprint=np.asarray(mark), **arrays)


def loaded(path: Path, mark: str, kind: str) -> dict[str, np.ndarray]:
    """Return a saved state.

    Args:
        path: The file.
        mark: The fingerprint of the calculation.
        kind: The kind of calculation, such as "estimation".

    Raises:
        ValueError: If it is that of another calculation, or not a checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as state:
            arrays = {name: state[name] for name in state.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} must be a checkpoint, but cannot be read: {error}") from None
    if str(arrays.get("fingerprint")) != mark:
        raise ValueError(f"{path} must be the checkpoint of this {kind}, but is that of another one: remove it.")
    return arrays
