"""The `[model]` and `[population]` of a trial file."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from qspjax import models
from qspjax._checks import concrete
from qspjax._declared import declared
from qspjax._distribution import AbstractDistribution, LogNormal, Normal, Truncated, Uniform
from qspjax._model import AbstractModel, Units, as_state
from qspjax._names import at, names, state_names
from qspjax._units import convert
from qspjax.io._model_files import ENDINGS, is_model_file, open_model
from qspjax.io.toml._table import REQUIRED, Table, shown
from qspjax.models import Network
from qspjax.population import Allometric, ByCategory, Categorical, Population, Power, SetBy

_MOST_COMPARTMENTS = 1000
_LARGEST_CV = 10.0
"""A larger coefficient of variation is a percentage without its sign."""


@dataclasses.dataclass(frozen=True)
class Described:
    """What the rest of a trial file must know of its model: names, and the unit of each.

    `covariates` are those of the population that are numbers, `categories` the names of those that are not; `main` is
    what is saved and drawn unless a file says otherwise.
    """

    model: AbstractModel
    units: Units
    parameters: dict[str, str]
    observed: dict[str, str]
    states: dict[str, str]
    targets: tuple[str, ...]
    main: tuple[str, ...]
    covariates: dict[str, str | None] = dataclasses.field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def read_model(table: Table, folder: Path | None = None) -> Described | None:
    """Read the model, of the catalogue or from a file; where some of its parameters are wrong, go on with others.

    Args:
        table: Its table.
        folder: Where files are, None if there are none.

    Raises:
        FileIssues: If the file of the model has mistakes or what is not supported.
    """
    available, name = available_models(), table.values.get("name")
    if folder is not None and isinstance(name, str) and is_model_file(name):
        return _from_file(table, folder / name)
    name = table.name("name", available, f"a file ({', '.join(ENDINGS)}) or a model whose parameters are numbers")
    given = table.table("parameters")
    table.close()
    if name is None:
        return None
    kind = available[name]
    values = {field.name: _field(given, field) for field in dataclasses.fields(kind) if field.init}
    given.close("a parameter of the model")
    model = given.make(kind, **values)
    return described(kind(**{name: _stand_in(kind, name) for name in values}) if model is None else model)


def _from_file(table: Table, path: Path) -> Described:
    table.name("name", [table.values["name"]], "a file")
    given = table.table("parameters")
    table.close()
    found = described(open_model(path))
    new = {name: given.number(name, unit, default=None) for name, unit in found.parameters.items() if name in given}
    given.close("a number of the model", found.parameters)
    return dataclasses.replace(found, model=with_numbers(found.model, new))


def with_numbers(model: AbstractModel, new: Mapping[str, float | None]) -> AbstractModel:
    """Return a model in which numbers that are given have taken the place of its own."""
    for name, value in new.items():
        model = model if value is None else at(model, name).set(value)
    return model


def read_population(table: Table, described: Described) -> tuple[Population | None, Described]:
    """Read the population, and add its covariates to what is known of the model."""
    covariates, units = {}, {}
    for name, own in table.table("covariates").children().items():
        covariates[name], units[name] = _covariate(own)
        if name == "patient":
            own.issue("", "must have another name: `patient` is a column of patients.csv.")
    groups = {name: own.categories for name, own in covariates.items() if isinstance(own, Categorical)}
    numbers = {name: unit for name, unit in units.items() if name not in groups}
    described = dataclasses.replace(described, covariates=numbers, categories=groups)
    between = _between(table.table("between"), described)
    effects = [_effect(own, described) for own in table.tables("effects")]
    correlation = _correlation(table.table("correlation"), tuple(between))
    population = table.make(
        Population,
        described.model,
        between=between,
        covariates=covariates,
        effects=[effect for effect in effects if effect is not None],
        correlation=correlation,
    )
    return population, described


def available_models() -> dict[str, type[AbstractModel]]:
    """Return the models of the catalogue that a file can state: those whose fields are numbers and names."""
    found = {name: kind for name, kind in vars(models).items() if inspect.isclass(kind)}
    return {
        name: kind
        for name, kind in sorted(found.items())
        if issubclass(kind, AbstractModel)
        and not inspect.isabstract(kind)
        and all(_readable(field) for field in dataclasses.fields(kind))
    }


def _readable(field: dataclasses.Field) -> bool:
    return "unit" in field.metadata or field.type in (int, str)


def _field(table: Table, field: dataclasses.Field) -> Any:
    default = REQUIRED if field.default is dataclasses.MISSING else field.default
    if field.type is int:
        return table.whole(field.name, default=default, maximum=_MOST_COMPARTMENTS)
    if "unit" not in field.metadata:
        return table.text(field.name, default=default)
    return table.number(field.name, field.metadata["unit"], default=default, above=field.metadata["above"])


def _stand_in(kind: type, name: str) -> Any:
    default = next(field.default for field in dataclasses.fields(kind) if field.name == name)
    return 1 if default is dataclasses.MISSING else default


def described(model: AbstractModel) -> Described:
    """Return what is to be known of a model."""
    start = as_state(model, None)
    observed = eqx.filter_eval_shape(lambda: model.observe(0.0, start))
    states, units, deliveries = state_names(start), model.units, declared(model).deliveries()
    closed = {name for name, delivery in deliveries.items() if np.isnan(concrete(delivery.scale))}
    targets = [name for name in dict.fromkeys((*deliveries, *states)) if name not in closed]
    own = model.definition.species if isinstance(model, Network) else observed
    return Described(
        model=model,
        units=units,
        parameters={parameter.name: parameter.unit for parameter in names(model)},
        observed={name: units.observed.get(name, "") for name in observed},
        states={name: units.of_state(name) for name in states},
        targets=tuple(targets),
        main=tuple(name for name in observed if name in own),
    )


def _between(table: Table, described: Described) -> dict[str, AbstractDistribution]:
    children = table.children(described.parameters, "a parameter of the model")
    found = {name: _varied(own, described.parameters[name]) for name, own in children.items()}
    return {name: distribution for name, distribution in found.items() if distribution is not None}


def _varied(table: Table, unit: str) -> AbstractDistribution | None:
    """Read the distribution of a parameter, around the typical value unless it says where."""
    kinds = {"cv": _lognormal, "omega": _lognormal, "sd": _normal, "low": _uniform, "high": _uniform}
    read = next((kinds[key] for key in table.values if key in kinds), None)
    if table.bad:
        return None
    if read is None:
        has = ", ".join(table.values) or "nothing"
        table.issue("", f"must have cv or omega (log-normal), sd (normal), or low and high (uniform), but has {has}.")
        return None
    return _truncated(table, unit, read(table, unit, location=None))


def read_distribution(table: Table) -> AbstractDistribution | None:
    """Read a distribution of a number without a unit: `distribution` says which, its keys are those of a covariate."""
    kinds: dict[str, Callable] = {"normal": _normal, "lognormal": _lognormal, "uniform": _uniform}
    kind = table.name("distribution", kinds, "a distribution")
    return None if kind is None else _truncated(table, "", kinds[kind](table, "", location=REQUIRED))


def _covariate(table: Table) -> tuple[AbstractDistribution | Categorical | None, str | None]:
    kinds: dict[str, Callable] = {"normal": _normal, "lognormal": _lognormal, "uniform": _uniform}
    kind, unit = table.name("distribution", (*kinds, "categorical"), "a distribution"), table.unit("unit")
    if kind is None:
        return None, unit
    if kind == "categorical":
        shares = table.table("probabilities", required=True)
        probabilities = {name: shares.number(name) for name in shares.values}
        return table.make(Categorical, probabilities), ""
    return _truncated(table, unit, kinds[kind](table, unit, location=REQUIRED)), unit


def _normal(table: Table, unit: str | None, *, location: Any) -> Any:
    mean, sd = table.number("mean", unit, default=location), table.number("sd", unit, above=0)
    return lambda: Normal(mean, sd=sd)


def _lognormal(table: Table, unit: str | None, *, location: Any) -> Any:
    if location is REQUIRED and ("mean" in table or "sd" in table):
        mean, sd = table.number("mean", unit, above=0), table.number("sd", unit, above=0)
        return lambda: LogNormal.from_mean(mean, sd=sd)
    median = table.number("median", unit, default=location, above=0)
    spread = table.only(("cv", "omega"), "spread", beside=("truncate",))
    spreads = {} if spread is None else {spread: table.number(spread, above=0)}
    if (spreads.get("cv") or 0.0) > _LARGEST_CV:
        must = f"must be a fraction or have a %, at most {_LARGEST_CV:g} ({100 * _LARGEST_CV:g} %)"
        table.issue("cv", f"{must}, but is {shown(table.values['cv'])}.")
    return lambda: LogNormal(median, **spreads)


def _uniform(table: Table, unit: str | None, *, location: Any) -> Any:
    del location
    low, high = table.number("low", unit), table.number("high", unit)
    return lambda: Uniform(low, high)


def _truncated(
    table: Table, unit: str | None, build: Callable[[], AbstractDistribution]
) -> AbstractDistribution | None:
    ends = table.numbers("truncate", unit, default=None, length=2)
    if ends is not None and not ends[0] < ends[1]:
        table.issue("truncate", f"must be two numbers, low before high, but is {shown(table.values['truncate'])}.")
    return table.make(lambda: build() if ends is None else Truncated(build(), *ends))


def _correlation(table: Table, order: tuple[str, ...]) -> dict[tuple[str, str], float]:
    found = {}
    for key in table.values:
        pair = tuple(part.strip() for part in key.split(","))
        value = table.number(key)
        if len(pair) != 2 or not set(pair) <= set(order) or pair[0] == pair[1]:
            allowed = ", ".join(order) or "there are none"
            must = f'must be two parameters of [population.between] ({allowed}), such as "A, B"'
            table.issue(key, f"{must}, but is {shown(key)}.")
        elif value is not None and not -1 < value < 1:
            table.issue(key, f"must be between -1 and 1, but is {value:g}.")
        else:
            found[pair] = value
    return found


def _effect(table: Table, described: Described) -> Any:
    kinds = {"power": _power, "allometric": _allometric, "category": _category, "set": _set}
    kind = table.only(kinds, "effect")
    table.close()
    return None if kind is None else kinds[kind](table.table(kind), described)


def _power(table: Table, described: Described) -> Power | None:
    parameter, covariate = _parameter(table, described), _number_covariate(table, "covariate", described)
    exponent = table.number("exponent")
    reference = table.number("reference", described.covariates.get(covariate), above=0)
    return table.make(lambda: Power(parameter, covariate, exponent=exponent, reference=reference))


def _allometric(table: Table, described: Described) -> Allometric | None:
    what = "a parameter of the model"
    lists = {key: table.names(key, described.parameters, what, default=()) for key in ("clearances", "volumes")}
    weight = _number_covariate(table, "weight", described, default="WT" if "WT" in described.covariates else REQUIRED)
    unit = described.covariates.get(weight)
    reference = table.number("reference", unit, default=None, above=0)
    exponents = {key: table.number(key, default=None) for key in ("clearance_exponent", "volume_exponent")}
    stated = {key: value for key, value in exponents.items() if value is not None}
    return table.make(
        lambda: Allometric(
            **lists,
            weight=weight,
            reference=convert("70 kg", to=unit or "", argument="reference") if reference is None else reference,
            **stated,
        )
    )


def _category(table: Table, described: Described) -> ByCategory | None:
    parameter = _parameter(table, described)
    covariate = table.name("covariate", described.categories, "a categorical covariate")
    factors = table.table("factors", required=True)
    values = {name: factors.number(name, above=0) for name in described.categories.get(covariate, ())}
    factors.close()
    return table.make(lambda: ByCategory(parameter, covariate, factors=values))


def _set(table: Table, described: Described) -> SetBy | None:
    parameter: Any = _parameter(table, described)
    covariate: Any = _number_covariate(table, "covariate", described)
    if parameter is not None and covariate is not None:
        own, wanted = described.covariates[covariate], described.parameters[parameter]
        if own not in (None, wanted) and not _same_unit(own, wanted):
            must = f"must have the unit of `{parameter}` ({wanted or 'none'})"
            table.issue("covariate", f"{must}, but has {f'the unit {own}' if own else 'none'}.")
    return table.make(SetBy, parameter, covariate)


def _same_unit(own: str, wanted: str) -> bool:
    try:
        return bool(own) and bool(wanted) and abs(convert(f"1 {own}", to=wanted) - 1.0) < 1e-12
    except ValueError:
        return False


def _parameter(table: Table, described: Described) -> Any:
    return table.name("parameter", described.parameters, "a parameter of the model")


def _number_covariate(table: Table, key: str, described: Described, *, default: Any = REQUIRED) -> Any:
    return table.name(key, described.covariates, "a covariate that is a number", default=default)
