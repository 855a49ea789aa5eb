"""`qspjax check FILE`: the contents of a file, or all its issues."""

import argparse

from qspjax._checks import ArgumentError
from qspjax.io._validate import contents


def run_check(arguments: argparse.Namespace) -> int:
    """Print what a file holds; return the exit code."""
    options = {name: getattr(arguments, name) for name in ("dialect", "ignore", "accept", "categories", "columns")}
    recode: dict[str, dict[str, str]] = {}
    for column, old, new in arguments.recode or ():
        recode.setdefault(column, {})[old] = new
    options |= {"rename": dict(arguments.rename or ()), "recode": recode}
    try:
        print(contents(arguments.file, **{name: value for name, value in options.items() if value}))
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error
    return 0
