"""How a problem is simulated and differentiated: in numbers and in words."""

from dataclasses import dataclass

from qspjax._explain import Explanation
from qspjax.fit._cost import Costs
from qspjax.fit._gradient import AbstractGradient, ForwardSensitivities


@dataclass(frozen=True)
class ProblemExplanation:
    """How a calibration problem is computed; `print` says it in words.

    Attributes:
        simulations: How simulations are solved and compiled, with their derivatives for the gradient.
        experiments: The number of experiments, simulated side by side.
        stages: The number of stages in which they are, one after the other.
        parameters: The number of free parameters.
        simulated: On how many of them a simulation depends.
        costs: What a gradient costs, predicted.
        gradient: How it is computed.
        chosen: Whether that was chosen by hand.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> print(qsp.explain(problem))
        1 experiment, side by side: MatrixExponential, exact; 1 states: native code.
        Gradient: by forward sensitivities along 1 direction, about 2.1 values, the cheaper way; the adjoint: about 3.3.
        Curvature: by forward sensitivities along 1 direction, about 2.1 values.
    """

    simulations: Explanation
    experiments: int
    stages: int
    parameters: int
    simulated: int
    costs: Costs
    gradient: AbstractGradient
    chosen: bool

    def __str__(self) -> str:
        stages = "" if self.stages == 1 else f", in {self.stages} stages one after the other"
        lines = [f"{_counted(self.experiments, 'experiment')}, side by side{stages}: {self.simulations}"]
        if not self.costs.directions:
            return f"{lines[0]}\nNo simulation depends on what is estimated: a gradient costs about as much as a value."
        along = f"forward sensitivities along {_counted(self.costs.directions, 'direction')}"
        ways = [("the adjoint", self.costs.adjoint), (along, self.costs.forward)]
        if isinstance(self.gradient, ForwardSensitivities):
            ways.reverse()
        (way, cost), (other, others_cost) = ways
        why = "as was chosen" if self.chosen else "the cheaper way"
        lines.append(f"Gradient: by {way}, about {cost:.1f} values, {why}; {other}: about {others_cost:.1f}.")
        lines.append(f"Curvature: by {along}, about {self.costs.forward:.1f} values.")
        return "\n".join(lines)


@dataclass(frozen=True)
class MixedExplanation:
    """How a mixed-effects model is computed; `print` says it in words.

    Attributes:
        simulations: How simulations are solved and compiled, with their first derivatives.
        subjects: The number of subjects, simulated side by side; with subpopulations, of copies of them.
        numbers: The number of individual numbers on which the simulation of a subject depends.
        effects: The number of random effects of a subject.
        costs: What first derivatives cost, predicted.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects
        >>> data = Measurements([1.0, 8.0], [9.1, 4.6], output="concentration")
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {"anna": Experiment(data, qsp.bolus(300.0, to="central"))},
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.0), "V": Free(30.0)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> print(qsp.explain(mixed))
        1 subject, side by side: MatrixExponential, exact; 1 states: native code.
        Derivatives: by forward sensitivities along 2 numbers of each subject, about 3.2 values.
    """

    simulations: Explanation
    subjects: int
    numbers: int
    effects: int
    costs: Costs

    def __str__(self) -> str:
        first = f"{_counted(self.subjects, 'subject')}, side by side: {self.simulations}"
        if not self.numbers:
            return f"{first}\nNo simulation depends on what is estimated."
        numbers = f"{_counted(self.numbers, 'number')} of each subject"
        return f"{first}\nDerivatives: by forward sensitivities along {numbers}, about {self.costs.forward:.1f} values."


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
