"""Maximum likelihood or a posteriori: from starts to optima, all in one program, resumable.

Starts wait in a queue for one of a fixed number of slots, so that one compiled program serves them all, and a start
that has ended frees its slot at once.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._extras import require
from qspjax._fingerprint import fingerprint
from qspjax._model import AbstractModel
from qspjax._progress import Compilations, Progress
from qspjax._types import Key
from qspjax.fit._patients import patients_of, population_of, predicted, split
from qspjax.fit._problem import Problem
from qspjax.fit._types import Numbers, Table
from qspjax.fit._uncertainty import Uncertainty, fisher_information
from qspjax.fit._wald import drawn_points
from qspjax.fit.search import _checkpoint
from qspjax.fit.search._analytic import Analytic
from qspjax.fit.search._evolution import DifferentialEvolution
from qspjax.fit.search._gauss_newton import TrustRegion
from qspjax.fit.search._search import (
    FAILED,
    GIVEN_UP,
    RUNNING,
    STATUS,
    AbstractSearch,
    Search,
    begun,
    centre,
    looseness,
    quickly_compiled,
    stepped,
)
from qspjax.fit.search._starts import AbstractStarts, MultiStart
from qspjax.fit.training._descent import Descent
from qspjax.population import Population

if TYPE_CHECKING:
    import pandas

SAVED_EVERY = 10.0
"""Seconds between two checkpoints."""
FORMAT = 3
"""What a checkpoint holds; another number than that of an earlier version."""
RESULTS_OF_STARTS = ("ended", "tried", "values", "status", "steps", "failures", "left_out")
"""What is known of each start."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Optima from one or more starts, the best first.

    Attributes:
        problem: What was fitted.
        method: A description of the method.
        starts: Where each search began, shape (starts, parameters), on the scale of the search.
        points: Where each search ended.
        values: The log density there, -inf where the start failed.
        status: How each search ended, see `status_text`.
        steps: The number of evaluations of each.
        failures: The number of evaluations of each that failed.
        number: The number of each start, in the original order.
        history: The log density of each start after each of its steps, NaN after its end, shape (starts, steps).
        seconds: The time it took.
        tried: The point of the last evaluation of each, shape (starts, parameters).
        notes: What each step of a `Descent` has noted, NaN after its end, shape (starts, steps, notes); see `course`.
        left_out: How often each start left out each experiment because its simulation failed, shape (starts,
            experiments).

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> found = estimate(problem)
        >>> found.status_text(0), round(found.parameters["CL"], 2)
        ('converged', 2.98)
    """

    problem: Problem
    method: str
    starts: np.ndarray
    points: np.ndarray
    values: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    failures: np.ndarray
    number: np.ndarray
    history: np.ndarray
    seconds: float
    tried: np.ndarray | None = None
    notes: np.ndarray | None = None
    left_out: np.ndarray | None = None

    @property
    def x(self) -> np.ndarray:
        """The best point, on the scale of the search."""
        return self.points[0]

    @property
    def log_density(self) -> float:
        """The log density at the best point."""
        return float(self.values[0])

    @property
    def parameters(self) -> dict[str, float]:
        """The natural values of the free numbers at the best point."""
        return dict(zip(self.problem.free, self._natural()[0].tolist(), strict=True))

    @property
    def networks(self) -> dict[str, PyTree]:
        """The parts of the model whose weights were estimated, with those of the best point, by name."""
        return self.problem.networks(self.x)

    @property
    def fitted_model(self) -> AbstractModel:
        """The model with the numbers and weights of the best point; what experiments set is not in it."""
        return self.problem.fitted_model(self.x)

    def _natural(self) -> np.ndarray:
        """Return the natural values of the numbers of all points, shape (starts, numbers), clipped to the bounds."""
        free = self.problem.free.values()
        values = np.asarray(jax.vmap(self.problem.natural)(jnp.asarray(self.points)))[:, : len(free)]
        return np.clip(values, [parameter.lower for parameter in free], [parameter.upper for parameter in free])

    def reached(self, within: float = 0.1) -> int:
        """Return how many searches ended within a distance of the best log density."""
        return int(np.sum(self.values >= self.values[0] - within))

    def status_text(self, start: int) -> str:
        """Return in words how the search of a start ended."""
        return STATUS[int(self.status[start])]

    def reasons(self, start: int) -> list[str]:
        """Return why the last evaluation of a start that failed, or went on failing, did so; empty for any other.

        Args:
            start: The number of the start in the order of `points`.
        """
        if int(self.status[start]) not in (FAILED, GIVEN_UP):
            return []
        point = self.starts[start] if self.tried is None else self.tried[start]
        return self.problem.failures(jnp.asarray(point)) or ["The derivatives of the log density are not finite."]

    def course(self, start: int = 0) -> Table:
        """Return the course of a training by `Descent`, step by step, as columns: the data of `plot.training`.

        The columns are `step`; `training` and `held_out`, the mean negative log likelihood of a measurement;
        `penalty`; `mechanism_slope` and `networks_slope`, the norm of the gradient of each group; `networks_size`, that
        of the weights; and `left_out`, the number of experiments that were.

        Args:
            start: The number of the start in the order of `points`.

        Raises:
            ValueError: If the method was another one.
        """
        if self.notes is None:
            raise ValueError(f"A course has been noted by Descent() only, but the method was {self.method}.")
        notes = self.notes[start]
        notes = notes[: np.isfinite(notes[:, 0]).sum()] if np.isnan(notes[-1]).all() else notes
        return {"step": np.arange(1, len(notes) + 1), **dict(zip(Descent.noted, notes.T, strict=True))}

    def who_was_left_out(self, start: int = 0) -> dict[str, int]:
        """Return how often each experiment was left out of a step because its simulation failed, without those never.

        Args:
            start: The number of the start in the order of `points`.
        """
        counts = np.zeros(len(self.problem.experiments), int) if self.left_out is None else self.left_out[start]
        return {name: int(n) for name, n in zip(self.problem.experiments, counts, strict=True) if n}

    @cached_property
    def _uncertainty(self) -> Uncertainty:
        return Uncertainty(self.problem, self.x, fisher_information(self.problem, self.x))

    def _points(self, key: Key, size: int) -> np.ndarray:
        for direction in self._uncertainty.open_directions:
            components = ", ".join(f"{name} {share:+.2f}" for name, share in direction.items())
            raise ValueError(f"Parameters cannot be drawn: the data say nothing about the direction {components}.")
        free = [*self.problem.free.values()]
        return drawn_points(free, self.x, self._uncertainty.covariance, key=key, size=size)

    def draws(self, *, key: Key, size: int) -> dict[str, np.ndarray]:
        """Return draws of the numbers with their uncertainty, natural values by name, shape (size,).

        They are normal about the estimates with the inverse of the Fisher information, on the scales of
        `Uncertainty.intervals`, and stay within their bounds.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of draws.

        Raises:
            ValueError: If the data say nothing about some direction of the parameters.
        """
        natural = np.asarray(jax.vmap(self.problem.natural)(jnp.asarray(self._points(key, size))))
        return dict(zip(self.problem.free, natural.T, strict=False))

    def population(self, *, experiment: str | None = None) -> Population:
        """Return a population of identical patients with the estimates.

        Args:
            experiment: The experiment whose settings they have; by default those that all experiments share.

        Raises:
            ValueError: If experiments have different settings and none is named, or do not begin as the model does.
        """
        return population_of(self.problem, self.x, experiment)

    def patients(self, *, key: Key, size: int, experiment: str | None = None) -> Cohort:
        """Return patients, each with its own draw of the parameters: they differ by the uncertainty of the estimates.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of patients.
            experiment: As in `population`.
        """
        for_points, for_patients = split(key)
        points = self._points(for_points, size)
        return patients_of(lambda x: population_of(self.problem, x, experiment), points, key=for_patients)

    def predict(
        self,
        regimen: Regimen,
        ts: Numbers,
        *,
        key: Key,
        size: int = 1000,
        level: float = 0.9,
        experiment: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return predictions of a new regimen, with a band of uncertainty, as columns: the data of `plot.prediction`.

        Args:
            regimen: The doses.
            ts: Times, shape (times,).
            key: `jax.random.key(seed)`.
            size: The number of patients.
            level: The share of them that the band holds.
            experiment: As in `population`.

        Returns:
            OUTPUT (the name of what is observed), TIME, their UNIT and TIME_UNIT, LOWER, MEDIAN, UPPER and COUNT, the
            number of patients that did not fail.

        Example:
            >>> import jax, qspjax as qsp
            >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
            >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
            >>> problem = Problem(
            ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
            ...     Experiment(data, qsp.bolus(300.0, to="central")),
            ...     {"concentration": Output("concentration", Additive(0.1))},
            ...     {"CL": Free(3.0), "V": Free(30.0)},
            ... )
            >>> fit = estimate(problem)
            >>> twice = qsp.bolus(150.0, to="central").every(12.0, doses=2)
            >>> table = fit.predict(twice, [6.0, 12.0, 18.0], key=jax.random.key(1), size=200)
            >>> qsp.plot.prediction(table).get_ylabel()
            'concentration (mg/L)'
        """
        patients = self.patients(key=key, size=size, experiment=experiment)
        return predicted(patients, regimen, ts, level=level, method=self.problem.method)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per start, the best first, and the natural value of each parameter."""
        pandas = require("pandas", extra="data")
        table = {
            "start": self.number,
            "log_density": self.values,
            "status": [STATUS[int(code)] for code in self.status],
            "steps": self.steps,
            "failures": self.failures,
        }
        return pandas.DataFrame(table | dict(zip(self.problem.free, self._natural().T, strict=True)))

    def __str__(self) -> str:
        rows = [f"{name:<24}{value:>14.6g}" for name, value in self.parameters.items()]
        rows += [f"{block.name:<24}{block.size:>14} weights" for block in self.problem.weights.blocks]
        done = (
            f"{self.reached()} of {len(self.values)} starts within 0.1 of it"
            if len(self.values) > 1
            else self.status_text(0)
        )
        if left_out := self.who_was_left_out():
            rows += ["left out where they failed: " + ", ".join(f"{name} ({n})" for name, n in left_out.items())]
        return "\n".join([f"log density {self.log_density:.6g} by {self.method}; {done}", *rows])


def estimate(
    problem: Problem,
    *,
    method: AbstractSearch | DifferentialEvolution | None = None,
    starts: AbstractStarts | Numbers | None = None,
    analytic: Analytic | None = None,
    lanes: int = 16,
    checkpoint: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Fit:
    """Find the parameters at which the log density is greatest.

    Args:
        problem: The model and the data.
        method: The search: `TrustRegion()` (the default), `LevenbergMarquardt()`, `LBFGS()`, `Adam()` or
            `Descent()` for networks, or `DifferentialEvolution(key=...)`.
        starts: The starts: `MultiStart(100, key=...)`, `Members(...)` or `Collocation()` for networks, points of shape
            (starts, parameters) on the scale of the search, or None for the start of each parameter.
        analytic: Which scales, offsets and noise parameters are solved for instead of searched; by default none.
        lanes: How many starts are searched side by side.
        checkpoint: A file in which the state is saved every few seconds; if it exists already, the estimation continues
            from it, and ends with the same optima as without the interruption.
        progress: Called after every step of all starts that are searched side by side; and, from another thread, where
            a program takes more than two seconds to compile.

    Returns:
        A `Fit`, in which a start that failed has that status. Simulations of a search have a relative tolerance of 1e-6
        or that of the method, whichever is greater, until it has ended there; it then goes on with that of the method,
        to which all log densities of the `Fit` belong.

    Raises:
        ValueError: If starts have a wrong shape, or the checkpoint is that of another estimation.
        RuntimeError: If no start can be evaluated; the message says which experiment fails, where and why.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=1.0, V=50.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(1.0), "V": Free(50.0)},
        ... )
        >>> {name: round(value, 2) for name, value in estimate(problem).parameters.items()}
        {'CL': 2.98, 'V': 30.03}
    """
    check_instance("problem", problem, Problem, "a Problem")
    method = TrustRegion() if method is None else method
    check_instance("method", method, (AbstractSearch, DifferentialEvolution), "a method such as TrustRegion()")
    check_whole("lanes", lanes, 1)
    if analytic is not None:
        check_instance("analytic", analytic, Analytic, "Analytic()")
    searched = problem if analytic is None else analytic.solving(problem)
    began = time.perf_counter()
    evolves = isinstance(method, DifferentialEvolution)
    points = np.zeros((1, 0)) if evolves else _points(problem, starts)

    def standing(done: int, total: int, best: float, steps: int) -> Progress:
        rate = steps / max(time.perf_counter() - began, 1e-9)
        return Progress(done, total, {"best": best, "steps": steps, "rate": rate})

    def tell(reached: Progress) -> None:
        compiling.end()
        if progress is not None:
            progress(reached)

    with Compilations(progress, 3 if evolves else 2) as compiling:
        compiling.begin(standing(0, len(points), -np.inf, 0))
        if isinstance(method, DifferentialEvolution):
            points = method.search(searched, lambda generations, best: tell(standing(0, 1, best, generations)))
            search = method.polish
            compiling.begin(standing(0, 1, -np.inf, 0))
        else:
            search = method
        refuge = centre(problem) if isinstance(starts, MultiStart) else None
        run = _Run(searched, search, analytic, points, min(lanes, len(points)), refuge)
        file = None if checkpoint is None else Path(checkpoint)
        if file is not None and file.exists():
            run.load(file)
        saved = time.perf_counter()
        while run.going:
            compiling.begin(standing(*run.reached))
            run.advance()
            tell(standing(*run.reached))
            if file is not None and time.perf_counter() - saved > SAVED_EVERY:
                run.save(file)
                saved = time.perf_counter()
    if file is not None:
        run.save(file)
    return dataclasses.replace(run.fit(method.describe(), time.perf_counter() - began), problem=problem)


def _points(problem: Problem, starts: AbstractStarts | Numbers | None) -> np.ndarray:
    if starts is None:
        return np.asarray(problem.start)[None]
    if isinstance(starts, AbstractStarts):
        return starts.points(problem)
    points = np.asarray(starts, float)
    if points.ndim != 2 or points.shape[1] != len(problem.names) or not len(points):
        refuse("starts", f"have shape (starts, {len(problem.names)})", f"of shape {points.shape}")
    if not np.isfinite(points).all():
        refuse("starts", "be finite", "not")
    outside = (points < np.asarray(problem.bounds[0]) - 1e-9) | (points > np.asarray(problem.bounds[1]) + 1e-9)
    if outside.any():
        start, parameter = np.argwhere(outside)[0]
        refuse("starts", "lie within the bounds", f"outside in `{problem.names[parameter]}` of start {start}")
    return points


class _Run:
    """Starts in their slots and in the queue, and their results."""

    def __init__(
        self,
        problem: Problem,
        method: AbstractSearch,
        analytic: Analytic | None,
        points: np.ndarray,
        lanes: int,
        refuge: Array | None = None,
    ) -> None:
        self.problem, self.method, self.points = problem, method, points
        self.described = (method, repr(analytic), refuge is not None)
        count, size = points.shape
        self.ended, self.tried = points.copy(), points.copy()
        self.values = np.full(count, -np.inf)
        self.status = np.full(count, RUNNING)
        self.steps, self.failures = np.zeros(count, int), np.zeros(count, int)
        self.history: list[tuple[int, int, float]] = []
        self.notes: list[tuple[float, ...]] = []
        self.left_out = np.zeros((count, len(problem.experiments) if method.noted else 0), int)
        self.owner = np.arange(lanes)
        self.waiting = lanes
        self.total_steps = 0
        free = jnp.zeros(size, bool)
        looser = looseness(problem)
        self._begin = jax.jit(jax.vmap(lambda x: begun(method, problem, x, looser)))
        self._refilled = jax.jit(_refilled)
        self._step = quickly_compiled(jax.vmap(lambda search: stepped(method, problem, search, free, refuge)))
        self.slots: Search = self._begin(jnp.asarray(points[:lanes]))

    @property
    def done(self) -> np.ndarray:
        """Which starts have ended."""
        return self.status != RUNNING

    @property
    def going(self) -> bool:
        """Whether any start has not ended."""
        return not self.done.all()

    @property
    def best(self) -> float:
        """The greatest log density so far."""
        return float(np.max(self.values))

    @property
    def reached(self) -> tuple[int, int, float, int]:
        """The numbers of starts that have ended and of all, the best so far, and the evaluations that it took."""
        return int(self.done.sum()), len(self.points), self.best, int(self.total_steps)

    def advance(self) -> None:
        """Take one step of all starts in their slots; where one ends, the next one from the queue begins."""
        self.slots = self._step(self.slots)
        status, steps, value, failures = (
            np.asarray(x) for x in (self.slots.status, self.slots.steps, self.slots.value, self.slots.failures)
        )
        points, tried = np.asarray(self.slots.x), np.asarray(self.slots.tried)
        noted = np.asarray(self.slots.own.noted) if self.method.noted else None
        left_out = np.asarray(self.slots.own.left_out) if self.method.noted else None
        new_slots = []
        for slot, start in enumerate(self.owner):
            if start < 0:
                continue
            self.total_steps += 1
            self.history.append((int(start), int(steps[slot]), -float(value[slot])))
            self.values[start], self.ended[start], self.tried[start] = -value[slot], points[slot], tried[slot]
            self.status[start], self.steps[start] = status[slot], steps[slot]
            self.failures[start] = failures[slot]
            if noted is not None and left_out is not None:
                self.notes.append((float(start), float(steps[slot]), *noted[slot].tolist()))
                self.left_out[start] = left_out[slot]
            if status[slot] != RUNNING:
                has_next = self.waiting < len(self.points)
                self.owner[slot] = self.waiting if has_next else -1
                self.waiting += has_next
                if has_next:
                    new_slots.append(slot)
        if new_slots:
            is_new = np.zeros(len(self.owner), bool)
            is_new[new_slots] = True
            begin = self._begin(jnp.asarray(self.points[np.maximum(self.owner, 0)]))
            self.slots = self._refilled(is_new, begin, self.slots)

    def fit(self, method: str, seconds: float) -> Fit:
        """Return the optima, the best first."""
        if (self.status == FAILED).all():
            reasons = self.problem.failures(jnp.asarray(self.points[0])) or ["The log density is not a number."]
            raise RuntimeError(f"No start can be evaluated ({len(self.points)} tried). The first: {reasons[0]}")
        order = np.argsort(-self.values, kind="stable")
        history = np.full((len(self.points), int(self.steps.max(initial=1))), np.nan)
        for start, step, value in self.history:
            history[start, step - 1] = value
        notes = np.full((*history.shape, len(self.method.noted)), np.nan)
        for start, step, *noted in self.notes:
            notes[int(start), int(step) - 1] = noted
        return Fit(
            problem=self.problem,
            method=method,
            starts=self.points[order],
            points=self.ended[order],
            values=self.values[order],
            status=self.status[order],
            steps=self.steps[order],
            failures=self.failures[order],
            number=order,
            history=history[order],
            seconds=seconds,
            tried=self.tried[order],
            notes=notes[order] if self.notes else None,
            left_out=self.left_out[order] if self.notes else None,
        )

    # --- checkpoints ------------------------------------------------------------------------------------------------

    @cached_property
    def mark(self) -> str:
        """The fingerprint of this estimation."""
        return fingerprint(FORMAT, self.problem.content(), self.described, self.points, len(self.owner))

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        slots = {f"slot{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.slots))}
        names = (*RESULTS_OF_STARTS, "owner", "waiting", "total_steps")
        state = {name: np.asarray(getattr(self, name)) for name in names}
        history = np.array(self.history, float).reshape(-1, 3)
        notes = np.array(self.notes, float).reshape(-1, 2 + len(self.method.noted))
        _checkpoint.save(path, self.mark, {"history": history, "notes": notes, **slots, **state})

    def load(self, path: Path) -> None:
        """Continue from a state.

        Raises:
            ValueError: If it is that of another estimation, or not a checkpoint.
        """
        state = _checkpoint.loaded(path, self.mark, "estimation")
        leaves, structure = jax.tree.flatten(self.slots)
        self.slots = jax.tree.unflatten(structure, [jnp.asarray(state[f"slot{i}"]) for i in range(len(leaves))])
        for name in (*RESULTS_OF_STARTS, "owner"):
            setattr(self, name, state[name].copy())
        self.waiting, self.total_steps = int(state["waiting"]), int(state["total_steps"])
        self.history = [(int(a), int(b), float(c)) for a, b, c in state["history"]]
        self.notes = [tuple(row) for row in state["notes"].tolist()]


def _refilled(is_new: Array, begin: Search, slots: Search) -> Search:
    """Return the state of all slots, with the beginning of a search in those that are new."""
    return jax.vmap(lambda new, ours, old: jax.tree.map(lambda a, b: jnp.where(new, a, b), ours, old))(
        is_new, begin, slots
    )
