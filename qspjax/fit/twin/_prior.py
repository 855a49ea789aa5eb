"""The prior of one patient, and how likely measurements are, as programs of many draws at once.

A draw is a point z, standard normal in the population, so that

    log p(z | y) = log p(y | model(z)) - |z|^2 / 2 + constant
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import check_instance, check_number, check_one_of, concrete, refuse
from qspjax._cohort import Cohort
from qspjax._expression import check_constants
from qspjax._model import as_state
from qspjax._names import at, state_names
from qspjax._programs import BRIEFLY, program
from qspjax._simulate import observed_names, simulate_cohort
from qspjax._types import Key, Scalar
from qspjax.fit.data._causes import why_undefined
from qspjax.fit.data._measurements import Output
from qspjax.fit.data._stages import columns_of, parameters_of
from qspjax.fit.errors._contract import since_previous
from qspjax.fit.errors._correlated import Correlated
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.twin._history import Table
from qspjax.population import Categorical, Population
from qspjax.solve import AbstractMethod

Draws: TypeAlias = Float[Array | np.ndarray, "draws coordinates"]
"""Points z, one for each draw."""

Quantities: TypeAlias = tuple[Array, dict[str, Array]]
"""The prediction of each row, and the formulas of its error model by field."""


class Likelihood(NamedTuple):
    """How likely measurements are, for each draw.

    Attributes:
        old: The log likelihood of those that counted before, shape (draws,); -inf where a simulation fails.
        new: That of the new ones.
    """

    old: Array
    new: Array


class Prior(eqx.Module):
    """What is known of a patient before anything was measured.

    Attributes:
        population: The population of which it is.
        known: Its covariates, by name.
        parameters: Numbers that formulas of outputs use, by name.
        outputs: What is measured, by name.
        simulated_by: How to simulate.
    """

    population: Population
    known: dict[str, Array]
    parameters: dict[str, Array]
    outputs: tuple[tuple[str, Output], ...] = eqx.field(static=True)
    simulated_by: AbstractMethod | None

    def __init__(
        self,
        population: Population,
        outputs: Mapping[str, Output],
        *,
        parameters: Mapping[str, Scalar],
        covariates: Mapping[str, Scalar | str],
        simulated_by: AbstractMethod | None,
    ) -> None:
        """Check that every name has a meaning."""
        self.population, self.outputs, self.simulated_by = population, tuple(outputs.items()), simulated_by
        self.known = _known(population, covariates)
        for name, value in parameters.items():
            check_number(f'parameters["{name}"]', value)
        self.parameters = {name: jnp.asarray(value, float) for name, value in parameters.items()}
        if population.individual.occasional:
            must = "have no effects of occasions in a twin"
            refuse("population", must, f"one with {', '.join(population.individual.occasional)}")
        if not outputs:
            refuse("outputs", "name what is measured, with its error model", "empty")
        for name, output in outputs.items():
            check_instance(f'outputs["{name}"]', output, Output, "an Output")
            if isinstance(output.error, Correlated) or since_previous(output.error):
                must = "have errors that do not depend on earlier measurements"
                refuse("outputs", must, f"`{name}` with {type(output.error).__name__}")
            self._check_names(name, output)

    def _check_names(self, name: str, output: Output) -> None:
        model, population = self.population.model, self.population
        own = (*population.covariate_names, *population.observed, *population.individual.effects)
        start = as_state(model, None)
        known = [*observed_names(model, start), *state_names(start), *sorted(parameters_of(model)), *own]
        check_constants("outputs", {*known, *self.parameters}, output.formulas())
        for used in sorted(output.names() - {"prediction"}):
            meaning = f"an observed value, a state, a parameter or a covariate, in output `{name}`"
            check_one_of("outputs", used, [*dict.fromkeys((*known, *self.parameters))], meaning)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """What the coordinates of a draw stand for."""
        population = self.population
        drawn = (name for name in population.covariate_names if name not in self.known)
        return (*population.between_names, *population.individual.effects, *drawn)

    def cohort(self, z: Draws) -> Cohort:
        """Return the patients at draws."""
        return self.population.cohort(*self.patients(z), z.shape[0])

    def patients(self, z: Draws) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return covariates and parameters of the patients at draws, by name."""
        return jax.vmap(lambda normal: self.population.at_normal(normal, self.known))(z)

    def quantities(self, z: Draws, table: Table) -> tuple[dict[str, Quantities], Array]:
        """Return predictions and the formulas of error models by output, shape (draws, rows), and who succeeded."""
        cohort, outputs = self.cohort(z), dict(self.outputs)
        used = frozenset().union(*(outputs[name].names() for name in table.rows))
        start = as_state(self.population.model, None)
        known = dict.fromkeys((*observed_names(self.population.model, start), *state_names(start)))
        save = [name for name in known if name in used]
        ts, order, method = table.ts, table.order, self.simulated_by
        solution = simulate_cohort(cohort, table.regimen, ts, order=order, save=save, method=method)
        observed = {name: ({**columns_of(solution), **solution.observed})[name] for name in save}
        own = {name: self._own(cohort, name) for name in used - {*save, "prediction"}}

        def of_draw(observed: Mapping[str, Array], own: Mapping[str, Array]) -> dict[str, Quantities]:
            found = {}
            for name, rows in table.rows.items():
                values = {**own, **{name: column[rows.place] for name, column in observed.items()}}
                found[name] = rows.data(name, outputs[name]).computed(values)
            return found

        return jax.vmap(of_draw)(observed, own), ~solution.failed

    def _own(self, cohort: Cohort, name: str) -> Array:
        """Return the value of a parameter, covariate or random effect of each patient, shape (patients,)."""
        if name in self.parameters:
            value = self.parameters[name]
        elif name in cohort.covariates:
            value = cohort.covariates[name]
        else:
            value = at(cohort.model, name).get()
        return jnp.broadcast_to(jnp.asarray(value, float), (cohort.size,))

    def likelihood(self, z: Draws, table: Table) -> tuple[Likelihood, dict[str, Array]]:
        """Return the likelihood at draws, and P(y_new <= y) and P(y_new < y) of each row, by output.

        The probabilities, of shape (draws, 2, rows), are those of its bounds where a row is censored.
        """
        quantities, succeeded = self.quantities(z, table)
        old, new, below = jnp.zeros(z.shape[0]), jnp.zeros(z.shape[0]), {}
        for name, rows in table.rows.items():
            error = dict(self.outputs)[name].error
            data, predictors = rows.data(name, dict(self.outputs)[name]), jax.vmap(error.predictors)(*quantities[name])
            density = jax.vmap(data.log_density)(predictors)
            old, new = (
                total + jnp.sum(jnp.where(counts, density, 0.0), axis=1)
                for total, counts in ((old, rows.old), (new, rows.new))
            )
            upper = jnp.where(rows.side == 0, rows.value, rows.upper)
            lower = jnp.where(rows.side == 0, -jnp.inf, rows.lower)
            at_most = jnp.exp(jax.vmap(error.log_between, in_axes=(None, None, 0))(lower, upper, predictors))
            itself = 0.0 if isinstance(error, AbstractLocationScale) else jnp.exp(density)
            below[name] = jnp.stack([at_most, at_most - itself], axis=1)
        sound = succeeded & jnp.isfinite(old) & jnp.isfinite(new)
        return Likelihood(jnp.where(sound, old, -jnp.inf), jnp.where(sound, new, -jnp.inf)), below

    def why(self, z: Draws, table: Table) -> str:
        """Say why the first of some draws has no likelihood."""
        solution = simulate_cohort(self.cohort(z[:1]), table.regimen, table.ts, save=(), method=self.simulated_by)
        for failure in solution.failures():
            return failure.reason
        quantities, _ = quantities_at(self, z[:1], table)
        for name, rows in table.rows.items():
            data = rows.data(name, dict(self.outputs)[name])
            prediction, fields = jax.tree.map(lambda column: column[0], quantities[name])
            density = data.log_density(data.output.error.predictors(prediction, fields))
            density = jnp.where(rows.old | rows.new, density, 0.0)
            for why in why_undefined(data, prediction, fields, density, {}).values():
                return why
        return "The density is not finite there."

    def drawn(self, z: Draws, table: Table, key: Key) -> tuple[dict[str, Array], Array]:
        """Return a measurement in place of each row, by output, shape (draws, rows), and who succeeded."""
        quantities, succeeded = self.quantities(z, table)
        values = {}
        for number, name in enumerate(table.rows):
            error = dict(self.outputs)[name].error
            keys = jax.random.split(jax.random.fold_in(key, number), z.shape[0])
            values[name] = jax.vmap(error.draw)(keys, jax.vmap(error.predictors)(*quantities[name]))
        return values, succeeded


@functools.partial(program, around=BRIEFLY)
def likelihood(prior: Prior, z: Draws, table: Table) -> tuple[Likelihood, dict[str, Array]]:
    """Return `Prior.likelihood`, compiled."""
    return prior.likelihood(z, table)


@functools.partial(program, around=BRIEFLY)
def quantities_at(prior: Prior, z: Draws, table: Table) -> tuple[dict[str, Quantities], Array]:
    """Return `Prior.quantities`, compiled."""
    return prior.quantities(z, table)


@functools.partial(program, around=BRIEFLY)
def cohort_at(prior: Prior, z: Draws) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return covariates and parameters of patients."""
    return prior.patients(z)


@functools.partial(program, around=BRIEFLY)
def drawn(prior: Prior, z: Draws, table: Table, key: Key) -> tuple[dict[str, Array], Array]:
    """Return `Prior.drawn`, compiled."""
    return prior.drawn(z, table, key)


def _known(population: Population, covariates: Mapping[str, Scalar | str]) -> dict[str, Array]:
    """Return the covariates of a patient as numbers."""
    laws = dict(zip(population.covariate_names, population.covariates, strict=True))
    known = {}
    check_instance("covariates", covariates, Mapping, "a mapping of names to numbers")
    for name, value in covariates.items():
        check_one_of("covariates", name, (*laws, *population.observed), "a covariate of the population")
        law, argument = laws.get(name), f'covariates["{name}"]'
        if isinstance(law, Categorical) and isinstance(value, str):
            check_one_of(argument, value, law.categories, "a category")
            value = law.categories.index(value)
        check_number(argument, value)
        number = concrete(value)
        if number is not None and (number.ndim or not np.isfinite(number)):
            refuse(argument, "be one finite number", value)
        known[name] = jnp.asarray(value, float)
    for name in population.observed:
        if name not in known:
            refuse("covariates", f"give `{name}` of the patient, of which the population has values only", "without it")
    return known
