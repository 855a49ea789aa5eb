"""Local sensitivities: derivatives of outputs over time, or of endpoints, with respect to parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._checks import check_instance, check_names
from qspjax._dosing._regimen import Regimen
from qspjax._exposure import together
from qspjax._extras import require
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax._simulate import simulate
from qspjax._solution import Solution
from qspjax._text import aligned, number
from qspjax._types import ArrayInput
from qspjax.solve import AbstractMethod

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Local:
    """Derivatives of outputs with respect to parameters.

    Attributes:
        parameters: The parameters.
        outputs: The outputs.
        ts: The times, or None for endpoints.
        values: The outputs, shape (outputs, times) or (outputs,).
        derivatives: Their derivatives, shape (parameters, outputs, times) or (parameters, outputs).
        log_derivatives: d ln output / d ln parameter: the percentage by which an output changes for one percent of a
            parameter; NaN where the output is 0.

    Example:
        >>> import qspjax as qsp
        >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(100.0, to="central")
        >>> found = qsp.sensitivity.local(patient, dose, [0.0], ["V"], ["concentration"])
        >>> found.log_derivatives.round(6)
        array([[[-1.]]])
    """

    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    ts: np.ndarray | None
    values: np.ndarray
    derivatives: np.ndarray
    log_derivatives: np.ndarray

    def __str__(self) -> str:
        logs, slopes = self.log_derivatives, self.derivatives
        if self.ts is not None:
            logs, slopes = (np.take_along_axis(x, _greatest(x), axis=-1)[..., 0] for x in (logs, slopes))
        of = "" if self.ts is None else ", greatest over time"
        rows = [["parameter", "output", "derivative", f"log derivative{of}"]]
        for i, parameter in enumerate(self.parameters):
            for k, output in enumerate(self.outputs):
                rows.append([parameter, output, number(slopes[i, k]), number(logs[i, k])])
        return aligned(rows)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per parameter, output and time."""
        pandas = require("pandas", extra="data")
        shape = self.derivatives.shape
        grid = np.indices(shape).reshape(len(shape), -1)
        table = {"parameter": np.array(self.parameters)[grid[0]], "output": np.array(self.outputs)[grid[1]]}
        if self.ts is not None:
            table["time"] = self.ts[grid[2]]
        columns = {"derivative": self.derivatives.ravel(), "log_derivative": self.log_derivatives.ravel()}
        return pandas.DataFrame(table | columns)


def _greatest(values: np.ndarray) -> np.ndarray:
    return np.argmax(np.nan_to_num(np.abs(values), nan=-1.0), axis=-1)[..., None]


def local(
    model: AbstractModel,
    regimen: Regimen,
    ts: ArrayInput,
    names: Sequence[str],
    outputs: Sequence[str] | dict[str, Callable[[Solution], PyTree]],
    *,
    method: AbstractMethod | None = None,
    adjoint: bool | None = None,
) -> Local:
    """Return sensitivities at a point: exact derivatives of the computed solution.

    $$ \\partial z / \\partial \\theta, \\quad \\partial \\ln z / \\partial \\ln \\theta $$

    Args:
        model: The patient.
        regimen: The doses.
        ts: Times of the simulation.
        names: The parameters.
        outputs: Names of observed values, for sensitivities over time; or endpoints by name, functions of the solution.
        method: How to solve.
        adjoint: Whether to use the adjoint (one solve per number of the output) instead of forward sensitivities (one
            per parameter); by default whichever needs fewer.

    Raises:
        ValueError: If a name is unknown.
        RuntimeError: If the solve fails.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.sensitivity import local
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> found = local(patient, qsp.bolus(300.0, to="central"), [0.0, 10.0], ["CL", "V"], ["concentration"])
        >>> found.log_derivatives[:, 0, 0]  # at the time of the dose
        array([ 0., -1.])
    """
    check_instance("model", model, AbstractModel, "a model")
    names = check_names("names", names)
    theta = jnp.asarray([at(model, name).get() for name in names], float)
    output_names = tuple(outputs)
    functions = tuple(outputs.values()) if isinstance(outputs, dict) else ()
    over_time = not isinstance(outputs, dict)

    def values(theta: jax.Array) -> tuple[jax.Array, Solution]:
        patient = model
        for k, name in enumerate(names):
            patient = at(patient, name).set(theta[k])
        save = list(output_names) if over_time else None
        solution = simulate(patient, regimen, ts, save=save, method=method, throw=False)
        if over_time:
            return jnp.stack([solution.observed[name] for name in output_names]), solution

        def each(solved: Solution) -> jax.Array:
            return jnp.stack([jnp.asarray(function(solved), float) for function in functions])

        return together(each, solution), solution

    result, solution = eqx.filter_jit(values)(theta)
    for failure in solution.failures():
        raise RuntimeError(
            f"The simulation failed at time {failure.time:g}, in state `{failure.state}`. {failure.reason}"
        )
    backwards = result.size < len(names) if adjoint is None else adjoint
    slope = (jax.jacrev if backwards else jax.jacfwd)(lambda theta: values(theta)[0])
    derivatives = np.moveaxis(np.asarray(eqx.filter_jit(slope)(theta)), -1, 0)
    computed = np.asarray(result)
    scale = np.asarray(theta).reshape(-1, *[1] * computed.ndim)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(computed == 0, np.nan, derivatives * scale / computed)
    return Local(names, output_names, np.asarray(ts, float) if over_time else None, computed, derivatives, logs)
