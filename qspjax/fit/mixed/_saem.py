"""Stochastic approximation of the expectation-maximisation algorithm (SAEM).

Each iteration moves Markov chains of the random effects of all subjects, averages what the likelihood needs to know of
them over iterations,

    S_k = S_{k-1} + gamma_k (S(psi_k) - S_{k-1}),

and takes the parameters at which the complete likelihood is greatest: for Omega and for parameters that only move means
of random effects in closed form, for others by a step of Fisher's scoring, x + gamma_k I^-1 slope. While it explores,
gamma is 1 and variances fall slowly, so that poor starts are left; then gamma falls, and the estimate is the mean of
the second half of the points since, which is as good as with the best of all sequences.

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
"""Chains of all subjects together, by default."""
ANNEALING = 0.95
"""The least that remains of a variance after an iteration, in the first half of the exploration."""
LONGEST = 0.3
"""The longest step of a parameter that is no mean of random effects, on the scale of the search."""
DECAY = 0.7
TRIALS, FEW = 5, 3
"""Trials of the search for the modes that chains move about, which only have to be near: at the start, and later."""
AIMED = tuple(5 * 2**k for k in range(20))
"""Iterations after which the modes are looked for again."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Moments(Generic[Each]):
    """What the complete likelihood needs to know of the chains.

    Attributes:
        first: The mean of psi, shape (subjects, effects).
        second: The mean of psi psi^T, shape (subjects, effects, effects).
        information: On parameters that are no means of random effects, shape (others, others).
    """

    first: Each
    second: Each
    information: Each


class StochasticRun:
    """An estimation by SAEM under way."""

    def __init__(self, mixed: MixedModel, method: SAEM, x: np.ndarray) -> None:
        self.mixed, self.method, self.start = mixed, method, x
        self.began = time.perf_counter()
        self.found = mixed.program("references", lambda: references(mixed))
        self.others = np.flatnonzero(~self.found.referenced)
        chains = method.chains or max(1, -(-LEAST_CHAINS // mixed.count))
        self.aim = on_all_cores(
            mixed, "aim of chains", lambda part: partial(proposal, part), (SHARED, 0, 0, 0, SHARED), 0
        )
        simulates = bool(self.found.simulating[self.others].any())
        self.program = on_all_cores(
            mixed,
            f"{method.sweeps} sweeps of chains",
            lambda part: partial(_iterated, part, self.others, method.sweeps, simulates),
            (SHARED, 0, 1, 0, 0, SHARED, 0),
            (1, 0, _Moments(0, 0, ADDED), ADDED),
        )
        self.x, self.path, self.ended = x, [x], ""
        width = np.full(mixed.count, 1.0)
        around, found = self.aim(x, self._mean(x), np.zeros((mixed.count, len(mixed.effects))), width, TRIALS)
        self.around, self.kept = around, np.isfinite(found.value)
        self.reasons = () if self.kept.all() else mixed.reasons(~self.kept, x)
        if not self.kept.any():
            raise RuntimeError(f"No subject can be evaluated at the start. {' '.join(self.reasons[:3])}")
        self.chains = initial_chains(mixed, jnp.broadcast_to(around.middle, (chains, *around.middle.shape)))
        self._moments: _Moments[np.ndarray] | None = None

    @property
    def iterations(self) -> int:
        """Iterations that are done."""
        return len(self.path) - 1

    @property
    def moments(self) -> _Moments[np.ndarray]:
        """What is known of the chains, after the first iteration."""
        assert self._moments is not None
        return self._moments

    @property
    def standing(self) -> tuple[float, float]:
        """The objective and how much the next step should gain: neither is known."""
        return np.nan, np.nan

    def _mean(self, x: np.ndarray) -> np.ndarray:
        s = regressed(self.mixed, self.found, x)
        return np.einsum("npe,p->ne", self.found.weight, s)

    def _whitened(self, psi: Array, mean: np.ndarray) -> np.ndarray:
        return np.linalg.solve(np.asarray(self.mixed.factor(self.x)), (np.asarray(psi) - mean).T).T

    def advance(self, tolerance: float) -> None:
        """Make an iteration; the last one is known beforehand."""
        del tolerance
        done, method = self.iterations, self.method
        mean = self._mean(self.x)
        exploring = done < method.exploration
        if done in AIMED:
            near = self._whitened(self.around.middle, mean)
            self.around, _ = self.aim(self.x, mean, near, self.around.width, FEW)
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
            whole = self.moments.information - bend[np.ix_(others, others)]
            step = gain * np.linalg.lstsq(whole, slope + prior[others], rcond=1e-12)[0]
            x[others] += np.clip(step, -LONGEST, LONGEST)
        x = np.clip(self._regression(x, omega, prior, bend), *mixed.bounds)
        mean, kept = self._mean(x)[self.kept], self.kept
        first, second = self.moments.first[kept], self.moments.second[kept]
        cross = np.einsum("na,nb->nab", first, mean)
        spread = second - cross - np.swapaxes(cross, 1, 2) + np.einsum("na,nb->nab", mean, mean)
        x[len(mixed.free) :] = _omega_point(mixed, spread, self.found.present[kept], omega, annealed=annealed)
        return x

    def _regression(self, x: np.ndarray, omega: np.ndarray, prior: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """Return the point with the parameters that only move means of random effects: generalised least squares."""
        mixed, found = self.mixed, self.found
        which = np.flatnonzero(found.referenced)
        if not which.size:
            return x
        weight, s = found.weight[self.kept][:, which], regressed(mixed, found, x)
        precision = np.linalg.inv(omega)
        whole = np.einsum("npe,ef,nqf->pq", weight, precision, weight)
        rest = self.moments.first[self.kept] - np.einsum("npe,p->ne", weight, s[which])
        slope = np.einsum("npe,ef,nf->p", weight, precision, rest)
        s[which] += np.linalg.lstsq(whole - bend[np.ix_(which, which)], slope + prior[which], rcond=1e-12)[0]
        free = [*mixed.free.values()]
        x = x.copy()
        for p in which:
            value = np.clip(s[p], free[p].lower, free[p].upper) if found.natural[p] else s[p]
            x[p] = float(free[p].transform.forward(value)) if found.natural[p] else value
        return x

    def result(self) -> MixedFit:
        """Return what was found, its objective by importance sampling and its standard errors by `FOCEI`."""
        mixed, x, mean = self.mixed, self.x, self._mean(self.x)
        around, found = self.aim(x, mean, self._whitened(self.around.middle, mean), self.around.width, MOST)
        objectives, history = np.full(mixed.count, np.nan), np.full(len(self.path), np.nan)
        if self.method.samples:
            points = ImportanceSampling(self.method.samples, key=self.method.key)
            spread = np.linalg.solve(np.asarray(mixed.factor(x)), np.asarray(around.spread))
            sampled = integrated(mixed, x, found.u, spread, points)
            objectives[self.kept] = sampled.subject_objectives[self.kept]
            history[-1] = objectives[self.kept].sum() - 2.0 * float(mixed.prior(x)[0])
        lost = self.kept & ~np.isfinite(np.asarray(found.value))
        return MixedFit(
            mixed=mixed,
            method=self.method,
            x=x,
            u=np.asarray(found.u),
            subject_objectives=objectives,
            kept=self.kept,
            reasons=(*self.reasons, *(mixed.reasons(lost, x, np.asarray(found.u)) if lost.any() else ())),
            found=np.asarray(found.found),
            history=history,
            path=np.array(self.path),
            status=self.ended or "iterations used up",
            seconds=time.perf_counter() - self.began,
        )

    def state(self) -> dict[str, PyTree]:
        """Return what has to be kept to go on later."""
        moments = {} if self._moments is None else vars(self._moments)
        own = {"x": self.x, "path": np.array(self.path), "ended": self.ended, "kept": self.kept}
        seen = {f"observed_{name}": value for name, value in self.chains.observed.items()}
        return own | self.around._asdict() | moments | seen | {"psi": self.chains.psi}

    def restore(self, held: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.x, self.path, self.ended = held["x"], [*held["path"]], str(held["ended"])
        self.kept = held["kept"]
        seen = {name: jnp.asarray(held[f"observed_{name}"]) for name in self.chains.observed}
        self.chains = Chains(jnp.asarray(held["psi"]), seen)
        self.around = Proposal(*(jnp.asarray(held[name]) for name in Proposal._fields))
        self._moments = _Moments(held["first"], held["second"], held["information"]) if "first" in held else None


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
    who: Array,
) -> tuple[Chains, Proposal, _Moments[Array], Array]:
    """Return the chains after an iteration, the proposal, moments, and the slope in what is no mean of effects."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(who)
    chains, around = swept(mixed, x, mean, chains, around, keys, sweeps=sweeps, again=simulates)
    psi = chains.psi
    first, second = psi.mean(axis=0), jnp.einsum("kna,knb->nab", psi, psi) / psi.shape[0]
    whiten = forward(mixed.factor(x), jnp.eye(psi.shape[2]))

    def scores(u: Array, observed: dict[str, Array]) -> tuple[Array, Array]:
        here = jax.lax.stop_gradient(mixed.expanded(x, u, 1)) if simulates else unexpanded(observed)

        def predicted(own: Array) -> list:
            return predictors_of(mixed, x.at[others].set(own), u, here, None)

        def along(direction: Array) -> tuple:
            return jax.jvp(predicted, (x[others],), (direction,))

        moves = jax.vmap(along, out_axes=(None, 0))(jnp.eye(others.size))
        predictors, by = slopes_given_earlier(mixed.rows, *moves)
        fine = [jnp.isfinite(value).all(axis=-1) for value in observed.values()]
        whole = reduce(jnp.logical_and, fine, kept)
        slope, information = jnp.zeros(others.size), jnp.zeros((others.size, others.size))
        for rows, own, moves in zip(mixed.rows, predictors, by, strict=True):
            _, score, expected = rows.scores(own)
            use = whole[rows.experiment]
            for s, d in zip(score, moves, strict=True):
                slope += jnp.where(use, d, 0.0) @ jnp.where(use, s, 0.0)
            for w, d in expected.terms(moves):
                d = jnp.where(use, d, 0.0)
                information += (d * jnp.where(use, w, 0.0)) @ d.T
        return slope, information

    if not others.size:
        return chains, around, _Moments(first, second, jnp.zeros((0, 0))), jnp.zeros(0)
    each = jax.vmap(scores)((psi - mean) @ whiten.T, chains.observed)
    slope, information = jax.tree.map(lambda part: part.mean(axis=0), each)
    return chains, around, _Moments(first, second, information), slope


def _omega_point(
    mixed: MixedModel, spread: np.ndarray, present: np.ndarray, before: np.ndarray, *, annealed: bool
) -> np.ndarray:
    """Return Omega on the scale of the search: the mean of E[eta eta^T] over the subjects that have the effects.

    Args:
        mixed: The problem.
        spread: E[eta eta^T], shape (subjects, effects, effects).
        present: Which effects a subject depends on, shape (subjects, effects).
        before: Omega before.
        annealed: Whether variances may only fall slowly.
    """
    points = []
    for one in mixed.blocks:
        if one.random.fixed:
            continue
        there = [(present[:, own].any(axis=1), own) for own in one.effects]
        seen = np.concatenate([spread[who, own, own] for who, own in there])
        old = before[one.effects[0], one.effects[0]]
        block = seen.mean(axis=0) if len(seen) else old
        block = block if one.random.full else np.diag(np.diag(block))
        if annealed:
            raised = np.sqrt(np.maximum(1.0, ANNEALING * np.diag(old) / np.diag(block)))
            block = block * raised[:, None] * raised
        points.append(one.random.point_of(block + 1e-12 * np.diag(np.diag(block)) + 1e-14 * np.eye(len(block))))
    return np.concatenate(points) if points else np.zeros(0)
