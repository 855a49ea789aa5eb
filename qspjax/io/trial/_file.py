"""Trial files: a virtual trial as text, in TOML, with units.

    title, patients, seed      the title, the number of patients, the seed of the random numbers
    randomised                 true to put each patient in one arm; by default the same patients are in every arm
    [randomised], [visits], [tumour], ...
                               how the trial is conducted and judged, see `_conduct`
    [model]                    name, in the catalogue or of a file in SBML or Antimony beside this one (or as a whole
                               `model = "tumour.xml"`), and parameters that differ from the defaults
    [population]               between patients, covariates, effects of covariates, correlation
    [arms.NAME]                dose, to, start, every, doses, over or rate; nothing for no treatment
    [[arms.NAME.regimen]]      the same keys, once for each part of a treatment that has several
    [arms.NAME.dose]           a dose that depends on the patient: amount such as "5 mg/kg", or an amount per amount of
                               each covariate (per), or a table of bands; at_least, at_most, round_to, round_up_to
    [endpoints.NAME]           a kind with its output, and a bound for responders
    [output]                   until and every, or times; the values to save; panels of the plot

Text is only ever read as names and quantities; nothing in a file is evaluated.
"""

import dataclasses
import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Required, TypedDict

from qspjax._checks import ArgumentError, check_one_of, refuse
from qspjax._cohort import Cohort
from qspjax._forms import MOST_PATIENTS
from qspjax._types import Key
from qspjax.io._content import text_of
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.toml._doses import read_arms
from qspjax.io.toml._endpoints import read_endpoints
from qspjax.io.toml._model import ModelInfo, read_model, read_population
from qspjax.io.toml._read import read_file
from qspjax.io.toml._table import Table, line_of, lines_of
from qspjax.io.toml._times import read_times
from qspjax.io.trial._conduct import KEYS, Conduct, read_conduct
from qspjax.population import Population, Randomised, Trial

BUNDLED = ("omalizumab", "capecitabine")
"""The trials that come with qspjax."""

_MOST_PANELS = 12
"""The maximum number of panels of a plot if the file does not name them."""


class PanelTable(TypedDict, total=False):
    """A panel of the plot in a file: the arguments of `qspjax.plot.Panel`."""

    output: Required[str]
    label: str | None
    log: bool
    lines: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class TrialFile:
    """A trial as a file describes it.

    Attributes:
        source: Name of the file.
        text: Its bytes.
        title: The title of the trial.
        population: The population of the patients.
        trial: The protocol.
        patients: The number of patients.
        seed: The seed of the random numbers.
        save: Names of observed values and states to keep.
        endpoint_units: The unit of each endpoint by name.
        panels: The panels of the plot, each as the arguments of `qspjax.plot.Panel`.
        conduct: How the trial is conducted, and what is judged.

    Raises:
        ValueError: If there are fewer patients than arms to randomise them to.

    Example:
        >>> file = read_trial(bundled_trial())
        >>> file.stem, file.patients, file.seed
        ('omalizumab', 1000, 1)
    """

    source: str
    text: bytes
    title: str
    population: Population
    trial: Trial
    patients: int
    seed: int
    save: tuple[str, ...]
    endpoint_units: dict[str, str]
    panels: tuple[PanelTable, ...]
    conduct: Conduct = Conduct()

    def __post_init__(self) -> None:
        arms = len(self.trial.arms)
        if isinstance(self.trial.allocation, Randomised) and self.patients < arms:
            refuse("patients", f"be at least the number of arms ({arms}) where `randomised` is true", self.patients)

    @property
    def stem(self) -> str:
        """Name of the file without directory and ending."""
        return Path(self.source).stem

    def protocol(self, cohort: Cohort) -> Trial:
        """Return the protocol for the patients that were drawn: their strata are those of the randomisation."""
        trial = self.trial
        return Trial(
            trial.arms,
            trial.ts,
            endpoints=dict(zip(trial.endpoint_names, trial.endpoints, strict=True)),
            allocation=self.conduct.allocation(cohort),
            adherence=trial.adherence,
            enrolment=trial.enrolment,
            dropout=trial.dropout,
            cutoff=trial.cutoff,
        )

    def sample(self, key: Key) -> Cohort:
        """Draw the patients.

        Raises:
            FileIssues: If a parameter of one is outside its range.
        """
        try:
            return self.population.sample(key=key, size=self.patients)
        except ArgumentError as error:
            table = self._varied().get(error.argument)
            if table is None:
                raise
            path = ("population", table, error.argument)
            remedy = "Truncate it" if table == "between" else "Truncate the covariate that it depends on"
            message = f"{error.must[:-1]} in a sampled patient. {remedy}: truncate = [low, high]."
            issue = Issue(self.source, path, message, line_of(path, lines_of(text_of(self.text, self.source))))
            raise FileIssues([issue]) from error

    def _varied(self) -> dict[str, str]:
        """Return the table of the population that holds each parameter that differs between patients."""
        effects = enumerate(self.population.effects, start=1)
        changed = {name: f"effects[{i}]" for i, effect in effects for name in effect.parameters()}
        return changed | dict.fromkeys(self.population.between_names, "between")


def bundled_trial(name: str = "omalizumab") -> Traversable:
    """Return a trial that comes with qspjax: `omalizumab` and IgE, or `capecitabine` in colorectal cancer.

    Raises:
        ValueError: If no trial has this name.

    Example:
        >>> read_trial(bundled_trial()).title
        'Omalizumab and free IgE in allergic asthma'
    """
    check_one_of("name", name, BUNDLED, "a trial that comes with qspjax")
    return importlib.resources.files("qspjax.io") / "trials" / f"{name}.toml"


def read_trial(file: str | Path | Traversable) -> TrialFile:
    """Read a trial file.

    Raises:
        FileIssues: If it cannot be read, or anything in it is wrong; `issues` lists all mistakes.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "trial.toml").write_text(
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'arms = { treated = { dose = 30, to = "central" } }\\n'
        ...     'output = { until = 24, every = 8 }\\n'
        ... )
        >>> read_trial(folder / "trial.toml").trial.ts
        Array([ 0.,  8., 16., 24.], dtype=float64)
    """
    return read_file(file, _trial_file)


def _trial_file(top: Table, source: str, text: bytes, folder: Path | None) -> TrialFile | None:
    title = top.text("title", default=Path(source).stem)
    patients = top.integer("patients", default=1000, minimum=1, maximum=MOST_PATIENTS)
    seed = top.integer("seed", default=1)
    opened = {key: top.table(key, required=True) for key in ("model", "arms", "output")}
    opened |= {key: top.table(key) for key in ("population", "endpoints")}
    top.close(allowed=("randomised", "cutoff", *KEYS))
    info = None if opened["model"].bad else read_model(opened["model"], folder)
    if info is None:
        return None
    population, info = read_population(opened["population"], info)
    times, save, panels = ((), (), ()) if opened["output"].bad else _output(opened["output"], info)
    arms = read_arms(opened["arms"], info)
    endpoints = read_endpoints(opened["endpoints"], info, times)
    conduct = read_conduct(top, info, tuple(opened["arms"].values), times)
    if top.issues or population is None or conduct is None:
        return None
    named = {name: endpoint.endpoint for name, endpoint in endpoints.items()}
    trial = Trial(
        arms,
        times,
        endpoints=named,
        allocation=conduct.allocation(None),
        adherence=conduct.adherence,
        enrolment=conduct.enrolment,
        dropout=conduct.dropout,
        cutoff=conduct.cutoff,
    )
    judged = (conduct.tumour and conduct.tumour.output, conduct.survival)
    save = tuple(dict.fromkeys((*save, *(name for name in judged if name))))
    units = {name: endpoint.unit for name, endpoint in endpoints.items()}
    return top.make(TrialFile, source, text, title, population, trial, patients, seed, save, units, panels, conduct)


def _output(table: Table, info: ModelInfo) -> tuple[tuple[float, ...], tuple[str, ...], tuple[PanelTable, ...]]:
    times = read_times(table, info.units.time)
    observed = tuple(info.observed)
    kind = "a value that the model observes, or a state"
    save = table.names("save", (*observed, *info.states), kind, default=info.main)
    panels = [_panel(part, info, save or observed) for part in table.tables("panels")]
    table.close()
    plain: list[PanelTable] = [{"output": name} for name in observed if name in (save or ())]
    return times, save or (), tuple(panel for panel in panels if panel is not None) or tuple(plain[:_MOST_PANELS])


def _panel(table: Table, info: ModelInfo, save: tuple[str, ...]) -> PanelTable | None:
    drawn = [name for name in info.observed if name in save]
    output = table.name("output", drawn, "an observed value that is saved")
    unit = None if output is None else info.observed[output]
    label, log = table.text("label", default=None), table.flag("log", default=False)
    lines = table.numbers("lines", unit, default=()) or ()
    table.close()
    return None if output is None else {"output": output, "label": label, "log": log, "lines": lines}
