"""What the gradient of a problem costs, in values, and which way is the cheaper one.

A forward sensitivity is carried with the states, and costs about as much as they do; the adjoint costs a few values,
whatever there is to differentiate by. So forward sensitivities are the cheaper way along one direction, or two. A
mixture of both, experiment by experiment, would save less than the second program takes to compile.
"""

from typing import NamedTuple

from qspjax.fit._gradient import AbstractGradient, Adjoint, ForwardSensitivities

ADJOINT = 3.3
"""What the adjoint costs, in values: 1.8 to 4.3 in published problems of 3 to 25 states, 5.5 in one of 34."""
FORWARD, STATES = 1.1, 12
"""What a forward sensitivity costs, in values, 0.6 to 1.4 in the same problems; and how many states it may have."""


class Costs(NamedTuple):
    """What the gradient of a problem costs, predicted from what it did in the problems of `benchmarks/petab.py`.

    Attributes:
        directions: Along how many directions simulations would be differentiated forwards.
        adjoint: The cost of the adjoint, in values.
        forward: The cost of forward sensitivities, in values.

    Example:
        >>> from qspjax.fit import Costs
        >>> Costs(2, 3.3, 3.2).cheaper
        ForwardSensitivities()
    """

    directions: int
    adjoint: float
    forward: float

    @property
    def cheaper(self) -> AbstractGradient:
        """The way that costs less."""
        return ForwardSensitivities() if self.forward <= self.adjoint else Adjoint()


def costs_of(directions: int, states: int) -> Costs:
    """Return what a gradient costs.

    With many states the code of a step is long, and each direction repeats most of it.

    Args:
        directions: Along how many directions simulations would be differentiated forwards.
        states: The number of states.
    """
    each = FORWARD * max(1.0, states / STATES) ** 2
    return Costs(directions, ADJOINT, 1.0 + each * directions)
