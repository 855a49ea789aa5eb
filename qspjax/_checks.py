"""Checks of concrete values before anything is compiled, all in one message format.

Every message reads "Argument `name` must ..., but is ...". Traced values pass: inside `jit`, `grad` and `vmap` a wrong
number shows up as a result code instead.
"""

import difflib
import numbers
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import jax
import numpy as np
from jax.core import Tracer


class ArgumentError(ValueError):
    """An argument that is wrong: `argument` is its name, `must` says what it must be and what it is."""

    def __init__(self, argument: str, must: str):
        """Compose the message."""
        super().__init__(f"Argument `{argument}` {must}")
        self.argument, self.must = argument, must


@runtime_checkable
class Quantity(Protocol):
    """A number with a unit, as that of pint."""

    units: object
    magnitude: object


def refuse(argument: str, must: str, actual: object) -> NoReturn:
    """Raise the `ArgumentError` that names the argument, what it must be and what it is."""
    raise ArgumentError(argument, f"must {must}, but is {_shown(actual)}.")


def warn(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn, pointing at the line outside qspjax that led here."""
    package, level, frame = str(Path(__file__).parent), 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


def check_instance(argument: str, value: object, kind: type | tuple[type, ...], description: str) -> None:
    """Check that `value` is an instance of a class, described in words such as "a model"."""
    if not isinstance(value, kind):
        actual = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        refuse(argument, f"be {description}", actual)


def check_whole(argument: str, value: object, minimum: int) -> None:
    """Check that `value` is a whole number (not a float, not true or false) of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        actual = value if isinstance(value, numbers.Integral) else f"{_shown(value)} of type {type(value).__name__}"
        refuse(argument, f"be a whole number of at least {minimum}", actual)


def check_names(argument: str, value: Iterable[object]) -> tuple[str, ...]:
    """Return a sequence of names as a tuple; a bare string is refused, since its letters are not names."""
    names = tuple(name for name in value if isinstance(name, str))
    if isinstance(value, str) or len(names) < len(tuple(value)):
        refuse(argument, "be a sequence of names", value)
    return names


def concrete(value: object) -> np.ndarray | None:
    """Return a number or array as numpy, or None for a traced value or a placeholder in a tree."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def has_unit(value: object) -> bool:
    """Whether a value is a quantity with a unit, or a sequence with one in it: as an array it would lose the unit."""
    if isinstance(value, (list, tuple)):
        return any(map(has_unit, value))
    return not isinstance(value, (str, int, float, np.ndarray, jax.Array, type)) and isinstance(value, Quantity)


def check_no_unit(argument: str, value: object, unit: str = "") -> None:
    """Check that a value is no quantity with a unit; `unit` is that in which its number is needed, if that is known."""
    if not has_unit(value):
        return
    while isinstance(value, (list, tuple)):
        value = next(filter(has_unit, value))
    given = getattr(value, "units", "")
    try:
        given = f"{given:~C}"  # pint's short form
    except (TypeError, ValueError):
        given = str(given)
    write = f'`.to("{unit}").magnitude`' if unit else "`.to(...).magnitude`, with the model's unit in the brackets"
    raise ArgumentError(argument, f"must be a number in the model's unit, but has the unit {given}: write {write}.")


def check_number(argument: str, value: object, unit: str = "") -> None:
    """Check that `value` is a number or an array of numbers, without a unit of its own."""
    if isinstance(value, Tracer):
        return
    check_no_unit(argument, value, unit)
    try:
        numeric = np.asarray(value).dtype.kind in "fiub"
    except (TypeError, ValueError):
        numeric = False
    if not numeric:
        refuse(argument, "be a number", value if isinstance(value, str) else described(value))


def described(value: object) -> str:
    """Return what a value is in a few words, for one that is no number where there must be one.

    Example:
        >>> described(None), described([1.0, "2 h"]), described(np.zeros(3))
        ('of type NoneType', 'a list with the text `2 h`', 'an array of shape (3,)')
    """
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return f"an array of shape {np.shape(value)}" if np.shape(value) else "a number"
    text = next((item for item in value if isinstance(item, str)), None) if isinstance(value, (list, tuple)) else None
    return f"of type {type(value).__name__}" if text is None else f"a {type(value).__name__} with the text `{text}`"


def check_point(argument: str, shape: tuple[int, ...], names: Sequence[str]) -> None:
    """Check that a point, of a shape, has one number for each name."""
    if shape != (len(names),):
        count = "1 number" if len(names) == 1 else f"{len(names)} numbers"
        refuse(argument, f"have {count} ({in_a_row(names)})", f"of shape {shape}")


def check_above(argument: str, value: object, bound: float) -> None:
    """Check that every element is finite and greater than `bound`."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array) & (array > bound)):
        refuse(
            argument,
            "be positive" if bound == 0 else f"be greater than {bound:g}",
            _first_invalid(array, array > bound),
        )


def check_minimum(argument: str, value: object, bound: float) -> None:
    """Check that every element is finite and at least `bound`."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array) & (array >= bound)):
        refuse(argument, f"be at least {bound:g}", _first_invalid(array, array >= bound))


def check_finite(argument: str, value: object) -> None:
    """Check that every element is finite."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array)):
        refuse(argument, "be finite", _first_invalid(array, np.isfinite(array)))


def check_increasing(argument: str, value: object) -> None:
    """Check that times do not decrease along the last axis and are not NaN (trailing inf is padding)."""
    array = concrete(value)
    if array is None:
        return
    if array.ndim in (1, 2) and array.shape[-1] == 0:
        refuse(argument, "have at least one time" if argument == "ts" else "not be empty", f"of shape {array.shape}")
    if array.ndim not in (1, 2):
        refuse(argument, "have shape (times,) or (patients, times)", f"of shape {array.shape}")
    with np.errstate(invalid="ignore"):
        wrong = array[..., 1:] < array[..., :-1]
    if np.isnan(array).any() or np.isneginf(array).any():
        position = int(np.argwhere(np.isnan(array) | np.isneginf(array))[0][-1])
        refuse(argument, "hold numbers", f"NaN or -inf at position {position}")
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0])
        before, after = array[index], array[(*index[:-1], index[-1] + 1)]
        refuse(argument, "not decrease", f"{after:g} after {before:g}, at position {index[-1] + 1}")


def check_one_of(argument: str, value: object, allowed: Iterable[object], description: str) -> None:
    """Check that `value` is one of the `allowed` names."""
    allowed = sorted(allowed, key=str) if isinstance(allowed, (set, frozenset)) else list(allowed)
    if value not in allowed:
        listed = in_a_row(allowed) or "it has none"
        raise ArgumentError(
            argument, f"must name {description} ({listed}), but is {_shown(value)}.{did_you_mean(value, allowed)}"
        )


def in_a_row(names: Iterable[object], limit: int = 30) -> str:
    """Return names separated by commas for a message, only the first of them if there are many."""
    names = [str(name) for name in names]
    more = [f"... and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


def did_you_mean(value: object, allowed: Iterable[object]) -> str:
    """Return " Did you mean ...?" with the allowed name closest to a wrong one, or "" if none is close."""
    near = nearest(value, allowed)
    return f" Did you mean `{near}`?" if near is not None else ""


def nearest(value: object, allowed: Iterable[object]) -> str | None:
    """Return the allowed name closest to a wrong one, or None if none is close."""
    by_lower_case = {str(name).lower(): str(name) for name in allowed}
    near = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1, cutoff=0.75)
    return by_lower_case[near[0]] if near else None


def _first_invalid(array: np.ndarray, valid: np.ndarray | np.bool) -> object:
    wrong = ~(valid & np.isfinite(array))
    return array[wrong].flat[0] if array.ndim else array[()]


def _shown(value: object) -> str:
    if isinstance(value, (np.floating, float)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return f"{value.item() if isinstance(value, np.ndarray) else float(value):g}"
    return str(value) if not isinstance(value, str) or " " in value else f"`{value}`"
