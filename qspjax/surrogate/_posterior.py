"""Neural posterior estimation: a conditional density learns, from simulations, what parameters follow from data.

    theta ~ p(theta),  y ~ p(y | theta),  q = argmin -sum log q(theta | s(y))

Once trained, a posterior costs no simulation: it is amortised over all data of the same design. q is a normalising flow
(masked autoregressive, with rational quadratic splines), whose conditions are the data, or summaries s(y) of them.

References: Papamakarios and Murray, arXiv:1605.06376; Papamakarios, Pavlakou and Murray, arXiv:1705.07057; Durkan,
Bekasov, Murray and Papamakarios, arXiv:1906.04032.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_above, check_instance, check_whole, refuse
from qspjax._extras import require
from qspjax._progress import Progress
from qspjax._random import check_key
from qspjax._types import ArrayInput, Key
from qspjax.fit._problem import Problem
from qspjax.fit.bayes._calibration import Calibration, data_sets
from qspjax.fit.bayes._density import Density
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.surrogate._summaries import AbstractSummary, Measured, SubjectMoments

_LANES = 512
"""Data sets that are simulated side by side."""
_HELD_OUT = 0.05
"""The part of the simulations by which training is judged."""
_FAR = 8.0
"""Standardised data beyond this are as far as this."""


class Flow(eqx.Module):
    """How the conditional density is built and trained.

    Args:
        layers: The number of autoregressive transformations.
        width: The number of units of the hidden layer of each.
        knots: The number of knots of each spline.
        steps: The number of steps of Adam.
        batch: The number of simulations of each step.
        rate: The first rate, which falls to zero along half a cosine.

    Reference: Durkan, Bekasov, Murray and Papamakarios, arXiv:1906.04032.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.Flow(steps=1000).layers
        4
    """

    layers: int = eqx.field(default=4, static=True)
    width: int = eqx.field(default=64, static=True)
    knots: int = eqx.field(default=8, static=True)
    steps: int = eqx.field(default=4000, static=True)
    batch: int = eqx.field(default=256, static=True)
    rate: float = eqx.field(default=2e-3, static=True)

    def __check_init__(self) -> None:
        for name in ("layers", "width", "knots", "steps", "batch"):
            check_whole(name, getattr(self, name), 1)
        check_above("rate", self.rate, 0.0)


@dataclasses.dataclass(frozen=True)
class AmortisedPosterior:
    """A posterior for any data of one design.

    Attributes:
        problem: The design, the model and the priors.
        names: The parameters.
        simulations: The number of simulations that it was trained with.
        failed: The number of those that failed, which were left out.
        loss: -log q of batches in the course of training, shape (steps,).
        held_out: The mean of -log q at simulations that it was not trained with.
        seconds: The time it took.

    Example:
        >>> import qspjax as qsp
        >>> trained = qsp.surrogate.posterior(problem, key=jax.random.key(0))  # doctest: +SKIP
        >>> trained.draws([[9.1, 6.6, 4.6]], key=jax.random.key(1), size=1000)["CL"].mean()  # doctest: +SKIP
        3.0
    """

    problem: Problem | MixedModel
    names: tuple[str, ...]
    simulations: int
    failed: int
    loss: np.ndarray
    held_out: float
    seconds: float
    _density: Density = dataclasses.field(repr=False)
    _summary: AbstractSummary = dataclasses.field(repr=False)
    _trained: "_Trained" = dataclasses.field(repr=False)

    def draws(self, values: Sequence[ArrayInput] | None = None, *, key: Key, size: int) -> dict[str, np.ndarray]:
        """Return draws from the posterior of some data, natural values by name, shape (size,).

        Args:
            values: Measurements output by output, shape (rows,) each, in the order of the problem; by default its own.
            key: `jax.random.key(seed)`.
            size: The number of draws.

        Raises:
            ValueError: If there are other measurements than the design has.
        """
        natural = np.asarray(_natural(self._density, self._points(values, key, size)))
        return dict(zip(self.names, natural.T, strict=True))

    def corrected(
        self, values: Sequence[ArrayInput] | None = None, *, key: Key, size: int, proposals: int = 2000
    ) -> tuple[dict[str, np.ndarray], float]:
        """Return draws that do not depend on the error of the flow, and how many proposals they are worth.

        Proposals from the flow are drawn again with weights p(y | theta) p(theta) / q(theta | y), one simulation each.

        Args:
            values: As in `draws`.
            key: `jax.random.key(seed)`.
            size: The number of draws.
            proposals: The number of simulations.

        Returns:
            Natural values by name, shape (size,), and the effective sample size of the weights.

        Raises:
            ValueError: If the problem has random effects, whose likelihood is an integral.
        """
        if self._density.size > len(self.names):
            refuse("problem", "be a `Problem`, whose likelihood is known", "a model with random effects")
        for_points, for_choice = jax.random.split(check_key(key))
        z = self._points(values, for_points, proposals)
        measured = self._measured(values)
        condition = self._trained.conditions(self._summary(measured, self._density)[None])[0]
        proposed = self._trained.log_prob(z, jnp.broadcast_to(condition, (len(z), condition.size)))
        own = [jnp.asarray(column) for column in measured]
        exact = jax.jit(jax.vmap(lambda z: self._density(z, own)))(z)
        weight = np.asarray(jax.nn.softmax(jnp.where(jnp.isfinite(exact), exact - proposed, -jnp.inf)))
        chosen = jax.random.choice(for_choice, len(z), (size,), p=jnp.asarray(weight))
        natural = np.asarray(_natural(self._density, z[chosen]))
        return dict(zip(self.names, natural.T, strict=True)), float(1.0 / np.sum(weight**2))

    def calibration(self, *, key: Key, simulations: int = 500, draws: int = 99) -> Calibration:
        """Rank parameters from the prior among draws from their posterior: uniformly, if it is calibrated.

        Args:
            key: `jax.random.key(seed)`.
            simulations: The number of data sets.
            draws: The number of draws from the posterior of each.

        Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv:1804.06788.
        """
        check_whole("simulations", simulations, 2)
        check_whole("draws", draws, 1)
        began = time.perf_counter()
        for_data, for_draws = jax.random.split(check_key(key))
        lanes = min(_LANES, simulations)
        z, values, failed = data_sets(self._density, simulations, lanes, for_data)
        conditions = self._trained.conditions(_summaries(self._summary, values, self._density))
        keys = jax.random.split(for_draws, len(z))
        drawn = np.asarray(self._trained.sampled(keys, conditions, draws))
        flat = drawn.reshape(-1, drawn.shape[-1])
        natural = np.asarray(_natural(self._density, jnp.asarray(flat))).reshape(drawn.shape)
        truth = np.asarray(_natural(self._density, jnp.asarray(z[:, : len(self.names)])))
        rank = (natural < truth[:, None]).sum(axis=1)
        none, zero = np.full(len(z), np.nan), np.zeros(len(z))
        seconds = time.perf_counter() - began
        return Calibration(self.names, truth, rank, draws, none, zero, failed, key, seconds)

    def _measured(self, values: Sequence[ArrayInput] | None) -> list[np.ndarray]:
        rows = self._density.likelihood.rows
        own = [np.asarray(each.value, float) for each in rows]
        if values is None:
            return own
        given = [np.asarray(each, float) for each in values]
        shapes = [each.shape for each in own]
        if [each.shape for each in given] != shapes:
            refuse("values", f"have shapes {shapes}, output by output", f"of {[each.shape for each in given]}")
        return given

    def _points(self, values: Sequence[ArrayInput] | None, key: Key, size: int) -> Array:
        check_key(key)
        check_whole("size", size, 1)
        condition = self._trained.conditions(self._summary(self._measured(values), self._density)[None])
        return jnp.asarray(self._trained.sampled(key[None], condition, size)[0])

    def __str__(self) -> str:
        failed = f", {self.failed} of which failed" if self.failed else ""
        return (
            f"posterior of {', '.join(self.names)} from {self.simulations} simulations{failed}, "
            f"-log q {self.held_out:.3f} at those left out, {self.seconds:.1f} s"
        )


def posterior(
    problem: Problem | MixedModel,
    method: Flow | None = None,
    *,
    key: Key,
    simulations: int = 20_000,
    summary: AbstractSummary | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AmortisedPosterior:
    """Train a posterior that is amortised over data, from simulations of the prior and the error model.

    $$ \\theta \\sim p(\\theta), \\quad y \\sim p(y | \\theta), \\quad
       q = \\arg\\min -\\sum \\log q(\\theta | s(y)) $$

    For a `Problem` the data are those of all its experiments, such as the concentrations of one patient. For a
    `MixedModel` what is inferred are its parameters and Omega, from summaries of all subjects.

    Args:
        problem: The design, the model and the priors, which must be distributions; its measurements do not matter.
        method: `Flow()` unless given.
        key: `jax.random.key(seed)`.
        simulations: The number of data sets.
        summary: What is told of the data: for a `Problem` by default the measurements themselves, `Measured()`, for a
            `MixedModel` `SubjectMoments()`.
        progress: Called after the simulations, and after training.

    Returns:
        An `AmortisedPosterior`.

    Raises:
        ValueError: If a prior cannot be drawn from, or nearly all simulations fail.
        ImportError: If flowjax is missing (extra `sbi`).

    Reference: Papamakarios and Murray, arXiv:1605.06376.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, prior=qsp.LogNormal(2.0, cv=0.5))},
        ... )
        >>> trained = qsp.surrogate.posterior(problem, key=jax.random.key(0))  # doctest: +SKIP
        >>> trained.draws(key=jax.random.key(1), size=1000)["CL"].mean().round(1)  # doctest: +SKIP
        2.6
    """
    check_key(key)
    method = Flow() if method is None else method
    check_instance("method", method, Flow, "a Flow(...)")
    check_whole("simulations", simulations, 100)
    density = Density(problem)
    if not density.proper:
        raise ArgumentError("problem", "must have priors that are distributions, since data are simulated from them.")
    if summary is None:
        summary = SubjectMoments() if isinstance(problem, MixedModel) else Measured()
    check_instance("summary", summary, AbstractSummary, "a summary such as Measured() or SubjectMoments()")
    require("flowjax.flows", extra="sbi")
    began = time.perf_counter()
    for_data, for_flow = jax.random.split(key)
    z, values, failed = data_sets(density, simulations, min(_LANES, simulations), for_data)
    z = z[:, : len(density.names)]
    if progress is not None:
        progress(Progress(0, method.steps, {"simulations": simulations}))
    trained, loss, held_out = _fitted(method, z, _summaries(summary, values, density), for_flow)
    if progress is not None:
        progress(Progress(method.steps, method.steps, {"loss": held_out}))
    seconds = time.perf_counter() - began
    names = tuple(density.names)
    return AmortisedPosterior(problem, names, simulations, failed, loss, held_out, seconds, density, summary, trained)


class _Trained(eqx.Module):
    """A trained flow, and how points and data are standardised."""

    flow: Any
    z_centre: np.ndarray
    z_size: np.ndarray
    bend: np.ndarray
    y_centre: np.ndarray
    y_size: np.ndarray

    def conditions(self, summaries: np.ndarray) -> Array:
        """Return what the flow is told, shape (data sets, summaries): bent, so that few decades are few units."""
        bent = np.arcsinh(summaries / self.bend)
        return jnp.asarray(np.clip((bent - self.y_centre) / self.y_size, -_FAR, _FAR))

    def log_prob(self, z: Array, conditions: Array) -> Array:
        """Return log q of points z."""
        return _log_prob(self.flow, (z - self.z_centre) / self.z_size, conditions) - np.log(self.z_size).sum()

    def sampled(self, keys: Array, conditions: Array, size: int) -> np.ndarray:
        """Return draws for several data sets, shape (data sets, size, names)."""
        return self.z_centre + self.z_size * np.asarray(_sampled(self.flow, keys, conditions, size), float)


@eqx.filter_jit
def _log_prob(flow: Any, z: Array, conditions: Array) -> Array:
    return require("paramax", extra="sbi").unwrap(flow).log_prob(z, conditions)


@eqx.filter_jit
def _sampled(flow: Any, keys: Array, conditions: Array, size: int) -> Array:
    whole = require("paramax", extra="sbi").unwrap(flow)
    return jax.lax.map(lambda each: whole.sample(each[0], (size,), condition=each[1]), (keys, conditions))


def _natural(density: Density, z: Array) -> Array:
    """Return natural values of the parameters, shape (draws, names)."""
    return _natural_values(density.problem.natural, density.line.point, z)


def _natural_values(natural: Callable[[Array], Array], point: Callable[[Array], Array], z: Array) -> Array:
    return jax.jit(jax.vmap(lambda z: natural(point(z))))(z)


def _summaries(summary: AbstractSummary, values: list[np.ndarray], density: Density) -> np.ndarray:
    """Return the summaries of many data sets, shape (data sets, summaries)."""
    return np.stack([summary([column[i] for column in values], density) for i in range(len(values[0]))])


def _fitted(method: Flow, z: np.ndarray, summaries: np.ndarray, key: Key) -> tuple[_Trained, np.ndarray, float]:
    """Return the trained flow, its losses, and that at simulations left out."""
    flows, bijections = (require(f"flowjax.{part}", extra="sbi") for part in ("flows", "bijections"))
    distributions = require("flowjax.distributions", extra="sbi")
    bend = 0.1 * np.maximum(np.median(np.abs(summaries), axis=0), 1e-12)
    bent = np.arcsinh(summaries / bend)
    for_flow, for_training = jax.random.split(key)
    size = z.shape[1]
    flow = flows.masked_autoregressive_flow(
        for_flow,
        base_dist=distributions.Normal(jnp.zeros(size)),
        transformer=bijections.RationalQuadraticSpline(knots=method.knots, interval=4.0),
        cond_dim=summaries.shape[1],
        flow_layers=method.layers,
        nn_width=method.width,
        nn_activation=jax.nn.silu,
    )
    spreads = (np.maximum(part.std(axis=0), 1e-9) for part in (z, bent))
    z_size, y_size = spreads
    trained = _Trained(flow, z.mean(axis=0), z_size, bend, bent.mean(axis=0), y_size)
    points, conditions = jnp.asarray((z - trained.z_centre) / z_size), trained.conditions(summaries)
    known = max(int(_HELD_OUT * len(z)), 1)
    flow, loss = _descended(flow, points[known:], conditions[known:], for_training, method)
    trained = dataclasses.replace(trained, flow=flow)
    held_out = -float(jnp.mean(_log_prob(flow, points[:known], conditions[:known]))) + float(np.log(z_size).sum())
    return trained, np.asarray(loss), held_out


@eqx.filter_jit
def _descended(flow: Any, z: Array, conditions: Array, key: Array, method: Flow) -> tuple[Any, Array]:
    """Return the flow after all steps, and the losses."""
    import optax

    paramax = require("paramax", extra="sbi")
    weights, fixed = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    rule = optax.chain(
        optax.clip_by_global_norm(5.0), optax.adam(optax.cosine_decay_schedule(method.rate, method.steps))
    )

    def loss(weights: Any, rows: Array) -> Array:
        return -jnp.mean(paramax.unwrap(eqx.combine(weights, fixed)).log_prob(z[rows], conditions[rows]))

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        weights, state = carry
        value, slopes = jax.value_and_grad(loss)(weights, jax.random.randint(key, (method.batch,), 0, len(z)))
        updates, state = rule.update(slopes, state)
        return (eqx.apply_updates(weights, updates), state), value

    (weights, _), losses = jax.lax.scan(step, (weights, rule.init(weights)), jax.random.split(key, method.steps))
    return eqx.combine(weights, fixed), losses
