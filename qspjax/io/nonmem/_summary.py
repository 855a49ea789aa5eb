"""What a data set holds, in words."""

from collections import Counter
from typing import Any

import numpy as np

from qspjax.io.nonmem._records import column, is_dose
from qspjax.io.nonmem._values import Values


def summary(data: Any) -> str:
    """Return what a `NonmemData` holds: subjects, records, doses, observations, covariates, interpolation."""
    values: Values = data.records
    lines = {
        "Data set": data.source or "(made in Python)",
        "Subjects": f"{len(data.ids)}",
        "Records": f"{data.subject.size}" + _events(values),
        "Times": f"{values['TIME'].min():g} to {values['TIME'].max():g}",
        "Doses": _doses(values, data),
        "Observations": _observations(values, data),
        "Covariates": _covariates(data),
        "Between": f"{data.interpolation} (where a covariate varies within a subject)",
    }
    missing = {**data.covariates, **data.varying}
    gone = {name: int(np.isnan(values[name]).sum()) for name in missing}
    if any(gone.values()):
        lines["Missing"] = ", ".join(f"{name} in {times} records" for name, times in gone.items() if times)
    for name, labels in data.labels.items():
        if name != "ID":
            lines[f"  {name}"] = ", ".join(f"{code} = {label}" for code, label in enumerate(labels))
    return "\n".join(f"{key + ':':<14}{text}" for key, text in lines.items())


def _events(values: Values) -> str:
    counts = Counter(values["EVID"].astype(int).tolist())
    names = {3: "resets", 4: "resets with a dose", 2: "of other events"}
    found = [f"{counts[code]} {name}" for code, name in names.items() if counts[code]]
    return f" ({', '.join(found)})" if found else ""


def _doses(values: Values, data: Any) -> str:
    dose = is_dose(values)
    if not dose.any():
        return "none"
    given = int((column(values, "ADDL")[dose] + 1).sum())
    targets = ", ".join(str(target) if target != 0 else "the model's default" for target in data.regimen.targets)
    text = f"{given} in {int(dose.sum())} records, into {targets}"
    steady = int((column(values, "SS")[dose] > 0).sum())
    text += f"; {steady} at steady state" if steady else ""
    loud = int((dose & (values["MDV"] == 0)).sum())
    return text + (f"; MDV is 0 on {loud} of them: their DV is not used" if loud else "")


def _observations(values: Values, data: Any) -> str:
    with_data = ~np.isnan(data.dv)
    without = int((values["EVID"] == 0).sum()) - int(with_data.sum())
    text = f"{int(with_data.sum())} with a value, {without} without"
    below, above = int((with_data & (data.cens == 1)).sum()), int((with_data & (data.cens == -1)).sum())
    text += f"; {below} below and {above} above a limit" if below or above else "; none censored"
    kinds = data.dvid[with_data]
    if np.isnan(kinds).all():
        return text
    names = data.labels.get("DVID")
    counted = Counter(kinds[~np.isnan(kinds)].tolist())
    each = [f"{times} {names[int(kind)] if names else f'{kind:g}'}" for kind, times in sorted(counted.items())]
    return f"{text}; by DVID {', '.join(each)}"


def _covariates(data: Any) -> str:
    kinds = {"constant within every subject": data.covariates, "varying": data.varying}
    return "; ".join(f"{', '.join(names)} ({kind})" for kind, names in kinds.items() if names) or "none"
