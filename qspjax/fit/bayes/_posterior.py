"""Draws from a posterior, with their summaries and predictions."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from scipy.special import logsumexp

from qspjax._checks import check_whole
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._extras import require
from qspjax._random import check_key
from qspjax._types import Key
from qspjax.fit._patients import patients_of, population_of, predicted, split
from qspjax.fit._problem import Problem
from qspjax.fit._types import Numbers, Point
from qspjax.fit.bayes import _convergence, _groups
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._priors import deviation_law
from qspjax.fit.bayes._sampler import AbstractSampler, Draws
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._population import mixed_population
from qspjax.fit.search._search import quickly_compiled
from qspjax.population import Population

if TYPE_CHECKING:
    import pandas
    import xarray

CHUNK = 256
"""Draws that are simulated side by side."""
MOST = 5000
"""The maximum number of draws for a density estimate."""


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Draws from a posterior.

    Attributes:
        problem: What was sampled.
        method: The sampler.
        z: Draws on the whole line, shape (chains, draws, size), see `fit.bayes`.
        stats: Statistics of each draw by name, shape (chains, draws): `lp` (the log density of z, without log p(y)),
            `acceptance_rate`; for `NUTS` also `diverging`, `energy`, `tree_depth`, `n_steps` and `step_size`.
        evidences: log p(y) of each run of `SMC`, None for `NUTS`.
        seconds: The time it took.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import NUTS, Additive, Experiment, Free, Measurements, Output, Problem, sample
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, prior=qsp.LogNormal(2.0, cv=0.5))},
        ... )
        >>> posterior = sample(problem, NUTS(key=jax.random.key(0)))  # doctest: +SKIP
        >>> z = np.array([[-0.1, 0.0, 0.1], [0.1, 0.2, -0.2]])[:, :, None]  # what it finds: 2 chains of 3 draws
        >>> posterior = Posterior(problem, NUTS(key=jax.random.key(0)), z, {}, None, 1.0, Density(problem))
        >>> posterior.chains, posterior.parameters["CL"].shape, posterior.columns()["DRAW"].tolist()
        (2, (2, 3), [0, 1, 2, 0, 1, 2])
    """

    problem: Problem | MixedModel
    method: AbstractSampler
    z: np.ndarray
    stats: dict[str, np.ndarray]
    evidences: np.ndarray | None
    seconds: float
    _density: Density = dataclasses.field(repr=False)

    @property
    def chains(self) -> int:
        """The number of chains, or of runs of `SMC`."""
        return self.z.shape[0]

    @cached_property
    def _natural(self) -> dict[str, np.ndarray]:
        return self._for_each_draw(self._density.natural)

    @cached_property
    def x(self) -> np.ndarray:
        """Draws of what is estimated on the scale of the search, shape (chains, draws, names)."""
        return self._for_each_draw(lambda z: self._density.parts(z)[0])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Draws of natural values: parameters, then elements of Omega, shape (chains, draws) each."""
        natural = self._natural["natural"]
        return {name: natural[..., k] for k, name in enumerate(self.problem.names)}

    @property
    def covariance(self) -> np.ndarray:
        """Draws of Omega, shape (chains, draws, effects, effects); without random effects (chains, draws, 0, 0)."""
        return self._natural.get("covariance", np.zeros((*self.z.shape[:2], 0, 0)))

    @property
    def etas(self) -> np.ndarray:
        """Draws of the random effects, shape (chains, draws, subjects, effects)."""
        return self._natural.get("etas", np.zeros((*self.z.shape[:2], 0, 0)))

    @property
    def divergences(self) -> int:
        """The number of trajectories that diverged after warm-up."""
        return int(self.stats["diverging"].sum()) if "diverging" in self.stats else 0

    @property
    def log_evidence(self) -> float | None:
        """The log of p(y), the mean over the runs of `SMC` of p(y); None for `NUTS`."""
        return None if self.evidences is None else float(logsumexp(self.evidences) - np.log(len(self.evidences)))

    def summary(self, *, effects: bool = False) -> "pandas.DataFrame":
        """Return a table with one row per parameter.

        Args:
            effects: Whether the random effects of all subjects have rows too.

        Returns:
            `mean`, `sd`, `median`, `5%`, `95%`, `rhat` (rank-normalised, split), `ess_bulk` and `ess_tail`; for
            `SMC`, `rhat` compares runs, and the particles of a run are treated as successive draws.

        Reference: Vehtari et al., Bayesian Anal 2021;16:667, doi:10.1214/20-BA1221.
        """
        pandas = require("pandas", extra="data")
        values = dict(self.parameters)
        problem = self.problem
        if effects and isinstance(problem, MixedModel):
            for i, subject in enumerate(problem.subjects):
                values |= {f"{name}[{subject}]": self.etas[..., i, k] for k, name in enumerate(problem.effects)}
        rows = {
            name: {
                "mean": draws.mean(),
                "sd": draws.std(ddof=1),
                "median": np.median(draws),
                "5%": np.quantile(draws, 0.05),
                "95%": np.quantile(draws, 0.95),
                "rhat": _convergence.rhat(draws),
                "ess_bulk": _convergence.bulk_ess(draws),
                "ess_tail": _convergence.tail_ess(draws),
            }
            for name, draws in values.items()
        }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")

    # --- new patients -----------------------------------------------------------------------------------------------

    def _points(self, key: Key, size: int) -> np.ndarray:
        check_key(key)
        check_whole("size", size, 1)
        flat = self.x.reshape(-1, self.x.shape[-1])
        return flat[np.asarray(jax.random.choice(key, len(flat), (size,), replace=size > len(flat)))]

    def draws(self, *, key: Key, size: int) -> dict[str, np.ndarray]:
        """Return some of the draws, natural values by name, shape (size,): without repetition if there are enough.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of draws.
        """
        natural = np.asarray(jax.vmap(self.problem.natural)(jnp.asarray(self._points(key, size))))
        return dict(zip(self.problem.names, natural.T, strict=True))

    def population(self, **settings: PyTree) -> Population:
        """Return the population at the mean of the draws on the scale of the search.

        Args:
            settings: As in `Fit.population` or `MixedFit.population`.
        """
        return self._population(self.x.mean(axis=(0, 1)), **settings)

    def _population(self, x: Point, **settings: PyTree) -> Population:
        if isinstance(self.problem, Problem):
            return population_of(self.problem, x, **settings)
        all_subjects = np.ones(self.problem.count, bool)
        return mixed_population(self.problem, x, all_subjects, **{"covariates": None, **settings})

    def patients(self, *, key: Key, size: int, occasions: int = 1, **settings: PyTree) -> Cohort:
        """Return new patients, each with its own draw of the posterior, of random effects and of covariates.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of patients.
            occasions: As in `Population.sample`.
            settings: As in `population`.
        """
        for_points, for_patients = split(key)
        points = self._points(for_points, size)
        return patients_of(partial(self._population, **settings), points, key=for_patients, occasions=occasions)

    def predict(
        self, regimen: Regimen, ts: Numbers, *, key: Key, size: int = 1000, level: float = 0.9, **settings: PyTree
    ) -> dict[str, np.ndarray]:
        """Return predictions of a new regimen for new patients, with a band, as columns: the data of `plot.prediction`.

        Args:
            regimen: The doses.
            ts: Times, shape (times,).
            key: `jax.random.key(seed)`.
            size: The number of patients.
            level: The share of them that the band holds.
            settings: As in `population`.

        Returns:
            OUTPUT (the name of what is observed), TIME, their UNIT and TIME_UNIT, LOWER, MEDIAN, UPPER and COUNT, the
            number of patients that did not fail.
        """
        patients = self.patients(key=key, size=size, **settings)
        return predicted(patients, regimen, ts, level=level, method=self.problem.method)

    # --- tables of figures ------------------------------------------------------------------------------------------

    def columns(self) -> dict[str, np.ndarray]:
        """Return every draw as columns, the data of `plot.traces`: `CHAIN`, `DRAW`, `DIVERGING`, and the parameters."""
        chains, draws = self.z.shape[:2]
        diverging = self.stats.get("diverging", np.zeros((chains, draws), bool))
        return {
            "CHAIN": np.repeat(np.arange(chains), draws),
            "DRAW": np.tile(np.arange(draws), chains),
            "DIVERGING": diverging.ravel(),
            **{name: values.ravel() for name, values in self.parameters.items()},
        }

    def ranks(self, *, bins: int = 20) -> dict[str, np.ndarray]:
        """Return how often the ranks of each chain among all draws fall into bins, the data of `plot.ranks`.

        Args:
            bins: The number of bins.

        Returns:
            `PARAMETER`, `CHAIN`, `LEFT` and `RIGHT` (edges of the bin, as shares of all ranks), `COUNT`, and `LOWER`
            and `UPPER`, between which 95 % of the counts of independent draws lie.
        """
        from scipy.stats import rankdata

        check_whole("bins", bins, 2)
        shares = {}
        for name, draws in self.parameters.items():
            share = (rankdata(draws, method="ordinal").reshape(draws.shape) - 0.5) / draws.size
            shares[name] = share
        return ranks_table(shares, bins)

    def densities(self, *, points: int = 200) -> dict[str, np.ndarray]:
        """Return marginal densities of the natural values, the data of `plot.posteriors`.

        Args:
            points: The number of values at which each is computed.

        Returns:
            `PARAMETER`, `VALUE`, `POSTERIOR` (a Gaussian kernel estimate on the scale of the search) and `PRIOR`, NaN
            for covariances, and for parameters whose prior is not a probability density.
        """
        check_whole("points", points, 2)
        parts: dict[str, list] = {name: [] for name in ("PARAMETER", "VALUE", "POSTERIOR", "PRIOR")}
        free = [parameter_prior.free for parameter_prior in self._density.priors]
        for k, (name, natural) in enumerate(self.parameters.items()):
            draws = np.asarray(natural).ravel()
            if k < len(free):
                transform = free[k].transform
                grid, estimated = _estimated(self.x[..., k].ravel(), points)
                value = np.asarray(jax.vmap(transform.inverse)(grid))
                slope = np.exp(-np.asarray(jax.vmap(transform.log_det)(value)))
                prior = np.exp(np.asarray(jax.vmap(self._density.priors[k].log_density)(jnp.asarray(grid)))) * slope
                prior = prior if self._density.priors[k].proper else np.full(points, np.nan)
            elif name.startswith("var("):
                grid, estimated = _estimated(np.log(draws), points)
                value, slope = np.exp(grid), np.exp(-grid)
                blocks = [block.random for block in self._density.blocks]
                law = deviation_law(next(block for block in blocks if name[4:-1] in block.names))
                prior = np.exp(np.asarray(law.log_prob(jnp.sqrt(value)))) / (2.0 * np.sqrt(value))
            else:
                value, estimated = _estimated(draws, points)
                slope, prior = 1.0, np.full(points, np.nan)
            columns = (np.full(points, name, dtype=object), value, estimated * slope, prior)
            for column, part in zip(parts.values(), columns, strict=True):
                column.append(part)
        return {name: np.concatenate(part) for name, part in parts.items()}

    # --- measurements -----------------------------------------------------------------------------------------------

    def pointwise_log_likelihood(self) -> list[np.ndarray]:
        """Return the log likelihood of each measurement, output by output, shape (chains, draws, measurements)."""
        return self._for_each_draw(self._density.pointwise)

    def predictive(self, *, key: Key) -> list[np.ndarray]:
        """Return new measurements of the same subjects or experiments, drawn from the posterior, output by output.

        Args:
            key: `jax.random.key(seed)`.

        Returns:
            Shape (chains, draws, measurements) each, NaN where a simulation fails.
        """
        check_key(key)
        keys = np.asarray(jax.random.key_data(jax.random.split(key, self.z.shape[:2])))
        return self._for_each_draw(self._density.simulated, keys)

    def groups(self, *, measurements: bool = True) -> "dict[str, xarray.Dataset]":
        """Return the groups of an ArviZ data set by name.

        Args:
            measurements: Whether to include `log_likelihood` and `posterior_predictive`, which need simulations.
        """
        simulated = {}
        if measurements:
            predictive = self.predictive(key=jax.random.fold_in(self.method.key, 1))
            simulated = {"log_likelihood": self.pointwise_log_likelihood(), "posterior_predictive": predictive}
        return _groups.groups(self._contents(), self.z.shape[:2], simulated)

    def _contents(self) -> _groups.Contents:
        problem = self.problem
        attributes: dict[str, str | float] = {"inference_library": "qspjax", "sampler": repr(self.method)}
        attributes["seconds"] = self.seconds
        if self.log_evidence is not None:
            attributes["log_evidence"] = self.log_evidence
        is_mixed = isinstance(problem, MixedModel)
        return _groups.Contents(
            rows=self._density.likelihood.rows,
            units=[*(problem.subjects if is_mixed else problem.experiments)],
            unit="subject" if is_mixed else "experiment",
            parameters={name: self.parameters[name] for name in problem.free},
            random={"Omega": self.covariance, "eta": self.etas} if is_mixed else {},
            effects=problem.effects if is_mixed else (),
            stats=self.stats,
            evidences=self.evidences,
            attributes=attributes,
        )

    def to_netcdf(self, path: str | Path, *, measurements: bool = True) -> None:
        """Write a NetCDF file that `arviz.from_netcdf` reads, atomically; arguments as for `groups`."""
        _groups.write(Path(path), self.groups(measurements=measurements))

    def _for_each_draw(self, function: Callable[..., PyTree], *others: np.ndarray) -> PyTree:
        """Return the values of a function for all draws, computed side by side in chunks."""
        flat = [part.reshape(-1, *part.shape[2:]) for part in (self.z, *others)]
        count = len(flat[0])
        chunk = min(CHUNK, count)
        padded = [np.concatenate([part, part[: -count % chunk]]) for part in flat]
        program = quickly_compiled(jax.vmap(function))
        parts = [program(*(jnp.asarray(part[k : k + chunk]) for part in padded)) for k in range(0, count, chunk)]
        return jax.tree.map(
            lambda *chunks: np.concatenate([np.asarray(values) for values in chunks])[:count].reshape(
                *self.z.shape[:2], *chunks[0].shape[1:]
            ),
            *parts,
        )

    def __str__(self) -> str:
        chains, draws = self.z.shape[:2]
        head = f"{chains} x {draws} draws by {type(self.method).__name__} in {self.seconds:.1f} s"
        if self.evidences is None:
            head += f", {self.divergences} divergences"
        else:
            head += f", log evidence {self.log_evidence:.3f}"
        return f"{head}\n{self.summary().round(4).to_string()}"


def posterior_of(density: Density, method: AbstractSampler, draws: Draws, seconds: float) -> Posterior:
    """Return the posterior with these draws."""
    return Posterior(density.problem, method, draws.z, draws.stats, draws.log_evidence, seconds, density)


def ranks_table(shares: dict[str, np.ndarray], bins: int) -> dict[str, np.ndarray]:
    """Return counts, in bins, of numbers between 0 and 1 that should be uniform, shape (chains, draws) by name."""
    from scipy.stats import binom

    edges = np.linspace(0.0, 1.0, bins + 1)
    parts: dict[str, list] = {name: [] for name in ("PARAMETER", "CHAIN", "LEFT", "RIGHT", "COUNT", "LOWER", "UPPER")}
    for name, share in shares.items():
        for chain, values in enumerate(share):
            count, _ = np.histogram(values, edges)
            low, high = (binom.ppf(level, values.size, 1.0 / bins) for level in (0.025, 0.975))
            columns = (np.full(bins, name, dtype=object), np.full(bins, chain), edges[:-1], edges[1:], count)
            for column, part in zip(parts.values(), (*columns, np.full(bins, low), np.full(bins, high)), strict=True):
                column.append(part)
    return {name: np.concatenate(part) for name, part in parts.items()}


def _estimated(values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return closely spaced values over the range of draws, and the kernel estimate of their density there."""
    from scipy.stats import gaussian_kde

    thinned = values[:: -(-values.size // MOST)]
    low, high = np.quantile(thinned, [0.001, 0.999])
    grid = np.linspace(low - 0.2 * (high - low), high + 0.2 * (high - low), points)
    return grid, gaussian_kde(thinned)(grid)
