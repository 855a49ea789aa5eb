"""Write a data set as a table with commas, whose numbers give the same bits when read again."""

import re
from pathlib import Path

import numpy as np

from qspjax._checks import check_instance, refuse
from qspjax._files import write_text
from qspjax.io.nonmem._data import NonmemData
from qspjax.io.nonmem._issues import written


def write_nonmem(path: str | Path, data: NonmemData) -> Path:
    """Write a data set in the format of NONMEM; reading it again gives the same data.

    Numbers are the shortest that give the same bits, a missing value is ".", categories are their labels (and must be
    named as `categories` again). An existing file is replaced at the very end.

    Args:
        path: The file.
        data: The data set.

    Returns:
        The path.

    Raises:
        ValueError: If a subject occurs twice.
        OSError: If the file cannot be written. Nothing is left half-written.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [2.0], observed=[3.5])
        >>> print(qsp.io.write_nonmem(pathlib.Path(tempfile.mkdtemp()) / "one.csv", data).read_text())
        ID,TIME,EVID,AMT,CMT,DV,MDV
        1,0,1,100,1,.,1
        1,2,0,0,0,3.5,0
    """
    check_instance("data", data, NonmemData, "a data set (NonmemData)")
    if len(set(data.ids)) < len(data.ids):
        refuse("data", "have each subject once", "one with a subject that occurs twice")
    path = Path(path)
    columns = [_texts(values, data.labels.get(name)) for name, values in data.records.items()]
    lines = [",".join(map(_quoted, data.records)), *map(",".join, zip(*columns, strict=True))]
    write_text(path, "\n".join(lines) + "\n")
    return path


def _texts(values: np.ndarray, labels: tuple[str, ...] | None) -> list[str]:
    if labels is not None:
        return ["." if np.isnan(code) else _quoted(labels[int(code)]) for code in values.tolist()]
    return [written(value) for value in values.tolist()]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",#@\s]', text) else text
