"""`qspjax import FILE`: the contents of a file in SBML or Antimony, and which of them are supported."""

import argparse

from qspjax.cli._console import BAD_INPUT, say
from qspjax.io import FileIssues
from qspjax.io._model_files import contents_of


def run_import(arguments: argparse.Namespace) -> int:
    """Print what a model file contains; return the exit code."""
    model = contents_of(arguments.file)
    print(model)
    return say(str(FileIssues(model.issues)), BAD_INPUT) if model.issues else 0
