"""Population files: plausible patients, and how common each is, as text, in TOML, with units.

    title, patients, seed      the title, the number of plausible patients, the seed of the random numbers
    [model], [population]      as in a trial file; the distributions are the ranges in which patients are looked for
    [arms.NAME]                as in a trial file
    [bounds.NAME]              an endpoint as in a trial file (such as value), and low, high or both; the arm, where
                               there are several; over, for the ratio of that arm to another
    [search]                   method ("screened", "rejection", "metropolis_hastings", "langevin", "optimised") with its
                               arguments, and most: how many patients may be simulated
    [[targets]]                what was observed: mean, sd, quantile, histogram, shares, correlation or survival_curve,
                               of a bound's statistic, a parameter or a covariate
    [weights]                  method ("entropy_balancing", "least_violation", "mapel") with its arguments
    [selection]                size, method ("exchange", "density_ratio") with its arguments
    [output]                   until and every, or times, where a bound is not on a value at a time

Text is only ever read as names and quantities; nothing in a file is evaluated.
"""

import dataclasses
import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from qspjax._checks import refuse
from qspjax._forms import MOST_PATIENTS
from qspjax.io.population._targets import read_targets
from qspjax.io.toml._choices import read_choice
from qspjax.io.toml._doses import read_arms
from qspjax.io.toml._endpoints import read_endpoint
from qspjax.io.toml._model import ModelInfo, read_model, read_population
from qspjax.io.toml._read import parsed, read_bytes, read_file
from qspjax.io.toml._table import Table, present
from qspjax.io.toml._times import read_times
from qspjax.population import (
    MAPEL,
    AbstractPatientSearch,
    AbstractSelection,
    AbstractTarget,
    AbstractWeighting,
    Arm,
    Bound,
    DensityRatio,
    EntropyBalancing,
    Exchange,
    Langevin,
    LeastViolation,
    MetropolisHastings,
    Optimised,
    Population,
    Rejection,
    Screened,
)
from qspjax.population.endpoints import Value

_SEARCHES: dict[str, type[AbstractPatientSearch]] = {
    "screened": Screened,
    "rejection": Rejection,
    "metropolis_hastings": MetropolisHastings,
    "langevin": Langevin,
    "optimised": Optimised,
}
_WEIGHTINGS: dict[str, type[AbstractWeighting]] = {
    "entropy_balancing": EntropyBalancing,
    "least_violation": LeastViolation,
    "mapel": MAPEL,
}
_SELECTIONS: dict[str, type[AbstractSelection]] = {"exchange": Exchange, "density_ratio": DensityRatio}

COLUMNS = ("patient", "weight", "selected")
"""The other columns of the table of patients."""


class Search(NamedTuple):
    """How patients are looked for: as the arguments of `plausible`."""

    method: AbstractPatientSearch
    most: int | None


class Selection(NamedTuple):
    """How patients are chosen: as the arguments of `select`."""

    method: AbstractSelection
    size: int | None


@dataclasses.dataclass(frozen=True)
class PopulationFile:
    """A search for plausible patients as a file describes it.

    Attributes:
        source: Name of the file.
        text: Its bytes.
        title: The title.
        population: The ranges of the patients.
        arms: The arms in which they are simulated.
        bounds: The bounds by name.
        patients: The number of plausible patients.
        seed: The seed of the random numbers.
        times: Times of the simulations, None for those of the bounds alone.
        search: How they are looked for.
        targets: What was observed.
        weighting: How they are weighed, None if they are not.
        selection: How they are chosen, None if they are not.

    Raises:
        ValueError: If there are fewer patients than are to be chosen.

    Example:
        >>> file = read_population_file(bundled_population())
        >>> file.stem, file.patients, len(file.bounds), len(file.targets)
        ('antibody', 500, 4, 3)
    """

    source: str
    text: bytes
    title: str
    population: Population
    arms: tuple[Arm, ...]
    bounds: dict[str, Bound]
    patients: int
    seed: int
    times: tuple[float, ...] | None
    search: Search
    targets: tuple[AbstractTarget, ...]
    weighting: AbstractWeighting | None
    selection: Selection | None

    def __post_init__(self) -> None:
        chosen = self.selection.size if self.selection is not None else None
        if chosen is not None and self.patients < chosen:
            refuse("patients", f"be at least the size of the selection ({chosen})", self.patients)

    @property
    def stem(self) -> str:
        """Name of the file without directory and ending."""
        return Path(self.source).stem


def bundled_population() -> Traversable:
    """Return the population that comes with qspjax: an antibody against a soluble target.

    Example:
        >>> read_population_file(bundled_population()).title
        'Who could the next trial of an antibody enrol?'
    """
    return importlib.resources.files("qspjax.io") / "populations" / "antibody.toml"


def is_population(path: Path) -> bool:
    """Return whether a file in TOML is a population file, as opposed to a trial file."""
    values = parsed(read_bytes(path, path.name), path.name)
    return "bounds" in values and "endpoints" not in values


def read_population_file(file: str | Path | Traversable) -> PopulationFile:
    """Read a population file.

    Raises:
        FileIssues: If it cannot be read, or anything in it is wrong; `issues` lists all mistakes.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "patients.toml").write_text(
        ...     'patients = 20\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'population = { between = { V = { low = 10, high = 100 } } }\\n'
        ...     'arms = { treated = { dose = 30, to = "central" } }\\n'
        ...     'bounds = { peak = { value = { output = "concentration", at = 0 }, high = "1 mg/L" } }\\n'
        ... )
        >>> qsp.io.read_population_file(folder / "patients.toml").bounds["peak"].high
        Array(1., dtype=float64)
    """
    return read_file(file, _population_file)


def _population_file(top: Table, source: str, text: bytes, folder: Path | None) -> PopulationFile | None:
    title = top.text("title", default=Path(source).stem)
    patients = top.integer("patients", default=1000, minimum=1, maximum=MOST_PATIENTS)
    seed = top.integer("seed", default=1)
    opened = {key: top.table(key, required=True) for key in ("model", "population", "arms", "bounds")}
    opened |= {key: top.table(key) for key in ("search", "weights", "selection", "output")}
    observed = top.tables("targets")
    top.close()
    info = None if opened["model"].bad else read_model(opened["model"], folder)
    if info is None:
        return None
    population, info = read_population(opened["population"], info)
    arms = read_arms(opened["arms"], info)
    times = read_times(opened["output"], info.units.time) if "output" in top and not opened["output"].bad else ()
    opened["output"].close()
    bounds, units = _bounds(opened["bounds"], info, tuple(opened["arms"].values), times)
    if population is not None:
        if not population.coordinates():
            opened["population"].issue("", "must have something that varies ([population.between]), but has nothing.")
        units = _varied(population, info) | units
    targets = read_targets(observed, units)
    most = opened["search"].integer("most", default=None, minimum=1)
    search = read_choice(opened["search"], _SEARCHES, "a search", "screened")
    weighting = read_choice(opened["weights"], _WEIGHTINGS, "a way to weigh patients", "entropy_balancing")
    selection = _selection(opened["selection"]) if "selection" in top else None
    for key in ("weights", "selection"):
        if key in top and not observed:
            top.issue(key, "must go with [[targets]], but there are none.")
    if population is None or search is None:
        return None
    return top.make(
        PopulationFile,
        source,
        text,
        title,
        population,
        tuple(arms),
        bounds,
        patients,
        seed,
        times or None,
        Search(search, most),
        tuple(targets),
        weighting if targets and ("weights" in top or "selection" not in top) else None,
        selection,
    )


def _bounds(
    table: Table, info: ModelInfo, arms: tuple[str, ...], times: tuple[float, ...]
) -> tuple[dict[str, Bound], dict[str, str | None]]:
    """Return the bounds, and the unit of the statistic of each, None where it is wrong."""
    bounds, units = {}, {}
    for name, part in table.children().items():
        bounds[name], units[name] = _bound(part, info, arms, times)
        if name in (*COLUMNS, *info.parameters, *info.covariates, *info.categories):
            part.issue("", "must have another name: parameters, covariates and patients.csv have that one.")
    if not bounds and not table.bad:
        table.issue("", "must have at least one bound, such as [bounds.trough], but has none.")
    return present(bounds), units


def _bound(
    table: Table, info: ModelInfo, arms: tuple[str, ...], times: tuple[float, ...]
) -> tuple[Bound | None, str | None]:
    endpoint = read_endpoint(table, info, times, beside=("low", "high", "arm", "over"))
    statistic, unit = (None, None) if endpoint is None else endpoint
    arm = table.name("arm", arms, "an arm", default=None)
    over = table.name("over", arms, "an arm", default=None)
    if len(arms) > 1 and "arm" not in table:
        table.issue("arm", f"must be given where there are several arms ({', '.join(arms)}), but is missing.")
    if over is not None and over == (arm or next(iter(arms))):
        table.issue("over", f'must be another arm than that of the bound, but is "{over}".')
    unit = "" if "over" in table else unit
    ends = {key: table.number(key, unit) for key in ("low", "high") if key in table}
    if not ends:
        table.issue("", "must have low, high or both, but has none.")
    if statistic is not None and not isinstance(statistic, Value) and not times:
        table.issue("", "must be on a value at a time, or [output] must say the times of the simulation.")
    return table.make(Bound, statistic, **ends, arm=arm, over=over), unit


def _varied(population: Population, info: ModelInfo) -> dict[str, str | None]:
    """Return the units of what varies between patients."""
    changed = [name for effect in population.effects for name in effect.parameters()]
    return {name: info.parameters[name] for name in (*population.between_names, *changed)} | info.covariates


def _selection(table: Table) -> Selection | None:
    size = table.integer("size", default=None, minimum=1)
    method = read_choice(table, _SELECTIONS, "a way to choose patients", "exchange")
    if table.values.get("method", "exchange") == "exchange" and "size" not in table:
        table.issue("size", "must be given, but is missing.")
    return None if method is None else Selection(method, size)
