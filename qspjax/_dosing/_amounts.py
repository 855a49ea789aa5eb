"""Dose amounts that depend on the patient: per kilogram, per square metre, from a table, capped, in whole vials.

An amount is a function of covariates. `Regimen.prescribe` evaluates it, so nothing else knows that it was one.
"""

import abc
from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp

from qspjax._checks import check_above, check_increasing, check_no_unit, check_one_of, refuse
from qspjax._parameters import as_parameter
from qspjax._types import Scalar

Covariates = Mapping[str, Scalar]


class AbstractAmount(eqx.Module):
    """An amount as a function of covariates, each a number or an array with one element per patient.

    Example:
        >>> import qspjax as qsp
        >>> class ByAge(qsp.AbstractAmount):
        ...     def __call__(self, covariates):
        ...         return 100.0 + covariates["AGE"]
        >>> qsp.bolus(ByAge(), to="central").prescribe({"AGE": 20.0}).amount
        Array([120.], dtype=float64)
    """

    @abc.abstractmethod
    def __call__(self, covariates: Covariates) -> Scalar:
        """Return the amount in the model's unit of dose."""


class Proportional(AbstractAmount):
    """An amount proportional to covariates: `dose * product of covariates`, so mg/kg is `Proportional(5.0, "WT")`.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Proportional(5.0, "WT")({"WT": 70.0}))
        350.0
    """

    dose: Scalar = eqx.field(converter=as_parameter)
    by: tuple[str, ...] = eqx.field(converter=lambda x: (x,) if isinstance(x, str) else tuple(x), static=True)

    def __check_init__(self) -> None:
        check_no_unit("dose", self.dose)

    def __call__(self, covariates: Covariates) -> Scalar:
        amount = self.dose
        for name in self.by:
            amount = amount * _covariate(covariates, name)
        return amount


class PerSurfaceArea(AbstractAmount):
    """An amount per square metre of body surface, `dose * sqrt(height * weight / 3600)` with cm and kg.

    Reference: Mosteller, N Engl J Med 1987;317:1098, doi:10.1056/NEJM198710223171717.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.PerSurfaceArea(100.0)({"WT": 80.0, "HT": 180.0}))
        200.0
    """

    dose: Scalar = eqx.field(converter=as_parameter)
    weight: str = eqx.field(default="WT", static=True)
    height: str = eqx.field(default="HT", static=True)

    def __check_init__(self) -> None:
        check_no_unit("dose", self.dose)

    def __call__(self, covariates: Covariates) -> Scalar:
        area = jnp.sqrt(_covariate(covariates, self.weight) * _covariate(covariates, self.height) / 3600.0)
        return self.dose * area


class Banded(AbstractAmount):
    """An amount from a table: `amounts[i]` where the covariate lies in the i-th band, `edges[i-1] <= value < edges[i]`.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Banded("WT", edges=[50.0, 80.0], amounts=[150.0, 225.0, 300.0])({"WT": 80.0}))
        300.0
    """

    covariate: str = eqx.field(static=True)
    edges: Scalar = eqx.field(converter=as_parameter, kw_only=True)
    amounts: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_no_unit("edges", self.edges)
        check_no_unit("amounts", self.amounts)
        check_increasing("edges", self.edges)
        if jnp.shape(self.amounts) != (jnp.size(self.edges) + 1,):
            expected = jnp.size(self.edges) + 1
            refuse("amounts", f"have one element more than `edges` ({expected})", jnp.size(self.amounts))

    def __call__(self, covariates: Covariates) -> Scalar:
        return jnp.asarray(self.amounts)[
            jnp.searchsorted(jnp.asarray(self.edges), _covariate(covariates, self.covariate), side="right")
        ]


class Computed(AbstractAmount):
    """An amount by any function of the covariates: `Computed(lambda covariates: ...)`.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Computed(lambda covariates: 5.0 * (covariates["CRCL"] + 25.0))({"CRCL": 75.0}))  # Calvert
        500.0
    """

    function: Callable[[Covariates], Scalar] = eqx.field(static=True)

    def __call__(self, covariates: Covariates) -> Scalar:
        return jnp.asarray(self.function(covariates), dtype=float)


class Limited(AbstractAmount):
    """Another amount, kept within `at_least` and `at_most`.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Limited(qsp.Proportional(5.0, "WT"), at_most=400.0)({"WT": 100.0}))
        400.0
    """

    amount: AbstractAmount
    at_least: Scalar = eqx.field(default=0.0, converter=as_parameter, kw_only=True)
    at_most: Scalar = eqx.field(default=jnp.inf, converter=as_parameter, kw_only=True)

    def __call__(self, covariates: Covariates) -> Scalar:
        return jnp.clip(self.amount(covariates), self.at_least, self.at_most)


class RoundedUp(AbstractAmount):
    """Another amount, rounded up to whole multiples of `to` (a vial, a syringe). Its derivative is zero.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.RoundedUp(qsp.Proportional(5.0, "WT"), to=150.0)({"WT": 70.0}))
        450.0
    """

    amount: AbstractAmount
    to: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("to", self.to, 0.0)

    def __call__(self, covariates: Covariates) -> Scalar:
        return jnp.ceil(self.amount(covariates) / self.to * (1.0 - 1e-12)) * self.to


class Rounded(AbstractAmount):
    """Another amount, rounded to the nearest multiple of `to`. Its derivative is zero.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Rounded(qsp.Proportional(5.0, "WT"), to=150.0)({"WT": 70.0}))
        300.0
    """

    amount: AbstractAmount
    to: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("to", self.to, 0.0)

    def __call__(self, covariates: Covariates) -> Scalar:
        return jnp.round(self.amount(covariates) / self.to) * self.to


def _covariate(covariates: Covariates, name: str) -> Scalar:
    check_one_of("covariate", name, covariates, "a covariate of the patients")
    return jnp.asarray(covariates[name], dtype=float)
