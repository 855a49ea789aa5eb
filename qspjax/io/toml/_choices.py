"""A choice of an algorithm in words: its name, and the arguments of its class that are not the defaults."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from qspjax.io.toml._table import REQUIRED, Table

T = TypeVar("T")


def read_choice(table: Table, kinds: Mapping[str, type[T]], what: str, default: str) -> T | None:
    """Read `method`, one of the names of `kinds`, and the arguments of its class, which are numbers and flags."""
    name = table.name("method", kinds, what, default=default)
    if name is None:
        return None
    kind = kinds[name]
    values = {field.name: _argument(table, field) for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    given = {name: value for name, value in values.items() if value is not None or name not in table}
    return table.make(kind, **given)


def _argument(table: Table, field: dataclasses.Field) -> float | bool | None:
    default = REQUIRED if field.default is dataclasses.MISSING else field.default
    if field.type is bool:
        return table.flag(field.name, default=bool(field.default))
    if field.type in (int, int | None):
        return table.integer(field.name, default=default)
    return table.number(field.name, default=default)
