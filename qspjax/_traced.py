"""Python in a user's method that JAX cannot trace: the error names the method, the line and what to write."""

import inspect
import linecache
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import equinox as eqx
import jax

_LIBRARIES = tuple(str(Path(inspect.getfile(module)).parent) for module in (jax, eqx)) + (str(Path(__file__).parent),)
_REMEDIES = (
    (("if ", "elif ", " if ", "and ", "or ", "not ", "while "), "`jnp.where(condition, a, b)` instead of `if`"),
    (("max(", "min("), "`jnp.maximum(a, b)` and `jnp.minimum(a, b)` instead of `max` and `min`"),
    (("math.", "np.", "numpy."), "`jnp.exp(x)` instead of `math.exp(x)` or `np.exp(x)`, and so on"),
    (("float(", "int(", ".item("), "the number itself instead of `float(...)`, `int(...)` or `.item()`"),
    (("range(", "["), "`jnp.where` or `jnp.take` instead of a traced number as an index or a length"),
)


class TracedValueError(TypeError, ValueError):
    """A method of a model asks for the value of a number that is known only when the compiled program runs."""


@contextmanager
def in_the_users_words() -> Iterator[None]:
    """Say which line of the user's own code asks for the value of a traced number, and what to write there.

    Raises:
        TracedValueError: In place of JAX's errors, where the line is found; they stay its cause.
    """
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        if isinstance(error, TracedValueError) or (location := _users_line(error.__traceback__)) is None:
            raise
        name, file, number, line = location
        remedies = [remedy for signs, remedy in _REMEDIES if any(sign in line for sign in signs)]
        use = "; ".join(remedies[:2]) or "functions of `jax.numpy` instead of Python's"
        raise TracedValueError(
            f"`{name}` must compute with `jax.numpy`, but `{line}` in line {number} of {file} asks for the value of a "
            f"number that is known only when the compiled program runs: write {use}."
        ) from error


def _users_line(trace: TracebackType | None) -> tuple[str, str, int, str] | None:
    """Return function, file, number and text of the innermost line that is not of a library."""
    for frame, number in reversed(list(traceback.walk_tb(trace))):
        code = frame.f_code
        if not code.co_filename.startswith(_LIBRARIES) and "site-packages" not in code.co_filename:
            line = linecache.getline(code.co_filename, number, frame.f_globals).strip() or "an expression"
            return code.co_qualname.replace(".<locals>", ""), code.co_filename, number, line
    return None
