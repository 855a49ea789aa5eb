"""Scales, offsets and noise parameters that need no search: given what a simulation observes, their best values follow.

With residuals e that are linear in the scales and offsets u, and a standard deviation exp(v) for each noise parameter,

    u = argmin sum w (e - J (u - u0))^2,   w = exp(-2 v),        v = log mean |e|^p / p

(p = 2 for normal residuals, 1 for double exponential ones). Each of the two steps is exact, so that one round
suffices unless a noise parameter couples them. A search then moves only in the parameters that simulations depend on,
and sees the profile of the density.

References: Loos et al., Bioinformatics 2018;34:4266, doi:10.1093/bioinformatics/bty514; Golub and Pereyra, SIAM J Numer
Anal 1973;10:413, doi:10.1137/0710036.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_names, check_one_of
from qspjax._renamed import renamed_method
from qspjax.fit._problem import Problem
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.search._search import quickly_compiled

ROUNDS, SETTLED = 30, 1e-10
"""The maximum number of rounds between scales and noise, and the change below which they end."""
SAME = 1e-7
"""The greatest relative difference between slopes that count as equal."""


class Analytic(eqx.Module):
    """Solve for scales, offsets and noise parameters at every evaluation, instead of searching for them.

    Args:
        names: Which parameters; by default all that can be solved for: no simulation depends on them, they have no
            prior, and they are the scale or the offset of normal residuals, or the standard deviation of normal or
            double exponential ones (also on the scale of logarithms, except offsets), uncensored.

    Raises:
        ValueError: If a name is given twice.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Analytic, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0, 12.0], [9.1, 6.6, 4.4, 3.1], output="signal")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=1.0, V=50.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"signal": Output("scale * concentration", Additive("sigma"))},
        ...     {"CL": Free(1.0), "scale": Free(1.0), "sigma": Free(1.0)},
        ... )
        >>> found = estimate(problem, analytic=Analytic())
        >>> {name: round(value, 2) for name, value in found.parameters.items()}
        {'CL': 5.04, 'scale': 1.67, 'sigma': 0.08}
    """

    names: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(self, names: Sequence[str] | None = None) -> None:
        """Check the names."""
        self.names = None if names is None else tuple(check_names("names", names))

    def solving(self, problem: Problem) -> Problem:
        """Return the same problem, with some parameters at their best values wherever it is evaluated.

        Its log density is the greatest over these parameters, and does not depend on theirs in a point.

        Raises:
            ValueError: If a named parameter cannot be solved for, or none can.
        """
        return dataclasses.replace(problem, solver=self.solver(problem))

    def solver(self, problem: Problem) -> "Solver":
        """Return the solver for the parameters of a problem.

        Raises:
            ValueError: If a named parameter cannot be solved for, or none can.
        """
        for name in self.names or ():
            check_one_of("names", name, problem.names, "a free parameter")
        classes = _Classes(problem, problem.names if self.names is None else self.names)
        solver = classes.solver() if classes.indices.size else None
        solved = set() if solver is None else {problem.names[i] for i in (*solver.location, *solver.noise)}
        for name in self.names or ():
            if name not in solved:
                must = "be scales, offsets or noise parameters that can be solved for"
                raise ArgumentError("names", f"must {must}, but `{name}` is none.")
        if solver is None or not solved:
            must = "have scales, offsets or noise parameters that can be solved for"
            raise ArgumentError("analytic", f"must {must}, but there are none.")
        return solver


@dataclasses.dataclass(frozen=True)
class Solver:
    """Solves for parameters of a problem, given observed values.

    Attributes:
        problem: The problem.
        location: The indices of scales and offsets among the free parameters.
        logarithmic: Which of them are linear in their logarithm, shape (location,).
        noise: The indices of noise parameters.
        member: Which noise parameter scales which measurement, shape (measurements, noise).
        power: The power of residuals that belongs to each noise parameter, shape (noise,).
    """

    problem: Problem
    location: np.ndarray
    logarithmic: np.ndarray
    noise: np.ndarray
    member: np.ndarray
    power: np.ndarray

    def __call__(self, x: Array, observed: dict[str, Array]) -> Array:
        """Return the point with the best values of the parameters; others stay.

        Args:
            x: The point.
            observed: What is observed there, shape (experiments, times) each.
        """
        point, observed = jax.lax.stop_gradient((x, observed))
        linear_start, noise_start = self._unknowns(self.problem.natural(point))
        (lower, noise_lower), (upper, noise_upper) = (
            self._unknowns(self.problem.natural(edge)) for edge in self.problem.bounds
        )

        residual, _, log_scale = standardised(
            self.problem, self._with_unknowns(point, linear_start, noise_start), observed
        )
        slope = jax.jacfwd(
            lambda u: standardised(self.problem, self._with_unknowns(point, u, noise_start), observed)[1]
        )(linear_start)
        distance = residual * jnp.exp(log_scale)
        base = log_scale - self.member @ noise_start
        count = np.maximum(self.member.sum(axis=0), 1.0)

        def round_(state: tuple) -> tuple:
            rounds, linear, noise, _ = state
            weight = jnp.exp(-2.0 * (base + self.member @ noise))
            better = _least_squares(slope, weight, distance - slope @ (linear - linear_start), linear, lower, upper)
            remaining = jnp.abs(distance - slope @ (better - linear_start)) * jnp.exp(-base)
            mean = jnp.sum(self.member * remaining[:, None] ** self.power, axis=0) / count
            better_noise = jnp.clip(jnp.log(jnp.maximum(mean, 1e-300)) / self.power, noise_lower, noise_upper)
            change = jnp.concatenate([(better - linear) / (jnp.abs(linear) + 1e-12), better_noise - noise])
            return rounds + 1, better, better_noise, jnp.max(jnp.abs(change), initial=0.0)

        def unsettled(state: tuple) -> Array:
            return (state[0] < ROUNDS) & (state[-1] > SETTLED)

        _, linear, noise, _ = jax.lax.while_loop(
            unsettled, round_, (0, linear_start, noise_start, jnp.asarray(jnp.inf))
        )
        solved = self._with_unknowns(point, linear, noise)
        indices = np.concatenate([self.location, self.noise])
        return x.at[indices].set(jnp.where(jnp.isfinite(solved), solved, point)[indices])

    def _unknowns(self, natural: Array) -> tuple[Array, Array]:
        """Return scales and offsets on the scale on which they are linear, and the logarithms of noise parameters."""
        linear = natural[self.location]
        return jnp.where(self.logarithmic, jnp.log(jnp.where(self.logarithmic, linear, 1.0)), linear), jnp.log(
            natural[self.noise]
        )

    def _with_unknowns(self, x: Array, linear: Array, noise: Array) -> Array:
        """Return the point with the unknowns put into it."""
        linear = jnp.where(self.logarithmic, jnp.exp(jnp.where(self.logarithmic, linear, 0.0)), linear)
        free = [*self.problem.free.values()]
        for index, value in zip((*self.location, *self.noise), (*linear, *jnp.exp(noise)), strict=True):
            x = x.at[index].set(free[index].transform.forward(value))
        return jnp.clip(x, *self.problem.bounds)


if not TYPE_CHECKING:
    Problem.solving = renamed_method(
        "Problem.solving(analytic)", "analytic.solving(problem)", lambda problem, analytic: analytic.solving(problem)
    )


def standardised(problem: Problem, x: Array, observed: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Return residual, location and log scale of each measurement that has them, output after output."""
    numbers, known = problem.pooled(x)
    parts = []
    for rows in filter(_power, problem.rows):
        _, predictors = rows.predicted(numbers, observed, known)
        parts.append((rows.output.error.residual(rows.value, predictors), *predictors))
    residual, location, log_scale = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    return residual, location, log_scale


def _power(rows: OutputData) -> float:
    """Return the power of residuals whose mean gives their scale, 0 if there is none."""
    error = rows.output.error
    censored = rows.output.below is not None or rows.censored.any()
    return error.power if isinstance(error, AbstractLocationScale) and not censored else 0.0


def _least_squares(slope: Array, weight: Array, distance: Array, linear: Array, lower: Array, upper: Array) -> Array:
    """Return the best scales and offsets within their bounds; those at a bound stay if the slope points beyond it."""
    gradient = slope.T @ (weight * distance)
    curvature = slope.T @ (weight[:, None] * slope)
    stays = ((linear <= lower) & (gradient < 0)) | ((linear >= upper) & (gradient > 0))
    size = jnp.sqrt(jnp.where(jnp.diag(curvature) > 0, jnp.diag(curvature), 1.0))
    moves = ~stays / size
    matrix = moves[:, None] * curvature * moves + jnp.diag(jnp.where(stays, 1.0, 1e-14))
    return jnp.clip(linear + moves * jnp.linalg.solve(matrix, moves * gradient), lower, upper)


class _Classes:
    """Determines which parameters can be solved for, from how residuals depend on them at made-up observed values."""

    def __init__(self, problem: Problem, names: Sequence[str]) -> None:
        self.problem = problem
        layout = problem.layout
        has_power = np.array([_power(rows) > 0 for rows in layout.rows])
        elsewhere = layout.direct[~has_power].any(axis=0) | layout.simulated
        self.indices = np.array(
            [
                i
                for i, (name, free) in enumerate(problem.free.items())
                if name in names and free.prior is None and not elsewhere[i]
            ],
            int,
        )
        self.power = np.concatenate([np.full(rows.value.size, _power(rows)) for rows in layout.rows])
        self.power = self.power[self.power > 0]
        rng = np.random.default_rng(0)
        shape = len(problem.experiments), 1 + max(int(rows.place.max()) for rows in layout.rows)
        self.observed = {name: jnp.asarray(np.exp(rng.normal(size=shape))) for name in layout.stages.save}
        self.start = np.asarray(problem.natural(problem.start))
        self.other = self.start + rng.uniform(0.1, 0.3, self.start.size) * np.where(self.start == 0, 1.0, self.start)
        self._slope_program = quickly_compiled(self._slopes, short=True)

    def _slopes(self, natural: Array) -> tuple[Array, Array]:
        """Return the slopes of locations and log scales, shape (measurements, parameters)."""

        def location_and_scale(unknowns: Array) -> tuple[Array, Array]:
            values = natural.at[self.indices].set(unknowns)
            free, (numbers, weights) = self.problem.free.values(), self.problem.split(values)
            x = jnp.stack([parameter.transform.forward(value) for parameter, value in zip(free, numbers, strict=True)])
            return standardised(self.problem, jnp.concatenate([x, weights]), self.observed)[1:]

        return jax.jacfwd(location_and_scale)(natural[self.indices])

    def solver(self) -> Solver:
        """Return the solver for as many of the parameters as possible."""
        candidates = [k for k in range(len(self.indices)) if self._kinds([k])[k]]
        while len(candidates) > 1:
            kinds = self._kinds(candidates)
            bad = [k for k in candidates if not kinds[k]]
            if not bad:
                break
            candidates.remove(bad[-1])
        kinds = self._kinds(candidates) if candidates else {}
        noise = [k for k in candidates if kinds[k] == "noise"]
        location = [k for k in candidates if kinds[k] != "noise"]
        member = self._at(self.start)[1][:, noise]
        return Solver(
            self.problem,
            self.indices[location],
            np.array([kinds[k] == "log" for k in location], bool),
            self.indices[noise],
            member,
            np.array([self.power[member[:, j] > 0][0] for j in range(len(noise))]),
        )

    def _at(self, natural: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slopes of locations, and those of log scales in the logarithms of the parameters."""
        location, log_scale = self._slope_program(jnp.asarray(natural))
        return np.asarray(location), np.asarray(log_scale) * natural[self.indices]

    def _kinds(self, members: Sequence[int]) -> dict[int, str]:
        """Return the kind of each parameter while all members vary: "linear", "log" (linear in it), "noise", or ""."""
        other = self.start.copy()
        other[self.indices[members]] = self.other[self.indices[members]]
        start, (slope, noise), (slope2, noise2) = self.start, self._at(self.start), self._at(other)
        crowded = (np.abs(noise[:, members]) > 0).sum(axis=1) > 1
        kinds = {}
        for k in members:
            index = self.indices[k]
            location_fixed = not np.any(slope[:, k]) and not np.any(slope2[:, k])
            noise_fixed = not np.any(noise[:, k]) and not np.any(noise2[:, k])
            powers = self.power[(slope[:, k] != 0) | (noise[:, k] != 0)]
            kinds[k] = ""
            if location_fixed and not noise_fixed:
                pure = np.isin(noise[:, k].round(9), (0.0, 1.0)).all() and _same(noise[:, k], noise2[:, k])
                single = not crowded[noise[:, k] > 0.5].any()
                kinds[k] = "noise" if pure and single and len(set(powers)) == 1 else ""
            elif noise_fixed and not location_fixed and set(powers) == {2.0}:
                if _same(slope[:, k], slope2[:, k]):
                    kinds[k] = "linear"
                elif _same(slope[:, k] * start[index], slope2[:, k] * other[index]):
                    kinds[k] = "log"
        return kinds


def _same(slope: np.ndarray, other_slope: np.ndarray) -> bool:
    return bool(np.allclose(slope, other_slope, rtol=SAME, atol=SAME * np.abs(slope).max(initial=0.0)))
