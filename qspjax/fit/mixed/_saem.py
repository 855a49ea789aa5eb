"""Stochastic approximation of the expectation-maximisation algorithm (SAEM).

Each iteration moves Markov chains of the random effects of all subjects, averages their sufficient statistics over
iterations,

    S_k = S_{k-1} + gamma_k (S(psi_k) - S_{k-1}),

and takes the parameters at which the complete likelihood is greatest: for Omega and for parameters that only move means
of random effects in closed form, for others by a step of Fisher's scoring, x + gamma_k I^-1 slope. During exploration,
gamma is 1 and variances fall slowly, so that poor starts are left; then gamma falls, and the estimate is the mean of
the second half of the points since then, which is as efficient as the optimal sequence of gamma.

References: Delyon, Lavielle and Moulines, Ann Stat 1999;27:94, doi:10.1214/aos/1018031103; Kuhn and Lavielle, Comput
Stat Data Anal 2005;49:1020, doi:10.1016/j.csda.2004.07.002; Polyak and Juditsky, SIAM J Control Optim 1992;30:838,
doi:10.1137/0330046.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial, reduce
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from qspjax.fit.data._dependence import slopes_given_earlier
from qspjax.fit.mixed._chains import Chains, Proposal, initial_chains, proposal, swept
from qspjax.fit.mixed._conditional import predictors_of
from qspjax.fit.mixed._individuals import unexpanded
from qspjax.fit.mixed._marginal import ImportanceSampling, integrated
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._modes import MOST
from qspjax.fit.mixed._parts import ADDED, SHARED, on_all_cores
from qspjax.fit.mixed._references import references, regressed
from qspjax.fit.mixed._result import MixedFit
from qspjax.fit.mixed._settings import SAEM
from qspjax.fit.mixed._symmetric import forward

Each = TypeVar("Each")

LEAST_CHAINS = 100
"""The minimum number of chains of all subjects together, by default."""
ANNEALING = 0.95
"""The least part of a variance that remains after an iteration, in the first half of the exploration."""
LONGEST = 0.3
"""The longest step of a parameter that is not a mean of random effects, on the scale of the search."""
DECAY = 0.7
FIRST_TRIALS, TRIALS = 5, 3
"""Trials of the search for the modes of the proposal, which may be approximate: at the start, and later."""
PROPOSED_AT = tuple(5 * 2**k for k in range(20))
"""Iterations after which the modes are searched again."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Moments(Generic[Each]):
    """Sufficient statistics of the chains for the complete likelihood.

    Attributes:
        first: The mean of psi, shape (subjects, effects).
        second: The mean of psi psi^T, shape (subjects, effects, effects).
        information: That on the parameters that are not means of random effects, shape (others, others).
    """

    first: Each
    second: Each
    information: Each


class StochasticRun:
    """An estimation by SAEM under way."""

    def __init__(self, mixed: MixedModel, method: SAEM, x: np.ndarray) -> None:
        self.mixed, self.method, self.start = mixed, method, x
        self.began = time.perf_counter()
        self.references = mixed.program("references", lambda: references(mixed))
        self.others = np.flatnonzero(~self.references.referenced)
        chains = method.chains or max(1, -(-LEAST_CHAINS // mixed.count))
        self.propose = on_all_cores(
            mixed, "proposals of chains", lambda part: partial(proposal, part), (SHARED, 0, 0, 0, SHARED), 0
        )
        simulates = bool(self.references.simulating[self.others].any())
        self.program = on_all_cores(
            mixed,
            f"{method.sweeps} sweeps of chains",
            lambda part: partial(_iterated, part, self.others, method.sweeps, simulates),
            (SHARED, 0, 1, 0, 0, SHARED, 0),
            (1, 0, _Moments(0, 0, ADDED), ADDED),
        )
        self.x, self.path, self.ended = x, [x], ""
        width = np.full(mixed.count, 1.0)
        around, modes = self.propose(x, self._mean(x), np.zeros((mixed.count, len(mixed.effects))), width, FIRST_TRIALS)
        self.around, self.kept = around, np.isfinite(modes.value)
        self.reasons = () if self.kept.all() else mixed.reasons(~self.kept, x)
        if not self.kept.any():
            raise RuntimeError(f"No subject can be evaluated at the start. {' '.join(self.reasons[:3])}")
        self.chains = initial_chains(mixed, jnp.broadcast_to(around.middle, (chains, *around.middle.shape)))
        self._moments: _Moments[np.ndarray] | None = None

    @property
    def iterations(self) -> int:
        """The number of iterations that are done."""
        return len(self.path) - 1

    @property
    def moments(self) -> _Moments[np.ndarray]:
        """The statistics of the chains, after the first iteration."""
        assert self._moments is not None
        return self._moments

    @property
    def standing(self) -> tuple[float, float]:
        """The objective and by how much the next step should lower it, both unknown."""
        return np.nan, np.nan

    def _mean(self, x: np.ndarray) -> np.ndarray:
        s = regressed(self.mixed, self.references, x)
        return np.einsum("npe,p->ne", self.references.weight, s)

    def _whitened(self, psi: Array, mean: np.ndarray) -> np.ndarray:
        return np.linalg.solve(np.asarray(self.mixed.factor(self.x)), (np.asarray(psi) - mean).T).T

    def advance(self, tolerance: float) -> None:
        """Make an iteration; their number is fixed, so that the tolerance is not used."""
        del tolerance
        done, method = self.iterations, self.method
        mean = self._mean(self.x)
        exploring = done < method.exploration
        if done in PROPOSED_AT:
            start = self._whitened(self.around.middle, mean)
            self.around, _ = self.propose(self.x, mean, start, self.around.width, TRIALS)
        key = jax.random.fold_in(method.key, done)
        self.chains, self.around, new, slope = self.program(
            self.x, mean, self.chains, self.around, self.kept, key, np.arange(self.mixed.count)
        )
        gain = 1.0 if exploring else (done - method.exploration + 1.0) ** -DECAY
        new = jax.tree.map(np.asarray, new)
        old = new if self._moments is None else self._moments
        self._moments = jax.tree.map(lambda a, b: a + gain * (b - a), old, new)
        self.x = self._maximised(np.asarray(slope), gain, annealed=done < method.exploration // 2)
        self.path.append(self.x)
        if self.iterations >= method.iterations:
            self.x = self.path[-1] = np.mean(self.path[-((method.smoothing + 1) // 2) :], axis=0)
            self.ended = "all iterations done"

    def _maximised(self, slope: np.ndarray, gain: float, *, annealed: bool) -> np.ndarray:
        """Return the point at which the complete likelihood is greatest."""
        mixed, x = self.mixed, self.x.copy()
        omega = np.asarray(mixed.covariance(x))
        _, prior, bend = mixed.prior(x)
        others = self.others
        if others.size:
            information = self.moments.information - bend[np.ix_(others, others)]
            step = gain * np.linalg.lstsq(information, slope + prior[others], rcond=1e-12)[0]
            x[others] += np.clip(step, -LONGEST, LONGEST)
        x = np.clip(self._regression(x, omega, prior, bend), *mixed.bounds)
        mean, kept = self._mean(x)[self.kept], self.kept
        first, second = self.moments.first[kept], self.moments.second[kept]
        cross = np.einsum("na,nb->nab", first, mean)
        spread = second - cross - np.swapaxes(cross, 1, 2) + np.einsum("na,nb->nab", mean, mean)
        x[len(mixed.free) :] = _omega_point(mixed, spread, self.references.present[kept], omega, annealed=annealed)
        return x

    def _regression(self, x: np.ndarray, omega: np.ndarray, prior: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """Return the point with new values of the referenced parameters, by generalised least squares."""
        mixed, mu_references = self.mixed, self.references
        referenced = np.flatnonzero(mu_references.referenced)
        if not referenced.size:
            return x
        weight, s = mu_references.weight[self.kept][:, referenced], regressed(mixed, mu_references, x)
        precision = np.linalg.inv(omega)
        information = np.einsum("npe,ef,nqf->pq", weight, precision, weight)
        residual = self.moments.first[self.kept] - np.einsum("npe,p->ne", weight, s[referenced])
        slope = np.einsum("npe,ef,nf->p", weight, precision, residual)
        s[referenced] += np.linalg.lstsq(
            information - bend[np.ix_(referenced, referenced)], slope + prior[referenced], rcond=1e-12
        )[0]
        free = [*mixed.free.values()]
        x = x.copy()
        for p in referenced:
            value = np.clip(s[p], free[p].lower, free[p].upper) if mu_references.natural[p] else s[p]
            x[p] = float(free[p].transform.forward(value)) if mu_references.natural[p] else value
        return x

    def result(self) -> MixedFit:
        """Return the fit, with its objective by importance sampling."""
        mixed, x, mean = self.mixed, self.x, self._mean(self.x)
        around, modes = self.propose(x, mean, self._whitened(self.around.middle, mean), self.around.width, MOST)
        objectives, history = np.full(mixed.count, np.nan), np.full(len(self.path), np.nan)
        if self.method.samples:
            points = ImportanceSampling(self.method.samples, key=self.method.key)
            spread = np.linalg.solve(np.asarray(mixed.factor(x)), np.asarray(around.spread))
            sampled = integrated(mixed, x, modes.u, spread, points)
            objectives[self.kept] = sampled.subject_objectives[self.kept]
            history[-1] = objectives[self.kept].sum() - 2.0 * float(mixed.prior(x)[0])
        failed = self.kept & ~np.isfinite(np.asarray(modes.value))
        return MixedFit(
            mixed=mixed,
            method=self.method,
            x=x,
            u=np.asarray(modes.u),
            subject_objectives=objectives,
            kept=self.kept,
            reasons=(*self.reasons, *(mixed.reasons(failed, x, np.asarray(modes.u)) if failed.any() else ())),
            found=np.asarray(modes.found),
            history=history,
            path=np.array(self.path),
            status=self.ended or "iterations used up",
            seconds=time.perf_counter() - self.began,
        )

    def state(self) -> dict[str, PyTree]:
        """Return the state from which to continue later."""
        moments = {} if self._moments is None else vars(self._moments)
        state = {"x": self.x, "path": np.array(self.path), "ended": self.ended, "kept": self.kept}
        observed = {f"observed_{name}": value for name, value in self.chains.observed.items()}
        return state | self.around._asdict() | moments | observed | {"psi": self.chains.psi}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state."""
        self.x, self.path, self.ended = state["x"], [*state["path"]], str(state["ended"])
        self.kept = state["kept"]
        observed = {name: jnp.asarray(state[f"observed_{name}"]) for name in self.chains.observed}
        self.chains = Chains(jnp.asarray(state["psi"]), observed)
        self.around = Proposal(*(jnp.asarray(state[name]) for name in Proposal._fields))
        self._moments = _Moments(state["first"], state["second"], state["information"]) if "first" in state else None


def _iterated(
    mixed: MixedModel,
    others: np.ndarray,
    sweeps: int,
    simulates: bool,
    x: Array,
    mean: Array,
    chains: Chains,
    around: Proposal,
    kept: Array,
    key: Array,
    numbers: Array,
) -> tuple[Chains, Proposal, _Moments[Array], Array]:
    """Return the chains after an iteration, the proposal, moments, and the slope in the other parameters."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
    chains, around = swept(mixed, x, mean, chains, around, keys, sweeps=sweeps, again=simulates)
    psi = chains.psi
    first, second = psi.mean(axis=0), jnp.einsum("kna,knb->nab", psi, psi) / psi.shape[0]
    whiten = forward(mixed.factor(x), jnp.eye(psi.shape[2]))

    def scores(u: Array, observed: dict[str, Array]) -> tuple[Array, Array]:
        expansion = jax.lax.stop_gradient(mixed.expanded(x, u, 1)) if simulates else unexpanded(observed)

        def predicted(values: Array) -> list:
            return predictors_of(mixed, x.at[others].set(values), u, expansion, None)

        def along(direction: Array) -> tuple:
            return jax.jvp(predicted, (x[others],), (direction,))

        moves = jax.vmap(along, out_axes=(None, 0))(jnp.eye(others.size))
        predictors, slopes = slopes_given_earlier(mixed.rows, *moves)
        finite = [jnp.isfinite(value).all(axis=-1) for value in observed.values()]
        usable = reduce(jnp.logical_and, finite, kept)
        slope, information = jnp.zeros(others.size), jnp.zeros((others.size, others.size))
        for rows, values, moves in zip(mixed.rows, predictors, slopes, strict=True):
            _, score, expected = rows.scores(values)
            used = usable[rows.experiment]
            for s, d in zip(score, moves, strict=True):
                slope += jnp.where(used, d, 0.0) @ jnp.where(used, s, 0.0)
            for w, d in expected.terms(moves):
                d = jnp.where(used, d, 0.0)
                information += (d * jnp.where(used, w, 0.0)) @ d.T
        return slope, information

    if not others.size:
        return chains, around, _Moments(first, second, jnp.zeros((0, 0))), jnp.zeros(0)
    of_chains = jax.vmap(scores)((psi - mean) @ whiten.T, chains.observed)
    slope, information = jax.tree.map(lambda part: part.mean(axis=0), of_chains)
    return chains, around, _Moments(first, second, information), slope


def _omega_point(
    mixed: MixedModel, spread: np.ndarray, present: np.ndarray, before: np.ndarray, *, annealed: bool
) -> np.ndarray:
    """Return Omega on the scale of the search: the mean of E[eta eta^T] over the subjects that have the effects.

    Args:
        mixed: The problem.
        spread: E[eta eta^T], shape (subjects, effects, effects).
        present: Which effects each subject depends on, shape (subjects, effects).
        before: The previous Omega.
        annealed: Whether variances may only fall slowly.
    """
    points = []
    for block in mixed.blocks:
        if block.random.fixed:
            continue
        members = [(present[:, span].any(axis=1), span) for span in block.effects]
        spreads = np.concatenate([spread[has, span, span] for has, span in members])
        old = before[block.effects[0], block.effects[0]]
        matrix = spreads.mean(axis=0) if len(spreads) else old
        matrix = matrix if block.random.full else np.diag(np.diag(matrix))
        if annealed:
            raised = np.sqrt(np.maximum(1.0, ANNEALING * np.diag(old) / np.diag(matrix)))
            matrix = matrix * raised[:, None] * raised
        points.append(block.random.point_of(matrix + 1e-12 * np.diag(np.diag(matrix)) + 1e-14 * np.eye(len(matrix))))
    return np.concatenate(points) if points else np.zeros(0)
