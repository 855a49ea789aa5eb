"""Where the stored reference data lie, and the mark that skips a test without them."""

import os
from pathlib import Path

import pytest


def data_folder() -> Path | None:
    """The reference data: $QSPJAX_DATA if set, else `../shared/data` beside the repository; None if absent."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("QSPJAX_DATA") or repository.parent / "shared" / "data")
    return folder if folder.is_dir() else None


needs_data = pytest.mark.skipif(
    data_folder() is None,
    reason="reference data not found: set QSPJAX_DATA to their folder, or put them in ../shared/data",
)
