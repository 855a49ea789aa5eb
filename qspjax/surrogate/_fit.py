"""A surrogate is fitted: to a design, and to the simulations that it asks for itself."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from qspjax._checks import ArgumentError, check_instance, check_whole
from qspjax._fingerprint import fingerprint
from qspjax._progress import Progress
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit.search import _checkpoint
from qspjax.surrogate._acquisition import AbstractAcquisition, Boundary, next_points, on_scale, predicted, scaled_ends
from qspjax.surrogate._contract import AbstractEmulator
from qspjax.surrogate._designs import AbstractDesign, Sobol
from qspjax.surrogate._process import GaussianProcess
from qspjax.surrogate._scale import OutputScale
from qspjax.surrogate._simulators import AbstractSimulator
from qspjax.surrogate._surrogate import NINETY, Lessons, Surrogate

_COMPARED = 1 << 14
"""The number of points at which it is said what remains to be learnt."""
_NEAR, _LEAST_NEAR = 4, 64
"""One in so many simulations, and at least so many, are near the bounds."""
_LEAST = 8
"""The least number of successful simulations that can be learnt from."""


def fit(
    simulator: AbstractSimulator,
    design: AbstractDesign | None = None,
    *,
    key: Key,
    method: AbstractEmulator | None = None,
    learn: AbstractAcquisition | None = None,
    together: int = 512,
    checkpoint: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Surrogate:
    """Fit an emulator to simulations, with error bars that are calibrated at simulations left out.

    The simulations are those of the design, and then, in batches, those that teach most. Simulations that fail are left
    out, and it is emulated which ones fail.

    Args:
        simulator: What is emulated: `Patients(...)`, `Plausibility(...)` or `Function(...)`.
        design: The first simulations: `Sobol(256)` unless given, or `LatinHypercube(...)`.
        key: `jax.random.key(seed)`; the same key gives the same surrogate.
        method: `GaussianProcess()` unless given, or `Ensemble()` of networks.
        learn: Where further simulations are made, and when to stop: `Variance()`, or `Boundary()` of the bounds of
            `Plausibility(...)`; by default there are none but those of the design.
        together: The maximum number of simulations between two checkpoints.
        checkpoint: A file in which all simulations are saved; if it exists already, they are not made again.
        progress: Called after every fit.

    Returns:
        A `Surrogate`.

    Raises:
        ValueError: If fewer than eight simulations succeed, or the checkpoint is that of another run.

    Reference: Gramacy, Surrogates, Chapman and Hall/CRC 2020, doi:10.1201/9780367815493.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)},
        ... )
        >>> arms = [qsp.Arm("300 mg", qsp.bolus(300.0, to="central"))]
        >>> simulator = qsp.surrogate.Patients(population, arms=arms, observed={"concentration": [0.0, 10.0]})
        >>> emulated = qsp.surrogate.fit(simulator, qsp.surrogate.Sobol(64), key=jax.random.key(0))
        >>> low, high = emulated.interval([[0.5, 0.5]])
        >>> bool(low[0, 1] < 300.0 / 30.0 * np.exp(-1.0) < high[0, 1]), emulated.mean([[0.5, 0.5]]).round(2)
        (True, Array([[10.  ,  3.68]], dtype=float64))
    """
    check_instance("simulator", simulator, AbstractSimulator, "a simulator such as Patients(...) or Function(...)")
    design = Sobol() if design is None else design
    method = GaussianProcess() if method is None else method
    check_instance("design", design, AbstractDesign, "a design such as Sobol(256)")
    check_instance("method", method, AbstractEmulator, "a method such as GaussianProcess() or Ensemble()")
    check_whole("together", together, 1)
    check_key(key)
    if learn is not None:
        check_instance("learn", learn, AbstractAcquisition, "Variance(), Boundary() or another acquisition")
    mark = "" if checkpoint is None else fingerprint(simulator, design, method, learn, key)
    made = _Simulations(simulator, together, None if checkpoint is None else Path(checkpoint), mark)
    random, lessons = generator(key), []
    made.simulate(design.points(len(simulator.inputs), random))
    even = len(made.points)
    while True:
        surrogate, lesson = _fitted(
            simulator, made, even, method, learn, jax.random.fold_in(key, len(lessons)), lessons
        )
        lessons.append(lesson)
        most = even if learn is None else max(learn.most, even)
        if progress is not None:
            figures = {"error": float(lesson.error.max()), "remaining": lesson.remaining, "failed": surrogate.failed}
            progress(Progress(len(made.points), most, figures))
        if learn is None or lesson.remaining <= float(learn.error) or len(made.points) >= most:
            return surrogate
        batch = next_points(learn, surrogate, _ends(surrogate, simulator, learn), generator(key, len(lessons)))
        made.simulate(batch[: most - len(made.points)])


class _Lesson(NamedTuple):
    simulations: int
    error: np.ndarray
    remaining: float


class _Simulations:
    """Simulations, and the file that keeps them: those that are in it already are not made again."""

    def __init__(self, simulator: AbstractSimulator, together: int, path: Path | None, mark: str) -> None:
        self._simulator, self._together, self._path, self._mark = simulator, together, path, mark
        self.points = np.zeros((0, len(simulator.inputs)))
        self.values = np.zeros((0, len(simulator.outputs)))
        self._kept = self.points, self.values
        if path is not None and path.exists():
            state = _checkpoint.loaded(path, mark, "surrogate")
            self._kept = state["points"], state["values"]

    def simulate(self, points: np.ndarray) -> None:
        """Simulate further points."""
        points = self._simulator.features.centred(points)
        for k in range(0, len(points), self._together):
            part, first = points[k : k + self._together], len(self.points)
            known = self._kept[0][first : first + len(part)]
            if np.array_equal(known, part):
                values = self._kept[1][first : first + len(part)]
            else:
                values = self._simulator.simulate(part)
            self.points, self.values = np.concatenate([self.points, part]), np.concatenate([self.values, values])
            if self._path is not None and len(self.points) > len(self._kept[0]):
                _checkpoint.save(self._path, self._mark, {"points": self.points, "values": self.values})


def _fitted(
    simulator: AbstractSimulator,
    made: _Simulations,
    even: int,
    method: AbstractEmulator,
    learn: AbstractAcquisition | None,
    key: Key,
    before: list[_Lesson],
) -> tuple[Surrogate, _Lesson]:
    """Return the surrogate that follows from the simulations so far, and what was learnt."""
    good = np.asarray(np.isfinite(made.values).all(axis=1))
    if good.sum() < _LEAST:
        must = f"must succeed at {_LEAST} points at least, but {int((~good).sum())} of {len(good)} simulations failed."
        raise ArgumentError("simulator", must)
    features, first = simulator.features(made.points), np.arange(len(good)) < even
    scale = OutputScale.of(made.values[first & good], *simulator.ends)
    scaled = scale.forward(made.values[good])
    for_outputs, for_success = jax.random.split(key)
    learnt = method.learn(features[good], scaled, first[good], for_outputs)
    success = None
    if not good.all():
        success = method.learn(features, good[:, None].astype(float), first, for_success).predictor
    scores, fair = np.abs(learnt.errors) / learnt.deviations, first[good][learnt.known]
    near = scores[_nearest(made.values[good][learnt.known], simulator, scale, fair)]
    near = np.quantile(near, 0.9, axis=0) / NINETY
    spread = np.maximum(scaled[first[good]].std(axis=0), 1e-12)
    error = np.sqrt((learnt.errors[fair] ** 2).mean(axis=0)) / spread

    def with_lessons(lessons: list[_Lesson]) -> Surrogate:
        columns = [np.array(column) for column in zip(*lessons, strict=True)]
        failed = int((~good).sum())
        parts = simulator.inputs, simulator.outputs, simulator.features, scale
        return Surrogate(
            *parts, learnt.predictor, success, np.sort(scores[fair], axis=0), near, Lessons(*columns), failed
        )

    lesson = _Lesson(len(good), error, float(error.max()))
    if learn is not None:
        surrogate = with_lessons([*before, lesson])
        points = generator(key).random((_COMPARED, len(simulator.inputs)))
        ends = _ends(surrogate, simulator, learn)
        lesson = lesson._replace(remaining=learn.remaining(error, *predicted(surrogate, points), ends))
    return with_lessons([*before, lesson]), lesson


def _nearest(values: np.ndarray, simulator: AbstractSimulator, scale: OutputScale, fair: np.ndarray) -> np.ndarray:
    """Return which simulations standard deviations near the bounds are measured by: the nearest, or all even ones."""
    if not np.isfinite(simulator.ends).any():
        return np.flatnonzero(fair)
    scaled, (low, high) = scale.forward(values), on_scale(scale, simulator.ends)
    outside = np.maximum(np.maximum(low - scaled, scaled - high), 0.0).max(axis=1)
    return np.argsort(outside, kind="stable")[: max(len(values) // _NEAR, min(_LEAST_NEAR, len(values)))]


def _ends(surrogate: Surrogate, simulator: AbstractSimulator, learn: AbstractAcquisition) -> np.ndarray:
    return scaled_ends(surrogate, simulator.ends) if isinstance(learn, Boundary) else simulator.ends
