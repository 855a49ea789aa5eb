"""A population: a typical patient, the differences between patients, and their covariates."""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Real

from qspjax._checks import (
    ArgumentError,
    check_finite,
    check_instance,
    check_names,
    check_number,
    check_one_of,
    check_whole,
    concrete,
    refuse,
)
from qspjax._cohort import Cohort, as_array
from qspjax._distribution import AbstractDistribution, Normal
from qspjax._dosing._covariates import set_parameter
from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._expression import Expression
from qspjax._interventions import recorded
from qspjax._model import AbstractModel
from qspjax._names import at, names
from qspjax._random import check_key
from qspjax._types import ArrayInput, Key, Scalar
from qspjax.models.learned import AbstractTerm
from qspjax.population._covariates import AbstractCovariateEffect, Categorical
from qspjax.population._individual import Individual, on_occasion

Correlation = Mapping[tuple[str, str], ArrayLike] | ArrayInput


class Population(eqx.Module):
    """Virtual patients around a typical one.

    $$ P_i = h_P(z_{iP}; \\text{typical}_P(x_i)), \\quad z_i \\sim N(0, R) $$

    The typical value of a parameter is the model's own number, changed by the effects of the patient's covariates
    x_i. The distribution in `between` varies it: `LogNormal(cv=0.3)` without a median has the typical value as its
    median, `Normal(sd=...)` without a mean has it as its mean. `correlation` is that of the random effects z, for
    log-normal parameters the correlation of their logarithms (with omega^2 = ln(1 + cv^2), OMEGA's off-diagonal is
    correlation x omega x omega).

    Any other difference between patients is a formula over parameters, normal random effects and covariates, as in a
    mixed-effects model: `individual={"CL": "tCL * exp(eta_CL) * (WT / 70)^0.75"}` with `parameters={"tCL": 3.0}` and
    `random={"eta_CL": 0.09}`.

    Args:
        model: The typical patient.
        between: Distributions by dotted parameter name.
        covariates: Distributions of covariates by name, or `Categorical`; or observed values, shape (subjects,), all of
            which are drawn together, one subject at a time.
        effects: Effects of covariates on parameters.
        correlation: `{("CL", "V"): 0.5}`, or a full matrix in the order of `between` and then of `random`.
        individual: Formulas by dotted parameter name.
        parameters: Numbers that formulas use, by name.
        random: Variances of random effects that formulas use, by name.
        occasional: The random effects that are drawn again on each occasion (see `occasions`).
        functions: Terms that formulas call, by name: `{"CL": "tCL * f(WT)"}`.

    Attributes:
        held: Covariates that `do` set, by name.

    Raises:
        ValueError: If a name is no parameter or covariate, or the correlation is not positive definite.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)},
        ...     covariates={"WT": qsp.Truncated(qsp.Normal(70.0, sd=15.0), 40.0, 120.0)},
        ...     effects=[qsp.Allometric(clearances=["CL"], volumes=["V"])],
        ...     correlation={("CL", "V"): 0.5},
        ... )
        >>> population.sample(key=jax.random.key(0), size=1000).model.CL.shape
        (1000,)
    """

    model: AbstractModel
    between: tuple[AbstractDistribution, ...]
    covariates: tuple[AbstractDistribution | Categorical, ...]
    effects: tuple[AbstractCovariateEffect, ...]
    correlation: jax.Array
    between_names: tuple[str, ...] = eqx.field(static=True)
    covariate_names: tuple[str, ...] = eqx.field(static=True)
    observed: dict[str, jax.Array]
    individual: Individual
    held: dict[str, jax.Array]

    def __init__(
        self,
        model: AbstractModel,
        *,
        between: Mapping[str, AbstractDistribution] | None = None,
        covariates: Mapping[str, AbstractDistribution | Categorical | ArrayInput] | None = None,
        effects: Sequence[AbstractCovariateEffect] = (),
        correlation: Correlation | None = None,
        individual: Mapping[str, str | Expression | float] | None = None,
        parameters: Mapping[str, ArrayInput] | None = None,
        random: Mapping[str, ArrayInput] | None = None,
        occasional: Sequence[str] = (),
        functions: Mapping[str, AbstractTerm] | None = None,
    ):
        """Collect the parts and check that every name exists."""
        between, covariates = {} if between is None else between, {} if covariates is None else covariates
        check_instance("covariates", covariates, Mapping, "a mapping of covariate names to distributions")
        self.observed = _columns({name: value for name, value in covariates.items() if _is_column(value)})
        drawn = {name: value for name, value in covariates.items() if name not in self.observed}
        _check_parts(model, between, drawn, effects)
        self.model = model
        self.between, self.between_names = tuple(between.values()), tuple(between)
        self.covariates = tuple(
            covariate for covariate in drawn.values() if isinstance(covariate, (AbstractDistribution, Categorical))
        )
        self.covariate_names = tuple(drawn)
        self.effects = tuple(effects)
        self.held = {}
        self.individual = Individual(
            individual or {}, parameters or {}, random or {}, check_names("occasional", occasional), functions or {}
        )
        self.correlation = _correlation_matrix(correlation, (*self.between_names, *self.individual.effects))

    def __check_init__(self) -> None:
        known = [parameter.name for parameter in names(self.model)]
        for name in self.between_names:
            check_one_of("between", name, known, "a parameter of the model")
        for name in self._affected():
            check_one_of("effects", name, known, "a parameter of the model")
        covariates = dict(zip(self.covariate_names, self.covariates, strict=True)) | self.observed
        for effect in self.effects:
            for name, categories in effect.needs().items():
                check_one_of("effects", name, covariates, "a covariate of the population")
                _check_categories(name, covariates[name], categories)
        self.individual.check(self.model, tuple(covariates))
        for name in self.individual.names:
            if name in (*self._affected(), *self.between_names):
                refuse("individual", "have formulas of parameters that are not in `between` or `effects`", name)
        _check_occasional(self)

    def sample(self, *, key: Key, size: int, occasions: int = 1) -> Cohort:
        """Draw virtual patients; patient i is the same whatever the size.

        Args:
            key: `jax.random.key(seed)`.
            size: Number of patients.
            occasions: Number of occasions that have random effects: the patients are as on the first, and `occasions`
                returns the changes on the others.

        Raises:
            ValueError: If `size` is not positive, or a sampled parameter is outside its range (truncate it).
        """
        check_whole("size", size, 1)
        check_whole("occasions", occasions, 1)
        covariates, values = _sampled(self, keys_of(key, size), occasions)
        return self.cohort(covariates, values, size)

    def cohort(self, covariates: Mapping[str, ArrayLike], values: Mapping[str, ArrayLike], size: int) -> Cohort:
        """Return the cohort of patients that were drawn by `draw`.

        Args:
            covariates: Covariates by name, shape (patients,).
            values: Values of parameters by name, shape (patients, ...).
            size: Number of patients.

        Raises:
            ValueError: If a parameter is outside its range.
        """
        order = dict.fromkeys((*self._affected(), *self.between_names, *self.individual.names))
        values = {name: values[name] for name in order if name in values}
        try:
            return Cohort.of(self.model, values, covariates=covariates, size=size, held=tuple(self.held))
        except ArgumentError as error:
            varied = {name.split(".")[-1] for name in self.between_names}
            parameter = error.argument.split(".")[-1]
            source = "its distribution in `between`" if parameter in varied else "its covariate"
            hint = (
                "write its formula so that it cannot be" if parameter in self.individual.names else f"truncate {source}"
            )
            error.args = (f"{str(error).removesuffix('.')}: a sampled patient; {hint}.",)
            raise

    def occasions(self, cohort: Cohort, *, at: Sequence[float]) -> Regimen:
        """Return the changes of sampled patients on later occasions, to be added to their doses.

        Args:
            cohort: Patients from `sample(..., occasions=1 + len(at))`.
            at: The times at which the second, the third, ... occasion begins; doses at these times belong to them.

        Raises:
            ValueError: If nothing changes between occasions, or the patients have too few.

        Example:
            >>> import jax, qspjax as qsp
            >>> population = qsp.Population(
            ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
            ...     individual={"CL": "tCL * exp(eta_CL + kappa_CL)"},
            ...     parameters={"tCL": 3.0},
            ...     random={"eta_CL": 0.09, "kappa_CL": 0.04},
            ...     occasional=["kappa_CL"],
            ... )
            >>> cohort = population.sample(key=jax.random.key(0), size=100, occasions=2)
            >>> regimen = qsp.bolus(100.0, to="central").every(24.0, doses=2) + population.occasions(cohort, at=[24.0])
            >>> qsp.simulate_cohort(cohort, regimen, [24.0, 48.0]).observed["concentration"].shape
            (100, 2)
        """
        check_instance("cohort", cohort, Cohort, "a cohort (`sample` draws one)")
        changing, effects = self.individual.changing(), self.individual.occasional
        changing = [name for name in changing if name not in recorded(self.model)]
        if not changing:
            raise ValueError("Nothing changes between occasions here: no formula has an effect that is `occasional`.")
        regimen = no_doses()
        for number, time in enumerate(at, start=2):
            later = {name: on_occasion(name, number) for name in effects}
            if not {*later.values()} <= cohort.covariates.keys():
                refuse("cohort", f"be drawn with occasions={1 + len(at)}", f"one with {number - 1}")
            known = {**cohort.covariates, **{name: cohort.covariates[alias] for name, alias in later.items()}}
            for name, value in self.individual.values(self.model, known, changing).items():
                regimen = regimen + set_parameter(name, jnp.broadcast_to(value, (cohort.size,)), at=time)
        return regimen

    def _affected(self) -> tuple[str, ...]:
        return tuple(name for effect in self.effects for name in effect.parameters())

    def draw(self, key: Key, occasions: int = 1) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Return the covariates (and random effects) of one patient, and the values of its parameters.

        Args:
            key: The key of this patient.
            occasions: See `sample`.
        """
        for_covariates, for_effects = jax.random.split(key)
        covariates = {}
        for i, (name, distribution) in enumerate(zip(self.covariate_names, self.covariates, strict=True)):
            subkey = jax.random.fold_in(for_covariates, i)
            if isinstance(distribution, Categorical):
                covariates[name] = distribution.sample(subkey)
            else:
                covariates[name] = distribution.from_normal(jax.random.normal(subkey))
        if self.observed:
            rows = next(iter(self.observed.values())).size
            row = jax.random.randint(jax.random.fold_in(for_covariates, len(self.covariates)), (), 0, rows)
            covariates |= {name: column[row] for name, column in self.observed.items()}
        factor = jnp.linalg.cholesky(self.correlation)
        z = factor @ jax.random.normal(for_effects, (len(factor),))
        covariates, values = self._patient(covariates, z)
        individual = self.individual
        for number in range(2, occasions + 1):
            normal = jax.random.normal(jax.random.fold_in(for_effects, number), (len(factor),))
            later = individual.effects_of((factor @ normal)[len(self.between) :])
            covariates |= {on_occasion(name, number): later[name] for name in individual.occasional}
        return covariates, {name: jnp.asarray(value, float) for name, value in values.items()}

    def _patient(
        self, covariates: dict[str, jax.Array], z: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, Scalar]]:
        """Return covariates (and random effects) and parameters of a patient with these standard normal effects.

        What `do` set has no distribution: a covariate has its value, and a parameter is the model's own.
        """
        covariates = covariates | self.held
        values = {name: at(self.model, name).get() for name in (*self._affected(), *self.between_names)}
        for effect in self.effects:
            for name in effect.parameters():
                values[name] = effect(name, values[name], covariates)
        for i, (name, distribution) in enumerate(zip(self.between_names, self.between, strict=True)):
            values[name] = distribution.from_normal(z[i], values[name])
        covariates = covariates | self.individual.effects_of(z[len(self.between) :])
        values |= self.individual.values(self.model, covariates)
        return covariates, {name: value for name, value in values.items() if name not in recorded(self.model)}

    def inputs(self) -> tuple[dict[str, AbstractDistribution | Categorical], dict[str, Scalar], np.ndarray]:
        """Return the differences between patients as inputs of a sensitivity analysis.

        They are the parameters in `between` (in a patient of typical covariates), the random effects, and the
        covariates.

        Returns:
            Distributions by name, typical values by name, and the correlation of all, shape (inputs, inputs).

        Raises:
            ValueError: If covariates are observed values, which have no distribution.
        """
        if self.observed:
            refuse(
                "population",
                "have covariates with distributions",
                f"one with observed values of {', '.join(self.observed)}",
            )
        effects = self.individual.effects
        spreads = (Normal(0.0, sd=jnp.sqrt(variance)) for variance in self.individual.variances)
        each: dict[str, AbstractDistribution | Categorical] = dict(zip(self.between_names, self.between, strict=True))
        each |= zip(effects, spreads, strict=True)
        size, n_covariates = len(each), len(self.covariates)
        correlation = np.eye(size + n_covariates)
        correlation[:size, :size] = np.asarray(self.correlation)
        typical = {name: at(self.model, name).get() for name in self.between_names}
        return each | dict(zip(self.covariate_names, self.covariates, strict=True)), typical, correlation

    def at_inputs(self, columns: Mapping[str, Real[jax.Array, " patients"] | Real[np.ndarray, " patients"]]) -> Cohort:
        """Return the patients with these values of `inputs`, each of shape (patients,)."""
        each, typical, _ = self.inputs()
        covariates = {name: jnp.asarray(columns[name]) for name in self.covariate_names}
        for name, distribution in zip(self.covariate_names, self.covariates, strict=True):
            covariates[name] = (
                covariates[name].astype(int) if isinstance(distribution, Categorical) else covariates[name]
            )
        normal = [
            distribution.to_normal(columns[name], typical.get(name))
            for name, distribution in each.items()
            if isinstance(distribution, AbstractDistribution) and name not in covariates
        ]
        size = len(next(iter(columns.values())))
        z = jnp.stack(normal, axis=1) if normal else jnp.zeros((size, 0))
        covariates, values = jax.vmap(self._patient)(covariates, z)
        return self.cohort(covariates, {name: jnp.asarray(x, float) for name, x in values.items()}, size)

    def coordinates(self) -> tuple[str, ...]:
        """Return the names of the coordinates of `from_unit`.

        They are the parameters in `between`, the random effects, the covariates that are drawn, and `subject` for the
        row of the observed covariates.
        """
        names = (*self.between_names, *self.individual.effects, *self.covariate_names)
        return (*names, "subject") if self.observed else names

    def from_unit(self, points: ArrayInput) -> Cohort:
        """Return the patients at points between 0 and 1: uniform points are patients of this population.

        $$ z = L \\Phi^{-1}(u), \\quad L L^T = R $$

        Observed covariates are taken as whole rows, so that their joint distribution is kept.

        Args:
            points: One row per patient, a number between 0 and 1 for each of `coordinates()`.

        Raises:
            ValueError: If the points have another number of columns, or are not between 0 and 1.

        Example:
            >>> import numpy as np, qspjax as qsp
            >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
            >>> between, table = {"CL": qsp.Uniform(1.0, 3.0)}, {"WT": [60.0, 90.0]}
            >>> population = qsp.Population(model, between=between, covariates=table)
            >>> cohort = population.from_unit(np.array([[0.5, 0.1], [0.75, 0.9]]))
            >>> cohort.model.CL, cohort.covariates["WT"]
            (Array([2. , 2.5], dtype=float64), Array([60., 90.], dtype=float64))
        """
        points, coordinates = as_array("points", points), self.coordinates()
        if points.ndim != 2 or points.shape[1] != len(coordinates):
            refuse("points", f"have shape (patients, {len(coordinates)})", f"of shape {points.shape}")
        known = concrete(points)
        if known is not None and not ((known >= 0.0) & (known <= 1.0)).all():
            refuse("points", "be between 0 and 1", "not, or NaN")
        covariates, values = _at_points(self, jnp.asarray(points, float))
        return self.cohort(covariates, values, points.shape[0])

    def at_point(self, u: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Return the covariates (and random effects) of the patient at one point, and the values of its parameters."""
        row = {}
        if self.observed:
            rows = next(iter(self.observed.values())).size
            number = jnp.minimum((u[-1] * rows).astype(int), rows - 1)
            row = {name: column[number] for name, column in self.observed.items()}
        return self.at_normal(jax.scipy.special.ndtri(jnp.clip(u, 1e-15, 1.0 - 1e-15)), row)

    def at_normal(
        self, normal: jax.Array, known: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Return the covariates (and random effects) of a patient, and the values of its parameters.

        Args:
            normal: Numbers that are standard normal and independent in the population: one for each parameter in
                `between`, each random effect, and each covariate that is drawn and not known, in this order.
            known: Covariates by name, those that are observed values at least.
        """
        size = len(self.correlation)
        drawn = [pair for pair in zip(self.covariate_names, self.covariates, strict=True) if pair[0] not in known]
        covariates = {name: law.from_normal(x) for (name, law), x in zip(drawn, normal[size:], strict=False)}
        covariates, values = self._patient(
            {**known, **covariates}, jnp.linalg.cholesky(self.correlation) @ normal[:size]
        )
        return covariates, {name: jnp.asarray(value, float) for name, value in values.items()}


def keys_of(key: Key, size: int) -> jax.Array:
    """Return the key of each patient, the same whatever the size."""
    check_key(key)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


@eqx.filter_jit
def _sampled(
    population: Population, keys: jax.Array, occasions: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    return jax.vmap(lambda key: population.draw(key, occasions))(keys)


@eqx.filter_jit
def _at_points(population: Population, points: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    return jax.vmap(population.at_point)(points)


def _check_parts(
    model: AbstractModel,
    between: Mapping[str, AbstractDistribution],
    covariates: Mapping[str, object],
    effects: Sequence[AbstractCovariateEffect],
) -> None:
    check_instance("model", model, AbstractModel, "a model")
    check_instance("between", between, Mapping, "a mapping of parameter names to distributions")
    for name, value in between.items():
        check_instance(f'between["{name}"]', value, AbstractDistribution, "a distribution")
    for name, value in covariates.items():
        check_instance(
            f'covariates["{name}"]',
            value,
            (AbstractDistribution, Categorical),
            "a distribution, `Categorical` or observed values",
        )
    check_instance("effects", effects, (list, tuple), "a list of covariate effects")
    for i, effect in enumerate(effects):
        check_instance(f"effects[{i}]", effect, AbstractCovariateEffect, "a covariate effect")


def _is_column(value: object) -> TypeGuard[ArrayInput]:
    return isinstance(value, (list, tuple, np.ndarray, jax.Array))


def _columns(columns: Mapping[str, ArrayInput]) -> dict[str, jax.Array]:
    """Return observed covariates, each of shape (subjects,)."""
    observed = {name: as_array(f'covariates["{name}"]', column).astype(float) for name, column in columns.items()}
    sizes = {name: column.shape for name, column in observed.items()}
    for name, shape in sizes.items():
        first = next(iter(sizes.values()))
        if len(shape) != 1 or not shape[0] or shape != first:
            refuse(
                f'covariates["{name}"]', "have one value per subject, as many as other covariates", f"of shape {shape}"
            )
        check_finite(f'covariates["{name}"]', observed[name])
    return observed


def _check_occasional(population: Population) -> None:
    """Refuse a correlation between effects of occasions and others, which would not say for which occasion it holds."""
    occasional = [name in population.individual.occasional for name in population.individual.effects]
    again = np.array([*[False] * len(population.between), *occasional], bool)
    correlation = concrete(population.correlation)
    if correlation is not None and again.any() and correlation[np.ix_(again, ~again)].any():
        refuse("correlation", "be 0 between effects of occasions and others", "not")


def _check_categories(name: str, covariate: object, categories: tuple[str, ...] | None) -> None:
    actual = covariate.categories if isinstance(covariate, Categorical) else None
    if actual != categories:
        must = f"treat covariate `{name}` as " + (f"categories {actual}" if actual else "a number")
        refuse("effects", must, f"categories {categories}" if categories else "a number")


def _correlation_matrix(correlation: Correlation | None, order: tuple[str, ...]) -> jax.Array:
    size = len(order)
    if correlation is None:
        return jnp.eye(size)
    if isinstance(correlation, Mapping):
        matrix = _matrix_of_pairs(correlation, order)
    else:
        matrix = as_array("correlation", correlation).astype(float)
        if matrix.shape != (size, size):
            must = f"have shape ({size}, {size}), one row per name in `between` and `random`"
            refuse("correlation", must, f"of shape {matrix.shape}")
    values = concrete(matrix)
    if values is not None and size:
        if not (np.allclose(values, values.T) and np.allclose(np.diag(values), 1.0)):
            refuse("correlation", "be symmetric with ones on the diagonal", "not")
        smallest = np.linalg.eigvalsh(values).min()
        if smallest <= 0:
            refuse("correlation", "be positive definite", f"not (smallest eigenvalue {smallest:.3g})")
    return matrix


def _matrix_of_pairs(correlation: Mapping[tuple[str, str], ArrayLike], order: tuple[str, ...]) -> jax.Array:
    matrix = jnp.eye(len(order))
    pairs: set[frozenset[str]] = set()
    for pair, value in correlation.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            refuse("correlation", 'be by pairs of names, such as {("CL", "V"): 0.5}', pair)
        for name in pair:
            check_one_of("correlation", name, order, "parameters in `between` or effects in `random`")
        if pair[0] == pair[1]:
            refuse("correlation", "be between two different parameters", f"of `{pair[0]}` with itself")
        if frozenset(pair) in pairs:
            refuse("correlation", "give each pair once", f"twice that of `{pair[0]}` and `{pair[1]}`")
        pairs.add(frozenset(pair))
        _check_between_ones(f'correlation["{pair[0]}", "{pair[1]}"]', value)
        first, second = (order.index(name) for name in pair)
        matrix = matrix.at[first, second].set(value).at[second, first].set(value)
    return matrix


def _check_between_ones(argument: str, value: object) -> None:
    check_number(argument, value)
    number = concrete(value)
    if number is not None and not (number.ndim == 0 and -1.0 < number < 1.0):
        refuse(argument, "be a number between -1 and 1", value)
