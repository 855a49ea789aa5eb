"""Marks of tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_for(values: Iterable[Any], *slow: Any) -> list[Any]:
    """Return the parameters of a test; of those in `slow` it is long to compile, and runs with `-m slow` only."""
    return [pytest.param(value, marks=pytest.mark.slow) if value in slow else value for value in values]
