"""The tables of a TOML file: typed values with units; issues and unknown keys are collected."""

import enum
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from qspjax._checks import ArgumentError, did_you_mean
from qspjax._units import check_unit, convert
from qspjax.io._issues import Path

T = TypeVar("T")


class Required(enum.Enum):
    """The default of a required key."""

    REQUIRED = enum.auto()


REQUIRED = Required.REQUIRED


class Table:
    """A table of a file, read key by key; `close` reports the keys that were not read.

    A value that is wrong or missing becomes an issue and is read as None.
    """

    def __init__(self, values: Mapping[str, object], path: Path, issues: list[tuple[Path, str]]):
        """Start to read the table at `path`; `issues` is shared by all tables of a file."""
        self.values, self.path, self.issues = dict(values), path, issues
        self._known: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def bad(self) -> bool:
        """Whether there is an issue in this table or below it."""
        return any(path[: len(self.path)] == self.path for path, _ in self.issues)

    def issue(self, key: str, message: str) -> None:
        """Add an issue at a key, or at the table itself for an empty key."""
        self.issues.append(((*self.path, key) if key else self.path, message))

    def number(
        self,
        key: str,
        unit: str | None = "",
        *,
        default: float | None | Required = REQUIRED,
        above: float | None = None,
    ) -> float | None:
        """Read a number, converted to a unit; if the unit itself is wrong (None), return None without an issue."""
        number = self.read(key, default, lambda value: None if unit is None else convert(value, to=unit))
        if key in self.values and number is not None and above is not None and not number > above:
            must = "must be positive" if above == 0 else f"must be greater than {above:g}"
            self.issue(key, f"{must}, but is {shown(self.values[key])}.")
            return None
        return number

    def numbers(
        self,
        key: str,
        unit: str | None,
        *,
        default: tuple[float, ...] | None | Required = REQUIRED,
        length: int | None = None,
    ) -> tuple[float, ...] | None:
        """Read a list of numbers, converted to a unit."""

        def read(value: object) -> tuple[float, ...] | None:
            if not isinstance(value, list) or not value or length not in (None, len(value)):
                raise ValueError(f"must be a list of {length or 'one or more'} numbers, but is {shown(value)}.")
            return None if unit is None else tuple(convert(item, to=unit) for item in value)

        return self.read(key, default, read)

    def integer(
        self, key: str, *, default: int | None | Required = REQUIRED, minimum: int = 0, maximum: int = 2**63 - 1
    ) -> int | None:
        """Read a whole number."""

        def read(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f"must be a whole number of at least {minimum}, but is {shown(value)}.")
            if value > maximum:
                raise ValueError(f"must be at most {maximum}, but is {shown(value)}.")
            return value

        return self.read(key, default, read)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false; the default where it is wrong."""

        def read(value: object) -> bool:
            if not isinstance(value, bool):
                raise ValueError(f"must be true or false, but is {shown(value)}.")
            return value

        flag = self.read(key, default, read)
        return default if flag is None else flag

    def text(self, key: str, *, default: str | None | Required = REQUIRED) -> str | None:
        """Read text."""

        def read(value: object) -> str:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"must be text, but is {shown(value)}.")
            return value

        return self.read(key, default, read)

    def unit(self, key: str) -> str | None:
        """Read a unit, `""` if it is missing, None if it is wrong."""

        def read(value: object) -> str:
            if not isinstance(value, str):
                raise ValueError(f"must be a unit, but is {shown(value)}.")
            check_unit(value)
            return value

        return self.read(key, "", read)

    def name(
        self, key: str, allowed: Iterable[str], what: str, *, default: str | None | Required = REQUIRED
    ) -> str | None:
        """Read one of the names that are allowed."""
        return self.read(key, default, lambda value: one_of(value, allowed, what))

    def names(
        self, key: str, allowed: Iterable[str], what: str, *, default: tuple[str, ...] | None | Required = REQUIRED
    ) -> tuple[str, ...] | None:
        """Read a list of names that are allowed."""

        def read(value: object) -> tuple[str, ...]:
            if not isinstance(value, list):
                raise ValueError(f"must be a list of names, but is {shown(value)}.")
            return tuple(one_of(item, allowed, what) for item in value)

        return self.read(key, default, read)

    def table(self, key: str, *, required: bool = False) -> "Table":
        """Open a table below this one, an empty one if it is missing."""
        value = self.read(key, REQUIRED if required else {}, as_table)
        return Table(value or {}, (*self.path, key), self.issues)

    def tables(self, key: str) -> "list[Table]":
        """Open a list of tables below this one."""

        def read(value: object) -> list[object]:
            if not isinstance(value, list):
                raise ValueError(f"must be a list of tables ([[...]]), but is {shown(value)}.")
            return value

        tables = []
        for i, value in enumerate(self.read(key, [], read) or (), start=1):
            part = f"{key}[{i}]"
            if isinstance(value, dict):
                tables.append(Table(value, (*self.path, part), self.issues))
            else:
                self.issue(part, f"must be a table, but is {shown(value)}.")
        return tables

    def children(self, allowed: Collection[str] | None = None, what: str = "") -> "dict[str, Table]":
        """Open every value as a table, by name; if `allowed` is given, only the values with these names."""
        if allowed is not None:
            self.close(what, allowed)
        return {key: self.table(key) for key in self.values if allowed is None or key in allowed}

    def only(self, allowed: Iterable[str], what: str, *, beside: Iterable[str] = ()) -> str | None:
        """Return the one of the allowed keys that is present; add an issue if there is none, or several.

        Keys that are read later are in `beside`. If there is an unknown key instead, `close` reports that one.
        """
        allowed = list(allowed)
        self._known |= dict.fromkeys(allowed)
        present = [key for key in allowed if key in self.values]
        if len(present) == 1:
            return present[0]
        misspelt = not present and set(self.values) - {*self._known, *beside}
        if not misspelt and not self.bad:
            has = " and ".join(present) or "none"
            self.issue("", f"must have exactly one {what} ({', '.join(allowed)}), but has {has}.")
        return None

    def close(self, what: str = "a key that is known here", allowed: Iterable[str] = ()) -> None:
        """Add an issue for each key that was neither read nor allowed; a second call adds none."""
        self._known |= dict.fromkeys(allowed)
        for key in self.values:
            if key not in self._known:
                try:
                    one_of(key, self._known, what)
                except ValueError as error:
                    self.issue(key, str(error))
        self._known |= dict.fromkeys(self.values)

    def make(self, build: Callable[..., T], *args: object, **kwargs: object) -> T | None:
        """Build an object from what was read; None if anything in the table was wrong, an issue if it is refused."""
        self.close()
        if self.bad:
            return None
        try:
            return build(*args, **kwargs)
        except ValueError as error:
            argument = error.argument if isinstance(error, ArgumentError) else ""
            self.issue(argument if argument in self.values else "", _in_words(error))
            return None

    def read(self, key: str, default: T | None | Required, read: Callable[[object], T | None]) -> T | None:
        """Read a value with a function that raises `ValueError` ("must ..., but is ...") if it is wrong."""
        self._known[key] = None
        if key not in self.values:
            if isinstance(default, Required):
                self.issue(key, "must be given, but is missing.")
                return None
            return default
        try:
            return read(self.values[key])
        except ValueError as error:
            self.issue(key, _in_words(error))
            return None


def present(values: Mapping[str, T | None]) -> dict[str, T]:
    """Return the values that are not None, which are all if none is wrong."""
    return {key: value for key, value in values.items() if value is not None}


def one_of(value: object, allowed: Iterable[str], what: str) -> str:
    """Return a name if it is allowed.

    Raises:
        ValueError: If it is not; the message lists those that are, and suggests a similar one.
    """
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    hint = did_you_mean(value, allowed)
    raise ValueError(f"must be {what} ({', '.join(allowed) or 'there are none'}), but is {shown(value)}.{hint}")


def shown(value: object) -> str:
    """Return a value as TOML writes it, or its kind if it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:60]}..."'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    if isinstance(value, list) and value:
        text = f"[{', '.join(map(shown, value))}]"
        return text if len(text) <= 60 else "a long list"
    return "an empty list" if value == [] else str(value)


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of every key and table header of a file in TOML that is on a line of its own."""
    line_of_path: dict[Path, int] = {}
    lists: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)(.*?)\]\]?\s*(#.*)?$", line)
        if header:
            keys = _key_path(f"{header[2]} = 0")
            if header[1] == "[[" and keys:
                lists[keys] = lists.get(keys, 0) + 1
                keys = (*keys[:-1], f"{keys[-1]}[{lists[keys]}]")
            table = keys or table
            line_of_path.setdefault(table, number)
        elif "=" in line:
            key = re.match(r"""(?:"[^"]*"|'[^']*'|[^"'=#])*""", line)
            keys = _key_path(f"{key[0]}= 0") if key else ()
            for depth in range(1, len(keys) + 1):
                line_of_path.setdefault((*table, *keys[:depth]), number)
    return line_of_path


def line_of(path: Path, lines: dict[Path, int]) -> int | None:
    """Return the line of a value, or of the nearest table or list around it."""
    for depth in range(len(path), 0, -1):
        plain = (*path[: depth - 1], re.sub(r"\[\d+\]$", "", path[depth - 1]))
        for candidate in (path[:depth], plain):
            if candidate in lines:
                return lines[candidate]
    return None


def _key_path(assignment: str) -> Path:
    try:
        value: object = tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return ()
    keys = []
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        keys.append(key)
    return tuple(keys)


def as_table(value: object) -> dict[str, object]:
    """Return a value that must be a table.

    Raises:
        ValueError: If it is not one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, but is {shown(value)}.")
    return value


def _in_words(error: ValueError) -> str:
    """Return the message of a check without the name of its argument, as the file has another name for it."""
    return error.must if isinstance(error, ArgumentError) else str(error)
