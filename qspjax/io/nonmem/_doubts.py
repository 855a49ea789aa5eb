"""Records that are allowed but seldom meant: they are read as they are, with a warning."""

import re
from collections.abc import Iterator

import numpy as np

from qspjax._checks import warn
from qspjax.io.nonmem._issues import listed
from qspjax.io.nonmem._records import column, has_data, is_dose
from qspjax.io.nonmem._text import DOSING
from qspjax.io.nonmem._types import Flags, Integers, Values

_MOST = 5

_MEASURED = re.compile(r"(?i).*conc.*|cp|y|(obs|measure|response|value).*")
"""Names of columns that are likely to hold measurements."""

_ELSEWHERE = {
    **dict.fromkeys(("LLOQ", "LOQ", "BLQ", "BLOQ", "BQL", "ULOQ"), "limits are CENS, DV and LIMIT"),
    **dict.fromkeys(("YTYPE", "ADM"), "kinds of observations are DVID, dose targets CMT"),
    **dict.fromkeys(("CALL", "CONT", "PCMT", "L2"), "it has no other meaning here"),
}
"""Names with a meaning in other programs, and what has it here."""


def warn_of_doubts(values: Values, lines: Integers, source: str) -> None:
    """Warn, once per kind and with the lines, of repeated doses, DV and MDV that are odd, and a table without DV.

    A column whose name has a known meaning, but that is not used, is named.
    """
    for doubtful, remark in _doubts(values):
        affected = np.sort(lines[doubtful])
        if affected.size:
            more = f" and {affected.size - _MOST} more" if affected.size > _MOST else ""
            warn(
                f"{source}: line{'s' if affected.size > 1 else ''} {listed(affected[:_MOST].tolist())}{more}: {remark}"
            )
    if "DV" not in values:
        named = next((name for name in values if _MEASURED.fullmatch(name)), None)
        hint = "" if named is None else f': if {named} has them, read the file with rename={{"{named}": "DV"}}'
        warn(f"{source}: there is no column DV, so there are no measurements{hint}.")
    for sentence in _not_used(values):
        warn(f"{source}: {sentence}")


def _doubts(values: Values) -> Iterator[tuple[Flags, str]]:
    dose = is_dose(values)
    same = np.zeros(dose.size, dtype=bool)
    names = [name for name in ("ID", "TIME", "CMT", "EVID", *DOSING) if name in values]
    columns = [values[name].astype(str) if values[name].dtype == object else values[name] for name in names]
    rows = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)[dose]
    _, first = np.unique(rows, axis=0, return_index=True)
    repeated = np.ones(rows.shape[0], dtype=bool)
    repeated[first] = False
    same[np.flatnonzero(dose)[repeated]] = True
    yield same, "the dose is repeated, and is given twice."
    if "DV" in values:
        measured, censored = has_data(values), column(values, "CENS")
        yield measured & (values["DV"] < 0), "DV is negative."
        yield (
            measured & (censored == 1) & (values["DV"] == 0),
            "DV is 0 and CENS is 1, so the value is below 0: DV must be the limit, or missing for that of the output.",
        )
        yield (
            measured & (values["MDV"] == 1),
            "MDV is 1, but CENS says that the value is beyond a limit, and it counts as such: CENS 0 leaves it out.",
        )


def _not_used(values: Values) -> list[str]:
    """Return a sentence for each column whose name has a known meaning, but none in this table."""
    sentences = [
        f"Column {name} is a covariate, which is used only where it is named: {_ELSEWHERE[name.upper()]}."
        for name in values
        if name.upper() in _ELSEWHERE
    ]
    if "LIMIT" in values and not (column(values, "CENS") != 0).any():
        sentences.append("Column LIMIT is not used: it bounds records with CENS 1 or -1, but there are none.")
    return sentences
