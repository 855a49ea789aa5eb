"""A regimen made in Python as records of a table."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Real

from qspjax._checks import check_increasing, check_instance, refuse
from qspjax._dosing._regimen import Action, Regimen, Target, name_of
from qspjax.io.nonmem._text import RESERVED, reserved
from qspjax.io.nonmem._types import Labels, Numbers, Values

_COLUMNS = ("time", "kind", "index", "amount", "duration", "rate", "ordered", "order", "interval", "steady", "group")
"""The columns of a regimen."""


def records_of(
    regimen: Regimen,
    ts: Numbers,
    *,
    observed: Numbers | None,
    order: Numbers | None = None,
    cmt: str | int,
    ids: Sequence[str] | Sequence[float] | None,
    covariates: Mapping[str, Numbers],
) -> tuple[Values, Labels]:
    """Return the columns of a table, and labels if IDs are text; the arguments are those of `NonmemData.of`."""
    check_instance("regimen", regimen, Regimen, "a regimen")
    if regimen.rules:
        refuse(
            "regimen", "have amounts that are numbers: call its method `prescribe`", "one that depends on covariates"
        )
    check_increasing("ts", np.asarray(ts, dtype=float))
    covariate_values = {name: np.asarray(value) for name, value in covariates.items()}
    size = _size(regimen, ts, observed, ids, covariate_values)
    outputs = np.broadcast_to(np.asarray(ts, dtype=float), (size, np.shape(ts)[-1]))
    values = np.full(outputs.shape, np.nan) if observed is None else np.asarray(observed, dtype=float)
    if values.shape not in (outputs.shape, outputs.shape[1:]):
        refuse("observed", f"have the shape of the outputs, {outputs.shape}", f"of shape {values.shape}")
    values = np.broadcast_to(values, outputs.shape)
    numbers = np.asarray(np.inf if order is None else order, dtype=float)
    if order is not None and numbers.shape not in (outputs.shape, outputs.shape[1:]):
        refuse("order", f"have the shape of the outputs, {outputs.shape}", f"of shape {numbers.shape}")
    numbers = np.broadcast_to(numbers, outputs.shape)
    rows = {name: np.broadcast_to(np.asarray(getattr(regimen, name)), (size, regimen.rows)) for name in _COLUMNS}
    _check_rows(rows, regimen.targets)
    columns = _columns(rows, outputs, values, numbers, regimen.targets, cmt)
    identity, labels = _identities(ids, size)
    subject = columns.pop("subject")
    empty = np.setdiff1d(np.arange(size), subject)
    if empty.size:
        refuse("ts", "give each patient without doses a time", f"without any for patient {empty[0]}")
    table = {"ID": identity[subject], **columns}
    for name, value in covariate_values.items():
        if reserved(name) in RESERVED:
            refuse("covariates", "have names of their own", name)
        if value.shape != (size,) or value.dtype.kind not in "fiub":
            refuse(name, f"have one number per patient ({size})", f"of shape {value.shape}")
        table[name] = value.astype(float)[subject]
    return table, labels


def _size(
    regimen: Regimen,
    ts: Numbers,
    observed: Numbers | None,
    ids: Sequence[str] | Sequence[float] | None,
    covariates: Mapping[str, Real[np.ndarray, "..."]],
) -> int:
    """Return the number of patients, on which all arguments must agree."""
    columns = [getattr(regimen, name) for name in _COLUMNS]
    several = [len(column) for column in columns if np.ndim(column) > 1]
    sizes = {"regimen": several[0]} if several else {}
    sizes |= {name: np.shape(v)[0] for name, v in {"ts": ts, "observed": observed}.items() if np.ndim(v) > 1}
    sizes |= {} if ids is None else {"ids": len(ids)}
    sizes |= {name: value.shape[0] for name, value in covariates.items() if value.ndim}
    size = next(iter(sizes.values()), 1)
    for name, other in sizes.items():
        if other != size:
            refuse(name, f"be for {size} patients, as {next(iter(sizes))} is", f"for {other}")
    return size


def _check_rows(rows: dict[str, np.ndarray], targets: Sequence[Target]) -> None:
    live = np.isfinite(rows["time"])
    other = live & (rows["kind"] > Action.RESET)
    if other.any():
        kind, index = (Action(int(rows["kind"][other][0])), rows["index"][other][0])
        must = "have doses and resets only, the records of a table (a column says what a parameter is over time)"
        refuse("regimen", must, f"one with {kind.phrase} of `{name_of(targets[index])}`")
    if (live & (rows["steady"] > 0) & (rows["group"] != 0)).any():
        refuse(
            "regimen", "have one dose in each pattern at steady state", "one with several, for which no record exists"
        )


def _columns(
    rows: Mapping[str, Real[np.ndarray, "patients rows"]],
    outputs: Float[np.ndarray, "patients outputs"],
    values: Float[np.ndarray, "patients outputs"],
    numbers: Float[np.ndarray, "patients outputs"],
    targets: tuple[object, ...],
    cmt: str | int,
) -> Values:
    """Return the columns of doses, resets and outputs in the order of subject, time and record."""
    subject, row = np.nonzero(np.isfinite(rows["time"]) & ~_cancelled(rows))
    dose = {name: column[subject, row] for name, column in rows.items()}
    patient, output = np.nonzero(np.isfinite(outputs))
    size = patient.size
    names = np.empty(len(targets) + 1, dtype=object)
    names[:] = [*targets, 0]
    kind, steady = dose["kind"], np.where(dose["steady"] > 0, dose["steady"], 0)
    reset = kind == Action.RESET
    modelled = np.select(
        [kind == Action.INFUSION_MODEL_RATE, kind == Action.INFUSION_MODEL_DURATION], [-1.0, -2.0], 0.0
    )
    parts = {
        "TIME": (dose["time"], outputs[patient, output]),
        "EVID": (np.where(reset, 3.0, 1.0), np.zeros(size)),
        "AMT": (np.where(reset, 0.0, dose["amount"]), np.zeros(size)),
        "RATE": (np.where(kind == Action.INFUSION_RATE, dose["rate"], modelled), np.zeros(size)),
        "TINF": (np.where(kind == Action.INFUSION_OVER, dose["duration"], 0.0), np.zeros(size)),
        "SS": (steady.astype(float), np.zeros(size)),
        "II": (np.where((steady > 0) & (dose["amount"] > 0), dose["interval"], 0.0), np.zeros(size)),
        "CMT": (names[np.where(reset, len(targets), dose["index"])], np.full(size, cmt, dtype=object)),
        "DV": (np.full(subject.size, np.nan), values[patient, output]),
        "MDV": (np.ones(subject.size), np.isnan(values[patient, output]).astype(float)),
        "subject": (subject, patient),
    }
    after = np.concatenate([np.zeros(subject.size), np.ones(size)])
    order = np.concatenate([np.where(dose["order"] < 0, -1.0, dose["order"]), numbers[patient, output]])
    columns = {name: np.concatenate(pair) for name, pair in parts.items()}
    sequence = np.lexsort((after, order, columns["TIME"], columns["subject"]))
    columns = {name: column[sequence] for name, column in columns.items()}
    if not any(isinstance(target, str) for target in columns["CMT"].tolist()):
        columns["CMT"] = columns["CMT"].astype(int)
    absent = {name for name in ("RATE", "TINF", "SS", "II") if not columns[name].any()}
    return {name: column for name, column in columns.items() if name not in absent}


def _cancelled(rows: Mapping[str, Real[np.ndarray, "patients rows"]]) -> Bool[np.ndarray, "patients rows"]:
    """Return which doses are cancelled before they are given, by a reset or by a steady state with SS = 1."""
    ends = (rows["kind"] == Action.RESET) | (rows["steady"] == 1)
    cancelled = np.zeros(rows["time"].shape, dtype=bool)
    for row in np.flatnonzero(ends.any(axis=0)):
        time = np.where(ends[:, row], rows["time"][:, row], np.inf)[:, None]
        cancelled |= (rows["ordered"] < time) & (rows["time"] > time)
    return cancelled


def _identities(
    ids: Sequence[str] | Sequence[float] | None, size: int
) -> tuple[Float[np.ndarray, " patients"], Labels]:
    """Return the ID of each patient as a number, and the labels of these numbers if IDs are text."""
    if ids is None:
        return np.arange(size) + 1.0, {}
    if len(set(ids)) < len(ids):
        refuse("ids", "differ from each other", "one that is there twice")
    names = tuple(sorted(identity for identity in ids if isinstance(identity, str)))
    if len(names) == len(ids):
        return np.array([names.index(str(identity)) for identity in ids], dtype=float), {"ID": names}
    return np.asarray(ids, dtype=float), {}
