"""A calibration problem: a model, experiments, outputs and parameters, as one pure log density."""

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse
from qspjax._expression import Expression
from qspjax._model import AbstractModel
from qspjax._solution import RESULTS
from qspjax.fit._free import Free, log_priors, natural_values
from qspjax.fit.data._causes import why_undefined
from qspjax.fit.data._colours import coloured
from qspjax.fit.data._formula import as_formula
from qspjax.fit.data._layout import Layout, layout_of
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._rows import Rows
from qspjax.fit.data._stages import Outcomes
from qspjax.fit.errors._models import Predictors
from qspjax.solve import AbstractMethod

if TYPE_CHECKING:
    from qspjax.fit.search._analytic import Analytic


class Evaluation(NamedTuple):
    """The log density at a point, and what a search needs of it.

    Attributes:
        value: The log density, -inf where it cannot be computed.
        gradient: Its gradient on the scale of the search, shape (parameters,).
        curvature: The expected negative second derivative (Fisher information, and that of the priors), shape
            (parameters, parameters), positive semidefinite.
        x: The point: that of the call, but for parameters that are solved for.
        result: The `RESULTS` item of the simulation of each experiment.
        time: When each simulation ended.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> here = problem.quadratic(problem.start)
        >>> here.gradient.shape, here.curvature.shape
        ((1,), (1, 1))
    """

    value: Array
    gradient: Array
    curvature: Array
    x: Array
    result: Any
    time: Array


class Linearised(NamedTuple):
    """Measurements and their slopes at a point, output by output.

    Attributes:
        x: The point: that of the call, but for parameters that are solved for.
        outcomes: The simulations.
        predicted: The prediction of each measurement and the predictors of its density, shape (measurements,) each.
        slopes: Their slopes, shape (parameters, measurements) each.
    """

    x: Array
    outcomes: Outcomes
    predicted: list[tuple[Array, Predictors]]
    slopes: list[tuple[Array, Predictors]]


class Problem:
    """What to fit: a pure function of the parameters that are free.

    $$ log p(x) = \\sum_i log p(y_i | f_i(x)) + \\sum_j log p(\\theta_j) $$

    The parameters of the model keep the values that it has, unless they are named here. All experiments are one cohort,
    so that they are simulated side by side.

    Args:
        model: The typical model.
        experiments: By name, or one.
        outputs: By name, what is measured.
        parameters: By name, `Free(start, ...)` for what is estimated, numbers for what is fixed: parameters of the
            model by their dotted names, and any other names that formulas use (scales, offsets, noise).
        method: How to simulate; by default as `simulate` does.
        reference: Natural values to compare with, such as published ones.

    Attributes:
        names: The names of the free parameters, in the order of a point x.
        start: The point where the search begins, shape (parameters,), on the scale of the search.
        bounds: The least and the greatest point.
        layout: Where everything stands.

    Raises:
        ValueError: If there are no data, a name is not known, or no output depends on a parameter.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive("sigma"))},
        ...     {"CL": Free(3.0), "V": Free(30.0), "sigma": 0.1},
        ... )
        >>> problem.names, problem.log_density(problem.start).round(3)
        (('CL', 'V'), Array(2.916, dtype=float64))
    """

    def __init__(
        self,
        model: AbstractModel,
        experiments: Mapping[str, Experiment] | Experiment,
        outputs: Mapping[str, Output],
        parameters: Mapping[str, Free | float],
        *,
        method: AbstractMethod | None = None,
        reference: Mapping[str, float] | None = None,
    ) -> None:
        """Check and lay out everything."""
        check_instance("model", model, AbstractModel, "a model")
        if isinstance(experiments, Experiment):
            experiments = {"experiment": experiments}
        if not experiments:
            raise ArgumentError("experiments", "must have measurements, but there are none.")
        for name, one in experiments.items():
            check_instance(f'experiments["{name}"]', one, Experiment, "an Experiment")
        for name, one in outputs.items():
            check_instance(f'outputs["{name}"]', one, Output, "an Output")
        self.model, self.method, self.reference = model, method, dict(reference or {})
        self.experiments, self.outputs, self.parameters = dict(experiments), dict(outputs), dict(parameters)
        self.free = {name: one for name, one in parameters.items() if isinstance(one, Free)}
        fixed = {name: as_formula(name, one) for name, one in parameters.items() if name not in self.free}
        self.fixed = {name: value for name, value in fixed.items() if not isinstance(value, Expression)}
        if len(fixed) > len(self.fixed):
            refuse("parameters", "be Free(...) or numbers", next(n for n in fixed if n not in self.fixed))
        if not self.free:
            refuse("parameters", "have at least one that is Free(...)", "without any")
        self.names = tuple(self.free)
        self.layout: Layout = layout_of(self)
        self._dense: dict[int, Problem] = {}
        self._solver: Callable[[Array, dict[str, Array]], Array] | None = None
        self.start = jnp.stack([one.transform.forward(one.start) for one in self.free.values()])
        edges = [one.searched_bounds() for one in self.free.values()]
        self.bounds = jnp.stack([a for a, _ in edges]), jnp.stack([b for _, b in edges])

    def __str__(self) -> str:
        measured = sum(rows.value.size for rows in self.rows)
        fixed = f", {len(self.fixed)} fixed" if self.fixed else ""
        rows = {
            "Experiments": len(self.experiments),
            "Measurements": f"{measured} of {len(self.rows)} outputs",
            "Parameters": f"{len(self.names)} free{fixed}",
            "Directions": f"{len(self.layout.colours.groups)} forward sensitivities serve all parameters",
        }
        return "\n".join(f"{key + ':':<14}{value}" for key, value in rows.items())

    def natural(self, x: Any) -> Array:
        """Return the natural values of the free parameters at a point, shape (parameters,)."""
        return natural_values([*self.free.values()], x)

    def point(self, values: Mapping[str, Any]) -> Array:
        """Return the point with these natural values, others as they start.

        Raises:
            ValueError: If a name is not that of a free parameter.
        """
        for name in values:
            check_one_of("values", name, self.names, "a free parameter")
        return jnp.stack([one.transform.forward(values.get(name, one.start)) for name, one in self.free.items()])

    def values(self, x: Any) -> dict[str, Array]:
        """Return the natural values of all parameters at a point, by name."""
        natural = self.natural(x)
        return {name: natural[i] for i, name in enumerate(self.names)} | {
            name: jnp.asarray(value, float) for name, value in self.fixed.items()
        }

    def log_prior(self, x: Any) -> Array:
        """Return the log density of the priors at a point."""
        return log_priors([*self.free.values()], self.natural(x))

    def log_jacobian(self, x: Any) -> Array:
        """Return log |d theta / d x|: with it a density of natural values becomes one of points, for sampling."""
        natural = self.natural(x)
        return jnp.sum(jnp.stack([f.transform.log_det(natural[i]) for i, f in enumerate(self.free.values())]))

    def log_likelihood(self, x: Any) -> Array:
        """Return the log likelihood at a point; -inf where a simulation fails, or a measurement has no density.

        `failures` says why.
        """
        return self.settled(x)[0]

    def log_density(self, x: Any) -> Array:
        """Return the log density at a point: log likelihood and log prior."""
        return self.log_likelihood(x) + self.log_prior(x)

    def solving(self, analytic: "Analytic") -> "Problem":
        """Return the same problem, with some parameters at their best values wherever it is evaluated.

        Its log density is the greatest over these parameters, and does not depend on theirs in a point.

        Args:
            analytic: Which parameters.

        Raises:
            ValueError: If a parameter cannot be solved for.
        """
        other = copy.copy(self)
        other._solver = analytic.solver(self)
        return other

    def settled(self, x: Any) -> tuple[Array, Array]:
        """Return the log likelihood at a point, and that point with the parameters that are solved for."""
        x = jnp.asarray(x, float)
        outcomes = self.layout.stages.simulate(self.pooled(x)[0])
        x = self._solved(x, outcomes.observed)
        pool, known = self.pooled(x)
        terms = [
            jnp.sum(rows.log_density(rows.predicted(pool, outcomes.observed, known)[1])) for rows in self.layout.rows
        ]
        return _or_minus_infinity(jnp.sum(jnp.stack(terms)), outcomes), x

    def linearised(self, x: Any) -> Linearised:
        """Return what is predicted at a point, and how it moves with the parameters, by forward sensitivities.

        Parameters that no simulation depends on (scales, noise) cost no simulation, and those that different
        experiments depend on share one.
        """
        x = jnp.asarray(x, float)
        layout = self.layout
        (pool, _), slopes = self.pooled(x), jax.jacfwd(lambda x: self.pooled(x)[0])(x)

        def simulate(pool: Array) -> tuple[dict[str, Array], Any]:
            outcomes = layout.stages.simulate(pool)
            return outcomes.observed, (outcomes.result, outcomes.time)

        observed, moved, (result, time) = coloured(simulate, pool, slopes, layout.colours)

        def terms(x: Array, observed: dict[str, Array]) -> list:
            pool, known = self.pooled(x)
            return [rows.predicted(pool, observed, known) for rows in layout.rows]

        x = self._solved(x, observed)
        unit = jnp.eye(x.size)
        slopes = jax.vmap(lambda e, o: jax.jvp(terms, (x, observed), (e, o))[1], in_axes=(0, 0))(unit, moved)
        return Linearised(x, Outcomes(observed, result, time), terms(x, observed), slopes)

    def quadratic(self, x: Any) -> Evaluation:
        """Return the log density with its gradient and its Gauss-Newton curvature, by forward sensitivities."""
        found = self.linearised(x)
        x, outcomes = found.x, found.outcomes
        value, gradient, curvature = self._prior_terms(x)
        for rows, (_, own), (_, by) in zip(self.layout.rows, found.predicted, found.slopes, strict=True):
            density, score, weight = rows.scores(own)
            value += jnp.sum(density)
            for s, w, d in zip(score, weight, by, strict=True):
                gradient += d @ s
                curvature += (d * w) @ d.T
        fine = jnp.isfinite(gradient).all() & jnp.isfinite(curvature).all()
        value = jnp.where(fine, _or_minus_infinity(value, outcomes), -jnp.inf)
        good = jnp.isfinite(value)
        gradient, curvature = jnp.where(good, gradient, 0.0), jnp.where(good, curvature, jnp.eye(x.size))
        return Evaluation(value, gradient, curvature, x, outcomes.result, outcomes.time)

    def simulate(self, x: Any) -> Outcomes:
        """Return what is observed in all experiments at a point, and how the simulations went."""
        pool, _ = self.pooled(x)
        return self.layout.stages.simulate(pool)

    def content(self) -> dict[str, Any]:
        """Return everything that the log density depends on, by what it is in words, which tells problems apart."""
        return {
            "kind": type(self),
            "model": self.model,
            "method": self.method,
            "experiments": self.experiments,
            "outputs": self.outputs,
            "parameters": [self.free, self.fixed],
        }

    @property
    def rows(self) -> tuple[Rows, ...]:
        """The measurements, output by output."""
        return self.layout.rows

    def predictions(self, x: Any) -> list[tuple[Rows, Array, Array]]:
        """Return the measurements with prediction and standardised residual of each, output by output."""
        pool, known = self.pooled(x)
        observed = self.layout.stages.simulate(pool).observed
        found = []
        for rows in self.layout.rows:
            prediction, predictors = rows.predicted(pool, observed, known)
            found.append((rows, prediction, rows.residual(predictors)))
        return found

    def table(self, x: Any) -> dict[str, np.ndarray]:
        """Return every measurement with its prediction, as columns: the data of pictures.

        The columns are `experiment`, `output`, `time`, `observed`, `prediction`, `residual` (standardised, NaN where
        censored) and `censored`.
        """
        found = self._predicted(jnp.asarray(x, float))
        return self.columns() | {
            "observed": np.concatenate([rows.value for rows in self.rows]),
            "prediction": np.concatenate([np.asarray(prediction) for _, prediction, _ in found]),
            "residual": np.concatenate([np.asarray(residual) for *_, residual in found]),
            "censored": np.concatenate([rows.censored for rows in self.rows]),
        }

    def columns(self) -> dict[str, np.ndarray]:
        """Return experiment, output and time of every measurement, as columns."""
        names = np.array([*self.experiments], dtype=object)
        return {
            "experiment": np.concatenate([names[rows.experiment] for rows in self.rows]),
            "output": np.concatenate([np.full(rows.value.size, rows.name, dtype=object) for rows in self.rows]),
            "time": np.concatenate([rows.time for rows in self.rows]),
        }

    def curves(self, x: Any, *, points: int = 200) -> dict[str, np.ndarray]:
        """Return predictions at times that lie close, for each output that an experiment measures, as columns.

        Args:
            x: Where, on the scale of the search.
            points: Times of each curve.
        """
        table = self.densely(points).table(x)
        return {name: table[name] for name in ("experiment", "output", "time", "prediction")}

    def densely(self, points: int) -> "Problem":
        """Return the same problem with measurements at many times, whose values mean nothing."""
        if points not in self._dense:
            self._dense[points] = self._made_dense(points)
        return self._dense[points]

    def _made_dense(self, points: int) -> "Problem":
        experiments = {name: one.closely(points) for name, one in self.experiments.items()}
        outputs = {name: Output(one.prediction, one.error) for name, one in self.outputs.items()}
        return Problem(self.model, experiments, outputs, self.parameters, method=self.method)

    def failures(self, x: Any) -> list[str]:
        """Say which experiments have no likelihood at a point, where, why and what helps; an empty list if all have."""
        outcomes = self._simulated(jnp.asarray(x, float))
        shown = ", ".join(f"{name} = {float(value):.6g}" for name, value in self.values(x).items())
        lines = []
        for i, name in enumerate(self.experiments):
            code = jax.tree.map(lambda leaf, i=i: leaf[i], outcomes.result)
            if bool(code != RESULTS.successful):
                lines.append(
                    f"Experiment `{name}` failed at time {float(outcomes.time[i]):g}. {RESULTS[code]} ({shown})"
                )
        if lines:
            return lines
        for rows, parts in zip(self.rows, self._explained(jnp.asarray(x, float)), strict=True):
            for number, why in why_undefined(rows, *parts).items():
                lines.append(f"Experiment `{[*self.experiments][number]}`: {why} ({shown})")
        return lines

    @cached_property
    def _explained(self) -> Any:
        def explained(x: Array) -> list:
            pool, known = self.pooled(x)
            observed = self.layout.stages.simulate(pool).observed
            return [rows.explained(pool, observed, known) for rows in self.rows]

        return eqx.filter_jit(explained)

    @cached_property
    def _simulated(self) -> Any:
        return eqx.filter_jit(self.simulate)

    @cached_property
    def _predicted_parts(self) -> Any:
        return eqx.filter_jit(lambda x: [pair[1:] for pair in self.predictions(x)])

    def _predicted(self, x: Array) -> list[tuple[Rows, Array, Array]]:
        return [(rows, *pair) for rows, pair in zip(self.rows, self._predicted_parts(x), strict=True)]

    def pooled(self, x: Any) -> tuple[Array, dict[str, Array]]:
        """Return every number that depends on the parameters, as simulations and measurements refer to it."""
        known = self.values(x)
        pool = self.layout.pool
        return pool.values(jnp.stack([known[name] for name in pool.parameters])), known

    def _solved(self, x: Array, observed: dict[str, Array]) -> Array:
        return x if self._solver is None else self._solver(x, observed)

    def _prior_terms(self, x: Array) -> tuple[Array, Array, Array]:
        """Return value and gradient of the log prior, and the part of its curvature that is not negative."""
        if all(one.prior is None for one in self.free.values()):
            return jnp.zeros(()), jnp.zeros_like(x), jnp.zeros((x.size, x.size))
        value, gradient = jax.value_and_grad(self.log_prior)(x)
        bend = jax.jvp(jax.grad(self.log_prior), (x,), (jnp.ones_like(x),))[1]
        return value, gradient, jnp.diag(jnp.maximum(-bend, 0.0))


def _or_minus_infinity(value: Array, outcomes: Outcomes) -> Array:
    fine = (outcomes.result == RESULTS.successful).all() & jnp.isfinite(value)
    return jnp.where(fine, value, -jnp.inf)
