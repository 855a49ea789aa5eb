"""The result of an estimation of a mixed-effects model."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from qspjax._checks import check_instance
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._extras import require
from qspjax._types import Key
from qspjax.fit._patients import patients_of, predicted, split
from qspjax.fit._types import Number, Numbers
from qspjax.fit._wald import drawn_points, wald_intervals
from qspjax.fit.data._formula import names_in, value_of
from qspjax.fit.mixed._approximations import FOCEI, AbstractApproximation
from qspjax.fit.mixed._covariance import SANDWICH, AbstractCovariance
from qspjax.fit.mixed._diagnostics import diagnostics
from qspjax.fit.mixed._marginal import AbstractIntegral
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.mixed._objective import Evaluation, objective_program
from qspjax.fit.mixed._population import mixed_population
from qspjax.fit.mixed._settings import SAEM
from qspjax.population import Population

if TYPE_CHECKING:
    import pandas

STEP = 1e-3


@dataclasses.dataclass(frozen=True)
class MixedFit:
    """Estimates of a mixed-effects model.

    The objective is -2 log L without the constant n log 2 pi of normal measurements, as in NONMEM.

    Attributes:
        mixed: What was fitted.
        method: The method.
        x: The estimate, on the scale of the search, shape (names,): numbers, then weights of networks.
        u: The modes of the random effects, eta = L u, shape (subjects, effects).
        subject_objectives: The part of each subject, shape (subjects,), NaN for one that was left out.
        kept: Which subjects are in the fit.
        reasons: Why others are not.
        found: Whether the mode of each subject was found.
        history: The objective after each iteration.
        path: The points, shape (iterations, names).
        status: How the search ended.
        seconds: The time it took.
        memberships: For a mixture, the probability of each subpopulation given the data, by name, shape (subjects,).
            All other results are for subjects in their most probable subpopulations.
        modes: For a mixture, the modes of all subjects in all subpopulations, shape (copies, effects).

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> fit = nlme(mixed, method=FO())
        >>> 2.0 < fit.parameters["tCL"] < 4.0
        True
    """

    mixed: AbstractMixed
    method: AbstractApproximation | AbstractIntegral | SAEM
    x: np.ndarray
    u: np.ndarray
    subject_objectives: np.ndarray
    kept: np.ndarray
    reasons: tuple[str, ...]
    found: np.ndarray
    history: np.ndarray
    path: np.ndarray
    status: str
    seconds: float
    memberships: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    modes: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def placed(self) -> MixedModel:
        """What was fitted; for a mixture, with every subject in its most probable subpopulation."""
        return self._placed

    @cached_property
    def _placed(self) -> MixedModel:
        mixed, shares = self.mixed, [*self.memberships.values()]
        return mixed.classified(np.transpose(shares)) if isinstance(mixed, Mixture) else mixed.copies

    @property
    def objective(self) -> float:
        """The objective at the estimate."""
        return float(self.history[-1])

    @property
    def parameters(self) -> dict[str, float]:
        """The natural values of the numbers that are estimated: parameters, then elements of Omega."""
        return dict(zip(self._names, np.asarray(self._natural(self.x)).tolist(), strict=True))

    @property
    def networks(self) -> dict[str, PyTree]:
        """The parts of the model, and the functions, whose weights were estimated, with the estimates, by name."""
        return self.mixed.networks(self.x)

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the numbers that are estimated."""
        return self.mixed.space.numbers

    def _natural(self, x: np.ndarray | Array) -> Array:
        """Return the natural values of the numbers of a point."""
        return self.mixed.natural(x)[: len(self._names)]

    @property
    def covariance(self) -> np.ndarray:
        """Omega, shape (effects, effects)."""
        return np.asarray(self.mixed.covariance(self.x))

    @property
    def etas(self) -> np.ndarray:
        """The random effects of the subjects, shape (subjects, effects)."""
        return self.u @ np.asarray(self.mixed.factor(self.x)).T

    @property
    def most_probable(self) -> np.ndarray:
        """The most probable subpopulation of each subject in a mixture, "" if the subject was left out."""
        names, shares = np.array(["", *self.memberships], dtype=object), [*self.memberships.values()]
        best = 1 + np.argmax(shares, axis=0) if shares else 0
        return names[np.where(self.kept, best, 0)]

    @property
    def shrinkage(self) -> dict[str, tuple[float, float]]:
        """Eta shrinkage in per cent: 100 (1 - SD(eta) / omega), and in variances 100 (1 - var(eta) / omega^2)."""
        shrinkage = {}
        for name, (etas, omega) in self.effects().items():
            ratio = float(etas.std(ddof=1)) / omega if etas.size > 1 else 0.0
            shrinkage[name] = (100.0 * (1.0 - ratio), 100.0 * (1.0 - ratio**2))
        return shrinkage

    def effects(self) -> dict[str, tuple[np.ndarray, float]]:
        """Return each random effect of all subjects in the fit, on all of their occasions, and its omega."""
        effects, etas, omega = {}, self.etas, np.sqrt(np.diag(self.covariance))
        for block in self.mixed.blocks:
            indices = [range(span.start, span.stop) for span in block.effects]
            for name, columns in zip(block.random.names, zip(*indices, strict=True), strict=True):
                of_subjects = [etas[self.kept & self.placed.present[:, k], k] for k in columns]
                effects[name] = (np.concatenate(of_subjects), float(omega[columns[0]]))
        return effects

    @property
    def epsilon_shrinkage(self) -> dict[str, float]:
        """Epsilon shrinkage of each output in per cent, 100 (1 - SD(IWRES)).

        Reference: Savic and Karlsson, AAPS J 2009;11:558, doi:10.1208/s12248-009-9133-0.
        """
        table = diagnostics(self)
        shrinkage = {}
        for name in dict.fromkeys(table["OUTPUT"]):
            residuals = table["IWRES"][table["OUTPUT"] == name]
            residuals = residuals[np.isfinite(residuals)]
            shrinkage[name] = 100.0 * (1.0 - float(residuals.std(ddof=1))) if residuals.size > 1 else float("nan")
        return shrinkage

    @property
    def coefficients_of_variation(self) -> dict[str, float]:
        """%CV = 100 sqrt(exp(omega^2) - 1) of the effects that enter as exp(eta), as in CL = tCL exp(eta)."""
        names = {name.partition("@")[0]: name for name in reversed(self.placed.effects)}  # the first occasion's
        return {
            name: 100.0 * float(np.sqrt(np.expm1(omega**2)))
            for name, (_, omega) in self.effects().items()
            if self._is_exponential(names[name])
        }

    def _is_exponential(self, effect: str) -> bool:
        """Whether every number of an individual that depends on an effect is proportional to its exponential."""
        formulas = [formula for formula in self.placed.formulas.values() if effect in names_in(formula)]
        values = self._formula_values(np.zeros_like(self.etas))
        with np.errstate(all="ignore"):
            at_zero = [np.asarray(value_of(formula, values)) for formula in formulas]
            for eta in (-0.7, 0.4):
                changed = [np.asarray(value_of(formula, values | {effect: eta})) for formula in formulas]
                for a, b in zip(at_zero, changed, strict=True):
                    exponential = np.isclose(b, a * np.exp(eta), rtol=1e-9, equal_nan=True)
                    # the numbers of subjects that begin on another occasion do not change
                    if not exponential.any() or not (exponential | (b == a)).all():
                        return False
        return bool(formulas)

    def _formula_values(self, etas: np.ndarray) -> dict[str, Number | Callable]:
        """Return the numbers and functions that formulas of individuals use, by name."""
        mixed = self.placed
        effects = {name: etas[:, k] for k, name in enumerate(mixed.effects)}
        functions = mixed.weights.callables(mixed.space.split(self.x)[1])
        numbers = {**mixed.individuals.table.defaults, **mixed.values(self.x), **mixed.covariates, **effects}
        return {**numbers, **functions}

    def individuals(self) -> dict[str, np.ndarray]:
        """Return a table with one row per subject: random effects, individual numbers and initial covariates.

        Returns:
            ID, OBJECTIVE (its part of the objective), ETA of every random effect, and by their names the numbers of
            `individual` and the covariates; for a mixture also SUBPOPULATION, the most probable one, and P of each.
        """
        etas, placed = self.etas, self.placed
        values = self._formula_values(etas)
        numbers = {name: np.asarray(value_of(formula, values), float) for name, formula in placed.formulas.items()}
        return {
            "ID": np.array(placed.subject_names, dtype=object),
            "OBJECTIVE": self.subject_objectives,
            **{f"ETA_{name}": etas[:, k] for k, name in enumerate(placed.effects)},
            **{name: np.broadcast_to(value, (placed.count,)) for name, value in numbers.items()},
            **placed.covariates,
            **({"SUBPOPULATION": self.most_probable} if self.memberships else {}),
            **{f"P_{name}": shares for name, shares in self.memberships.items()},
        }

    def iterations(self) -> dict[str, np.ndarray]:
        """Return a table with one row per iteration: ITERATION, OBJECTIVE (NaN if unknown), and numbers by name."""
        points = len(self.path)
        objective = self.history if len(self.history) == points else np.full(points, np.nan)
        values = np.asarray(jax.vmap(self._natural)(jnp.asarray(self.path)))
        named = {name: values[:, k] for k, name in enumerate(self._names)}
        return {"ITERATION": np.arange(points), "OBJECTIVE": np.asarray(objective), **named}

    def evaluated(self, x: np.ndarray) -> Evaluation[Array]:
        """Return the objective at a point near the estimate, by `FOCEI` if the method was no such approximation.

        Args:
            x: The point, on the scale of the search.
        """
        method = self.method if isinstance(self.method, AbstractApproximation) else FOCEI()
        program = objective_program(self.mixed, method)
        return program(jnp.asarray(x), jnp.asarray(self.u if self.modes is None else self.modes))

    def _slopes(self, x: np.ndarray) -> np.ndarray:
        """Return the derivatives of the objectives of the subjects in the fit in numbers, shape (subjects, numbers)."""
        return np.asarray(self.evaluated(x).slopes)[self.kept]

    @cached_property
    def _slopes_here(self) -> np.ndarray:
        return self._slopes(self.x)

    def hessian(self) -> np.ndarray:
        """Return the second derivative of the objective in the numbers, by central differences of exact slopes.

        Weights are constants of it, so that standard errors, draws and intervals are those given the networks.
        """
        return self._hessian

    @cached_property
    def _hessian(self) -> np.ndarray:
        columns, size = [], len(self._names)
        for direction in np.eye(size, self.x.size):
            step = STEP * direction
            ahead, behind = (self._slopes(self.x + sign * step).sum(axis=0) for sign in (1.0, -1.0))
            columns.append((ahead - behind) / (2.0 * STEP))
        hessian = np.array(columns) - 2.0 * self.mixed.prior(self.x)[2][:size, :size]
        return 0.5 * (hessian + hessian.T)

    def covariance_of_estimates(self, covariance: AbstractCovariance = SANDWICH) -> np.ndarray:
        """Return the covariance of the numbers that are estimated, in their natural values, shape (numbers, numbers).

        Args:
            covariance: `Sandwich()` R^-1 S R^-1, `Hessian()` R^-1 or `OuterProducts()` S^-1, with R the second
                derivative of -log L and S the sum of the outer products of its slopes over subjects.
        """
        chain = np.asarray(jax.jacfwd(self._natural)(jnp.asarray(self.x)))[:, : len(self._names)]
        return chain @ self._covariance_of_x(covariance) @ chain.T

    def _covariance_of_x(self, covariance: AbstractCovariance) -> np.ndarray:
        """Return the covariance of the estimates on the scale of the search."""
        check_instance("covariance", covariance, AbstractCovariance, "a covariance such as Sandwich()")
        return covariance.matrix(0.5 * self._slopes_here, lambda: 0.5 * self.hessian())

    def _points(self, key: Key, size: int, covariance: AbstractCovariance) -> np.ndarray:
        try:
            matrix = self._covariance_of_x(covariance)
        except np.linalg.LinAlgError:
            matrix = np.full((len(self._names), len(self._names)), np.inf)
        numbers, weights = (np.asarray(part) for part in self.mixed.space.split(self.x))
        drawn = drawn_points([*self.mixed.free.values()], numbers, matrix, key=key, size=size)
        return np.concatenate([drawn, np.broadcast_to(weights, (size, weights.size))], axis=1)

    def draws(self, *, key: Key, size: int, covariance: AbstractCovariance = SANDWICH) -> dict[str, np.ndarray]:
        """Return draws of the estimates with their uncertainty, natural values by name, shape (size,).

        They are normal on scales on which they stay within their bounds: parameters on those of `intervals`, Omega by
        its Cholesky factor with the logarithm of its diagonal, so that every draw is a valid covariance.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of draws.
            covariance: That of the estimates, see `covariance_of_estimates`.

        Raises:
            ValueError: If the data say nothing about some direction of the estimates.
        """
        natural = np.asarray(jax.vmap(self._natural)(jnp.asarray(self._points(key, size, covariance))))
        return dict(zip(self._names, natural.T, strict=True))

    def population(self, *, covariates: Mapping[str, PyTree] | None = None) -> Population:
        """Return the population of the fit: the same formulas of individuals, Omega and covariates.

        Covariates are the initial ones of the subjects of the fit, drawn one subject at a time; effects of occasions
        are drawn for each of them (`Population.occasions`); in a mixture the covariate SUBPOPULATION gives the
        subpopulation of a patient.

        Args:
            covariates: Distributions or observed values for new patients, in place of these.

        Raises:
            ValueError: If subjects set their initial states, or set a parameter of the model in different ways.

        Example:
            >>> import jax
            >>> cohort = fit.population().sample(key=jax.random.key(1), size=1000)  # doctest: +SKIP
        """
        return mixed_population(self.mixed, self.x, self.kept, covariates)

    def patients(
        self,
        *,
        key: Key,
        size: int,
        covariates: Mapping[str, PyTree] | None = None,
        covariance: AbstractCovariance = SANDWICH,
        occasions: int = 1,
    ) -> Cohort:
        """Return new patients, each with its own draw of the estimates, of random effects and of covariates.

        They differ by the variability between patients and by the uncertainty of the estimates;
        `population().sample(...)` has the former only.

        Args:
            key: `jax.random.key(seed)`.
            size: The number of patients.
            covariates: As in `population`.
            covariance: As in `draws`.
            occasions: As in `Population.sample`.
        """
        for_points, for_patients = split(key)
        points = self._points(for_points, size, covariance)
        population_at = partial(mixed_population, self.mixed, kept=self.kept, covariates=covariates)
        return patients_of(population_at, points, key=for_patients, occasions=occasions)

    def predict(
        self,
        regimen: Regimen,
        ts: Numbers,
        *,
        key: Key,
        size: int = 1000,
        level: float = 0.9,
        covariates: Mapping[str, PyTree] | None = None,
        covariance: AbstractCovariance = SANDWICH,
    ) -> dict[str, np.ndarray]:
        """Return predictions of a new regimen for new patients, with a band, as columns: the data of `plot.prediction`.

        The band holds the share `level` of the patients, including the uncertainty of the estimates, but not the error
        of measurements.

        Args:
            regimen: The doses.
            ts: Times, shape (times,).
            key: `jax.random.key(seed)`.
            size: The number of patients.
            level: The share of them that the band holds.
            covariates: As in `population`.
            covariance: As in `draws`.

        Returns:
            OUTPUT (the name of what is observed), TIME, their UNIT and TIME_UNIT, LOWER, MEDIAN, UPPER and COUNT, the
            number of patients that did not fail.

        Example:
            >>> import jax
            >>> regimen = qsp.bolus(100.0, to="depot").every(24.0, doses=7)  # doctest: +SKIP
            >>> table = fit.predict(regimen, jnp.linspace(0.0, 168.0, 169), key=jax.random.key(1))  # doctest: +SKIP
            >>> qsp.plot.prediction(table)  # doctest: +SKIP
        """
        patients = self.patients(key=key, size=size, covariates=covariates, covariance=covariance)
        return predicted(patients, regimen, ts, level=level, method=self.placed.method)

    def correlation_of_estimates(self, covariance: AbstractCovariance = SANDWICH) -> np.ndarray:
        """Return the correlation of the estimates in their natural values, shape (numbers, numbers)."""
        matrix = self.covariance_of_estimates(covariance)
        with np.errstate(invalid="ignore"):
            errors = np.sqrt(np.diag(matrix))
            return matrix / np.outer(errors, errors)

    def condition_number(self, covariance: AbstractCovariance = SANDWICH) -> float:
        """Return the greatest over the least eigenvalue of the correlation of the estimates."""
        correlation = self.correlation_of_estimates(covariance)
        if not np.isfinite(correlation).all():
            return float("nan")
        values = np.linalg.eigvalsh(correlation)
        return float(values[-1] / values[0]) if values[0] > 0 else float("inf")

    def _errors(self, covariance: AbstractCovariance) -> np.ndarray:
        """Return the standard errors, NaN where there is no minimum."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.diag(self.covariance_of_estimates(covariance)))

    def intervals(
        self, level: float = 0.95, *, covariance: AbstractCovariance = SANDWICH
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return Wald confidence intervals of the natural values, in the order of `parameters`.

        $$ g^{-1}(g(\\theta) \\pm z \\, SE \\, g'(\\theta)) $$

        Each is symmetric on a scale g that keeps it in its domain: that of the search, the logarithm of variances and
        of other numbers that cannot be negative, the logit of probabilities, and for a covariance the inverse
        hyperbolic tangent of the correlation to which it corresponds at these variances.

        Args:
            level: The confidence.
            covariance: That of the estimates, see `covariance_of_estimates`.
        """
        values = np.array([*self.parameters.values()])
        scales = self.mixed.scales(self.x)[: values.size]
        low, high = wald_intervals(scales, values, self._errors(covariance), level)
        for k, parameter in enumerate(self.mixed.free.values()):
            low[k], high[k] = np.maximum(low[k], parameter.lower), np.minimum(high[k], parameter.upper)
        return low, high

    def to_dataframe(self, covariance: AbstractCovariance = SANDWICH, *, level: float = 0.95) -> "pandas.DataFrame":
        """Return a table with one row per estimate: value, standard error, relative standard error (%), and interval.

        Args:
            covariance: That of the estimates, see `covariance_of_estimates`.
            level: The confidence of the interval, see `intervals`.
        """
        pandas = require("pandas", extra="data")
        values, errors = np.array([*self.parameters.values()]), self._errors(covariance)
        low, high = self.intervals(level, covariance=covariance)
        table = {
            "name": [*self.parameters],
            "estimate": values,
            "se": errors,
            "rse": 100.0 * errors / np.abs(values),
            "lower": low,
            "upper": high,
        }
        return pandas.DataFrame(table)

    def __str__(self) -> str:
        left_out = [name for name, in_fit in zip(self.mixed.subject_names, self.kept, strict=True) if not in_fit]
        lines = [f"objective {self.objective:.4f} by {type(self.method).__name__}; {self.status}"]
        lines += [f"{name:<24}{value:>14.6g}" for name, value in self.parameters.items()]
        lines += [f"{block.name}: {block.size} weights" for block in self.mixed.weights.blocks]
        if isinstance(self.method, AbstractApproximation) and not self.method.conditional:
            lines.append(
                f"{type(self.method).__name__} estimates no effects of subjects, and hence no shrinkage; "
                "`nlme(mixed, method=FOCEI(), start=fit.x, iterations=0)` finds them at these estimates"
            )
        else:
            lines += [f"shrinkage of {name}: {shrinkage[0]:.1f} %" for name, shrinkage in self.shrinkage.items()]
        if left_out:
            lines.append(f"left out, since they have no likelihood at the start: {', '.join(left_out)}")
        lines += self.reasons
        not_found = np.array(self.mixed.subject_names, dtype=object)[self.kept & ~self.found[: self.kept.size]]
        if not_found.size:
            lines.append(f"in the fit, though the mode of their random effects was not found: {', '.join(not_found)}")
        return "\n".join(lines)
