"""Fit files: a calibration as text, in TOML, beside a table of data.

    title                      what it is called
    data                       the table of data in the format of NONMEM, beside this file
    [model]                    as in a trial file
    [set]                      parameters of the model as formulas over covariates and parameters
    [parameters.NAME]          start, bounds, scale ("log", "log10", "linear" or "logit"), prior; or fixed
    [outputs.NAME]             prediction, error ("additive", "proportional", "combined" or "lognormal"), sd, cv, dvid;
                               below ("M1", "M3" or "M4") and limit
    [estimation]               method ("trust region", "levenberg-marquardt", "l-bfgs", "adam" or "differential
                               evolution"), starts, seed, sobol, max_steps; analytic (scales, offsets and noise
                               parameters that are solved for) and profiles: names, or true for all

A name in quotes of `sd` and `cv` is a formula over parameters. A PEtab problem (`.yaml`) takes the place of a fit file.
"""

import dataclasses
from pathlib import Path
from typing import Any

from qspjax._transform import Identity, Log, Logit
from qspjax.fit import (
    LBFGS,
    M1,
    M3,
    M4,
    AbstractSearch,
    Adam,
    Additive,
    Analytic,
    Combined,
    DifferentialEvolution,
    Free,
    LevenbergMarquardt,
    LogNormalError,
    MultiStart,
    Output,
    Problem,
    Proportional,
    TrustRegion,
)
from qspjax.io._fit_data import experiments
from qspjax.io._issues import FileIssues, Issue
from qspjax.io._nonmem import read_nonmem
from qspjax.io._table import Table, line_of, lines_of
from qspjax.io._toml import decoded, parsed, read_bytes
from qspjax.io._trial_model import read_distribution, read_model
from qspjax.io.petab import read_petab

METHODS: dict[str, Any] = {
    "trust region": TrustRegion,
    "levenberg-marquardt": LevenbergMarquardt,
    "l-bfgs": LBFGS,
    "adam": Adam,
    "differential evolution": DifferentialEvolution,
}
ERRORS = {
    "additive": (Additive, ("sd",)),
    "proportional": (Proportional, ("cv",)),
    "combined": (Combined, ("sd", "cv")),
    "lognormal": (LogNormalError, ("sd",)),
}
BELOW = {"M1": M1, "M3": M3, "M4": M4}


@dataclasses.dataclass(frozen=True)
class FitFile:
    """A calibration as a file describes it.

    Attributes:
        source: Name of the file.
        title: What it is called.
        problem: What to fit.
        method: How to search.
        starts: Where from, None for the starts of the parameters.
        analytic: What is solved for instead of searched.
        profiles: The parameters whose profile likelihoods are wanted.
    """

    source: str
    title: str
    problem: Problem
    method: AbstractSearch | DifferentialEvolution
    starts: MultiStart | None
    analytic: Analytic | None
    profiles: tuple[str, ...]


def read_fit(path: str | Path) -> FitFile:
    """Read a fit file (`.toml`) or a PEtab problem (`.yaml`).

    Raises:
        FileIssues: If anything in the files is wrong.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return FitFile(path.name, path.stem, read_petab(path), TrustRegion(), None, None, ())
    text = read_bytes(path, path.name)
    values = parsed(text, path.name)
    issues: list[tuple[tuple[str, ...], str]] = []
    found = _read(Table(values, (), issues), path)
    if issues or found is None:
        lines = lines_of(decoded(text))
        raise FileIssues([Issue(path.name, place, message, line=line_of(place, lines)) for place, message in issues])
    return found


def _read(top: Table, path: Path) -> FitFile | None:
    title = top.text("title", default=path.stem)
    data = top.text("data")
    described = read_model(top.table("model", required=True), path.parent)
    parameters = {name: _parameter(own) for name, own in top.table("parameters", required=True).children().items()}
    outputs, kinds = {}, {}
    for number, (name, own) in enumerate(top.table("outputs", required=True).children().items(), start=1):
        kinds[own.whole("dvid", default=number)] = name
        outputs[name] = _output(own, name)
    rules = top.table("set")
    formulas = {name: rules.read(name, None, lambda value: value) for name in rules.values}
    estimation = _estimation(top.table("estimation"), tuple(parameters))
    top.close()
    if top.issues or described is None or data is None:
        return None
    table = read_nonmem(path.parent / data)
    try:
        own = experiments(table, kinds if len(kinds) > 1 else next(iter(outputs)), set=formulas)
        problem = Problem(described.model, own, outputs, parameters)
    except ValueError as error:
        top.issue("", str(error))
        return None
    return FitFile(path.name, title, problem, *estimation)


def _parameter(table: Table) -> Free | float | None:
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


def _output(table: Table, name: str) -> Output | None:
    prediction = table.text("prediction", default=name)
    kind = table.name("error", ERRORS, "an error model")
    error = None
    if kind is not None:
        build, fields = ERRORS[kind]
        given = {field: table.read(field, None, _formula) for field in fields}
        for field, value in given.items():
            if value is None and not table.bad:
                table.issue(field, "must be given, but is missing.")
        error = None if table.bad else build(**given)
    how = table.name("below", BELOW, "M1, M3 or M4", default=None)
    limit = table.number("limit", default=None if how is None else 0.0)
    below = None if how is None or limit is None else BELOW[how](limit)
    return table.make(Output, prediction, error, below=below)


def _formula(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number or a formula, but is of type {type(value).__name__}.")
    return value


def _estimation(
    table: Table, parameters: tuple[str, ...]
) -> tuple[Any, MultiStart | None, Analytic | None, tuple[str, ...]]:
    kind = table.name("method", METHODS, "a method", default="trust region")
    starts = table.whole("starts", default=0)
    seed, sobol = table.whole("seed", default=0), table.flag("sobol", default=False)
    steps = table.whole("max_steps", default=None, minimum=1)
    profiles = _names_or_all(table, "profiles", parameters)
    solved = _names_or_all(table, "analytic", parameters)
    table.close()
    if table.bad:
        return None, None, None, ()
    options = {} if steps is None else {"generations" if kind == "differential evolution" else "max_steps": steps}
    if kind == "differential evolution":
        options["seed"] = seed
    drawn = MultiStart(starts, seed=seed, sobol=sobol) if starts else None
    analytic = Analytic(None if table.values.get("analytic") is True else solved) if solved else None
    return METHODS[kind](**options), drawn, analytic, profiles


def _names_or_all(table: Table, key: str, parameters: tuple[str, ...]) -> tuple[str, ...]:
    if table.values.get(key) is True:
        table.flag(key, default=True)
        return parameters
    return table.names(key, parameters, "a parameter", default=())
