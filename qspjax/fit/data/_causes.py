"""Explanations of why a measurement has no likelihood: what is wrong, where, and what helps."""

from collections.abc import Mapping

import numpy as np

from qspjax.fit.data._output_data import OutputData, RowValues
from qspjax.fit.errors._contract import since_previous
from qspjax.fit.errors._domains import POSITIVE


def why_undefined(
    rows: OutputData,
    prediction: RowValues,
    fields: Mapping[str, RowValues],
    density: RowValues,
    logged: Mapping[str, RowValues],
) -> dict[int, str]:
    """Return, by the number of the experiment, why one of its rows has no finite likelihood.

    Args:
        rows: The measurements of an output.
        prediction: The prediction of each row.
        fields: The values of the formulas of the error model by field, of each row.
        density: The log likelihood of each row.
        logged: By its text, what the prediction takes logarithms of, of each row.
    """
    prediction, density = np.asarray(prediction), np.asarray(density)
    fields = {field: np.asarray(values) for field, values in fields.items()}
    bad: dict[int, list[int]] = {}
    for k in np.flatnonzero(~np.isfinite(density)):
        bad.setdefault(int(rows.experiment[k]), []).append(int(k))
    reasons = {}
    for experiment, records in bad.items():
        k = records[0]
        row_fields = {field: float(values[k]) for field, values in fields.items()}
        others = f" ({len(records) - 1} more of its records have none either.)" if len(records) > 1 else ""
        row_logged = {text: float(np.asarray(values)[k]) for text, values in logged.items()}
        reasons[experiment] = _why(rows, k, float(prediction[k]), row_fields, float(density[k]), row_logged) + others
    return reasons


def _why(
    rows: OutputData,
    k: int,
    prediction: float,
    fields: Mapping[str, float],
    density: float,
    logged: Mapping[str, float],
) -> str:
    error = rows.output.error
    name, domain, counted = type(error).__name__, error.domain, since_previous(error)
    at = f"at time {rows.time[k]:g} (record {rows.record[k] + 1})"
    for text, value in logged.items():
        if not np.isfinite(prediction) and value <= 0.0:
            return f"`{text}` is {value:g} {at}, but must be positive: output `{rows.name}` takes its logarithm."
    if not np.isfinite(prediction):
        return f"output `{rows.name}` is {prediction} {at}."
    for field, value in fields.items():
        if not np.isfinite(value):
            return f"`{field}` of output `{rows.name}` is {value} {at}."
        if field in counted and value < 0.0:
            return f"`{field}` of output `{rows.name}` falls by {-value:g} since the record before {at}, and must not."
    for field, condition in domain.fields.items():
        if not condition.holds(fields[field]):
            finding = f"`{field}` of output `{rows.name}` is {fields[field]:g} {at}"
            return f"{finding}, but must be {condition.words}."
    if not domain.prediction.holds(prediction):
        finding = f"output `{rows.name}` has a prediction of {prediction:g} {at}"
        return f"{finding}, but with {name} it must be {domain.prediction.words}: {domain.remedy}."
    scales = {field: value for field, value in fields.items() if field in ("sd", "cv")}
    if scales and (min(scales.values()) < 0.0 or not any(map(POSITIVE.holds, scales.values()))):
        field, value = min(scales.items(), key=lambda item: item[1])
        finding = f"`{field}` of output `{rows.name}` is {value:g} {at}, where the prediction is {prediction:g}"
        return f"{finding}, but must be positive: add a part that does not vanish, as Combined(sd, cv) has it."
    measured = _within(float(rows.lower[k]), float(rows.upper[k])) if rows.censored[k] else f"{rows.value[k]:g}"
    if not rows.censored[k] and not domain.value.holds(rows.value[k]):
        return f"output `{rows.name}` was measured as {measured} {at}, but with {name} must be {domain.value.words}."
    if any("thresholds" in field for field in fields):
        steps = [*fields.values()]
        if sorted(steps) != steps:
            listed = ", ".join(f"{step:g}" for step in steps)
            return f"thresholds of output `{rows.name}` must increase, but are {listed} {at}."
    finding = f"output `{rows.name}` has a prediction of {prediction:g} {at}"
    remedy = f": {domain.remedy}" if domain.remedy else ""
    odds = "probability 0" if density == -np.inf else f"a log likelihood of {density:g}"
    return f"{finding}, where {name} gives {measured} {odds}{remedy}."


def _within(lower: float, upper: float) -> str:
    """Name the values between two bounds."""
    if np.isinf(lower):
        return f"a value below {upper:g}"
    return f"a value above {lower:g}" if np.isinf(upper) else f"a value between {lower:g} and {upper:g}"
