"""Covariates of a population and their effects on parameters."""

import abc
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_above, concrete, refuse
from qspjax._dosing._amounts import Covariates
from qspjax._parameters import as_parameter
from qspjax._types import ArrayInput, Key, Scalar


class Categorical(eqx.Module):
    """A covariate of named categories, sampled with these probabilities and stored as the category's number.

    Categories are numbered in alphabetical order.

    Raises:
        ValueError: If the probabilities are negative or do not add up to 1.

    Example:
        >>> import qspjax as qsp
        >>> qsp.Categorical({"male": 0.4, "female": 0.6}).categories
        ('female', 'male')
    """

    categories: tuple[str, ...] = eqx.field(static=True)
    probabilities: jax.Array

    def __init__(self, probabilities: Mapping[str, Scalar]):
        """Give a probability for each category by name."""
        self.categories = tuple(sorted(probabilities))
        self.probabilities = as_parameter([probabilities[name] for name in self.categories])

    def __check_init__(self) -> None:
        probabilities = concrete(self.probabilities)
        if probabilities is not None and not ((probabilities >= 0).all() and abs(probabilities.sum() - 1.0) < 1e-9):
            refuse("probabilities", "be at least 0 and add up to 1", list(probabilities.tolist()))

    def from_normal(self, z: ArrayInput, typical: ArrayInput | None = None) -> jax.Array:
        """Return the number of the category that belongs to a standard normal variate."""
        edges = jnp.cumsum(self.probabilities)[:-1]
        return jnp.searchsorted(edges, jax.scipy.special.ndtr(jnp.asarray(z, float)), side="right")

    def sample(self, key: Key) -> jax.Array:
        """Draw the number of a category."""
        return jax.random.choice(key, len(self.categories), p=self.probabilities)


class AbstractCovariateEffect(eqx.Module):
    """An effect of covariates on parameters: a function from typical values to the values of a patient.

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.Power("CL", "WT", exponent=0.75, reference=70.0)
        >>> effect.parameters(), effect.needs()
        (('CL',), {'WT': None})
    """

    @abc.abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Return the dotted names of the parameters that change."""

    @abc.abstractmethod
    def needs(self) -> Mapping[str, tuple[str, ...] | None]:
        """Return the covariates that it needs, by name: None for a number, else the categories."""

    @abc.abstractmethod
    def __call__(self, parameter: str, value: Scalar, covariates: Covariates) -> Scalar:
        """Return the value of one of its parameters for a patient with these covariates."""


class Power(AbstractCovariateEffect):
    """A power of a covariate: value (covariate / reference)^exponent.

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.Power("CL", "WT", exponent=0.75, reference=70.0)
        >>> round(float(effect("CL", 3.0, {"WT": 35.0})), 4)
        1.7838
    """

    parameter: str = eqx.field(static=True)
    covariate: str = eqx.field(static=True)
    exponent: Scalar = eqx.field(converter=as_parameter, kw_only=True)
    reference: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("reference", self.reference, 0.0)

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    def needs(self) -> Mapping[str, tuple[str, ...] | None]:
        return {self.covariate: None}

    def __call__(self, parameter: str, value: Scalar, covariates: Covariates) -> Scalar:
        del parameter
        return value * (covariates[self.covariate] / self.reference) ** self.exponent


def _as_names(value: Sequence[str] | str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


class Allometric(AbstractCovariateEffect):
    """Allometric scaling by body weight: clearances by (WT / 70 kg)^0.75, volumes by WT / 70 kg, unless stated.

    Reference: Anderson and Holford, Annu Rev Pharmacol Toxicol 2008;48:303,
    doi:10.1146/annurev.pharmtox.48.113006.094708.

    Args:
        clearances: Names of clearances, or one name.
        volumes: Names of volumes, or one name.
        weight: Name of the covariate, in the unit of `reference`.
        reference: The weight of the typical patient.
        clearance_exponent: Exponent of the clearances.
        volume_exponent: Exponent of the volumes.

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.Allometric(clearances=["CL"], volumes=["V"])
        >>> float(effect("V", 30.0, {"WT": 35.0}))
        15.0
    """

    clearances: tuple[str, ...] = eqx.field(default=(), static=True, converter=_as_names, kw_only=True)
    volumes: tuple[str, ...] = eqx.field(default=(), static=True, converter=_as_names, kw_only=True)
    weight: str = eqx.field(default="WT", static=True, kw_only=True)
    reference: Scalar = eqx.field(default=70.0, converter=as_parameter, kw_only=True)
    clearance_exponent: Scalar = eqx.field(default=0.75, converter=as_parameter, kw_only=True)
    volume_exponent: Scalar = eqx.field(default=1.0, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("reference", self.reference, 0.0)

    def parameters(self) -> tuple[str, ...]:
        return self.clearances + self.volumes

    def needs(self) -> Mapping[str, tuple[str, ...] | None]:
        return {self.weight: None}

    def __call__(self, parameter: str, value: Scalar, covariates: Covariates) -> Scalar:
        exponent = self.clearance_exponent if parameter in self.clearances else self.volume_exponent
        return value * (covariates[self.weight] / self.reference) ** exponent


class ByCategory(AbstractCovariateEffect):
    """A factor for each category of a covariate: value factors[category].

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.ByCategory("CL", "SEX", factors={"male": 1.0, "female": 0.8})
        >>> round(float(effect("CL", 3.0, {"SEX": 0})), 3)
        2.4
    """

    parameter: str = eqx.field(static=True)
    covariate: str = eqx.field(static=True)
    categories: tuple[str, ...] = eqx.field(static=True)
    factors: jax.Array

    def __init__(self, parameter: str, covariate: str, *, factors: Mapping[str, Scalar]):
        """Give a factor for each category by name."""
        self.parameter, self.covariate = parameter, covariate
        self.categories = tuple(sorted(factors))
        self.factors = as_parameter([factors[name] for name in self.categories])

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    def needs(self) -> Mapping[str, tuple[str, ...] | None]:
        return {self.covariate: self.categories}

    def __call__(self, parameter: str, value: Scalar, covariates: Covariates) -> Scalar:
        del parameter
        return value * self.factors[jnp.asarray(covariates[self.covariate], dtype=int)]


class SetBy(AbstractCovariateEffect):
    """A parameter that equals a covariate, such as a baseline that was measured in each patient.

    Example:
        >>> import qspjax as qsp
        >>> qsp.SetBy("R0", "IGE")("R0", 100.0, {"IGE": 250.0})
        250.0
    """

    parameter: str = eqx.field(static=True)
    covariate: str = eqx.field(static=True)

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    def needs(self) -> Mapping[str, tuple[str, ...] | None]:
        return {self.covariate: None}

    def __call__(self, parameter: str, value: Scalar, covariates: Covariates) -> Scalar:
        del parameter, value
        return covariates[self.covariate]
