"""A low-dimensional neural ODE: pharmacokinetics from a network of the amount and one of the time since the dose."""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qspjax._checks import check_above
from qspjax._declared import AbstractDelivered, AbstractEventful, Delivery
from qspjax._events import Event
from qspjax._model import Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar


class StateNetwork(eqx.Module):
    """A network of one number with one hidden layer.

    $$ f(x) = \\sum_j v_j \\, relu(w_j x / size + b_j) + c $$
    """

    w: Float[Array, " hidden"]
    b: Float[Array, " hidden"]
    v: Float[Array, " hidden"]
    c: Scalar
    size: float = eqx.field(static=True)

    def __call__(self, x: Scalar) -> Scalar:
        return jnp.sum(self.v * jax.nn.relu(self.w * (x / self.size) + self.b)) + self.c


class TimeNetwork(eqx.Module):
    """A network of time that ends: its input weights are negative, so that it is 0 when all its units are.

    $$ g(t) = \\sum_j v_j \\, relu(-w_j^2 t / size + b_j) $$
    """

    w: Float[Array, " hidden"]
    b: Float[Array, " hidden"]
    v: Float[Array, " hidden"]
    size: float = eqx.field(static=True)

    def __call__(self, t: Scalar) -> Scalar:
        return jnp.sum(self.v * jax.nn.relu(self.b - self.w**2 * (t / self.size)))


class LowDimensionalState(NamedTuple):
    """Amounts in mg, and the time since the last dose that is absorbed, in h."""

    depot: Scalar
    central: Scalar
    dose: Scalar
    since: Scalar


class LowDimensionalNeuralODE(AbstractEventful, AbstractDelivered):
    """A low-dimensional neural ODE for pharmacokinetics.

    $$ central' = f_\\theta(central) + D \\, g_\\phi(t - t_D), \\quad concentration = central / V $$

    Each part is a network with one hidden layer, of the amount and of the time since the dose; g is per dose, so that
    the model follows doses in proportion as far as f is linear. A dose to `central` is intravenous and adds to it; one
    to `depot` is absorbed (or distributed) by g, of which D is the amount and t_D the time: the last such dose counts,
    so one should be absorbed when the next is given. `of` makes a model to start with.

    Reference: Bram et al. 2023, doi:10.1007/s10928-023-09886-4.

    Example:
        >>> import jax, qspjax as qsp
        >>> patient = qsp.models.LowDimensionalNeuralODE.of(V=30.0, largest=300.0, horizon=24.0, key=jax.random.key(0))
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 12.0])
        >>> solution.observed["concentration"].round(2)
        Array([10.  ,  3.18], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="h",
        dose="mg",
        states={"depot": "mg", "central": "mg", "dose": "mg", "since": "h"},
        observed={"concentration": "mg/L"},
    )

    V: Scalar = parameter(unit="L", doc="volume of distribution")
    disposition: StateNetwork = eqx.field(kw_only=True)
    absorption: TimeNetwork = eqx.field(kw_only=True)

    @classmethod
    def of(
        cls, *, V: Scalar, largest: float, horizon: float, key: PRNGKeyArray, hidden: int = 5
    ) -> "LowDimensionalNeuralODE":
        """Return a model to start with: nearly linear, with the bends of both networks spread over their ranges.

        At first an amount falls to about a tenth in `horizon`, in which about all of a dose is absorbed.

        Args:
            V: The volume of distribution in L.
            largest: The largest amount in mg to be seen.
            horizon: The time in h in which a dose comes and goes.
            key: The key for the weights.
            hidden: The number of hidden units of each network.
        """
        check_above("largest", largest, 0.0)
        check_above("horizon", horizon, 0.0)
        noise = 0.1 * jax.random.normal(key, (2, hidden))
        slope = math.log(10.0) * largest / horizon
        bends = jnp.arange(hidden) / hidden
        disposition = StateNetwork(
            jnp.ones(hidden), -bends, slope * noise[0].at[0].set(-1.0), jnp.zeros(()), size=largest
        )
        ends = (1.0 + jnp.arange(hidden)) / hidden
        heights = 2.0 / (hidden * ends * horizon) * (1.0 + noise[1])
        absorption = TimeNetwork(1.0 / jnp.sqrt(ends), jnp.ones(hidden), heights, size=horizon)
        return cls(V=V, disposition=disposition, absorption=absorption)

    def initial(self) -> LowDimensionalState:
        return LowDimensionalState(depot=0.0, central=0.0, dose=0.0, since=0.0)

    def vector_field(self, t: Scalar, y: LowDimensionalState) -> LowDimensionalState:
        slope = self.disposition(y.central) + y.dose * self.absorption(y.since)
        return LowDimensionalState(depot=0.0, central=slope, dose=0.0, since=1.0)

    def observe(self, t: Scalar, y: LowDimensionalState) -> Observed:
        return {"concentration": y.central / self.V}

    def deliveries(self) -> dict[str, Delivery]:
        return {"central": Delivery("central"), "depot": Delivery("depot")}

    def events(self) -> tuple[Event, ...]:
        given = lambda _, y: y.depot > 0.0  # noqa: E731
        taken = lambda _, y: {"depot": 0.0, "dose": y.depot, "since": 0.0}  # noqa: E731
        return (Event(given, taken, initial_value=False, name="dose"),)
