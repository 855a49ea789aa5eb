"""How a trial is conducted: enrolment, dropout, doses missed or late, visits that are not on time or are missed.

Each is an immutable value that draws from a key, one number for each patient or visit; the same key gives the same
numbers in every arm.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from qspjax._checks import (
    check_above,
    check_increasing,
    check_minimum,
    check_number,
    check_whole,
    concrete,
    described,
    refuse,
)
from qspjax._cohort import as_array
from qspjax._dosing._regimen import Action, Regimen, changed, check_regimen
from qspjax._parameters import as_parameter
from qspjax._random import generator
from qspjax._types import ArrayInput, Key, Scalar
from qspjax.population._survival import flags


class Enrolment(eqx.Module):
    """Patients enter at a constant rate, at times uniform between 0 and `over`.

    Example:
        >>> import jax
        >>> Enrolment(over=180.0).times(4, key=jax.random.key(0)).shape
        (4,)
    """

    over: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        _check_least("over", self.over, 0.0)

    def times(self, size: int, *, key: Key) -> Float[np.ndarray, " patients"]:
        """Return the time at which each patient enters."""
        return generator(key).uniform(0.0, float(self.over), size)


class Dropout(eqx.Module):
    """Patients leave by chance, with Weibull's hazard h(t) = (k / s) (t / s)^(k - 1); it is constant for k = 1.

    Attributes:
        scale: The time s by which 63 % have left.
        shape: The exponent k: below 1 most leave early, above 1 most leave late.

    Example:
        >>> import jax
        >>> bool((Dropout(scale=365.0).times(100, key=jax.random.key(0)) > 0.0).all())
        True
    """

    scale: Scalar = eqx.field(converter=as_parameter)
    shape: Scalar = eqx.field(converter=as_parameter, default=1.0)

    def __check_init__(self) -> None:
        for name in ("scale", "shape"):
            _check_least(name, getattr(self, name), 0.0)
            check_above(name, getattr(self, name), 0.0)

    def times(self, size: int, *, key: Key) -> Float[np.ndarray, " patients"]:
        """Return the time since entry at which each patient leaves."""
        return float(self.scale) * generator(key).weibull(float(self.shape), size)


def follow_up(
    times: ArrayInput,
    events: ArrayInput,
    *,
    dropout: ArrayInput | None = None,
    entry: ArrayInput | None = None,
    cutoff: float | None = None,
) -> tuple[Float[np.ndarray, " patients"], Bool[np.ndarray, " patients"]]:
    """Return times and events as they are seen by patients who drop out and a trial that ends.

    Args:
        times: Time from entry to the event or to the last observation, shape (patients,).
        events: Whether it is the event, shape (patients,).
        dropout: Time from entry at which each patient leaves, from `Dropout.times`.
        entry: Time at which each patient enters, from `Enrolment.times`; by default 0.
        cutoff: Time at which the trial ends for all; patients who would enter later are left out.

    Example:
        >>> seen, events = follow_up([5.0, 9.0, 9.0], [True, True, True], entry=[0.0, 2.0, 12.0], cutoff=10.0)
        >>> seen.tolist(), events.tolist()
        ([5.0, 8.0], [True, False])
    """
    values = np.asarray(times, float)
    if values.ndim != 1 or np.isnan(values).any():
        refuse("times", "have a number for each patient (leave those who failed out)", f"{described(values)}, or NaN")
    happened = flags("events", events, values.size)
    leaves = _each("dropout", dropout, values, np.inf)
    enters = _each("entry", entry, values, 0.0)
    until = np.minimum(leaves, np.inf if cutoff is None else cutoff - enters)
    kept = until > 0.0
    return np.minimum(values, until)[kept], (happened & (values <= until))[kept]


class Adherence(eqx.Module):
    """Doses that are missed or late, each by chance alone.

    Attributes:
        missed: The share of doses that are not taken.
        late: The share of those taken that are late.
        delay: The most by which they are, in the unit of time; the delay is uniform up to it.

    Example:
        >>> import jax, qspjax as qsp
        >>> daily = qsp.bolus(100.0, to="depot").every(24.0, doses=7)
        >>> taken = Adherence(missed=0.2, late=0.3, delay=6.0).apply(daily, 50, key=jax.random.key(0))
        >>> taken.time.shape
        (50, 7)
    """

    missed: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)
    late: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)
    delay: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_share("missed", self.missed)
        _check_share("late", self.late)
        _check_least("delay", self.delay, 0.0)

    def apply(self, regimen: Regimen, size: int, *, key: Key) -> Regimen:
        """Return the doses that each patient takes; resets and changes of parameters stay as they are.

        Args:
            regimen: What was prescribed, the same for all, or for each patient.
            size: The number of patients.
            key: `jax.random.key(seed)`.

        Raises:
            ValueError: If the regimen has doses at steady state, which are no single doses.
        """
        check_regimen(regimen)
        check_whole("size", size, 1)
        if regimen.static_shape.steady:
            refuse("regimen", "have single doses only, so that one can be missed", "a regimen at steady state")
        draws = generator(key).uniform(size=(3, size, regimen.rows))
        dose = np.isin(np.asarray(regimen.kind), _DOSES)
        missed = dose & (draws[0] < float(self.missed))
        late = dose & (draws[1] < float(self.late))
        time = np.asarray(regimen.time) + np.where(late, float(self.delay) * draws[2], 0.0)
        ordered = np.broadcast_to(np.asarray(regimen.ordered), time.shape)
        shape = regimen.static_shape._replace(repeated=False)
        return changed(
            regimen,
            time=np.where(missed, np.inf, time),
            ordered=np.where(missed, np.inf, ordered),
            static_shape=shape,
        )


_DOSES = [
    int(kind)
    for kind in (
        Action.BOLUS,
        Action.INFUSION_OVER,
        Action.INFUSION_RATE,
        Action.INFUSION_MODEL_DURATION,
        Action.INFUSION_MODEL_RATE,
    )
]


class Visits(eqx.Module):
    """Planned visits: on a day within a window, some missed, measured with a proportional error.

    Attributes:
        at: Planned times, the baseline first, shape (visits,).
        window: The most by which a visit, but the baseline, is early or late; uniform within.
        missed: The share of visits, but the baseline, that are missed.
        error: The coefficient of variation of what is measured.

    Example:
        >>> import jax
        >>> visits = Visits([0.0, 42.0, 84.0], window=3.0, error=0.05)
        >>> times, values = visits.measured([0.0, 100.0], [[80.0, 40.0]], key=jax.random.key(0))
        >>> times.shape, bool(abs(times[0, 1] - 42.0) <= 3.0)
        ((1, 3), True)
    """

    at: Float[np.ndarray, " visits"] = eqx.field(converter=lambda x: np.asarray(as_array("at", x), float))
    window: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)
    missed: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)
    error: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)

    def __check_init__(self) -> None:
        check_visits("at", self.at)
        _check_share("missed", self.missed)
        for name in ("window", "error"):
            _check_least(name, getattr(self, name), 0.0)
        if 2.0 * float(self.window) >= np.diff(self.at).min():
            refuse("window", "be less than half the time between visits", float(self.window))

    def measured(
        self, times: ArrayInput, values: ArrayInput, *, key: Key
    ) -> tuple[Float[np.ndarray, "patients visits"], Float[np.ndarray, "patients visits"]]:
        """Return when each patient comes and what is measured, NaN for a missed visit, never below 0.

        Args:
            times: Times at which the values are known, shape (times,); between them they are linear, before and after
                NaN.
            values: True values of the patients, shape (patients, times).
            key: `jax.random.key(seed)`.
        """
        known, true = np.asarray(times, float), np.asarray(values, float)
        if known.ndim != 1 or true.ndim != 2 or true.shape[1] != known.size:
            refuse("values", "have shape (patients, times)", f"of shape {true.shape}")
        draw, shape = generator(key), (true.shape[0], self.at.size)
        shift, missed, error = draw.uniform(-1.0, 1.0, shape), draw.uniform(size=shape), draw.normal(size=shape)
        shift[:, 0], missed[:, 0] = 0.0, 1.0
        actual = self.at + float(self.window) * shift
        rows = [np.interp(when, known, row, np.nan, np.nan) for when, row in zip(actual, true, strict=True)]
        seen = np.maximum(np.reshape(rows, shape) * (1.0 + float(self.error) * error), 0.0)
        return actual, np.where(missed < float(self.missed), np.nan, seen)


def check_visits(argument: str, visits: Array | np.ndarray) -> None:
    """Check that visits are increasing times, two at least."""
    if visits.ndim != 1 or visits.shape[0] < 2:
        refuse(argument, "be the times of the baseline and of at least one visit", f"of shape {visits.shape}")
    check_increasing(argument, visits)
    known = concrete(visits)
    if known is not None and not (known[1:] > known[:-1]).all():
        refuse(argument, "increase from visit to visit", known.tolist())


def _check_least(name: str, value: Scalar, least: float) -> None:
    check_number(name, value)
    if np.ndim(value):
        refuse(name, "be one number", f"of shape {np.shape(value)}")
    check_minimum(name, value, least)


def _check_share(name: str, value: Scalar) -> None:
    _check_least(name, value, 0.0)
    known = concrete(value)
    if known is not None and known > 1.0:
        refuse(name, "be a share between 0 and 1", known)


def _each(argument: str, given: ArrayInput | None, like: np.ndarray, default: float) -> np.ndarray:
    values = np.full(like.shape, default) if given is None else np.asarray(given, float)
    if values.shape != like.shape or np.isnan(values).any():
        refuse(argument, f"have one number for each patient ({like.size})", f"of shape {values.shape}, or NaN")
    return values
