"""The universal differential equation: a mechanism, and a learned remainder."""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_one_of, refuse
from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._model import AbstractModel, Units
from qspjax._names import match, state_names
from qspjax._types import Observed, Scalar, State
from qspjax.models.hybrid._elements import Learned, called, elements, with_added


class UniversalState(NamedTuple):
    """The states of the mechanism."""

    mechanism: State


class UniversalDifferentialEquation(AbstractWrapper):
    """A mechanism with a learned remainder on some of its states.

    $$ y' = f(t, y) + U_\\theta(x), \\quad x = \\text{the inputs at } (t, y) $$

    Doses, events and outputs are those of the mechanism; its names become `mechanism.CL` and `mechanism.central`. Start
    with a remainder that is small (last layer near zero), or the mechanism explains nothing at first.

    Args:
        mechanism: What is known: any model.
        remainder: What is learned: a function of the inputs, one number or an array of shape (inputs,), that returns
            one number for each state in `into`, in the units of their slopes (one number, or shape (into,)).
        of: The inputs: names of states, of observed values, or `"t"`, the time.
        into: The names of the states to whose slopes the remainder is added.
        scales: By name, the size of inputs that are far from 1: the remainder sees inputs divided by them.

    Raises:
        ValueError: If a name is not one of the mechanism, or the remainder returns another number of values.

    Reference: Rackauckas et al. 2020, arXiv:2001.04385.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, qspjax as qsp
        >>> class Saturated(eqx.Module):
        ...     largest: jax.Array
        ...     def __call__(self, C):
        ...         return -self.largest * C / (1.0 + C)
        >>> typical = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> hybrid = qsp.models.UniversalDifferentialEquation(
        ...     typical, Saturated(jnp.array(10.0)), of=("concentration",), into=("central",)
        ... )
        >>> solution = qsp.simulate(hybrid, qsp.bolus(300.0, to="central"), [0.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([10.,  2.], dtype=float64)
    """

    mechanism: AbstractModel
    remainder: Learned
    of: tuple[str, ...] = eqx.field(static=True)
    into: tuple[str, ...] = eqx.field(static=True)
    scales: tuple[float, ...] = eqx.field(static=True)

    # Checked only here: a check that ran again on a cohort would see parameters of many patients.
    def __init__(
        self,
        mechanism: AbstractModel,
        remainder: Learned,
        of: tuple[str, ...],
        into: tuple[str, ...],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.mechanism = mechanism
        self.remainder = remainder
        scales = dict(scales or {})
        states = state_names(mechanism.initial())
        observed = eqx.filter_eval_shape(lambda: mechanism.observe(0.0, mechanism.initial()))
        known = "a state or an observed value of `mechanism`, or `t`"
        self.of = tuple(
            name if name in observed or name == "t" else states[match(name, states, "of", known)] for name in of
        )
        self.into = tuple(states[match(name, states, "into", "a state of `mechanism`")] for name in into)
        for name in scales:
            check_one_of("scales", name, of, "an input in `of`")
        self.scales = tuple(float(scales.get(name, 1.0)) for name in of)
        values = eqx.filter_eval_shape(lambda: self._remainder(0.0, mechanism.initial()))
        if values.shape != (len(self.into),):
            refuse(
                "remainder", f"return one number for each name in `into` ({len(self.into)})", f"shape {values.shape}"
            )

    @property
    def units(self) -> Units:
        """The units of the mechanism."""
        units = self.mechanism.units
        states = {f"mechanism.{name}": unit for name, unit in units.states.items()}
        return Units(units.time, units.dose, states, units.observed)

    def initial(self) -> UniversalState:
        return UniversalState(self.mechanism.initial())

    def vector_field(self, t: Scalar, y: UniversalState) -> UniversalState:
        slope = self.mechanism.vector_field(t, y.mechanism)
        remainder = dict(zip(self.into, self._remainder(t, y.mechanism), strict=True))
        return UniversalState(with_added(slope, y.mechanism, remainder))

    def observe(self, t: Scalar, y: UniversalState) -> Observed:
        return self.mechanism.observe(t, y.mechanism)

    def declared(self) -> Declared:
        return declared(self.mechanism).under("mechanism", self.mechanism.initial)

    def _remainder(self, t: Scalar, y: State) -> jax.Array:
        """Return the remainder, shape (into,)."""
        values = {"t": t, **elements(y), **self.mechanism.observe(t, y)}
        inputs = [jnp.asarray(values[name]) / scale for name, scale in zip(self.of, self.scales, strict=True)]
        return jnp.atleast_1d(called(self.remainder, inputs))
