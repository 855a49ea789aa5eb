"""Maximum likelihood of a mixed-effects model: from a start to estimates, resumable."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from qspjax._checks import ArgumentError, check_instance, check_whole, refuse
from qspjax._fingerprint import fingerprint
from qspjax._progress import Compilations, Progress
from qspjax.fit._types import Point
from qspjax.fit.mixed._approximations import FOCEI, AbstractApproximation
from qspjax.fit.mixed._descent import FAR, Descent, are_many, direction, products, renewed, updated
from qspjax.fit.mixed._integrated import IntegratedRun
from qspjax.fit.mixed._marginal import AbstractIntegral, Quadrature
from qspjax.fit.mixed._mixed import AbstractMixed
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.mixed._objective import Evaluation, objective_program
from qspjax.fit.mixed._result import MixedFit
from qspjax.fit.mixed._saem import StochasticRun
from qspjax.fit.mixed._settings import SAEM
from qspjax.fit.search._checkpoint import loaded, save

HALVINGS = 12
"""How many times a step is halved before the search gives up."""
INTEGRATED_ITERATIONS = 500
"""The maximum number of iterations where random effects are integrated out, by default."""
FEWEST_POINTS = 3
"""The least number of points for each effect of a quadrature whose derivative leaves out that its points move."""


def nlme(
    mixed: AbstractMixed,
    *,
    method: AbstractApproximation | AbstractIntegral | SAEM | None = None,
    start: Point | None = None,
    iterations: int | None = None,
    tolerance: float = 1e-6,
    checkpoint: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> MixedFit:
    """Find the parameters of a population, its covariance and its noise, at which the likelihood is greatest.

    The modes of the random effects of all subjects are found side by side at every point, each from its last value; the
    gradient of the objective is exact (see `AbstractApproximation`). A subject that cannot be simulated at the start is
    left out and named in the result; a step at which another one fails is shortened.

    Weights of networks (`Weights`) need `Quadrature` or `ImportanceSampling`: their gradient costs two adjoints of the
    simulations at all points of the integral, however many weights there are.

    Args:
        mixed: The model and the data: a `MixedModel` or a `Mixture`.
        method: How the likelihood is approximated: `FOCEI()` (the default), `FOCE()`, `FO()` or `Laplace()`; or
            `SAEM()`, which does not approximate it; or `Quadrature(5)` or `ImportanceSampling(256, key=...)`, which
            integrate the random effects out, with the gradient by the adjoint: these estimate weights of networks.
        start: The point to begin at, on the scale of the search; by default `mixed.start`.
        iterations: The maximum number of iterations; by default 200, for `SAEM` all its iterations, and 500 where the
            random effects are integrated out.
        tolerance: The search ends when the next step should lower the objective by less than this.
        checkpoint: A file in which the state is saved after every iteration; if it exists already, the estimation
            continues from it.
        progress: Called after every iteration; and, from another thread, where a program takes more than two seconds to
            compile.

    Returns:
        A `MixedFit`.

    Raises:
        ValueError: If the start has a wrong shape, nothing depends on what is estimated, the method cannot estimate
            weights, or the checkpoint is that of another estimation.
        RuntimeError: If no subject can be evaluated at the start.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="concentration")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.5)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> fit = nlme(mixed)
        >>> round(fit.parameters["tCL"], 1)
        2.8
    """
    check_instance("mixed", mixed, AbstractMixed, "a MixedModel")
    method = FOCEI() if method is None else method
    check_instance("method", method, (AbstractApproximation, AbstractIntegral, SAEM), "a method such as FOCEI()")
    if isinstance(mixed, Mixture) and not isinstance(method, AbstractApproximation):
        refuse("method", "be FOCEI, FOCE, FO or Laplace for a mixture", type(method).__name__)
    if isinstance(method, Quadrature) and method.size < FEWEST_POINTS:
        refuse("method", f"have at least {FEWEST_POINTS} points for each effect", f"Quadrature({method.size})")
    default = INTEGRATED_ITERATIONS if isinstance(method, AbstractIntegral) else method.iterations
    most = default if iterations is None else iterations
    check_whole("iterations", most, 0)
    x = np.asarray(mixed.start if start is None else start, float)
    if x.shape != mixed.start.shape or not np.isfinite(x).all():
        refuse("start", f"have {mixed.start.size} finite numbers", f"of shape {x.shape}, or not finite")
    x = np.clip(x, *mixed.bounds)
    with Compilations(progress, 1) as compiling:
        compiling.begin(Progress(0, most, {"objective": np.nan, "gain": np.nan}))
        run = _begun(mixed, method, x)
    file = None if checkpoint is None else Path(checkpoint)
    mark = "" if file is None else _mark(run)
    if file is not None and file.exists():
        run.restore(loaded(file, mark, "estimation"))
    while not run.ended and run.iterations < most:
        run.advance(tolerance)
        if progress is not None:
            progress(Progress(run.iterations, most, dict(zip(("objective", "gain"), run.standing, strict=True))))
        if file is not None:
            save(file, mark, run.state())
    return run.result()


def _begun(
    mixed: AbstractMixed, method: AbstractApproximation | AbstractIntegral | SAEM, x: np.ndarray
) -> "StochasticRun | IntegratedRun | DescentRun":
    """Return an estimation at its start."""
    if isinstance(method, AbstractIntegral):
        return IntegratedRun(mixed.copies, method, x)
    check_numbers_only(mixed, method)
    return StochasticRun(mixed.copies, method, x) if isinstance(method, SAEM) else DescentRun(mixed, method, x)


def check_numbers_only(mixed: AbstractMixed, method: AbstractApproximation | SAEM) -> None:
    """Refuse weights for a method that differentiates simulations in one parameter after the other."""
    for block in mixed.weights.blocks:
        must = f"be Quadrature(5) or ImportanceSampling(256, key=...) for the weights of `{block.name}`"
        refuse("method", must, f"{type(method).__name__}, which estimates numbers only")


class DescentRun:
    """An estimation under way.

    Args:
        mixed: The problem.
        method: How its likelihood is approximated.
        x: The point to begin at.
        weights: How many times each subject counts, shape (subjects,); by default once.
        first: The objective there, if it is known.

    Raises:
        RuntimeError: If no subject can be evaluated at the start.
    """

    def __init__(
        self,
        mixed: AbstractMixed,
        method: AbstractApproximation,
        x: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        first: Evaluation[np.ndarray] | None = None,
    ) -> None:
        self.mixed, self.method, self.start = mixed, method, x
        self.began = time.perf_counter()
        self.program = objective_program(mixed, method)
        self.u = np.zeros((mixed.copies.count, len(mixed.copies.effects)))
        first = self.evaluated(x, self.u) if first is None else first
        self.kept = ~first.failed
        self.weights = np.ones(first.failed.size) if weights is None else weights
        self.reasons = () if self.kept.all() else mixed.reasons(~self.kept, x)
        if not self.kept.any():
            raise RuntimeError(f"No subject can be evaluated at the start. {' '.join(self.reasons[:3])}")
        _check_all_matter(mixed, first.slopes[self.kept])
        self.now = Descent(x, *self._total(x, first), self._products(first))
        self.u, self.last = first.modes, first
        self.gain, self.ended = np.inf, ""
        self.history = [self.now.value]
        self.path = [x]

    @property
    def iterations(self) -> int:
        """The number of iterations that are done."""
        return len(self.history) - 1

    @property
    def standing(self) -> tuple[float, float]:
        """The objective, and by how much the next step should lower it."""
        return self.now.value, self.gain

    def evaluated(self, x: np.ndarray, u: np.ndarray) -> Evaluation[np.ndarray]:
        """Return the objective at a point, with the modes searched from `u`."""
        return jax.tree.map(np.asarray, self.program(jnp.asarray(x), jnp.asarray(u)))

    def _total(self, x: np.ndarray, evaluation: Evaluation[np.ndarray]) -> tuple[float, np.ndarray]:
        used = self.kept & (self.weights > 0)
        if (evaluation.failed & used).any():
            return np.inf, np.zeros_like(x)
        prior, slope, _ = self.mixed.prior(x)
        weights = self.weights[used]
        return float(weights @ evaluation.values[used] - 2.0 * prior), weights @ evaluation.slopes[used] - 2.0 * slope

    def _products(self, evaluation: Evaluation[np.ndarray]) -> np.ndarray:
        used = self.kept & (self.weights > 0)
        return products(evaluation.slopes[used], self.weights[used])

    def advance(self, tolerance: float) -> None:
        """Take a step, or note that the search has ended."""
        step, self.gain = direction(self.now, self.mixed.bounds)
        if self.gain < tolerance:
            self.ended = "converged"
            return
        size, failed = 1.0, np.zeros_like(self.kept)
        for _ in range(HALVINGS):
            x = np.clip(self.now.x + size * step, *self.mixed.bounds)
            evaluation = self.evaluated(x, self.u)
            failed |= evaluation.failed & self.kept & (self.weights > 0)
            value, slope = self._total(x, evaluation)
            if value <= self.now.value + 1e-4 * float(self.now.slope @ (x - self.now.x)):
                if self.gain > FAR and are_many(evaluation.slopes):
                    self.now = renewed(self.now, x, value, slope, self._products(evaluation))
                else:
                    self.now = updated(self.now, x, value, slope)
                self.u, self.last = evaluation.modes, evaluation
                self.history.append(value)
                self.path.append(x)
                return
            size *= 0.5
        bend = self._products(self.last)
        if np.allclose(bend, self.now.bend):
            named = ", ".join(np.array(self.mixed.subject_names, dtype=object)[failed])
            blocked = f", where these have no likelihood: {named}" if named else ""
            self.ended = f"no lower point was found along the last direction{blocked}"
        self.now = self.now._replace(bend=bend, stretch=1.0)

    def result(self) -> MixedFit:
        """Return the fit."""
        mixed, u, modes, memberships = self.mixed, self.u, None, {}
        if isinstance(mixed, Mixture):
            memberships = dict(zip(mixed.subpopulations, self.last.shares.T, strict=True))
            modes, u = u, mixed.chosen(self.last.shares, u)
        return MixedFit(
            mixed=mixed,
            method=self.method,
            x=self.now.x,
            u=u,
            subject_objectives=np.where(self.kept, self.last.values, np.nan),
            kept=self.kept,
            reasons=self.reasons,
            found=self.last.found,
            history=np.array(self.history),
            path=np.array(self.path),
            status=self.ended or "iterations used up",
            seconds=time.perf_counter() - self.began,
            memberships=memberships,
            modes=modes,
        )

    def state(self) -> dict[str, ArrayLike | str]:
        """Return the state from which to continue later."""
        state = {"kept": self.kept, "u": self.u, "history": np.array(self.history), "path": np.array(self.path)}
        last = {f"last_{name}": value for name, value in vars(self.last).items()}
        return {"ended": self.ended, **self.now._asdict(), **state, **last}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state."""
        self.now = Descent(state["x"], float(state["value"]), state["slope"], state["bend"], float(state["stretch"]))
        self.last = Evaluation(**{name: state[f"last_{name}"] for name in vars(self.last)})
        self.kept, self.u, self.ended = state["kept"], state["u"], str(state["ended"])
        self.history, self.path = state["history"].tolist(), [*state["path"]]


def _mark(run: DescentRun | IntegratedRun | StochasticRun) -> str:
    """Return the fingerprint of an estimation, of the model, the data, the method and the start."""
    return fingerprint(run.mixed.content(), run.method, run.start)


def _check_all_matter(mixed: AbstractMixed, slopes: np.ndarray) -> None:
    """Refuse a parameter that changes nothing: a search would return its start."""
    for k, (name, free) in enumerate(mixed.free.items()):
        if name not in mixed.space.shares and free.prior is None and not slopes[:, k].any():
            must = f"must all have an effect on measurements, but at the start these do not depend on `{name}`."
            raise ArgumentError("parameters", must)
