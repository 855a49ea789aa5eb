"""The function of a global analysis of a model: endpoints of a simulation, over some of its parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from qspjax._checks import check_instance, check_names
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._exposure import together
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax._simulate import simulate_cohort
from qspjax._solution import Solution
from qspjax._types import ArrayInput
from qspjax.execute import AbstractExecutor, Chunked
from qspjax.solve import AbstractMethod


class OfModel:
    """Endpoints of a simulation as a function of some parameters; all samples are simulated as one cohort.

    Args:
        model: The typical patient.
        regimen: The doses.
        ts: The times of the simulation.
        names: The parameters that vary, in the order of the inputs.
        outputs: By name, functions of one patient's solution to a number, such as `endpoints.AUC("concentration")`.
        method: How to solve.
        executor: Where to compute; by default 4,096 patients at a time.

    Raises:
        ValueError: If a name is no parameter of the model.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.sensitivity import OfModel
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> peak = {"peak": qsp.endpoints.Cmax("concentration")}
        >>> function = OfModel(patient, qsp.bolus(300.0, to="central"), [0.0, 1.0], ["V"], peak)
        >>> function(np.array([[30.0], [60.0]])).round(3)
        array([[10.],
               [ 5.]])
    """

    def __init__(
        self,
        model: AbstractModel,
        regimen: Regimen,
        ts: ArrayInput,
        names: Sequence[str],
        outputs: Mapping[str, Callable[[Solution], PyTree]],
        *,
        method: AbstractMethod | None = None,
        executor: AbstractExecutor | None = None,
    ) -> None:
        """Check the names."""
        check_instance("model", model, AbstractModel, "a model")
        self.names = check_names("names", names)
        for name in self.names:
            at(model, name)
        self._model, self._regimen, self._ts, self._outputs = model, regimen, ts, dict(outputs)
        self._method, self._executor = method, Chunked(4096) if executor is None else executor
        self._population: Any = None

    @classmethod
    def of(
        cls,
        population: Any,
        regimen: Regimen,
        ts: ArrayInput,
        outputs: Mapping[str, Callable[[Solution], PyTree]],
        *,
        method: AbstractMethod | None = None,
        executor: AbstractExecutor | None = None,
    ) -> "OfModel":
        """Return the outputs of the patients of a population, as a function of `Inputs.of(population)`.

        Args:
            population: A `Population`, with its covariates, effects and formulas; amounts may depend on covariates.
            regimen: The doses.
            ts: The times of the simulation.
            outputs: By name, functions of one patient's solution to a number.
            method: How to solve.
            executor: Where to compute; by default 4,096 patients at a time.

        Example:
            >>> import jax, qspjax as qsp
            >>> from qspjax.sensitivity import Inputs, OfModel, prcc
            >>> population = qsp.Population(
            ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
            ...     between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)},
            ...     correlation={("CL", "V"): 0.5},
            ... )
            >>> outputs = {"C0": qsp.endpoints.Value("concentration", at=0.0)}
            >>> function = OfModel.of(population, qsp.bolus(300.0, to="central"), [0.0], outputs)
            >>> prcc(function, Inputs.of(population), samples=64, key=jax.random.key(0)).coefficients[:, 0].round(3)
            array([ 0., -1.])
        """
        target = cls(population.model, regimen, ts, (), outputs, method=method, executor=executor)
        target.names, target._population = tuple(population.inputs()[0]), population
        return target

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(self._outputs)

    def _reduce(self, solution: Solution) -> dict[str, PyTree]:
        return together(lambda patient: {name: function(patient) for name, function in self._outputs.items()}, solution)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the outputs, shape (samples, outputs); NaN for a patient that failed."""
        columns = {name: points[:, k] for k, name in enumerate(self.names)}
        if self._population is None:
            cohort = Cohort.of(self._model, columns, size=len(points))
        else:
            cohort = self._population.at_inputs(columns)
        solution = simulate_cohort(
            cohort, self._regimen, self._ts, save=(), reduce=self._reduce, method=self._method, executor=self._executor
        )
        values = np.stack([np.asarray(solution.reduced[name]) for name in self._outputs], axis=1)
        return np.where(np.asarray(solution.failed)[:, None], np.nan, values)
