"""Counterfactuals of one patient: what would have been, had something else been done to him.

Abduction: draws of what is not known of him, given what was observed. Action: another regimen, or `do`. Prediction:
every draw is simulated with and without, so that the difference has a distribution of its own.

Reference: Pearl, Causality, 2nd edition 2009, section 7.1, doi:10.1017/CBO9780511803161.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._simulate import simulate_cohort
from qspjax._solution import Solution
from qspjax._text import aligned, number
from qspjax._types import ArrayInput
from qspjax.fit._patients import banded
from qspjax.fit._types import Numbers, Table
from qspjax.fit._wald import check_level
from qspjax.population import _do
from qspjax.population._do import Mechanism
from qspjax.solve import AbstractMethod


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """What was, or would have been, of one patient under two courses of action, draw by draw.

    Attributes:
        factual: The draws as they were treated.
        counterfactual: The same draws as they were not.

    Example:
        >>> import qspjax as qsp
        >>> draws = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [28.0, 30.0, 33.0]})
        >>> dose = qsp.bolus(100.0, to="central")
        >>> factual, other = (qsp.simulate_cohort(each, dose, [0.0, 24.0]) for each in (draws, qsp.do(draws, CL=1.0)))
        >>> print(qsp.fit.Counterfactual(factual, other))
        at the last time               median  90 % of the draws
        concentration, factual         0.3024    0.2759 to 0.338
        concentration, counterfactual   1.498     1.468 to 1.514
        concentration, difference       1.195      1.13 to 1.238
        do(CL=1)
    """

    factual: Solution
    counterfactual: Solution

    @property
    def difference(self) -> dict[str, Float[np.ndarray, "draws times"]]:
        """By output, how much more it would have been: the counterfactual less the factual, NaN after a failure."""
        observed = self.factual.observed
        return {name: np.asarray(self.counterfactual.observed[name]) - np.asarray(observed[name]) for name in observed}

    def bands(self, level: float = 0.9) -> dict[str, Table]:
        """Return the `factual`, the `counterfactual` and the `difference`, each a median with a band over time.

        Each is a table as `predict` of a fit returns it: the data of `plot.prediction`. A draw that failed in one of
        the two is left out of all.

        Args:
            level: The share of the draws within a band.

        Raises:
            RuntimeError: If every draw failed.
        """
        check_level(level)
        both, labels, bands = (self.factual, self.counterfactual), self.factual.labels, {}
        succeeded = ~np.any([each.failed for each in both], axis=0)
        if not succeeded.any():
            raise RuntimeError(f"No draw can be simulated. {[f.reason for each in both for f in each.failures()][0]}")
        parts = {"factual": both[0].observed, "counterfactual": both[1].observed, "difference": self.difference}
        for name, values in parts.items():
            kept = {(output, labels.unit(output)): np.asarray(x)[succeeded] for output, x in values.items()}
            bands[name] = banded(kept, np.asarray(self.factual.ts), level=level, time_unit=labels.units.time)
        return bands

    def __str__(self) -> str:
        """Say what there is at the last time."""
        rows, bands = [["at the last time", "median", "90 % of the draws"]], self.bands(0.9)
        for output in self.factual.observed:
            for name, table in bands.items():
                low, middle, high = (
                    table[edge][table["OUTPUT"] == output][-1] for edge in ("LOWER", "MEDIAN", "UPPER")
                )
                rows.append([f"{output}, {name}", number(middle), f"{number(low)} to {number(high)}"])
        done = self.counterfactual.interventions
        return aligned(rows) if done is None else f"{aligned(rows)}\n{done}"


def contrasted(
    draws: Cohort,
    regimen: Regimen,
    ts: Numbers,
    *,
    instead: Regimen | None,
    do: Mapping[str, ArrayInput | Mechanism] | None,
    method: AbstractMethod | None,
) -> Counterfactual:
    """Return what would have been of a patient under another regimen, or with something set, beside what was.

    Args:
        draws: What may be the patient, given what was observed of him.
        regimen: The doses that he had.
        ts: Times, shape (times,).
        instead: The doses that he did not have; by default the same.
        do: What is set of him, by name, as in `qsp.do`.
        method: How to simulate.

    Raises:
        ValueError: If nothing is different, or a name is unknown.
    """
    if instead is None and not do:
        raise ValueError(
            "A counterfactual must have doses in `instead`, or something that is set by `do`, but has none."
        )
    other = _do.do(draws, **do) if do else draws
    times = np.asarray(ts, float)
    factual = simulate_cohort(draws, regimen, times, method=method)
    return Counterfactual(
        factual, simulate_cohort(other, regimen if instead is None else instead, times, method=method)
    )
