"""Parameters that change with time: the course of a covariate between its records.

A time-varying covariate is a parameter that is set at some times. Its value between two records is a choice that
changes results, so it is always chosen explicitly, by an instance of a class of its own, and printed.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qspjax._checks import check_increasing, check_instance, check_number, concrete, refuse
from qspjax._dosing._regimen import Action, Parameter, Regimen, table
from qspjax._types import ArrayInput, Scalar

FIRST = -2.0
"""The order of the first value: before everything else at its time."""


class AbstractInterpolation(eqx.Module):
    """The value of a covariate between two records.

    Attributes:
        comes: When it changes in the order of what happens at the time of a record: less than 0 just before the record,
            so that the record's own dose and output see the change, and greater than 0 just after.

    Example:
        >>> import qspjax as qsp
        >>> print(qsp.NOCB())
        next observation carried backward
    """

    comes: eqx.AbstractClassVar[float]

    @abc.abstractmethod
    def segments(self, time: Scalar, value: Scalar) -> tuple[Scalar, Scalar]:
        """Return the value just after each time, and how much it changes until the next, shapes (..., times)."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """Return a description in words."""


class NOCB(AbstractInterpolation):
    """Next observation carried backward: between two records the value of the later one (NONMEM's rule).

    Example:
        >>> import qspjax as qsp
        >>> cl = qsp.varying("CL", [0.0, 10.0], [3.0, 6.0], interpolation=qsp.NOCB())
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> qsp.simulate(patient, dose + cl, [5.0]).observed["concentration"].round(4)  # exp(-6 / 30 * 5)
        Array([0.3679], dtype=float64)
    """

    comes: ClassVar[float] = 0.5

    def segments(self, time: Scalar, value: Scalar) -> tuple[Scalar, Scalar]:
        values = jnp.asarray(value)
        return jnp.concatenate([values[..., 1:], values[..., -1:]], axis=-1), jnp.zeros_like(values)

    def __str__(self) -> str:
        return "next observation carried backward"


class LOCF(AbstractInterpolation):
    """Last observation carried forward: from a record on, its own dose and output included, its value.

    Example:
        >>> import qspjax as qsp
        >>> cl = qsp.varying("CL", [0.0, 10.0], [3.0, 6.0], interpolation=qsp.LOCF())
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> qsp.simulate(patient, dose + cl, [5.0]).observed["concentration"].round(4)  # exp(-3 / 30 * 5)
        Array([0.6065], dtype=float64)
    """

    comes: ClassVar[float] = -0.5

    def segments(self, time: Scalar, value: Scalar) -> tuple[Scalar, Scalar]:
        return value, jnp.zeros_like(value)

    def __str__(self) -> str:
        return "last observation carried forward"


class LinearInterpolation(AbstractInterpolation):
    """A straight line between two records; constant after the last.

    Example:
        >>> import qspjax as qsp
        >>> cl = qsp.varying("CL", [0.0, 10.0], [3.0, 6.0], interpolation=qsp.LinearInterpolation())
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> qsp.simulate(patient, dose + cl, [5.0]).observed["concentration"].round(4)  # exp(-3.75 / 30 * 5)
        Array([0.5353], dtype=float64)
    """

    comes: ClassVar[float] = -0.5

    def segments(self, time: Scalar, value: Scalar) -> tuple[Scalar, Scalar]:
        values = jnp.asarray(value)
        return values, jnp.concatenate([jnp.diff(values, axis=-1), jnp.zeros_like(values[..., :1])], axis=-1)

    def __str__(self) -> str:
        return "linear between observations"


def varying(
    name: str,
    time: ArrayInput,
    value: ArrayInput,
    *,
    interpolation: AbstractInterpolation,
    order: ArrayInput | None = None,
) -> Regimen:
    """Let a parameter of the model follow recorded values: rows of a regimen, to be added to the doses.

    Before the first record the parameter has the value of the model, after the last it stays constant. A step ends at
    every record. A model with such a parameter is not linear, so `MatrixExponential` does not solve it.

    Args:
        name: The dotted name of a parameter that is a number, such as `"CL"`.
        time: Times of the records, shape (records,) or (patients, records), not decreasing; trailing inf is padding.
        value: The parameter at each record, of the same shape; differentiable.
        interpolation: The value between two records: `NOCB()`, `LOCF()` or `LinearInterpolation()`.
        order: Numbers that order what happens at equal times: doses and outputs of a record's own number see the
            record's value. By default doses and outputs at the time of a record see the value after it.

    Raises:
        ValueError: If times decrease, or values have another shape.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=1.0, V=1.0)
        >>> falling = qsp.varying("CL", [0.0, 2.0], [1.0, 0.0], interpolation=qsp.LOCF())
        >>> solution = qsp.simulate(patient, qsp.bolus(1.0, to="central") + falling, [2.0, 4.0])
        >>> solution.observed["concentration"].round(4)
        Array([0.1353, 0.1353], dtype=float64)
    """
    check_instance("interpolation", interpolation, AbstractInterpolation, "NOCB(), LOCF() or LinearInterpolation()")
    if not isinstance(name, str):
        refuse("name", "be the name of a parameter", name)
    check_number("time", time)
    check_number("value", value)
    time, value = jnp.asarray(time, dtype=float), jnp.asarray(value, dtype=float)
    check_increasing("time", time)
    shape = jnp.broadcast_shapes(time.shape, value.shape)
    time, value = jnp.broadcast_to(time, shape), jnp.broadcast_to(value, shape)
    is_record = jnp.isfinite(time)
    # padding repeats the last value, so that nothing changes there
    last_record = jnp.maximum(is_record.sum(axis=-1, keepdims=True) - 1, 0)
    value = jnp.where(is_record, value, jnp.take_along_axis(value, last_record, axis=-1))
    after, change = (jnp.asarray(segment) for segment in interpolation.segments(time, value))
    numbers = jnp.broadcast_to(0.0 if order is None else jnp.asarray(order) + interpolation.comes, shape)
    rows = _set(name, time[..., :1], value[..., :1], FIRST)
    rows = rows + _set(name, time, after, numbers)
    constant = concrete(change)
    if constant is None or constant.any():
        following = jnp.concatenate([time[..., 1:], jnp.full_like(time[..., :1], jnp.inf)], axis=-1)
        lengths = following - time
        runs = jnp.isfinite(lengths) & (lengths > 0)
        rows = rows + table(
            (Parameter(name),),
            time=jnp.where(runs, time, jnp.inf),
            kind=np.full(shape, Action.INFUSION_OVER),
            amount=change,
            duration=jnp.where(runs, lengths, 1.0),
            order=numbers,
        )
    return rows


def _set(name: str, time: jax.Array, value: jax.Array, order: ArrayLike) -> Regimen:
    shape = jnp.shape(time)
    return table(
        (Parameter(name),),
        time=time,
        kind=np.full(shape, Action.SET),
        amount=value,
        order=jnp.broadcast_to(order, shape),
    )


def set_parameter(name: str, value: Scalar, *, at: Scalar) -> Regimen:
    """Give a parameter of the model another value from a time on.

    Args:
        name: The dotted name of a parameter that is a number.
        value: The new value; differentiable.
        at: The time; doses and outputs at this time see the new value.

    Raises:
        ValueError: If the value is not a number.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=1.0, V=1.0)
        >>> regimen = qsp.bolus(1.0, to="central") + qsp.set_parameter("CL", 0.0, at=2.0)
        >>> qsp.simulate(patient, regimen, [2.0, 4.0]).observed["concentration"].round(4)
        Array([0.1353, 0.1353], dtype=float64)
    """
    if not isinstance(name, str):
        refuse("name", "be the name of a parameter", name)
    check_number("value", value)
    check_number("at", at)
    time, value = jnp.broadcast_arrays(*(jnp.asarray(x, dtype=float)[..., None] for x in (at, value)))
    return _set(name, time, value, 0.0)
