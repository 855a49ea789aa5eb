"""How well a fit predicts doses that it was not trained on."""

from collections.abc import Mapping

import numpy as np

from qspjax._checks import ArgumentError, check_instance
from qspjax.fit._problem import Problem
from qspjax.fit._types import Table
from qspjax.fit.data._measurements import Experiment
from qspjax.fit.search._estimate import Fit


def extrapolation(fit: Fit, experiments: Mapping[str, Experiment]) -> Table:
    """Return errors of the predictions of a fit, inside and outside the doses that it was trained on, as columns.

    The dose of an experiment is the sum of all amounts of its regimen.

    Args:
        fit: What `estimate` returned.
        experiments: By name, experiments with measurements: those of the fit, and others at other doses.

    Returns:
        One row for each experiment and output, in the order of doses: EXPERIMENT, OUTPUT, DOSE, OUTSIDE (whether the
        dose is less than the least or greater than the greatest of the fit), COUNT (of measurements), ERROR (the
        median of |prediction / observed - 1|) and RESIDUAL (the root mean square of standardised residuals). Both are
        NaN where a simulation fails.

    Raises:
        ValueError: If there are no experiments.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate, extrapolation
        >>> def measured(dose, values):
        ...     return Experiment(Measurements([1.0, 4.0, 8.0], values, output="c"), qsp.bolus(dose, to="central"))
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     measured(300.0, [9.1, 6.6, 4.6]),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0), "V": Free(30.0)},
        ... )
        >>> table = extrapolation(estimate(problem), {"low": measured(30.0, [0.9, 0.7, 0.5])})
        >>> table["DOSE"], table["OUTSIDE"], table["ERROR"].round(2)
        (array([30.]), array([ True]), array([0.04]))
    """
    check_instance("fit", fit, Fit, "what `estimate` returns")
    if not experiments:
        raise ArgumentError("experiments", "must have measurements, but there are none.")
    whole = fit.problem
    trained = [dose_of(experiment) for experiment in whole.experiments.values()]
    settings = {"method": whole.method, "functions": whole.functions}
    other = Problem(whole.model, experiments, whole.outputs, whole.parameters, **settings)
    table = other.table(fit.x)
    rows = []
    for name, experiment in experiments.items():
        dose = dose_of(experiment)
        for output in dict.fromkeys(experiment.measurements.output):
            here = (table["experiment"] == name) & (table["output"] == output) & ~table["censored"]
            if not here.any():
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.median(np.abs(table["prediction"][here] / table["observed"][here] - 1.0))
            residual = np.sqrt(np.mean(table["residual"][here] ** 2))
            outside = dose < min(trained) * (1.0 - 1e-9) or dose > max(trained) * (1.0 + 1e-9)
            rows.append((name, output, dose, outside, int(here.sum()), error, residual))
    rows.sort(key=lambda row: row[2])
    kinds = (object, object, float, bool, int, float, float)
    names = ("EXPERIMENT", "OUTPUT", "DOSE", "OUTSIDE", "COUNT", "ERROR", "RESIDUAL")
    columns = [*zip(*rows, strict=True)] or [()] * len(names)
    return {name: np.array(column, dtype=kind) for name, kind, column in zip(names, kinds, columns, strict=True)}


def dose_of(experiment: Experiment) -> float:
    """Return the sum of all amounts of a regimen."""
    regimen = experiment.regimen
    return float(np.sum(np.asarray(regimen.amount)[np.isfinite(np.asarray(regimen.time))]))
