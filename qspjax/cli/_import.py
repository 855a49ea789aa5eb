"""`qspjax import FILE`: the contents of a file in SBML or Antimony, and which of them are supported."""

import argparse

from qspjax.cli._console import BAD_INPUT, say
from qspjax.cli._options import Commands
from qspjax.io import FileIssues
from qspjax.io._model_files import contents_of


def add_import(commands: Commands) -> None:
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
    model = contents_of(arguments.file)
    print(model)
    return say(str(FileIssues(model.issues)), BAD_INPUT) if model.issues else 0
