"""The inputs of a simulation as text: a model of the catalogue or of a file, numbers to change, doses in words."""

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._files import write_text
from qspjax._forms import DOSE
from qspjax._solution import Solution
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.toml._doses import read_regimen
from qspjax.io.toml._model import ModelInfo, read_model
from qspjax.io.toml._table import Table

_WORDS = {"at": "start", "over": "over", "rate": "rate", "every": "every", "times": "doses"}
"""The words of a dose, with the keys of a trial file for which they stand."""

_WORDS_OF = {"start": "at", "doses": "times", "dose": "amount", "to": "into"}


def info_of_name(name: str, numbers: Mapping[str, str | float] | None = None) -> ModelInfo:
    """Return a model of the catalogue by its name, or of a file in SBML or Antimony, with numbers changed.

    Raises:
        FileIssues: If the file has mistakes or something that is not supported, or there is no such model or number.

    Example:
        >>> info_of_name("OneCompartment", {"CL": 3.0, "V": "30 L"}).model.V
        Array(30., dtype=float64)
    """
    messages: list[tuple[tuple[str, ...], str]] = []
    table = Table({"name": name, "parameters": dict(numbers or {})}, (), messages)
    info = read_model(table, Path())
    if info is None or messages:
        raise FileIssues([_issue(path, message) for path, message in messages])
    return info


def _issue(path: tuple[str, ...], message: str) -> Issue:
    if path[:1] == ("parameters",):
        return Issue("argument --set", path[1:], message)
    return Issue("argument MODEL", (), message)


def read_doses(texts: Iterable[str], model: ModelInfo) -> Regimen:
    """Return the regimen of doses in words, such as "100 mg into central at 2 h over 30 min every 24 h times 7".

    Amounts and times are as in a trial file: with a unit, or in that of the model.

    Raises:
        FileIssues: If one has a mistake.

    Example:
        >>> model = info_of_name("OneCompartment", {"CL": 3.0, "V": 30.0})
        >>> read_doses(["100 into central every 24 times 7"], model).time.shape
        (7,)
    """
    issues: list[Issue] = []
    regimens = []
    for text in texts:
        messages: list[tuple[tuple[str, ...], str]] = []
        values = _parts(text)
        if values is None:
            issues.append(Issue("argument --dose", (), f"must be {DOSE}, but is {text}."))
            continue
        regimen = read_regimen(Table(values, (), messages), model)
        for path, message in messages:
            issues.append(Issue("argument --dose", tuple(_WORDS_OF.get(key, key) for key in path), message))
        if regimen is not None:
            regimens.append(regimen)
    if issues:
        raise FileIssues(issues)
    return functools.reduce(operator.add, regimens) if regimens else no_doses()


def _parts(text: str) -> dict[str, str | int] | None:
    """Return a dose in words as keys of a trial file, None if it is not a dose."""
    start = re.fullmatch(r"\s*(.+?)\s+into\s+(\S+)((?:\s.*)?)", text)
    if start is None:
        return None
    values: dict[str, str | int] = {"dose": start[1], "to": start[2]}
    words = re.split(rf"\s+({'|'.join(_WORDS)})\s+", start[3].rstrip())
    if words[0].strip():
        return None
    for word, value in zip(words[1::2], words[2::2], strict=True):
        key = _WORDS[word]
        if key in values or not value.strip():
            return None
        values[key] = int(value) if key == "doses" and value.isdecimal() and len(value) < 10 else value.strip()
    return values


def write_solution(path: str | Path, solution: Solution, names: Sequence[str]) -> Path:
    """Write the solution of one patient as a table: the time and the named values, with all digits.

    Raises:
        OSError: If it cannot be written. Nothing is left half-written.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0])
        >>> path = write_solution(pathlib.Path(tempfile.mkdtemp()) / "one.csv", solution, ["concentration"])
        >>> path.read_text().split()
        ['time,concentration', '0.0,1.0']
    """
    table = solution.to_dataframe()
    head = ("time", *names)
    rows = zip(*(table[name].tolist() for name in head), strict=True)
    write_text(Path(path), "\n".join([",".join(head), *(",".join(map(repr, row)) for row in rows)]) + "\n")
    return Path(path)
