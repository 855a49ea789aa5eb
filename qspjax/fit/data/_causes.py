"""Why a measurement has no likelihood, in words: what is wrong with it, where, and what helps."""

from collections.abc import Mapping

import numpy as np

from qspjax.fit.data._output_data import OutputData, RowValues
from qspjax.fit.errors._contract import since_previous
from qspjax.fit.errors._domains import POSITIVE


def why_undefined(
    rows: OutputData, prediction: RowValues, given: Mapping[str, RowValues], density: RowValues
) -> dict[int, str]:
    """Say of each experiment in which a row has no finite likelihood why, by the number of the experiment.

    Args:
        rows: The measurements of an output.
        prediction: Of each row.
        given: The formulas of the error model by field, of each row.
        density: The log likelihood of each row.
    """
    prediction, density = np.asarray(prediction), np.asarray(density)
    given = {field: np.asarray(values) for field, values in given.items()}
    bad: dict[int, list[int]] = {}
    for k in np.flatnonzero(~np.isfinite(density)):
        bad.setdefault(int(rows.experiment[k]), []).append(int(k))
    found = {}
    for experiment, places in bad.items():
        k = places[0]
        own = {field: float(values[k]) for field, values in given.items()}
        more = f" ({len(places) - 1} more of its records have none, either.)" if len(places) > 1 else ""
        found[experiment] = _why(rows, k, float(prediction[k]), own, float(density[k])) + more
    return found


def _why(rows: OutputData, k: int, prediction: float, given: Mapping[str, float], density: float) -> str:
    error = rows.output.error
    name, domain, counted = type(error).__name__, error.domain, since_previous(error)
    at = f"at time {rows.time[k]:g} (record {rows.record[k] + 1})"
    if not np.isfinite(prediction):
        return f"output `{rows.name}` is {prediction} {at}."
    for field, value in given.items():
        if not np.isfinite(value):
            return f"`{field}` of output `{rows.name}` is {value} {at}."
        if field in counted and value < 0.0:
            return f"`{field}` of output `{rows.name}` falls by {-value:g} since the record before {at}, and must not."
    for field, condition in domain.fields.items():
        if not condition.holds(given[field]):
            what = f"`{field}` of output `{rows.name}` is {given[field]:g} {at}"
            return f"{what}, but must be {condition.words}."
    if not domain.prediction.holds(prediction):
        what = f"output `{rows.name}` has a prediction of {prediction:g} {at}"
        return f"{what}, but with {name} it must be {domain.prediction.words}: {domain.remedy}."
    scales = {field: value for field, value in given.items() if field in ("sd", "cv")}
    if scales and (min(scales.values()) < 0.0 or not any(map(POSITIVE.holds, scales.values()))):
        field, value = min(scales.items(), key=lambda item: item[1])
        what = f"`{field}` of output `{rows.name}` is {value:g} {at}, where the prediction is {prediction:g}"
        return f"{what}, but must be positive: add a part that does not vanish, as Combined(sd, cv) has it."
    measured = "a value below the limit" if rows.censored[k] else f"{rows.value[k]:g}"
    if not rows.censored[k] and not domain.value.holds(rows.value[k]):
        return f"output `{rows.name}` was measured as {measured} {at}, but with {name} must be {domain.value.words}."
    if any("thresholds" in field for field in given):
        steps = [*given.values()]
        if sorted(steps) != steps:
            listed = ", ".join(f"{step:g}" for step in steps)
            return f"thresholds of output `{rows.name}` must increase, but are {listed} {at}."
    what = f"output `{rows.name}` has a prediction of {prediction:g} {at}"
    remedy = f": {domain.remedy}" if domain.remedy else ""
    odds = "probability 0" if density == -np.inf else f"a log likelihood of {density:g}"
    return f"{what}, where {name} gives {measured} {odds}{remedy}."
