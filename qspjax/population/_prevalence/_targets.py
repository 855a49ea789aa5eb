"""What is observed of a population, as linear functions of the weights of virtual patients.

    sum_i w_i g_k(x_i) = t_k,   sum_i w_i = 1

with the statistics x_i of patient i. Every target is one or several of these, so that all methods know all targets.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from qspjax._checks import check_above, check_finite, check_instance, check_number, check_one_of, refuse
from qspjax._types import Scalar

Values = Mapping[str, Float[np.ndarray, " patients"]]
"""Statistics of patients by name."""


class Moments(NamedTuple):
    """Linear functions of the weights, and what they should be.

    Attributes:
        names: What each is, in words.
        functions: g_k(x_i), shape (patients, moments).
        wanted: t_k, shape (moments,).
        scale: The error of each that counts as 1: its size for a mean, 1 for a share.
        weight: How much an error counts.
        power: What is shown of a moment: this power of it (1/2 for a standard deviation).
    """

    names: tuple[str, ...]
    functions: np.ndarray
    wanted: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    power: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """What each patient adds to the weighted error of each moment, (g_k(x_i) - t_k) weight_k / scale_k."""
        return (self.functions - self.wanted) * (self.weight / self.scale)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        functions: Sequence[np.ndarray],
        wanted: Sequence[float],
        *,
        weight: Scalar = 1.0,
        scale: float = 1.0,
    ) -> "Moments":
        """Return moments that are shown as they are, from one column each."""
        columns = np.stack([np.asarray(column, float) for column in functions], axis=1)
        ones = np.ones(len(names))
        return cls(tuple(names), columns, np.asarray(wanted, float), scale * ones, float(weight) * ones, ones)


class AbstractTarget(eqx.Module):
    """Something observed of a population.

    Example:
        >>> class Greatest(AbstractTarget):
        ...     statistic: str = eqx.field(static=True)
        ...     def moments(self, values):
        ...         top = values[self.statistic] == values[self.statistic].max()
        ...         return Moments.of([f"share of the greatest {self.statistic}"], [top], [0.0])
        >>> Greatest("LDL").moments({"LDL": np.array([1.0, 3.0])}).functions.ravel()
        array([0., 1.])
    """

    @abc.abstractmethod
    def moments(self, values: Values) -> Moments:
        """Return the linear functions of the weights of patients with these statistics.

        Raises:
            ValueError: If there is no such statistic.
        """


class Mean(AbstractTarget):
    """The mean of a statistic, sum w x; an error counts relative to it.

    Args:
        statistic: The name of the statistic.
        value: The mean.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> Mean("LDL", 165.0).moments({"LDL": np.array([150.0, 198.0])}).errors.round(3).ravel()
        array([-0.091,  0.2  ])
    """

    statistic: str = eqx.field(static=True)
    value: Scalar
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, self.value, self.weight)

    def moments(self, values: Values) -> Moments:
        name, column, mean = f"mean of {self.statistic}", _column(values, self.statistic), float(self.value)
        return Moments.of([name], [column], [mean], weight=self.weight, scale=abs(mean) or 1.0)


class SD(AbstractTarget):
    """The standard deviation of a statistic about a mean, sqrt(sum w (x - mean)^2); an error counts relative to it.

    Args:
        statistic: The name of the statistic.
        value: The standard deviation.
        mean: The mean about which it is; give that as a target, too.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> SD("LDL", 25.0, mean=165.0).moments({"LDL": np.array([140.0, 215.0])}).functions.ravel()
        array([ 625., 2500.])
    """

    statistic: str = eqx.field(static=True)
    value: Scalar
    mean: Scalar = eqx.field(kw_only=True)
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, self.value, self.weight)
        _check_finite_number("mean", self.mean)
        check_above("value", self.value, 0.0)

    def moments(self, values: Values) -> Moments:
        variance = float(self.value) ** 2
        squares = (_column(values, self.statistic) - float(self.mean)) ** 2
        name = f"SD of {self.statistic}"
        moments = Moments.of([name], [squares], [variance], weight=self.weight, scale=2.0 * variance)
        return moments._replace(power=np.array([0.5]))


class Quantile(AbstractTarget):
    """A quantile of a statistic: the share of patients with x <= value is `level`; an error counts as a share.

    Args:
        statistic: The name of the statistic.
        level: The share below, between 0 and 1.
        value: The quantile.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> Quantile("LDL", 0.5, 160.0).moments({"LDL": np.array([150.0, 198.0])}).functions.ravel()
        array([1., 0.])
    """

    statistic: str = eqx.field(static=True)
    level: Scalar
    value: Scalar
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, self.value, self.weight)
        _check_shares("level", [self.level])

    def moments(self, values: Values) -> Moments:
        column = _column(values, self.statistic)
        below = _share(column, column <= float(self.value))
        name = f"share of {self.statistic} up to {float(self.value):g}"
        return Moments.of([name], [below], [float(self.level)], weight=self.weight)


class Histogram(AbstractTarget):
    """The shares of patients whose statistic is between edges, low < x <= high.

    Args:
        statistic: The name of the statistic.
        edges: Increasing, one more than shares; the first may be -inf, the last inf.
        shares: The share between each two edges.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> target = Histogram("LDL", [-np.inf, 100.0, 160.0, np.inf], [0.2, 0.5, 0.3])
        >>> target.moments({"LDL": np.array([90.0, 170.0])}).functions
        array([[1., 0., 0.],
               [0., 0., 1.]])
    """

    statistic: str = eqx.field(static=True)
    edges: tuple[float, ...] = eqx.field(converter=lambda x: tuple(map(float, x)))
    shares: tuple[float, ...] = eqx.field(converter=lambda x: tuple(map(float, x)))
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, 0.0, self.weight)
        _check_shares("shares", self.shares)
        if len(self.edges) != len(self.shares) + 1 or not np.all(np.diff(self.edges) > 0):
            refuse("edges", f"be {len(self.shares) + 1} increasing numbers, one more than shares", self.edges)

    def moments(self, values: Values) -> Moments:
        column, ends = _column(values, self.statistic), list(zip(self.edges[:-1], self.edges[1:], strict=True))
        names = [f"share of {self.statistic} from {low:g} to {high:g}" for low, high in ends]
        inside = [_share(column, (column > low) & (column <= high)) for low, high in ends]
        return Moments.of(names, inside, self.shares, weight=self.weight)


class Shares(AbstractTarget):
    """The shares of categories, such as best responses, of a statistic that is the number of one.

    Args:
        statistic: The name of the statistic.
        shares: By the number of the category, its share.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> Shares("responder", {1: 0.4}).moments({"responder": np.array([0.0, 1.0])}).functions.ravel()
        array([0., 1.])
    """

    statistic: str = eqx.field(static=True)
    shares: dict[float, float]
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, 0.0, self.weight)
        check_instance("shares", self.shares, Mapping, "a mapping of categories to shares")
        for category in self.shares:
            if isinstance(category, str):
                refuse("shares", "have the numbers of categories as keys", category)
        _check_shares("shares", [*self.shares.values()])

    def moments(self, values: Values) -> Moments:
        column = _column(values, self.statistic)
        names = [f"share of {self.statistic} = {category:g}" for category in self.shares]
        same = [_share(column, column == category) for category in self.shares]
        return Moments.of(names, same, [*self.shares.values()], weight=self.weight)


class Correlation(AbstractTarget):
    """The correlation of two statistics with known means and standard deviations; an error counts as it is.

    $$ \\sum_i w_i (x_i - m_x) (y_i - m_y) / (s_x s_y) $$

    Args:
        first: The name of one statistic.
        second: The name of the other.
        value: The correlation.
        means: Their means; give them as targets, too.
        sds: Their standard deviations.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> target = Correlation("x", "y", 0.5, means=(0.0, 1.0), sds=(1.0, 2.0))
        >>> target.moments({"x": np.array([1.0, 2.0]), "y": np.array([2.0, 1.0])}).functions.ravel()
        array([0.5, 0. ])
    """

    first: str = eqx.field(static=True)
    second: str = eqx.field(static=True)
    value: Scalar
    means: tuple[Scalar, Scalar] = eqx.field(kw_only=True)
    sds: tuple[Scalar, Scalar] = eqx.field(kw_only=True)
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.first, self.value, self.weight)
        _check_target(self.second, self.value, self.weight)
        if not -1.0 <= self.value <= 1.0:
            refuse("value", "be between -1 and 1", self.value)
        for name, pair in (("means", self.means), ("sds", self.sds)):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                refuse(name, "be two numbers, one of each statistic", pair)
            for number in pair:
                _check_finite_number(name, number)
        for sd in self.sds:
            check_above("sds", sd, 0.0)

    def moments(self, values: Values) -> Moments:
        pairs = zip((self.first, self.second), self.means, self.sds, strict=True)
        scores = [(_column(values, name) - float(mean)) / float(sd) for name, mean, sd in pairs]
        name = f"correlation of {self.first} and {self.second}"
        return Moments.of([name], [scores[0] * scores[1]], [float(self.value)], weight=self.weight)


class SurvivalCurve(AbstractTarget):
    """The shares of patients whose event comes after some times.

    Args:
        statistic: The name of the time of the event, inf (or a later time) for a patient without.
        times: The times.
        survival: The share without the event at each.
        weight: How much an error counts where targets conflict.

    Example:
        >>> import numpy as np
        >>> target = SurvivalCurve("progression", [6.0, 12.0], [0.7, 0.4])
        >>> target.moments({"progression": np.array([8.0, np.inf])}).functions
        array([[1., 0.],
               [1., 1.]])
    """

    statistic: str = eqx.field(static=True)
    times: tuple[float, ...] = eqx.field(converter=lambda x: tuple(map(float, x)))
    survival: tuple[float, ...] = eqx.field(converter=lambda x: tuple(map(float, x)))
    weight: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        _check_target(self.statistic, 0.0, self.weight)
        _check_shares("survival", self.survival)
        if len(self.times) != len(self.survival):
            refuse("survival", f"have one share per time ({len(self.times)})", self.survival)

    def moments(self, values: Values) -> Moments:
        column = _column(values, self.statistic)
        names = [f"share of {self.statistic} after {time:g}" for time in self.times]
        later = [_share(column, column > time) for time in self.times]
        return Moments.of(names, later, self.survival, weight=self.weight)


def together(targets: Sequence[AbstractTarget], values: Values) -> Moments:
    """Return the moments of all targets."""
    parts = [target.moments(values) for target in targets]
    return Moments(
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.functions for part in parts], axis=1),
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("wanted", "scale", "weight", "power")),
    )


def _column(values: Values, name: str) -> np.ndarray:
    check_one_of("statistic", name, values, "a statistic of the patients")
    return values[name]


def _share(column: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Return 1 for patients of a condition, 0 for others, and NaN where the statistic is not defined."""
    return np.where(np.isnan(column), np.nan, condition)


def _check_target(statistic: object, value: object, weight: object) -> None:
    check_instance("statistic", statistic, str, "a name in quotes")
    _check_finite_number("value", value)
    _check_finite_number("weight", weight)
    check_above("weight", weight, 0.0)


def _check_finite_number(argument: str, value: object) -> None:
    check_number(argument, value)
    check_finite(argument, value)
    if shape := np.asarray(value).shape:
        refuse(argument, "be one number", f"of shape {shape}")


def _check_shares(argument: str, shares: Sequence[Scalar]) -> None:
    for share in shares:
        check_number(argument, share)
    numbers = tuple(map(float, shares))
    if not all(0.0 <= share <= 1.0 for share in numbers):
        refuse(argument, "be between 0 and 1", numbers)
    if argument == "shares" and sum(numbers) > 1.0 + 1e-9:
        refuse(argument, "be no more than 1 together", sum(numbers))
