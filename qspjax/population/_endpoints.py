"""Endpoints of a trial: one number per patient, computed from the solution of that patient.

Every endpoint is a function of one patient's `Solution`; give it to `simulate_cohort(..., reduce=endpoint)`, or to a
trial. It works under `jit`, `vmap` and `grad`. It is NaN where it is not defined: for a failed patient (whose samples
are NaN), a time outside the samples, a window without enough of them.

Exposure (areas, extremes, times above a level, troughs, values between the reported times) is integrated with the
model, to the tolerance of the method and with derivatives, whatever times the solution reports: the patient is solved
again (`_exposure`), which costs another solve for all endpoints of a trial together. If a solution has only samples
(one made by hand, or that of a whole cohort), these endpoints are computed from its samples, by the rules that each
states, with a warning. `_nca` holds areas, terminal slopes and troughs.
"""

import abc
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._arrays import argmax_first
from qspjax._checks import check_finite, check_instance, check_no_unit, check_number, check_one_of, concrete, refuse
from qspjax._exposure import At, Beyond, Extreme, ask
from qspjax._parameters import as_parameter
from qspjax._solution import Solution
from qspjax._types import Scalar


class AbstractEndpoint(eqx.Module):
    """A number that a trial reports for each patient.

    Example:
        >>> class Last(AbstractEndpoint):
        ...     output: str = eqx.field(static=True)
        ...     def __call__(self, solution):
        ...         return solution.observed[self.output][-1]
        >>> response = Responder(Last("free_ige"), at_most=25.0)
    """

    @abc.abstractmethod
    def __call__(self, solution: Solution) -> Scalar:
        """Return the endpoint of one patient, a scalar; NaN where it is not defined.

        Args:
            solution: The solution of one patient, with `ts` and each of `observed` of shape (times,).

        Raises:
            ValueError: If the solution has no such output, or is not that of one patient.
        """


def as_window(window: object) -> Any:
    """Store a pair of times as two arrays; leave None and placeholders alone."""
    return tuple(as_parameter(time) for time in window) if isinstance(window, (tuple, list)) else window


def check_window(argument: str, window: object) -> None:
    """Check that a window is two times in order; None passes."""
    must = "be two times, start before end"
    if window is None:
        return
    check_no_unit(argument, window)
    if not isinstance(window, tuple):
        refuse(argument, must, window)
    times = [concrete(time) for time in window]
    known = [time for time in times if time is not None]
    text = any(isinstance(time, str) for time in window)
    if text or len(window) != 2 or (len(known) == 2 and not (known[0] < known[1]).all()):
        refuse(argument, must, tuple(w if t is None else t.tolist() for w, t in zip(window, times, strict=True)))


def check_scalar(argument: str, value: object) -> None:
    """Check that an argument of an endpoint is a finite number."""
    check_number(argument, value)
    check_finite(argument, value)


class Value(AbstractEndpoint):
    """The value at a time c(t), that of the model between the reported times too.

    NaN before the start and after the last reported time. At the time of a dose it is the value after the dose, so the
    trough of an output that jumps is `Trough`. From samples alone, it is linear between them:

    $$ c(t_i) + \\frac{t - t_i}{t_{i+1} - t_i} (c(t_{i+1}) - c(t_i)) $$

    Attributes:
        output: Name of the observed value.
        at: Time, in the unit of the solution.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 24.0])
        >>> qsp.endpoints.Value("concentration", at=10.0)(solution).round(4)
        Array(0.3679, dtype=float64)
    """

    output: str = eqx.field(static=True)
    at: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        check_scalar("at", self.at)

    def __call__(self, solution: Solution) -> Scalar:
        return _value(solution, self.output, self.at)


class ChangeFromBaseline(AbstractEndpoint):
    """The change since baseline, c(at) - c(baseline).

    Attributes:
        output: Name of the observed value.
        at: Time, in the unit of the solution.
        baseline: Time of the baseline; the first dose may be there, since it changes no response at once.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.ChangeFromBaseline("concentration", at=10.0)(solution).round(4)
        Array(-0.6321, dtype=float64)
    """

    output: str = eqx.field(static=True)
    at: Scalar = eqx.field(converter=as_parameter)
    baseline: Scalar = eqx.field(converter=as_parameter, default=0.0)

    def __check_init__(self) -> None:
        check_scalar("at", self.at)
        check_scalar("baseline", self.baseline)

    def __call__(self, solution: Solution) -> Scalar:
        return _value(solution, self.output, self.at) - _value(solution, self.output, self.baseline)


class RelativeChange(AbstractEndpoint):
    """The change since baseline as a fraction of the baseline, c(at) / c(baseline) - 1.

    -0.9 is a suppression of 90 %. NaN where the baseline is zero.

    Attributes:
        output: Name of the observed value.
        at: Time, in the unit of the solution.
        baseline: Time of the baseline.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.RelativeChange("concentration", at=20.0)(solution).round(4)
        Array(-0.8647, dtype=float64)
    """

    output: str = eqx.field(static=True)
    at: Scalar = eqx.field(converter=as_parameter)
    baseline: Scalar = eqx.field(converter=as_parameter, default=0.0)

    def __check_init__(self) -> None:
        check_scalar("at", self.at)
        check_scalar("baseline", self.baseline)

    def __call__(self, solution: Solution) -> Scalar:
        before = _value(solution, self.output, self.baseline)
        return ratio(_value(solution, self.output, self.at) - before, before)


class Cmax(AbstractEndpoint):
    """The largest value, max c(t), wherever it is: at a dose, at an end of the window or where the slope is zero.

    From samples alone, it is the largest of them.

    Attributes:
        output: Name of the observed value.
        between: First and last time of the window, both included; None for the range of the reported times. Where the
            output jumps at a dose, end the window before the next dose, whose peak is otherwise in it.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> regimen = qsp.bolus(300.0, to="central", at=1.0)
        >>> peak = qsp.endpoints.Cmax("concentration", between=(0.0, 24.0))
        >>> peak(qsp.simulate(patient, regimen, [24.0])).round(3)
        Array(10., dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Extreme(self.output, 1, *window_of(solution, self.between)))[0]
        samples = samples_of(solution, self.output)
        chosen = inside(samples, self.between)
        return jnp.where(chosen.any(), jnp.max(jnp.where(chosen, samples.values, -jnp.inf)), jnp.nan)


class Cmin(AbstractEndpoint):
    """The smallest value, min c(t), wherever it is; just before a dose too, so that it is the trough of an interval.

    From samples alone, it is the smallest of them.

    Attributes:
        output: Name of the observed value.
        between: First and last time of the window, both included; None for the range of the reported times.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.Cmin("concentration", between=(0.0, 10.0))(solution).round(4)
        Array(0.3679, dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Extreme(self.output, -1, *window_of(solution, self.between)))[0]
        samples = samples_of(solution, self.output)
        chosen = inside(samples, self.between)
        return jnp.where(chosen.any(), jnp.min(jnp.where(chosen, samples.values, jnp.inf)), jnp.nan)


class Tmax(AbstractEndpoint):
    """The time of the largest value, the first of several.

    From samples alone, it is the time of the largest of them, which has no derivative.

    Attributes:
        output: Name of the observed value.
        between: First and last time of the window, both included, as in `Cmax`; None for the range of the reported
            times. The time returned counts from the origin of the solution, not from the start of the window.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.Tmax("concentration")(solution).round(4)
        Array(0., dtype=float64)
    """

    output: str = eqx.field(static=True)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Extreme(self.output, 1, *window_of(solution, self.between)))[1]
        samples = samples_of(solution, self.output)
        chosen = inside(samples, self.between)
        defined = chosen.any() & ~jnp.any(chosen & jnp.isnan(samples.values))
        return jnp.where(defined, samples.times[argmax_first(jnp.where(chosen, samples.values, -jnp.inf))], jnp.nan)


class TimeAbove(AbstractEndpoint):
    """The time that an output spends above a threshold; every crossing is located.

    From samples alone, crossings are linear between them, an error of second order in their spacing. NaN if the window
    is not covered. Where the output only touches the threshold, the derivative is that of no time above it.

    Attributes:
        output: Name of the observed value.
        threshold: In the unit of the output.
        between: Start and end of the window; None for the range of the reported times.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> above = qsp.endpoints.TimeAbove("concentration", threshold=1.0, between=(0.0, 48.0))
        >>> above(qsp.simulate(patient, qsp.bolus(300.0, to="central"), [48.0])).round(4)
        Array(23.0259, dtype=float64)
    """

    output: str = eqx.field(static=True)
    threshold: Scalar = eqx.field(converter=as_parameter)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_scalar("threshold", self.threshold)
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Beyond(self.output, 1, self.threshold, *window_of(solution, self.between)))
        parts = segments(samples_of(solution, self.output), self.between)
        return _time_positive(parts, parts.first - self.threshold, parts.last - self.threshold)


class TimeBelow(AbstractEndpoint):
    """The time that an output spends below a threshold, the counterpart of `TimeAbove`.

    Attributes:
        output: Name of the observed value.
        threshold: In the unit of the output.
        between: Start and end of the window; None for the range of the reported times.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(30.0, to="central")
        >>> solution = qsp.simulate(patient, dose, [0.0, 5.0, 10.0, 20.0])
        >>> qsp.endpoints.TimeBelow("concentration", threshold=0.5)(solution).round(4)
        Array(13.0685, dtype=float64)
    """

    output: str = eqx.field(static=True)
    threshold: Scalar = eqx.field(converter=as_parameter)
    between: tuple[Scalar, Scalar] | None = eqx.field(converter=as_window, default=None)

    def __check_init__(self) -> None:
        check_scalar("threshold", self.threshold)
        check_window("between", self.between)

    def __call__(self, solution: Solution) -> Scalar:
        if integrated(solution, self):
            return ask(solution, Beyond(self.output, -1, self.threshold, *window_of(solution, self.between)))
        parts = segments(samples_of(solution, self.output), self.between)
        threshold = jnp.asarray(self.threshold)
        return _time_positive(parts, threshold - parts.first, threshold - parts.last)


class Responder(AbstractEndpoint):
    """1 for a patient whose endpoint meets a threshold, else 0; NaN where the endpoint is. It has no derivative.

    Its mean over patients is the fraction of responders.

    Attributes:
        endpoint: The endpoint to judge.
        at_most: Largest value of a responder, in the unit of the endpoint. Give exactly one of the two.
        at_least: Smallest value of a responder.

    Example:
        >>> suppressed = Responder(Value("free_ige", at=112.0), at_most=25.0)
    """

    endpoint: AbstractEndpoint
    at_most: Scalar | None = eqx.field(converter=as_parameter, default=None, kw_only=True)
    at_least: Scalar | None = eqx.field(converter=as_parameter, default=None, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("endpoint", self.endpoint, AbstractEndpoint, "an endpoint")
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(
                "Exactly one of the arguments `at_most` and `at_least` must be given, but "
                + ("none is." if self.at_most is None else "both are.")
            )
        check_scalar("at_most" if self.at_least is None else "at_least", self._bound())

    def __call__(self, solution: Solution) -> Scalar:
        value = jnp.asarray(self.endpoint(solution))
        met = value <= self._bound() if self.at_least is None else value >= self._bound()
        return jnp.where(jnp.isnan(value), jnp.nan, met.astype(value.dtype))

    def _bound(self) -> Any:
        return self.at_most if self.at_least is None else self.at_least


def integrated(solution: Solution, endpoint: AbstractEndpoint) -> bool:
    """Return whether exposure can be integrated with the model; warn if there are only samples."""
    if solution.source is None:
        warnings.warn(
            f"`{type(endpoint).__name__}` is computed from the samples alone: this solution does not know its model. "
            "It was made by hand, or is that of many patients (there, use `simulate_cohort(..., reduce=endpoint)`).",
            stacklevel=3,
        )
        return False
    return True


def window_of(solution: Solution, between: tuple[Scalar, Scalar] | None) -> tuple[Scalar, Scalar]:
    """Return a window of one patient: the range of the reported times for None."""
    ts = jnp.asarray(solution.ts)
    if ts.ndim != 1:
        refuse("solution", "be that of one patient (use `jax.vmap` for many)", f"with times of shape {ts.shape}")
    return (ts[0], jnp.max(jnp.where(jnp.isfinite(ts), ts, -jnp.inf))) if between is None else between


class Samples(NamedTuple):
    """The samples of one output of one patient; padding repeats the last sample."""

    times: Array
    values: Array
    real: Array
    rounding: Array


def samples_of(solution: Solution, output: str) -> Samples:
    """Take the samples of an output from the solution of one patient, with padding replaced."""
    check_one_of("output", output, solution.observed, "an observed value")
    ts, values = jnp.asarray(solution.ts), jnp.asarray(solution.observed[output])
    if ts.ndim != 1 or values.shape != ts.shape:
        refuse("solution", "be that of one patient (use `jax.vmap` for many)", f"of shape {values.shape}")
    real = jnp.isfinite(ts)
    last = jnp.maximum(jnp.sum(real) - 1, 0)
    times = jnp.where(real, ts, jnp.where(real[0], ts[last], 0.0))
    values = jnp.where(real, values, jnp.where(real[0], values[last], jnp.nan))
    rounding = 16.0 * jnp.finfo(ts.dtype).eps * jnp.max(jnp.abs(times))
    return Samples(times, values, real, rounding)


def _value(solution: Solution, output: str, at: Scalar) -> Array:
    """Return the value of an output at a time: as reported, or else solved for, linear between samples alone."""
    samples = samples_of(solution, output)
    sampled = value_at(samples, at)
    reported = jnp.any(samples.real & (jnp.abs(samples.times - at) <= samples.rounding))
    fixed = concrete(at) is not None and concrete(reported) is not None
    if solution.source is None or (fixed and reported):
        return sampled
    solved = ask(solution, At(output, jnp.asarray(at)))
    # where it is reported, that number, with the slopes of what is solved
    return jnp.where(reported, jax.lax.stop_gradient(sampled) + (solved - jax.lax.stop_gradient(solved)), solved)


def value_at(samples: Samples, at: Scalar) -> Array:
    """Interpolate linearly; exact at a sample (the last of equal times), NaN outside the samples."""
    times, values, _, rounding = samples
    within = (at >= times[0] - rounding) & (at <= times[-1] + rounding)
    at = jnp.clip(at, times[0], times[-1])
    left = jnp.maximum(jnp.sum(times <= at) - 1, 0)
    right = jnp.minimum(left + 1, times.size - 1)
    span = times[right] - times[left]
    weight = (at - times[left]) / jnp.where(span > 0, span, 1.0)
    after = jnp.where((weight > 0) | jnp.isfinite(values[right]), values[right], values[left])
    return jnp.where(within, values[left] + weight * (after - values[left]), jnp.nan)


def inside(samples: Samples, between: tuple[Scalar, Scalar] | None) -> Array:
    """Return which samples are real and in the window, ends included (all real ones for None)."""
    if between is None:
        return samples.real
    times, rounding = samples.times, samples.rounding
    return samples.real & (times >= between[0] - rounding) & (times <= between[1] + rounding)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with NaN (and no NaN in the gradient) where the denominator is zero or either is NaN."""
    defined = ~jnp.isnan(numerator) & (jnp.abs(denominator) > 0)
    quotient = jnp.where(defined, numerator, 0.0) / jnp.where(defined, denominator, 1.0)
    return jnp.where(defined, quotient, jnp.nan)


class Segments(NamedTuple):
    """The pieces between neighbouring samples, cut to a window; those outside it have width 0 and harmless values.

    `width` is the length of the part in the window, which runs from fraction `start` to fraction `end` of the piece;
    `first` and `last` are the values at the two samples.
    """

    width: Array
    start: Array
    end: Array
    first: Array
    last: Array
    covered: Array

    def total(self, parts: Array) -> Array:
        """Add up a quantity of every piece; NaN if the samples do not cover the window."""
        return jnp.where(self.covered, jnp.sum(parts), jnp.nan)


def segments(samples: Samples, between: tuple[Scalar, Scalar] | None) -> Segments:
    """Cut the range between the samples to a window (the whole range for None)."""
    times, values, _, rounding = samples
    begin, stop = (times[0], times[-1]) if between is None else between
    left, right = times[:-1], times[1:]
    start = jnp.where(left > begin, left, begin)
    end = jnp.where(right < stop, right, stop)
    used = end > start
    span = jnp.where(used, right - left, 1.0)
    return Segments(
        width=jnp.where(used, end - start, 0.0),
        start=jnp.where(used, (start - left) / span, 0.0),
        end=jnp.where(used, (end - left) / span, 1.0),
        first=jnp.where(used, values[:-1], 1.0),
        last=jnp.where(used, values[1:], 1.0),
        covered=jnp.asarray((stop > begin) & (begin >= times[0] - rounding) & (stop <= times[-1] + rounding)),
    )


def _time_positive(parts: Segments, first: Array, last: Array) -> Array:
    at_start = first + parts.start * (last - first)
    at_end = first + parts.end * (last - first)
    crosses = (at_start > 0) != (at_end > 0)
    positive = jnp.maximum(at_start, 0.0) + jnp.maximum(at_end, 0.0)
    share = positive / jnp.where(crosses, jnp.abs(at_start) + jnp.abs(at_end), 1.0)
    uncrossed = (at_start + at_end > 0).astype(share.dtype)
    share = jnp.where(crosses, share, uncrossed)
    return parts.total(parts.width * jnp.where(jnp.isnan(first + last), jnp.nan, share))
