"""The command line: trials, populations, fits, checks of files and more; `qspjax COMMAND --help` says what."""

import sys
import warnings
from collections.abc import Sequence

from qspjax.cli._console import BAD_INPUT, FAILED, INTERRUPTED, say
from qspjax.cli._parsers import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for bad input, 130 if interrupted."""
    arguments = parser().parse_args(argv)
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
    except (MemoryError, RuntimeError) as error:
        return say(_breakdown(error), FAILED)


def _warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on a separate line."""
    print(f"Warning: {message}", file=sys.stderr)


def _breakdown(error: MemoryError | RuntimeError) -> str:
    """Return what is wrong, in one sentence for a run that ran out of memory or failed in the compiler or device."""
    from jax.errors import JaxRuntimeError  # not above: help is printed without JAX

    if isinstance(error, MemoryError) or (isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)):
        return "Out of memory: use a smaller --chunk or fewer patients, or save less in [output]."
    return str(error).partition("\n")[0] if isinstance(error, JaxRuntimeError) else str(error)
