"""A population that agrees with what was observed: its weights, what it reaches, and what it cannot."""

from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np

from qspjax._extras import require
from qspjax._text import aligned, number

if TYPE_CHECKING:
    import pandas


class Prevalence(eqx.Module):
    """Weights of patients, and how well the population agrees with each target.

    Attributes:
        weights: The weight of each patient, 1 together, shape (patients,); equal for those chosen by `select`.
        names: The targets in words.
        wanted: What each should be.
        reached: What it is.
        errors: The difference, relative for means and standard deviations, as it is for shares and correlations.
        unreachable: Targets that no weights can reach: no patient is on one side of them.
        conflicting: Targets that no weights can reach together with the others, which the least violation leaves.

    Example:
        >>> import qspjax as qsp
        >>> patients = {"LDL": [150.0, 180.0, 200.0]}
        >>> print(qsp.population.weights(patients, [qsp.population.Mean("LDL", 165.0)]))
                     wanted  reached   error
        mean of LDL     165      165  0.00 %
        effective size 2.25 of 3 patients; greatest error 0.00 % (mean of LDL)
    """

    weights: np.ndarray
    names: tuple[str, ...] = eqx.field(static=True)
    wanted: np.ndarray
    reached: np.ndarray
    errors: np.ndarray
    unreachable: tuple[str, ...] = eqx.field(static=True)
    conflicting: tuple[str, ...] = eqx.field(static=True)

    @property
    def effective_size(self) -> float:
        """How many patients of equal weight are as many: 1 / sum w^2."""
        return float(1.0 / np.sum(self.weights**2))

    @property
    def members(self) -> np.ndarray:
        """The numbers of the patients that have a weight."""
        return np.flatnonzero(self.weights > 0.0)

    @property
    def worst(self) -> float:
        """The greatest error of a target."""
        return float(np.max(np.abs(self.errors)))

    def __str__(self) -> str:
        rows = [["", "wanted", "reached", "error"]]
        columns = zip(self.names, self.wanted, self.reached, self.errors, strict=True)
        rows += [[name, number(wanted), number(got), f"{100 * error:z.2f} %"] for name, wanted, got, error in columns]
        worst = self.names[int(np.argmax(np.abs(self.errors)))]
        size = f"effective size {self.effective_size:.3g} of {len(self.weights)} patients"
        lines = [aligned(rows), f"{size}; greatest error {100 * self.worst:.2f} % ({worst})"]
        lines += [f"no weights can reach the {name}: all patients are on one side of it" for name in self.unreachable]
        lines += [f"in conflict with other targets: the {name}" for name in self.conflicting]
        return "\n".join(lines)

    __repr__ = __str__

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per target: wanted, reached, error."""
        columns = {"target": self.names, "wanted": self.wanted, "reached": self.reached, "error": self.errors}
        return require("pandas", extra="data").DataFrame(columns)
