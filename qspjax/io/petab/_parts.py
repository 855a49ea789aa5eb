"""A PEtab problem of either version, in a common form."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from qspjax._expression import Expression, substitute, symbol
from qspjax.fit import AbstractResidualDistribution, DoubleExponential, Gaussian, Weights
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._priors import plain_kind
from qspjax.io.petab._tables import Row
from qspjax.io.sbml import read_sbml
from qspjax.models import AbstractTerm, Network

Formula: TypeAlias = float | Expression


@dataclasses.dataclass
class Period:
    """A period of an experiment: what its conditions set from a time on; -inf is the equilibration before it."""

    time: float
    targets: dict[str, Formula]
    conditions: tuple[str, ...] = ()


@dataclasses.dataclass
class Tables:
    """A problem of either version, in a common form.

    Attributes:
        network: The model.
        parameters: The rows of the table of parameters.
        observables: By id: formula, noise formula, scale of the measurement, distribution, placeholders of both.
        experiments: The periods of each experiment by name.
        measurements: The rows of data, with the name of the experiment of each.
        targets: The ids that conditions set.
        renamed: The ids of the model, by ids of the tables that differ from them.
        weights: The weights of networks that are estimated.
        functions: The networks that formulas of conditions call, by id.
        used: The ids that networks use.
        has_priors: Whether weights have priors.
    """

    network: Network
    parameters: list[Row]
    observables: dict[str, "Observable"]
    experiments: dict[str, list[Period]]
    measurements: list[tuple[str, Row]]
    targets: list["Target"]
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)
    functions: Mapping[str, AbstractTerm] = dataclasses.field(default_factory=dict)
    used: frozenset[str] = frozenset()
    has_priors: bool = False

    def in_model_ids(self, formula: Formula) -> Formula:
        """Return a formula of the tables in ids of the model."""
        return with_ids(formula, self.renamed)


@dataclasses.dataclass(frozen=True)
class Target:
    """An id that a condition sets.

    Attributes:
        id: The id.
        formula: Its value; 0 if it is not changed.
        row: The row of the table.
        column: The column of the id.
        value_column: The column of the formula.
        first: Whether it is set at the start of an experiment, where version 2 allows nothing but parameters.
    """

    id: str
    formula: Formula
    row: Row
    column: str
    value_column: str
    first: bool = False


@dataclasses.dataclass
class Observable:
    """A row of the table of observables."""

    row: Row
    formula: Formula
    noise: Formula
    base: float
    distribution: AbstractResidualDistribution
    placeholders: tuple[str, ...]
    noise_placeholders: tuple[str, ...]


def with_ids(formula: Formula, renamed: Mapping[str, str]) -> Formula:
    """Return a formula with other ids."""
    if not isinstance(formula, Expression) or not renamed:
        return formula
    return substitute(formula, {new: symbol(old) for new, old in renamed.items()})


def read_model(path: Path, name: str) -> Network:
    """Read the model of a problem."""
    file = path.parent / name
    if not file.is_file():
        raise FileIssues([Issue(path.name, (), f"must name a model that exists, but {file} is no file.")])
    return read_sbml(file)


def noise_of(scale: str, distribution: str) -> tuple[float, AbstractResidualDistribution] | None:
    """Return the base of the logarithm (0 for none) and the distribution for words of the tables."""
    kind = plain_kind(distribution or "normal")
    if kind.startswith("log"):
        scale, kind = "log", kind.removeprefix("log")
    base = {"": 0.0, "lin": 0.0, "log": math.e, "log10": 10.0}.get(scale)
    residual = {"normal": Gaussian(), "laplace": DoubleExponential()}.get(kind)
    return None if base is None or residual is None else (base, residual)
