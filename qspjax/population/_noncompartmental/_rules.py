"""Rules of a noncompartmental analysis: values below the limit, and the samples of the terminal slope."""

import abc
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from qspjax._checks import check_finite, check_minimum, check_whole, refuse


@dataclasses.dataclass(frozen=True)
class BelowLimit:
    """The value that replaces a sample below the limit of quantification, or None to leave the sample out.

    Attributes:
        first: That before the first sample above the limit.
        middle: That between samples above the limit.
        last: That after the last of them.

    Example:
        >>> BelowLimit()
        BelowLimit(first=0.0, middle=None, last=0.0)
    """

    first: float | None = 0.0
    middle: float | None = None
    last: float | None = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                check_finite(field.name, value)
                check_minimum(field.name, value, 0.0)

    def applied(self, times: np.ndarray, values: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return times and values of one profile, with samples below the limit replaced or left out."""
        measured = np.flatnonzero(~below)
        first, last = (measured[0], measured[-1]) if measured.size else (times.size, times.size)
        index = np.arange(times.size)
        parts = (index < first, (index >= first) & (index <= last), index > last)
        values, included = values.copy(), np.ones(times.shape, dtype=bool)
        for part, rule in zip(parts, (self.first, self.middle, self.last), strict=True):
            if rule is None:
                included &= ~(part & below)
            else:
                values[part & below] = rule
        return times[included], values[included]


class Line(NamedTuple):
    """A terminal slope: lambda_z, ln of its value at time 0, r2, adjusted r2, and which samples it uses."""

    rate: float
    intercept: float
    r2: float
    adjusted: float
    chosen: np.ndarray


class AbstractTerminal(abc.ABC):
    """The choice of samples from which the terminal slope is estimated.

    Example:
        >>> isinstance(LastPoints(3), AbstractTerminal)
        True
    """

    @abc.abstractmethod
    def line(self, times: np.ndarray, values: np.ndarray) -> Line | str:
        """Return the slope through positive samples up to the last one, or why there is none."""


@dataclasses.dataclass(frozen=True)
class BestFit(AbstractTerminal):
    """The last samples whose logarithms lie best on a falling line, as PKNCA and Phoenix choose them.

    Lines through the last 3, 4, ... samples after Tmax are compared by

    $$ r^2_{adj} = 1 - (1 - r^2) (n - 1) / (n - 2) $$

    and of the falling ones within `tolerance` of the best the one with most samples is taken.

    Reference: Gabrielsson and Weiner, Methods Mol Biol 929:377 (2012), doi:10.1007/978-1-62703-050-2_16.

    Attributes:
        points: Least number of samples, at least 3.
        tolerance: How much worse adjusted r2 may be for the sake of more samples.
        peak: Whether the sample at Tmax may be among them.

    Example:
        >>> time = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
        >>> line = BestFit().line(time, 5.0 * np.exp(-0.2 * time))
        >>> round(line.rate, 6), line.chosen
        (0.2, array([False,  True,  True,  True,  True]))
    """

    points: int = 3
    tolerance: float = 1e-4
    peak: bool = False

    def __post_init__(self) -> None:
        check_whole("points", self.points, 3)
        check_minimum("tolerance", self.tolerance, 0.0)

    def line(self, times: np.ndarray, values: np.ndarray) -> Line | str:
        positive = np.flatnonzero(values > 0)
        peak = int(np.argmax(values)) if values.size else 0
        usable = positive[positive >= peak + (not self.peak)]
        if usable.size < self.points:
            return f"fewer than {self.points} positive samples after Tmax, so no terminal slope"
        lines = [_line(times, values, usable[-n:]) for n in range(self.points, usable.size + 1)]
        best = max(line.adjusted for line in lines)
        falling = [line for line in lines if line.rate > 0 and line.adjusted > best - self.tolerance - 1e-12]
        return falling[-1] if falling else "no falling terminal slope"


@dataclasses.dataclass(frozen=True)
class LastPoints(AbstractTerminal):
    """The last positive samples, a given number of them.

    Attributes:
        points: Number of samples, at least 2.

    Example:
        >>> round(LastPoints(3).line(np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 8.0, 4.0, 2.0])).rate, 6)
        0.693147
    """

    points: int

    def __post_init__(self) -> None:
        check_whole("points", self.points, 2)

    def line(self, times: np.ndarray, values: np.ndarray) -> Line | str:
        usable = np.flatnonzero(values > 0)
        if usable.size < self.points:
            return f"fewer than {self.points} positive samples, so no terminal slope"
        return _falling(_line(times, values, usable[-self.points :]))


@dataclasses.dataclass(frozen=True)
class Window(AbstractTerminal):
    """All positive samples between two times after the dose, both included.

    Attributes:
        start: First time after the dose.
        end: Last time after the dose.

    Example:
        >>> round(Window(1.0, 3.0).line(np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 8.0, 4.0, 2.0])).rate, 6)
        0.693147
    """

    start: float
    end: float = math.inf

    def __post_init__(self) -> None:
        if not self.start < self.end:
            refuse("end", f"be after `start` = {self.start:g}", self.end)

    def line(self, times: np.ndarray, values: np.ndarray) -> Line | str:
        usable = np.flatnonzero((values > 0) & (times >= self.start) & (times <= self.end))
        if usable.size < 2:
            return f"fewer than 2 positive samples from {self.start:g} to {self.end:g}, so no terminal slope"
        return _falling(_line(times, values, usable))


def _falling(line: Line) -> Line | str:
    return line if line.rate > 0 else "no falling terminal slope"


def _line(times: np.ndarray, values: np.ndarray, indices: np.ndarray) -> Line:
    t, y = times[indices], np.log(values[indices])
    centred, rise = t - t.mean(), y - y.mean()
    slope = float(centred @ rise / (centred @ centred))
    total = float(rise @ rise)
    residual = rise - slope * centred
    r2 = 1.0 - float(residual @ residual) / total if total > 0 else 0.0
    adjusted = 1.0 - (1.0 - r2) * (t.size - 1) / (t.size - 2) if t.size > 2 else math.nan
    chosen = np.zeros(times.shape, dtype=bool)
    chosen[indices] = True
    return Line(-slope, float(y.mean() - slope * t.mean()), r2, adjusted, chosen)
