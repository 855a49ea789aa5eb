"""Noncompartmental parameters of one profile: the samples after one dose, until the next.

Areas are linear where the curve rises or reaches 0, logarithmic where it falls (linear-up log-down). With
x = ln(c1 / c2) and h = t2 - t1 a falling piece has

    AUC = c1 h (1 - exp(-x)) / x
    AUMC = t1 AUC + c1 h^2 (1 - (1 + x) exp(-x)) / x^2

Beyond the last positive sample, C_last at T_last, the curve goes on as C_last exp(-lambda_z (t - T_last)).

Reference: Gabrielsson and Weiner, Methods Mol Biol 929:377 (2012), doi:10.1007/978-1-62703-050-2_16; Denney, Duvvuri
and Buckeridge, J Pharmacokinet Pharmacodyn 42:S65 (2015), doi:10.1007/s10928-015-9432-2 (PKNCA).
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from qspjax.population._noncompartmental._rules import AbstractTerminal, BelowLimit, Line

PARAMETERS = (
    ("Cmax", "Tmax", "Cmin", "Clast", "Tlast", "C0", "lambda_z", "half_life", "r2", "r2_adjusted")
    + ("lambda_z_points", "lambda_z_start", "lambda_z_end", "span", "AUClast", "AUCinf", "AUCinf_pred", "extrapolated")
    + ("AUMClast", "AUMCinf", "MRT", "CL", "Vz", "Vss", "tau", "AUCtau", "Cavg", "fluctuation")
)
"""The parameters of a profile, in the order of the table."""

_TERMS = [(-1.0) ** n / (math.factorial(n) * (n + 2)) for n in range(14)]


@dataclasses.dataclass(frozen=True)
class Profile:
    """The samples of one subject after one dose; times count from the dose.

    Attributes:
        time: Times of the samples, missing ones left out.
        value: The measured values; any number where they are below the limit.
        below: Whether each sample is below the limit of quantification.
        amount: The dose, NaN without one.
        duration: The duration of the infusion, 0 for a bolus, NaN if it is not known.
        intravenous: Whether the dose is given into the blood.
        before: The value just before the dose, NaN if it is not known.
        tau: Time to the next dose, inf after the last.
        first: Whether it is the first dose.
        steady: Whether the dose is at steady state.
    """

    time: np.ndarray
    value: np.ndarray
    below: np.ndarray
    amount: float = math.nan
    duration: float = 0.0
    intravenous: bool = False
    before: float = 0.0
    tau: float = math.inf
    first: bool = True
    steady: bool = False


class Curve(NamedTuple):
    """A profile after the rules: values from time 0 on, the terminal slope, and notes on what could not be computed.

    The first `added` values (0 or 1) are not samples: the value at the dose, if no sample was taken then.
    """

    time: np.ndarray
    value: np.ndarray
    line: Line | None
    notes: list[str]
    added: int = 0

    @property
    def last(self) -> int:
        """The index of the last positive sample, -1 without one."""
        positive = np.flatnonzero(self.value > 0)
        return int(positive[-1]) if positive.size else -1


def curve_of(profile: Profile, below: BelowLimit, terminal: AbstractTerminal) -> Curve:
    """Return the curve of a profile: with values below the limit replaced, a value at time 0, and a slope fitted."""
    time, value = below.applied(profile.time, profile.value, profile.below)
    notes = [f"{bad:g} taken as below the limit" for bad in profile.value[profile.value < 0]]
    if not time.size:
        return Curve(time, value, None, [*notes, "no sample"])
    fitted = terminal.line(time, value)
    line = None if isinstance(fitted, str) else fitted
    if isinstance(fitted, str):
        notes.append(fitted)
    added = int(time[0] > 0)
    if added:
        start = _back_extrapolated(time, value) if _is_bolus(profile) else profile.before
        if math.isnan(start):
            notes.append("no sample at the dose, so no areas")
        time, value = np.concatenate([[0.0], time]), np.concatenate([[start], value])
        if line is not None:
            line = line._replace(chosen=np.concatenate([[False], line.chosen]))
    return Curve(time, value, line, notes, added)


def parameters_of(profile: Profile, curve: Curve) -> dict[str, float]:
    """Return the parameters of a profile by name, NaN where one is not defined."""
    parameters: dict[str, float] = dict.fromkeys(PARAMETERS, math.nan)
    time, value, line = curve.time, curve.value, curve.line
    if not time.size:
        return parameters
    peak = curve.added + int(np.argmax(value[curve.added :]))
    parameters |= {"Cmax": value[peak], "Tmax": time[peak], "Cmin": value[curve.added :].min()}
    if _is_bolus(profile):
        parameters["C0"] = value[0]
    last = curve.last
    upto = slice(0, last + 1)
    area, moment = (0.0, 0.0) if last < 0 else (p.sum() for p in pieces(time[upto], value[upto]))
    parameters |= {"AUClast": area, "AUMClast": moment}
    if last >= 0:
        parameters |= {"Clast": value[last], "Tlast": time[last]}
    if line is not None and last >= 0:
        parameters |= _terminal(line, time, value[last], time[last], area, moment)
    parameters |= _interval(profile, curve)
    return parameters | _disposition(profile, parameters)


def _is_bolus(profile: Profile) -> bool:
    return profile.intravenous and profile.duration == 0 and profile.amount > 0


def _terminal(
    line: Line, time: np.ndarray, c_last: float, t_last: float, area: float, moment: float
) -> dict[str, float]:
    rate, chosen = line.rate, np.flatnonzero(line.chosen)
    start, end = float(time[chosen[0]]), float(time[chosen[-1]])
    predicted = math.exp(line.intercept - rate * t_last)
    half_life = math.log(2.0) / rate
    return {
        "lambda_z": rate,
        "half_life": half_life,
        "r2": line.r2,
        "r2_adjusted": line.adjusted,
        "lambda_z_points": float(chosen.size),
        "lambda_z_start": start,
        "lambda_z_end": end,
        "span": (end - start) / half_life,
        "AUCinf": area + c_last / rate,
        "AUCinf_pred": area + predicted / rate,
        "extrapolated": c_last / rate / (area + c_last / rate),
        "AUMCinf": moment + c_last * (t_last / rate + 1.0 / rate**2),
    }


def _interval(profile: Profile, curve: Curve) -> dict[str, float]:
    """Return the parameters of a dosing interval: its area, average and fluctuation."""
    tau = profile.tau
    if not math.isfinite(tau):
        return {}
    area = partial_area(curve, 0.0, tau)
    within = curve.value[curve.added :]
    average = area / tau
    return {
        "tau": tau,
        "AUCtau": area,
        "Cavg": average,
        "fluctuation": (within.max() - within.min()) / average if average > 0 else math.nan,
    }


def _disposition(profile: Profile, parameters: dict[str, float]) -> dict[str, float]:
    """Return clearance, volumes and mean residence time: by the area to infinity of a first dose, or at steady state.

    At steady state MRT = (AUMC_tau + tau AUC_(tau to infinity)) / AUC_tau - T / 2 needs areas of a curve that still
    holds earlier doses, so that only CL and Vz are given.
    """
    area = parameters["AUCtau"] if profile.steady else parameters["AUCinf"] if profile.first else math.nan
    if not area > 0:
        return {}
    clearance = profile.amount / area
    disposition = {"CL": clearance, "Vz": clearance / parameters["lambda_z"]}
    if not profile.steady:
        mean = parameters["AUMCinf"] / area - (0.5 * profile.duration if profile.intravenous else 0.0)
        disposition["MRT"] = mean
        if profile.intravenous:
            disposition["Vss"] = clearance * mean
    return disposition


def pieces(time: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area and the first moment between neighbouring samples, linear-up log-down."""
    first, last, start, h = value[:-1], value[1:], time[:-1], np.diff(time)
    falls = (last < first) & (last > 0)
    x = np.log(np.where(falls, first, 1.0) / np.where(falls, last, 1.0))
    decay = np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1.0), 1.0)
    area = h * np.where(falls, first * decay, 0.5 * (first + last))
    line = h * h * (first / 6.0 + last / 3.0)
    moment = start * area + np.where(falls, h * h * first * _mean_moment(x), line)
    return area, moment


def _mean_moment(x: np.ndarray) -> np.ndarray:
    """Return (1 - (1 + x) exp(-x)) / x^2, the mean of s exp(-x s) for s in (0, 1), by its series for small x."""
    small = x < 0.3
    near, far = np.where(small, x, 0.0), np.where(small, 1.0, x)
    series = np.polynomial.polynomial.polyval(near, _TERMS)
    return np.where(small, series, (-np.expm1(-far) - far * np.exp(-far)) / far**2)


def partial_area(curve: Curve, start: float, end: float) -> float:
    """Return the area from `start` to `end` after the dose, by the terminal slope beyond the last positive sample."""
    time, value, line, last = curve.time, curve.value, curve.line, curve.last
    if last < 0:
        return 0.0 if time.size and end <= time[-1] else math.nan
    observed, beyond = min(end, time[last]), 0.0
    if end > time[last] and line is not None:
        reach = max(start, time[last])
        decay = math.exp(-line.rate * (reach - time[last]))
        beyond = value[last] / line.rate * decay * -math.expm1(-line.rate * (end - reach))
    elif end > time[last]:
        if end > time[-1]:
            return math.nan
        observed = end
    if start >= observed:
        return beyond
    ends = np.array([start, observed])
    inner = (time > start) & (time < observed)
    times = np.concatenate([ends[:1], time[inner], ends[1:]])
    at = _interpolated(time, value, ends)
    values = np.concatenate([at[:1], value[inner], at[1:]])
    return float(pieces(times, values)[0].sum()) + beyond


def _interpolated(time: np.ndarray, value: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate by the rule of the areas."""
    right = np.clip(np.searchsorted(time, at, side="left"), 1, time.size - 1)
    left = right - 1
    share = (at - time[left]) / (time[right] - time[left])
    first, last = value[left], value[right]
    falls = (last < first) & (last > 0)
    ratio = np.where(falls, last, 1.0) / np.where(falls, first, 1.0)
    return np.where(falls, first * ratio**share, first + share * (last - first))


def _back_extrapolated(time: np.ndarray, value: np.ndarray) -> float:
    """Return C0 of a bolus: by the slope of the first two samples if they fall, else the first sample."""
    if time.size > 1 and 0 < value[1] < value[0]:
        slope = math.log(value[0] / value[1]) / (time[1] - time[0])
        return float(value[0] * math.exp(slope * time[0]))
    return float(value[0])
