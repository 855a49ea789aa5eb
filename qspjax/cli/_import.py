"""`qspjax import FILE`: what a file in SBML or Antimony contains, and what of it is supported."""

import argparse
from typing import Any

from qspjax import io
from qspjax.cli._console import BAD_INPUT, say


def add_import(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "import",
        help="say what a model file contains",
        description="Say what a file in SBML (.xml, .sbml, .omex) or Antimony (.ant) contains and what of it is "
        "supported. Exit status 0 if it can be simulated, 2 if not, with all that is wrong on stderr.",
    )
    command.add_argument("file", metavar="FILE", help="the file")
    command.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    found = io.contents_of(arguments.file)
    print(found)
    return say(str(io.FileIssues(found.issues)), BAD_INPUT) if found.issues else 0
