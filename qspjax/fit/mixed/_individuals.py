"""All individuals of a mixed-effects model side by side: their numbers, simulations and Taylor expansions.

What is observed of an individual depends on the parameters of the population and on its random effects only through a
few numbers of its own, such as CL, V and ka. One expansion of the simulation in these,

    f(v) = f(v0) + J (v - v0) + (v - v0)^T K (v - v0) / 2 + ...

by forward sensitivities of all individuals at once, therefore serves every derivative of an objective at v0, up to the
order of the expansion: what comes before the simulation and after it is cheap, and differentiated as it is written.
"""

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
from qspjax.fit.data._formula import names_in, value_of
from qspjax.fit.data._formula_table import AbstractFormulaTable
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.data._stages import NOT_PUT, Stages


class IndividualTable(AbstractFormulaTable):
    """A table in which every formula over parameters or individual numbers has a value for each individual.

    Args:
        parameters: The names of the parameters, which come first.
        defaults: Other names that formulas may use, with their numbers.
        individual: The names that individuals have their own numbers of: random effects and covariates.
        count: The number of individuals.

    Attributes:
        blocks: Where the values of a formula begin, one for each individual.
    """

    def __init__(
        self, parameters: Sequence[str], defaults: Mapping[str, Scalar], *, individual: Sequence[str], count: int
    ) -> None:
        self.parameters, self.defaults = tuple(parameters), defaults
        self.individual, self.count = frozenset(individual), count
        self.blocks: dict[float | Expression, int] = {}
        self._single: dict[float | Expression, int] = {}
        self._size = len(self.parameters)

    @property
    def size(self) -> int:
        return self._size

    def index_of(self, formula: float | Expression, experiment: int = 0) -> int:
        used = names_in(formula)
        if used & self.individual or used & {*self.parameters}:
            if formula not in self.blocks:
                self.blocks[formula] = self._size
                self._size += self.count
            return self.blocks[formula] + experiment
        if formula not in self._single:
            self._single[formula] = self._size
            self._size += 1
        return self._single[formula]

    def values(
        self, parameters: Sequence[Scalar], individual: Mapping[str, Array | np.ndarray]
    ) -> Float[Array, " numbers"]:
        """Return all values.

        Args:
            parameters: Their values, in their order.
            individual: Random effects and covariates by name, shape (individuals,).
        """
        known = {**self.defaults, **dict(zip(self.parameters, parameters, strict=True)), **individual}
        starts = {start: formula for formula, start in (*self.blocks.items(), *self._single.items())}
        pieces = [jnp.asarray(parameters, float)]
        for start in sorted(starts):
            value = jnp.asarray(value_of(starts[start], known), float)
            shape = (self.count,) if starts[start] in self.blocks else (1,)
            pieces.append(jnp.broadcast_to(value, shape))
        return jnp.concatenate(pieces)


How: TypeAlias = tuple[RESULTS, Array]
"""How simulations went, and how far they came."""


class Expansion(NamedTuple):
    """What is observed of all individuals, as a polynomial in their own numbers.

    Attributes:
        at: The numbers about which it is expanded, shape (numbers, individuals).
        terms: By order, what is observed by name, shape (individuals, times) with the numbers of the order before it:
            a tuple of `{name: values}`; of second order and above only sorted combinations of numbers are there.
        result: How each simulation went, None of what was not simulated.
        time: How far it came.
    """

    at: Array
    terms: tuple[dict[str, Array], ...]
    result: RESULTS | None
    time: Array | None


class Individuals:
    """All individuals, laid out.

    Args:
        table: Their numbers.
        stages: Their simulations.
        rows: Their measurements, output by output.
    """

    def __init__(self, table: IndividualTable, stages: Stages, rows: tuple[OutputData, ...]) -> None:
        self.table, self.stages, self.rows = table, stages, rows
        self.count = table.count
        used = _places(stages)
        self.starts = np.array(
            [start for start in table.blocks.values() if used[start : start + table.count].any()], int
        )
        self._seen = np.concatenate([np.isfinite(stage.ts) for stage in stages.stages], axis=1)

    def own(self, numbers: Array) -> Array:
        """Return the numbers of the individuals that their simulations depend on, shape (numbers, individuals)."""
        return numbers[self.starts[:, None] + np.arange(self.count)]

    def expanded(self, numbers: Array, order: int) -> Expansion:
        """Simulate all individuals, and expand what is observed to an order of 0 to 3."""

        def simulate(own: Array) -> tuple[dict[str, Array], How]:
            outcomes = self.stages.simulate(numbers.at[self.starts[:, None] + np.arange(self.count)].set(own))
            return self._where_measured(outcomes.observed), (outcomes.result, outcomes.time)

        own, size = self.own(numbers), len(self.starts)
        if not order or not size:
            observed, (result, time) = simulate(own)
            return Expansion(own, (observed,), result, time)

        def along(own: Array, directions: Sequence[Array]) -> tuple[list[dict[str, Array]], How]:
            """Return the derivatives of orders 0, 1, ... in the first directions."""
            if not len(directions):
                observed, how = simulate(own)
                return [observed], how
            *others, last = directions
            tangent = jnp.broadcast_to(last[:, None], own.shape)
            terms, moved, how = jax.jvp(lambda own: along(own, others), (own,), (tangent,), has_aux=True)
            return [*terms, moved[-1]], how

        wanted = combinations(size, order)
        directions = jnp.asarray(np.eye(size)[np.array(wanted)])
        axes = ([None, *[0] * order], None)
        found, (result, time) = jax.vmap(lambda own_ways: along(own, [*own_ways]), out_axes=axes)(directions)
        terms = found[:1]
        for k in range(1, order + 1):
            # a derivative of lower order stands where the last of its numbers is repeated
            at = [wanted.index((*one, *one[-1:] * (order - k))) for one in combinations(size, k)]
            terms.append({name: values[np.array(at)] for name, values in found[k].items()})
        return Expansion(own, tuple(terms), result, time)

    def observed(self, expansion: Expansion, numbers: Array) -> dict[str, Array]:
        """Return the value of an expansion, by name."""
        away = self.own(numbers) - expansion.at
        found = dict(expansion.terms[0])
        for k, moved in enumerate(expansion.terms[1:], start=1):
            places = combinations(len(away), k)
            weight = jnp.stack([_weight(one) * jnp.prod(away[np.array(one)], axis=0) for one in places])
            found = {name: value + jnp.einsum("ci,cit->it", weight, moved[name]) for name, value in found.items()}
        return found

    def _where_measured(self, observed: dict[str, Array]) -> dict[str, Array]:
        """Return what is observed, with 0 at times that only fill up the table."""
        spare = next(iter(observed.values())).shape[1] - self._seen.shape[1] if observed else 0
        seen = np.pad(self._seen, ((0, 0), (0, spare)), constant_values=True)
        return {name: jnp.where(seen, value, 0.0) for name, value in observed.items()}


def unexpanded(observed: dict[str, Array]) -> Expansion:
    """Return the expansion of order 0 of what is observed, which is a constant."""
    return Expansion(jnp.zeros(()), (observed,), None, None)


def used_places(individuals: Individuals) -> tuple[np.ndarray, np.ndarray]:
    """Return which places of the table simulations depend on, and which anything does, shape (places,)."""
    places = _places(individuals.stages)
    simulated = np.pad(places, (0, individuals.table.size - places.size))
    used = simulated.copy()
    for rows in individuals.rows:
        for given in rows.given.values():
            used[given] = True
    return simulated, used


def combinations(numbers: int, order: int) -> list[tuple[int, ...]]:
    """Return the sorted combinations of numbers that a term of a Taylor polynomial has."""
    return [*itertools.combinations_with_replacement(range(numbers), order)]


def _weight(combination: Sequence[int]) -> float:
    """Return the factor of a sorted combination of numbers in a Taylor polynomial."""
    repeated = [math.factorial(combination.count(one)) for one in set(combination)]
    return 1.0 / math.prod(repeated)


def _places(stages: Stages) -> np.ndarray:
    """Return which places of the table simulations depend on."""
    tables = [table for stage in stages.stages for table in (*stage.sets.values(), *stage.puts.values())]
    if stages.equilibrated is not None:
        tables += [*stages.equilibrated.sets.values(), *stages.equilibrated.puts.values()]
    tables += [places.ravel() for one in stages.varying.values() for places in one.places.values()]
    tables.append(np.array([*stages.shared.values()], int))
    places = np.concatenate(tables)
    places = places[places != NOT_PUT]
    used = np.zeros(places.max(initial=-1) + 1, bool)
    used[places] = True
    return used
