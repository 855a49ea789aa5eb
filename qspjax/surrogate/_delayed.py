"""Delayed acceptance: a surrogate proposes, the exact density decides.

A chain walks some steps by the surrogate's density p*, which keeps p* (each step is a Metropolis step). Where it
arrives, z', one simulation decides:

    a = min(1, p(z') p*(z) / (p(z) p*(z')))

so that the chain keeps p, whatever the error of the surrogate: an error costs acceptance, never correctness.

References: Christen and Fox, J Comput Graph Stat 2005;14:795, doi:10.1198/106186005X76983; for several steps, Liu,
Monte Carlo Strategies in Scientific Computing, Springer 2001, doi:10.1007/978-0-387-76371-2.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._progress import Progress
from qspjax._random import check_key
from qspjax._types import Key
from qspjax.fit.bayes._density import Density, Start, placed
from qspjax.fit.bayes._sampler import AbstractRun, AbstractSampler, Draws
from qspjax.surrogate._contract import AbstractEmulator
from qspjax.surrogate._first_stage import FirstStage, explored, walked
from qspjax.surrogate._process import GaussianProcess

REPORT_EVERY = 25
"""Iterations between two reports."""


class DelayedAcceptance(AbstractSampler):
    """Metropolis and Hastings' sampler in two stages: many steps of a surrogate, then one exact decision.

    A method of `fit.sample` for a `Problem`. The statistics of the draws (`Posterior.stats`) are `exact`, the number of
    simulations that each draw took (0 or 1), `acceptance_rate` of the second stage, and `lp`. The surrogate is learnt
    from `simulations` more.

    Args:
        samples: The number of draws of each chain.
        warmup: The number of iterations of each chain that are not draws.
        chains: The number of chains, side by side.
        steps: The number of steps by the surrogate before each exact decision; 1 is the method of Christen and Fox.
        simulations: The number of simulations that the surrogate is learnt from.
        rounds: In how many parts these are made: all but the first are where the surrogate says the posterior is.
        emulator: How it is learnt.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If a number is out of range.

    Reference: Christen and Fox, J Comput Graph Stat 2005;14:795, doi:10.1198/106186005X76983.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, sample
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.5)), "V": Free(30.0, prior=qsp.LogNormal(30.0, cv=0.5))},
        ... )
        >>> method = qsp.surrogate.DelayedAcceptance(200, key=jax.random.key(0))
        >>> posterior = sample(problem, method)  # doctest: +SKIP
        >>> posterior.stats["acceptance_rate"].mean() > 0.9  # doctest: +SKIP
        True
    """

    samples: int = eqx.field(default=500, static=True)
    warmup: int = eqx.field(default=20, static=True)
    chains: int = eqx.field(default=4, static=True)
    steps: int = eqx.field(default=30, static=True)
    simulations: int = eqx.field(default=192, static=True, kw_only=True)
    rounds: int = eqx.field(default=3, static=True, kw_only=True)
    emulator: AbstractEmulator = eqx.field(default_factory=GaussianProcess, kw_only=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        for name, value, least in (
            ("samples", self.samples, 1),
            ("warmup", self.warmup, 0),
            ("chains", self.chains, 1),
            ("steps", self.steps, 1),
            ("simulations", self.simulations, 24),
            ("rounds", self.rounds, 1),
        ):
            check_whole(name, value, least)
        check_instance("emulator", self.emulator, AbstractEmulator, "GaussianProcess() or Ensemble()")
        check_key(self.key)

    def begin(self, density: Density, start: Start | None) -> AbstractRun:
        if density.size > len(density.names):
            refuse("problem", "be a `Problem` for DelayedAcceptance()", "a model with random effects")
        first = density.start if start is None else placed(density, start)
        return _Chains(density, self, first)


class _Now(NamedTuple):
    """Where chains are: points (chains, size), and the exact log density there."""

    z: Array
    exact: Array


class _Chains(AbstractRun):
    """Chains side by side."""

    def __init__(self, density: Density, method: DelayedAcceptance, start: Array) -> None:
        self.density, self.method, self.done = density, method, 0
        self.total = method.warmup + method.samples
        for_surrogate, for_starts, self.key = jax.random.split(method.key, 3)
        found = explored(density, start, method.emulator, method.simulations, method.rounds, for_surrogate)
        self.stage, self.factor = found.stage, jnp.asarray(found.step)
        exact = jax.jit(jax.vmap(density))
        order = jax.random.permutation(for_starts, len(found.starts))
        candidates = jnp.asarray(found.starts)[order[: 4 * method.chains]]
        values = exact(candidates)
        best = jnp.argsort(~jnp.isfinite(values), stable=True)[: method.chains]
        if not bool(jnp.isfinite(values[best]).all()):
            raise RuntimeError("No chain can begin: the density is zero where the surrogate says the posterior is.")
        self.now = _Now(candidates[best], values[best])
        self.results: list[dict[str, np.ndarray]] = []
        self.program = eqx.filter_jit(_program(density, method))

    @property
    def standing(self) -> Progress:
        made = sum(part["exact"].sum() for part in self.results)
        return Progress(self.done, self.total, {"divergences": 0, "simulations": float(made)})

    @property
    def going(self) -> bool:
        return self.done < self.total

    def advance(self) -> None:
        limit = self.method.warmup if self.done < self.method.warmup else self.total
        count = min(REPORT_EVERY, limit - self.done)
        key = jax.random.fold_in(self.key, self.done)
        self.now, results = jax.block_until_ready(
            self.program(self.stage, self.factor, self.now, jnp.asarray(count), key)
        )
        self.done += count
        if self.done > self.method.warmup:
            self.results.append({name: np.asarray(part)[:count] for name, part in results.items()})

    def draws(self) -> Draws:
        results = {
            name: np.concatenate([part[name] for part in self.results]).swapaxes(0, 1) for name in self.results[0]
        }
        return Draws(results.pop("z"), results, None)

    def state(self) -> dict[str, ArrayLike | str]:
        kept = {name: np.concatenate([part[name] for part in self.results]) for name in (self.results or [{}])[0]}
        now = {name: np.asarray(part) for name, part in self.now._asdict().items()}
        return {"done": self.done, **now, **{f"kept_{name}": part for name, part in kept.items()}}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.now = _Now(*(jnp.asarray(state[name]) for name in _Now._fields))
        self.done = int(state["done"])
        kept = {name.removeprefix("kept_"): part for name, part in state.items() if name.startswith("kept_")}
        self.results = [kept] if kept else []


def _program(density: Density, method: DelayedAcceptance) -> Callable[..., tuple[_Now, dict[str, Array]]]:
    """Return the program that advances all chains by some iterations."""

    def chain(stage: FirstStage, factor: Array, now: _Now, key: Array) -> tuple[_Now, dict[str, Array]]:
        for_walk, for_choice = jax.random.split(key)
        z, first, last = walked(density, stage, now.z, factor, method.steps, for_walk)
        exact = density(z)
        gain = (exact - now.exact) - (last - first)
        rate = jnp.minimum(jnp.exp(jnp.where(jnp.isfinite(exact), gain, -jnp.inf)), 1.0)
        accepted = jax.random.uniform(for_choice) < rate
        new = _Now(jnp.where(accepted, z, now.z), jnp.where(accepted, exact, now.exact))
        moved = jnp.any(z != now.z).astype(int)
        return new, {"z": new.z, "lp": new.exact, "acceptance_rate": rate, "exact": moved}

    def advanced(
        stage: FirstStage, factor: Array, now: _Now, iterations: Array, key: Array
    ) -> tuple[_Now, dict[str, Array]]:
        lanes = now.exact.shape
        kinds = {"z": ((*lanes, density.size), float), "exact": (lanes, int)}
        shapes = {name: kinds.get(name, (lanes, float)) for name in ("z", "lp", "acceptance_rate", "exact")}
        empty = {name: jnp.zeros((REPORT_EVERY, *shape), kind) for name, (shape, kind) in shapes.items()}

        def iterate(k: Array, carry: tuple[_Now, dict[str, Array]]) -> tuple[_Now, dict[str, Array]]:
            now, saved = carry
            keys = jax.random.split(jax.random.fold_in(key, k), lanes[0])
            now, new = jax.vmap(lambda now, key: chain(stage, factor, now, key))(now, keys)
            return now, {name: saved[name].at[k].set(part) for name, part in new.items()}

        return jax.lax.fori_loop(0, iterations, iterate, (now, empty))

    return advanced
