"""Python in a user's method that JAX cannot trace: the error names the method, the line and what to write."""

import inspect
import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import did_you_mean, in_a_row
from qspjax._tables import UnknownName

_LIBRARIES = tuple(str(Path(inspect.getfile(module)).parent) for module in (jax, eqx)) + (
    str(Path(__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
    "<frozen",
)
"""How the files begin of frames that are not the user's: of jax, equinox, qspjax and the standard library."""
_REMEDIES = (
    (r"\b(if|elif)\b", "`jnp.where(condition, a, b)` instead of `if`"),
    (r"\bwhile\b", "`jnp.where(condition, a, b)`, or the remainder `a % b`, instead of `while`"),
    (r"\b(and|or|not)\b", "`(a) & (b)`, `(a) | (b)` and `~(a)` instead of `a and b`, `a or b` and `not a`"),
    (r"(?<![\w.])(max|min)\(", "`jnp.maximum(a, b)` and `jnp.minimum(a, b)` instead of `max` and `min`"),
    (r"(?<![\w.])(?P<module>math|np|numpy)\.(?P<name>[\w.]+)\(", ""),
    (r"(?<![\w.])(float|int)\(|\.item\(", "the number itself instead of `float(...)`, `int(...)` or `.item()`"),
)
"""What a line has in it, and what to write instead; a function of math or numpy has one of the same name."""
_INDEX = "`jnp.where` or `jnp.take` instead of a traced number as an index or a length"
_RENAMED = {"pow": "power", "dist": "linalg.norm", "fsum": "sum"}


class UnknownKeyError(KeyError, ValueError):
    """A method of a model asks a dict, such as its state, for a name that it has not."""

    def __str__(self) -> str:
        return self.args[0]


class TracedValueError(TypeError, ValueError):
    """A method of a model asks for the value of a number that is known only when the compiled program runs."""


@contextmanager
def in_the_users_words() -> Iterator[None]:
    """Say which line of the user's own code asks for the value of a traced number, and what to write there.

    Raises:
        TracedValueError: In place of JAX's errors, where the line is found; they stay its cause.
        UnknownKeyError: In place of the error of a dict that the line asks for a name which it has not.
    """
    try:
        yield
    except KeyError as error:
        if isinstance(error, (UnknownName, UnknownKeyError)) or (message := _unknown_key(error)) is None:
            raise
        raise UnknownKeyError(message) from error
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        if isinstance(error, TracedValueError) or (location := _users_line(error.__traceback__)) is None:
            raise
        name, file, number, line = location
        found = ((re.search(pattern, line), remedy) for pattern, remedy in _REMEDIES)
        remedies = [remedy or _of_the_same_name(match) for match, remedy in found if match]
        if not remedies and ("range(" in line or "[" in line):
            remedies = [_INDEX]
        use = "; ".join(remedies[:2]) or "functions of `jax.numpy` instead of Python's"
        raise TracedValueError(
            f"`{name}` must compute with `jax.numpy`, but `{line}` in line {number} of {file} asks for the value of a "
            f"number that is known only when the compiled program runs: write {use}."
        ) from error


def _of_the_same_name(match: re.Match[str]) -> str:
    """Return what to write instead of a function of math or numpy."""
    name, old = _RENAMED.get(match["name"], match["name"]), f"{match['module']}.{match['name']}"
    has_it = getattr(jnp, name.partition(".")[0], None) is not None
    return f"`jnp.{name}` instead of `{old}`" if has_it else f"a function of `jax` instead of `{old}`"


def _unknown_key(error: KeyError) -> str | None:
    """Return what is wrong where the innermost line is the user's and asks a dict of its own for a name."""
    frames = list(traceback.walk_tb(error.__traceback__))
    location, key = _users_line(error.__traceback__), error.args[0] if error.args else None
    if location is None or not isinstance(key, str) or _is_of_a_library(frames[-1][0].f_code.co_filename):
        return None
    function, file, number, line = location
    for name, table in frames[-1][0].f_locals.items():
        if isinstance(table, Mapping) and key not in table and re.search(rf"\b{re.escape(name)}\s*\[", line):
            known = [str(known) for known in table]
            return (
                f"`{function}` must use names that `{name}` has ({in_a_row(known) or 'it has none'}), but `{line}` in "
                f"line {number} of {file} asks for `{key}`.{did_you_mean(key, known)}"
            )
    return None


def _is_of_a_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or "site-packages" in file


def _users_line(trace: TracebackType | None) -> tuple[str, str, int, str] | None:
    """Return function, file, number and text of the innermost line that is not of a library."""
    for frame, number in reversed(list(traceback.walk_tb(trace))):
        code = frame.f_code
        if not _is_of_a_library(code.co_filename):
            line = linecache.getline(code.co_filename, number, frame.f_globals).strip() or "an expression"
            return code.co_qualname.replace(".<locals>", ""), code.co_filename, number, line
    return None
