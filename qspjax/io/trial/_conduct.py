"""How a trial of a trial file is conducted: who is put where, comes, leaves and is measured, and what is judged.

randomised                 true, or a table: ratio (whole numbers in the order of the arms), and strata, a list of
tables: covariate, and edges where it is a number
[enrolment]                over: the time in which patients enter, at a constant rate
[dropout]                  hazard (constant), or scale and shape of Weibull's
[adherence]                missed and late: shares of doses; delay: the most by which these are late
cutoff                     when the trial ends for all
[tumour]                   output (the sum of diameters), stable_after, confirmation, detectable, millimetre of RECIST
[visits]                   until and every, or times; window, missed (share), error (coefficient of variation)
[survival]                 cumulative_hazard: the output that is one
[power]                    of ("progression" or "survival"), arm, reference, sizes, replicates: trials repeated with
the patients of this one, judged by the log-rank test
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from qspjax._cohort import Cohort
from qspjax.io.toml._model import ModelInfo
from qspjax.io.toml._table import Table, present, shown
from qspjax.io.toml._times import read_times
from qspjax.population import (
    RECIST,
    AbstractAllocation,
    Adherence,
    Dropout,
    Enrolment,
    Randomised,
    SamePatients,
    Stratified,
    Visits,
)

_MOST_REPLICATES = 100_000
_MOST_SIZE = 1_000_000


class Stratum(NamedTuple):
    """A covariate by which patients are put into strata, with the edges between them where it is a number."""

    covariate: str
    edges: tuple[float, ...]


class Tumour(NamedTuple):
    """What is judged by RECIST 1.1: the output that is the sum of diameters, and the criteria."""

    output: str
    criteria: RECIST


class Power(NamedTuple):
    """Trials that are repeated: the event, the arms that are compared, patients in each, and how often."""

    of: str
    arm: str
    reference: str
    sizes: tuple[int, ...]
    replicates: int


@dataclasses.dataclass(frozen=True)
class Conduct:
    """How a trial is conducted, as a file says; None where it says nothing.

    Attributes:
        randomised: Whether each patient is in one arm.
        ratio: Patients in the arms.
        strata: The covariates by which the randomisation is stratified.
        enrolment: When patients enter.
        dropout: When they leave.
        adherence: Which doses they miss.
        cutoff: When the trial ends for all.
        tumour: What is judged by RECIST 1.1.
        visits: When it is measured, and how well.
        survival: The output that is the cumulative hazard of death.
        power: Trials that are repeated.

    Example:
        >>> Conduct().allocation(None)
        SamePatients()
    """

    randomised: bool = False
    ratio: tuple[int, ...] | None = None
    strata: tuple[Stratum, ...] = ()
    enrolment: Enrolment | None = None
    dropout: Dropout | None = None
    adherence: Adherence | None = None
    cutoff: float | None = None
    tumour: Tumour | None = None
    visits: Visits | None = None
    survival: str | None = None
    power: Power | None = None

    def allocation(self, cohort: Cohort | None) -> AbstractAllocation:
        """Return how patients are put into arms; strata are those of a cohort, and left out without one."""
        if not self.randomised:
            return SamePatients()
        if not self.strata or cohort is None:
            return Randomised(self.ratio)
        labels = [
            np.searchsorted(stratum.edges, values, side="right") if stratum.edges else values
            for stratum in self.strata
            for values in (np.asarray(cohort.covariates[stratum.covariate]),)
        ]
        _, codes = np.unique(np.stack(labels), axis=1, return_inverse=True)
        return Stratified(codes, self.ratio)


KEYS = ("enrolment", "dropout", "adherence", "tumour", "visits", "survival", "power")
"""The tables of a file that say how its trial is conducted."""


def read_conduct(top: Table, info: ModelInfo, arms: tuple[str, ...], times: tuple[float, ...]) -> Conduct | None:
    """Read how a trial is conducted."""
    time, tables = info.units.time, {key: top.table(key) for key in KEYS}
    randomised, ratio, strata = _randomised(top, info, arms)
    cutoff = top.number("cutoff", time, default=None, above=0)
    visits = _visits(tables["visits"], time, times) if "visits" in top else None
    for key in ("enrolment", "visits"):
        needed = {"enrolment": "cutoff", "visits": "tumour"}[key]
        if key in top and needed not in top:
            top.issue(key, f"must go with `{needed}`, but that is missing.")
    found = {
        "enrolment": _enrolment(tables["enrolment"], time) if "enrolment" in top else None,
        "dropout": _dropout(tables["dropout"], time) if "dropout" in top else None,
        "adherence": _adherence(tables["adherence"], time) if "adherence" in top else None,
        "tumour": _tumour(tables["tumour"], info) if "tumour" in top else None,
        "visits": visits,
        "survival": _survival(tables["survival"], info) if "survival" in top else None,
        "power": _power(tables["power"], top, arms) if "power" in top else None,
    }
    return Conduct(randomised=randomised, ratio=ratio, strata=strata, cutoff=cutoff, **found)


def _randomised(
    top: Table, info: ModelInfo, arms: tuple[str, ...]
) -> tuple[bool, tuple[int, ...] | None, tuple[Stratum, ...]]:
    if not isinstance(top.values.get("randomised"), dict):
        return top.flag("randomised", default=False), None, ()
    table = top.table("randomised")

    def read(value: object) -> tuple[int, ...]:
        whole = isinstance(value, list) and all(type(part) is int and 0 < part <= _MOST_SIZE for part in value)
        if not isinstance(value, list) or not whole or len(value) != len(arms):
            raise ValueError(f"must be a list of {len(arms)} whole numbers, one for each arm, but is {shown(value)}.")
        return tuple(value)

    ratio = table.read("ratio", None, read)
    strata = [_stratum(part, info) for part in table.tables("strata")]
    table.close()
    return True, ratio, tuple(stratum for stratum in strata if stratum is not None)


def _stratum(table: Table, info: ModelInfo) -> Stratum | None:
    name = table.name("covariate", (*info.covariates, *info.categories), "a covariate")
    if name is None or name in info.categories:
        return table.make(Stratum, name, ())
    edges = table.numbers("edges", info.covariates[name])
    if edges is not None and any(later <= earlier for earlier, later in zip(edges, edges[1:], strict=False)):
        table.issue("edges", "must increase, but they do not.")
    return table.make(Stratum, name, edges)


def _enrolment(table: Table, time: str) -> Enrolment | None:
    return table.make(Enrolment, table.number("over", time, above=0))


def _dropout(table: Table, time: str) -> Dropout | None:
    kind = table.only(("hazard", "scale"), "way to leave", beside=("shape",))
    if kind is None:
        table.close()
        return None
    if kind == "hazard":
        hazard = table.number("hazard", f"1/{time}", above=0)
        return table.make(lambda: Dropout(1.0 / hazard) if hazard else None)
    scale, shape = table.number("scale", time, above=0), table.number("shape", default=1.0, above=0)
    return table.make(Dropout, scale, shape)


def _adherence(table: Table, time: str) -> Adherence | None:
    shares = {key: table.number(key, default=0.0) for key in ("missed", "late")}
    return table.make(Adherence, **shares, delay=table.number("delay", time, default=0.0))


def _tumour(table: Table, info: ModelInfo) -> Tumour | None:
    output = table.name("output", info.observed, "a value that the model observes")
    time, unit = info.units.time, None if output is None else info.observed[output]
    criteria = {
        "stable_after": table.number("stable_after", time),
        "confirmation": table.number("confirmation", time, default=None),
        "detectable": table.number("detectable", unit, default=0.0),
        "millimetre": table.number("millimetre", unit, default=1.0, above=0),
    }
    return table.make(lambda: None if output is None else Tumour(output, RECIST(**present(criteria))))


def _visits(table: Table, time: str, times: tuple[float, ...]) -> Visits | None:
    at, window = read_times(table, time), table.number("window", time, default=0.0)
    shares = {key: table.number(key, default=0.0) for key in ("missed", "error")}
    if at and times and not (times[0] <= at[0] and at[-1] + (window or 0.0) <= times[-1]):
        must = f"must be within the times of [output] ({times[0]:g} to {times[-1]:g} {time}), window included"
        table.issue("", f"{must}, but are from {at[0]:g} to {at[-1]:g} {time}.")
    return table.make(Visits, at, window=window, **shares)


def _survival(table: Table, info: ModelInfo) -> str | None:
    name = table.name("cumulative_hazard", info.observed, "a value that the model observes")
    table.close()
    return name


def _power(table: Table, top: Table, arms: tuple[str, ...]) -> Power | None:
    of = table.name("of", ("progression", "survival"), "an event")
    names = {key: table.name(key, arms, "an arm") for key in ("arm", "reference")}
    replicates = table.integer("replicates", default=1000, minimum=1, maximum=_MOST_REPLICATES)

    def read(value: object) -> tuple[int, ...]:
        if not isinstance(value, list) or not value or not all(type(n) is int and 1 < n <= _MOST_SIZE for n in value):
            raise ValueError(f"must be a list of numbers of patients in each arm, but is {shown(value)}.")
        return tuple(value)

    sizes = table.read("sizes", (), read)
    if "sizes" not in table:
        table.issue("sizes", "must be given, but is missing.")
    if names["arm"] is not None and names["arm"] == names["reference"]:
        table.issue("reference", f'must be another arm than `arm`, but is "{names["reference"]}".')
    needed = {"progression": "tumour", "survival": "survival"}.get(of or "")
    if needed is not None and needed not in top:
        table.issue("of", f"must go with [{needed}], but that is missing.")
    return table.make(Power, of, names["arm"], names["reference"], sizes, replicates)
