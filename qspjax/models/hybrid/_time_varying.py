"""Compartment models whose rate constants are learned functions of time."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_above, check_increasing, check_number, refuse
from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._events import Event
from qspjax._model import AbstractModel, Units
from qspjax._names import at
from qspjax._types import Observed, Scalar, State
from qspjax.models.hybrid._elements import Learned, called
from qspjax.models.learned import AbstractTerm


class PiecewiseConstant(AbstractTerm):
    """A function of time that jumps at given times: one number before the first, one between each two, one after.

    $$ u(t) = values_i \\quad \\text{for} \\quad times_{i-1} \\le t < times_i $$

    Put outputs at the jumps, so that steps of the solver end there.

    Args:
        values: The numbers, shape (times + 1,): the weights.
        times: When it jumps, increasing.

    Raises:
        ValueError: If the times do not increase, or there is not one value more than times.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> u = qsp.models.PiecewiseConstant(jnp.array([0.0, 0.5, -1.0]), times=(4.0, 8.0))
        >>> [float(u(t)) for t in (3.0, 4.0, 9.0)]
        [0.0, 0.5, -1.0]
    """

    values: jax.Array = eqx.field(converter=lambda values: jnp.asarray(values, dtype=float))
    times: tuple[float, ...] = eqx.field(static=True, converter=lambda times: tuple(map(float, times)))
    inputs: int = eqx.field(default=1, init=False, static=True)

    def __check_init__(self) -> None:
        check_increasing("times", jnp.asarray(self.times))
        if jnp.shape(self.values)[-1:] != (len(self.times) + 1,):
            refuse("values", f"be one more than times ({len(self.times) + 1})", f"of shape {jnp.shape(self.values)}")

    def __call__(self, *inputs: Scalar) -> Scalar:
        (t,) = inputs
        value = self.values[0]
        for i, time in enumerate(self.times):
            value = jnp.where(t < time, value, self.values[i + 1])
        return value


class TimeVaryingState(NamedTuple):
    """The states of the model."""

    model: State


class TimeVarying(AbstractWrapper):
    """A model some of whose parameters are learned functions of time.

    $$ y' = f(t, y, p(t)), \\quad p_i(t) = p_i \\exp u_{\\theta, i}(t / horizon) $$

    A compartment-model-informed network with the solver in the loop: mass is conserved by the compartments, a parameter
    stays positive and keeps its unit, and where u is 0 it is that of the model. Doses, events and outputs are those of
    the model; its names become `model.CL` and `model.central`. What a dose is (lag, bioavailability) does not vary.

    Args:
        model: The compartment model: any model.
        names: The parameters that vary, by dotted name; each is one number.
        log_factor: What is learned: a function of time over `horizon` that returns one number for each name (one
            number, or an array of shape (names,)); a network or `PiecewiseConstant`.
        horizon: The time in which it varies, which scales its input.

    Raises:
        ValueError: If a name is not a parameter that is one number, or the function returns another number of values.

    Reference: Ahmadi Daryakenari, Wang and Karniadakis 2024, arXiv:2409.12998 (there by physics-informed networks);
    time-varying absorption: Ahmadi, Wang and Karniadakis 2024, arXiv:2412.21076.

    Example:
        >>> import qspjax as qsp
        >>> slower = qsp.models.PiecewiseConstant([0.0, -2.0], times=(5.0,))
        >>> typical = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> hybrid = qsp.models.TimeVarying(typical, ("CL",), slower)
        >>> solution = qsp.simulate(hybrid, qsp.bolus(300.0, to="central"), [0.0, 5.0, 10.0])
        >>> solution.observed["concentration"].round(3)
        Array([10.   ,  6.065,  5.668], dtype=float64)
    """

    model: AbstractModel
    log_factor: Learned
    names: tuple[str, ...] = eqx.field(static=True)
    horizon: float = eqx.field(static=True)

    # Checked only here: a check that ran again on a cohort would see parameters of many patients.
    def __init__(self, model: AbstractModel, names: tuple[str, ...], log_factor: Learned, horizon: float = 1.0) -> None:
        self.model = model
        self.names = tuple(names)
        self.log_factor = log_factor
        check_number("horizon", horizon)
        check_above("horizon", horizon, 0.0)
        self.horizon = float(horizon)
        for name in self.names:
            shape = jnp.shape(at(model, name).get())
            if shape:
                refuse("names", "be parameters that are one number", f"`{name}` of shape {shape}")
        values = eqx.filter_eval_shape(lambda: self._log_factors(jnp.zeros(())))
        if values.shape != (len(self.names),):
            refuse("log_factor", f"return one number for each of `names` ({len(self.names)})", f"shape {values.shape}")

    @property
    def units(self) -> Units:
        """The units of the model."""
        units = self.model.units
        states = {f"model.{name}": unit for name, unit in units.states.items()}
        return Units(units.time, units.dose, states, units.observed)

    def at_time(self, t: Scalar) -> AbstractModel:
        """Return the model with the parameters of a time."""
        model = self.model
        for name, log_factor in zip(self.names, self._log_factors(t), strict=True):
            model = at(model, name).set(at(model, name).get() * jnp.exp(log_factor))
        return model

    def initial(self) -> TimeVaryingState:
        return TimeVaryingState(self.model.initial())

    def vector_field(self, t: Scalar, y: TimeVaryingState) -> TimeVaryingState:
        return TimeVaryingState(self.at_time(t).vector_field(t, y.model))

    def observe(self, t: Scalar, y: TimeVaryingState) -> Observed:
        return self.at_time(t).observe(t, y.model)

    def declared(self) -> Declared:
        inner = declared(self.model)
        events = lambda: tuple(self._event(number, event) for number, event in enumerate(inner.events()))  # noqa: E731
        return inner._replace(events=events).under("model", self.model.initial, lambda t, y: (t, y))

    def _log_factors(self, t: Scalar) -> jax.Array:
        return jnp.atleast_1d(called(self.log_factor, [jnp.asarray(t) / self.horizon]))

    def _event(self, number: int, event: Event) -> Event:
        """Return an event of the model, with the parameters of its time."""

        def now(name: str) -> Callable[[Scalar, TimeVaryingState], Scalar | Mapping[str, Scalar]]:
            def function(t: Scalar, y: TimeVaryingState) -> Scalar | Mapping[str, Scalar]:
                return getattr(declared(self.at_time(t)).events()[number], name)(t, y.model)

            return function

        functions = [name for name in ("trigger", "assign", "delay", "priority") if getattr(event, name) is not None]
        return dataclasses.replace(event, **{name: now(name) for name in functions})
