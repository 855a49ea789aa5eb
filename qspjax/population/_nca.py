"""Endpoints from the area under a curve and from its terminal slope.

The area under a simulated output is integrated with the model. The rules of noncompartmental analysis apply to samples:
to terminal slopes always, to areas and troughs if a solution has nothing else. The areas use the linear-up log-down
rule: between two samples a rising curve is a line and a falling one an exponential, so that the area of an exponential
decay is exact whatever the sampling. Where a value is not positive the curve is a line.

    rising:   (c1 + c2) h / 2                   falling:   (c1 - c2) h / ln(c1 / c2)

An output that jumps at a dose is sampled just before the dose and at it; otherwise the jump becomes a ramp.

Reference: Purves, J Pharmacokinet Biopharm 20:211 (1992), doi:10.1007/BF01062525; Gabrielsson and Weiner,
Methods Mol Biol 929:377 (2012), doi:10.1007/978-1-62703-050-2_16.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._arrays import argmax_first, first_true
from qspjax._checks import check_whole
from qspjax._exposure import Area, Before, ask
from qspjax._solution import Solution
from qspjax._types import Scalar
from qspjax.population._endpoints import (
    AbstractEndpoint,
    Samples,
    Segments,
    as_window,
    check_window,
    inside,
    integrated,
    ratio,
    samples_of,
    segments,
    window_of,
)


class AUC(AbstractEndpoint):
    """The area under the curve, integrated with the model.

    $$ \\int_{t_0}^{t_1} c(t) dt $$

    From samples alone, it follows the linear-up log-down rule, also where a window ends between two of them. A short
    pulse of an output that is a function of the time itself, not of states, may be stepped over, whatever times are
    reported: make it a state, or let windows end in it.

    Attributes:
        output: Name of the observed value; the area has its unit times the unit of time.
        between: Start and end of the window, which the simulation, or the samples, must cover, else it is NaN; None for
            the range of the reported times.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> regimen = qsp.bolus(100.0, to="depot").every(24.0, doses=14)
        >>> area = qsp.endpoints.AUC("concentration", between=(0.0, 336.0))
        >>> area(qsp.simulate(patient, regimen, [336.0])).round(4)
        Array(463.0387, dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        return _area_of(solution, self, self.between)


class Average(AbstractEndpoint):
    """The average over time, AUC / (t1 - t0); over a dosing interval at steady state it is C_av.

    Attributes:
        output: Name of the observed value.
        between: Start and end of the window; None for the range of the reported times.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.Average("concentration", between=(0.0, 20.0))(solution).round(4)
        Array(0.4323, dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        start, stop = window_of(solution, self.between)
        return ratio(_area_of(solution, self, self.between), jnp.asarray(stop - start))


class Accumulation(AbstractEndpoint):
    """The accumulation ratio, AUC over a later dosing interval to AUC over the first.

    NaN where the first area is zero.

    Attributes:
        output: Name of the observed value.
        first: Start and end of the first dosing interval.
        last: Start and end of the later dosing interval.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose.every(10.0, doses=2), [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.Accumulation("concentration", first=(0.0, 10.0), last=(10.0, 20.0))(solution).round(4)
        Array(1.3679, dtype=float64)
    """

    output: str = eqx.field(static=True)
    first: tuple[Scalar, Scalar] = eqx.field(converter=as_window, kw_only=True)
    last: tuple[Scalar, Scalar] = eqx.field(converter=as_window, kw_only=True)

    def __check_init__(self) -> None:
        check_window("first", self.first)
        check_window("last", self.last)

    def __call__(self, solution: Solution) -> Scalar:
        return ratio(_area_of(solution, self, self.last), _area_of(solution, self, self.first))


class Trough(AbstractEndpoint):
    """The value at the end of a dosing interval, before the next dose.

    From samples alone, it is extrapolated, by the linear-up log-down rule, from the last two samples in the half-open
    interval [t0, t1), so the dose at t1 never enters; exact for an exponential decay, else of second order in the
    sample spacing. NaN with fewer than two samples there, or if t1 is further from the last one than the two are apart:
    sample near the end.

    Attributes:
        output: Name of the observed value.
        between: Times of a dose and of the next one.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose.every(10.0, doses=3), [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.Trough("concentration", between=(10.0, 20.0))(solution).round(4)
        Array(0.5032, dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] = eqx.field(converter=as_window)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Before(self.output, *self.between))
        samples = samples_of(solution, self.output)
        times, values = samples.times, samples.values
        start, end = self.between
        before = samples.real & (times >= start) & (times < end - samples.rounding)
        last = _last(before)
        earlier = before & (times < times[last])
        first = _last(earlier)
        span = times[last] - times[first]
        defined = earlier.any() & (end - times[last] <= (1 + 1e-6) * span)  # equal spacing passes despite rounding
        beyond = (end - times[last]) / jnp.where(defined, span, 1.0)
        beyond = jnp.where(defined, beyond, 0.0)
        falls, decay = _decay(values[first], values[last])
        line = values[last] + beyond * (values[last] - values[first])
        value = jnp.where(falls, values[last] * jnp.exp(-decay * beyond), line)
        return jnp.where(defined, value, jnp.nan)


class HalfLife(AbstractEndpoint):
    """The terminal half-life, ln 2 / lambda_z, with lambda_z minus the slope of ln c against time by least squares.

    The slope uses the last `points` positive samples after Tmax (excluding that at Tmax), or all positive samples of a
    window. NaN if there are fewer, or if they do not fall.

    Attributes:
        output: Name of the observed value.
        points: Number of samples of the slope, at least 2; all should lie in the terminal phase, after the last dose.
        between: First and last time of the slope, both included, instead of `points`; at least two samples.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.HalfLife("concentration")(solution).round(4)
        Array(6.9315, dtype=float64)
    """

    output: str = eqx.field(static=True)
    points: int = eqx.field(static=True, default=3)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_whole("points", self.points, 2)
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        samples = samples_of(solution, self.output)
        if self.between is None:
            return math.log(2.0) * _terminal_time(samples, self.points)
        chosen = inside(samples, self.between)
        time = _time_constant(samples, chosen & _positive(samples.values), 2)
        return math.log(2.0) * jnp.where(jnp.any(chosen & jnp.isnan(samples.values)), jnp.nan, time)


class AUCInfinity(AbstractEndpoint):
    """The area under the curve from the first sample to infinity.

    $$ AUC_{0-t_{last}} + c(t_{last}) / \\lambda_z $$

    The first part is that of `AUC`; t_last is the time of the last positive sample and lambda_z as in `HalfLife`. 0
    where nothing is positive.

    Attributes:
        output: Name of the observed value; the area has its unit times the unit of time.
        points: Number of samples of the terminal slope, at least 2.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.AUCInfinity("concentration")(solution).round(4)
        Array(10., dtype=float64)
    """

    output: str = eqx.field(static=True)
    points: int = eqx.field(static=True, default=3)

    def __check_init__(self) -> None:
        check_whole("points", self.points, 2)

    def __call__(self, solution: Solution) -> Scalar:
        observed, beyond = _areas_to_infinity(solution, self)
        return observed + beyond


class ExtrapolatedShare(AbstractEndpoint):
    """The fraction of `AUCInfinity` that lies beyond the last positive sample.

    $$ (c(t_{last}) / \\lambda_z) / AUC_{0-\\infty} $$

    Above 0.2 the area to infinity is usually not reported. NaN where nothing is positive.

    Attributes:
        output: Name of the observed value.
        points: Number of samples of the terminal slope, at least 2.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.ExtrapolatedShare("concentration")(solution).round(4)
        Array(0.1353, dtype=float64)
    """

    output: str = eqx.field(static=True)
    points: int = eqx.field(static=True, default=3)

    def __check_init__(self) -> None:
        check_whole("points", self.points, 2)

    def __call__(self, solution: Solution) -> Scalar:
        observed, beyond = _areas_to_infinity(solution, self)
        return ratio(beyond, observed + beyond)


def _area(parts: Segments) -> Array:
    first, last = parts.first, parts.last
    line = first + 0.5 * (parts.start + parts.end) * (last - first)
    falls, decay = _decay(first, last)
    average = first * jnp.exp(-decay * parts.start) * _mean_decay(decay * (parts.end - parts.start))
    return parts.total(parts.width * jnp.where(falls, average, line))


def _area_of(solution: Solution, endpoint: Any, between: tuple[Scalar, Scalar] | None) -> Array:
    """Return the area of a window: integrated with the model, or by the rule for samples."""
    if integrated(solution, endpoint):
        return ask(solution, Area(endpoint.output, *window_of(solution, between)))
    return _area(segments(samples_of(solution, endpoint.output), between))


def _areas_to_infinity(solution: Solution, endpoint: Any) -> tuple[Array, Array]:
    samples, points = samples_of(solution, endpoint.output), endpoint.points
    times, values, real, _ = samples
    positive = real & _positive(values)
    last = _last(positive)
    nothing = ~positive.any() & ~jnp.any(jnp.isnan(values))
    observed = _area_of(solution, endpoint, (times[0], times[last]))
    time = _terminal_time(samples, points)
    known = ~jnp.isnan(time)
    beyond = jnp.where(known, values[last] * jnp.where(known, time, 0.0), jnp.nan)
    return jnp.where(nothing, 0.0, observed), jnp.where(nothing, 0.0, beyond)


def _terminal_time(samples: Samples, points: int) -> Array:
    """Return 1 / lambda_z from the last positive samples after the peak."""
    times, values, real, _ = samples
    after = real & _positive(values) & (times > times[argmax_first(values)])
    remaining = jnp.sum(after) - jnp.cumsum(after)
    time = _time_constant(samples, after & (remaining < points), points)
    return jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, time)


def _time_constant(samples: Samples, chosen: Array, least: int) -> Array:
    """Return -1 / (slope of ln c against time by least squares); NaN if there are too few samples or they rise."""
    count = jnp.maximum(jnp.sum(chosen), 1).astype(samples.times.dtype)
    logs = jnp.log(jnp.where(chosen, samples.values, 1.0))
    logs = logs - jax.lax.stop_gradient(logs[_last(chosen)])  # a flat curve has the slope 0 to the last bit
    times = samples.times - jnp.sum(jnp.where(chosen, samples.times, 0.0)) / count
    times = jnp.where(chosen, times, 0.0)
    fall = -jnp.sum(times * logs)
    defined = (jnp.sum(chosen) >= least) & (fall > 0)
    return jnp.where(defined, jnp.sum(times**2) / jnp.where(defined, fall, 1.0), jnp.nan)


def _decay(first: Array, last: Array) -> tuple[Array, Array]:
    """Return whether the curve falls between positive values, and ln(first / last) where it does, else 0."""
    falls = (first > last) & _positive(last)
    return falls, jnp.log(jnp.where(falls, first, 1.0)) - jnp.log(jnp.where(falls, last, 1.0))


def _mean_decay(x: Array) -> Array:
    """Return (1 - exp(-x)) / x, the mean of exp(-s) for s in (0, x), accurate with its derivative down to x = 0."""
    small = x < 0.1
    half_squared = jnp.where(small, 0.5 * x, 0.0) ** 2
    sinh_ratio = 1.0 + half_squared / 6.0 * (1.0 + half_squared / 20.0 * (1.0 + half_squared / 42.0))
    large = jnp.where(small, 1.0, x)
    return jnp.where(small, jnp.exp(-0.5 * x) * sinh_ratio, -jnp.expm1(-large) / large)


def _positive(values: Array) -> Array:
    return values >= jnp.finfo(values.dtype).tiny


def _last(mask: Array) -> Array:
    return mask.size - 1 - first_true(mask[::-1])
