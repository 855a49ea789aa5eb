"""How the gradient of a problem is computed: the simulations by their adjoint, or by forward sensitivities.

What comes before and after the simulations (formulas, densities, priors) is differentiated backwards in any case.
"""

import abc

from jaxtyping import Array

from qspjax._parameters import AbstractChecked
from qspjax._solution import RESULTS
from qspjax.fit._types import Vector
from qspjax.fit.data._colours import linearly
from qspjax.fit.data._layout import Layout
from qspjax.fit.data._stages import Outcomes


class AbstractGradient(AbstractChecked):
    """How the gradient of a problem is computed.

    Example:
        >>> from qspjax.fit import AbstractGradient, Adjoint
        >>> isinstance(Adjoint(), AbstractGradient)
        True
    """

    @abc.abstractmethod
    def simulate(self, layout: Layout, numbers: Vector) -> Outcomes:
        """Simulate all experiments, differentiable backwards.

        Args:
            layout: The problem as arrays.
            numbers: The values of its table.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return in a few words how the gradient is computed."""


class Adjoint(AbstractGradient):
    """The adjoint of the simulations: their steps are recorded, and retraced backwards.

    It costs a few values, whatever the number of parameters.

    Example:
        >>> from qspjax.fit import Adjoint
        >>> Adjoint().describe()
        'by the adjoint'
    """

    def simulate(self, layout: Layout, numbers: Vector) -> Outcomes:
        return layout.stages.simulate(numbers)

    def describe(self) -> str:
        return "by the adjoint"


class ForwardSensitivities(AbstractGradient):
    """Sensitivities that are simulated with the states, one for every group of parameters that can share it.

    Each costs about as much as a value, less where states are few. Parameters of different experiments share one.

    Example:
        >>> from qspjax.fit import ForwardSensitivities
        >>> ForwardSensitivities().describe()
        'by forward sensitivities'
    """

    def simulate(self, layout: Layout, numbers: Vector) -> Outcomes:
        def simulated(numbers: Array) -> tuple[dict[str, Array], tuple[RESULTS, Array]]:
            outcomes = layout.stages.simulate(numbers)
            return layout.where_measured(outcomes.observed), (outcomes.result, outcomes.time)

        observed, (result, time) = linearly(simulated, numbers, layout.colours)
        return Outcomes(observed, result, time)

    def describe(self) -> str:
        return "by forward sensitivities"
