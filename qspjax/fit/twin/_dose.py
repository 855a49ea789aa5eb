"""The best dose of a patient, by gradient, under limits on what may happen.

With draws i = 1 ... n of the patient and endpoints e_i(x) of what is chosen, x,

    least  aim(e(x))   such that   P(e > c) <= alpha   for each limit

A limit holds exactly where the order statistic e_(k), k = n - floor(alpha n), is at most c, which has a slope in x:
that of the draw which it is. So sequential quadratic programming takes the limits as they are; only a share that is an
aim is smoothed (by a logistic kernel) to have a slope. Draws that fail count as beyond a limit.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import check_above, check_finite, check_instance, check_number, check_whole, concrete, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen, check_regimen
from qspjax._parameters import as_parameter
from qspjax._simulate import simulate_cohort
from qspjax._types import Scalar
from qspjax.population.endpoints import AbstractEndpoint
from qspjax.solve import AbstractMethod

MARGIN = 1e-6
"""How far within a limit, relative to it, the search stays."""
BINDS = 1e-3
"""How near a limit, relative to it, counts as at it."""
SCANNED = 12
"""How many values of one number are tried before the search."""


class AbstractAim(eqx.Module):
    """What a dose is to achieve.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.fit.Near(qsp.endpoints.Value("concentration", at=24.0), 10.0), qsp.fit.AbstractAim)
        True
    """

    endpoint: eqx.AbstractVar[AbstractEndpoint]

    @abc.abstractmethod
    def cost(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what is to be least, for the endpoints of draws, and its slope in each of them."""

    @abc.abstractmethod
    def achieved(self, values: np.ndarray) -> float:
        """Return the number that is reported."""

    @abc.abstractmethod
    def described(self, achieved: float) -> str:
        """Say what was achieved."""


class Near(AbstractAim):
    """As near to a target as can be: the least root mean square of the relative distance e / target - 1.

    Args:
        endpoint: The endpoint e, such as `endpoints.Trough(...)`.
        target: The target, positive, in the unit of the endpoint.

    Example:
        >>> import qspjax as qsp
        >>> qsp.fit.Near(qsp.endpoints.Value("concentration", at=24.0), 10.0).target
        Array(10., dtype=float64)
    """

    endpoint: AbstractEndpoint
    target: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        check_instance("endpoint", self.endpoint, AbstractEndpoint, "an endpoint, such as endpoints.Value(...)")
        check_number("target", self.target)
        check_finite("target", self.target)
        check_above("target", self.target, 0.0)

    def cost(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        distance = values / float(self.target) - 1.0
        root = math.sqrt(float(np.mean(distance**2)))
        return root, distance / (float(self.target) * values.size * max(root, 1e-12))

    def achieved(self, values: np.ndarray) -> float:
        return self.cost(values)[0]

    def described(self, achieved: float) -> str:
        return f"{100.0 * achieved:.3g} % from the target {float(self.target):g} (root mean square)"


class Within(AbstractAim):
    """In a range as probably as can be: the greatest P(low <= e <= high).

    Args:
        endpoint: The endpoint e.
        low: The least value, in the unit of the endpoint.
        high: The greatest value.

    Example:
        >>> import qspjax as qsp
        >>> qsp.fit.Within(qsp.endpoints.Value("concentration", at=24.0), low=10.0).high
        Array(inf, dtype=float64)
    """

    endpoint: AbstractEndpoint
    low: Scalar = eqx.field(default=-jnp.inf, converter=as_parameter, kw_only=True)
    high: Scalar = eqx.field(default=jnp.inf, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("endpoint", self.endpoint, AbstractEndpoint, "an endpoint, such as endpoints.Value(...)")
        for name, value in (("low", self.low), ("high", self.high)):
            check_number(name, value)
        low, high = concrete(self.low), concrete(self.high)
        if low is not None and high is not None and not (low < high and (np.isfinite(low) or np.isfinite(high))):
            refuse("high", f"be greater than `low` ({float(low):g}), and one of them finite", high)

    def cost(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        width = 1.06 * max(float(values.std()), 1e-12) * values.size**-0.2
        total, slope = -1.0, np.zeros_like(values)
        for edge, sign in ((float(self.low), 1.0), (float(self.high), -1.0)):
            if np.isfinite(edge):
                beyond = 0.5 * (1.0 - np.tanh(0.5 * sign * (values - edge) / width))
                total += float(beyond.mean())
                slope -= sign * beyond * (1.0 - beyond) / (width * values.size)
        return total, slope

    def achieved(self, values: np.ndarray) -> float:
        return float(np.mean((values >= float(self.low)) & (values <= float(self.high))))

    def described(self, achieved: float) -> str:
        return f"P({_range(float(self.low), float(self.high))}) = {achieved:.3g}"


class Risk(eqx.Module):
    """A limit that is stated as a probability: P(e > above) <= at_most, or P(e < below) <= at_most.

    Args:
        endpoint: The endpoint e, such as `endpoints.Cmax("concentration")`.
        at_most: The greatest probability.
        above: The limit above which e must seldom be, in the unit of the endpoint. Give one of the two.
        below: The limit below which e must seldom be.

    Example:
        >>> import qspjax as qsp
        >>> qsp.fit.Risk(qsp.endpoints.Cmax("concentration"), 0.05, above=20.0).at_most
        0.05
    """

    endpoint: AbstractEndpoint
    at_most: float = eqx.field(static=True)
    above: Scalar | None = eqx.field(default=None, converter=as_parameter, kw_only=True)
    below: Scalar | None = eqx.field(default=None, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("endpoint", self.endpoint, AbstractEndpoint, "an endpoint, such as endpoints.Cmax(...)")
        check_number("at_most", self.at_most)
        if not 0.0 <= self.at_most < 1.0:
            refuse("at_most", "be a probability, at least 0 and less than 1", self.at_most)
        if (self.above is None) == (self.below is None):
            is_now = "none is" if self.above is None else "both are"
            raise ValueError(f"Exactly one of the arguments `above` and `below` must be given, but {is_now}.")
        check_finite("above" if self.below is None else "below", self.limit)

    @property
    def limit(self) -> Scalar:
        """The limit."""
        limit = self.above if self.below is None else self.below
        assert limit is not None
        return limit

    def room(self, values: np.ndarray) -> tuple[float, int]:
        """Return how far, relative to the limit, the decisive draw is within it, and the number of that draw."""
        sign = 1.0 if self.below is None else -1.0
        distance = np.where(np.isfinite(values), sign * (float(self.limit) - values), -np.inf)
        decisive = int(np.argsort(distance)[math.floor(self.at_most * values.size + 1e-9)])
        return float(distance[decisive]) / self.scale, decisive

    @property
    def scale(self) -> float:
        """The size of the limit."""
        return abs(float(self.limit)) or 1.0

    def probability(self, values: np.ndarray) -> float:
        """Return the share of draws beyond the limit, or without a value."""
        limit = float(self.limit)
        holds = values <= limit if self.below is None else values >= limit
        return float(np.mean(~holds))

    def described(self, probability: float, binds: bool) -> str:
        """Say how probable it is."""
        beyond = f"> {float(self.limit):g}" if self.below is None else f"< {float(self.limit):g}"
        kind = type(self.endpoint).__name__
        ending = ", which binds" if binds else ""
        return f"P({kind} {beyond}) = {probability:.3g}, at most {self.at_most:g} allowed{ending}"


class BestDose(NamedTuple):
    """The best dose of a patient.

    Attributes:
        values: What was chosen, by name.
        regimen: The doses with these values.
        aim: What was aimed at.
        achieved: What `Near` or `Within` reports: the relative distance, or the probability.
        risks: The limits.
        probabilities: How probable it is to be beyond each limit, by the same draws, exactly.
        binds: Whether each limit keeps the dose from what the aim alone would choose.
        feasible: Whether all limits are kept; if none keeps them, the values are those nearest to that.
        simulated: How often the draws were simulated.

    Example:
        >>> best = twin.best_dose(doses, ts, aim, bounds={"amount": (10.0, 500.0)}, key=key)  # doctest: +SKIP
        >>> best.values["amount"]  # doctest: +SKIP
    """

    values: dict[str, float]
    regimen: Regimen
    aim: AbstractAim
    achieved: float
    risks: tuple[Risk, ...]
    probabilities: tuple[float, ...]
    binds: tuple[bool, ...]
    feasible: bool
    simulated: int

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        parts = zip(self.risks, self.probabilities, self.binds, strict=True)
        lines = [risk.described(probability, binds) for risk, probability, binds in parts]
        if not self.feasible:
            lines.append("No dose within the bounds keeps all limits; this one is nearest to it.")
        return "\n".join([f"{chosen}: {self.aim.described(self.achieved)}", *lines])


class _Point(NamedTuple):
    """What was tried: u between 0 and 1, the endpoints of draws, and their slopes in u."""

    u: np.ndarray
    values: np.ndarray
    slopes: np.ndarray


class DoseSearch:
    """The search for the best dose.

    Args:
        cohort: Draws of the patient.
        regimen: Returns all doses, for what is chosen by name.
        ts: Times that the endpoints need.
        aim: What is aimed at.
        risks: The limits.
        bounds: The least and the greatest of what is chosen, by name.
        method: How to simulate.
    """

    def __init__(
        self,
        cohort: Cohort,
        regimen: Callable[..., Regimen],
        ts: np.ndarray,
        aim: AbstractAim,
        risks: Sequence[Risk],
        bounds: Mapping[str, tuple[float, float]],
        method: AbstractMethod | None,
    ) -> None:
        self.aim, self.risks, self.bounds, self.regimen = aim, tuple(risks), bounds, regimen
        endpoints = [aim.endpoint, *(risk.endpoint for risk in risks)]
        self.points: list[_Point] = []

        def simulated(u: Array) -> Array:
            solution = simulate_cohort(
                cohort,
                regimen(**self.named(u)),
                ts,
                save=(),
                reduce=lambda patient: jnp.stack([jnp.asarray(endpoint(patient), float) for endpoint in endpoints]),
                method=method,
            )
            return jnp.where(solution.failed[:, None], jnp.nan, solution.reduced).T

        def with_slopes(u: Array) -> tuple[Array, Array]:
            values, along = jax.linearize(simulated, u)
            return values, jnp.moveaxis(jax.vmap(along)(jnp.eye(u.size)), 0, -1)

        self._program = jax.jit(with_slopes)

    def named(self, u: Array | np.ndarray) -> dict[str, Array]:
        """Return what is chosen at a point of the unit cube; on the scale of logarithms where bounds are positive."""
        named = {}
        for k, (name, (low, high)) in enumerate(self.bounds.items()):
            on_logs = low > 0.0
            named[name] = low * (high / low) ** u[k] if on_logs else low + (high - low) * u[k]
        return named

    def at(self, u: np.ndarray) -> _Point:
        """Return the endpoints of draws at a point, and their slopes."""
        for point in reversed(self.points):
            if np.array_equal(point.u, u):
                return point
        values, slopes = (np.asarray(part) for part in self._program(jnp.asarray(u)))
        self.points.append(_Point(np.array(u), values, slopes))
        return self.points[-1]

    def cost(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what is to be least, and its slope; without draws that fail."""
        _, values, slopes = self.at(u)
        sound = np.isfinite(values[0])
        if not sound.any():
            return 1e10, np.zeros(u.size)
        cost, slope = self.aim.cost(values[0][sound])
        return cost, np.nan_to_num(slope @ slopes[0][sound])

    def rooms(self, u: np.ndarray) -> np.ndarray:
        """Return how far within each limit the decisive draw is."""
        _, values, _ = self.at(u)
        return np.array([max(risk.room(values[k + 1])[0], -1e3) - MARGIN for k, risk in enumerate(self.risks)])

    def room_slopes(self, u: np.ndarray) -> np.ndarray:
        """Return the slopes of `rooms`."""
        _, values, slopes = self.at(u)
        rows = []
        for k, risk in enumerate(self.risks):
            sign = 1.0 if risk.below is None else -1.0
            rows.append(-sign * slopes[k + 1][risk.room(values[k + 1])[1]] / risk.scale)
        return np.nan_to_num(np.array(rows).reshape(len(self.risks), u.size))

    def probabilities(self, point: _Point) -> tuple[float, ...]:
        """Return how probable it is to be beyond each limit."""
        return tuple(risk.probability(point.values[k + 1]) for k, risk in enumerate(self.risks))

    def keeps_limits(self, point: _Point) -> bool:
        """Return whether no probability exceeds what is allowed, by counting draws."""
        pairs = zip(self.risks, self.probabilities(point), strict=True)
        return all(found <= risk.at_most + 1e-12 for risk, found in pairs)

    def run(self) -> BestDose:
        """Scan, descend from the best point, and return the best point that keeps the limits."""
        from scipy.optimize import minimize
        from scipy.stats import qmc

        size = len(self.bounds)
        scan = (
            np.linspace(0.0, 1.0, SCANNED)[:, None] if size == 1 else qmc.Sobol(size, scramble=False).random(4 << size)
        )
        for u in scan:
            self.at(u)
        if not np.isfinite([point.values[0] for point in self.points]).any():
            raise RuntimeError("At no dose within the bounds can a draw be simulated that has the endpoint of the aim.")
        start = min(self.points, key=self._rank)
        limits = [{"type": "ineq", "fun": self.rooms, "jac": self.room_slopes}] if self.risks else []
        with np.errstate(invalid="ignore"):
            minimize(
                self.cost,
                start.u,
                jac=True,
                method="SLSQP",
                bounds=[(0.0, 1.0)] * size,
                constraints=limits,
                options={"ftol": 1e-7, "maxiter": 20},
            )
        best = min(self.points, key=self._rank)
        values = {name: float(value) for name, value in self.named(best.u).items()}
        sound = best.values[0][np.isfinite(best.values[0])]
        return BestDose(
            values=values,
            regimen=self.regimen(**values),
            aim=self.aim,
            achieved=self.aim.achieved(sound),
            risks=self.risks,
            probabilities=self.probabilities(best),
            binds=tuple(bool(room < BINDS) for room in self.rooms(best.u)),
            feasible=self.keeps_limits(best),
            simulated=len(self.points),
        )

    def _rank(self, point: _Point) -> tuple[float, float]:
        beyond = 0.0 if self.keeps_limits(point) else MARGIN - self.rooms(point.u).clip(max=0.0).sum()
        return beyond, self.cost(point.u)[0]


def check_choice(regimen: object, bounds: object) -> None:
    """Check what is chosen and between which bounds."""
    if not callable(regimen):
        must = "be a function of what is chosen, such as `lambda amount: qsp.bolus(amount, to=1)`"
        refuse("regimen", must, type(regimen).__name__)
    check_instance("bounds", bounds, Mapping, 'a mapping such as {"amount": (10.0, 500.0)}')
    assert isinstance(bounds, Mapping)
    check_whole("bounds", len(bounds), 1)
    for name, pair in bounds.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not -np.inf < pair[0] < pair[1] < np.inf:
            refuse(f'bounds["{name}"]', "be the least and the greatest value, finite, in this order", pair)


def in_the_middle(regimen: Callable[..., Regimen], bounds: Mapping[str, tuple[float, float]]) -> Regimen:
    """Return the doses in the middle of the bounds."""
    try:
        doses = regimen(**{name: 0.5 * (low + high) for name, (low, high) in bounds.items()})
    except TypeError as error:
        refuse("regimen", f"be a function of {', '.join(bounds)}, the names in `bounds`", f"not ({error})")
    check_regimen(doses)
    return doses


def _range(low: float, high: float) -> str:
    if np.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
