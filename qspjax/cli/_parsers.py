"""The parsers of all commands. They import no JAX: what a command does is imported when it is called."""

import argparse
import re

from qspjax._extras import version
from qspjax._forms import DOSE, MOST_PATIENTS
from qspjax.cli._options import Commands, at_least, parts, positive

METHODS = ("sobol", "morris", "prcc", "efast")
"""The analyses of `qspjax sensitivity`."""

_MOST_POINTS = 1_000_000


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it gives the function of a command as `run`."""
    whole = argparse.ArgumentParser(prog="qspjax", description="Quantitative systems pharmacology in JAX.")
    whole.add_argument("--version", action="version", version=f"qspjax {version()}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_trial,
        _add_population,
        _add_simulate,
        _add_fit,
        _add_sensitivity,
        _add_check,
        _add_import,
        _add_suite,
    ):
        add(commands)
    return whole


def _add_trial(commands: Commands) -> None:
    trial = commands.add_parser(
        "trial",
        help="run a virtual trial",
        description="Run a virtual trial and write patients, endpoints, trajectories, a summary and a picture.",
    )
    trial.add_argument("file", nargs="?", metavar="FILE", help="trial file in TOML (by default the bundled one)")
    trial.add_argument("--out", metavar="DIR", help="where to write (by default the name of the file with -trial)")
    patients = at_least(1, MOST_PATIENTS)
    trial.add_argument("--patients", type=patients, metavar="N", help="number of patients, instead of the file's")
    trial.add_argument("--seed", type=at_least(0), metavar="N", help="random seed, instead of the file's")
    trial.add_argument("--chunk", type=at_least(1), metavar="N", default=256, help="patients computed at a time (256)")
    trial.add_argument("--store", metavar="DIR", help="a folder that keeps what was simulated, in bounded memory")
    trial.add_argument("--resume", action="store_true", help="go on with what the folder of --store holds already")
    trial.set_defaults(run=_trial)


def _add_population(commands: Commands) -> None:
    parser = commands.add_parser(
        "population",
        help="find plausible patients",
        description="Find patients of a model whose endpoints stay within bounds, weigh or choose them so that they "
        "agree with what was observed, and write patients, the fit of the targets and pictures.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="population file in TOML (by default the bundled one)")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (by default the name of the file with -population)"
    )
    patients = at_least(1, MOST_PATIENTS)
    parser.add_argument("--patients", type=patients, metavar="N", help="number of patients, instead of the file's")
    parser.add_argument("--seed", type=at_least(0), metavar="N", help="random seed, instead of the file's")
    parser.add_argument("--chunk", type=at_least(1), metavar="N", help="patients computed at a time (512)")
    parser.add_argument("--parquet", action="store_true", help="write the table of patients in Parquet, too")
    parser.set_defaults(run=_population)


def _add_simulate(commands: Commands) -> None:
    command = commands.add_parser(
        "simulate",
        help="simulate a model",
        description="Simulate a model of the catalogue, or of a file in SBML (.xml, .sbml, .omex) or Antimony, and "
        "write a table (CSV) and a picture.",
    )
    command.add_argument("model", metavar="MODEL", help="a file, or the name of a model of the catalogue")
    command.add_argument("--end", metavar="TIME", type=positive, required=True, help="time of the last output")
    points = at_least(2, _MOST_POINTS)
    command.add_argument("--points", metavar="N", type=points, default=101, help="outputs from 0 to the end (101)")
    command.add_argument("--dose", metavar="DOSE", action="append", default=[], help=f"{DOSE}; once for each")
    number = parts("NAME=VALUE", "=")
    command.add_argument(
        "--set", metavar="NAME=VALUE", type=number, action="append", default=[], help="change a number"
    )
    names = parts("names, separated by commas")
    command.add_argument(
        "--save", metavar="A,B", type=names, help="what to write (by default species, or observed values)"
    )
    command.add_argument(
        "--output", metavar="FILE.csv", help="the table (by default the name of the model, -simulation)"
    )
    command.add_argument("--plot", metavar="FILE.png", help="the picture (by default beside the table)")
    command.add_argument("--rtol", metavar="R", type=positive, help="relative tolerance")
    command.add_argument("--atol", metavar="A", type=positive, help="absolute tolerance")
    command.set_defaults(run=_simulate)


def _add_fit(commands: Commands) -> None:
    parser = commands.add_parser(
        "fit",
        help="calibrate a model to data",
        description="Fit a model to data, from a fit file (.toml) with a table of data or a PEtab problem (.yaml), and "
        "write estimates, uncertainty, diagnostics and pictures. A file with random effects describes a nonlinear "
        "mixed-effects model. An interrupted fit goes on where it stopped when the command is called again.",
    )
    parser.add_argument("file", metavar="FILE", help="fit file in TOML, or the YAML file of a PEtab problem")
    parser.add_argument("--out", metavar="DIR", help="where to write (by default the name of the file with -fit)")
    parser.add_argument("--starts", type=at_least(1), metavar="N", help="starts drawn within the bounds")
    parser.add_argument("--seed", type=at_least(0), metavar="N", help="random seed of the starts")
    parser.add_argument("--lanes", type=at_least(1), metavar="N", default=16, help="starts side by side (16)")
    parser.add_argument("--analytic", action="store_true", help="solve for scales, offsets and noise parameters")
    parser.add_argument("--profiles", action="store_true", help="profile likelihoods of all parameters")
    parser.set_defaults(run=_fit)


def _add_sensitivity(commands: Commands) -> None:
    parser = commands.add_parser(
        "sensitivity",
        help="find out which parameters matter",
        description="Global sensitivities of the endpoints of a trial file to the parameters that vary between its "
        "patients, as a table and a picture.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="trial file in TOML (by default the bundled one)")
    parser.add_argument("--method", choices=METHODS, default="sobol", help="(sobol)")
    parser.add_argument("--samples", type=at_least(2), metavar="N", default=256, help="samples, or trajectories (256)")
    parser.add_argument("--arm", metavar="NAME", help="the arm that is simulated (by default the last)")
    parser.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="random seed (0)")
    parser.add_argument("--chunk", type=at_least(1), metavar="N", default=256, help="patients computed at a time (256)")
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (by default the name of the file with -sensitivity)"
    )
    parser.set_defaults(run=_sensitivity)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="check a trial, population or fit file, a model or a data set",
        description="Say what a file holds, or all that is wrong with it: a trial, population or fit file (.toml), a "
        "PEtab problem (.yaml), a model in SBML (.xml, .sbml, .omex) or Antimony (.ant), or a data set in the format "
        "of NONMEM (any other ending), to which the options apply.",
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


def _add_import(commands: Commands) -> None:
    command = commands.add_parser(
        "import",
        help="say what a model file contains",
        description="Say what a file in SBML (.xml, .sbml, .omex) or Antimony (.ant) contains and what of it is "
        "supported. Exit status 0 if it can be simulated, 2 if not, with all that is wrong on stderr.",
    )
    command.add_argument("file", metavar="FILE", help="the file")
    command.set_defaults(run=_import)


def _add_suite(commands: Commands) -> None:
    suite = commands.add_parser(
        "sbml-suite",
        help="run the SBML Test Suite",
        description="Run the semantic cases of the SBML Test Suite, each in the newest level of SBML that it has. "
        "Prints what was wrong, the reasons of refusal counted, a table by tag, and last `N pass, N refused, N wrong`. "
        "Exit status 0 only if none is wrong.",
    )
    suite.add_argument("cases", metavar="CASES", help="the folder of the suite, or one with folders 00001, 00002, ...")
    suite.add_argument(
        "--cases", dest="wanted", metavar="N-M", type=_ranges, help="numbers of cases, such as 1-100,205"
    )
    suite.add_argument("--workers", metavar="N", type=at_least(1, 256), default=2, help="processes (2)")
    suite.add_argument("--limit", metavar="S", type=positive, default=60.0, help="seconds that a case may take (60)")
    suite.set_defaults(run=_suite)
    case = commands.add_parser(
        "sbml-case",
        help="run one case for the SBML Test Runner",
        description="The wrapper that the SBML Test Runner calls, with the arguments %%d %%n %%o %%l %%v: writes "
        "OUTDIR/NUMBER.csv. A case that is not supported writes no file, says why on stderr and exits with 2.",
    )
    case.add_argument("directory", metavar="DIR", help="the folder of the cases")
    case.add_argument("number", metavar="NUMBER", help="number of the case")
    case.add_argument("out", metavar="OUTDIR", help="where to write")
    case.add_argument("level", metavar="LEVEL", type=at_least(0, 9), help="level of SBML, 0 for the newest")
    case.add_argument("version", metavar="VERSION", type=at_least(0, 9), help="version of the level")
    case.set_defaults(run=_case)


def _trial(arguments: argparse.Namespace) -> int:
    from qspjax.cli._trial import run_trial

    return run_trial(arguments)


def _population(arguments: argparse.Namespace) -> int:
    from qspjax.cli._population import run_population

    return run_population(arguments)


def _simulate(arguments: argparse.Namespace) -> int:
    from qspjax.cli._simulate import run_simulate

    return run_simulate(arguments)


def _fit(arguments: argparse.Namespace) -> int:
    from qspjax.cli._fit import run_fit

    return run_fit(arguments)


def _sensitivity(arguments: argparse.Namespace) -> int:
    from qspjax.cli._sensitivity import run_sensitivity

    return run_sensitivity(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from qspjax.cli._check import run_check

    return run_check(arguments)


def _import(arguments: argparse.Namespace) -> int:
    from qspjax.cli._import import run_import

    return run_import(arguments)


def _suite(arguments: argparse.Namespace) -> int:
    from qspjax.cli._suite import run_suite

    return run_suite(arguments)


def _case(arguments: argparse.Namespace) -> int:
    from qspjax.cli._suite import run_case

    return run_case(arguments)


def _ranges(text: str) -> frozenset[int]:
    """Read numbers such as `1-100,205`."""
    numbers: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise argparse.ArgumentTypeError(f"must be numbers of cases such as 1-100,205, but is {text}")
        numbers.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(numbers)
