"""Where the next simulations teach most, and when enough is known."""

import abc
from collections.abc import Iterator

import equinox as eqx
import numpy as np

from qspjax._arrays import device_floats
from qspjax._checks import ArgumentError, check_above, check_whole
from qspjax._types import Scalar
from qspjax.surrogate._scale import OutputScale
from qspjax.surrogate._surrogate import Surrogate

_CANDIDATES, _NEAREST = 1 << 15, 4096
"""The number of points that are compared, and of the best of these among which a batch is spread."""
_APART = 0.15
"""Points of a batch closer than about this, as a part of the diagonal, are worth less."""
_CHUNK = 1 << 13
"""Points that are predicted together."""
_TYPICAL, _FAR = 1024, 6.0
"""Beyond so many typical standard deviations of the first points outside a bound, a point is not plausible."""


class AbstractAcquisition(eqx.Module):
    """How a surrogate chooses the simulations that it learns from.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.surrogate.Variance(), AbstractAcquisition)
        True
    """

    error: eqx.AbstractVar[Scalar]
    most: eqx.AbstractVar[int]
    batch: eqx.AbstractVar[int]

    @abc.abstractmethod
    def worth(self, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return what simulations at some points are worth, shape (points,).

        Args:
            mean: Predictions on the scale of the emulator, shape (points, outputs).
            deviation: Their standard deviations.
            ends: The bounds on that scale, shape (2, outputs).
        """

    @abc.abstractmethod
    def remaining(self, error: np.ndarray, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> float:
        """Return the error that is to fall below `error`.

        Args:
            error: Root mean square errors at simulations left out, in parts of the outputs' spread, shape (outputs,).
            mean: Predictions at points of the whole space, as in `worth`.
            deviation: Their standard deviations.
            ends: The bounds.
        """


class Variance(AbstractAcquisition):
    """Simulate where the emulator is least certain, until errors are small everywhere.

    Args:
        error: Stop where the root mean square error of each output is below this part of its spread.
        most: The maximum number of simulations, those of the design included.
        batch: The number of simulations from one fit to the next.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.Variance(error=0.01).most
        1024
    """

    error: Scalar = 0.02
    most: int = eqx.field(default=1024, static=True)
    batch: int = eqx.field(default=64, static=True)

    def __check_init__(self) -> None:
        _check(self)

    def worth(self, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return (deviation / np.median(deviation, axis=0)).max(axis=1)

    def remaining(self, error: np.ndarray, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> float:
        return float(error.max())


class Boundary(AbstractAcquisition):
    """Simulate where the emulator cannot say whether a patient is plausible, until few are misjudged.

    With p the least probability among the bounds, the share that is misjudged is sum min(p, 1 - p) / sum p.

    Args:
        error: Stop where that share is below this.
        most: The maximum number of simulations, those of the design included.
        batch: The number of simulations from one fit to the next.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.Boundary().error
        0.05
    """

    error: Scalar = 0.05
    most: int = eqx.field(default=1024, static=True)
    batch: int = eqx.field(default=128, static=True)

    def __check_init__(self) -> None:
        _check(self)

    def worth(self, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> np.ndarray:
        p = chance(mean, deviation, ends)
        return p * (1.0 - p)

    def remaining(self, error: np.ndarray, mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> float:
        p = chance(mean, deviation, ends)
        return float(np.minimum(p, 1.0 - p).sum() / max(p.sum(), np.finfo(float).tiny))


def _check(acquisition: AbstractAcquisition) -> None:
    check_above("error", acquisition.error, 0.0)
    check_whole("most", acquisition.most, 8)
    check_whole("batch", acquisition.batch, 1)


def chance(mean: np.ndarray, deviation: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the least probability, among the bounds, that one holds, shape (points,)."""
    from scipy.special import ndtr

    low, high = (ends[:, None] - mean) / deviation
    return np.min(ndtr(high) - ndtr(low), axis=1)


def scaled_ends(surrogate: Surrogate, ends: np.ndarray) -> np.ndarray:
    """Return bounds on the scale of the emulator, infinite where there is none, shape (2, outputs).

    Raises:
        ValueError: If there is no bound at all.
    """
    if not np.isfinite(ends).any():
        raise ArgumentError("acquisition", "must not be Boundary() where outputs have no bounds: use Variance().")
    return on_scale(surrogate.scale, ends)


def on_scale(scale: OutputScale, ends: np.ndarray) -> np.ndarray:
    """Return bounds on the scale of an emulator, infinite where there is none, shape (2, outputs)."""
    finite = np.isfinite(ends)
    return np.where(finite, scale.forward(np.where(finite, ends, 1.0)), ends)


def predicted(surrogate: Surrogate, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated means and standard deviations on the scale of the emulator, computed in chunks."""
    parts = [surrogate.scaled(device_floats(chunk)) for chunk in _chunks(points)]
    mean, deviation = (np.concatenate([np.asarray(part) for part in each]) for each in zip(*parts, strict=True))
    return mean[: len(points)], deviation[: len(points)]


def chances(surrogate: Surrogate, points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the probability of each point that all bounds hold; 0 where the mean is far outside one.

    Standard deviations, which cost most, are computed for the other points alone.

    Args:
        surrogate: The emulator of what has bounds.
        points: Coordinates between 0 and 1, shape (points, inputs).
        ends: The bounds on the scale of the emulator, shape (2, outputs).
    """
    typical = np.quantile(predicted(surrogate, points[:_TYPICAL])[1], 0.9, axis=0)
    mean = np.concatenate([np.asarray(surrogate.scaled_mean(device_floats(chunk))) for chunk in _chunks(points)])
    outside = np.maximum(ends[0] - mean, mean - ends[1])[: len(points)]
    near = np.flatnonzero(np.asarray((outside < _FAR * typical).all(axis=1)))
    p = np.zeros(len(points))
    if len(near):
        p[near] = chance(*predicted(surrogate, points[near]), ends)
        p[near] *= 1.0 if surrogate.success is None else np.asarray(surrogate.succeeds(points[near]))
    return p


def _chunks(points: np.ndarray) -> Iterator[np.ndarray]:
    """Yield points in parts of one size, the last one filled up, so that few programs serve all numbers."""
    chunk = min(_CHUNK, 1 << (len(points) - 1).bit_length())
    padded = np.concatenate([points, np.repeat(points[-1:], -len(points) % chunk, axis=0)])
    return (padded[k : k + chunk] for k in range(0, len(points), chunk))


def next_points(
    acquisition: AbstractAcquisition, surrogate: Surrogate, ends: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Return the points of the next batch, which are apart from each other.

    Args:
        acquisition: What they are worth.
        surrogate: What is known.
        ends: The bounds on the scale of the emulator, shape (2, outputs).
        random: The source of the points that are compared.
    """
    candidates = random.random((_CANDIDATES, len(surrogate.inputs)))
    worth = acquisition.worth(*predicted(surrogate, candidates), ends)
    worth *= np.asarray(surrogate.succeeds(candidates)) if surrogate.success is not None else 1.0
    best = np.argsort(-worth, kind="stable")[:_NEAREST]
    candidates, worth = candidates[best], worth[best]
    features, chosen = np.asarray(surrogate.features(candidates)), []
    reach = _APART * np.sqrt(features.shape[1])
    for _ in range(acquisition.batch):
        i = int(np.argmax(worth))
        chosen.append(i)
        distance = ((features - features[i]) ** 2).sum(axis=1)
        worth = worth * -np.expm1(-0.5 * distance / reach**2)
    return candidates[chosen]
