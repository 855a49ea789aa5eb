"""The `[model]` and `[population]` of a trial file."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import equinox as eqx
import numpy as np

from qspjax import models
from qspjax._checks import concrete
from qspjax._declared import declared
from qspjax._distribution import AbstractDistribution, LogNormal, LogUniform, Normal, Truncated, Uniform
from qspjax._model import AbstractModel, Units, as_state
from qspjax._names import at, names, state_names
from qspjax._units import convert
from qspjax.io._model_files import ENDINGS, is_model_file, open_model
from qspjax.io.toml._table import REQUIRED, Required, Table, shown
from qspjax.models import Network
from qspjax.population import AbstractCovariateEffect, Allometric, ByCategory, Categorical, Population, Power, SetBy

T = TypeVar("T")
Build: TypeAlias = Callable[[], AbstractDistribution]


class Reader(Protocol):
    """Reads the numbers of a distribution; `location` is the default of its mean or median."""

    def __call__(self, table: Table, unit: str | None, *, location: None | Required) -> Build: ...


_MOST_COMPARTMENTS = 1000
_LARGEST_CV = 10.0
"""A larger coefficient of variation is a percentage without its sign."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Information on a model for the readers of a file: names, and the unit of each.

    Attributes:
        model: The model.
        units: Its units.
        parameters: The unit of each parameter by name.
        observed: The unit of each observed value by name.
        states: The unit of each state by name.
        targets: The names of dose targets.
        main: The values that are saved and drawn by default.
        covariates: The unit of each covariate of the population that is a number, by name; None where it is wrong.
        categories: The categories of each other covariate by name.
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


def read_model(table: Table, folder: Path | None = None) -> ModelInfo | None:
    """Read the model, of the catalogue or from a file; stand-ins replace parameters that are wrong.

    Args:
        table: Its table.
        folder: The folder of model files, None if there is none.

    Raises:
        FileIssues: If the file of the model has mistakes or something that is not supported.
    """
    available, name = available_models(), table.values.get("name")
    if folder is not None and isinstance(name, str) and is_model_file(name):
        return _from_file(table, folder / name)
    name = table.name("name", available, f"a file ({', '.join(ENDINGS)}) or a model whose parameters are numbers")
    numbers = table.table("parameters")
    table.close()
    if name is None:
        return None
    kind = available[name]
    values = {field.name: _field(numbers, field) for field in dataclasses.fields(kind) if field.init}
    numbers.close("a parameter of the model")
    model = numbers.make(kind, **values)
    return info_of(kind(**{name: _stand_in(kind, name) for name in values}) if model is None else model)


def _from_file(table: Table, path: Path) -> ModelInfo:
    table.text("name")
    numbers = table.table("parameters")
    table.close()
    info = info_of(open_model(path))
    new = {name: numbers.number(name, unit, default=None) for name, unit in info.parameters.items() if name in numbers}
    numbers.close("a number of the model", info.parameters)
    return dataclasses.replace(info, model=with_numbers(info.model, new))


def with_numbers(model: AbstractModel, new: Mapping[str, float | None]) -> AbstractModel:
    """Return a model with the new numbers that are not None."""
    for name, value in new.items():
        model = model if value is None else at(model, name).set(value)
    return model


def read_population(table: Table, info: ModelInfo) -> tuple[Population | None, ModelInfo]:
    """Read the population, and add its covariates to the information on the model."""
    covariates, units = {}, {}
    for name, part in table.table("covariates").children().items():
        covariates[name], units[name] = _covariate(part)
        if name == "patient":
            part.issue("", "must have another name: `patient` is a column of patients.csv.")
    groups = {
        name: distribution.categories
        for name, distribution in covariates.items()
        if isinstance(distribution, Categorical)
    }
    numbers = {name: unit for name, unit in units.items() if name not in groups}
    info = dataclasses.replace(info, covariates=numbers, categories=groups)
    between = _between(table.table("between"), info)
    effects = [_effect(part, info) for part in table.tables("effects")]
    correlation = _correlation(table.table("correlation"), tuple(between))
    population = table.make(
        Population,
        info.model,
        between=between,
        covariates=covariates,
        effects=[effect for effect in effects if effect is not None],
        correlation=correlation,
    )
    return population, info


def available_models() -> dict[str, type[AbstractModel]]:
    """Return the models of the catalogue that a file can name: those whose fields are numbers and names."""
    classes = {name: kind for name, kind in vars(models).items() if inspect.isclass(kind)}
    return {
        name: kind
        for name, kind in sorted(classes.items())
        if issubclass(kind, AbstractModel)
        and not inspect.isabstract(kind)
        and all(_readable(field) for field in dataclasses.fields(kind) if field.init)
    }


def _readable(field: dataclasses.Field) -> bool:
    return "unit" in field.metadata or field.type in (int, str)


def _field(table: Table, field: dataclasses.Field) -> float | str | None:
    default = REQUIRED if field.default is dataclasses.MISSING else field.default
    if field.type is int:
        return table.integer(field.name, default=default, maximum=_MOST_COMPARTMENTS)
    if "unit" not in field.metadata:
        return table.text(field.name, default=default)
    return table.number(field.name, field.metadata["unit"], default=default, above=field.metadata["above"])


def _stand_in(kind: type[AbstractModel], name: str) -> object:
    """Return a stand-in for a wrong number, so that the names of the model are known."""
    default = next(field.default for field in dataclasses.fields(kind) if field.name == name)
    return 1 if default is dataclasses.MISSING else default


def info_of(model: AbstractModel) -> ModelInfo:
    """Return the information on a model."""
    start = as_state(model, None)
    observed = eqx.filter_eval_shape(lambda: model.observe(0.0, start))
    states, units, deliveries = state_names(start), model.units, declared(model).deliveries()
    scales = {name: concrete(delivery.scale) for name, delivery in deliveries.items()}
    closed = {name for name, scale in scales.items() if scale is not None and np.isnan(scale)}
    targets = [name for name in dict.fromkeys((*deliveries, *states)) if name not in closed]
    main = model.definition.species if isinstance(model, Network) else observed
    return ModelInfo(
        model=model,
        units=units,
        parameters={parameter.name: parameter.unit for parameter in names(model)},
        observed={name: units.observed.get(name, "") for name in observed},
        states={name: units.of_state(name) for name in states},
        targets=tuple(targets),
        main=tuple(name for name in observed if name in main),
    )


def _between(table: Table, info: ModelInfo) -> dict[str, AbstractDistribution]:
    children = table.children(info.parameters, "a parameter of the model")
    distributions = {name: _varied(part, info.parameters[name]) for name, part in children.items()}
    return {name: distribution for name, distribution in distributions.items() if distribution is not None}


def _varied(table: Table, unit: str) -> AbstractDistribution | None:
    """Read the distribution of a parameter, around the typical value."""
    kinds: dict[str, Reader] = {"cv": _lognormal, "omega": _lognormal, "sd": _normal, "low": _uniform, "high": _uniform}
    read = next((kinds[key] for key in table.values if key in kinds), None)
    if table.bad:
        return None
    if read is None:
        keys = ", ".join(table.values) or "nothing"
        table.issue("", f"must have cv or omega (log-normal), sd (normal), or low and high (uniform), but has {keys}.")
        return None
    if read is _uniform and table.flag("log", default=False):
        read = _loguniform
    return _truncated(table, unit, read(table, unit, location=None))


def read_distribution(table: Table) -> AbstractDistribution | None:
    """Read a distribution of a number without a unit: `distribution` names it, its keys are those of a covariate."""
    kind = table.name("distribution", _DISTRIBUTIONS, "a distribution")
    return None if kind is None else _truncated(table, "", _DISTRIBUTIONS[kind](table, "", location=REQUIRED))


def _covariate(table: Table) -> tuple[AbstractDistribution | Categorical | None, str | None]:
    kind = table.name("distribution", (*_DISTRIBUTIONS, "categorical"), "a distribution")
    unit = table.unit("unit")
    if kind is None:
        return None, unit
    if kind == "categorical":
        shares = table.table("probabilities", required=True)
        probabilities = {name: shares.number(name) for name in shares.values}
        return table.make(Categorical, probabilities), ""
    return _truncated(table, unit, _DISTRIBUTIONS[kind](table, unit, location=REQUIRED)), unit


def _normal(table: Table, unit: str | None, *, location: None | Required) -> Build:
    mean, sd = table.number("mean", unit, default=location), table.number("sd", unit, above=0)
    return _later(Normal, mean, sd=sd)


def _lognormal(table: Table, unit: str | None, *, location: None | Required) -> Build:
    if location is REQUIRED and ("mean" in table or "sd" in table):
        mean, sd = table.number("mean", unit, above=0), table.number("sd", unit, above=0)
        return _later(LogNormal.from_mean, mean, sd=sd)
    median = table.number("median", unit, default=location, above=0)
    spread = table.only(("cv", "omega"), "spread", beside=("truncate",))
    spreads = {} if spread is None else {spread: table.number(spread, above=0)}
    if (spreads.get("cv") or 0.0) > _LARGEST_CV:
        must = f"must be a fraction or have a %, at most {_LARGEST_CV:g} ({100 * _LARGEST_CV:g} %)"
        table.issue("cv", f"{must}, but is {shown(table.values['cv'])}.")
    return _later(LogNormal, median, **spreads)


def _uniform(table: Table, unit: str | None, *, location: None | Required) -> Build:
    del location
    low, high = table.number("low", unit), table.number("high", unit)
    return _later(Uniform, low, high)


def _loguniform(table: Table, unit: str | None, *, location: None | Required) -> Build:
    del location
    low, high = table.number("low", unit, above=0), table.number("high", unit, above=0)
    return _later(LogUniform, low, high)


_DISTRIBUTIONS: dict[str, Reader] = {
    "normal": _normal,
    "lognormal": _lognormal,
    "uniform": _uniform,
    "loguniform": _loguniform,
}


def _truncated(table: Table, unit: str | None, build: Build) -> AbstractDistribution | None:
    ends = table.numbers("truncate", unit, default=None, length=2)
    if ends is not None and not ends[0] < ends[1]:
        table.issue("truncate", f"must be two numbers, low before high, but is {shown(table.values['truncate'])}.")
    return table.make(lambda: build() if ends is None else Truncated(build(), *ends))


def _later(build: Callable[..., T], *args: object, **kwargs: object) -> Callable[[], T]:
    """Return a function without arguments that builds an object, to be called if no value is wrong (None)."""
    return lambda: build(*args, **kwargs)


def _correlation(table: Table, order: tuple[str, ...]) -> dict[tuple[str, str], float]:
    correlation = {}
    for key in table.values:
        first, _, second = (part.strip() for part in key.partition(","))
        value = table.number(key)
        if not {first, second} <= set(order) or first == second:
            allowed = ", ".join(order) or "there are none"
            must = f'must be two parameters of [population.between] ({allowed}), such as "A, B"'
            table.issue(key, f"{must}, but is {shown(key)}.")
        elif value is not None and not -1 < value < 1:
            table.issue(key, f"must be between -1 and 1, but is {value:g}.")
        elif value is not None:
            correlation[first, second] = value
    return correlation


def _effect(table: Table, info: ModelInfo) -> AbstractCovariateEffect | None:
    kinds: dict[str, Callable[[Table, ModelInfo], AbstractCovariateEffect | None]] = {
        "power": _power,
        "allometric": _allometric,
        "category": _category,
        "set": _set,
    }
    kind = table.only(kinds, "effect")
    table.close()
    return None if kind is None else kinds[kind](table.table(kind), info)


def _power(table: Table, info: ModelInfo) -> Power | None:
    parameter, covariate = _parameter(table, info), _number_covariate(table, "covariate", info)
    exponent = table.number("exponent")
    reference = table.number("reference", _unit(covariate, info), above=0)
    return table.make(Power, parameter, covariate, exponent=exponent, reference=reference)


def _allometric(table: Table, info: ModelInfo) -> Allometric | None:
    kind = "a parameter of the model"
    lists = {key: table.names(key, info.parameters, kind, default=()) for key in ("clearances", "volumes")}
    weight = _number_covariate(table, "weight", info, default="WT" if "WT" in info.covariates else REQUIRED)
    unit = _unit(weight, info)
    reference = table.number("reference", unit, default=None, above=0)
    exponents = {key: table.number(key, default=None) for key in ("clearance_exponent", "volume_exponent")}
    stated = {key: value for key, value in exponents.items() if value is not None}

    def build() -> Allometric:
        weight_of_reference = convert("70 kg", to=unit or "", argument="reference") if reference is None else reference
        return _later(Allometric, **lists, weight=weight, reference=weight_of_reference, **stated)()

    return table.make(build)


def _category(table: Table, info: ModelInfo) -> ByCategory | None:
    parameter = _parameter(table, info)
    covariate = table.name("covariate", info.categories, "a categorical covariate")
    factors = table.table("factors", required=True)
    categories = () if covariate is None else info.categories[covariate]
    values = {name: factors.number(name, above=0) for name in categories}
    factors.close()
    return table.make(ByCategory, parameter, covariate, factors=values)


def _set(table: Table, info: ModelInfo) -> SetBy | None:
    parameter, covariate = _parameter(table, info), _number_covariate(table, "covariate", info)
    if parameter is not None and covariate is not None:
        unit, required = info.covariates[covariate], info.parameters[parameter]
        if unit is not None and unit != required and not _same_unit(unit, required):
            must = f"must have the unit of `{parameter}` ({required or 'none'})"
            table.issue("covariate", f"{must}, but has {f'the unit {unit}' if unit else 'none'}.")
    return table.make(SetBy, parameter, covariate)


def _same_unit(unit: str, other: str) -> bool:
    try:
        return bool(unit) and bool(other) and abs(convert(f"1 {unit}", to=other) - 1.0) < 1e-12
    except ValueError:
        return False


def _parameter(table: Table, info: ModelInfo) -> str | None:
    return table.name("parameter", info.parameters, "a parameter of the model")


def _number_covariate(table: Table, key: str, info: ModelInfo, *, default: str | Required = REQUIRED) -> str | None:
    return table.name(key, info.covariates, "a covariate that is a number", default=default)


def _unit(covariate: str | None, info: ModelInfo) -> str | None:
    return None if covariate is None else info.covariates[covariate]
