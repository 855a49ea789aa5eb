"""The command line: `qspjax trial [FILE]` runs a virtual trial, `qspjax check FILE` says what a file holds."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from qspjax import execute, io, plot, population
from qspjax._checks import ArgumentError
from qspjax._extras import require

_NEEDED = ("pint", "rich", "pandas", "xarray", "h5py", "h5netcdf", "matplotlib")
"""Packages of the extra `cli`, looked for before anything is computed."""

_ARMS = 2**32 - 1
"""What is folded into the key to randomise; patients fold in their own numbers."""

_BAD_INPUT = 2
_FAILED = 1
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for bad input, 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return _say("Interrupted: nothing was written.", _INTERRUPTED)
    except ValueError as error:
        return _say(str(error), _BAD_INPUT)
    except (ImportError, OSError) as error:
        return _say(str(error), _FAILED)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        return _say(_breakdown(error), _FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qspjax", description="Quantitative systems pharmacology in JAX.")
    parser.add_argument("--version", action="version", version=f"qspjax {io.version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    trial = commands.add_parser(
        "trial",
        help="run a virtual trial",
        description="Run a virtual trial and write patients, endpoints, trajectories, a summary and a picture.",
    )
    trial.add_argument("file", nargs="?", metavar="FILE", help="trial file in TOML (by default the bundled one)")
    trial.add_argument("--out", metavar="DIR", help="where to write (by default the name of the file with -trial)")
    patients = _at_least(1, io.MOST_PATIENTS)
    trial.add_argument("--patients", type=patients, metavar="N", help="number of patients, instead of the file's")
    trial.add_argument("--seed", type=_at_least(0), metavar="N", help="random seed, instead of the file's")
    trial.add_argument("--chunk", type=_at_least(1), metavar="N", default=256, help="patients computed at a time (256)")
    trial.set_defaults(run=_trial)
    _add_check(commands)
    return parser


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="check a trial file or a data set",
        description="Say what a file holds, or all that is wrong with it: a trial file (.toml), or a data set in the "
        "format of NONMEM (any other ending), for which the options are.",
    )
    check.add_argument("file", metavar="FILE", help="the file")
    names = _parts("names, separated by commas")
    check.add_argument("--dialect", metavar="NAME", help="rxode for the event codes of RxODE")
    ignored = "a character that starts lines to ignore, or a condition such as DVID.EQ.2"
    check.add_argument("--ignore", metavar="C", action="append", help=ignored)
    check.add_argument("--accept", metavar="CONDITION", action="append", help="read only records that fulfil it")
    check.add_argument("--categories", metavar="A,B", type=names, help="columns of text")
    check.add_argument("--columns", metavar="A,B", type=names, help="names of all columns, as in $INPUT")
    check.add_argument("--rename", metavar="A=B", type=_parts("OLD=NEW", "="), action="append", help="rename a column")
    recode = _parts("COLUMN:OLD=NEW", ":", "=")
    check.add_argument("--recode", metavar="SS:99=0", type=recode, action="append", help="replace a value of a column")
    check.set_defaults(run=_check)


def _trial(arguments: argparse.Namespace) -> int:
    for package in _NEEDED:
        require(package, extra="cli")
    file = _changed(io.read_trial(arguments.file or io.bundled_trial()), arguments)
    out = io.check_destination(arguments.out or f"{file.stem}-trial")
    try:
        return _run(file, out, arguments.chunk)
    except io.FileIssues:
        raise
    except ValueError as error:
        raise ValueError(f"{file.source}: {error}") from error


def _check(arguments: argparse.Namespace) -> int:
    options = {name: getattr(arguments, name) for name in ("dialect", "ignore", "accept", "categories", "columns")}
    recode: dict[str, dict[str, str]] = {}
    for column, old, new in arguments.recode or ():
        recode.setdefault(column, {})[old] = new
    options |= {"rename": dict(arguments.rename or ()), "recode": recode}
    try:
        print(io.contents(arguments.file, **{name: value for name, value in options.items() if value}))
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error
    return 0


def _changed(file: io.TrialFile, arguments: argparse.Namespace) -> io.TrialFile:
    """Return the trial with the options of the command line in place of the file's own."""
    changed = {name: getattr(arguments, name) for name in ("patients", "seed")}
    try:
        return dataclasses.replace(file, **{name: value for name, value in changed.items() if value is not None})
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error


def _run(file: io.TrialFile, out: Path, chunk: int) -> int:
    key = jax.random.key(file.seed)
    cohort = file.sample(key)
    with _Progress(file.patients * len(file.trial.arms)) as progress:
        result = population.simulate_trial(
            file.trial,
            cohort,
            key=jax.random.fold_in(key, _ARMS),
            save=file.save,
            executor=lambda arm: execute.Chunked(chunk, progress=progress.arm(arm)),
        )
    panels = [plot.Panel(**panel) for panel in file.panels]
    figure = plot.trial(result, panels=panels, title=file.title)
    io.write_trial(out, file, result, figure=figure, bands=plot.bands(result, panels=panels))
    print(io.summary(file, result), end="")
    print(f"\nPicture: {out / 'trial.png'}")
    return _say("Every patient failed: see endpoints.csv for the reasons.", _FAILED) if io.all_failed(result) else 0


class _Progress:
    """A progress bar on stderr, or only a plain last line where stderr is no terminal."""

    def __init__(self, total: int):
        rich, console = require("rich.progress", extra="cli"), require("rich.console", extra="cli")
        self._console = console.Console(stderr=True)
        columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn())
        ends = (rich.TextColumn("patients  {task.fields[note]}"), rich.TimeElapsedColumn())
        self._bar = rich.Progress(*columns, *ends, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("compiling", total=total, note="")
        self._done, self._failed, self._start = 0, 0, time.perf_counter()

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if error[0] is None:
            seconds = time.perf_counter() - self._start
            print(f"{self._done} patients in {seconds:.1f} s with compilation, {self._note()}", file=sys.stderr)

    def arm(self, name: str) -> Callable[[int, Any], None]:
        """Return the callback for the chunks of an arm."""
        before = self._done

        def chunk_done(done: int, chunk: Any) -> None:
            self._done = before + done
            self._failed += int(chunk.failed.sum())
            self._bar.update(self._task, completed=self._done, description=name, note=self._note())

        return chunk_done

    def _note(self) -> str:
        rate = self._done / (time.perf_counter() - self._start)
        return f"{rate:.0f} a second, {self._failed} failed"


def _at_least(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
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


def _parts(what: str, *separators: str) -> Callable[[str], tuple[str, ...]]:
    """Return what splits the text of an option: at each of the separators once, or at all commas without any."""

    def split(text: str) -> tuple[str, ...]:
        parts, rest = [], text
        for separator in separators:
            part, _, rest = rest.partition(separator)
            parts.append(part)
        parts = [part.strip() for part in ([*parts, rest] if separators else text.split(","))]
        if not all(parts):
            raise argparse.ArgumentTypeError(f"must be {what}, but is {text}")
        return tuple(parts)

    return split


def _breakdown(error: Exception) -> str:
    """Return one sentence for a run that ran out of memory, or that the compiler or the device gave up."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "Out of memory: use a smaller --chunk or fewer patients, or save less in [output]."
    return str(error).partition("\n")[0]


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
