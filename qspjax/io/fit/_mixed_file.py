"""Fit files with random effects: nonlinear mixed effects as text, beside a data set in the format of NONMEM.

title                      the title
data                       the data set; or a table: file and the options of `read_nonmem` (ignore, accept, columns,
                           rename, recode, categories, dialect), interpolation ("nocb", "locf")
[model]                    as in a trial file
[parameters.NAME]          as in any fit file: typical values, effects of covariates, noise
[individual]               by name, formulas over parameters, random effects and covariates
[[random]]                 variances (by name); or effects (names) and covariance (all of it, or its lower triangle, row
                           by row); fixed; occasion, the column whose values have effects of their own
[subpopulations]           of a mixture: by name, the probabilities where the search begins, which add up to 1; all but
                           the last are estimated, as P(name). In formulas a name is 1 in its subpopulation and 0 in
                           the others: CL = "piecewise(tCL_poor, poor > 0, tCL) * exp(eta_CL)"
[outputs.NAME]             as in any fit file
[estimation]               method ("focei", "foce", "fo", "laplace" or "saem"), iterations, tolerance; standard_errors
                           ("sandwich", "hessian" or "products"); likelihood ("quadrature" with points, or
                           "importance" with samples); no "saem" of a mixture
[simulation]               replicates, seed, corrected and bins of the visual predictive check
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError
from qspjax._expression import Expression, as_formula, check_constants
from qspjax._model import AbstractModel
from qspjax._names import names as names_of
from qspjax.fit import (
    FO,
    FOCE,
    FOCEI,
    SAEM,
    AbstractApproximation,
    AbstractCovariance,
    AbstractIntegral,
    Experiment,
    Free,
    Hessian,
    ImportanceSampling,
    Laplace,
    MixedModel,
    Mixture,
    OuterProducts,
    Output,
    Quadrature,
    RandomEffects,
    Sandwich,
)
from qspjax.fit.data._formula import names_in
from qspjax.io.fit._parts import read_output, read_parameter, with_limit
from qspjax.io.nonmem._data import NonmemData
from qspjax.io.nonmem._experiments import experiments, kinds_of
from qspjax.io.toml._model import ModelInfo
from qspjax.io.toml._table import Table, one_of, present, shown

METHODS: dict[str, type[AbstractApproximation] | type[SAEM]] = {
    "focei": FOCEI,
    "foce": FOCE,
    "fo": FO,
    "laplace": Laplace,
    "saem": SAEM,
}
"""The methods by name; the arguments of each are read from keys of its own."""

OPTIONS: dict[str, Sequence[str]] = {"saem": ("exploration", "smoothing", "chains", "sweeps", "samples", "seed")}
"""The arguments of methods that are whole numbers, by name of the method."""

INTEGRALS: dict[str, tuple[Callable[..., AbstractIntegral], str]] = {
    "quadrature": (Quadrature, "points"),
    "importance": (lambda *samples: ImportanceSampling(*samples, key=jax.random.key(0)), "samples"),
}

COVARIANCES: dict[str, type[AbstractCovariance]] = {
    "sandwich": Sandwich,
    "hessian": Hessian,
    "products": OuterProducts,
}
"""The covariances of estimates by name."""

COLUMNS = ("ID", "OBJECTIVE", "SUBPOPULATION")
"""Columns that tables of individuals have for any model, see `MixedFit.individuals`."""


@dataclasses.dataclass(frozen=True)
class MixedFile:
    """A mixed-effects fit as a file describes it.

    Attributes:
        source: Name of the file.
        title: The title of the fit.
        mixed: The mixed-effects model.
        data: The data set.
        method: The method of estimation.
        iterations: Maximum number of iterations, None for that of the method.
        tolerance: The tolerance at which the search ends.
        covariance: The covariance of the estimates, for their standard errors.
        integral: How the likelihood itself is integrated at the end, None if it is not.
        replicates: Number of data sets that are simulated for the visual predictive check and NPDE.
        seed: The seed of these.
        corrected: Whether the check is corrected by predictions.
        bins: The number of its bins, None for an automatic choice.

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
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> file.title, file.mixed.names
        ('fit', ('tV', 'var(eta_V)'))
    """

    source: str
    title: str
    mixed: MixedModel | Mixture
    data: NonmemData
    method: AbstractApproximation | SAEM
    iterations: int | None
    tolerance: float
    covariance: AbstractCovariance
    integral: AbstractIntegral | None
    replicates: int
    seed: int
    corrected: bool
    bins: int | None

    def __str__(self) -> str:
        mixed = self.mixed
        subpopulations = mixed.space.subpopulations
        several = max(1, len(subpopulations))
        measured = sum(rows.value.size for rows in mixed.copies.rows) // several
        censored = sum(int(rows.censored.sum()) for rows in mixed.copies.rows) // several
        below = f", {censored} below the limit of quantification" if censored else ""
        covariates = [name for name in mixed.copies.covariates if name not in subpopulations]
        lines = {
            "Fit": self.title,
            "Data": f"{measured} measurements of {mixed.count} subjects{below}",
            "Estimated": ", ".join(mixed.names),
            "Covariates": ", ".join(covariates) or "none",
            **({"Mixture": ", ".join(subpopulations)} if subpopulations else {}),
            "Method": type(self.method).__name__,
        }
        return "\n".join(f"{key + ':':<12}{value}" for key, value in lines.items())


def read_mixed(
    top: Table, source: str, title: str | None, info: ModelInfo | None, data: NonmemData | None
) -> MixedFile | None:
    """Read the rest of a file with random effects.

    Args:
        top: The file; title, data and model have been read.
        source: Its name.
        title: Its title.
        info: The model, None if it has mistakes.
        data: The data set, None if it has mistakes.
    """
    parameters = {
        name: read_parameter(part) for name, part in top.table("parameters", required=True).children().items()
    }
    rules = top.table("individual", required=True)
    formulas = {name: rules.read(name, None, lambda value: as_formula("", value)) for name in rules.values}
    blocks = top.tables("random")
    effects = [name for block in blocks for name in _effects(block)]
    columns = None if data is None else [*data.covariates, *data.varying]
    random = [_random(block, columns) for block in blocks]
    outputs, kinds, several = _outputs(top.table("outputs", required=True), data)
    shares = _shares(top, info, parameters, effects, formulas, outputs)
    estimation = _estimation(top.table("estimation"), is_mixture="subpopulations" in top)
    simulation = _simulation(top.table("simulation"))
    if "set" in top:
        top.table("set").issue("", "must be [individual] in a fit with random effects, but is [set].")
    top.close()
    if info is None or data is None:
        return None
    used = _checked(top, rules, info, data, parameters, formulas, [*effects, *shares], outputs)
    used += [block.occasion for block in random if block is not None and block.occasion is not None]
    _check_observed(top, data, kinds if several else None)
    if top.issues or estimation is None or simulation is None:
        return None
    try:
        subjects = experiments(data, kinds if several else next(iter(outputs)), covariates=list(dict.fromkeys(used)))
        drawn = [block for block in random if block is not None]
        fitted = present(outputs), present(parameters), present(formulas)
        mixed = _mixed(info.model, subjects, *fitted, drawn, present(shares))
    except ArgumentError as error:
        key = {"subjects": "data"}.get(error.argument, error.argument)
        top.issue(key if key in top else "", error.must)
        return None
    except ValueError as error:
        top.issue("", str(error))
        return None
    return MixedFile(source, title or "", mixed, data, *estimation, *simulation)


def _mixed(
    model: AbstractModel,
    subjects: Mapping[str, Experiment],
    outputs: Mapping[str, Output],
    parameters: Mapping[str, Free | float],
    individual: Mapping[str, float | Expression],
    random: Sequence[RandomEffects],
    shares: Mapping[str, float],
) -> MixedModel | Mixture:
    if not shares:
        return MixedModel(model, subjects, outputs, parameters=parameters, individual=individual, random=random)
    return Mixture(
        model,
        subjects,
        outputs,
        subpopulations=shares,
        parameters=parameters,
        individual=individual,
        random=random,
    )


def _random(table: Table, columns: Sequence[str] | None) -> RandomEffects | None:
    fixed = table.flag("fixed", default=False)
    if columns is None:  # the mistake is in the data, not in the reference to them
        occasion = table.text("occasion", default=None)
    else:
        occasion = table.name("occasion", columns, "a column of the data", default=None)
    kind = table.only(("variances", "effects"), "kind of random effects", beside=("covariance",))
    if kind == "variances":
        part = table.table("variances")
        variances = {name: part.number(name, above=0.0) for name in part.values}
        if not variances:
            part.issue("", "must have the variance of a random effect by its name, but is empty.")
        return table.make(RandomEffects, variances, fixed=fixed, occasion=occasion)
    if kind is None:
        return None
    effects = table.read("effects", None, _names)
    covariance = table.read("covariance", None, lambda value: _symmetric(value, len(effects or ())))
    if covariance is None and not table.bad:
        table.issue("covariance", "must be given, but is missing.")
    return table.make(RandomEffects, effects, covariance, fixed=fixed, occasion=occasion)


def _effects(table: Table) -> list[str]:
    """Return the names of random effects, even if their table has mistakes."""
    variances, effects = (table.values.get(key) for key in ("variances", "effects"))
    named = [*(variances if isinstance(variances, dict) else ()), *(effects if isinstance(effects, list) else ())]
    return [name for name in named if isinstance(name, str)]


def _names(value: object) -> list[str]:
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or not names or len(names) < len(value):
        raise ValueError(f"must be a list of names, but is {shown(value)}.")
    return names


def _symmetric(value: object, size: int) -> Float[np.ndarray, "effects effects"]:
    """Return a covariance, of which only the lower triangle may be given."""
    rows = value if isinstance(value, list) and all(map(_is_row, value)) else []
    lengths = [len(row) for row in rows]
    if lengths == [size] * size:
        return np.array(rows, float).reshape(size, size)
    if lengths != [*range(1, size + 1)]:
        raise ValueError(f"must be {size} rows of numbers, or their lower triangle, but is {shown(value)}.")
    lower = np.array([[*row, *[0.0] * (size - len(row))] for row in rows], float)
    return lower + np.tril(lower, -1).T


def _is_row(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)


def _shares(
    top: Table,
    info: ModelInfo | None,
    parameters: Collection[str],
    effects: Collection[str],
    formulas: Mapping[str, float | Expression | None],
    outputs: Mapping[str, Output | None],
) -> dict[str, float | None]:
    """Read the probabilities of the subpopulations, none without a mixture; add issues of unsuitable names.

    Args:
        top: The file.
        info: The model, None if it has mistakes.
        parameters: The names of the parameters.
        effects: The names of the random effects.
        formulas: The formulas of individual parameters, None where there are mistakes.
        outputs: The outputs, None where there are mistakes.
    """
    table = top.table("subpopulations")
    shares = {name: table.number(name, above=0.0) for name in table.values}
    if "subpopulations" in top and not table.bad:
        total = sum(present(shares).values())
        if len(shares) < 2:
            table.issue("", f"must be at least two, but there {'is 1' if shares else 'are none'}.")
        elif abs(total - 1.0) > 1e-6:
            table.issue("", f"must have probabilities that add up to 1, but their sum is {total:.7g}.")
    measured = frozenset().union(*(output.names() for output in present(outputs).values()))
    kinds = {
        "a parameter": parameters,
        "a random effect": effects,
        "a parameter of the model": [] if info is None else [parameter.name for parameter in names_of(info.model)],
        "a formula of [individual]": measured & formulas.keys(),
        "a column of the results": COLUMNS,
    }
    for name in shares:
        kind = next((kind for kind, names in kinds.items() if name in names), None)
        if kind is not None:
            table.issue(name, f"must have a name that means nothing else, but it is also that of {kind}: rename it.")
    if None not in (*formulas.values(), *outputs.values()):
        used = measured | names_in(*present(formulas).values())
        unused = [name for name in shares if name not in used]
        if len(unused) > 1:
            table.issue("", f"must be distinguished by formulas, but none uses {' or '.join(unused)}.")
    return shares


def _outputs(table: Table, data: NonmemData | None) -> tuple[dict[str, Output | None], dict[int | str, str], bool]:
    """Read the outputs; also return the kind of observation of each, and whether there are several kinds."""
    outputs: dict[str, Output | None] = {}
    kinds: dict[int | str, str] = {}
    children = table.children()
    for number, (name, part) in enumerate(children.items(), start=1):
        kind = part.read("dvid", number, _kind)
        if kind in kinds:
            part.issue("dvid", f"must be that of no other output, but is that of `{kinds[kind]}`.")
        if kind is not None:
            kinds.setdefault(kind, name)
        with_limit(part, data, kind if len(children) > 1 or "dvid" in part else None)
        outputs[name] = read_output(part, name)
    return outputs, kinds, len(kinds) > 1 or any("dvid" in part for part in children.values())


def _kind(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"must be the number or the name of a kind of observation, but is {shown(value)}.")
    return value


def _check_observed(top: Table, data: NonmemData, outputs: Mapping[int | str, str] | None) -> None:
    """Add issues of observations without an output, outputs without observations, and subjects without any."""
    kinds = kinds_of(data)
    observed = kinds != None  # noqa: E711
    if outputs is not None:
        for kind in sorted({*kinds[observed].tolist()} - outputs.keys(), key=str):
            count = int((kinds == kind).sum())
            must = "must have an output for every kind of observation"
            top.table("outputs").issue("", f"{must}, but has none for the {count} observations with DVID {kind}.")
        for kind, name in outputs.items():
            if not (kinds == kind).any():
                must = "must be observed"
                top.table("outputs").issue(name, f"{must}, but the data have no observation with DVID {kind}.")
    without = [str(data.ids[i]) for i in np.flatnonzero(~observed.any(axis=1))]
    if without:
        hint = f'leave them out with ignore = "ID.EQ.{without[0]}"'
        top.issue("data", f"must have observations of every subject, but has none of {_subjects(without)}: {hint}.")


def _subjects(subjects: Sequence[str]) -> str:
    names = ", ".join(subjects[:5]) + (", ..." if len(subjects) > 5 else "")
    return f"{'subject' if len(subjects) == 1 else 'subjects'} {names}"


def _checked(
    top: Table,
    rules: Table,
    info: ModelInfo,
    data: NonmemData,
    parameters: Mapping[str, Free | float | None],
    formulas: Mapping[str, float | Expression | None],
    effects: Sequence[str],
    outputs: Mapping[str, Output | None],
) -> list[str]:
    """Return the covariates that are used; add issues of unknown and ambiguous names, and of missing covariates."""
    leaves = [parameter.name for parameter in names_of(info.model)]
    columns = [*data.covariates, *data.varying]
    measured = frozenset().union(*(output.names() for output in present(outputs).values()))
    known = [*parameters, *effects, *columns, *leaves]
    for name, formula in formulas.items():
        if name not in measured:
            _check_name(rules, name, name, leaves, "a parameter of the model, or a name that an output uses")
        for symbol in sorted(names_in(formula)) if formula is not None else ():
            if symbol not in known:
                _check_name(rules, name, symbol, known, "a formula over parameters, random effects and covariates")
    _check_constants(top, "outputs", known, *(output.formulas() for output in present(outputs).values()))
    for name, formula in present(formulas).items():
        _check_constants(rules, name, known, [formula])
    used = measured | names_in(*present(formulas).values())
    others = {*parameters, *effects, *leaves, *formulas}
    for name in sorted(used & {*columns} & others):
        must = "must have columns that mean nothing else"
        top.issue("data", f"{must}, but `{name}` is also the name of a number: rename it.")
    covariates = [name for name in columns if name in used and name not in others]
    for name in covariates:
        values = data.covariates[name][:, None] if name in data.covariates else data.varying[name]
        missing = [str(data.ids[i]) for i in np.flatnonzero(np.isnan(np.asarray(values, float)).any(axis=1))]
        if missing:
            key = next((key for key, formula in present(formulas).items() if name in names_in(formula)), "")
            must = "must use covariates that are known for all subjects"
            rules.issue(key, f"{must}, but `{name}` is missing in {_subjects(missing)}.")
    return covariates


def _check_constants(table: Table, key: str, known: Sequence[str], *formulas: Sequence[float | Expression]) -> None:
    try:
        check_constants(key, known, itertools.chain(*formulas))
    except ArgumentError as error:
        table.issue(key, error.must)


def _check_name(table: Table, key: str, name: str, allowed: Sequence[str], what: str) -> None:
    try:
        one_of(name, allowed, what)
    except ValueError as error:
        table.issue(key, str(error))


def covariance_word(covariance: AbstractCovariance) -> str:
    """Return the word of a file for a covariance of estimates."""
    return next(word for word, build in COVARIANCES.items() if isinstance(covariance, build))


class _Estimation(NamedTuple):
    """The settings of the estimation; the fields are those of `MixedFile`."""

    method: AbstractApproximation | SAEM
    iterations: int | None
    tolerance: float
    covariance: AbstractCovariance
    integral: AbstractIntegral | None


def _estimation(table: Table, *, is_mixture: bool) -> _Estimation | None:
    kind = table.name("method", METHODS, "a method", default="focei")
    if kind == "saem" and is_mixture:
        table.issue("method", 'must be focei, foce, fo or laplace for a mixture of subpopulations, but is "saem".')
    known = OPTIONS.get(kind, ()) if kind is not None else [key for keys in OPTIONS.values() for key in keys]
    options = {key: table.integer(key, default=None) for key in known}
    iterations = table.integer("iterations", default=None, minimum=0)
    tolerance = table.number("tolerance", default=1e-6, above=0.0)
    word = table.name("standard_errors", COVARIANCES, "a kind of standard errors", default="sandwich")
    likelihood = table.name("likelihood", INTEGRALS, "a way to integrate", default=None)
    integral = None
    if likelihood is not None:
        build, key = INTEGRALS[likelihood]
        size = table.integer(key, default=None, minimum=1)
        integral = table.make(build, *([] if size is None else [size]))
    table.close()
    if kind is None or word is None or tolerance is None or table.bad:
        return None
    values: dict[str, object] = dict(present(options))
    if kind == "saem":
        values["key"] = jax.random.key(options.get("seed") or 0)
        values.pop("seed", None)
    method = table.make(METHODS[kind], **values)
    return None if method is None else _Estimation(method, iterations, tolerance, COVARIANCES[word](), integral)


class _Simulation(NamedTuple):
    """The visual predictive check; the fields are those of `MixedFile`."""

    replicates: int
    seed: int
    corrected: bool
    bins: int | None


def _simulation(table: Table) -> _Simulation | None:
    replicates = table.integer("replicates", default=500, minimum=2)
    seed, corrected = table.integer("seed", default=0), table.flag("corrected", default=True)
    bins = table.integer("bins", default=None, minimum=1)
    table.close()
    return None if replicates is None or seed is None else _Simulation(replicates, seed, corrected, bins)
