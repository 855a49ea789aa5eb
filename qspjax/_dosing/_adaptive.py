"""Rules of adaptive dosing: at visits, observed values decide the factor by which later doses are multiplied."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from qspjax._checks import check_above, check_finite, check_minimum, check_one_of, refuse
from qspjax._parameters import as_parameter
from qspjax._types import Observed, Scalar


class AbstractRule(eqx.Module):
    """A rule of adaptive dosing; write your own as two methods, in JAX.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> class HalfWhileHigh(qsp.AbstractRule):
        ...     def initial(self):
        ...         return ()
        ...     def __call__(self, t, observed, factor, memory):
        ...         return jnp.where(observed["concentration"] > 5.0, 0.5, 1.0), memory
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> daily = qsp.bolus(300.0, to="central").every(24.0, doses=3)
        >>> regimen = daily.adapted(HalfWhileHigh(), at=[1.0, 30.0])
        >>> solution = qsp.simulate(patient, regimen, [0.0, 24.0, 48.0])
        >>> solution.observed["concentration"].round(2), solution.stats["factors"]
        (Array([10.  ,  5.91, 10.54], dtype=float64), Array([0.5, 1. ], dtype=float64))
    """

    @abc.abstractmethod
    def initial(self) -> PyTree:
        """Return what the rule remembers before the first visit, a tree of arrays, or `()` for nothing."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, observed: Observed, factor: Scalar, memory: PyTree) -> tuple[Scalar, PyTree]:
        """Return the factor from this visit on, and what to remember.

        Args:
            t: The time of the visit.
            observed: By name, the states and what the model observes, before a dose at the same time.
            factor: The factor until now, 1 at first.
            memory: What was remembered at the last visit.
        """


class ReduceAbove(AbstractRule):
    """Reduce the dose on toxicity: at every visit with a value above a threshold, the factor shrinks by `by`.

    Args:
        name: An observed value or a state.
        threshold: Above it the dose is reduced.
        by: What the factor is multiplied by, from 0 (stop) to 1.
        at_least: The factor does not fall below this; 0 unless given.

    Example:
        >>> import qspjax as qsp
        >>> rule = qsp.ReduceAbove("concentration", 2.5, by=0.5)
        >>> regimen = qsp.bolus(100.0, to="central").every(24.0, doses=3).adapted(rule, at=[23.0, 47.0])
        >>> patient = qsp.models.OneCompartment(CL=0.1, V=30.0)
        >>> qsp.simulate(patient, regimen, [0.0, 24.0]).observed["concentration"].round(2)
        Array([3.33, 4.74], dtype=float64)
    """

    name: str = eqx.field(static=True)
    threshold: Scalar = eqx.field(converter=as_parameter)
    by: Scalar = eqx.field(default=0.5, converter=as_parameter, kw_only=True)
    at_least: Scalar = eqx.field(default=0.0, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_finite("threshold", self.threshold)
        check_minimum("by", self.by, 0.0)
        check_minimum("at_least", self.at_least, 0.0)

    def initial(self) -> PyTree:
        return ()

    def __call__(self, t: Scalar, observed: Observed, factor: Scalar, memory: PyTree) -> tuple[Scalar, PyTree]:
        reduced = jnp.maximum(self.by * factor, jnp.minimum(self.at_least, factor))
        return jnp.where(_value(observed, self.name) > self.threshold, reduced, factor), memory


class TreatToTarget(AbstractRule):
    """Titrate to a target: the factor is multiplied by target / value, within bounds per step and overall.

    Args:
        name: An observed value or a state that grows with the dose.
        target: The value to reach.
        most_change: The greatest factor of one step, up or down; 2 unless given.
        at_least: Smallest factor overall.
        at_most: Greatest factor overall.

    Example:
        >>> import qspjax as qsp
        >>> factor, _ = qsp.TreatToTarget("concentration", 3.0)(24.0, {"concentration": 2.0}, 1.0, ())
        >>> float(factor)
        1.5
    """

    name: str = eqx.field(static=True)
    target: Scalar = eqx.field(converter=as_parameter)
    most_change: Scalar = eqx.field(default=2.0, converter=as_parameter, kw_only=True)
    at_least: Scalar = eqx.field(default=0.0, converter=as_parameter, kw_only=True)
    at_most: Scalar = eqx.field(default=jnp.inf, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("target", self.target, 0.0)
        check_minimum("most_change", self.most_change, 1.0)
        check_minimum("at_least", self.at_least, 0.0)

    def initial(self) -> PyTree:
        return ()

    def __call__(self, t: Scalar, observed: Observed, factor: Scalar, memory: PyTree) -> tuple[Scalar, PyTree]:
        value = _value(observed, self.name)
        positive = value > 0
        ratio = self.target / jnp.where(positive, value, 1.0)
        change = jnp.clip(jnp.where(positive, ratio, self.most_change), 1.0 / self.most_change, self.most_change)
        return jnp.clip(change * factor, self.at_least, self.at_most), memory


class StopOnProgression(AbstractRule):
    """Stop treatment for good when a value exceeds its smallest one so far by a share (RECIST: 20 % above the nadir).

    Args:
        name: An observed value or a state, such as a tumour size.
        share: How far above the nadir, as a share of it; 0.2 unless given.

    Reference: Eisenhauer et al., Eur J Cancer 2009;45:228, doi:10.1016/j.ejca.2008.10.026.

    Example:
        >>> import qspjax as qsp
        >>> rule = qsp.StopOnProgression("size")
        >>> factor, nadir = rule(24.0, {"size": 25.0}, 1.0, 20.0)  # 25 % above the nadir of 20
        >>> float(factor), float(nadir)
        (0.0, 20.0)
    """

    name: str = eqx.field(static=True)
    share: Scalar = eqx.field(default=0.2, converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("share", self.share, 0.0)

    def initial(self) -> PyTree:
        return jnp.asarray(jnp.inf)

    def __call__(self, t: Scalar, observed: Observed, factor: Scalar, memory: PyTree) -> tuple[Scalar, PyTree]:
        value = _value(observed, self.name)
        return jnp.where(value > (1.0 + self.share) * memory, 0.0, factor), jnp.minimum(memory, value)


class Decision(eqx.Module):
    """A rule, and the times of the visits at which it decides, shape (visits,) or (patients, visits)."""

    rule: AbstractRule
    at: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        if not isinstance(self.rule, AbstractRule):
            refuse("rule", "be a rule such as ReduceAbove('toxicity', 3.0)", f"of type {type(self.rule).__name__}")


def _value(observed: Observed, name: str) -> Scalar:
    check_one_of("name", name, observed, "an observed value or a state of the model")
    return observed[name]
