"""The digital twin of a patient: what is known of it grows with each measurement, and says what a dose will do."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._names import names
from qspjax._random import check_key, generator
from qspjax._text import aligned, number
from qspjax._types import ArrayInput, Key, Scalar
from qspjax.fit._counterfactual import Counterfactual, contrasted
from qspjax.fit._frozen import settle
from qspjax.fit._patients import banded, predicted
from qspjax.fit._types import Numbers, Table as Columns
from qspjax.fit._wald import check_level
from qspjax.fit.data._measurements import Measurements, Output
from qspjax.fit.mixed._approximations import Laplace
from qspjax.fit.mixed._result import MixedFit
from qspjax.fit.twin._dose import AbstractAim, BestDose, DoseSearch, Risk, check_choice, in_the_middle
from qspjax.fit.twin._history import History, Row, Table, room
from qspjax.fit.twin._mode import Mode
from qspjax.fit.twin._particles import Particles
from qspjax.fit.twin._posterior import AbstractPosterior
from qspjax.fit.twin._prior import Prior, cohort_at, drawn
from qspjax.population import Population
from qspjax.population._do import Mechanism
from qspjax.solve import AbstractMethod

SURPRISING = 1e-3
"""The probability below which a measurement is called surprising."""
PRIOR_DRAWS = 2000
"""The number of draws that stand for the prior in the summary."""


@dataclasses.dataclass(frozen=True, eq=False, init=False, repr=False)
class Twin:
    """What is known of one patient: a population before the first measurement, and less varied after each.

    $$ p(\\phi | y_1 ... y_t) \\propto p(\\phi | y_1 ... y_{t-1}) \\, p(y_t | \\phi) $$

    `update` returns the twin after further doses and measurements, `forecast` says what doses to come will do, and
    `best_dose` which is the best. Parameters of the population itself are taken as certain.

    Args:
        population: The population of which the patient is: a `Population`, or the fit of a mixed-effects model.
        outputs: By name, what is measured, with its error model; by default those of the fit.
        method: How the posterior is computed: `Particles(key=...)`, or `Laplace()`, which is faster and takes it as
            normal.
        parameters: Numbers that formulas of outputs use, by name, such as those of the error; by default those of the
            fit.
        covariates: Those of the patient, by name; categories by their names. One that the population draws may be
            missing: it is then inferred.
        simulated_by: How to simulate; by default as `simulate` does, or as the fit did.

    Raises:
        ValueError: If a name has no meaning, a covariate is missing of which the population has values only, effects
            are those of occasions, errors depend on earlier measurements, or a draw of the population has a parameter
            outside its range.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import Measurements, Output, Particles, Proportional, Twin
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     between={"CL": qsp.LogNormal(cv=0.4), "V": qsp.LogNormal(cv=0.2)},
        ... )
        >>> outputs = {"C": Output("concentration", Proportional(0.1))}
        >>> twin = Twin(population, outputs, Particles(key=jax.random.key(0)))
        >>> first = qsp.bolus(300.0, to="central")
        >>> twin = twin.update(Measurements([1.0, 12.0], [10.4, 5.2], output="C"), first)
        >>> summary = twin.summary()
        >>> round(float(summary["MEAN"][0])), bool(summary["SHRINKAGE"][0] > 0.5)
        (2, True)
        >>> second = qsp.bolus(300.0, to="central", at=24.0)
        >>> table = twin.forecast(second, [24.0, 36.0, 48.0], key=jax.random.key(1))
        >>> bool(table["LOWER"][0] < table["MEDIAN"][0] < table["UPPER"][0])
        True
    """

    prior: Prior
    method: Particles | Laplace
    history: History
    posterior: AbstractPosterior
    expected: tuple[tuple[Row, float], ...]

    def __init__(
        self,
        population: Population | MixedFit,
        outputs: Mapping[str, Output] | None = None,
        method: Particles | Laplace | None = None,
        *,
        parameters: Mapping[str, Scalar] | None = None,
        covariates: Mapping[str, Scalar | str] | None = None,
        simulated_by: AbstractMethod | None = None,
    ) -> None:
        """Check everything; nothing is measured yet."""
        check_instance("population", population, (Population, MixedFit), "a Population, or the result of nlme")
        if isinstance(population, MixedFit):
            placed = population.placed
            outputs = placed.outputs if outputs is None else outputs
            parameters = {**placed.values(population.x), **(parameters or {})}
            simulated_by = placed.method if simulated_by is None else simulated_by
            population = population.population()
        check_instance("outputs", outputs, Mapping, "a mapping of names to outputs")
        check_instance("method", method, (Particles, Laplace), "a method such as Particles(key=...) or Laplace()")
        prior = Prior(
            population,
            outputs or {},
            parameters=parameters or {},
            covariates=covariates or {},
            simulated_by=simulated_by,
        )
        if not prior.coordinates:
            refuse("population", "have something that differs between patients", "one in which all are alike")
        size = len(prior.coordinates)
        begun = method.begin(size) if isinstance(method, Particles) else Mode.begin(size)
        settle(self, prior=prior, method=method, history=History(), posterior=begun, expected=())
        self._cohort(begun.weighed()[0])  # or a parameter is outside its range

    def update(self, measurements: Measurements, doses: Regimen | None = None) -> "Twin":
        """Return the twin after measurements, taken in one moment after the other, and the doses before them.

        Args:
            measurements: New measurements of outputs; missing values (NaN) are left out, censored ones have the
                likelihood of their bounds.
            doses: The doses that were given since the last update, up to the latest of these measurements. A
                measurement at the time of a dose of the same update, or of an earlier one, sees that dose; one that was
                taken before a dose at its time belongs to an update before it.

        Raises:
            ValueError: If a dose comes before what was measured earlier, or after all measurements.
            RuntimeError: If no patient of the population can have such a measurement; the message says why.
        """
        history, moments = self.history.after(measurements, doses, dict(self.prior.outputs))
        posterior, expected = self.posterior, self.expected
        for rows in moments:
            table = Table.of(history.regimen, history.rows, rows)
            try:
                posterior, below = posterior.updated(self.prior, table, len(history.rows))
            except RuntimeError as error:
                must = f"The measurement of `{rows[0].output}` at time {rows[0].time:g} is impossible for this patient"
                raise RuntimeError(f"{must}, by its prior and what was measured before. {error}") from error
            chances = {name: iter(below[name][:, part.new].T) for name, part in table.rows.items()}
            expected = (*expected, *((row, _p_value(row, *next(chances[row.output]))) for row in rows))
            history = history.with_rows(rows)
        return self._with(history=history, posterior=posterior, expected=expected)

    def _with(self, **changes: object) -> "Twin":
        new = object.__new__(Twin)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settle(new, **{**fields, **changes})
        return new

    @property
    def regimen(self) -> Regimen:
        """The doses so far."""
        return self.history.regimen

    @property
    def log_evidence(self) -> float:
        """The log density of all measurements so far, log p(y_1 ... y_t)."""
        return self.posterior.log_evidence

    @property
    def effective_size(self) -> float:
        """The effective sample size of the draws."""
        return self.posterior.effective

    def measurements(self) -> Columns:
        """Return the measurements so far, as columns, in the order in which they came.

        Returns:
            OUTPUT, TIME, DV, CENSORED, and P_VALUE: how probable a measurement at least as far from what was expected
            of this patient was before it came, on either side; for a censored one the probability of its bounds.
        """
        rows = [row for row, _ in self.expected]
        return {
            "OUTPUT": np.array([row.output for row in rows], dtype=object),
            "TIME": np.array([row.time for row in rows]),
            "DV": np.array([row.value for row in rows]),
            "CENSORED": np.array([row.side != 0 for row in rows], bool),
            "P_VALUE": np.array([p for _, p in self.expected]),
        }

    def remarks(self) -> tuple[str, ...]:
        """Say what is unusual: measurements that were hardly to be expected, draws that fail."""
        lines = []
        for row, p in self.expected:
            if p < SURPRISING:
                what = f"The measurement of `{row.output}` at time {row.time:g} ({row.value:g})"
                lines.append(
                    f"{what} was hardly to be expected of this patient, by the population and what was measured before "
                    f"(p = {p:.1g}): an outlier, another dose than was said, or a patient of another population."
                )
        if self.posterior.failed:
            share = f"{self.posterior.failed} draws cannot be simulated, or have no likelihood"
            lines.append(f"{share}; they have no weight.")
        return tuple(lines)

    def patients(self, *, key: Key, size: int = 1000) -> Cohort:
        """Return draws of the patient from its posterior, with its random effects among the covariates.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of draws.
        """
        return self._cohort(self._drawn(key, size))

    def _drawn(self, key: Key, size: int) -> np.ndarray:
        check_whole("size", size, 1)
        return self.posterior.drawn(size, generator(check_key(key)))

    def _cohort(self, z: np.ndarray) -> Cohort:
        return self.prior.population.cohort(*cohort_at(self.prior, z), len(z))

    def forecast(
        self,
        regimen: Regimen | None,
        ts: Numbers,
        *,
        key: Key,
        size: int = 1000,
        level: float = 0.9,
        measured: bool = False,
    ) -> Columns:
        """Return predictions for doses to come, with a band, as columns: the data of `plot.prediction`.

        Args:
            regimen: Doses to come, besides those of the updates; None for none.
            ts: Times, shape (times,), not decreasing.
            key: `jax.random.key(seed)`.
            size: The number of draws from the posterior.
            level: The share of them that the band holds.
            measured: Whether the band is that of new measurements of each output, with their error, in place of that of
                the curves of all observed values.

        Returns:
            OUTPUT (an observed value of the model, or an output), TIME, their UNIT and TIME_UNIT, LOWER, MEDIAN, UPPER
            and COUNT, the number of draws that did not fail.

        Raises:
            ValueError: If a dose comes before what was measured.
            RuntimeError: If no draw can be simulated.
        """
        regimen = self.regimen if regimen is None else self.history.given(regimen, "regimen")
        z = self._drawn(key, size)
        if not measured:
            padded = regimen.padded(room(regimen.rows))
            return predicted(self._cohort(z), padded, ts, level=level, method=self.prior.simulated_by)
        check_level(level)
        ts = np.asarray(ts, float)
        if ts.ndim != 1 or not ts.size:
            refuse("ts", "have shape (times,)", f"of shape {ts.shape}")
        rows = [Row(time, np.inf, name, 1.0, 0, -np.inf, np.inf) for name, _ in self.prior.outputs for time in ts]
        table = Table.of(regimen, (), rows)
        values, succeeded = drawn(self.prior, z, table, key)
        succeeded = np.asarray(succeeded)
        if not succeeded.any():
            raise RuntimeError(f"No draw can be simulated. The first: {self.prior.why(z, table)}")
        units = self.prior.population.model.units
        of_outputs = {
            (name, units.observed.get(str(output.prediction), "")): np.asarray(values[name])[succeeded][:, : ts.size]
            for name, output in self.prior.outputs
        }
        return banded(of_outputs, ts, level=level, time_unit=units.time)

    def counterfactual(
        self,
        ts: Numbers,
        *,
        key: Key,
        instead: Regimen | None = None,
        do: Mapping[str, ArrayInput | Mechanism] | None = None,
        size: int = 1000,
    ) -> Counterfactual:
        """Return what would have been of this patient, had it had other doses, or something been set, beside what was.

        Abduction: draws of its posterior, given all measurements. Action: `instead` and `do`. Prediction: each draw is
        simulated as it was and as it was not, so that the difference has a distribution of its own, which is narrower
        than those of two patients.

        Args:
            ts: Times, shape (times,), not decreasing.
            key: `jax.random.key(seed)`.
            instead: All doses that it would have had; by default those that it had.
            do: What is set of it, by name, as in `qsp.do`.
            size: The number of draws.

        Raises:
            ValueError: If nothing is different, or a name is unknown.

        Reference: Pearl, Causality, 2nd edition 2009, section 7.1, doi:10.1017/CBO9780511803161.

        Example:
            >>> import jax, qspjax as qsp
            >>> from qspjax.fit import Laplace, Measurements, Output, Proportional, Twin
            >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
            >>> population = qsp.Population(model, between={"CL": qsp.LogNormal(cv=0.4)})
            >>> twin = Twin(population, {"C": Output("concentration", Proportional(0.1))}, Laplace())
            >>> twin = twin.update(Measurements([12.0], [2.4], output="C"), qsp.bolus(300.0, to="central"))
            >>> answer = twin.counterfactual([12.0, 24.0], do={"CL": 3.0}, key=jax.random.key(1))
            >>> bands = answer.bands()
            >>> bool(bands["difference"]["LOWER"][0] > 0.0), answer.counterfactual.interventions
            (True, do(CL=3))
        """
        draws, method = self.patients(key=key, size=size), self.prior.simulated_by
        return contrasted(draws, self.regimen, ts, instead=instead, do=do, method=method)

    def best_dose(
        self,
        regimen: Callable[..., Regimen],
        ts: Numbers,
        aim: AbstractAim,
        *,
        bounds: Mapping[str, tuple[float, float]],
        risks: Sequence[Risk] = (),
        key: Key,
        size: int = 500,
    ) -> BestDose:
        """Return the doses to come that achieve an aim best, under limits stated as probabilities.

        The expectations are those of draws of the patient from its posterior, the same ones for all doses; gradients
        are exact, and at the end limits are checked by counting draws. The search (SLSQP) begins at the best of a few
        doses between the bounds.

        Args:
            regimen: A function of the numbers to choose, by name, that returns doses to come: `lambda amount:
                qsp.bolus(amount, to="depot", at=48.0)`; amounts, times, intervals and durations may depend on them.
            ts: Times of the simulation, shape (times,), not decreasing; the last one ends it.
            aim: `Near(endpoint, target)`, or `Within(endpoint, low=, high=)`.
            bounds: By name, the least and the greatest value of each number.
            risks: Limits such as `Risk(endpoints.Cmax("concentration"), 0.05, above=20.0)`.
            key: `jax.random.key(seed)`.
            size: The number of draws.

        Returns:
            A `BestDose`; `print` says what it achieves, which limits bind, and whether any dose keeps them.

        Raises:
            ValueError: If a dose comes before what was measured, or something is not as described.
            RuntimeError: If no draw can be simulated at any dose.

        Example:
            >>> import jax, qspjax as qsp
            >>> from qspjax.fit import Laplace, Near, Output, Proportional, Risk, Twin
            >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
            >>> population = qsp.Population(model, between={"V": qsp.LogNormal(cv=0.2)})
            >>> twin = Twin(population, {"C": Output("concentration", Proportional(0.1))}, Laplace())
            >>> aim = Near(qsp.endpoints.Value("concentration", at=12.0), 4.0)
            >>> limit = Risk(qsp.endpoints.Cmax("concentration"), 0.05, above=12.0)
            >>> best = twin.best_dose(
            ...     lambda amount: qsp.bolus(amount, to="central"),
            ...     [0.0, 24.0],
            ...     aim,
            ...     bounds={"amount": (10.0, 1000.0)},
            ...     risks=[limit],
            ...     key=jax.random.key(0),
            ... )
            >>> best.feasible, best.binds, best.probabilities[0] <= 0.05
            (True, (True,), True)
        """
        check_choice(regimen, bounds)
        check_instance("aim", aim, AbstractAim, "an aim such as Near(endpoint, target)")
        for k, risk in enumerate(risks):
            check_instance(f"risks[{k}]", risk, Risk, "a limit such as Risk(endpoint, 0.05, above=20.0)")
        self.history.given(in_the_middle(regimen, bounds), "regimen")
        before = self.regimen
        search = DoseSearch(
            self.patients(key=key, size=size),
            lambda **chosen: before + regimen(**chosen),
            np.asarray(ts, float),
            aim,
            risks,
            {name: (float(low), float(high)) for name, (low, high) in bounds.items()},
            self.prior.simulated_by,
        )
        best = search.run()
        return best._replace(regimen=regimen(**best.values))

    def summary(self, level: float = 0.9) -> Columns:
        """Return a table with one row per parameter that differs between patients.

        Args:
            level: The share of the posterior between LOWER and UPPER.

        Returns:
            NAME, UNIT, PRIOR_MEAN, PRIOR_SD, MEAN, SD, LOWER, UPPER, and SHRINKAGE, the share of the prior's variance
            that the measurements removed, 1 - SD^2 / PRIOR_SD^2.
        """
        check_level(level)
        z, weight = self.posterior.weighed()
        before = np.random.default_rng(0).standard_normal((PRIOR_DRAWS, z.shape[1]))
        known, typical = self._values(z), self._values(before)
        units = {parameter.name: parameter.unit for parameter in names(self.prior.population.model)}
        rows = []
        for name, column in known.items():
            prior_mean, prior_sd = typical[name].mean(), typical[name].std()
            mean = weight @ column
            sd = np.sqrt(weight @ (column - mean) ** 2)
            order = np.argsort(column)
            places = np.cumsum(weight[order]) - 0.5 * weight[order]
            low, high = np.interp([0.5 - 0.5 * level, 0.5 + 0.5 * level], places, column[order])
            shrinkage = 1.0 - (sd / prior_sd) ** 2 if prior_sd > 0.0 else np.nan
            rows.append((name, units.get(name, ""), prior_mean, prior_sd, mean, sd, low, high, shrinkage))
        heads = ("NAME", "UNIT", "PRIOR_MEAN", "PRIOR_SD", "MEAN", "SD", "LOWER", "UPPER", "SHRINKAGE")
        columns = zip(*rows, strict=True)
        return {
            head: np.array(column, dtype=object if head in ("NAME", "UNIT") else float)
            for head, column in zip(heads, columns, strict=True)
        }

    def _values(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Return the parameters that differ between patients, and covariates that are not known, at draws."""
        covariates, values = cohort_at(self.prior, z)
        values |= {
            name: covariates[name] for name in self.prior.coordinates if name in self.prior.population.covariate_names
        }
        columns = {}
        for name, value in values.items():
            value = np.asarray(value, float)
            elements = value.reshape(len(z), -1).T
            columns |= {name if value.ndim == 1 else f"{name}[{i}]": column for i, column in enumerate(elements)}
        return columns

    def __str__(self) -> str:
        table = self.summary()
        lines = [["", "unit", "prior mean", "SD", "mean", "SD", "shrinkage"]]
        for k, name in enumerate(table["NAME"]):
            numbers = [number(table[head][k]) for head in ("PRIOR_MEAN", "PRIOR_SD", "MEAN", "SD")]
            lines.append([name, table["UNIT"][k], *numbers, f"{100.0 * table['SHRINKAGE'][k]:.0f} %"])
        count, latest = len(self.history.rows), self.history.latest
        head = f"Twin after {count} measurements, to time {latest:g}" if count else "Twin before the first measurement"
        evidence = f"log evidence {self.log_evidence:.4g}, effective sample size {self.effective_size:.0f}"
        return "\n".join([f"{head}: {evidence}", aligned(lines), *self.remarks()])


def _p_value(row: Row, at_most: float, less: float) -> float:
    """Return how probable it was that a measurement lies as far out, for P(y_new <= y) and P(y_new < y)."""
    return float(at_most if row.side else min(1.0, 2.0 * min(at_most, 1.0 - less)))
