"""Checks of concrete values before anything is compiled, all in one message format.

Every message reads "Argument `name` must ..., but is ...". Traced values pass: inside `jit`, `grad` and `vmap` a wrong
number shows up as a result code instead.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import numpy as np


def refuse(argument: str, must: str, found: Any) -> NoReturn:
    """Raise the `ValueError` that names the argument, what it must be and what it is."""
    raise ValueError(f"Argument `{argument}` must {must}, but is {_shown(found)}.")


def concrete(value: Any) -> np.ndarray | None:
    """Return a number or array as numpy, or None for a traced value or a placeholder in a tree."""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def check_above(argument: str, value: Any, bound: float) -> None:
    """Check that every element is finite and greater than `bound`."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array) & (array > bound)):
        refuse(argument, "be positive" if bound == 0 else f"be greater than {bound:g}", _first(array, array > bound))


def check_minimum(argument: str, value: Any, bound: float) -> None:
    """Check that every element is finite and at least `bound`."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array) & (array >= bound)):
        refuse(argument, f"be at least {bound:g}", _first(array, array >= bound))


def check_finite(argument: str, value: Any) -> None:
    """Check that every element is finite."""
    array = concrete(value)
    if array is not None and not np.all(np.isfinite(array)):
        refuse(argument, "be finite", _first(array, np.isfinite(array)))


def check_increasing(argument: str, value: Any) -> None:
    """Check that times do not decrease along the last axis and are not NaN (trailing inf is padding)."""
    array = concrete(value)
    if array is None:
        return
    if array.ndim not in (1, 2) or array.shape[-1] == 0:
        refuse(argument, "have shape (times,) or (patients, times)", f"of shape {array.shape}")
    with np.errstate(invalid="ignore"):
        wrong = np.isnan(array[..., 1:]) | (array[..., 1:] < array[..., :-1])
    if np.isnan(array[..., 0]).any() or np.isneginf(array).any():
        refuse(argument, "hold numbers", "NaN or -inf somewhere")
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        before, after = array[place], array[(*place[:-1], place[-1] + 1)]
        refuse(argument, "not decrease", f"{after:g} after {before:g}, at position {place[-1] + 1}")


def check_one_of(argument: str, value: Any, allowed: Iterable[Any], what: str) -> None:
    """Check that `value` is one of the `allowed` names."""
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(map(str, allowed)) or "it has none"
        refuse(argument, f"name {what} ({listed})", value)


def _first(array: np.ndarray, fine: np.ndarray | np.bool) -> Any:
    wrong = ~(fine & np.isfinite(array))
    return array[wrong].flat[0] if array.ndim else array[()]


def _shown(found: Any) -> str:
    if isinstance(found, (np.floating, float)) or (isinstance(found, np.ndarray) and found.ndim == 0):
        return f"{found.item() if isinstance(found, np.ndarray) else float(found):g}"
    return str(found) if not isinstance(found, str) or " " in found else f"`{found}`"
