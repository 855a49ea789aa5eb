"""All individuals of a mixed-effects model side by side: their numbers, simulations and Taylor expansions.

The observed values of an individual depend on the parameters of the population and on its random effects only through
its individual numbers, such as CL, V and ka. One expansion of the simulation in these,

    f(v) = f(v0) + J (v - v0) + (v - v0)^T K (v - v0) / 2 + ...

by forward sensitivities of all individuals at once, therefore serves every derivative of an objective at v0, up to the
order of the expansion: what comes before and after the simulation is cheap, and differentiated directly.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._expression import Expression
from qspjax._solution import RESULTS
from qspjax._types import Scalar
from qspjax.fit._weights import Blocks
from qspjax.fit.data._formula import Named, called_by, names_in, value_of
from qspjax.fit.data._formula_table import AbstractFormulaTable
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.data._stages import NOT_PUT, Stages
from qspjax.solve.native._mapped import Native


class IndividualTable(AbstractFormulaTable):
    """A table in which every formula over parameters or individual numbers has a value for each individual.

    Args:
        parameters: The names of the parameters, which come first.
        defaults: Other names that formulas may use, with their values.
        individual: The names whose values differ between individuals: random effects and covariates.
        count: The number of individuals.
        learned: The functions that formulas call, and their weights.

    Attributes:
        blocks: By formula, the index of the first of its values, one for each individual.
    """

    def __init__(
        self,
        parameters: Sequence[str],
        defaults: Mapping[str, Scalar],
        *,
        individual: Sequence[str],
        count: int,
        learned: Blocks,
    ) -> None:
        self.parameters, self.defaults, self.learned = tuple(parameters), defaults, learned
        self.functions = frozenset(learned.functions)
        self.individual, self.count = frozenset(individual), count
        self.blocks: dict[float | Expression, int] = {}
        self._single: dict[float | Expression, int] = {}
        self._size = len(self.parameters)

    @property
    def size(self) -> int:
        return self._size

    def index_of(self, formula: float | Expression, experiment: int = 0) -> int:
        used = names_in(formula)
        if called_by(formula) or used & self.individual or used & {*self.parameters}:
            if formula not in self.blocks:
                self.blocks[formula] = self._size
                self._size += self.count
            return self.blocks[formula] + experiment
        if formula not in self._single:
            self._single[formula] = self._size
            self._size += 1
        return self._single[formula]

    def values(
        self,
        parameters: Sequence[Scalar],
        individual: Mapping[str, Array | np.ndarray],
        weights: Float[Array, " weights"],
    ) -> Float[Array, " numbers"]:
        """Return all values, and then the weights.

        Args:
            parameters: Their values, in their order.
            individual: Random effects and covariates by name, shape (individuals,).
            weights: All weights.
        """
        given = jnp.asarray(parameters, float)
        single = {start: value_of(formula, self.defaults) for formula, start in self._single.items()}
        pieces = {start: jnp.asarray(value, float)[None] for start, value in single.items()}
        if self.blocks:
            names = names_in(*self.blocks)
            own = {name: jnp.asarray(value, float) for name, value in individual.items() if name in names}
            used = [weights] if self.learned.functions else []
            axes = (None, 0, *[None] * len(used))
            values = jax.vmap(self._computed, in_axes=axes, axis_size=self.count)(given, own, *used)
            pieces |= dict(zip(self.blocks.values(), values.T, strict=True))
        return jnp.concatenate([given, *(pieces[start] for start in sorted(pieces)), weights])

    @functools.cached_property
    def _computed(self) -> Native[Float[Array, " formulas"]]:
        """How the formulas of an individual are computed."""

        def values(parameters: Float[Array, " parameters"], individual: Mapping[str, Array], *weights: Array) -> Array:
            functions = self.learned.callables(*weights) if weights else {}
            known = {**self.defaults, **Named(self.parameters, parameters), **individual, **functions}
            return jnp.stack([jnp.asarray(value_of(formula, known), float) for formula in self.blocks])

        return Native(values)


How: TypeAlias = tuple[RESULTS, Array]
"""The result of each simulation, and the time it reached."""


class Expansion(NamedTuple):
    """The observed values of all individuals, as polynomials in their individual numbers.

    Attributes:
        at: The numbers about which it is expanded, shape (numbers, individuals).
        terms: By order, the derivatives of the observed values by name, shape (individuals, times) for order 0, and
            (sorted combinations of numbers, individuals, times) for the others.
        result: The result of each simulation, None if nothing was simulated.
        time: The time it reached.
    """

    at: Array
    terms: tuple[dict[str, Array], ...]
    result: RESULTS | None
    time: Array | None


class Individuals:
    """All individuals, laid out.

    Args:
        table: The table of their numbers.
        stages: Their simulations.
        rows: Their measurements, output by output.
    """

    def __init__(self, table: IndividualTable, stages: Stages, rows: tuple[OutputData, ...]) -> None:
        self.table, self.stages, self.rows = table, stages, rows
        self.count = table.count
        used = _simulated_entries(stages)
        self.starts = np.array(
            [start for start in table.blocks.values() if used[start : start + table.count].any()], int
        )
        self._is_time = np.concatenate([np.isfinite(stage.ts) for stage in stages.stages], axis=1)

    def individual_numbers(self, numbers: Array) -> Array:
        """Return the numbers of the individuals that their simulations depend on, shape (numbers, individuals)."""
        return numbers[self.starts[:, None] + np.arange(self.count)]

    def expanded(self, numbers: Array, order: int) -> Expansion:
        """Simulate all individuals, and expand their observed values to an order of 0 to 3."""

        def simulate(values: Array) -> tuple[dict[str, Array], How]:
            outcomes = self.stages.simulate(numbers.at[self.starts[:, None] + np.arange(self.count)].set(values))
            return self._where_measured(outcomes.observed), (outcomes.result, outcomes.time)

        values, size = self.individual_numbers(numbers), len(self.starts)
        if not order or not size:
            observed, (result, time) = simulate(values)
            return Expansion(values, (observed,), result, time)

        def along(values: Array, directions: Sequence[Array]) -> tuple[list[dict[str, Array]], How]:
            """Return the derivatives of orders 0, 1, ... in the first directions."""
            if not len(directions):
                observed, how = simulate(values)
                return [observed], how
            *others, last = directions
            tangent = jnp.broadcast_to(last[:, None], values.shape)
            terms, slopes, how = jax.jvp(lambda values: along(values, others), (values,), (tangent,), has_aux=True)
            return [*terms, slopes[-1]], how

        monomials = combinations(size, order)
        directions = jnp.asarray(np.eye(size)[np.array(monomials)])
        axes = ([None, *[0] * order], None)
        derivatives, (result, time) = jax.vmap(lambda tangents: along(values, [*tangents]), out_axes=axes)(directions)
        terms = derivatives[:1]
        for k in range(1, order + 1):
            # a derivative of lower order is that of the combination in which its last number is repeated
            at = [monomials.index((*monomial, *monomial[-1:] * (order - k))) for monomial in combinations(size, k)]
            terms.append({name: derivative[np.array(at)] for name, derivative in derivatives[k].items()})
        return Expansion(values, tuple(terms), result, time)

    def observed(self, expansion: Expansion, numbers: Array) -> dict[str, Array]:
        """Return the value of an expansion, by name."""
        step = self.individual_numbers(numbers) - expansion.at
        observed = dict(expansion.terms[0])
        for k, derivatives in enumerate(expansion.terms[1:], start=1):
            monomials = combinations(len(step), k)
            columns = [np.array(column) for column in zip(*monomials, strict=True)]
            factors = [step.at[column].get(mode="promise_in_bounds") for column in columns]
            weight = np.array([[_weight(monomial)] for monomial in monomials]) * functools.reduce(jnp.multiply, factors)
            observed = {
                name: value + jnp.einsum("ci,cit->it", weight, derivatives[name]) for name, value in observed.items()
            }
        return observed

    def _where_measured(self, observed: dict[str, Array]) -> dict[str, Array]:
        """Return observed values, with 0 at the times that pad the table."""
        padding = next(iter(observed.values())).shape[1] - self._is_time.shape[1] if observed else 0
        is_time = np.pad(self._is_time, ((0, 0), (0, padding)), constant_values=True)
        return {name: jnp.where(is_time, value, 0.0) for name, value in observed.items()}


def unexpanded(observed: dict[str, Array]) -> Expansion:
    """Return the expansion of order 0 of observed values, which is a constant."""
    return Expansion(jnp.zeros(()), (observed,), None, None)


def used_entries(individuals: Individuals) -> tuple[np.ndarray, np.ndarray]:
    """Return which entries of the table simulations depend on, and which anything depends on, shape (entries,)."""
    entries = _simulated_entries(individuals.stages)
    simulated = np.pad(entries, (0, individuals.table.size - entries.size))
    used = simulated.copy()
    for rows in individuals.rows:
        for indices in rows.given.values():
            used[indices] = True
    return simulated, used


def combinations(numbers: int, order: int) -> list[tuple[int, ...]]:
    """Return the sorted combinations of numbers in the terms of one order of a Taylor polynomial."""
    return [*itertools.combinations_with_replacement(range(numbers), order)]


def _weight(combination: Sequence[int]) -> float:
    """Return the factor of a sorted combination of numbers in a Taylor polynomial."""
    repeated = [math.factorial(combination.count(number)) for number in set(combination)]
    return 1.0 / math.prod(repeated)


def _simulated_entries(stages: Stages) -> np.ndarray:
    """Return which entries of the table simulations depend on, shape (entries,)."""
    tables = [table for stage in stages.stages for table in (*stage.sets.values(), *stage.puts.values())]
    if stages.equilibrated is not None:
        tables += [*stages.equilibrated.sets.values(), *stages.equilibrated.puts.values()]
    tables += [indices.ravel() for varying in stages.varying.values() for indices in varying.places.values()]
    tables.append(np.array([*stages.shared.values()], int))
    indices = np.concatenate(tables)
    indices = indices[indices != NOT_PUT]
    used = np.zeros(indices.max(initial=-1) + 1, bool)
    used[indices] = True
    return used
