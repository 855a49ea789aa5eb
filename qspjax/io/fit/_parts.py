"""Parts of all fit files: a table of data, parameters and outputs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qspjax import fit
from qspjax._checks import ArgumentError
from qspjax._dosing._covariates import LOCF, NOCB, LinearInterpolation
from qspjax._transform import Identity, Log, Logit
from qspjax.fit import M1, M3, M4, AbstractErrorModel, Correlated, Free, Output
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.nonmem._data import NonmemData
from qspjax.io.nonmem._experiments import kinds_of
from qspjax.io.nonmem._read import read_nonmem
from qspjax.io.toml._model import read_distribution
from qspjax.io.toml._table import REQUIRED, Table, shown

MODELS = [kind for kind in vars(fit).values() if isinstance(kind, type) and issubclass(kind, AbstractErrorModel)]
ERRORS: dict[str, type[AbstractErrorModel]] = {
    word: kind
    for word, kind in sorted(((vars(kind).get("word", ""), kind) for kind in MODELS), key=lambda pair: pair[0])
    if word
}
"""The error models that `qspjax.fit` exports, by their words in fit files."""
BELOW = {"M1": M1, "M3": M3, "M4": M4}
INTERPOLATIONS = {"nocb": NOCB, "locf": LOCF, "linear": LinearInterpolation}


def read_data(table: Table, folder: Path, issues: list[Issue]) -> NonmemData | None:
    """Read the table of data that a fit file names: a file, or a table with a file and options of `read_nonmem`.

    Args:
        table: The top of the file.
        folder: The folder of the fit file.
        issues: Collects the issues of the table of data.
    """
    has_options = isinstance(table.values.get("data"), dict)
    part = table.table("data") if has_options else Table({}, (), [])
    name = part.text("file") if has_options else table.text("data")
    texts = {key: part.read(key, None, _texts) for key in ("ignore", "accept", "categories", "columns")}
    rename, recode = part.read("rename", None, _renames), part.read("recode", None, _recodes)
    dialect = part.name("dialect", ("nonmem", "rxode"), "a dialect", default="nonmem")
    between = part.name("interpolation", INTERPOLATIONS, "what a covariate is between records", default="nocb")
    part.close()
    if name is None or dialect is None or between is None or part.bad:
        return None
    try:
        return read_nonmem(
            folder / name,
            columns=texts["columns"],
            rename=rename,
            ignore=texts["ignore"] or "#",
            accept=texts["accept"] or (),
            categories=texts["categories"] or (),
            recode=recode,
            dialect=dialect,
            interpolation=INTERPOLATIONS[between](),
        )
    except FileIssues as error:
        issues.extend(error.issues)
    except ValueError as error:
        table.issue("data", str(error))
    return None


def _texts(value: object) -> str | list[str]:
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(texts) == len(value):
        return texts
    raise ValueError(f"must be text, or a list of texts, but is {shown(value)}.")


def _values(value: object) -> dict[str, float | str]:
    values = {}
    for key, item in value.items() if isinstance(value, dict) else [("", None)]:
        if not isinstance(item, (int, float, str)):
            raise ValueError(f"must be a table of values, but is {shown(value)}.")
        values[key] = item
    return values


def _renames(value: object) -> dict[str, str]:
    return {old: str(new) for old, new in _values(value).items()}


def _recodes(value: object) -> dict[str, dict[str, float | str]]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table of columns, but is {shown(value)}.")
    return {name: _values(pairs) for name, pairs in value.items()}


def with_limit(table: Table, data: NonmemData | None, kind: int | str | None) -> None:
    """Give an output without a limit of quantification the one of the values that CENS marks, if there is only one.

    Args:
        table: The output.
        data: The data set, None if it cannot be read.
        kind: The kind of observation, None if there is only one.
    """
    if data is None or "below" not in table or "limit" in table:
        return
    below = (data.evid == 0) & (data.cens == 1) & (True if kind is None else kinds_of(data) == kind)
    limits, without = np.unique(data.dv[below & ~np.isnan(data.dv)]), int(np.isnan(data.dv[below]).sum())
    if limits.size == 1:
        table.values = table.values | {"limit": float(limits[0])}
    elif limits.size and without:
        what = f"{without} of the values that CENS marks have no DV, and the others have several limits"
        table.issue("limit", f"must be given, since {what}.")
    elif not limits.size:
        table.issue("limit", "must be given, unless the values that CENS marks give it, but there are none.")


def read_parameter(table: Table) -> Free | float | None:
    """Read a parameter that is estimated, or fixed."""
    if "fixed" in table:
        value = table.number("fixed")
        table.close()
        return value
    start = table.number("start")
    bounds = table.numbers("bounds", "", default=None, length=2)
    scale = table.name("scale", ("log", "log10", "linear", "logit"), "a scale", default=None)
    prior = read_distribution(table.table("prior")) if "prior" in table else None
    kinds = {None: None, "log": Log(), "log10": Log(10.0), "linear": Identity()}
    transform = Logit(*bounds) if scale == "logit" and bounds else kinds.get(scale)
    return table.make(Free, start, bounds=bounds, transform=transform, prior=prior)


def read_output(table: Table, name: str) -> Output | None:
    """Read an output; by default it predicts the value of the same name."""
    prediction = table.text("prediction", default=name)
    error = _read_error(table)
    word = table.name("below", BELOW, "M1, M3 or M4", default=None)
    limit = table.number("limit", default=None)
    if word is None and limit is not None and "below" not in table:
        table.issue("limit", 'must be that of below = "M1", "M3" or "M4", but below is missing.')
    below = None if word is None else table.make(BELOW[word], limit)
    return table.make(Output, prediction, error, below=below)


def _read_error(table: Table) -> AbstractErrorModel | None:
    """Read the error model of an output: its word, and keys with the names of its fields."""
    word, correlated = table.name("error", ERRORS, "an error model"), table.table("correlated")
    if word is None:
        return None
    values = {}
    for field in dataclasses.fields(ERRORS[word]):
        if field.metadata.get("formula"):
            values[field.name] = table.read(field.name, None, formula_of)
            if values[field.name] is None and not table.bad:
                table.issue(field.name, "must be given, but is missing.")
        elif field.type is float:
            default = REQUIRED if field.default is dataclasses.MISSING else field.default
            values[field.name] = table.number(field.name, default=default)
    error = None if table.bad else _built(table, ERRORS[word], **values)
    if error is None or "correlated" not in table:
        return error
    time, others = correlated.read("time", None, formula_of), correlated.table("between")
    between = {name: others.read(name, None, formula_of) for name in others.values}
    correlated.close()
    return None if table.bad else _built(correlated, Correlated, error, time=time, between=between)


def _built(
    table: Table, build: Callable[..., AbstractErrorModel], *parts: object, **values: object
) -> AbstractErrorModel | None:
    """Build an error model; None, and an issue, if it is refused."""
    try:
        return build(*parts, **values)
    except ArgumentError as refusal:
        table.issue(refusal.argument if refusal.argument in table else "", refusal.must)
        return None


def formula_of(value: object) -> float | str:
    """Return a number, or the text of a formula.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number or a formula, but is of type {type(value).__name__}.")
    return value
