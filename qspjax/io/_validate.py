"""Check a file of any kind that qspjax reads, without using it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from qspjax._dosing._covariates import AbstractInterpolation
from qspjax.io._issues import FileIssues, Issue
from qspjax.io._model_files import contents_of, is_model_file
from qspjax.io.fit._file import is_fit, read_fit
from qspjax.io.nonmem._read import read_nonmem
from qspjax.io.nonmem._values import Recode
from qspjax.io.petab import lint, read_petab
from qspjax.io.population._file import PopulationFile, is_population, read_population_file
from qspjax.io.trial._file import read_trial


class ReadOptions(TypedDict, total=False):
    """The options of `read_nonmem`."""

    columns: Sequence[str]
    rename: Mapping[str, str]
    ignore: str | Sequence[str]
    accept: str | Sequence[str]
    categories: Sequence[str]
    recode: Recode
    dialect: str
    interpolation: AbstractInterpolation


def validate(path: str | Path, **options: Unpack[ReadOptions]) -> tuple[Issue, ...]:
    """Return the issues of a file, an empty tuple if there are none.

    Of a model in SBML or Antimony there may also be warnings, with which the file can be used: issues whose `warning`
    is true. Those of units are not among them; `qspjax check` and `qspjax import` show them too.

    Args:
        path: A trial, population or fit file (`.toml`), a PEtab problem (`.yaml`), a model in SBML (`.xml`, `.sbml`) or
            Antimony (`.ant`), or a data set in the format of NONMEM (any other ending).
        **options: The arguments of `read_nonmem`.

    Raises:
        ValueError: If an option is wrong.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.csv"
        >>> _ = path.write_text("ID,TIME,AMT,DV\\n1,0,-100,.\\n1,2,.,BLQ\\n")
        >>> for issue in qsp.io.validate(path):
        ...     print(issue.line, issue.column, issue.message)
        2 AMT must not be negative, but is -100.
        3 DV must be a number, but is BLQ: write the limit, and 1 in a column CENS.
    """
    try:
        if is_model_file(path):
            model = contents_of(path, units=False)
            return (*model.issues, *model.warnings)
        contents(path, **options)
    except FileIssues as error:
        return error.issues
    return ()


def contents(path: str | Path, **options: Unpack[ReadOptions]) -> str:
    """Return a description of the contents of a file; the arguments are those of `validate`.

    Raises:
        FileIssues: If anything in the file is wrong.
        ValueError: If an option is wrong.

    Example:
        >>> import qspjax as qsp
        >>> print(contents(qsp.io.bundled_trial()).splitlines()[0])
        Trial:    Omalizumab and free IgE in allergic asthma
    """
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        problem = read_petab(path)
        issues = lint(path)
        if issues:
            raise FileIssues(issues)
        return str(problem)
    if Path(path).suffix.lower() == ".toml":
        if is_fit(Path(path)):
            return str(read_fit(path))
        if is_population(Path(path)):
            return _of_population(read_population_file(path))
        file = read_trial(path)
        arms = ", ".join(arm.name for arm in file.trial.arms)
        return f"Trial:    {file.title}\nPatients: {file.patients}\nArms:     {arms}"
    if is_model_file(path):
        model = contents_of(path)
        if model.issues:
            raise FileIssues(model.issues)
        return str(model)
    return str(read_nonmem(path, **options))


def _of_population(file: PopulationFile) -> str:
    head = {
        "Title": file.title,
        "Patients": file.patients,
        "Arms": ", ".join(arm.name for arm in file.arms),
        "Bounds": ", ".join(file.bounds),
        "Targets": len(file.targets),
    }
    return "\n".join(f"{key + ':':<10}{value}" for key, value in head.items())
