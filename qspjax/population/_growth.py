"""Growth until diagnosis: a disease begins small, and a patient is treated when it is found.

    y' = g f(t, y),  T' = g,  g = 1 before z(y) first reaches the level, and 0 from then on

so the last state is that at diagnosis, and T the time that it took; both have the derivative of the event's time,
dt* = -dz / z'.

Reference: Wang et al., R Soc Open Sci 2019;6:190366, doi:10.1098/rsos.190366 (virtual patients whose tumour has grown
from one cell to the diameter at which their trial began).
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool

from qspjax._baseline import AbstractBaseline, Baselines, or_nothing
from qspjax._checks import check_above, check_finite, check_instance, check_number, check_one_of, refuse
from qspjax._declared import AbstractWrapper, Declared, declared, mass_of
from qspjax._dosing._doses import no_doses
from qspjax._events import Event
from qspjax._model import AbstractModel, as_state
from qspjax._names import at, state_names
from qspjax._parameters import as_parameter
from qspjax._simulate import observed_names, simulate
from qspjax._solution import RESULTS
from qspjax._types import Observed, Scalar, State
from qspjax.solve import AbstractMethod
from qspjax.solve._exposed import observed_states


class GrowUntil(AbstractBaseline):
    """The state at diagnosis: what the disease has grown to when an output first reaches a level.

    The patient grows from the initial state of the model, without doses; time is 0 again where treatment begins. A
    patient who is not diagnosed in time fails, with a code that says so.

    Attributes:
        output: Name of the observed value.
        level: Its value at diagnosis, or the name of the parameter that is.
        at_most: The time by which a patient must be diagnosed, in the unit of the model.

    Raises:
        ValueError: If a name is unknown, the level not a number, or `at_most` not positive.

    Example:
        >>> import qspjax as qsp
        >>> growth = qsp.io.read_antimony("V' = k*V*(1 - V/K); V = 1; k = 0.5; K = 100")
        >>> cohort = qsp.Cohort.of(growth, {"K": [100.0, 9.0]})
        >>> found = qsp.population.baselines(cohort, qsp.population.GrowUntil("V", 10.0, at_most=100.0))
        >>> float(found.time[0].round(3)), [(failure.patient, failure.state) for failure in found.failures()]
        (4.796, [(1, 'V')])
    """

    output: str = eqx.field(static=True)
    level: Scalar | str = eqx.field(converter=lambda x: x if isinstance(x, str) else as_parameter(x))
    at_most: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("output", self.output, str, "the name of an observed value")
        for name in ("at_most",) if isinstance(self.level, str) else ("level", "at_most"):
            value = getattr(self, name)
            check_number(name, value)
            check_finite(name, value)
            if np.ndim(value):
                refuse(name, "be one number; one for each patient is a parameter", f"of shape {np.shape(value)}")
        check_above("at_most", self.at_most, 0.0)

    def of(self, model: AbstractModel, *, method: AbstractMethod | None = None) -> Baselines:
        start = as_state(model, None)
        check_one_of("output", self.output, observed_names(model, start), "an observed value")
        level = at(model, self.level).get() if isinstance(self.level, str) else self.level
        growing = Growing(model, level, self.output)
        solution = simulate(growing, no_doses(), jnp.reshape(self.at_most, 1), t0=0.0, method=method, throw=False)
        last = jax.tree.map(lambda leaf: leaf[0], solution.states)
        missed = (solution.result == RESULTS.successful) & (last.grows > 0.0)
        result = RESULTS.where(missed, RESULTS.not_diagnosed, solution.result)
        behind = int(np.argmax(observed_states(model, start, (self.output,))))
        culprit = jnp.where(missed, behind, jnp.minimum(solution.stats["culprit"], len(state_names(start)) - 1))
        stats = {"last_time": solution.stats["last_time"], "culprit": culprit}
        return or_nothing(Baselines(last.state, last.time, jnp.full((), jnp.nan), result, stats), model, self)


class GrowingState(NamedTuple):
    """The state of a model, whether it grows (1, or 0 from diagnosis on), and for how long it has."""

    state: State
    grows: Scalar
    time: Scalar


class Growing(AbstractWrapper):
    """A model that stands still from the time at which an output first reaches a level."""

    model: AbstractModel
    level: Scalar
    output: str = eqx.field(static=True)

    def initial(self) -> GrowingState:
        return GrowingState(self.model.initial(), 1.0, 0.0)

    def vector_field(self, t: Scalar, y: GrowingState) -> GrowingState:
        slope = self.model.vector_field(t, y.state)
        slope = jax.tree.map(lambda row, leaf: jnp.broadcast_to(row, jnp.shape(leaf)), slope, y.state)
        flat, unravel = ravel_pytree(slope)
        mass = mass_of(self.model, state_names(y.state))
        return GrowingState(unravel(jnp.where(mass == 1.0, y.grows * flat, flat)), 0.0, y.grows)

    def observe(self, t: Scalar, y: GrowingState) -> Observed:
        return self.model.observe(t, y.state)

    def declared(self) -> Declared:
        inner = declared(self.model).under("state", self.model.initial)
        return inner._replace(events=lambda: (*map(_while_growing, inner.events()), self._diagnosis()))

    def _diagnosis(self) -> Event:
        def found(t: Scalar, y: GrowingState) -> Bool[Array, ""]:
            return self.model.observe(t, y.state)[self.output] >= self.level

        def stopped(t: Scalar, y: GrowingState) -> dict[str, float]:
            del t, y
            return {"grows": 0.0}

        return Event(found, stopped, initial_value=False)


def _while_growing(event: Event) -> Event:
    """Return an event of the model, which does not fire after diagnosis."""
    return dataclasses.replace(event, trigger=lambda t, y: event.trigger(t, y) & (y.grows > 0.0))
