"""The `[[targets]]` of a population file: what was observed, in the units of the patients' statistics."""

import math
from collections.abc import Callable, Mapping

from qspjax._units import convert
from qspjax.io.toml._table import Table, shown
from qspjax.population import (
    SD,
    AbstractTarget,
    Correlation,
    Histogram,
    Mean,
    Quantile,
    Shares,
    SurvivalCurve,
)

Units = Mapping[str, str | None]
"""The unit of each statistic by name; None where it is wrong."""

_WHAT = "a bound, or a parameter or covariate that varies"


def read_targets(tables: list[Table], units: Units) -> list[AbstractTarget]:
    """Read the targets; `units` are those of the statistics, parameters and covariates of the patients."""
    read = [_target(table, units) for table in tables]
    return [target for target in read if target is not None]


def _target(table: Table, units: Units) -> AbstractTarget | None:
    kind = table.only(_KINDS, "kind of target")
    table.close()
    return None if kind is None else _KINDS[kind](table.table(kind), units)


def _statistic(table: Table, units: Units, key: str = "statistic") -> tuple[str | None, str | None]:
    """Read the name of a statistic; return its unit, too."""
    name = table.name(key, units, _WHAT)
    return name, None if name is None else units[name]


def _made(table: Table, build: type[AbstractTarget], *args: object, **kwargs: object) -> AbstractTarget | None:
    """Build a target; None if anything was wrong, also if that is the bound whose unit it needs."""
    known = all(value is not None for value in (*args, *kwargs.values()))
    table.close()
    return table.make(build, *args, **kwargs) if known else None


def _weight(table: Table) -> float | None:
    return table.number("weight", default=1.0, above=0)


def _mean(table: Table, units: Units) -> AbstractTarget | None:
    name, unit = _statistic(table, units)
    return _made(table, Mean, name, table.number("value", unit), weight=_weight(table))


def _sd(table: Table, units: Units) -> AbstractTarget | None:
    name, unit = _statistic(table, units)
    value, mean = table.number("value", unit, above=0), table.number("mean", unit)
    return _made(table, SD, name, value, mean=mean, weight=_weight(table))


def _quantile(table: Table, units: Units) -> AbstractTarget | None:
    name, unit = _statistic(table, units)
    return _made(table, Quantile, name, table.number("level"), table.number("value", unit), weight=_weight(table))


def _histogram(table: Table, units: Units) -> AbstractTarget | None:
    name, unit = _statistic(table, units)

    def read(value: object) -> tuple[float, ...] | None:
        if not isinstance(value, list) or not value:
            raise ValueError(f"must be a list of two or more numbers, but is {shown(value)}.")
        if unit is None:
            return None
        open_ends = (value[0] == -math.inf, value[-1] == math.inf)
        inner = value[int(open_ends[0]) : len(value) - int(open_ends[1])]
        low, high = ([-math.inf] if open_ends[0] else []), ([math.inf] if open_ends[1] else [])
        return (*low, *(convert(item, to=unit) for item in inner), *high)

    edges = table.read("edges", (), read) if "edges" in table else table.numbers("edges", unit)
    return _made(table, Histogram, name, edges, table.numbers("shares", ""), weight=_weight(table))


def _shares(table: Table, units: Units) -> AbstractTarget | None:
    name, _ = _statistic(table, units)
    part, shares = table.table("shares", required=True), {}
    for key in part.values:
        share = part.number(key)
        try:
            shares[float(key)] = share
        except ValueError:
            part.issue(key, f"must be the number of a category in quotes, but is {shown(key)}.")
    if not part.values and not part.bad:
        part.issue("", 'must have the share of a category, such as "1" = 0.4, but is empty.')
    return _made(table, Shares, name, shares, weight=_weight(table))


def _correlation(table: Table, units: Units) -> AbstractTarget | None:
    read = [_statistic(table, units, key) for key in ("first", "second")]

    def pair(key: str) -> tuple[float, ...] | None:
        def each(value: object) -> tuple[float, ...] | None:
            if not isinstance(value, list) or len(value) != 2:
                raise ValueError(f"must be a list of 2 numbers, but is {shown(value)}.")
            known = [(item, unit) for item, (_, unit) in zip(value, read, strict=True) if unit is not None]
            return tuple(convert(item, to=unit) for item, unit in known) if len(known) == 2 else None

        return table.read(key, (), each) if key in table else table.numbers(key, "", length=2)

    value, means, sds = table.number("value"), pair("means"), pair("sds")
    return _made(table, Correlation, *(name for name, _ in read), value, means=means, sds=sds, weight=_weight(table))


def _survival(table: Table, units: Units) -> AbstractTarget | None:
    name, unit = _statistic(table, units)
    times, survival = table.numbers("times", unit), table.numbers("survival", "")
    return _made(table, SurvivalCurve, name, times, survival, weight=_weight(table))


_KINDS: dict[str, Callable[[Table, Units], AbstractTarget | None]] = {
    "mean": _mean,
    "sd": _sd,
    "quantile": _quantile,
    "histogram": _histogram,
    "shares": _shares,
    "correlation": _correlation,
    "survival_curve": _survival,
}
