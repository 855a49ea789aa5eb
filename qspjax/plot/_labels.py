"""Labels of axes, with units if the model has them."""

from collections.abc import Sequence

from qspjax._checks import check_one_of
from qspjax._model import AbstractModel
from qspjax._solution import Labels
from qspjax._units import product
from qspjax.fit import MixedFit, MixedModel, Problem
from qspjax.population import endpoints

_OF_OUTPUT = (
    endpoints.Value,
    endpoints.ChangeFromBaseline,
    endpoints.Cmax,
    endpoints.Cmin,
    endpoints.Average,
    endpoints.Trough,
)
_OF_TIME = (endpoints.Tmax, endpoints.TimeAbove, endpoints.TimeBelow, endpoints.HalfLife)
_OF_BOTH = (endpoints.AUC, endpoints.AUCInfinity)


def choice(argument: str, name: str | None, names: Sequence[str], kind: str) -> str:
    """Return a name, by default the first.

    Raises:
        ValueError: If it is not one of the names.
    """
    name = names[0] if name is None and names else name
    check_one_of(argument, name, names, kind)
    return str(name)


def with_unit(name: str, unit: str) -> str:
    """Return a label with its unit in brackets; micro is written as a Greek letter."""
    symbol = unit.replace("ug", "\u00b5g").replace("umol", "\u00b5mol").replace("uM", "\u00b5M")
    return f"{name} ({symbol})" if unit else name


def time_label(model: AbstractModel | None) -> str:
    """Return the label of a time axis, without a unit if there is no model."""
    return with_unit("time", "" if model is None else model.units.time)


def unit_of(output: str, fitted: Problem | MixedModel) -> str:
    """Return the unit of an output that is an observed value or a state itself, otherwise an empty text."""
    prediction, units = str(fitted.outputs[output].prediction), fitted.model.units
    return units.observed.get(prediction) or units.of_state(prediction)


def unit_of_endpoint(endpoint: endpoints.AbstractEndpoint, labels: Labels) -> str:
    """Return the unit of an endpoint of a trial, an empty text if it has none or is not one of this package."""
    if isinstance(endpoint, _OF_OUTPUT):
        return labels.unit(endpoint.output)
    if isinstance(endpoint, _OF_TIME):
        return labels.units.time
    return product(labels.unit(endpoint.output), labels.units.time) if isinstance(endpoint, _OF_BOTH) else ""


def fit_time_label(fit: MixedFit | None) -> str:
    """Return the label of a time axis of a mixed-effects fit, without a unit if there is no fit."""
    return time_label(None if fit is None else fit.mixed.copies.model)


def fit_unit(fit: MixedFit | None, output: str) -> str:
    """Return the unit of an output of a mixed-effects fit, an empty text if there is no fit."""
    return "" if fit is None else unit_of(output, fit.mixed.copies)
