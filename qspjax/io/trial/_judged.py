"""What is seen of the patients of a trial file: responses of tumours, events, and trials that are repeated."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from qspjax._extras import require
from qspjax._types import Key
from qspjax.io.trial._conduct import Power
from qspjax.io.trial._file import TrialFile
from qspjax.population import (
    Events,
    PowerCurve,
    TrialResult,
    TumourResponses,
    event_times,
    log_rank,
    power,
    progression_free,
    tumour_responses,
)

if TYPE_CHECKING:
    import pandas

_VISITS, _EVENTS, _POWER = 2**32 - 2, 2**32 - 3, 2**32 - 4
"""The numbers folded into the key; patients fold in their own numbers."""


class Judged(NamedTuple):
    """What is seen of the patients: responses, events by name (`progression`, `survival`), and power."""

    responses: TumourResponses | None
    events: Mapping[str, Events]
    power: PowerCurve | None

    def __str__(self) -> str:
        blocks = {} if self.responses is None else {"Best response (RECIST 1.1)": str(self.responses)}
        names = {"progression": "Progression-free survival", "survival": "Overall survival"}
        blocks |= {names[name]: str(events) for name, events in self.events.items()}
        if self.power is not None:
            blocks["Power of the log-rank test"] = str(self.power)
        return "\n\n".join(f"{title}\n{block}" for title, block in blocks.items())

    def tables(self) -> "dict[str, pandas.DataFrame]":
        """Return the tables by the names of their files."""
        frame, tables = require("pandas", extra="data").DataFrame, {}
        if self.responses is not None:
            tables["responses.csv"] = frame(self.responses.patients())
        if self.events:
            tables["events.csv"] = frame([row for name, events in self.events.items() for row in _rows(name, events)])
            tables["curves.csv"] = frame([row for name, events in self.events.items() for row in _steps(name, events)])
        if self.power is not None:
            sizes = zip(self.power.sizes, self.power.power, strict=True)
            tables["power.csv"] = frame([{"patients": size, **found._asdict()} for size, found in sizes])
        return tables


def judged(file: TrialFile, result: TrialResult, key: Key) -> Judged:
    """Return what is seen of the patients of a trial, as its file says; `key` is that of the file."""
    conduct, responses, events, deaths = file.conduct, None, {}, None
    if conduct.survival is not None:
        events["survival"] = event_times(result, conduct.survival, key=jax.random.fold_in(key, _EVENTS))
        deaths = events["survival"].deaths(result.cohort.size)
    if conduct.tumour is not None:
        output, criteria = conduct.tumour
        drawn = jax.random.fold_in(key, _VISITS)
        responses = tumour_responses(result, output, criteria, visits=conduct.visits, key=drawn, death=deaths)
        events = {"progression": progression_free(responses), **events}
    curve = None if conduct.power is None else _power(conduct.power, events, jax.random.fold_in(key, _POWER))
    return Judged(responses, events, curve)


def _power(wanted: Power, events: Mapping[str, Events], key: Key) -> PowerCurve | None:
    """Repeat the trial with the patients that were seen; None where an arm has none."""
    arms = [events[wanted.of].arms[name] for name in (wanted.reference, wanted.arm)]
    pools = [np.column_stack([arm.times, arm.events]) for arm in arms]
    if not all(len(pool) for pool in pools):
        return None
    return power(pools, _p_value, wanted.sizes, key=key, replicates=wanted.replicates)


def _p_value(*drawn: np.ndarray) -> float:
    """Return the p value of the log-rank test of arms, each with columns of times and events."""
    times, events = np.concatenate(drawn).T
    return log_rank(times, events, np.repeat(np.arange(len(drawn)), [len(arm) for arm in drawn])).p


def _rows(name: str, events: Events) -> list[dict[str, object]]:
    return [
        {"of": name, "arm": label, "patient": patient, "time": time, "event": event}
        for label, arm in events.arms.items()
        for patient, time, event in zip(arm.patients, arm.times, arm.events, strict=True)
    ]


def _steps(name: str, events: Events) -> list[dict[str, object]]:
    columns = ("times", "survival", "low", "high", "at_risk", "events", "censored")
    return [
        {"of": name, "arm": label, **dict(zip(columns, step, strict=True))}
        for label, arm in events.arms.items()
        if arm.patients.size
        for curve in (arm.curve(),)
        for step in zip(*(getattr(curve, column) for column in columns), strict=True)
    ]
