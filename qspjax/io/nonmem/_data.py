"""Data sets as NONMEM and the programs after it read them: a record a line, doses and observations in one table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_instance, check_one_of, concrete, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._covariates import NOCB, AbstractInterpolation, varying
from qspjax._dosing._regimen import Regimen, table
from qspjax._model import AbstractModel
from qspjax._names import at, state_names
from qspjax._types import Scalar
from qspjax.fit import Experiment
from qspjax.io._issues import Issue
from qspjax.io.nonmem._doubts import warn_of_doubts
from qspjax.io.nonmem._events import Layout, most_rows, occasions, regimen_of, rows_of, time_after_dose
from qspjax.io.nonmem._experiments import experiments_of, warn_of_kinds
from qspjax.io.nonmem._from_regimen import records_of
from qspjax.io.nonmem._issues import Notes
from qspjax.io.nonmem._records import check_records, column, complete, is_dose
from qspjax.io.nonmem._rxode import translate
from qspjax.io.nonmem._summary import summary
from qspjax.io.nonmem._text import RESERVED, read_text
from qspjax.io.nonmem._values import Values, read_values, replaced
from qspjax.solve.dosing._schedule import aimed

MOST_ROWS = 50_000_000
"""The largest table of doses, padding included."""

_DIALECTS = {"nonmem": (), "rxode": ("NA",)}
"""What each dialect writes for a missing value, besides "." and nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class NonmemData:
    """Subjects with their doses, outputs, observations and covariates; print it to see what it holds.

    Every record of the table gives an output, so that predictions stand beside all of them; only observation records
    (EVID 0, MDV 0) with a DV have data. Tables have shape (subjects, outputs), an output a record, and are filled up
    to the subject with the most records.

    Attributes:
        source: Name of the file, empty if there is none.
        ids: The ID of each subject.
        records: The columns of the table, an entry a record, in the order of the file: what `write_nonmem` writes.
        subject: The number of the subject of each record, from 0.
        line: The line of the file of each record, from 1.
        regimen: The doses and resets, columns of shape (subjects, rows).
        ts: Times of the outputs, filled up with inf. Where TIME goes back at a reset, this clock goes on.
        order: The number of each record within its subject from 1, filled up with inf.
        time: TIME as recorded, filled up with NaN.
        dv: Observed values, NaN where there is no data.
        evid: Event codes, filled up with -1.
        cmt: Compartments by number (or name), 0 where none is given.
        dvid: Which kind of observation each is, NaN where none is given.
        cens: 1 where the value is below `dv`, -1 where it is above, else 0.
        limit: The other bound of a censored value, NaN where none is given.
        tad: Time after the last dose, additional ones included; NaN before the first and after a reset.
        occ: How many dose records at different times there were so far.
        covariates: Those that are constant within every subject, by name, shape (subjects,); NaN is missing.
        varying: The others, at each record, shape (subjects, outputs), filled up with the last; NaN is missing.
        labels: The labels of the categories 0, 1, ... of the columns of text.
        interpolation: What a varying covariate is between two records.

    Example:
        >>> import qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [1.0, 4.0], observed=[8.1, 4.2])
        >>> data.subjects, data.dv
        (1, array([[nan, 8.1, 4.2]]))
    """

    source: str
    ids: tuple[Any, ...]
    records: Values
    subject: np.ndarray
    line: np.ndarray
    regimen: Regimen
    ts: np.ndarray
    order: np.ndarray
    time: np.ndarray
    dv: np.ndarray
    evid: np.ndarray
    cmt: np.ndarray
    dvid: np.ndarray
    cens: np.ndarray
    limit: np.ndarray
    tad: np.ndarray
    occ: np.ndarray
    covariates: dict[str, np.ndarray]
    varying: dict[str, np.ndarray]
    labels: dict[str, tuple[str, ...]]
    interpolation: AbstractInterpolation

    def __str__(self) -> str:
        return summary(self)

    @classmethod
    def of(
        cls,
        regimen: Regimen,
        ts: Scalar,
        *,
        observed: Scalar | None = None,
        order: Scalar | None = None,
        cmt: str | int = 0,
        ids: Sequence[Any] | None = None,
        covariates: Mapping[str, Scalar] | None = None,
        interpolation: AbstractInterpolation = NOCB(),
    ) -> "NonmemData":
        """Return the data set of doses and outputs made in Python, such as a simulated trial, to be written to a file.

        Every dose is a record of its own, without ADDL; at equal times doses come before outputs, as in `simulate`,
        unless `order` says otherwise.

        Args:
            regimen: The doses, for one patient or for each.
            ts: Times of the outputs, shape (times,) or (patients, times), padded with inf.
            observed: The observed values, of the shape of the outputs; NaN or None where there is no data.
            order: What happens first at equal times, of the shape of the outputs, as in `simulate`.
            cmt: The compartment that is observed.
            ids: The ID of each patient, by default 1, 2, ...
            covariates: By name, one number a patient.
            interpolation: What a varying covariate is between two records.

        Raises:
            ValueError: If shapes do not agree, or the regimen has a row that no record can say.

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
        notes, lines = Notes("regimen"), np.arange(values["ID"].size) + 2
        check_records(values, lines, np.zeros(lines.shape, dtype=bool), notes)
        notes.close()
        return _data("", values, labels, lines, interpolation)

    @property
    def subjects(self) -> int:
        """Number of subjects."""
        return len(self.ids)

    def take(self, subjects: Any) -> "NonmemData":
        """Return the data of some subjects, by their numbers from 0, a mask of true and false, or a slice.

        Tables keep their width, and covariates stay constant or varying, so that a compiled program serves both.

        Raises:
            ValueError: If a number is none of a subject, or none is chosen.
        """
        chosen = self._numbers(subjects)
        counts = np.bincount(self.subject, minlength=self.subjects)
        starts = np.cumsum(counts) - counts
        parts = [np.arange(starts[i], starts[i] + counts[i]) for i in chosen]
        kept = np.concatenate(parts)
        one = self.regimen.ndims()
        regimen = jax.tree.map(lambda leaf, ndim: leaf[chosen] if leaf.ndim > ndim else leaf, self.regimen, one)
        tables = ("ts", "order", "time", "dv", "evid", "cmt", "dvid", "cens", "limit", "tad", "occ")
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            records={name: values[kept] for name, values in self.records.items()},
            subject=np.repeat(np.arange(chosen.size), counts[chosen]),
            line=self.line[kept],
            regimen=regimen,
            covariates={name: values[chosen] for name, values in self.covariates.items()},
            varying={name: values[chosen] for name, values in self.varying.items()},
            **{name: getattr(self, name)[chosen] for name in tables},
        )

    def _numbers(self, subjects: Any) -> np.ndarray:
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
            parameters: Which column gives a parameter of the model, such as `{"CL": "CLI"}`; see `patients` for columns
                that vary within a subject.

        Raises:
            ValueError: If a column is none of the constant covariates, or a name none of the model's parameters.

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
        self, model: AbstractModel, parameters: Mapping[str, str | Callable[[dict[str, Any]], Any]]
    ) -> tuple[Cohort, Regimen]:
        """Return the subjects as virtual patients, and doses that let their parameters follow varying covariates.

        A parameter that the delivery of a dose depends on (a lag, a bioavailability) is that of the dose's record.

        Args:
            model: The typical patient.
            parameters: What gives a parameter of the model: a column, as in `{"F": "BIOAV"}`, or a function of the
                covariates by name, as in `{"CL": lambda c: 0.05 * c["CRCL"]}`; constant ones come in shape
                (subjects, 1), varying ones in shape (subjects, outputs). Between two records a parameter that varies
                is what `interpolation` says.

        Raises:
            ValueError: If a column is no covariate or has missing values, or a name is none of the model's parameters.

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
        columns = {name: values[:, None] for name, values in self.covariates.items()} | self.varying
        regimen, constant = self.regimen, {}
        for parameter, source in parameters.items():
            if isinstance(source, str):
                check_one_of("parameters", source, columns, "a covariate")
            values = jnp.asarray(columns[source] if isinstance(source, str) else source(columns), dtype=float)
            values = jnp.broadcast_to(values, (self.subjects, values.shape[-1] if values.ndim else 1))
            known = concrete(values)
            if known is not None and np.isnan(known).any():
                refuse("parameters", "come from columns without missing values", f"NaN for `{parameter}`")
            at(model, parameter).set(values)  # within its bounds, at every record
            if values.shape[1] == 1:
                constant[parameter] = values[:, 0]
            else:
                constant[parameter] = values[:, 0]  # before the first record, and in the initial state
                regimen += varying(parameter, self.ts, values, interpolation=self.interpolation, order=self.order)
        return Cohort.of(model, constant, covariates=self.covariates, size=self.subjects), regimen

    def experiments(
        self, outputs: Mapping[Any, str] | str, *, covariates: Sequence[str] | None = None
    ) -> dict[str, Experiment]:
        """Return the subjects by their IDs, as experiments of `fit.Mixed` or `fit.Problem`.

        Covariates are what each sets, and what changes with its records if they vary: in steps, as `interpolation`
        says. A subject in which one is missing does not have it. At equal times records are in the order of the table,
        each dose and observation with the values of its own record, as in `patients` and `simulate_cohort(order=)`.
        Observations with CENS = 1 lie between LIMIT (or nothing) and DV, with CENS = -1 above DV and below LIMIT.

        Args:
            outputs: The name of the output that is observed; or by the DVID of an observation (without that, by its
                CMT) the name of its output.
            covariates: Which covariates; by default all. A `Problem` simulates stage by stage between changes, so
                name only those that it uses.

        Raises:
            ValueError: If an observation has a kind that is not named, covariates vary linearly between records, or a
                subject is there twice.

        Example:
            >>> import qspjax as qsp
            >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [1.0, 4.0], observed=[8.1, 4.2])
            >>> data.experiments("concentration")["1"].measurements.rows
            2
        """
        warn_of_kinds(self, outputs)
        return experiments_of(self, outputs, covariates)

    def check(self, model: AbstractModel) -> tuple[Issue, ...]:
        """Return what is wrong with the records for a model: doses into compartments that it does not have.

        Args:
            model: The model; its dose targets are its deliveries and its states, by name or by number from 1.
        """
        check_instance("model", model, AbstractModel, "a model")
        if "CMT" not in self.records:
            return ()
        states = state_names(model.initial())
        compartments, notes = self.records["CMT"], Notes(self.source)
        dose = is_dose(self.records)
        for target in dict.fromkeys(compartments[dose].tolist()):
            try:
                aimed(model, table((target,), time=np.zeros(1)), states)
            except ValueError as error:
                why = str(error).removeprefix("Argument `to` ")
                wrong = dose & np.array([c == target for c in compartments.tolist()], dtype=bool)
                notes.where(wrong, self.line, "CMT", lambda _, why=why: why)
        return tuple(sorted(notes.found, key=lambda issue: issue.line or 0))


def read_nonmem(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    ignore: str | Sequence[str] = "#",
    accept: str | Sequence[str] = (),
    categories: Sequence[str] = (),
    recode: Mapping[str, Mapping[Any, Any]] | None = None,
    dialect: str = "nonmem",
    interpolation: AbstractInterpolation = NOCB(),
) -> NonmemData:
    """Read a data set in the format of NONMEM, separated by commas, tabs or blanks.

    The reserved columns are ID, TIME, AMT, RATE, II, ADDL, SS, EVID, CMT, DV, MDV, DVID, CENS, LIMIT, one of DATE,
    DAT1, DAT2 and DAT3, and TINF or DUR, the duration of an infusion; they may be in either case. All other columns
    are covariates. A field that is empty or "." is missing: 0 in a column of doses, no data in DV, NaN in a covariate.
    Without EVID, a record is a dose if AMT, RATE or SS is not 0, else an observation. DV is not looked at where EVID is
    not 0, whatever MDV says. Clock times (H:MM) and dates become hours since the first record of the subject. Nothing
    is corrected: what no rule allows is an issue, and all issues are raised together. Of what is seldom meant (a dose
    that stands there twice, a negative DV, no DV at all) a warning names the lines, and of a column whose name is known
    for a meaning, but that is not used (LIMIT without CENS; LLOQ), its name.

    Args:
        path: The file, in UTF-8, at most 256 MiB.
        columns: Names of the columns where the file has none, or instead of its own, as in $INPUT: "DROP" or "WT=DROP"
            leaves a column out.
        rename: New names of columns, such as `{"Y": "DV"}`.
        ignore: A character: lines that start with it are ignored; "@" means any letter. Or conditions on columns, such
            as `["DVID.EQ.2", "TIME>24"]`, on the fields as they are written: records that fulfil one of them are
            ignored. Numbers are compared as numbers (2.0 is 2), anything else as text; a missing value equals "." and
            is neither less nor greater.
        accept: Conditions, instead of those to ignore: only records that fulfil one of them are read.
        categories: Columns of text, to be read as codes 0, 1, ... in the order of their sorted labels.
        recode: Values to be replaced before anything is checked, by column, such as `{"SS": {99: 0}}`.
        dialect: "nonmem", or "rxode" for the event codes of RxODE (101, 10101, ...), where NA is missing, too.
        interpolation: What a covariate is between two records; NONMEM has `NOCB()`.

    Returns:
        The data: doses, outputs, observed values, covariates.

    Raises:
        FileIssues: If anything in the file is wrong; `issues` lists all of it, by line and column.
        ValueError: If an argument is wrong.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.csv"
        >>> _ = path.write_text("ID,TIME,AMT,DV,WT\\n1,0,100,.,70\\n1,2,.,3.1,70\\n2,0,100,.,60\\n2,2,.,3.4,60\\n")
        >>> data = qsp.io.read_nonmem(path)
        >>> data.ids, data.covariates["WT"]
        ((1, 2), array([70., 60.]))
        >>> solution = qsp.simulate_cohort(
        ...     data.cohort(qsp.models.OneCompartment(CL=3.0, V=30.0)), data.regimen, data.ts, order=data.order
        ... )
        >>> solution.observed["concentration"].round(2)
        Array([[3.33, 2.73],
               [3.33, 2.73]], dtype=float64)
    """
    check_instance("interpolation", interpolation, AbstractInterpolation, "NOCB(), LOCF() or LinearInterpolation()")
    check_one_of("dialect", dialect, _DIALECTS, "a dialect")
    path = Path(path)
    notes = Notes(str(path))
    text = read_text(path, notes, columns=columns, rename=rename or {}, ignore=ignore, accept=accept)
    text = replaced(text, recode or {}, notes)
    values, labels, bad = read_values(text, notes, categories=categories, missing=_DIALECTS[dialect])
    if dialect == "rxode":
        values = translate(values, text.line, bad, notes)
    values = complete(values)
    check_records(values, text.line, bad, notes)
    notes.close()
    if most_rows(values) > MOST_ROWS:
        notes.stop(f"must have at most {MOST_ROWS} doses, all subjects filled up, but has more.", column="ADDL")
    warn_of_doubts(values, text.line, str(path))
    return _data(str(path), values, labels, text.line, interpolation)


def _data(
    source: str,
    values: Values,
    labels: dict[str, tuple[str, ...]],
    line: np.ndarray,
    interpolation: AbstractInterpolation,
) -> NonmemData:
    """Return checked records as doses, outputs and covariates."""
    layout = Layout.of(values)
    rows = rows_of(values, layout)
    absent = np.full(line.shape, np.nan)
    data = (values["EVID"] == 0) & (values["MDV"] == 0)
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


def _identity(value: float, labels: tuple[str, ...] | None) -> Any:
    if labels is not None:
        return labels[int(value)]
    return int(value) if value.is_integer() else value


def _covariates(
    values: Values, labels: dict[str, tuple[str, ...]], layout: Layout
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    constant, varying = {}, {}
    for name in values:
        if name in RESERVED:
            continue
        found = values[name]
        least, most = (
            ufunc.reduceat(np.where(np.isnan(found), fill, found), layout.starts)
            for ufunc, fill in ((np.minimum, np.inf), (np.maximum, -np.inf))
        )
        if (least >= most).all():
            each = np.where(np.isfinite(least), least, np.nan)
            constant[name] = each.astype(int) if name in labels and not np.isnan(each).any() else each
        else:
            varying[name] = layout.continued(found)
    return constant, varying
