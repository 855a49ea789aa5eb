"""The interface of the parser for commands, and readers of the values of options, each with its own message."""

import argparse
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Commands(Protocol):
    """The object to which commands add their parsers, returned by `ArgumentParser.add_subparsers`."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
        """Return the parser of a new command."""
        ...


def at_least(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """Return a function that reads a whole number."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, but is {text}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be at most {maximum}, but is {text}")
        return value

    return read


def positive(text: str) -> float:
    """Read a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, but is {text}")
    return value


def parts(expected: str, *separators: str) -> Callable[[str], tuple[str, ...]]:
    """Return a function that splits the text of an option, once at each separator, or by default at all commas."""

    def split(text: str) -> tuple[str, ...]:
        fields, remainder = [], text
        for separator in separators:
            field, _, remainder = remainder.partition(separator)
            fields.append(field)
        fields = [field.strip() for field in ([*fields, remainder] if separators else text.split(","))]
        if not all(fields):
            raise argparse.ArgumentTypeError(f"must be {expected}, but is {text}")
        return tuple(fields)

    return split
