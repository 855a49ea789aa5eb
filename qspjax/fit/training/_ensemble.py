"""Uncertainty of what networks have learned: deep ensembles, and Laplace's approximation of the last layer.

Both end in an `Ensemble`: points of one problem, each as good an explanation of the data as the others.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from qspjax._checks import ArgumentError, check_instance, check_one_of, check_whole, refuse
from qspjax._dosing._regimen import Regimen
from qspjax._random import check_key, generator
from qspjax._simulate import simulate_cohort
from qspjax._types import Key
from qspjax.fit._free import Free
from qspjax.fit._patients import banded, patients_of, population_of
from qspjax.fit._problem import Problem
from qspjax.fit._types import Numbers, Table
from qspjax.fit._uncertainty import Uncertainty
from qspjax.fit._wald import check_level
from qspjax.fit._weights import Weights
from qspjax.fit.search._estimate import Fit
from qspjax.fit.search._search import quickly_compiled
from qspjax.fit.search._starts import AbstractStarts


class Members(AbstractStarts):
    """Starts of a deep ensemble: the start of the problem, and others with fresh weights.

    The weights of each array are those of the network in another order: they have the spread of its own initialisation.
    All members are trained side by side by one `estimate`.

    Args:
        members: Their number.
        key: `jax.random.key(seed)`.
        spread: The standard deviation of the free numbers about their starts, on the scale of the search.

    Raises:
        ValueError: If there are none.

    Reference: Lakshminarayanan et al., NeurIPS 2017, arXiv:1612.01474.

    Example:
        >>> import jax
        >>> from qspjax.fit import Members
        >>> Members(8, key=jax.random.key(0)).members
        8
    """

    members: int = eqx.field(static=True)
    key: Key = eqx.field(kw_only=True)
    spread: float = eqx.field(default=0.0, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("members", self.members, 1)
        check_key(self.key)

    def points(self, problem: Problem) -> np.ndarray:
        start = np.asarray(problem.start)
        points = [start]
        for member in range(1, self.members):
            drawn = generator(self.key, member, 1).normal(size=len(problem.free))
            numbers = start[: len(problem.free)] + self.spread * drawn
            points.append(np.concatenate([numbers, problem.weights.drawn(self.key, member)]))
        return np.clip(np.stack(points), *(np.asarray(edge) for edge in problem.bounds))


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Points of one problem that explain its data equally well; where they differ, the data do not say.

    Args:
        problem: The fitted problem.
        points: The points, shape (members, parameters), on the scale of the search.

    Raises:
        ValueError: If there are none, or they have another shape.

    Example:
        >>> import equinox as eqx, jax, qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Descent, Ensemble, Experiment, Measurements, Members, Output, Problem, Weights, estimate,
        ... )
        >>> class Learned(qsp.AbstractModel):
        ...     V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
        ...     k: eqx.nn.MLP
        ...
        ...     def initial(self):
        ...         return {"central": 0.0}
        ...
        ...     def vector_field(self, t, y):
        ...         return {"central": -jax.nn.softplus(self.k(y["central"] / self.V)) * y["central"]}
        ...
        ...     def observe(self, t, y):
        ...         return {"concentration": y["central"] / self.V}
        >>> network = eqx.nn.MLP("scalar", "scalar", width_size=4, depth=1, key=jax.random.key(0))
        >>> problem = Problem(
        ...     Learned(V=30.0, k=network),
        ...     Experiment(Measurements([1.0, 4.0, 8.0], [3.0, 2.1, 1.2], output="c"), qsp.bolus(100.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"k": Weights(prior=qsp.Normal(0.0, sd=1.0))},
        ... )
        >>> fit = estimate(problem, method=Descent(max_steps=20), starts=Members(3, key=jax.random.key(1)))
        >>> band = Ensemble.of(fit).predict(qsp.bolus(50.0, to="central"), [2.0, 6.0])
        >>> band["COUNT"]
        array([3, 3])
    """

    problem: Problem
    points: np.ndarray

    def __post_init__(self) -> None:
        check_instance("problem", self.problem, Problem, "a Problem")
        points = np.asarray(self.points, float)
        if points.ndim != 2 or points.shape[1] != len(self.problem.names) or not len(points):
            refuse("points", f"have shape (members, {len(self.problem.names)})", f"of shape {points.shape}")
        object.__setattr__(self, "points", points)

    @classmethod
    def of(cls, fit: Fit, *, within: float | None = None) -> "Ensemble":
        """Return the ensemble of the points at which the starts of a fit have ended.

        Args:
            fit: A fit from several starts, such as `Members(...)`.
            within: Only those whose log density is at most this much less than the best.
        """
        least = -np.inf if within is None else fit.values[0] - within
        return cls(fit.problem, fit.points[np.isfinite(fit.values) & (fit.values >= least)])

    @property
    def size(self) -> int:
        """The number of members."""
        return len(self.points)

    def networks(self, name: str) -> list[PyTree]:
        """Return the network of each member.

        Args:
            name: The name of its weights.
        """
        check_one_of("name", name, [block.name for block in self.problem.weights.blocks], "a network of the problem")
        return [self.problem.networks(x)[name] for x in self.points]

    def rate(
        self, name: str, *inputs: Float[Array, " points"] | Float[np.ndarray, " points"], level: float = 0.9
    ) -> Table:
        """Return what the networks of all members give for inputs, with a band, as columns.

        Args:
            name: The name of the weights; what holds them is called.
            *inputs: The inputs, each of shape (points,).
            level: The share of the members within the band.

        Returns:
            INPUT1, INPUT2, ..., LOWER, MEDIAN and UPPER.
        """
        check_level(level)
        values = np.stack([np.asarray(jax.vmap(term)(*map(jnp.asarray, inputs))) for term in self.networks(name)])
        lower, median, upper = np.quantile(values, [0.5 - level / 2.0, 0.5, 0.5 + level / 2.0], axis=0)
        columns = {f"INPUT{i}": np.asarray(column) for i, column in enumerate(inputs, 1)}
        return columns | {"LOWER": lower, "MEDIAN": median, "UPPER": upper}

    def predict(self, regimen: Regimen, ts: Numbers, *, level: float = 0.9, experiment: str | None = None) -> Table:
        """Return predictions of a new regimen, with a band of all members, as columns: the data of `plot.prediction`.

        Args:
            regimen: The doses.
            ts: Times, shape (times,).
            level: The share of the members within the band.
            experiment: As in `Fit.population`.

        Returns:
            The columns of `Fit.predict`; COUNT is the number of members whose simulation did not fail.

        Raises:
            RuntimeError: If no member can be simulated.
        """
        check_level(level)
        check_instance("regimen", regimen, Regimen, "a regimen")
        ts = np.asarray(ts, float)
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        failure, time_unit = "", ""
        for x in self.points:
            solution = self._simulated(x, regimen, ts, experiment)
            time_unit = solution.labels.units.time
            if bool(np.asarray(solution.failed).any()):
                failure = failure or solution.failures()[0].reason
                continue
            for name, values in solution.observed.items():
                found.setdefault((name, solution.labels.unit(name)), []).append(np.asarray(values)[0])
        if not found:
            raise RuntimeError(f"No member can be simulated. The first: {failure}")
        return banded({key: np.stack(of) for key, of in found.items()}, ts, level=level, time_unit=time_unit)

    def _simulated(self, x: np.ndarray, regimen: Regimen, ts: np.ndarray, experiment: str | None):  # noqa: ANN202
        patient = patients_of(lambda x: population_of(self.problem, x, experiment), x[None], key=jax.random.key(0))
        return simulate_cohort(patient, regimen, ts, method=self.problem.method)


@dataclasses.dataclass(frozen=True, eq=False)
class LastLayer:
    """Laplace's approximation of the last layer of a network, and of the free numbers if so asked.

    $$ w_L \\sim N(\\hat w_L, H^{-1}), \\quad H = \\sum_i J_i^T I_i J_i - \\nabla^2 \\log p(w_L) $$

    with J the slopes of the predictors of measurement i in the weights of the last layer, by forward sensitivities, and
    I its information. The other layers stay as they are: they make the features, and the last one a regression on them.

    Args:
        fit: A fit of a problem with `Weights`.
        numbers: Whether the free numbers are uncertain, too.
        layers: The names of the layers, such as `"rate.layers[2]"`; by default the last linear one of each network.

    Raises:
        ValueError: If there are no weights, or the data and the priors say nothing about a direction.

    Reference: Daxberger et al., NeurIPS 2021, arXiv:2106.14806.

    Example:
        >>> import equinox as eqx, jax, qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Descent, Experiment, LastLayer, Measurements, Output, Problem, Weights, estimate,
        ... )
        >>> class Learned(qsp.AbstractModel):
        ...     V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
        ...     k: eqx.nn.MLP
        ...
        ...     def initial(self):
        ...         return {"central": 0.0}
        ...
        ...     def vector_field(self, t, y):
        ...         return {"central": -jax.nn.softplus(self.k(y["central"] / self.V)) * y["central"]}
        ...
        ...     def observe(self, t, y):
        ...         return {"concentration": y["central"] / self.V}
        >>> network = eqx.nn.MLP("scalar", "scalar", width_size=4, depth=1, key=jax.random.key(0))
        >>> problem = Problem(
        ...     Learned(V=30.0, k=network),
        ...     Experiment(Measurements([1.0, 4.0, 8.0], [3.0, 2.1, 1.2], output="c"), qsp.bolus(100.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"k": Weights(prior=qsp.Normal(0.0, sd=1.0))},
        ... )
        >>> layer = LastLayer(estimate(problem, method=Descent(max_steps=20)))
        >>> layer.layers, layer.draws(10, key=jax.random.key(1)).size
        (('k.layers[1]',), 10)
    """

    fit: Fit
    numbers: bool = False
    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_instance("fit", self.fit, Fit, "what `estimate` returns")
        found = tuple(self.layers) or tuple(_last_layers(self.fit.problem))
        if not found:
            raise ArgumentError("fit", "must be that of a problem with Weights() of a linear layer, but has none.")
        object.__setattr__(self, "layers", found)

    @cached_property
    def problem(self) -> Problem:
        """The same problem, with everything but the last layers where the fit has put it."""
        whole, x = self.fit.problem, jnp.asarray(self.fit.x)
        values = {name: float(value) for name, value in whole.values(x).items()}
        priors = {block.name: block.prior for block in whole.weights.blocks}
        parameters: dict[str, Free | Weights | float] = dict(values)
        if self.numbers:
            parameters |= {name: _moved(free, values[name]) for name, free in whole.free.items()}
        for layer in self.layers:
            owner = max((name for name in priors if layer.startswith(name)), key=len, default=None)
            check_one_of("layers", owner or layer, priors, "a part of a network of the problem")
            parameters[layer] = Weights(prior=priors[owner or layer])
        model = whole.weights.placed(whole.model, whole.split(x)[1])
        functions = whole.weights.callables(whole.split(x)[1])
        return Problem(model, whole.experiments, whole.outputs, parameters, method=whole.method, functions=functions)

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """The uncertainty of the weights of the last layers, and of the numbers, about the fit."""
        start = self.problem.start
        curvature = quickly_compiled(self.problem.quadratic, short=True)(start).curvature
        return Uncertainty(self.problem, np.asarray(start), np.asarray(curvature))

    def draws(self, size: int, *, key: Key) -> Ensemble:
        """Return draws, as points of the fitted problem.

        Args:
            size: The number of draws.
            key: `jax.random.key(seed)`.

        Raises:
            ValueError: If the data and the priors say nothing about a direction.
        """
        check_whole("size", size, 1)
        covariance = self.uncertainty.covariance
        if not np.isfinite(covariance).all():
            must = "be that of a problem with a prior of the weights, such as Weights(prior=Normal(0.0, sd=1.0))"
            refuse("fit", must, "that of one whose data say nothing about some direction of them")
        random, whole = generator(key), self.fit.problem
        lower, upper = (np.asarray(edge) for edge in self.problem.bounds)
        drawn = random.multivariate_normal(np.asarray(self.problem.start), covariance, size=size, method="eigh")
        points = np.repeat(self.fit.x[None], size, axis=0)
        points[:, [whole.names.index(name) for name in self.problem.names]] = np.clip(drawn, lower, upper)
        return Ensemble(whole, points)


def _moved(free: Free, start: float) -> Free:
    """Return a free number that begins elsewhere."""
    others = {"transform": free.transform, "prior": free.prior, "prior_scaled": free.prior_scaled}
    return Free(start, bounds=(free.lower, free.upper), **others, quantile=free.quantile)


def _last_layers(problem: Problem) -> list[str]:
    """Return the name of the last linear layer of each network."""
    names = []
    for block in problem.weights.blocks:
        leaves, _ = jax.tree_util.tree_flatten_with_path(
            block.part, is_leaf=lambda node: isinstance(node, eqx.nn.Linear)
        )
        linear = [path for path, leaf in leaves if isinstance(leaf, eqx.nn.Linear)]
        names += [f"{block.name}{jax.tree_util.keystr(linear[-1])}"] if linear else []
    return names
