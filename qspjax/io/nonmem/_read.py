"""Reading a data set in the format of NONMEM, with every issue of the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qspjax._checks import check_instance, check_one_of
from qspjax._dosing._covariates import NOCB, AbstractInterpolation
from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._data import NonmemData, data_of
from qspjax.io.nonmem._doubts import warn_of_doubts
from qspjax.io.nonmem._events import most_rows
from qspjax.io.nonmem._records import check_records, complete
from qspjax.io.nonmem._rxode import translate
from qspjax.io.nonmem._text import read_text
from qspjax.io.nonmem._values import Recode, read_values, replaced

MOST_ROWS = 50_000_000
"""The maximum number of rows of the table of doses, including padding."""

_DIALECTS = {"nonmem": (), "rxode": ("NA",)}
"""The texts of each dialect for a missing value, besides "." and nothing."""


def read_nonmem(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    ignore: str | Sequence[str] = "#",
    accept: str | Sequence[str] = (),
    categories: Sequence[str] = (),
    recode: Recode | None = None,
    dialect: str = "nonmem",
    interpolation: AbstractInterpolation = NOCB(),
) -> NonmemData:
    """Read a data set in the format of NONMEM, separated by commas, tabs or blanks.

    The reserved columns are ID, TIME, AMT, RATE, II, ADDL, SS, EVID, CMT, DV, MDV, DVID, CENS, LIMIT, one of DATE,
    DAT1, DAT2 and DAT3, and TINF or DUR, the duration of an infusion; they may be in either case. All other columns are
    covariates. A field that is empty or "." is missing: 0 in a column of doses, no data in DV, NaN in a covariate.
    Without EVID, a record is a dose if AMT, RATE or SS is not 0, else an observation. DV is ignored where EVID is not
    0, whatever MDV is. An observation with CENS 1 lies below DV, or without a DV below the limit of its output (as
    `M3(0.5)` says it), and with CENS -1 above DV, whatever MDV is. Clock times (H:MM) and dates become hours since the
    first record of the subject. Nothing is corrected: records that no rule allows are issues, and all issues are raised
    together. Warnings name the lines of records that are seldom meant (a repeated dose, a negative DV, CENS 1 with a DV
    of 0 or MDV 1, no DV at all), and columns whose name has a known meaning, but that are not used (LIMIT without CENS;
    LLOQ).

    Args:
        path: The file, in UTF-8, at most 256 MiB.
        columns: Names of the columns if the file has none, or in place of its own, as in $INPUT: "DROP" or "WT=DROP"
            leaves a column out.
        rename: New names of columns, such as `{"Y": "DV"}`.
        ignore: A character: lines that start with it are ignored; "@" means any letter. Or conditions on columns, such
            as `["DVID.EQ.2", "TIME>24"]`, on the fields as they are written: records that fulfil one of them are
            ignored. Numbers are compared as numbers (2.0 is 2), anything else as text; a missing value equals "." and
            is neither less nor greater.
        accept: Conditions, instead of those to ignore: only records that fulfil one of them are read.
        categories: Columns of text, to be read as codes 0, 1, ... in the order of their sorted labels.
        recode: Values to be replaced before anything is checked, by column, such as `{"SS": {99: 0}}`.
        dialect: "nonmem", or "rxode" for the event codes of RxODE (101, 10101, ...), with NA for missing values, too.
        interpolation: How a covariate changes between two records; that of NONMEM is `NOCB()`.

    Returns:
        The data: doses, outputs, observed values, covariates.

    Raises:
        FileIssues: If anything in the file is wrong; `issues` lists all mistakes, by line and column.
        ValueError: If an argument is wrong.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.csv"
        >>> _ = path.write_text("ID,TIME,AMT,DV,WT\\n1,0,100,.,70\\n1,2,.,3.1,70\\n2,0,100,.,60\\n2,2,.,3.4,60\\n")
        >>> data = qsp.io.read_nonmem(path)
        >>> data.ids, data.covariates["WT"]
        ((1, 2), array([70., 60.]))
        >>> solution = qsp.simulate_cohort(
        ...     data.cohort(qsp.models.OneCompartment(CL=3.0, V=30.0)), data.regimen, data.ts, order=data.order
        ... )
        >>> solution.observed["concentration"].round(2)
        Array([[3.33, 2.73],
               [3.33, 2.73]], dtype=float64)
    """
    check_instance("interpolation", interpolation, AbstractInterpolation, "NOCB(), LOCF() or LinearInterpolation()")
    check_one_of("dialect", dialect, _DIALECTS, "a dialect")
    path = Path(path)
    issues = IssueCollector(str(path))
    text = read_text(path, issues, columns=columns, rename=rename or {}, ignore=ignore, accept=accept)
    text = replaced(text, recode or {}, issues)
    values, labels, bad = read_values(text, issues, categories=categories, missing=_DIALECTS[dialect])
    if dialect == "rxode":
        values = translate(values, text.line, bad, issues)
    values = complete(values)
    check_records(values, text.line, bad, issues)
    issues.close()
    if most_rows(values) > MOST_ROWS:
        issues.stop(f"must have at most {MOST_ROWS} doses, with all subjects padded, but has more.", column="ADDL")
    warn_of_doubts(values, text.line, str(path))
    return data_of(str(path), values, labels, text.line, interpolation)
