"""A population: a typical patient, the differences between patients, and their covariates."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_above, check_one_of, concrete, refuse
from qspjax._cohort import Cohort
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
        between, covariates = dict(between or {}), dict(covariates or {})
        self.model = model
        self.between, self.between_names = tuple(between.values()), tuple(between)
        self.covariates, self.covariate_names = tuple(covariates.values()), tuple(covariates)
        self.effects = tuple(effects)
        self.correlation = _correlation_matrix(correlation, self.between_names)

    def __check_init__(self) -> None:
        known = [parameter.name for parameter in names(self.model)]
        for name in self.between_names:
            check_one_of("between", name, known, "a parameter of the model")
        by_name = dict(zip(self.covariate_names, self.covariates, strict=True))
        for effect in self.effects:
            for name in effect.parameters():
                check_one_of("effects", name, known, "a parameter of the model")
            for name, categories in effect.needs().items():
                check_one_of("effects", name, self.covariate_names, "a covariate of the population")
                found = by_name[name].categories if isinstance(by_name[name], Categorical) else None
                if found != categories:
                    refuse(
                        "effects",
                        f"treat covariate `{name}` as " + (f"categories {found}" if found else "a number"),
                        f"categories {categories}" if categories else "a number",
                    )

    def sample(self, *, key: Key, size: int) -> Cohort:
        """Draw virtual patients; patient i is the same whatever the size.

        Args:
            key: `jax.random.key(seed)`.
            size: Number of patients.

        Raises:
            ValueError: If `size` is not positive, or a sampled parameter is outside its range (truncate it).
        """
        check_above("size", size, 0)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))
        covariates, values = _sampled(self, keys)
        order = [name for name in dict.fromkeys((*self._affected(), *self.between_names))]
        return Cohort.of(self.model, {name: values[name] for name in order}, covariates=covariates, size=size)

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


def _correlation_matrix(correlation: Correlation | None, order: tuple[str, ...]) -> jax.Array:
    size = len(order)
    matrix: Any = jnp.eye(size)
    if isinstance(correlation, Mapping):
        for pair, value in correlation.items():
            for name in pair:
                check_one_of("correlation", name, order, "parameters in `between`")
            first, second = (order.index(name) for name in pair)
            matrix = matrix.at[first, second].set(value).at[second, first].set(value)
    elif correlation is not None:
        matrix = jnp.asarray(correlation, dtype=float)
        if matrix.shape != (size, size):
            refuse(
                "correlation", f"have shape ({size}, {size}), one row a name in `between`", f"of shape {matrix.shape}"
            )
    found = concrete(matrix)
    if found is not None and size:
        if not (np.allclose(found, found.T) and np.allclose(np.diag(found), 1.0)):
            refuse("correlation", "be symmetric with ones on the diagonal", "not")
        smallest = np.linalg.eigvalsh(found).min()
        if smallest <= 0:
            refuse("correlation", "be positive definite", f"not (smallest eigenvalue {smallest:.3g})")
    return matrix
