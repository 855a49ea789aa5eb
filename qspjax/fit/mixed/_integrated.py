"""Maximum likelihood with the random effects integrated out, for any number of parameters, such as all of a network.

With points u_k = u* + C z_k about the mode of each subject, and their weights w_k (see `marginal`),

    o(x) = -2 log sum_k w_k exp(-l(x, u_k) / 2) - 2 log |C|

Its gradient costs two adjoints, however many parameters there are. With P_k the probability of a point given the data,

    do/dx = sum_k P_k dl/dx(x, u_k) + (do/du*)^T du*/dx,    du*/dx = -H^-1 d^2 l / du dx,    H = d^2 l / du^2

The first part is the mean of the gradient of the complete likelihood (Fisher's identity). The second is that of the
error of the integral, which is large along weights whose changes the random effects make up for: without it, a search
stalls, and with points that stay where they are, it is as slow as the EM algorithm. It is the difference of dl/dx at
two points near u*, on both sides along H^-1 do/du*, so that no simulation is differentiated twice. C stays the same for
some steps; the search ends where there is nothing to gain with the C of the last point. Its steps are those of Broyden,
Fletcher, Goldfarb and Shanno, see `_descent`.

References: Louis, J R Stat Soc B 1982;44:226, doi:10.1111/j.2517-6161.1982.tb01203.x; Pinheiro and Bates, J Comput
Graph Stat 1995;4:12, doi:10.2307/1390625; of networks in such models, Bram, Nahum, Schropp, Pfister and Koch, J
Pharmacokinet Pharmacodyn 2024;51:123, doi:10.1007/s10928-023-09886-4.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array
from numpy.typing import ArrayLike

from qspjax.fit.mixed._conditional import observed_information, twice_and_effects
from qspjax.fit.mixed._descent import Descent, direction, updated
from qspjax.fit.mixed._marginal import AbstractIntegral
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._modes import modes
from qspjax.fit.mixed._parts import ADDED, SHARED, on_all_cores
from qspjax.fit.mixed._result import MixedFit
from qspjax.fit.mixed._symmetric import backward, factorised

Each = TypeVar("Each")

SHORTENINGS = 12
"""How many times a step is shortened before the search gives up."""
FIRST = 0.1
"""The length of the first step of any parameter, on the scale of the search."""
STEPS = 10
"""How many steps are taken with the same C."""
BESIDE = 3e-3
"""How far from a mode, in standard deviations of random effects, slopes are compared."""
DESCENT = 1e-4
"""The least part of what its slope promises that a step must gain."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sloped(Generic[Each]):
    """The objective at a point, with its slope.

    Attributes:
        values: That of each subject, shape (subjects,).
        slope: The derivative of their sum, shape (names,).
        modes: The modes of the random effects, shape (subjects, effects).
        found: Whether they were found, shape (subjects,).
        spread: C at the modes, shape (subjects, effects, effects).
    """

    values: Each
    slope: Each
    modes: Each
    found: Each
    spread: Each


def sloped(
    mixed: MixedModel, x: Array, start: Array, spread: Array, kept: Array, z: Array, logs: Array
) -> Sloped[Array]:
    """Return the objective and its slope.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        start: Where modes are searched from, shape (subjects, effects).
        spread: C, shape (subjects, effects, effects).
        kept: Which subjects count, shape (subjects,).
        z: The points of a standard normal integral, shape (points, effects).
        logs: The logarithms of weight over density there, shape (points,).
    """
    searched = modes(mixed, x, start)
    unit = jnp.eye(start.shape[1])
    volume = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(spread, axis1=1, axis2=2))), axis=1)  # C is triangular

    def total(x: Array, mode: Array) -> tuple[Array, Array]:
        u = mode + jnp.einsum("nab,kb->kna", spread, z)
        twice = jax.vmap(partial(twice_and_effects, mixed, x))(u)
        terms = -0.5 * twice + logs[:, None] - 0.5 * z.shape[1] * np.log(2.0 * np.pi)
        values = -2.0 * (logsumexp(terms, axis=0) + volume)
        return jnp.sum(jnp.where(kept, values, 0.0)), values

    slopes, values = jax.grad(total, argnums=(0, 1), has_aux=True)(x, searched.u)
    bend = observed_information(mixed, x, searched.u, mixed.expanded(x, searched.u, 2), None) + unit
    move = factorised(bend).solve(slopes[1])
    length = jnp.linalg.norm(move, axis=-1)
    counts = kept & jnp.isfinite(length) & (length > 0.0)
    towards = jnp.where(counts[:, None], move / jnp.where(counts, length, 1.0)[:, None], 0.0)

    def along(x: Array) -> Array:
        sides = searched.u + BESIDE * jnp.stack([towards, -towards])
        ahead, behind = jax.vmap(partial(twice_and_effects, mixed, x))(sides)
        return jnp.sum(jnp.where(counts, length * (ahead - behind), 0.0)) / (4.0 * BESIDE)

    new = backward(factorised(searched.curvature).root, unit)
    return Sloped(values, slopes[0] - jax.grad(along)(x), searched.u, searched.found, new)


class IntegratedRun:
    """An estimation under way.

    Args:
        mixed: The problem.
        method: The integral.
        x: The point to begin at.

    Raises:
        RuntimeError: If no subject can be evaluated at the start, or there is no derivative.
    """

    def __init__(self, mixed: MixedModel, method: AbstractIntegral, x: np.ndarray) -> None:
        self.mixed, self.method, self.start = mixed, method, x
        self.began = time.perf_counter()
        self.z, self.logs = method.points(len(mixed.effects))
        axes = (SHARED, 0, 0, 0, SHARED, SHARED), Sloped(0, ADDED, 0, 0, 0)
        self.program = on_all_cores(mixed, "integrated, with slope", lambda part: partial(sloped, part), *axes)
        self.u, self.kept, self.reasons = np.zeros((mixed.count, len(mixed.effects))), np.ones(mixed.count, bool), ()
        self.spread = np.broadcast_to(np.eye(self.u.shape[1]), (*self.u.shape, self.u.shape[1]))
        self._adopt(self._evaluated(x))
        first = self._evaluated(x)
        if not np.isfinite(first.values).all():
            self.kept = np.isfinite(first.values)
            self.reasons = mixed.reasons(~self.kept, x)
            if not self.kept.any():
                raise RuntimeError(f"No subject can be evaluated at the start. {' '.join(self.reasons[:3])}")
            first = self._evaluated(x)
        value, slope = self._total(x, first)
        if not np.isfinite(value):
            raise RuntimeError("The likelihood has no finite derivative at the start: begin at another point.")
        self.now, self.last = Descent(x, value, slope, _unscaled(slope)), first
        self.gain, self.ended, self.scaled, self.steps = np.inf, "", False, 0
        self.history, self.path = [value], [x]

    @property
    def iterations(self) -> int:
        """The number of iterations that are done."""
        return len(self.history) - 1

    @property
    def standing(self) -> tuple[float, float]:
        """The objective, and by how much the next step should lower it."""
        return self.now.value, self.gain

    def _evaluated(self, x: np.ndarray) -> Sloped[np.ndarray]:
        return jax.tree.map(np.asarray, self.program(x, self.u, self.spread, self.kept, self.z, self.logs))

    def _total(self, x: np.ndarray, at: Sloped[np.ndarray]) -> tuple[float, np.ndarray]:
        """Return the objective with that of the priors, and its slope; inf where there is none."""
        prior, slope, _ = self.mixed.prior(x)
        value, slope = float(at.values[self.kept].sum() - 2.0 * prior), at.slope - 2.0 * slope
        return (value, slope) if np.isfinite(value) and np.isfinite(slope).all() else (np.inf, np.zeros_like(x))

    def _adopt(self, here: Sloped[np.ndarray]) -> None:
        """Integrate about the modes of a point, with the C there."""
        usable = np.asarray(np.isfinite(here.spread).all(axis=(1, 2)) & np.isfinite(here.modes).all(axis=1))
        self.u = np.where(usable[:, None], here.modes, self.u)
        self.spread, self.steps = np.where(usable[:, None, None], here.spread, self.spread), 0

    def _renew(self) -> bool:
        """Take over the C of the point reached; false if it is in use already."""
        if not self.steps:
            return False
        self._adopt(self.last)
        here = self._evaluated(self.now.x)
        value, slope = self._total(self.now.x, here)
        if np.isfinite(value):
            self.now, self.last = self.now._replace(value=value, slope=slope), here
            self.history[-1] = value
        return np.isfinite(value)

    def advance(self, tolerance: float) -> None:
        """Take a step, or note that the search has ended."""
        if self.steps >= STEPS:
            self._renew()
        step, self.gain = direction(self.now, self.mixed.bounds)
        if self.gain < tolerance and self._renew():
            step, self.gain = direction(self.now, self.mixed.bounds)
        if self.gain < tolerance:
            self.ended = "converged"
            return
        size = 1.0
        for _ in range(SHORTENINGS):
            x = np.clip(self.now.x + size * step, *self.mixed.bounds)
            here = self._evaluated(x)
            value, slope = self._total(x, here)
            promised = float(self.now.slope @ (x - self.now.x))
            if value <= self.now.value + DESCENT * promised:
                self._accept(x, value, slope, here)
                return
            lowest = -0.5 * promised / (value - self.now.value - promised) if np.isfinite(value) else 0.0
            size *= float(np.clip(lowest, 0.1, 0.5))
        if self._renew():
            return
        if not self.scaled:
            self.ended = "no lower point was found along the last direction"
        self.now, self.scaled = self.now._replace(bend=_unscaled(self.now.slope)), False

    def _accept(self, x: np.ndarray, value: float, slope: np.ndarray, here: Sloped[np.ndarray]) -> None:
        change, step = slope - self.now.slope, x - self.now.x
        if not self.scaled and change @ step > 0:
            # the curvature along the first step is better known than that of any other direction
            self.now = self.now._replace(bend=np.eye(x.size) * float(change @ change) / float(change @ step))
            self.scaled = True
        self.now = updated(self.now, x, value, slope)
        self.u, self.last, self.steps = here.modes, here, self.steps + 1
        self.history.append(value)
        self.path.append(x)

    def result(self) -> MixedFit:
        """Return the fit, with its objective about the modes there."""
        self._renew()
        return MixedFit(
            mixed=self.mixed,
            method=self.method,
            x=self.now.x,
            u=self.u,
            subject_objectives=np.where(self.kept, self.last.values, np.nan),
            kept=self.kept,
            reasons=self.reasons,
            found=self.last.found,
            history=np.array(self.history),
            path=np.array(self.path),
            status=self.ended or "iterations used up",
            seconds=time.perf_counter() - self.began,
        )

    def state(self) -> dict[str, ArrayLike | str]:
        """Return the state from which to continue later."""
        state = {
            "kept": self.kept,
            "u": self.u,
            "spread": self.spread,
            "history": np.array(self.history),
            "path": np.array(self.path),
        }
        last = {f"last_{name}": value for name, value in vars(self.last).items()}
        return {"ended": self.ended, "scaled": self.scaled, "steps": self.steps, **self.now._asdict(), **state, **last}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state."""
        self.now = Descent(state["x"], float(state["value"]), state["slope"], state["bend"], float(state["stretch"]))
        self.last = Sloped(**{name: state[f"last_{name}"] for name in vars(self.last)})
        self.kept, self.u, self.ended = state["kept"], state["u"], str(state["ended"])
        self.spread, self.scaled, self.steps = state["spread"], bool(state["scaled"]), int(state["steps"])
        self.history, self.path = state["history"].tolist(), [*state["path"]]


def _unscaled(slope: np.ndarray) -> np.ndarray:
    """Return a second derivative with which the first step has a given length."""
    return np.eye(slope.size) * max(float(np.abs(slope).max()), 1e-8) / FIRST
