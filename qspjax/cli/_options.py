"""What options of commands take, each read with a message of its own."""

import argparse
import math
from collections.abc import Callable


def at_least(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """Return what reads a whole number."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, but is {text}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be at most {maximum}, but is {text}")
        return value

    return whole


def positive(text: str) -> float:
    """Read a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, but is {text}")
    return value


def parts(what: str, *separators: str) -> Callable[[str], tuple[str, ...]]:
    """Return what splits the text of an option: at each of the separators once, or at all commas without any."""

    def split(text: str) -> tuple[str, ...]:
        found, rest = [], text
        for separator in separators:
            part, _, rest = rest.partition(separator)
            found.append(part)
        found = [part.strip() for part in ([*found, rest] if separators else text.split(","))]
        if not all(found):
            raise argparse.ArgumentTypeError(f"must be {what}, but is {text}")
        return tuple(found)

    return split
