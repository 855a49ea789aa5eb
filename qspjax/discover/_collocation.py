"""A first look at unknown rates without solving anything: smooth the data, and regress their weak form.

For a test function phi that vanishes at both ends of a window, an amount A with doses D up to t, the known part f of
its rate and the terms psi of a library,

$$ -\\int \\phi' (A - D) \\, dt = \\int \\phi f \\, dt + \\sum_j c_j \\int \\phi \\psi_j \\, dt $$

so that no noisy slope is needed. A is a smoothing spline in a time in which measurements are evenly spaced; what is
not measured is simulated by what is known.

Reference: Messenger and Bortz (2021), doi:10.1137/20M1343166; Reinsch (1967), doi:10.1007/BF02162161.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError
from qspjax._expression import Expression, evaluate, symbols
from qspjax._names import at
from qspjax._simulate import simulate
from qspjax._tables import LabelledState
from qspjax.fit import Experiment, Problem
from qspjax.models.network import Network, Reaction

PIECES = 10
"""Parts of each interval between measurements in which integrals are computed."""
SPAN = 3
"""The number of intervals between measurements that a test function spans."""
SMOOTHED = 5
"""The least number of times that are smoothed; fewer are joined by straight lines."""


class Regression(NamedTuple):
    """The weak form of the rate of a state: a row per test function, a column per term.

    Attributes:
        columns: The integrals of the terms, shape (rows, terms).
        target: The change that nothing known explains, shape (rows,).
    """

    columns: Float[np.ndarray, "rows terms"]
    target: Float[np.ndarray, " rows"]


def measured_species(problem: Problem) -> dict[str, str]:
    """Return, by species, the output that measures it alone."""
    species = cast(Network, problem.model).definition.species
    found = {str(output.prediction): name for name, output in problem.outputs.items()}
    return {name: found[name] for name in species if name in found}


def regressions(
    problem: Problem, x: np.ndarray, states: Sequence[str], terms: Sequence[Expression]
) -> dict[str, Regression]:
    """Return the weak form of the rates of states, over all experiments.

    Args:
        problem: The problem, whose model is what is known.
        x: The point of its parameters.
        states: The species whose rate has an unknown part.
        terms: The terms of the library.

    Raises:
        ValueError: If a state is not measured, or experiments change conditions on the way.
    """
    measured = measured_species(problem)
    for name in states:
        if name not in measured:
            raise ArgumentError("states", f"must be measured directly, by an output, but `{name}` is not.")
    parts: dict[str, list[Regression]] = {name: [] for name in states}
    for title, experiment in problem.experiments.items():
        if experiment.changes:
            raise ArgumentError("problem", f"must have experiments without changes, but `{title}` has one.")
        model = _model_of(problem, experiment, x)
        path = _Path(model, experiment, measured)
        for name in states:
            parts[name].append(path.weak(name, terms))
    joined = {name: [np.concatenate(part) for part in zip(*of_state, strict=True)] for name, of_state in parts.items()}
    return {name: Regression(*pair) for name, pair in joined.items()}


def _model_of(problem: Problem, experiment: Experiment, x: np.ndarray) -> Network:
    """Return the model with the values of a point and of an experiment."""
    model = cast(Network, problem.fitted_model(jnp.asarray(x)))
    known = {name: float(value) for name, value in problem.values(jnp.asarray(x)).items()}
    known |= {name: float(value) for name, value in model.values.items() if name not in known}
    for table in (experiment.begin.set, experiment.begin.put):
        for name, formula in table.items():
            value = evaluate([formula], known, 0.0)[0] if isinstance(formula, Expression) else formula
            if name in model.values:
                model = at(model, name).set(float(cast(float, value)))
    return model


class _Path:
    """The smoothed course of an experiment at closely spaced times."""

    def __init__(self, model: Network, experiment: Experiment, measured: Mapping[str, str]) -> None:
        self.model, data = model, experiment.measurements
        outputs, finite = np.array(data.output, dtype=object), np.isfinite(data.value) & np.isfinite(data.time)
        nodes = np.unique(np.concatenate([[min(0.0, data.time.min())], data.time[np.isfinite(data.time)]]))
        inner = [np.linspace(a, b, PIECES, endpoint=False) for a, b in itertools.pairwise(nodes)]
        self.nodes, self.t = nodes, np.concatenate([*inner, nodes[-1:]])
        moving, still = (_states(one, experiment, self.t) for one in (model, _still(model)))
        self.input = {name: values - values[0] for name, values in still.items()}
        self.states, self.times = dict(moving), {}
        for name, output in measured.items():
            rows = finite & (outputs == output)
            if rows.any():
                times, inverse = np.unique(data.time[rows], return_inverse=True)
                size = _size(model, name)
                means = size * np.bincount(inverse, data.value[rows]) / np.bincount(inverse)
                given = np.interp(times, self.t, self.input[name])
                self.states[name] = _smooth(times, means - given, self.t) + self.input[name]
                self.times[name] = times

    def weak(self, name: str, terms: Sequence[Expression]) -> Regression:
        """Return the weak form of the rate of a species."""
        if name not in self.times:
            return Regression(np.zeros((0, len(terms))), np.zeros(0))
        values = {key: state / _size(self.model, key) for key, state in self.states.items()}
        numbers = {key: float(value) for key, value in self.model.values.items() if key not in values}
        columns = [np.broadcast_to(evaluate([term], {**numbers, **values}, self.t)[0], self.t.shape) for term in terms]
        known = self._known(name)
        rest = self.states[name] - self.input[name]
        times = np.unique(np.concatenate([self.nodes[:1], self.times[name]]))
        span = min(SPAN, len(times) - 1)
        rows, target = [], []
        for low, high in zip(times[: len(times) - span], times[span:], strict=True):
            s = np.clip((2.0 * self.t - low - high) / (high - low), -1.0, 1.0)
            phi, slope = (1.0 - s**2) ** 2, -4.0 * s * (1.0 - s**2) * 2.0 / (high - low)
            target.append(-np.trapezoid(slope * rest, self.t) - np.trapezoid(phi * known, self.t))
            rows.append([np.trapezoid(phi * column, self.t) for column in columns])
        return Regression(np.array(rows).reshape(len(target), len(terms)), np.array(target))

    def _known(self, name: str) -> np.ndarray:
        """Return the known part of the rate of a species."""
        labels = self.model.initial().labels

        def rate(t: jax.Array, values: dict[str, jax.Array]) -> jax.Array:
            start = self.model.initial()
            packed = tuple(values[label] for label in labels)
            y = LabelledState(labels, packed if isinstance(start.values, tuple) else jnp.stack(packed))
            return jnp.asarray(self.model.vector_field(t, y)[name], float)

        columns = {label: jnp.asarray(self.states[label]) for label in labels}
        return np.asarray(jax.jit(jax.vmap(rate))(jnp.asarray(self.t), columns))


def _states(model: Network, experiment: Experiment, t: np.ndarray) -> dict[str, np.ndarray]:
    solution = simulate(model, experiment.regimen, t)
    return {label: np.asarray(solution.states[label]) for label in model.initial().labels}


def _still(model: Network) -> Network:
    """Return a network in which nothing happens but doses."""
    definition = model.definition
    reactions = {
        id: Reaction(one.reactants, one.products, "0", reversible=one.reversible, name=one.name)
        for id, one in definition.reactions.items()
    }
    still = model.replace(reactions=reactions) if reactions else model
    return still.replace(rates=dict.fromkeys(definition.rates, "0")) if definition.rates else still


def _size(model: Network, species: str) -> float:
    """Return the amount of a species over the value of its symbol."""
    definition = model.definition
    compartment = definition.compartment_of(species)
    if definition.in_amount(species) or compartment not in model.values:
        return 1.0
    return float(model.values[compartment])


def _smooth(times: np.ndarray, values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return values at closely spaced times, by a smoothing spline (its parameter by cross-validation)."""
    from scipy.interpolate import make_smoothing_spline

    if len(times) < SMOOTHED:
        return np.interp(t, times, values)
    even = np.arange(len(times), dtype=float)
    return make_smoothing_spline(even, values)(np.interp(t, times, even))


def subsets(regression: Regression, most: int) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Return the terms that explain a regression, the best subsets by an extended BIC first, with their coefficients.

    Args:
        regression: The weak form.
        most: How many terms at most.
    """
    A, b = regression
    norms = np.linalg.norm(A, axis=0)
    usable = [k for k in range(A.shape[1]) if np.isfinite(norms[k]) and norms[k] > 0]
    rows, count = len(b), len(usable)
    ranked: list[tuple[float, tuple[int, ...], np.ndarray]] = []
    luck = 0.0
    for size in range(1, min(most, rows - 1, count) + 1):
        luck += 2.0 * np.log((count - size + 1) / size)
        for chosen in itertools.combinations(usable, size):
            scaled = A[:, chosen] / norms[[*chosen]]
            gram = scaled.T @ scaled
            if size > 1 and np.linalg.cond(gram) > 1e8:
                continue
            coefficients = np.linalg.solve(gram, scaled.T @ b) / norms[[*chosen]]
            loss = float(np.mean((b - A[:, chosen] @ coefficients) ** 2))
            ranked.append((rows * np.log(max(loss, 1e-300)) + size * np.log(rows) + luck, chosen, coefficients))
    ranked.sort(key=lambda one: one[0])
    return [(chosen, coefficients) for _, chosen, coefficients in ranked]


def unknown_names(terms: Sequence[Expression], network: Network) -> list[str]:
    """Return the names that terms use and a network does not have."""
    return sorted(symbols(*terms) - {*network.definition.ids()})
