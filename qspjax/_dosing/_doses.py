"""Doses and other actions in time, to be combined into a `Regimen`."""

import enum
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._arrays import floats, namespace
from qspjax._checks import check_above, check_finite, check_minimum, check_number, refuse
from qspjax._dosing._amounts import AbstractAmount
from qspjax._dosing._regimen import Action, Level, Regimen, table
from qspjax._types import Scalar


class _Modelled(enum.Enum):
    MODELLED = "the model's"


MODELLED: Final = _Modelled.MODELLED
"""The duration or rate of an infusion that the model itself declares: `Delivery(duration=)`, `Delivery(rate=)`."""


def bolus(amount: Scalar | AbstractAmount, *, to: str | int, at: Scalar = 0.0) -> Regimen:
    """Give an amount at once.

    Args:
        amount: The amount, in the model's unit of dose, or a function of covariates such as `Proportional(5.0, "WT")`.
        to: The dose target: a name of the model, or a compartment number from 1; 0 is the model's default, the first
            that it declares.
        at: The time.

    Raises:
        ValueError: If the amount is negative or the time is not finite.

    Example:
        >>> import qspjax as qsp
        >>> qsp.bolus(100.0, to="depot").every(24.0, doses=3).time
        Array([ 0., 24., 48.], dtype=float64)
    """
    return _dose(amount, to=to, at=at, kind=Action.BOLUS)


def infusion(
    amount: Scalar | AbstractAmount,
    *,
    to: str | int,
    over: Scalar | _Modelled | None = None,
    rate: Scalar | _Modelled | None = None,
    at: Scalar = 0.0,
) -> Regimen:
    """Give an amount at a constant rate, stated by its duration (`over`) or by its `rate`, exactly one.

    With `over`, bioavailability scales the rate; with `rate`, it scales the duration, `F * amount / rate`.

    Args:
        amount: The amount, in the model's unit of dose, or a function of covariates.
        to: The dose target: a name of the model, or a compartment number from 1; 0 is the model's default.
        over: The duration, or `MODELLED` where the model's delivery declares it (NONMEM's RATE = -2, D1).
        rate: The rate, amount per time, or `MODELLED` (NONMEM's RATE = -1, R1).
        at: The time at which it starts.

    Raises:
        ValueError: If both or neither of `over` and `rate` are given, or one is not positive.

    Example:
        >>> import qspjax as qsp
        >>> print(qsp.infusion(100.0, to="central", over=2.0).every(12.0, doses=2))
        at 0: 100 to central over 2
        at 12: 100 to central over 2
    """
    if over is not None and rate is None:
        if isinstance(over, _Modelled):
            return _dose(amount, to=to, at=at, kind=Action.INFUSION_MODEL_DURATION, span=jnp.nan)
        check_number("over", over)
        check_above("over", over, 0.0)
        return _dose(amount, to=to, at=at, kind=Action.INFUSION_OVER, duration=over, span=over)
    if rate is not None and over is None:
        if isinstance(rate, _Modelled):
            return _dose(amount, to=to, at=at, kind=Action.INFUSION_MODEL_RATE, span=jnp.nan)
        check_number("rate", rate)
        check_above("rate", rate, 0.0)
        span = jnp.nan if isinstance(amount, AbstractAmount) else floats(amount) / floats(rate)
        return _dose(amount, to=to, at=at, kind=Action.INFUSION_RATE, rate=rate, span=span)
    state = "none is" if over is None else "both are"
    raise ValueError(f"Exactly one of the arguments `over` and `rate` must be given, but {state}.")


def reset(*, at: Scalar) -> Regimen:
    """Put all states back to the initial ones (NONMEM's EVID = 3).

    Running infusions stop, and doses that were ordered before are cancelled, including those on their way (a lag). Rows
    later in the regimen at the same time follow the reset, so `reset(at=24.0) + bolus(..., at=24.0)` is EVID = 4.

    Args:
        at: The time.

    Raises:
        ValueError: If the time is not finite.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> regimen = qsp.bolus(300.0, to="central").every(12.0, doses=9) + qsp.reset(at=20.0)
        >>> qsp.simulate(patient, regimen, [12.0, 20.0, 90.0]).observed["concentration"].round(2)
        Array([13.01,  0.  ,  0.  ], dtype=float64)
    """
    check_number("at", at)
    check_finite("at", at)
    time = floats(at)[..., None]
    return table((), time=time, kind=np.full(time.shape, Action.RESET))


def scale(state: str | int, *, by: Scalar, at: Scalar) -> Regimen:
    """Multiply a state by a number at a time: a plasma exchange, the resection of part of a tumour.

    $$ y_i(t^+) = k y_i(t^-) $$

    Infusions go on. Doses earlier in the regimen at the same time are multiplied as well, later ones are not; an output
    at this time shows the state after it.

    Args:
        state: A state of the model, by name or by number from 1.
        by: The factor k, not negative; differentiable.
        at: The time; differentiable.

    Raises:
        ValueError: If the factor is negative or the time is not finite; on solving, if the model has no such state, the
            state is algebraic or the model has delays.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> exchange = qsp.scale("central", by=0.3, at=2.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central") + exchange, [1.9, 2.0])
        >>> solution.observed["concentration"].round(3)
        Array([8.27 , 2.456], dtype=float64)
    """
    if isinstance(state, bool) or not isinstance(state, (str, int)):
        refuse("state", "be the name of a state or its number", state)
    check_number("by", by)
    check_minimum("by", by, 0.0)
    check_number("at", at)
    check_finite("at", at)
    time, factor = namespace(at, by).broadcast_arrays(*(floats(x)[..., None] for x in (at, by)))
    return table((Level(state),), time=time, kind=np.full(time.shape, Action.SCALE), amount=factor)


def no_doses() -> Regimen:
    """Return the regimen without doses (an untreated arm).

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> qsp.simulate(patient, qsp.no_doses(), [0.0, 24.0]).observed["concentration"]
        Array([0., 0.], dtype=float64)
    """
    return table((), time=np.zeros((0,)), end=np.zeros(()))


def _dose(
    amount: Scalar | AbstractAmount,
    *,
    to: str | int,
    at: Scalar,
    kind: Action,
    duration: Scalar = 1.0,
    rate: Scalar = 1.0,
    span: Scalar = 0.0,
) -> Regimen:
    if isinstance(to, bool) or not isinstance(to, (str, int)):
        refuse("to", "be the name of a dose target or a compartment number", to)
    check_number("at", at)
    check_finite("at", at)
    depends = isinstance(amount, AbstractAmount)
    if not depends:
        if isinstance(amount, str) or callable(amount):
            refuse("amount", "be a number or an amount by covariates such as Proportional(5.0, 'WT')", amount)
        check_number("amount", amount)
        check_minimum("amount", amount, 0.0)

    def column(value: Scalar) -> jax.Array | np.ndarray:
        return floats(value)[..., None]

    time = column(at)
    return table(
        (to,),
        time=time,
        kind=np.full((1,), kind),
        amount=column(0.0 if depends else amount),
        duration=column(duration),
        rate=column(rate),
        rule=np.full((1,), 0 if depends else -1),
        rules=(amount,) if depends else (),
        end=time[..., 0] + floats(span),
    )
