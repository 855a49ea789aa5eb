"""The no-U-turn sampler, all chains in one program.

Reference: Hoffman and Gelman, J Mach Learn Res 2014;15:1593, arXiv:1111.4246; for numpyro, Phan, Pradhan and Jankowiak,
arXiv:1912.11554.
"""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from numpy.typing import ArrayLike

from qspjax._checks import check_minimum, check_number, check_whole, refuse
from qspjax._extras import require
from qspjax._progress import Progress
from qspjax._random import check_key
from qspjax._types import Key
from qspjax.fit.bayes._density import Density, Start, starts
from qspjax.fit.bayes._likelihood import Values
from qspjax.fit.bayes._metric import Local, local
from qspjax.fit.bayes._sampler import AbstractRun, AbstractSampler, Draws
from qspjax.fit.search._search import quickly_compiled

REPORT_EVERY = 25
"""Iterations between two reports."""


class NUTS(AbstractSampler):
    """The no-U-turn sampler: Hamiltonian trajectories that end where they turn back, with adapted step and metric.

    Args:
        warmup: The number of iterations of each chain in which step and metric are adapted, which are not draws.
        samples: The number of iterations of each chain after these.
        chains: The number of chains, side by side.
        target: The mean acceptance to which the step is adapted; nearer to 1, steps are shorter and divergences fewer.
        depth: The maximum number of doublings of a trajectory.
        dense: Whether the metric of the parameters has correlations; that of random effects has none.
        jitter: The standard deviation of the starts of the chains about the start.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If a number is out of range.

    Reference: Hoffman and Gelman, J Mach Learn Res 2014;15:1593, arXiv:1111.4246.

    Example:
        >>> import jax
        >>> from qspjax.fit import NUTS
        >>> NUTS(warmup=1000, target=0.95, key=jax.random.key(0)).samples
        500
    """

    warmup: int = eqx.field(default=500, static=True)
    samples: int = eqx.field(default=500, static=True)
    chains: int = eqx.field(default=4, static=True)
    target: float = eqx.field(default=0.8, static=True)
    depth: int = eqx.field(default=10, static=True, kw_only=True)
    dense: bool = eqx.field(default=True, static=True, kw_only=True)
    jitter: float = eqx.field(default=0.1, static=True, kw_only=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        for name, value, least in (
            ("warmup", self.warmup, 0),
            ("samples", self.samples, 1),
            ("chains", self.chains, 1),
            ("depth", self.depth, 1),
        ):
            check_whole(name, value, least)
        check_key(self.key)
        check_number("target", self.target)
        if not 0.0 < self.target < 1.0:
            refuse("target", "lie between 0 and 1", self.target)
        check_number("jitter", self.jitter)
        check_minimum("jitter", self.jitter, 0.0)

    def begin(self, density: Density, start: Start | None) -> AbstractRun:
        return Chains(density, self, starts(density, start, self.chains, self.jitter, self.key))


class Chains(AbstractRun):
    """Chains side by side.

    Args:
        density: The posterior.
        method: The sampler.
        z: The points where they begin, shape (chains, size).
        values: Measurements of each chain, output by output, shape (chains, rows); by default those of the problem.
    """

    def __init__(self, density: Density, method: NUTS, z: np.ndarray, values: Values = None) -> None:
        self.method, self.values = method, values
        self.total = method.warmup + method.samples
        self._begin, self._advance = _programs(density, method)
        keys = jax.random.key_data(jax.random.split(method.key, len(z)))
        self.now = self._begin(jnp.asarray(z), values, keys)
        self.done = 0
        self.results: list[dict[str, np.ndarray]] = []

    @property
    def standing(self) -> Progress:
        divergences = int(sum(part["diverging"].sum() for part in self.results))
        return Progress(self.done, self.total, {"divergences": divergences, "temperature": 1.0})

    @property
    def going(self) -> bool:
        return self.done < self.total

    def advance(self) -> None:
        limit = self.method.warmup if self.done < self.method.warmup else self.total
        count = min(REPORT_EVERY, limit - self.done)
        self.now, results = jax.block_until_ready(self._advance(self.now, self.values, count))
        self.done += count
        if self.done > self.method.warmup:
            self.results.append({name: np.asarray(part)[:count] for name, part in results.items()})

    def draws(self) -> Draws:
        results = {
            name: np.concatenate([part[name] for part in self.results]).swapaxes(0, 1) for name in self.results[0]
        }
        steps = results["n_steps"]
        stats = {name: part for name, part in results.items() if name != "z"}
        return Draws(
            results["z"], stats | {"tree_depth": np.floor(np.log2(np.maximum(steps, 1))).astype(int) + 1}, None
        )

    def state(self) -> dict[str, ArrayLike | str]:
        results = {name: np.concatenate([part[name] for part in self.results]) for name in (self.results or [{}])[0]}
        now = {f"now{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(self.now))}
        return {"done": self.done, **now, **{f"kept_{name}": part for name, part in results.items()}}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        leaves, structure = jax.tree.flatten(self.now)
        self.now = jax.tree.unflatten(structure, [jnp.asarray(state[f"now{k}"]) for k in range(len(leaves))])
        self.done = int(state["done"])
        results = {name.removeprefix("kept_"): part for name, part in state.items() if name.startswith("kept_")}
        self.results = [results] if results else []


def _programs(density: Density, method: NUTS) -> tuple[Callable, Callable]:
    """Return programs that begin chains and that advance them, with measurements as an argument."""
    hmc = require("numpyro.infer.hmc", extra="bayes").hmc
    info = require("numpyro.infer.util", extra="bayes").ParamInfo
    count = len(density.names)

    def potential(values: Values) -> Callable[[dict[str, Array]], Array]:
        return lambda z: -density(_merged(z), values)

    begin, kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    evaluated = quickly_compiled(jax.vmap(lambda z, values: local(density, z, values)))

    def initial(z: Array, values: Values, keys: Array) -> PyTree:
        def chain(z: Array, at_start: Local, values: Values, key: Array) -> PyTree:
            metric = at_start.covariance
            effects = {("u",): jnp.diagonal(metric)[count:]} if density.size > count else {}
            return begin(
                info(_split(z, count), -at_start.value, _split(-at_start.slope, count)),
                num_warmup=method.warmup,
                inverse_mass_matrix={("x",): metric[:count, :count]} | effects,
                dense_mass=[("x",)] if method.dense else [],
                target_accept_prob=method.target,
                max_tree_depth=method.depth,
                model_args=(values,),
                rng_key=key,
            )

        return jax.vmap(chain)(z, evaluated(z, values), values, keys)

    def step(k: Array, carry: tuple[PyTree, dict[str, Array]], values: Values) -> tuple[PyTree, dict[str, Array]]:
        now, saved = carry
        now = jax.vmap(lambda now, values: kernel(now, (values,)))(now, values)
        new_results = {
            "z": jax.vmap(_merged)(now.z),
            "lp": -now.potential_energy,
            "energy": now.energy,
            "diverging": now.diverging,
            "n_steps": now.num_steps,
            "acceptance_rate": now.accept_prob,
            "step_size": now.adapt_state.step_size,
        }
        return now, {name: saved[name].at[k].set(part) for name, part in new_results.items()}

    @jax.jit
    def advanced(now: PyTree, values: Values, iterations: int) -> tuple[PyTree, dict[str, Array]]:
        lanes = now.potential_energy.shape
        kinds = {"diverging": bool, "n_steps": now.num_steps.dtype}
        names = ("z", "lp", "energy", "diverging", "n_steps", "acceptance_rate", "step_size")
        shapes = {name: (*lanes, density.size) if name == "z" else lanes for name in names}
        empty = {name: jnp.zeros((REPORT_EVERY, *shapes[name]), kinds.get(name, float)) for name in names}
        return jax.lax.fori_loop(0, iterations, lambda k, carry: step(k, carry, values), (now, empty))

    return initial, advanced


def _split(z: Array, count: int) -> dict[str, Array]:
    """Return parameters and random effects separately, so that each has its own metric."""
    return {"x": z[:count]} | ({"u": z[count:]} if z.size > count else {})


def _merged(z: dict[str, Array]) -> Array:
    return jnp.concatenate([z[name] for name in ("x", "u") if name in z])
