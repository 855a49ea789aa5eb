"""Simulation-based calibration: does a sampler draw from the posterior that follows from prior and model?

Parameters are drawn from the prior, measurements are simulated from these, and their posterior is sampled: the rank of
the parameters among the draws is uniform over 0 ... L, for any model.

    theta ~ p(theta),  y ~ p(y | theta),  theta_1 ... theta_L ~ p(theta | y),  rank = #(theta_l < theta)

Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv:1804.06788.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import ArgumentError, check_instance, check_whole
from qspjax._extras import require
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._problem import Problem
from qspjax.fit.bayes import _convergence
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._nuts import NUTS, Chains
from qspjax.fit.bayes._posterior import ranks_table
from qspjax.fit.mixed._mixed import MixedModel

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of true parameters among the draws from their posterior.

    Attributes:
        names: The parameters.
        truth: Their natural values, shape (simulations, names).
        rank: How many draws lie below, shape (simulations, names).
        draws: The number of draws, thinned by their effective sample size: ranks are 0 to `draws`.
        rhat: The greatest split R-hat of each simulation, shape (simulations,).
        divergences: The number of divergent trajectories of each.
        failed: The number of draws from the prior left out, since the model could not be simulated there.
        key: That of the simulations, by which ties between ranks are broken.
        seconds: The time it took.

    Example:
        >>> import jax
        >>> truth, rank = np.array([[2.5], [3.1], [3.4]]), np.array([[1], [4], [7]])
        >>> ones = np.ones(3)
        >>> found = Calibration(("CL",), truth, rank, 9, ones, 0 * ones, 0, jax.random.key(0), 1.0)
        >>> sorted(found.p_values), found.ranks(bins=2)["COUNT"].tolist()
        (['CL'], [2, 1])
    """

    names: tuple[str, ...]
    truth: np.ndarray
    rank: np.ndarray
    draws: int
    rhat: np.ndarray
    divergences: np.ndarray
    failed: int
    key: Key
    seconds: float

    @property
    def p_values(self) -> dict[str, float]:
        """The p-value of the Kolmogorov-Smirnov test that ranks are uniform, by name; ties are broken at random."""
        from scipy.stats import kstest

        return {name: float(kstest(share[0], "uniform").pvalue) for name, share in self._shares().items()}

    def ranks(self, *, bins: int = 10) -> dict[str, np.ndarray]:
        """Return how often ranks fall into bins, the data of `plot.ranks`; columns as in `Posterior.ranks`."""
        check_whole("bins", bins, 2)
        return ranks_table(self._shares(), bins)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per simulation and parameter: truth, rank, R-hat and divergences."""
        pandas = require("pandas", extra="data")
        count = len(self.names)
        table = {
            "simulation": np.repeat(np.arange(len(self.rank)), count),
            "parameter": np.tile(np.array(self.names, dtype=object), len(self.rank)),
            "truth": self.truth.ravel(),
            "rank": self.rank.ravel(),
            "rhat": np.repeat(self.rhat, count),
            "divergences": np.repeat(self.divergences, count),
        }
        return pandas.DataFrame(table)

    def _shares(self) -> dict[str, np.ndarray]:
        """Return ranks as numbers between 0 and 1, uniform if the ranks are, shape (1, simulations) by name."""
        within = generator(self.key).uniform(size=self.rank.shape)
        share = (self.rank + within) / (self.draws + 1.0)
        return {name: share[None, :, k] for k, name in enumerate(self.names)}

    def __str__(self) -> str:
        lines = [f"{len(self.rank)} simulations, {self.draws} draws each, {int(self.divergences.sum())} divergences"]
        if self.failed:
            lines.append(f"{self.failed} more could not be simulated")
        return "\n".join([*lines, *(f"{name:<24}p = {value:.3f}" for name, value in self.p_values.items())])


def simulation_based_calibration(
    problem: Problem | MixedModel,
    method: NUTS | None = None,
    *,
    key: Key,
    simulations: int = 200,
    lanes: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Check a sampler, a model and its code: rank parameters from the prior among draws from their posterior.

    $$ \\theta \\sim p(\\theta), \\quad y \\sim p(y | \\theta), \\quad \\theta_l \\sim p(\\theta | y), \\quad
       \\#(\\theta_l < \\theta) \\sim U\\{0, ..., L\\} $$

    One program samples all data sets side by side, one chain each; the draws are thinned to about their effective
    sample size (that which 95 % of simulations and parameters exceed).

    Args:
        problem: The design, the model and the priors, which must be distributions; its measurements do not matter.
        method: `NUTS(key=...)`, whose `chains` is ignored; by default one whose key is derived from `key`.
        key: `jax.random.key(seed)`, for parameters and measurements.
        simulations: The number of data sets.
        lanes: How many of them are sampled side by side.
        progress: Called with the number of data sets that are done, and of all.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: If a prior cannot be drawn from, or measurements below a limit are left out (`M1`).

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv:1804.06788.

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
        >>> found = simulation_based_calibration(problem, key=jax.random.key(0), simulations=100)  # doctest: +SKIP
        >>> found.p_values["CL"] > 0.01  # doctest: +SKIP
        True
    """
    check_key(key)
    method = NUTS(key=jax.random.fold_in(key, 1)) if method is None else method
    check_instance("method", method, NUTS, "NUTS(...)")
    check_whole("simulations", simulations, 2)
    check_whole("lanes", lanes, 1)
    density = Density(problem)
    for rows in density.likelihood.rows:
        if rows.output.below is not None and not rows.output.below.keeps():
            must = f"must keep measurements below the limit (M3 or M4), but output `{rows.name}` leaves them out."
            raise ArgumentError("problem", must)
    began = time.perf_counter()
    lanes = min(lanes, simulations)
    truth, values, failed = data_sets(density, simulations, lanes, key)
    natural = jax.jit(jax.vmap(lambda z: density.natural(z)["natural"]))
    natural_draws, divergences = [], []
    start = jax.jit(jax.vmap(lambda z, values: _begin(density, z, values)))
    for first in range(0, len(truth), lanes):
        indices = np.arange(first, first + lanes) % len(truth)
        measurements = [jnp.asarray(column[indices]) for column in values]
        chains = Chains(density, method, start(jnp.asarray(truth[indices]), measurements), measurements)
        while chains.going:
            chains.advance()
        draws = chains.draws()
        count = min(lanes, len(truth) - first)
        natural_draws.append(np.stack([np.asarray(natural(jnp.asarray(z))) for z in draws.z[:count]]))
        divergences.append(draws.stats["diverging"][:count].sum(axis=1))
        if progress is not None:
            progress(first + count, len(truth))
    natural_truth = np.asarray(natural(jnp.asarray(truth)))
    return _ranked(
        density, natural_truth, np.concatenate(natural_draws), np.concatenate(divergences), failed, key, began
    )


def data_sets(density: Density, count: int, lanes: int, key: Key) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Return points from the prior, measurements simulated there, and how many more could not be simulated."""

    def data_set(key: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        for_point, for_noise = jax.random.split(key)
        z = density.drawn(for_point)
        return z, density.simulated(z, for_noise)

    program = jax.jit(jax.vmap(data_set))
    keys = jax.random.split(key, count + -count % lanes)
    parts = [program(keys[k : k + lanes]) for k in range(0, count, lanes)]
    z, values = jax.tree.map(lambda *chunks: np.concatenate([np.asarray(chunk) for chunk in chunks])[:count], *parts)
    succeeded = np.isfinite(z).all(axis=1)
    for column in values:
        succeeded &= np.isfinite(column).all(axis=1)
    if succeeded.sum() < 2:
        raise ArgumentError(
            "problem", "must be possible to simulate at draws from its priors, but nearly all of these failed."
        )
    return z[succeeded], [column[succeeded] for column in values], int((~succeeded).sum())


def _begin(density: Density, truth: jax.Array, values: list[jax.Array]) -> jax.Array:
    """Return the point where a chain begins: the start of the problem, or the truth if the density there is 0."""
    return jnp.where(jnp.isfinite(density(density.start, values)), density.start, truth)


def _ranked(
    density: Density,
    truth: np.ndarray,
    draws: np.ndarray,
    divergences: np.ndarray,
    failed: int,
    key: Key,
    began: float,
) -> Calibration:
    count, samples, names = draws.shape
    chains = [[draws[i, None, :, k] for k in range(names)] for i in range(count)]
    ess = np.array(
        [[min(_convergence.bulk_ess(chain), _convergence.tail_ess(chain)) for chain in row] for row in chains]
    )
    rhat = np.array([max(_convergence.rhat(chain) for chain in row) for row in chains])
    step = max(1, int(np.ceil(samples / max(1.0, np.quantile(ess, 0.05)))))
    thinned = draws[:, step - 1 :: step]
    rank = (thinned < truth[:, None]).sum(axis=1)
    seconds = time.perf_counter() - began
    return Calibration(density.names, truth, rank, thinned.shape[1], rhat, divergences, failed, key, seconds)
