"""Fit files: a calibration as text, in TOML, beside a table of data.

    title                      the title
    data                       the table of data in the format of NONMEM, beside this file; or a table of it (file) and
                               the options of `read_nonmem`
    [model]                    as in a trial file
    [set]                      parameters of the model as formulas over covariates and parameters
    [parameters.NAME]          start, bounds, scale ("log", "log10", "linear" or "logit"), prior; or fixed
    [outputs.NAME]             prediction, dvid, and error: "additive" (with sd), "proportional" (cv), "combined" (sd,
                               cv), "lognormal" (sd, base), "boxcox" (sd, shape), "logitnormal" (sd, lower, upper),
                               "poisson" or "binary"; correlated: a table of time (the time constant) and between (the
                               correlation with another output, by its name);
                               below ("M1", "M3" or "M4") and limit. Records that CENS marks have their own limits (DV
                               and LIMIT), by default with the likelihood of M3; if these have one limit, it is that of
                               the output, as it is of records without a DV
    [networks.NAME]            parts of the model that neural networks learn, see `_networks`
    [estimation]               method ("trust region", "levenberg-marquardt", "l-bfgs", "adam" or "differential
                               evolution"), starts, seed, sobol, max_steps; analytic (scales, offsets and noise
                               parameters that are solved for) and profiles: names, or true for all

A name in quotes of `sd`, `cv`, `shape`, `time` and `between` is a formula over parameters. A PEtab problem (`.yaml`)
takes the place of a fit file.
A file with `[[random]]` is that of a mixed-effects fit, see `_mixed_file`.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from qspjax.fit import (
    LBFGS,
    AbstractSearch,
    Adam,
    Analytic,
    DifferentialEvolution,
    LevenbergMarquardt,
    MultiStart,
    Output,
    Problem,
    TrustRegion,
)
from qspjax.io._content import text_of
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.fit._mixed_file import MixedFile, read_mixed
from qspjax.io.fit._networks import read_networks
from qspjax.io.fit._parts import formula_of, read_data, read_output, read_parameter, with_limit
from qspjax.io.nonmem._experiments import experiments
from qspjax.io.petab import read_petab
from qspjax.io.toml._model import read_model
from qspjax.io.toml._read import parsed, read_bytes
from qspjax.io.toml._table import Table, line_of, lines_of, present

METHODS: dict[str, type[AbstractSearch] | type[DifferentialEvolution]] = {
    "trust region": TrustRegion,
    "levenberg-marquardt": LevenbergMarquardt,
    "l-bfgs": LBFGS,
    "adam": Adam,
    "differential evolution": DifferentialEvolution,
}


@dataclasses.dataclass(frozen=True)
class FitFile:
    """A calibration as a file describes it.

    Attributes:
        source: Name of the file.
        title: The title of the fit.
        problem: The problem.
        method: The method of the search.
        starts: The starts of the search, None for the starts of the parameters.
        analytic: The parameters that are solved for instead of searched.
        profiles: The parameters whose profile likelihoods are requested.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { V = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> file.title, file.problem.names
        ('fit', ('V',))
    """

    source: str
    title: str
    problem: Problem
    method: AbstractSearch | DifferentialEvolution
    starts: MultiStart | None
    analytic: Analytic | None
    profiles: tuple[str, ...]

    def __str__(self) -> str:
        return f"Fit: {self.title}\n{self.problem}"


def read_fit(path: str | Path) -> FitFile | MixedFile:
    """Read a fit file (`.toml`) or a PEtab problem (`.yaml`); a file with random effects is a `MixedFile`.

    Raises:
        FileIssues: If anything in the files is wrong; `issues` lists all of it, by line and key.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { tV = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'individual = { V = "tV * exp(eta_V)" }\\n'
        ...     'random = [{ variances = { eta_V = 0.1 } }]\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> qsp.io.read_fit(folder / "fit.toml").mixed.names
        ('tV', 'var(eta_V)')
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return FitFile(path.name, path.stem, read_petab(path), TrustRegion(), None, None, ())
    text = read_bytes(path, path.name)
    values = parsed(text, path.name)
    messages: list[tuple[tuple[str, ...], str]] = []
    others: list[Issue] = []
    file = _read(Table(values, (), messages), path, others)
    if messages or others or file is None:
        lines = lines_of(text_of(text, path.name))
        issues = [Issue(path.name, keys, message, line=line_of(keys, lines)) for keys, message in messages]
        raise FileIssues([*issues, *others])
    return file


def is_fit(path: Path) -> bool:
    """Return whether a file in TOML is a fit file, as opposed to a trial file."""
    values = parsed(read_bytes(path, path.name), path.name)
    return "data" in values and not values.keys() & {"arms", "endpoints"}


def _read(top: Table, path: Path, others: list[Issue]) -> FitFile | MixedFile | None:
    title = top.text("title", default=path.stem)
    data = read_data(top, path.parent, others)
    try:
        info = read_model(top.table("model", required=True), path.parent)
    except FileIssues as error:
        others.extend(error.issues)
        info = None
    learned = read_networks(top.table("networks"), info)
    info = learned.info
    if any(key in top for key in ("random", "individual", "subpopulations")):
        if learned.weights:
            top.issue("networks", "must be parts of fits without random effects so far.")
        return read_mixed(top, path.name, title, info, data)
    parts = top.table("parameters", required=not learned.weights).children()
    parameters = {name: read_parameter(part) for name, part in parts.items()}
    outputs: dict[str, Output | None] = {}
    kinds: dict[int, str] = {}
    children = top.table("outputs", required=True).children()
    for number, (name, part) in enumerate(children.items(), start=1):
        kind = part.integer("dvid", default=number)
        if kind is not None:
            kinds[kind] = name
        with_limit(part, data, kind if len(children) > 1 else None)
        outputs[name] = read_output(part, name)
    rules = top.table("set")
    formulas = {name: rules.read(name, None, formula_of) for name in rules.values}
    estimation = _estimation(top.table("estimation"), tuple(parameters))
    top.close()
    if top.issues or info is None or data is None or estimation is None:
        return None
    try:
        observed = kinds if len(kinds) > 1 else next(iter(outputs))
        subjects = experiments(data, observed, set=present(formulas), covariates=())
        free = present(parameters) | learned.weights
        problem = Problem(info.model, subjects, present(outputs), free, functions=learned.functions)
    except ValueError as error:
        top.issue("", str(error))
        return None
    return FitFile(path.name, title or "", problem, *estimation)


class _Estimation(NamedTuple):
    """The settings of the search; the fields are those of `FitFile`."""

    method: AbstractSearch | DifferentialEvolution
    starts: MultiStart | None
    analytic: Analytic | None
    profiles: tuple[str, ...]


def _estimation(table: Table, parameters: tuple[str, ...]) -> _Estimation | None:
    kind = table.name("method", METHODS, "a method", default="trust region")
    starts = table.integer("starts", default=0)
    seed, sobol = table.integer("seed", default=0), table.flag("sobol", default=False)
    steps = table.integer("max_steps", default=None, minimum=1)
    profiles = _names_or_all(table, "profiles", parameters)
    solved = _names_or_all(table, "analytic", parameters)
    table.close()
    if table.bad or kind is None or seed is None:
        return None
    key = jax.random.key(seed)
    options: dict[str, object] = {}
    if steps is not None:
        options["generations" if kind == "differential evolution" else "max_steps"] = steps
    if kind == "differential evolution":
        options["key"] = key
    method = table.make(METHODS[kind], **options)
    drawn = MultiStart(starts, key=key, sobol=sobol) if starts else None
    analytic = Analytic(None if table.values.get("analytic") is True else solved) if solved else None
    return None if method is None else _Estimation(method, drawn, analytic, profiles)


def _names_or_all(table: Table, key: str, parameters: tuple[str, ...]) -> tuple[str, ...]:
    if table.values.get(key) is True:
        table.flag(key, default=True)
        return parameters
    return table.names(key, parameters, "a parameter", default=()) or ()
