"""The contract of a method: how a dosed model is solved over time."""

import abc
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from qspjax._checks import check_above, check_number
from qspjax._declared import sizes_of
from qspjax._model import AbstractModel
from qspjax._parameters import AbstractChecked
from qspjax._types import Scalar, State
from qspjax.solve.dosing._schedule import Schedule


class Trajectory(NamedTuple):
    """States at the requested times, and how the solve went.

    `states` has a leading axis of times on every leaf and is NaN where the solve did not arrive; `stats` holds `steps`,
    `rejected`, `last_time` and `culprit` (the index of the state that failed).

    Example:
        >>> Trajectory._fields
        ('states', 'result', 'stats')
    """

    states: State
    result: Any
    stats: dict[str, jax.Array]


class AbstractMethod(AbstractChecked):
    """A numerical strategy for a dosed model; an immutable value, chosen by the user as `method=`.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.solve.Rosenbrock(), qsp.solve.AbstractMethod)
        True
    """

    @abc.abstractmethod
    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        """Solve one patient and report the states at `ts`.

        Args:
            model: The patient.
            schedule: The doses, as the model takes them.
            ts: Times to report, shape (times,), padded with inf.
            initial: The state at `t0`, or None for the model's own.
            t0: Where to start.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return the method and its tolerances in a few words."""


def absolute(atol: float, model: AbstractModel, states: tuple[str, ...]) -> float | Float[np.ndarray, " states"]:
    """Return the absolute tolerance of each state, shape (states,), by its nominal size; one number if all are 1."""
    sizes = sizes_of(model, states)
    return atol if sizes is None else atol * sizes


def check_settings(**settings: float | None) -> None:
    """Check that every setting of a method (tolerances, steps, memory) is a positive number; None is not given."""
    for name, value in settings.items():
        if value is not None:
            check_number(name, value)
            check_above(name, value, 0.0)
