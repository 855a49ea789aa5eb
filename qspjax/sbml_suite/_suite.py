"""Cases of the semantic SBML Test Suite: a model, how to simulate it, and what must come out.

A case is a folder `NNNNN` with `NNNNN-settings.txt`, `NNNNN-results.csv`, the model in one or more levels of SBML
(`NNNNN-sbml-l3v2.xml`) and, in the official suite, a description (`NNNNN-model.m`). A value passes if

$$ |expected - value| \\le absolute + relative \\cdot |expected| $$

and infinite and undefined values must be the same.

Reference: https://github.com/sbmlteam/sbml-test-suite.
"""

import csv
import dataclasses
import functools
import math
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qspjax._dosing._doses import no_doses
from qspjax._files import write_text
from qspjax._simulate import simulate
from qspjax._solution import RESULTS
from qspjax._types import Observed
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.sbml._read import read_sbml
from qspjax.models import Network
from qspjax.solve import Rosenbrock

Columns: TypeAlias = dict[str, Float[np.ndarray, " times"]]
"""Values by variable."""

PASS, REFUSED, WRONG = "pass", "refused", "wrong"
OUTCOMES = (PASS, REFUSED, WRONG)

MOST_STEPS = 2_000_000
"""The maximum number of steps of a simulation; slow simulations are stopped by the clock before."""

_NAME = re.compile(r"\d{5}")
_MODEL = re.compile(r".*-sbml-l(\d+)v(\d+)\.xml")
_FAST: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
"""Every case is compiled for a single short run."""


class CaseResult(NamedTuple):
    """How a case went.

    Attributes:
        case: Its number, five digits.
        outcome: "pass", "refused" (nothing was computed, for the reason) or "wrong".
        reason: Why it did not pass.
        tags: What the model consists of, if it is known.
        seconds: How long it took.
        ratio: The greatest error as a share of what is allowed, NaN if nothing was computed.

    Example:
        >>> CaseResult("00001", PASS, "", ("Reaction",), seconds=0.4, ratio=0.02).outcome
        'pass'
    """

    case: str
    outcome: str
    reason: str
    tags: tuple[str, ...]
    seconds: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a case is simulated and compared."""

    start: float
    duration: float
    steps: int
    variables: tuple[str, ...]
    absolute: float
    relative: float
    amount: frozenset[str]
    concentration: frozenset[str]

    @property
    def times(self) -> Float[np.ndarray, " times"]:
        """The times to report, each rounded once."""
        return self.start + np.arange(self.steps + 1) * self.duration / self.steps


class Refused(Exception):  # noqa: N818 - a case that is refused is no error
    """A case that is not computed; the text says why.

    Example:
        >>> raise Refused("not supported: fast reactions")
        Traceback (most recent call last):
        qspjax.sbml_suite._suite.Refused: not supported: fast reactions
    """


def run_case(folder: str | Path, tags: Sequence[str] = ()) -> CaseResult:
    """Run one case of the suite in the newest level that it has.

    Args:
        folder: The folder of the case.
        tags: What the model consists of; by default what the description says.

    Returns:
        The outcome.

    Raises:
        FileIssues: If the settings or the results of the case cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "00001"
        >>> folder.mkdir()
        >>> settings = "start: 0\\nduration: 1\\nsteps: 1\\nvariables: A\\nabsolute: 1e-7\\nrelative: 1e-4\\n"
        >>> _ = (folder / "00001-settings.txt").write_text(settings)
        >>> _ = (folder / "00001-results.csv").write_text("time,A\\n0,1\\n1,0.5\\n")
        >>> found = run_case(folder)  # the folder has no model yet
        >>> found.outcome, found.reason
        ('refused', 'no model')
    """
    folder, begun = Path(folder), time.perf_counter()
    settings = read_settings(folder / f"{folder.name}-settings.txt")
    expected = read_results(folder / f"{folder.name}-results.csv", settings)
    ratio = math.nan
    try:
        values = computed(network_of(model_of(folder)), settings)
        outcome, reason, ratio = judged(expected, values, settings)
    except Refused as refusal:
        outcome, reason = REFUSED, str(refusal)
    tags = tuple(tags) or tags_of(folder)
    return CaseResult(folder.name, outcome, reason, tags, time.perf_counter() - begun, ratio)


def write_case(folder: str | Path, out: str | Path, *, level: int = 0, version: int = 0) -> Path:
    """Run one case and write its results as the SBML Test Runner reads them: `NNNNN.csv`.

    Args:
        folder: The folder of the case.
        out: The directory to write to.
        level: The level of SBML, the newest one if 0.
        version: Its version.

    Returns:
        The path of the file.

    Raises:
        Refused: If the case is not supported; there is no file then.
        FileIssues: If the settings of the case cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "00001"
        >>> folder.mkdir()
        >>> settings = "start: 0\\nduration: 1\\nsteps: 1\\nvariables: A\\nabsolute: 1e-7\\nrelative: 1e-4\\n"
        >>> _ = (folder / "00001-settings.txt").write_text(settings)
        >>> write_case(folder, folder.parent)  # the folder has no model yet
        Traceback (most recent call last):
        qspjax.sbml_suite._suite.Refused: no model
    """
    folder, path = Path(folder), Path(out) / f"{Path(folder).name}.csv"
    path.unlink(missing_ok=True)
    settings = read_settings(folder / f"{folder.name}-settings.txt")
    values = computed(network_of(model_of(folder, level, version)), settings)
    rows = zip(*(column.tolist() for column in values.values()), strict=True)
    lines = [",".join(values), *(",".join(map(_spelled, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
    return path


def case_folders(cases: str | Path, wanted: Iterable[int] | None = None) -> list[Path]:
    """Return the folders of the cases, in order.

    Args:
        cases: The folder of the suite, or one below it.
        wanted: Numbers of cases; all by default.

    Raises:
        FileIssues: If there are none.

    Example:
        >>> import tempfile
        >>> suite = Path(tempfile.mkdtemp())
        >>> for number in ("00001", "00002"):
        ...     (suite / number).mkdir()
        >>> [folder.name for folder in case_folders(suite, [2])]
        ['00002']
    """
    root = Path(cases)
    for parent in (root / "cases" / "semantic", root / "semantic", root):
        folders = sorted(entry for entry in parent.glob("[0-9]*") if _NAME.fullmatch(entry.name) and entry.is_dir())
        if folders:
            break
    else:
        raise FileIssues([Issue(str(cases), (), "must be a folder of cases (00001, 00002, ...), but has none.")])
    numbers = None if wanted is None else frozenset(wanted)
    return [folder for folder in folders if numbers is None or int(folder.name) in numbers]


def model_of(folder: Path, level: int = 0, version: int = 0) -> Path:
    """Return the file of the model in a level of SBML, in the newest one if it is 0.

    Raises:
        Refused: If there is none.
    """
    models = {}
    for path in sorted(folder.glob(f"{folder.name}-sbml-l*v*.xml")):
        name = _MODEL.fullmatch(path.name)
        if name:
            models[int(name[1]), int(name[2])] = path
    if level == 0 and models:
        return models[max(models)]
    if (level, version) not in models:
        raise Refused("no model" + (f" in Level {level} Version {version}" if level else ""))
    return models[level, version]


def tags_of(folder: Path) -> tuple[str, ...]:
    """Return what a case consists of: from its description, else from `tags.csv` of the suite."""
    description = folder / f"{folder.name}-model.m"
    if description.is_file():
        tags = re.search(r"^\s*componentTags:(.*)$", description.read_text("utf-8", "replace"), re.MULTILINE)
        return tuple(re.findall(r"[\w:]+", tags[1])) if tags else ()
    for above in folder.parents[:4]:
        if (above / "tags.csv").is_file():
            return _tags(above / "tags.csv").get(folder.name, ())
    return ()


@functools.lru_cache(maxsize=8)
def _tags(path: Path) -> dict[str, tuple[str, ...]]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        return {row["case"]: tuple(re.findall(r"[\w:]+", row.get("componentTags") or "")) for row in rows}


def read_settings(path: Path) -> Settings:
    """Read the settings of a case.

    Raises:
        FileIssues: If they cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
        entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        names = {
            key: tuple(re.findall(r"[^\s,]+", entries.get(key, ""))) for key in ("variables", "amount", "concentration")
        }
        settings = Settings(
            start=float(entries["start"]),
            duration=float(entries["duration"]),
            steps=int(entries["steps"]),
            variables=names["variables"],
            absolute=float(entries["absolute"]),
            relative=float(entries["relative"]),
            amount=frozenset(names["amount"]),
            concentration=frozenset(names["concentration"]),
        )
    except (OSError, KeyError, ValueError) as error:
        raise FileIssues([Issue(path.name, (), f"must be settings of a case, but is not: {error}.")]) from None
    if not (settings.steps > 0 and settings.duration > 0 and settings.start >= 0):
        raise FileIssues([Issue(path.name, (), "must have a start, a duration and steps, but has others.")])
    return settings


def read_results(path: Path, settings: Settings) -> Columns:
    """Read the expected values, by variable.

    Raises:
        FileIssues: If it cannot be read, or does not fit the settings.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            head, *rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(map(str.strip, row))]
        table = np.array([[float(cell) for cell in row[: len(head)]] for row in rows])
        columns = dict(zip(head[1:], table.T[1:], strict=True))
        expected = {name: columns[name] for name in settings.variables}
    except (OSError, KeyError, ValueError) as error:
        raise FileIssues([Issue(path.name, (), f"must be the results of a case, but is not: {error}.")]) from None
    if len(table) != settings.steps + 1 or not np.allclose(table[:, 0], settings.times, rtol=1e-6, atol=1e-9):
        raise FileIssues([Issue(path.name, (), "must have the times of the settings, but has others.")])
    return expected


def network_of(model: Path) -> Network:
    """Read a model.

    Raises:
        Refused: If it is not supported.
    """
    try:
        return read_sbml(model)
    except FileIssues as error:
        raise Refused(_first_reason(error.issues)) from None


def computed(network: Network, settings: Settings) -> Columns:
    """Simulate a network as a case says; return the times and the variables by name.

    Raises:
        Refused: If it is not solved.
    """
    definition = network.definition
    for name in settings.variables:
        if name not in definition.ids():
            raise Refused(f"not supported: {name} as a variable")
    compartments = {name: definition.compartment_of(name) for name in settings.variables if name in definition.species}
    sizes = [compartment for compartment in compartments.values() if compartment in definition.compartments]
    try:
        wanted = tuple(name for name in dict.fromkeys((*settings.variables, *sizes)) if name in network.plan.observed)
        values = {name: np.full(len(settings.times), math.nan) for name in settings.variables}
        values |= _solved(network, settings, wanted)
    finally:
        jax.clear_caches()
    columns = {"time": settings.times}
    for name in settings.variables:
        columns[name] = values[name]
        compartment = compartments.get(name)
        if compartment is None or compartment not in definition.compartments:
            continue
        in_amount, size = definition.in_amount(name), values[compartment]
        if name in settings.amount and not in_amount:
            columns[name] = values[name] * size
        elif name in settings.concentration and in_amount and definition.compartments[compartment].dimensions > 0:
            columns[name] = values[name] / size
    return columns


def _first_reason(issues: Sequence[Issue]) -> str:
    """Return why a file is refused: what is not supported, else the first thing that is wrong."""
    messages = [issue.message.rstrip(".") for issue in issues]
    return next((message for message in messages if message.startswith("not supported: ")), messages[0])


def _solved(network: Network, settings: Settings, save: tuple[str, ...]) -> Columns:
    try:
        atol = min(1e-4 * settings.absolute, 1e-6)
        method = Rosenbrock(rtol=min(1e-8, 1e-2 * settings.relative), atol=atol, max_steps=MOST_STEPS)
        arrays, static = eqx.partition(network, eqx.is_array)

        def run(arrays: Network, ts: Float[Array, " times"]) -> tuple[Observed, Int[Array, ""]]:
            solution = simulate(eqx.combine(arrays, static), no_doses(), ts, save=save, method=method, throw=False)
            return solution.observed, solution.result

        program = jax.jit(run).lower(arrays, jnp.asarray(settings.times)).compile(compiler_options=_FAST)
        observed, result = program(arrays, jnp.asarray(settings.times))
    except (ValueError, NotImplementedError) as error:
        raise Refused(str(error).partition("\n")[0]) from None
    if result != RESULTS.successful:
        raise Refused(f"not solved: {RESULTS[result].partition('. ')[0].rstrip('.')}")
    return {name: np.asarray(value) for name, value in observed.items()}


def judged(expected: Columns, values: Columns, settings: Settings) -> tuple[str, str, float]:
    """Return the outcome, the reason if it is wrong, and the greatest error as a share of what is allowed."""
    greatest, reason = 0.0, ""
    for name, wanted in expected.items():
        value = values[name]
        with np.errstate(invalid="ignore"):
            ratio = np.abs(wanted - value) / (settings.absolute + settings.relative * np.abs(wanted))
        same = (wanted == value) | (np.isnan(wanted) & np.isnan(value))
        ratio = np.where(same, 0.0, np.where(np.isfinite(wanted) & np.isfinite(value), ratio, math.inf))
        worst = int(np.argmax(ratio))
        if ratio[worst] > greatest:
            greatest = float(ratio[worst])
            reason = f"{name} is {value[worst]:g} at {settings.times[worst]:g}, but must be {wanted[worst]:g}"
    return (PASS, "", greatest) if greatest <= 1.0 else (WRONG, reason, greatest)


def _spelled(value: float) -> str:
    """Return a number as the suite spells it, with all its digits."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"
