"""The command line: trials, simulations, fits, sensitivities, checks of files; `qspjax COMMAND --help` says more."""

import argparse
import sys
import warnings
from collections.abc import Sequence

import jax

from qspjax.cli._check import add_check
from qspjax.cli._console import BAD_INPUT, FAILED, INTERRUPTED, say
from qspjax.cli._fit import add_fit
from qspjax.cli._import import add_import
from qspjax.cli._sensitivity import add_sensitivity
from qspjax.cli._simulate import add_simulate
from qspjax.cli._suite import add_suite
from qspjax.cli._trial import add_trial
from qspjax.io._directory import version


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for bad input, 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warning
            return arguments.run(arguments)
    except KeyboardInterrupt:
        return say("Interrupted: nothing was written.", INTERRUPTED)
    except ValueError as error:
        return say(str(error), BAD_INPUT)
    except (ImportError, OSError) as error:
        return say(str(error), FAILED)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        return say(_breakdown(error), FAILED)
    except RuntimeError as error:
        return say(str(error), FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qspjax", description="Quantitative systems pharmacology in JAX.")
    parser.add_argument("--version", action="version", version=f"qspjax {version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_trial, add_simulate, add_fit, add_sensitivity, add_check, add_import, add_suite):
        add(commands)
    return parser


def _warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on a separate line."""
    print(f"Warning: {message}", file=sys.stderr)


def _breakdown(error: Exception) -> str:
    """Return one sentence for a run that ran out of memory, or failed in the compiler or on the device."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "Out of memory: use a smaller --chunk or fewer patients, or save less in [output]."
    return str(error).partition("\n")[0]
