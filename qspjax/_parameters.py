"""Parameters of models: declared with a unit and a sentence, stored as strong floats, checked when a model is made."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Self

import equinox as eqx

from qspjax._arrays import device_floats
from qspjax._checks import (
    check_above,
    check_finite,
    check_minimum,
    check_no_unit,
    did_you_mean,
    has_unit,
    in_a_row,
    refuse,
)
from qspjax._unit_words import warn_of_unit


def as_parameter(value: Any) -> Any:
    """Store numbers, lists and arrays as strong floats; leave modules, placeholders and quantities alone."""
    if has_unit(value):
        return value
    if eqx.is_array_like(value) or isinstance(value, (list, tuple)):
        return device_floats(value)
    return value


def parameter(
    *, unit: str, doc: str, source: str = "", above: float | None = 0.0, minimum: float | None = None, **default: Any
) -> Any:
    """Declare a parameter of a model: a natural-scale number with a unit and a sentence.

    Args:
        unit: The unit, such as `"L/h"`; `""` for a number without one.
        doc: What it is, in a few words.
        source: Where the value comes from, if it has a default (a reference with DOI).
        above: The value must be greater than this; `None` for no bound. Parameters are positive unless said otherwise.
        minimum: The value must be at least this; replaces `above`.
        **default: `default=` or `default_factory=`, as for a dataclass field.

    Example:
        >>> import equinox as eqx, qspjax as qsp
        >>> class Elimination(eqx.Module):
        ...     CL: float = qsp.parameter(unit="L/h", doc="clearance")
        >>> Elimination(CL=3).CL.dtype
        dtype('float64')
    """
    warn_of_unit(unit)
    metadata = {"unit": unit, "doc": doc, "source": source, "minimum": minimum}
    metadata["above"] = None if minimum is not None else above
    return eqx.field(converter=as_parameter, metadata=metadata, **default)


def check_parameters(module: eqx.Module, prefix: str = "") -> None:
    """Check every field declared with `parameter`, in nested modules too: a number, finite, within its bounds."""
    for field in dataclasses.fields(module):
        value, metadata, name = getattr(module, field.name), field.metadata, prefix + field.name
        if isinstance(value, eqx.Module):
            check_parameters(value, f"{name}.")
        elif "unit" in metadata:
            if isinstance(value, (str, dict)):
                refuse(name, "be a number", value)
            check_no_unit(name, value, metadata["unit"])
            check_finite(name, value)
            if metadata["above"] is not None:
                check_above(name, value, metadata["above"])
            if metadata["minimum"] is not None:
                check_minimum(name, value, metadata["minimum"])
        elif isinstance(value, (int, float)) and not metadata.get("static", False):
            refuse(
                name, "be declared with `parameter(unit=, doc=)`, or with `equinox.field(static=True)`", "a plain field"
            )


class AbstractChecked(eqx.Module):
    """A module whose constructor names, in its own words, the arguments that it has not or needs.

    Example:
        >>> from qspjax.fit import Adam
        >>> Adam(steps=3)
        Traceback (most recent call last):
        ...
        ValueError: `Adam` must be given arguments that it has (learning_rate, max_steps), but is given `steps`.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Check the names of the arguments before the constructor does."""
        if cls.__init__ not in (object.__init__, eqx.Module.__init__):
            check_arguments(cls, args, kwargs)
        return eqx.Module.__new__(cls)

    def __reduce__(self) -> tuple[object, ...]:
        """Make copies, and what is read from a pickle, without the constructor."""
        return object.__new__, (type(self),), dict(vars(self))


def check_arguments(cls: type, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Check that a constructor is given no unknown argument, and every required one.

    Raises:
        ValueError: If it is not; the message names the arguments, and describes those that are missing.
    """
    parameters = inspect.signature(cls.__init__).parameters
    _, *names = parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if not kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        return
    for name in kwargs:
        if name not in names:
            has = f"`{cls.__name__}` must be given arguments that it has ({in_a_row(names)})"
            raise ValueError(f"{has}, but is given `{name}`.{did_you_mean(name, names)}")
    positional = [name for name in names if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    passed = {*positional[: len(args)], *kwargs}
    missing = [name for name in names if parameters[name].default is inspect.Parameter.empty and name not in passed]
    if missing:
        fields = {field.name: field.metadata for field in dataclasses.fields(cls)}
        needed = (f"{name}{_described(fields.get(name, {}))}" for name in missing)
        raise ValueError(f"`{cls.__name__}` must be given {', '.join(needed)}, but is not.")


def _described(metadata: Mapping[str, Any]) -> str:
    words = [metadata.get("doc", ""), metadata.get("unit", "")]
    return f" ({', '.join(filter(None, words))})" if any(words) else ""
