"""Endpoints in words: those of a trial file, and the statistics of the bounds of a population file."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from qspjax._units import product
from qspjax.io.toml._model import ModelInfo
from qspjax.io.toml._table import REQUIRED, Required, Table
from qspjax.population import endpoints
from qspjax.population.endpoints import AbstractEndpoint, Responder

T = TypeVar("T")

_COLUMNS = ("arm", "patient", "result", "last_time", "state")
"""The other columns of the table of endpoints."""


class Endpoint(NamedTuple):
    """An endpoint and the unit of its number."""

    endpoint: AbstractEndpoint
    unit: str


def _of_output(output: str, time: str) -> str:
    del time
    return output


def _of_time(output: str, time: str) -> str:
    del output
    return time


def _of_nothing(output: str, time: str) -> str:
    del output, time
    return ""


_KINDS: dict[str, tuple[type[AbstractEndpoint], Callable[[str, str], str]]] = {
    "value": (endpoints.Value, _of_output),
    "change_from_baseline": (endpoints.ChangeFromBaseline, _of_output),
    "relative_change": (endpoints.RelativeChange, _of_nothing),
    "cmax": (endpoints.Cmax, _of_output),
    "cmin": (endpoints.Cmin, _of_output),
    "tmax": (endpoints.Tmax, _of_time),
    "time_above": (endpoints.TimeAbove, _of_time),
    "time_below": (endpoints.TimeBelow, _of_time),
    "trough": (endpoints.Trough, _of_output),
    "average": (endpoints.Average, _of_output),
    "auc": (endpoints.AUC, product),
    "auc_infinity": (endpoints.AUCInfinity, product),
    "extrapolated_share": (endpoints.ExtrapolatedShare, _of_nothing),
    "accumulation": (endpoints.Accumulation, _of_nothing),
    "half_life": (endpoints.HalfLife, _of_time),
}
"""By name in a file: the endpoint, and its unit from those of the output and of time."""


def read_endpoints(table: Table, info: ModelInfo, times: tuple[float, ...]) -> dict[str, Endpoint]:
    """Read the endpoints; their times must lie within those that are simulated."""
    endpoints = {name: read_endpoint(part, info, times) for name, part in table.children().items()}
    for name in _COLUMNS:
        if name in endpoints:
            table.issue(name, f"must have another name: {', '.join(_COLUMNS)} are columns of endpoints.csv.")
    return {name: endpoint for name, endpoint in endpoints.items() if endpoint is not None}


def read_endpoint(
    table: Table, info: ModelInfo, times: tuple[float, ...], *, beside: tuple[str, ...] = ()
) -> Endpoint | None:
    """Read an endpoint; other keys of the table, which are read later, are in `beside`."""
    kind = table.only(_KINDS, "kind of endpoint", beside=("responder", *beside))
    bounds = table.table("responder")
    table.close(allowed=beside)
    if kind is None:
        return None
    build, unit_of = _KINDS[kind]
    part, time = table.table(kind), info.units.time
    output = part.name("output", info.observed, "a value that the model observes")
    unit = "" if output is None else info.observed[output]
    fields = {field.name: field for field in dataclasses.fields(build) if field.name != "output"}
    values = {name: _FIELDS[name](part, field, time, unit) for name, field in fields.items()}
    _check_times(part, values, time, times)
    endpoint, unit = part.make(build, output, **values), unit_of(unit, time)
    if "responder" in table:
        return _responder(bounds, endpoint, unit)
    return None if endpoint is None else Endpoint(endpoint, unit)


def _responder(table: Table, endpoint: AbstractEndpoint | None, unit: str) -> Endpoint | None:
    bound = table.only(("at_most", "at_least"), "bound")
    bounds = {} if bound is None else {bound: table.number(bound, unit)}
    responder = table.make(Responder, endpoint, **bounds)
    return None if responder is None or endpoint is None else Endpoint(responder, "")


Value: TypeAlias = float | tuple[float, ...] | None
"""An argument of an endpoint: a time, a threshold, a number, or the two ends of a window."""


def _time(table: Table, field: dataclasses.Field, time: str, unit: str) -> Value:
    del unit
    return table.number(field.name, time, default=_default(field))


def _window(table: Table, field: dataclasses.Field, time: str, unit: str) -> Value:
    del unit
    return table.numbers(field.name, time, default=_default(field), length=2)


def _threshold(table: Table, field: dataclasses.Field, time: str, unit: str) -> Value:
    del time
    return table.number(field.name, unit, default=_default(field))


def _count(table: Table, field: dataclasses.Field, time: str, unit: str) -> Value:
    del time, unit
    return table.integer(field.name, default=_default(field), minimum=2)


_FIELDS: dict[str, Callable[[Table, dataclasses.Field, str, str], Value]] = {
    "at": _time,
    "baseline": _time,
    "between": _window,
    "first": _window,
    "last": _window,
    "threshold": _threshold,
    "points": _count,
}
"""How each argument of an endpoint is read."""


def _default(field: "dataclasses.Field[T]") -> T | Required:
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _check_times(table: Table, values: Mapping[str, Value], unit: str, times: tuple[float, ...]) -> None:
    for key in table.values:
        read = values.get(key) if _FIELDS.get(key) in (_time, _window) else None
        for time in np.atleast_1d(() if read is None or not times else read):
            if not times[0] <= time <= times[-1]:
                must = f"must be from {times[0]:g} to {times[-1]:g} {unit}, the times in [output]"
                table.issue(key, f"{must}, but is {time:g} {unit}.")
