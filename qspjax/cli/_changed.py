"""Files with options of the command line in place of what they say."""

import argparse
import dataclasses
from typing import TypeVar

from qspjax import io
from qspjax._checks import ArgumentError

File = TypeVar("File", io.TrialFile, io.PopulationFile)


def with_options(file: File, arguments: argparse.Namespace) -> File:
    """Return a file with the number of patients and the seed of the command line, where they are given."""
    options = {name: getattr(arguments, name) for name in ("patients", "seed")}
    try:
        return dataclasses.replace(file, **{name: value for name, value in options.items() if value is not None})
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error
