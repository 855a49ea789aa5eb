"""A population: a typical patient, the differences between patients, and their covariates."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import (
    ArgumentError,
    check_instance,
    check_number,
    check_one_of,
    check_whole,
    concrete,
    refuse,
)
from qspjax._cohort import Cohort, as_array
from qspjax._distribution import AbstractDistribution
from qspjax._model import AbstractModel
from qspjax._names import at, names
from qspjax._types import Key
from qspjax.population._covariates import AbstractCovariateEffect, Categorical

Correlation = Mapping[tuple[str, str], Any] | Any


class Population(eqx.Module):
    """Virtual patients around a typical one.

    $$ P_i = h_P(z_{iP}; \\text{typical}_P(x_i)), \\quad z_i \\sim N(0, R) $$

    The typical value of a parameter is the model's own number, changed by the effects of the patient's covariates
    x_i. The distribution in `between` varies it: `LogNormal(cv=0.3)` without a median has the typical value as its
    median, `Normal(sd=...)` without a mean has it as its mean. `correlation` is that of the random effects z, for
    log-normal parameters the correlation of their logarithms (with omega^2 = ln(1 + cv^2), OMEGA's off-diagonal is
    correlation x omega x omega).

    Args:
        model: The typical patient.
        between: Distributions by dotted parameter name.
        covariates: Distributions of covariates by name, or `Categorical`.
        effects: What covariates do to parameters.
        correlation: `{("CL", "V"): 0.5}`, or a whole matrix in the order of `between`.

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

    def __init__(
        self,
        model: AbstractModel,
        *,
        between: Mapping[str, AbstractDistribution] | None = None,
        covariates: Mapping[str, AbstractDistribution | Categorical] | None = None,
        effects: Sequence[AbstractCovariateEffect] = (),
        correlation: Correlation | None = None,
    ):
        """Collect the parts and check that every name exists."""
        between, covariates = {} if between is None else between, {} if covariates is None else covariates
        _check_parts(model, between, covariates, effects)
        self.model = model
        self.between, self.between_names = tuple(between.values()), tuple(between)
        self.covariates, self.covariate_names = tuple(covariates.values()), tuple(covariates)
        self.effects = tuple(effects)
        self.correlation = _correlation_matrix(correlation, self.between_names)

    def __check_init__(self) -> None:
        known = [parameter.name for parameter in names(self.model)]
        for name in self.between_names:
            check_one_of("between", name, known, "a parameter of the model")
        for name in self._affected():
            check_one_of("effects", name, known, "a parameter of the model")
        covariates = dict(zip(self.covariate_names, self.covariates, strict=True))
        for effect in self.effects:
            for name, categories in effect.needs().items():
                check_one_of("effects", name, covariates, "a covariate of the population")
                _check_categories(name, covariates[name], categories)

    def sample(self, *, key: Key, size: int) -> Cohort:
        """Draw virtual patients; patient i is the same whatever the size.

        Args:
            key: `jax.random.key(seed)`.
            size: Number of patients.

        Raises:
            ValueError: If `size` is not positive, or a sampled parameter is outside its range (truncate it).
        """
        check_whole("size", size, 1)
        check_key(key)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))
        covariates, values = _sampled(self, keys)
        values = {name: values[name] for name in dict.fromkeys((*self._affected(), *self.between_names))}
        try:
            return Cohort.of(self.model, values, covariates=covariates, size=size)
        except ArgumentError as error:
            varied = {name.split(".")[-1] for name in self.between_names}
            where = "its distribution in `between`" if error.argument.split(".")[-1] in varied else "its covariate"
            error.args = (f"{str(error).removesuffix('.')}: a sampled patient; truncate {where}.",)
            raise

    def _affected(self) -> tuple[str, ...]:
        return tuple(name for effect in self.effects for name in effect.parameters())

    def _draw(self, key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
        for_covariates, for_effects = jax.random.split(key)
        covariates = {}
        for i, (name, distribution) in enumerate(zip(self.covariate_names, self.covariates, strict=True)):
            own = jax.random.fold_in(for_covariates, i)
            if isinstance(distribution, Categorical):
                covariates[name] = distribution.sample(own)
            else:
                covariates[name] = distribution.from_normal(jax.random.normal(own))
        values = {name: at(self.model, name).get() for name in (*self._affected(), *self.between_names)}
        for effect in self.effects:
            for name in effect.parameters():
                values[name] = effect(name, values[name], covariates)
        z = jnp.linalg.cholesky(self.correlation) @ jax.random.normal(for_effects, (len(self.between),))
        for i, (name, distribution) in enumerate(zip(self.between_names, self.between, strict=True)):
            values[name] = distribution.from_normal(z[i], values[name])
        return covariates, values


@eqx.filter_jit
def _sampled(population: Population, keys: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return jax.vmap(population._draw)(keys)


def check_key(key: Any) -> None:
    """Check that `key` is one PRNG key, new or old style."""
    kind, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    new = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key) and shape == ()
    if not new and not (kind == np.uint32 and shape == (2,)):
        found = f"of shape {shape}" if shape else f"of type {type(key).__name__}"
        refuse("key", "be a PRNG key such as jax.random.key(1)", found)


def _check_parts(model: Any, between: Any, covariates: Any, effects: Any) -> None:
    check_instance("model", model, AbstractModel, "a model")
    check_instance("between", between, Mapping, "a mapping of parameter names to distributions")
    check_instance("covariates", covariates, Mapping, "a mapping of covariate names to distributions")
    for name, value in between.items():
        check_instance(f'between["{name}"]', value, AbstractDistribution, "a distribution")
    for name, value in covariates.items():
        check_instance(
            f'covariates["{name}"]', value, (AbstractDistribution, Categorical), "a distribution or `Categorical`"
        )
    check_instance("effects", effects, (list, tuple), "a list of covariate effects")
    for i, effect in enumerate(effects):
        check_instance(f"effects[{i}]", effect, AbstractCovariateEffect, "a covariate effect")


def _check_categories(name: str, covariate: Any, categories: tuple[str, ...] | None) -> None:
    found = covariate.categories if isinstance(covariate, Categorical) else None
    if found != categories:
        must = f"treat covariate `{name}` as " + (f"categories {found}" if found else "a number")
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
            must = f"have shape ({size}, {size}), one row a name in `between`"
            refuse("correlation", must, f"of shape {matrix.shape}")
    found = concrete(matrix)
    if found is not None and size:
        if not (np.allclose(found, found.T) and np.allclose(np.diag(found), 1.0)):
            refuse("correlation", "be symmetric with ones on the diagonal", "not")
        smallest = np.linalg.eigvalsh(found).min()
        if smallest <= 0:
            refuse("correlation", "be positive definite", f"not (smallest eigenvalue {smallest:.3g})")
    return matrix


def _matrix_of_pairs(correlation: Mapping[tuple[str, str], Any], order: tuple[str, ...]) -> jax.Array:
    matrix = jnp.eye(len(order))
    given: set[frozenset[str]] = set()
    for pair, value in correlation.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            refuse("correlation", 'be by pairs of names, such as {("CL", "V"): 0.5}', pair)
        for name in pair:
            check_one_of("correlation", name, order, "parameters in `between`")
        if pair[0] == pair[1]:
            refuse("correlation", "be between two different parameters", f"of `{pair[0]}` with itself")
        if frozenset(pair) in given:
            refuse("correlation", "give each pair once", f"twice that of `{pair[0]}` and `{pair[1]}`")
        given.add(frozenset(pair))
        _check_between_ones(f'correlation["{pair[0]}", "{pair[1]}"]', value)
        first, second = (order.index(name) for name in pair)
        matrix = matrix.at[first, second].set(value).at[second, first].set(value)
    return matrix


def _check_between_ones(argument: str, value: Any) -> None:
    check_number(argument, value)
    found = concrete(value)
    if found is not None and not (found.ndim == 0 and -1.0 < found < 1.0):
        refuse(argument, "be a number between -1 and 1", value)
