"""A surrogate: predictions of outputs in their own units, with error bars that hold.

The emulator's standard deviations only say where errors are greater: how great they are is measured at simulations
that it was not told of. With their scores |s - mean| / sd, of which there are n, the interval

    mean +- q sd,   q the ceil((n + 1) level)-th smallest score

holds a fraction `level` of new simulations, whatever the emulator (split conformal prediction).

Reference: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, J Am Stat Assoc 2018;113:1094,
doi:10.1080/01621459.2017.1307116.
"""

import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._arrays import device_floats
from qspjax._checks import check_number, refuse
from qspjax._extras import require
from qspjax._text import aligned
from qspjax._types import ArrayInput
from qspjax.population._plausible._features import Features
from qspjax.surrogate._contract import AbstractPredictor
from qspjax.surrogate._scale import OutputScale

if TYPE_CHECKING:
    import pandas

NINETY = 1.6448536269514722
"""Half the width of the interval that holds 90 % of a standard normal distribution."""


class Lessons(eqx.Module):
    """The fits on the way to a surrogate.

    Attributes:
        simulations: The number of simulations so far, with those that failed, shape (fits,).
        error: The root mean square errors at simulations left out, in parts of the outputs' spread, (fits, outputs).
        remaining: What was compared with the error at which learning stops, shape (fits,).
    """

    simulations: np.ndarray
    error: np.ndarray
    remaining: np.ndarray


class Surrogate(eqx.Module):
    """An emulator of outputs as a function of points between 0 and 1, in JAX: `jit`, `vmap` and `grad` go through it.

    Attributes:
        inputs: The names of the coordinates of a point.
        outputs: The names of the outputs.
        features: How the emulator sees the coordinates.
        scale: The scale on which outputs are emulated.
        predictor: The emulator.
        success: The emulator of whether a simulation succeeds, 1 or 0; None where none failed.
        scores: By output, |error| / sd at simulations left out, in increasing order, shape (simulations, outputs).
        near: By output, what standard deviations are multiplied by for probabilities near the bounds (or, where there
            are none, everywhere).
        lessons: How errors fell from fit to fit.
        failed: The number of simulations that failed.

    Example:
        >>> import jax, qspjax as qsp
        >>> inputs = {"k": (0.1, 1.0), "t": (0.0, 3.0)}
        >>> function = qsp.surrogate.Function(lambda x: np.exp(-x[:, 0] * x[:, 1]), inputs, ["y"])
        >>> emulated = qsp.surrogate.fit(function, qsp.surrogate.Sobol(64), key=jax.random.key(0))
        >>> point = function.points(k=0.5, t=2.0)
        >>> emulated.mean(point).round(2), jax.grad(lambda u: emulated.mean(u)[0, 0])(point).shape
        (Array([[0.37]], dtype=float64), (1, 2))
    """

    inputs: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[str, ...] = eqx.field(static=True)
    features: Features
    scale: OutputScale
    predictor: AbstractPredictor
    success: AbstractPredictor | None
    scores: np.ndarray
    near: np.ndarray
    lessons: Lessons
    failed: int = eqx.field(static=True)

    @property
    def simulations(self) -> int:
        """The number of simulations that it was fitted to, with those that failed."""
        return int(self.lessons.simulations[-1])

    def mean(self, points: ArrayInput) -> Array:
        """Return predicted outputs in their own units (medians, where the scale is logarithmic).

        Args:
            points: Coordinates between 0 and 1, shape (points, inputs).

        Returns:
            Shape (points, outputs).
        """
        return _mean(self, self._checked(points))

    def interval(self, points: ArrayInput, *, level: float = 0.9) -> tuple[Array, Array]:
        """Return the ends of the intervals that hold a fraction of simulations, shape (points, outputs) each.

        Args:
            points: Coordinates between 0 and 1, shape (points, inputs).
            level: That fraction, of each output.
        """
        _check_level(level)
        return _interval(self, self._checked(points), level)

    def scaled(self, points: ArrayInput) -> tuple[Array, Array]:
        """Return means and standard deviations on the scale of the emulator, those calibrated, (points, outputs)."""
        return _scaled(self, self._checked(points))

    def scaled_mean(self, points: ArrayInput) -> Array:
        """Return the means of `scaled` alone, shape (points, outputs)."""
        return _scaled_mean(self, self._checked(points))

    def succeeds(self, points: ArrayInput) -> Array:
        """Return the probability that a simulation succeeds, shape (points,)."""
        return _succeeds(self, self._checked(points))

    def compared(self, points: ArrayInput, values: ArrayInput, *, level: float = 0.9) -> dict[str, np.ndarray]:
        """Return predictions beside simulations, the data of `plot.surrogate`.

        Args:
            points: Coordinates between 0 and 1, shape (points, inputs).
            values: Simulated outputs there, shape (points, outputs); points with NaN are left out.
            level: The fraction of simulations that intervals should hold.

        Returns:
            `OUTPUT`, `SIMULATED`, `PREDICTED`, `LOWER`, `UPPER`, `INSIDE` and `LEVEL`, one row a point and output.
        """
        points, values = np.asarray(points, float), np.asarray(values, float)
        if values.shape != (len(points), len(self.outputs)):
            refuse("values", f"have shape ({len(points)}, {len(self.outputs)})", f"of shape {values.shape}")
        good = np.isfinite(values).all(axis=1)
        points, values = points[good], values[good]
        points = device_floats(points)
        mean, (low, high) = self.mean(points), self.interval(points, level=level)
        rows = {"SIMULATED": values, "PREDICTED": mean, "LOWER": low, "UPPER": high}
        table = {name: np.asarray(column).T.ravel() for name, column in rows.items()}
        inside = (table["SIMULATED"] >= table["LOWER"]) & (table["SIMULATED"] <= table["UPPER"])
        output = np.repeat(np.array(self.outputs, dtype=object), len(points))
        return {"OUTPUT": output, **table, "INSIDE": inside, "LEVEL": np.full(len(output), level)}

    def learning_curve(self) -> dict[str, np.ndarray]:
        """Return how errors fell with simulations, the data of `plot.learning_curve`.

        Returns:
            `SIMULATIONS`, `OUTPUT` and `ERROR`, the root mean square error in parts of the output's spread.
        """
        lessons, count = self.lessons, len(self.lessons.simulations)
        return {
            "SIMULATIONS": np.repeat(lessons.simulations, len(self.outputs)),
            "OUTPUT": np.tile(np.array(self.outputs, dtype=object), count),
            "ERROR": np.asarray(lessons.error).ravel(),
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the learning curve as a table."""
        return require("pandas", extra="data").DataFrame(self.learning_curve())

    def _checked(self, points: ArrayInput) -> Array:
        points = device_floats(points)
        if points.ndim != 2 or points.shape[1] != len(self.inputs):
            refuse("points", f"have shape (points, {len(self.inputs)})", f"of shape {points.shape}")
        return points

    def __str__(self) -> str:
        rows = [["", "error"]]
        for name, error in zip(self.outputs, self.lessons.error[-1], strict=True):
            rows.append([name, f"{error:.2%}"])
        failed = f", {self.failed} of which failed" if self.failed else ""
        kind = type(self.predictor).__name__
        return f"{aligned(rows)}\n{kind} of {self.simulations} simulations{failed}"

    __repr__ = __str__


def _check_level(level: float) -> None:
    check_number("level", level)
    if not 0.0 < level < 1.0:
        refuse("level", "be between 0 and 1", level)


def _factor(surrogate: Surrogate, level: float) -> np.ndarray:
    """Return q by output."""
    count = len(surrogate.scores)
    return surrogate.scores[min(math.ceil((count + 1) * level), count) - 1]


@eqx.filter_jit
def _mean(surrogate: Surrogate, points: Array) -> Array:
    return surrogate.scale.inverse(surrogate.predictor.mean(surrogate.features(points)))


@eqx.filter_jit
def _interval(surrogate: Surrogate, points: Array, level: float) -> tuple[Array, Array]:
    seen = surrogate.features(points)
    mean, reach = surrogate.predictor.mean(seen), surrogate.predictor.deviation(seen) * _factor(surrogate, level)
    return surrogate.scale.inverse(mean - reach), surrogate.scale.inverse(mean + reach)


@eqx.filter_jit
def _scaled(surrogate: Surrogate, points: Array) -> tuple[Array, Array]:
    seen = surrogate.features(points)
    return surrogate.predictor.mean(seen), surrogate.predictor.deviation(seen) * surrogate.near


@eqx.filter_jit
def _scaled_mean(surrogate: Surrogate, points: Array) -> Array:
    return surrogate.predictor.mean(surrogate.features(points))


@eqx.filter_jit
def _succeeds(surrogate: Surrogate, points: Array) -> Array:
    if surrogate.success is None:
        return jnp.ones(len(points))
    return jnp.clip(surrogate.success.mean(surrogate.features(points))[:, 0], 0.0, 1.0)
