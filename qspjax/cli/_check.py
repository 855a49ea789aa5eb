"""`qspjax check FILE`: the contents of a file, or all its issues."""

import argparse

from qspjax._checks import ArgumentError
from qspjax.cli._options import Commands, parts
from qspjax.io._validate import contents


def add_check(commands: Commands) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        "check",
        help="check a trial or fit file, a model or a data set",
        description="Say what a file holds, or all that is wrong with it: a trial or fit file (.toml), a PEtab problem "
        "(.yaml), a model in SBML (.xml, .sbml, .omex) or Antimony (.ant), or a data set in the format of NONMEM (any "
        "other ending), to which the options apply.",
    )
    check.add_argument("file", metavar="FILE", help="the file")
    names = parts("names, separated by commas")
    check.add_argument("--dialect", metavar="NAME", help="rxode for the event codes of RxODE")
    ignored = "a character that starts lines to ignore, or a condition such as DVID.EQ.2"
    check.add_argument("--ignore", metavar="C", action="append", help=ignored)
    check.add_argument("--accept", metavar="CONDITION", action="append", help="read only records that fulfil it")
    check.add_argument("--categories", metavar="A,B", type=names, help="columns of text")
    check.add_argument("--columns", metavar="A,B", type=names, help="names of all columns, as in $INPUT")
    check.add_argument("--rename", metavar="A=B", type=parts("OLD=NEW", "="), action="append", help="rename a column")
    recode = parts("COLUMN:OLD=NEW", ":", "=")
    check.add_argument("--recode", metavar="SS:99=0", type=recode, action="append", help="replace a value of a column")
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
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
