"""What a data set may well say but seldom means: records that are read as they are, with a warning."""

from collections.abc import Iterator

import numpy as np

from qspjax._checks import warn
from qspjax.io._nonmem_notes import listed
from qspjax.io._nonmem_records import is_dose
from qspjax.io._nonmem_table import DOSING
from qspjax.io._nonmem_values import Values

_MOST = 5


def warn_of_doubts(values: Values, lines: np.ndarray, source: str) -> None:
    """Warn, once a kind and with the lines, of doses that are there twice, negative DV, and a table without DV."""
    for doubtful, what in _doubts(values):
        where = np.sort(lines[doubtful])
        if where.size:
            more = f" and {where.size - _MOST} more" if where.size > _MOST else ""
            warn(f"{source}: line{'s' if where.size > 1 else ''} {listed(where[:_MOST].tolist())}{more}: {what}")
    if "DV" not in values:
        warn(f"{source}: there is no column DV, so nothing that was measured.")


def _doubts(values: Values) -> Iterator[tuple[np.ndarray, str]]:
    dose = is_dose(values)
    same = np.zeros(dose.size, dtype=bool)
    names = [name for name in ("ID", "TIME", "CMT", "EVID", *DOSING) if name in values]
    rows = np.stack([np.unique(values[name], return_inverse=True)[1] for name in names], axis=1)[dose]
    _, first = np.unique(rows, axis=0, return_index=True)
    again = np.ones(rows.shape[0], dtype=bool)
    again[first] = False
    same[np.flatnonzero(dose)[again]] = True
    yield same, "the dose stands there a second time, and is given twice."
    if "DV" in values:
        measured = (values["EVID"] == 0) & (values["MDV"] == 0)
        yield measured & (values["DV"] < 0), "DV is negative."
