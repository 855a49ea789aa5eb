"""Doses are data: a `Regimen` is a table of timed actions, one row a dose.

Times, amounts, durations and rates are arrays, so a regimen can be differentiated, batched and replaced without
retracing. Targets are names in the user's code and integer codes in the table. A column has shape `(rows,)`, or
`(patients, rows)` where patients differ; a row with time = inf is padding.
"""

import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._amount import AbstractAmount, Covariates
from qspjax._checks import (
    check_above,
    check_finite,
    check_instance,
    check_minimum,
    check_number,
    check_whole,
    concrete,
    refuse,
)
from qspjax._model import as_parameter
from qspjax._types import Scalar


class Action(enum.IntEnum):
    """What a row of the table does."""

    BOLUS = 0
    """Add F * amount to the target at once."""
    INFUSION_OVER = 1
    """Infuse over `duration`: bioavailability scales the rate (NONMEM's modelled duration, RATE = -2)."""
    INFUSION_RATE = 2
    """Infuse at `rate`: bioavailability scales the duration (NONMEM's RATE > 0)."""


class Regimen(eqx.Module):
    """A table of doses. Make one with `bolus` and `infusion`, combine with `+`, `.every` and `.then`.

    Attributes:
        time: Time of each dose, shape (rows,) or (patients, rows); inf is padding.
        kind: `Action` code of each row.
        index: Which of `targets` each row goes to.
        amount: Amount of each row, before bioavailability.
        duration: Duration of each row that is an `INFUSION_OVER`, else 1.
        rate: Rate of each row that is an `INFUSION_RATE`, else 1.
        rule: Which of `rules` gives the amount of each row, or -1 where `amount` is a number already.
        rules: Amounts that depend on covariates; `prescribe` evaluates them.
        end: Time at which the regimen is over, where `then` goes on.
        targets: The dose targets by name, or by number from 1 as NONMEM's CMT.
        infuses: Whether a row may be an infusion; without any, a solve needs neither rates nor their ends.
    """

    time: jax.Array
    kind: jax.Array
    index: jax.Array
    amount: jax.Array
    duration: jax.Array
    rate: jax.Array
    rule: jax.Array
    rules: tuple[AbstractAmount, ...]
    end: jax.Array
    targets: tuple[str | int, ...] = eqx.field(static=True)
    infuses: bool = eqx.field(static=True)

    def __str__(self) -> str:
        """Return the table of doses, a line a dose."""
        columns = [np.asarray(getattr(self, name)) for name in ("time", "kind", "index", "amount", "duration", "rate")]
        if any(column.ndim > 1 for column in columns):
            return f"Regimen of {self.rows} rows for each of {max(len(c) for c in columns if c.ndim > 1)} patients"
        lines = []
        for time, kind, index, amount, duration, rate, rule in zip(*columns, np.asarray(self.rule), strict=True):
            if np.isfinite(time):
                how = {
                    Action.BOLUS: "",
                    Action.INFUSION_OVER: f" over {duration:g}",
                    Action.INFUSION_RATE: f" at rate {rate:g}",
                }
                dose = f"{amount:g}" if rule < 0 else type(self.rules[rule]).__name__
                lines.append(f"at {time:g}: {dose} to {self.targets[index]}{how[kind]}")
        return "\n".join(lines) or "no doses"

    @property
    def rows(self) -> int:
        """Number of rows, padding included."""
        return self.time.shape[-1]

    def ndims(self) -> "Regimen":
        """Return a tree like the regimen: the number of dimensions of each leaf for one patient."""
        return eqx.tree_at(lambda r: r.end, jax.tree.map(lambda _: 1, self), 0)

    def __add__(self, other: "Regimen") -> "Regimen":
        """Give the doses of both regimens."""
        check_instance("other", other, Regimen, "a regimen, to be added to a regimen")
        targets = self.targets + tuple(name for name in other.targets if name not in self.targets)
        numbers = [targets.index(name) for name in other.targets]
        moved = jnp.asarray(numbers, dtype=int)[other.index] if numbers else other.index
        shifted = jnp.where(other.rule >= 0, other.rule + len(self.rules), -1)
        other = eqx.tree_at(lambda r: (r.index, r.rule), other, (moved, shifted))
        columns = {name: _joined(getattr(self, name), getattr(other, name)) for name in _COLUMNS}
        end = jnp.maximum(self.end, other.end)
        infuses = self.infuses or other.infuses
        return Regimen(**columns, rules=self.rules + other.rules, end=end, targets=targets, infuses=infuses)

    def every(self, interval: Scalar, *, doses: int) -> "Regimen":
        """Repeat the regimen every `interval`, `doses` times in all (NONMEM's II, and ADDL = doses - 1).

        Args:
            interval: Time from one dose to the next (one a patient, or the same for all); differentiable.
            doses: How many times in all, at least 1.

        Raises:
            ValueError: If `interval` is not positive or `doses` is less than 1.
        """
        check_number("interval", interval)
        check_above("interval", interval, 0.0)
        check_whole("doses", doses, 1)
        if not self.rows:
            return self
        interval = as_parameter(interval)
        shift = jnp.repeat(jnp.arange(doses), self.rows) * interval[..., None]
        columns = {name: jnp.tile(getattr(self, name), doses) for name in _COLUMNS}
        columns["time"] = columns["time"] + shift
        end = jnp.maximum(self.end + (doses - 1) * interval, jnp.min(self.time, axis=-1) + doses * interval)
        return Regimen(**columns, rules=self.rules, end=end, targets=self.targets, infuses=self.infuses)

    def then(self, other: "Regimen") -> "Regimen":
        """Go on with another regimen when this one is over: its last infusion ended and its last interval passed.

        Raises:
            ValueError: If the end is not known: an infusion at a rate of an amount that depends on covariates.
        """
        end = concrete(self.end)
        if end is not None and np.isnan(end).any():
            refuse("rate", "be replaced by `over` in a regimen that goes on with `then`", "of an unknown duration")
        later = eqx.tree_at(lambda r: (r.time, r.end), other, (other.time + self.end[..., None], other.end + self.end))
        return self + later

    def prescribe(self, covariates: Covariates) -> "Regimen":
        """Return the regimen with every amount a number, for patients with these covariates.

        Args:
            covariates: By name, numbers for one patient or arrays of shape (patients,).

        Raises:
            ValueError: If an amount needs a covariate that is not there.
        """
        amount = self.amount
        for code, rule in enumerate(self.rules):
            value = rule(covariates)
            amount = jnp.where(self.rule == code, value[..., None] if jnp.ndim(value) else value, amount)
        return eqx.tree_at(lambda r: (r.amount, r.rule, r.rules), self, (amount, jnp.full_like(self.rule, -1), ()))

    def padded(self, rows: int) -> "Regimen":
        """Return the regimen with padding rows up to `rows`, so that other regimens share its compiled program."""
        missing = rows - self.rows
        columns = {
            name: jnp.concatenate(
                [column, jnp.full((*column.shape[:-1], missing), _COLUMNS[name], column.dtype)], axis=-1
            )
            for name, column in ((name, getattr(self, name)) for name in _COLUMNS)
        }
        return dataclasses.replace(self, **columns)


_COLUMNS: dict[str, Any] = {
    "time": jnp.inf,
    "kind": Action.BOLUS,
    "index": 0,
    "amount": 0.0,
    "duration": 1.0,
    "rate": 1.0,
    "rule": -1,
}
"""The columns of the table and what padding holds in them."""


def bolus(amount: Scalar | AbstractAmount, *, to: str | int, at: Scalar = 0.0) -> Regimen:
    """Give an amount at once.

    Args:
        amount: The amount, in the model's unit of dose, or a function of covariates such as `Proportional(5.0, "WT")`.
        to: The dose target: a name of the model, or a compartment number from 1.
        at: The time.

    Raises:
        ValueError: If the amount is negative or the time is not finite.

    Example:
        >>> import qspjax as qsp
        >>> qsp.bolus(100.0, to="depot").every(24.0, doses=3).time
        Array([ 0., 24., 48.], dtype=float64)
    """
    return _row(amount, to=to, at=at, kind=Action.BOLUS)


def infusion(
    amount: Scalar | AbstractAmount,
    *,
    to: str | int,
    over: Scalar | None = None,
    rate: Scalar | None = None,
    at: Scalar = 0.0,
) -> Regimen:
    """Give an amount at a constant rate, stated by its duration (`over`) or by its `rate`, exactly one.

    With `over`, bioavailability scales the rate; with `rate`, it scales the duration, `F * amount / rate`.

    Args:
        amount: The amount, in the model's unit of dose, or a function of covariates.
        to: The dose target: a name of the model, or a compartment number from 1.
        over: The duration.
        rate: The rate, amount per time.
        at: The time at which it starts.

    Raises:
        ValueError: If both or neither of `over` and `rate` are given, or one is not positive.
    """
    if (over is None) == (rate is None):
        raise ValueError(
            "Exactly one of the arguments `over` and `rate` must be given, but "
            + ("none is." if over is None else "both are.")
        )
    if over is not None:
        check_number("over", over)
        check_above("over", over, 0.0)
        return _row(amount, to=to, at=at, kind=Action.INFUSION_OVER, duration=over, lasts=over)
    check_number("rate", rate)
    check_above("rate", rate, 0.0)
    lasts = jnp.nan if isinstance(amount, AbstractAmount) else as_parameter(amount) / as_parameter(rate)
    return _row(amount, to=to, at=at, kind=Action.INFUSION_RATE, rate=rate, lasts=lasts)


def no_doses() -> Regimen:
    """Return the regimen without doses (an untreated arm)."""
    row = _row(0.0, to="", at=0.0, kind=Action.BOLUS)
    columns = {name: getattr(row, name)[:0] for name in _COLUMNS}
    return Regimen(**columns, rules=(), end=jnp.zeros(()), targets=(), infuses=False)


def _row(
    amount: Scalar | AbstractAmount,
    *,
    to: str | int,
    at: Scalar,
    kind: Action,
    duration: Scalar = 1.0,
    rate: Scalar = 1.0,
    lasts: Scalar = 0.0,
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

    def column(value: Any) -> jax.Array:
        return jnp.asarray(value, dtype=float)[..., None]

    time = column(at)
    return Regimen(
        time=time,
        kind=jnp.full((1,), kind, dtype=int),
        index=jnp.zeros((1,), dtype=int),
        amount=column(0.0 if depends else amount),
        duration=column(duration),
        rate=column(rate),
        rule=jnp.full((1,), 0 if depends else -1, dtype=int),
        rules=(amount,) if depends else (),
        end=time[..., 0] + as_parameter(lasts),
        targets=(to,),
        infuses=kind != Action.BOLUS,
    )


def _joined(first: jax.Array, second: jax.Array) -> jax.Array:
    lead = jnp.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return jnp.concatenate([jnp.broadcast_to(column, (*lead, column.shape[-1])) for column in (first, second)], axis=-1)
