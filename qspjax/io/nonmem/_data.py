"""Data sets in the format of NONMEM and similar programs: a record per line, doses and observations in one table."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from qspjax._checks import check_instance, check_one_of, concrete, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._covariates import NOCB, AbstractInterpolation, varying
from qspjax._dosing._regimen import Regimen, of_patients, table
from qspjax._model import AbstractModel
from qspjax._names import at, state_names
from qspjax._types import Scalar
from qspjax.io._issues import Issue, IssueCollector
from qspjax.io.nonmem._events import Layout, occasions, regimen_of, rows_of, time_after_dose
from qspjax.io.nonmem._from_regimen import records_of
from qspjax.io.nonmem._issues import add_where
from qspjax.io.nonmem._records import check_records, column, has_data, is_dose
from qspjax.io.nonmem._text import RESERVED
from qspjax.io.nonmem._types import Integers, Labels, Numbers, Values
from qspjax.solve.dosing._targets import with_targets

Covariates: TypeAlias = dict[str, Real[np.ndarray, "subjects #outputs"]]
"""Covariates by name; constant ones have one column."""

Subjects: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | Shaped[np.ndarray, "*chosen"]
"""Numbers of subjects from 0, or a mask."""


@dataclasses.dataclass(frozen=True, eq=False)
class NonmemData:
    """Subjects with their doses, outputs, observations and covariates; print it to see what it holds.

    Every record of the table gives an output, so that all of them have predictions; only observation records (EVID 0)
    have data: those with MDV 0 and a DV, and those with CENS 1 or -1. Tables have shape (subjects, outputs), with one
    output per record, and are padded to the subject with the most records.

    Attributes:
        source: Name of the file, empty if there is none.
        ids: The ID of each subject.
        records: The columns of the table, one entry per record, in the order of the file: what `write_nonmem` writes.
        subject: The number of the subject of each record, from 0.
        line: The line of the file of each record, from 1.
        regimen: The doses and resets, columns of shape (subjects, rows).
        ts: Times of the outputs, padded with inf. Where TIME goes back at a reset, this clock goes on.
        order: The number of each record within its subject from 1, padded with inf.
        time: TIME as recorded, padded with NaN.
        dv: Observed values, NaN where there is no data.
        evid: Event codes, padded with -1.
        cmt: Compartments by number (or name), 0 where none is given.
        dvid: The kind of each observation, NaN where none is given.
        cens: 1 where the value is below `dv`, or below the limit of its output where `dv` is NaN; -1 where it is above
            `dv`, else 0.
        limit: The other bound of a censored value, NaN where none is given.
        tad: Time after the last dose, additional ones included; NaN before the first and after a reset.
        occ: The number of dose records at different times so far.
        covariates: Those that are constant within every subject, by name, shape (subjects,); NaN is missing.
        varying: The others, at each record, shape (subjects, outputs), padded with the last; NaN is missing.
        labels: The labels of the categories 0, 1, ... of the columns of text.
        interpolation: How a varying covariate changes between two records.

    Example:
        >>> import qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [1.0, 4.0], observed=[8.1, 4.2])
        >>> data.subjects, data.dv
        (1, array([[nan, 8.1, 4.2]]))
    """

    source: str
    ids: tuple[int | float | str, ...]
    records: Values
    subject: Integers
    line: Integers
    regimen: Regimen
    ts: Float[np.ndarray, "subjects outputs"]
    order: Float[np.ndarray, "subjects outputs"]
    time: Float[np.ndarray, "subjects outputs"]
    dv: Float[np.ndarray, "subjects outputs"]
    evid: Int[np.ndarray, "subjects outputs"]
    cmt: Shaped[np.ndarray, "subjects outputs"]
    dvid: Float[np.ndarray, "subjects outputs"]
    cens: Int[np.ndarray, "subjects outputs"]
    limit: Float[np.ndarray, "subjects outputs"]
    tad: Float[np.ndarray, "subjects outputs"]
    occ: Int[np.ndarray, "subjects outputs"]
    covariates: dict[str, Real[np.ndarray, " subjects"]]
    varying: dict[str, Float[np.ndarray, "subjects outputs"]]
    labels: Labels
    interpolation: AbstractInterpolation

    def __str__(self) -> str:
        return _summary(self)

    @classmethod
    def of(
        cls,
        regimen: Regimen,
        ts: Numbers,
        *,
        observed: Numbers | None = None,
        order: Numbers | None = None,
        cmt: str | int = 0,
        ids: Sequence[str] | Sequence[float] | None = None,
        covariates: Mapping[str, Numbers] | None = None,
        interpolation: AbstractInterpolation = NOCB(),
    ) -> "NonmemData":
        """Return the data set of doses and outputs made in Python, such as a simulated trial, to be written to a file.

        Every dose is a record of its own, without ADDL; at equal times doses come before outputs, as in `simulate`,
        unless `order` says otherwise.

        Args:
            regimen: The doses, for one patient or for each.
            ts: Times of the outputs, shape (times,) or (patients, times), padded with inf.
            observed: The observed values, of the shape of the outputs; NaN or None where there is no data.
            order: Their order among what happens at equal times, of the shape of the outputs, as in `simulate`.
            cmt: The compartment that is observed.
            ids: The ID of each patient, by default 1, 2, ...
            covariates: Covariates by name, one number per patient.
            interpolation: How a varying covariate changes between two records.

        Raises:
            ValueError: If shapes do not agree, or the regimen has a row that no record can express.

        Example:
            >>> import qspjax as qsp
            >>> regimen = qsp.bolus(100.0, to=1).every(12.0, doses=2)
            >>> data = qsp.io.NonmemData.of(regimen, [6.0, 18.0], observed=[2.5, 4.0])
            >>> data.records["TIME"], data.records["EVID"]
            (array([ 0.,  6., 12., 18.]), array([1., 0., 1., 0.]))
        """
        values, labels = records_of(
            regimen, ts, observed=observed, order=order, cmt=cmt, ids=ids, covariates=covariates or {}
        )
        issues, lines = IssueCollector("regimen"), np.arange(values["ID"].size) + 2
        check_records(values, lines, np.zeros(lines.shape, dtype=bool), issues)
        issues.close()
        return data_of("", values, labels, lines, interpolation)

    @property
    def subjects(self) -> int:
        """Number of subjects."""
        return len(self.ids)

    def take(self, subjects: Subjects) -> "NonmemData":
        """Return the data of some subjects, by their numbers from 0, a mask of true and false, or a slice.

        Tables keep their width, and covariates stay constant or varying, so that a compiled program serves both.

        Raises:
            ValueError: If a number is not that of a subject, or no subject is chosen.
        """
        chosen = self._numbers(subjects)
        counts = np.bincount(self.subject, minlength=self.subjects)
        records = np.concatenate([np.flatnonzero(self.subject == i) for i in chosen])
        regimen = of_patients(self.regimen, chosen, self.subjects)
        tables = ("ts", "order", "time", "dv", "evid", "cmt", "dvid", "cens", "limit", "tad", "occ")
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            records={name: values[records] for name, values in self.records.items()},
            subject=np.repeat(np.arange(chosen.size), counts[chosen]),
            line=self.line[records],
            regimen=regimen,
            covariates={name: values[chosen] for name, values in self.covariates.items()},
            varying={name: values[chosen] for name, values in self.varying.items()},
            **{name: getattr(self, name)[chosen] for name in tables},
        )

    def _numbers(self, subjects: Subjects) -> Int[np.ndarray, " chosen"]:
        must = f"be numbers of subjects (0 to {self.subjects - 1}) or a mask of {self.subjects}"
        try:
            picked = subjects if isinstance(subjects, slice) or np.size(subjects) == 0 else np.asarray(subjects)
            chosen = np.atleast_1d(np.arange(self.subjects)[picked])
        except (IndexError, ValueError):
            refuse("subjects", must, subjects)
        if not chosen.size or chosen.ndim > 1:
            refuse("subjects", must, "an empty selection" if not chosen.size else f"of shape {chosen.shape}")
        return chosen

    def cohort(self, model: AbstractModel, parameters: Mapping[str, str] | None = None) -> Cohort:
        """Return the subjects as virtual patients of a model, with their constant covariates.

        Args:
            model: The typical patient.
            parameters: The columns that give parameters of the model, such as `{"CL": "CLI"}`; see `patients` for
                columns that vary within a subject.

        Raises:
            ValueError: If a column is not a constant covariate, or a name is not a parameter of the model.

        Example:
            >>> import qspjax as qsp
            >>> doses = qsp.bolus(100.0, to=1)
            >>> data = qsp.io.NonmemData.of(doses, [1.0], covariates={"CLI": [2.0, 3.0]})
            >>> patient = qsp.models.OneCompartment(CL=1.0, V=30.0)
            >>> data.cohort(patient, {"CL": "CLI"}).model.CL
            Array([2., 3.], dtype=float64)
        """
        values = {}
        for parameter, name in (parameters or {}).items():
            check_one_of("parameters", name, self.covariates, "a covariate that is constant within every subject")
            values[parameter] = self.covariates[name]
        return Cohort.of(model, values, covariates=self.covariates, size=self.subjects)

    def patients(
        self, model: AbstractModel, parameters: Mapping[str, str | Callable[[Covariates], Scalar]]
    ) -> tuple[Cohort, Regimen]:
        """Return the subjects as virtual patients, and doses that let their parameters follow varying covariates.

        A parameter on which the delivery of a dose depends (a lag, a bioavailability) has the value at its record.

        Args:
            model: The typical patient.
            parameters: By parameter of the model, a column, as in `{"F": "BIOAV"}`, or a function of the covariates by
                name, as in `{"CL": lambda c: 0.05 * c["CRCL"]}`; constant ones have shape (subjects, 1), varying ones
                shape (subjects, outputs). Between two records a parameter that varies follows `interpolation`.

        Raises:
            ValueError: If a column is not a covariate or has missing values, or a name is not a parameter of the model.

        Example:
            >>> import pathlib, tempfile, qspjax as qsp
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.csv"
            >>> _ = path.write_text("ID,TIME,AMT,DV,CLI\\n1,0,1,.,1\\n1,1,.,.,1\\n1,2,.,.,2\\n")
            >>> data = qsp.io.read_nonmem(path)
            >>> cohort, regimen = data.patients(qsp.models.OneCompartment(CL=1.0, V=1.0), {"CL": "CLI"})
            >>> solution = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order)
            >>> solution.observed["concentration"].round(3)  # from 1 to 2 the value at 2: NOCB
            Array([[1.   , 0.368, 0.05 ]], dtype=float64)
        """
        columns: Covariates = {name: values[:, None] for name, values in self.covariates.items()} | self.varying
        regimen, constant = self.regimen, {}
        for parameter, source in parameters.items():
            if isinstance(source, str):
                check_one_of("parameters", source, columns, "a covariate")
            values = jnp.asarray(columns[source] if isinstance(source, str) else source(columns), dtype=float)
            values = jnp.broadcast_to(values, (self.subjects, values.shape[-1] if values.ndim else 1))
            concrete_values = concrete(values)
            if concrete_values is not None and np.isnan(concrete_values).any():
                refuse("parameters", "come from columns without missing values", f"NaN for `{parameter}`")
            at(model, parameter).set(values)  # within its bounds, at every record
            if values.shape[1] == 1:
                constant[parameter] = values[:, 0]
            else:
                constant[parameter] = values[:, 0]  # before the first record, and in the initial state
                regimen += varying(parameter, self.ts, values, interpolation=self.interpolation, order=self.order)
        return Cohort.of(model, constant, covariates=self.covariates, size=self.subjects), regimen

    def check(self, model: AbstractModel) -> tuple[Issue, ...]:
        """Return the issues of the records for a model: doses into compartments that it does not have.

        Args:
            model: The model; its dose targets are its deliveries and its states, by name or by number from 1.
        """
        check_instance("model", model, AbstractModel, "a model")
        if "CMT" not in self.records:
            return ()
        states = state_names(model.initial())
        compartments, issues = self.records["CMT"], IssueCollector(self.source)
        dose = is_dose(self.records)
        for target in dict.fromkeys(compartments[dose].tolist()):
            try:
                with_targets(model, table((target,), time=np.zeros(1)), states)
            except ValueError as error:
                why = str(error).removeprefix("Argument `to` ")
                wrong = dose & np.array([c == target for c in compartments.tolist()], dtype=bool)
                add_where(issues, wrong, self.line, "CMT", lambda _, why=why: why)
        return tuple(sorted(issues.issues, key=lambda issue: issue.line or 0))


def data_of(
    source: str,
    values: Values,
    labels: Labels,
    line: Integers,
    interpolation: AbstractInterpolation,
) -> NonmemData:
    """Return checked records as doses, outputs and covariates."""
    layout = Layout.of(values)
    rows = rows_of(values, layout)
    absent = np.full(line.shape, np.nan)
    data = has_data(values)
    covariates, varying = _covariates(values, labels, layout)
    return NonmemData(
        source=source,
        ids=tuple(_identity(value, labels.get("ID")) for value in values["ID"][layout.starts].tolist()),
        records=values,
        subject=layout.subject,
        line=line,
        regimen=regimen_of(values, layout, rows),
        ts=layout.padded(layout.clock, np.inf),
        order=layout.padded(layout.position + 1.0, np.inf),
        time=layout.padded(values["TIME"], np.nan),
        dv=layout.padded(np.where(data, values.get("DV", absent), np.nan), np.nan),
        evid=layout.padded(values["EVID"].astype(int), -1),
        cmt=layout.padded(values.get("CMT", np.zeros(line.shape, dtype=int)), 0),
        dvid=layout.padded(values.get("DVID", absent), np.nan),
        cens=layout.padded(column(values, "CENS").astype(int), 0),
        limit=layout.padded(values.get("LIMIT", absent), np.nan),
        tad=layout.padded(time_after_dose(values, layout, rows), np.nan),
        occ=layout.padded(occasions(values, layout), 0),
        covariates=covariates,
        varying=varying,
        labels=labels,
        interpolation=interpolation,
    )


def _identity(value: float, labels: tuple[str, ...] | None) -> int | float | str:
    if labels is not None:
        return labels[int(value)]
    return int(value) if value.is_integer() else value


def _covariates(
    values: Values, labels: Labels, layout: Layout
) -> tuple[dict[str, Real[np.ndarray, " subjects"]], dict[str, Float[np.ndarray, "subjects outputs"]]]:
    """Return the covariates that are constant within every subject, and the others."""
    constant, varying = {}, {}
    for name in values:
        if name in RESERVED:
            continue
        column = values[name]
        least, greatest = (
            ufunc.reduceat(np.where(np.isnan(column), fill, column), layout.starts)
            for ufunc, fill in ((np.minimum, np.inf), (np.maximum, -np.inf))
        )
        if (least >= greatest).all():
            subject_values = np.where(np.isfinite(least), least, np.nan)
            constant[name] = (
                subject_values.astype(int) if name in labels and not np.isnan(subject_values).any() else subject_values
            )
        else:
            varying[name] = layout.continued(column)
    return constant, varying


def _summary(data: NonmemData) -> str:
    """Return a summary of a data set: subjects, records, doses, observations, covariates, interpolation."""
    values = data.records
    lines = {
        "Data set": data.source or "(made in Python)",
        "Subjects": f"{len(data.ids)}",
        "Records": f"{data.subject.size}" + _events(values),
        "Times": f"{values['TIME'].min():g} to {values['TIME'].max():g}",
        "Doses": _doses(data),
        "Observations": _observations(data),
        "Covariates": _covariate_names(data),
        "Between": f"{data.interpolation} (where a covariate varies within a subject)",
    }
    missing = {name: int(np.isnan(values[name]).sum()) for name in (*data.covariates, *data.varying)}
    if any(missing.values()):
        lines["Missing"] = ", ".join(f"{name} in {count} records" for name, count in missing.items() if count)
    for name, labels in data.labels.items():
        if name != "ID":
            lines[f"  {name}"] = ", ".join(f"{code} = {label}" for code, label in enumerate(labels))
    return "\n".join(f"{key + ':':<14}{text}" for key, text in lines.items())


def _events(values: Values) -> str:
    counts = Counter(values["EVID"].astype(int).tolist())
    names = {3: "resets", 4: "resets with a dose", 2: "of other events"}
    counted = [f"{counts[code]} {name}" for code, name in names.items() if counts[code]]
    return f" ({', '.join(counted)})" if counted else ""


def _doses(data: NonmemData) -> str:
    values = data.records
    dose = is_dose(values)
    if not dose.any():
        return "none"
    count = int((column(values, "ADDL")[dose] + 1).sum())
    targets = ", ".join(str(target) if target != 0 else "the model's default" for target in data.regimen.targets)
    text = f"{count} in {int(dose.sum())} records, into {targets}"
    steady = int((column(values, "SS")[dose] > 0).sum())
    text += f"; {steady} at steady state" if steady else ""
    with_data = int((dose & (values["MDV"] == 0)).sum())
    return text + (f"; MDV is 0 on {with_data} of them: their DV is not used" if with_data else "")


def _observations(data: NonmemData) -> str:
    with_value = ~np.isnan(data.dv)
    without = int((data.records["EVID"] == 0).sum()) - int(with_value.sum())
    text = f"{int(with_value.sum())} with a value, {without} without"
    with_data = with_value | ((data.evid == 0) & (data.cens == 1))
    below, above = int((with_data & (data.cens == 1)).sum()), int((with_data & (data.cens == -1)).sum())
    text += f"; {below} below and {above} above a limit" if below or above else "; none censored"
    kinds = data.dvid[with_data]
    if np.isnan(kinds).all():
        return text
    names = data.labels.get("DVID")
    counts = Counter(kinds[~np.isnan(kinds)].tolist())
    counted = [f"{count} {names[int(kind)] if names else f'{kind:g}'}" for kind, count in sorted(counts.items())]
    return f"{text}; by DVID {', '.join(counted)}"


def _covariate_names(data: NonmemData) -> str:
    kinds = {"constant within every subject": data.covariates, "varying": data.varying}
    return "; ".join(f"{', '.join(names)} ({kind})" for kind, names in kinds.items() if names) or "none"
