"""A calibration problem: a model, experiments, outputs and parameters, as one pure log density."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from qspjax._checks import ArgumentError, check_instance, check_one_of, check_point
from qspjax._explain import AbstractExplainable, Explanation
from qspjax._model import AbstractModel, as_state
from qspjax._names import at, state_names
from qspjax._simulate import default_method
from qspjax._solution import RESULTS
from qspjax._types import Scalar
from qspjax.fit._cost import Costs, costs_of
from qspjax.fit._explained import ProblemExplanation
from qspjax.fit._free import Free, bounds_of, fixed_of, free_of, log_priors, natural_values, starts_of
from qspjax.fit._frozen import settle
from qspjax.fit._gradient import AbstractGradient
from qspjax.fit._penalty import AbstractPenalty, for_penalties, trajectories
from qspjax.fit._types import Point, Table, Vector
from qspjax.fit._weights import Blocks, Weights
from qspjax.fit.data._causes import why_undefined
from qspjax.fit.data._colours import coloured
from qspjax.fit.data._dependence import explained, given_earlier, log_densities, slopes_given_earlier
from qspjax.fit.data._formula import Named
from qspjax.fit.data._layout import Design, Layout, layout_of
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._output_data import Explained, OutputData
from qspjax.fit.data._stages import Outcomes, parameters_of
from qspjax.fit.errors._contract import Predictors
from qspjax.models import AbstractTerm
from qspjax.solve import AbstractMethod
from qspjax.solve._ensemble import Effort, has_effort
from qspjax.solve.native import compilations
from qspjax.solve.native._mapped import Native

Solver: TypeAlias = Callable[[Vector, Mapping[str, Array]], Vector]
"""Returns a point with some parameters at their best values, given the values observed there."""


class Evaluation(NamedTuple):
    """The log density at a point, with the derivatives that a search needs.

    Attributes:
        value: The log density, -inf where it cannot be computed.
        gradient: Its gradient on the scale of the search, shape (parameters,).
        curvature: The expected negative second derivative (Fisher information, and that of the priors), shape
            (parameters, parameters), positive semidefinite.
        x: The point: that of the call, except for parameters that are solved for.
        result: The `RESULTS` item of the simulation of each experiment.
        time: The time at which each simulation ended.

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

    value: Float[Array, ""]
    gradient: Vector
    curvature: Float[Array, "parameters parameters"]
    x: Vector
    result: RESULTS
    time: Float[Array, " experiments"]


class Linearised(NamedTuple):
    """Measurements and their slopes at a point, output by output.

    Attributes:
        x: The point: that of the call, except for parameters that are solved for.
        outcomes: The outcomes of the simulations.
        predicted: The prediction of each measurement and the predictors of its density, shape (measurements,) each.
        slopes: Their slopes, shape (parameters, measurements) each.
    """

    x: Vector
    outcomes: Outcomes
    predicted: list[tuple[Array, Predictors]]
    slopes: list[tuple[Array, Predictors]]


@dataclasses.dataclass(frozen=True, eq=False, init=False, repr=False)
class Problem(AbstractExplainable[ProblemExplanation]):
    """A calibration problem: a pure function of the free parameters.

    $$ log p(x) = \\sum_i log p(y_i | f_i(x)) + \\sum_j log p(\\theta_j) $$

    The parameters of the model keep their values, unless they are named here. All experiments are one cohort, so that
    they are simulated side by side.

    Args:
        model: The typical model.
        experiments: The experiments by name, or a single one.
        outputs: The measured outputs by name.
        parameters: By name, `Free(start, ...)` for estimated parameters, numbers for fixed ones: parameters of the
            model by their dotted names, and any other names that formulas use (scales, offsets, noise);
            `Weights(...)` for all weights of a network that is a part of the model.
        method: How to simulate; by default as `simulate` does.
        reference: Natural values to compare with, such as published ones.
        solver: Solves for some of the parameters wherever the problem is evaluated, see `Analytic.solving`.
        gradient: How its gradient is computed where no curvature is asked for: `Adjoint()`, `ForwardSensitivities()`;
            by default whichever costs less, see `qsp.explain(problem)`.
        functions: Terms that formulas call, by name, such as `NeuralRate(...)`.
        penalties: What is taken off the log density beside the priors: `Magnitude(...)`, `Orthogonal(...)`.

    Attributes:
        free: The estimated numbers by name.
        fixed: The values of the other parameters by name.
        weights: The estimated weights.
        layout: The problem as arrays.
        start: The point where the search begins, on the scale of the search.
        bounds: The least and the greatest point.

    Raises:
        ValueError: If there are no data, a name is unknown, or no output depends on a parameter.

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

    model: AbstractModel
    experiments: Mapping[str, Experiment]
    outputs: Mapping[str, Output]
    parameters: Mapping[str, Free | Weights | float]
    method: AbstractMethod | None
    reference: Mapping[str, float]
    solver: Solver | None
    gradient: AbstractGradient | None
    functions: Mapping[str, AbstractTerm]
    penalties: tuple[AbstractPenalty, ...]
    free: Mapping[str, Free] = dataclasses.field(init=False)
    fixed: Mapping[str, float] = dataclasses.field(init=False)
    weights: Blocks = dataclasses.field(init=False)
    layout: Layout = dataclasses.field(init=False)
    start: Vector = dataclasses.field(init=False)
    bounds: tuple[Vector, Vector] = dataclasses.field(init=False)

    def __init__(
        self,
        model: AbstractModel,
        experiments: Mapping[str, Experiment] | Experiment,
        outputs: Mapping[str, Output],
        parameters: Mapping[str, Free | Weights | float],
        *,
        method: AbstractMethod | None = None,
        reference: Mapping[str, float] | None = None,
        solver: Solver | None = None,
        gradient: AbstractGradient | None = None,
        functions: Mapping[str, AbstractTerm] | None = None,
        penalties: Sequence[AbstractPenalty] = (),
    ) -> None:
        """Check and lay out everything."""
        check_instance("model", model, AbstractModel, "a model")
        if isinstance(experiments, Experiment):
            experiments = {"experiment": experiments}
        if not experiments:
            raise ArgumentError("experiments", "must have measurements, but there are none.")
        for name, experiment in experiments.items():
            check_instance(f'experiments["{name}"]', experiment, Experiment, "an Experiment")
        for name, output in outputs.items():
            check_instance(f'outputs["{name}"]', output, Output, "an Output")
        settle(self, model=model, experiments=dict(experiments), outputs=dict(outputs), parameters=dict(parameters))
        for name, function in (functions or {}).items():
            check_instance(f'functions["{name}"]', function, AbstractTerm, "a term such as NeuralRate(...)")
        if gradient is not None:
            check_instance("gradient", gradient, AbstractGradient, "a way such as Adjoint()")
        settle(self, method=method, reference=dict(reference or {}), solver=solver, gradient=gradient)
        settle(self, functions=dict(functions or {}), free=free_of(parameters), fixed=fixed_of(parameters))
        settle(self, weights=Blocks(model, parameters, self.functions))
        if not self.names:
            raise ArgumentError("parameters", "must have at least one that is Free(...) or Weights(), but has none.")
        design = Design(model, self.experiments, outputs, [*self.free], [*self.fixed], method, self.weights)
        settle(self, layout=for_penalties(layout_of(design), penalties), penalties=tuple(penalties))
        (lower, upper), infinite = bounds_of(self.free), jnp.full(self.weights.size, jnp.inf)
        settle(self, start=jnp.concatenate([starts_of(self.free), self.weights.start]))
        settle(self, bounds=(jnp.concatenate([lower, -infinite]), jnp.concatenate([upper, infinite])))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of what is estimated, in the order of a point x: numbers, and then each weight."""
        return (*self.free, *self.weights.labels)

    def __str__(self) -> str:
        measured = sum(rows.value.size for rows in self.rows)
        fixed = f", {len(self.fixed)} fixed" if self.fixed else ""
        rows = {
            "Experiments": len(self.experiments),
            "Measurements": f"{measured} of {len(self.rows)} outputs",
            "Parameters": f"{len(self.free)} free{fixed}",
            **{f"Weights of {block.name}": f"{block.size}" for block in self.weights.blocks},
            "Directions": f"{self.layout.directions} forward sensitivities serve all parameters",
        }
        width = max(14, *(len(key) + 2 for key in rows))
        return "\n".join(f"{key + ':':<{width}}{value}" for key, value in rows.items())

    def natural(self, x: Point) -> Vector:
        """Return the natural values of what is estimated at a point, in the order of `names`."""
        x = jnp.asarray(x, float)
        check_point("x", x.shape, self.names)
        numbers, weights = self.split(x)
        return jnp.concatenate([natural_values([*self.free.values()], numbers), weights])

    def split(self, x: Vector) -> tuple[Vector, Float[Array, " weights"]]:
        """Return the numbers and the weights of a point, or of the natural values of one."""
        return x[..., : len(self.free)], x[..., len(self.free) :]

    def point(self, values: Mapping[str, Scalar | PyTree]) -> Vector:
        """Return the point with these natural values, and the starts of other parameters.

        Args:
            values: By name, numbers, and for weights parts of a model that hold them.

        Raises:
            ValueError: If a name is not that of a free parameter.
        """
        weights = {block.name: block for block in self.weights.blocks}
        for name in values:
            check_one_of("values", name, [*self.free, *weights], "a free parameter")
        parts = [jnp.asarray(free.transform.forward(values.get(name, free.start))) for name, free in self.free.items()]
        raveled = [block.raveled(values.get(name, block.part)) for name, block in weights.items()]
        return jnp.concatenate([jnp.ravel(part) for part in (*parts, *raveled)])

    def values(self, x: Point) -> dict[str, Float[Array, ""]]:
        """Return the natural values of all numbers at a point, by name."""
        natural = self.natural(x)
        return {name: natural[i] for i, name in enumerate(self.free)} | {
            name: jnp.asarray(value, float) for name, value in self.fixed.items()
        }

    def networks(self, x: Point) -> dict[str, PyTree]:
        """Return the parts of the model whose weights are estimated, with those of a point, by name."""
        return self.weights.parts(self.split(jnp.asarray(x, float))[1])

    def fitted_model(self, x: Point) -> AbstractModel:
        """Return the model with the parameters and weights of a point; what experiments set is not in it."""
        model, leaves = self.weights.placed(self.model, self.split(jnp.asarray(x, float))[1]), parameters_of(self.model)
        for name, value in self.values(x).items():
            model = at(model, name).set(value) if name in leaves else model
        return model

    def log_prior(self, x: Point) -> Float[Array, ""]:
        """Return the log density of the priors at a point."""
        numbers, weights = self.split(self.natural(x))
        return self.weights.log_prior(weights) + (self._log_priors(numbers) if self.free else 0.0)

    @cached_property
    def _log_priors(self) -> Native[Float[Array, ""]]:
        """How the log density of the priors is computed."""
        return Native(functools.partial(log_priors, [*self.free.values()]))

    def log_jacobian(self, x: Point) -> Float[Array, ""]:
        """Return log |d theta / d x|: with it a density of natural values becomes one of points, for sampling."""
        natural = self.natural(x)
        terms = [jnp.asarray(f.transform.log_det(natural[i])) for i, f in enumerate(self.free.values())]
        return sum(terms, jnp.zeros(()))

    def log_likelihood(self, x: Point) -> Float[Array, ""]:
        """Return the log likelihood at a point; -inf where a simulation fails, or a measurement has no density.

        `failures` says why.
        """
        return self.settled(x)[0]

    def log_density(self, x: Point) -> Float[Array, ""]:
        """Return the log density at a point: log likelihood and log prior, less the penalties."""
        value, settled, outcomes = self._valued(jnp.asarray(x, float))
        return value + self.log_prior(x) - self.penalty(settled, outcomes.observed)

    def settled(self, x: Point) -> tuple[Float[Array, ""], Vector]:
        """Return the log likelihood at a point, and the point with the values of parameters that are solved for."""
        return self._valued(jnp.asarray(x, float))[:2]

    def _valued(self, x: Vector) -> tuple[Float[Array, ""], Vector, Outcomes]:
        outcomes = self.layout.stages.simulate(self.pooled(x)[0])
        x = self._solved(x, outcomes.observed)
        return self._likelihood(x, outcomes, self.layout.joined), x, outcomes

    def penalty(
        self, x: Vector, observed: Mapping[str, Array], seen: Bool[Array, "experiments times"] | None = None
    ) -> Float[Array, ""]:
        """Return what the penalties take off the log density, given what simulations have given where they are seen."""
        if not self.penalties:
            return jnp.zeros(())
        seen = jnp.asarray(np.isfinite(self.layout.stages.times) if seen is None else seen)
        along = trajectories(self.layout.stages, lambda x: self.pooled(x)[0], x, len(self.free), observed, seen)
        return sum((penalty.value(along) for penalty in self.penalties), jnp.zeros(()))

    def value_and_gradient(self, x: Point) -> tuple[Float[Array, ""], Vector]:
        """Return the log density at a point with its gradient, in the cheaper way, or in that of `gradient`.

        The log density is -inf and the gradient 0 where a simulation fails, or a measurement has no density.

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
            >>> value, gradient = problem.value_and_gradient(problem.start)
            >>> value.round(1), gradient.round(1)
            (Array(-135.4, dtype=float64), Array([628.5], dtype=float64))
        """
        value, gradient, _ = self.sloped(x)
        return value, gradient

    def sloped(self, x: Point) -> tuple[Float[Array, ""], Vector, Vector]:
        """Return `value_and_gradient`, and the point with the values of parameters that are solved for."""
        x = jnp.asarray(x, float)

        def density(x: Array) -> tuple[Array, Array]:
            value, settled, outcomes = self.differentiable(x, self.layout.joined)
            return value + self.log_prior(settled) - self.penalty(settled, outcomes.observed), settled

        (value, settled), gradient = jax.value_and_grad(density, has_aux=True)(x)
        defined = jnp.isfinite(value) & jnp.isfinite(gradient).all()
        return jnp.where(defined, value, -jnp.inf), jnp.where(defined, gradient, 0.0), settled

    def differentiable(self, x: Vector, rows: Sequence[OutputData]) -> tuple[Float[Array, ""], Vector, Outcomes]:
        """Return the log likelihood of rows, differentiable backwards; the settled point; outcomes."""
        outcomes = self.differentiated_by.simulate(self.layout, self.pooled(x)[0])
        x = self._solved(x, outcomes.observed)
        return self._likelihood(x, outcomes, rows), x, outcomes

    def _likelihood(self, x: Vector, outcomes: Outcomes, rows: Sequence[OutputData]) -> Float[Array, ""]:
        numbers, known = self.pooled(x)
        predictors = [data.predicted(numbers, outcomes.observed, known)[1] for data in rows]
        terms = [jnp.sum(density) for density in log_densities(rows, predictors)]
        return _or_minus_infinity(jnp.sum(jnp.stack(terms)), outcomes)

    def linearised(self, x: Point, rows: Sequence[OutputData] | None = None) -> Linearised:
        """Return the predictions at a point and their slopes in the parameters, by forward sensitivities.

        Parameters on which no simulation depends (scales, noise) cost no simulation, and those on which different
        experiments depend share one.

        Args:
            x: The point, on the scale of the search.
            rows: The measurements, by default output by output.
        """
        x = jnp.asarray(x, float)
        layout, outputs = self.layout, self.rows if rows is None else rows
        (numbers, _), slopes = self.pooled(x), jax.jacfwd(lambda x: self.pooled(x)[0])(x)

        def simulate(numbers: Array) -> tuple[dict[str, Array], tuple[RESULTS, Array]]:
            outcomes = layout.stages.simulate(numbers)
            return outcomes.observed, (outcomes.result, outcomes.time)

        observed, tangents, (result, time) = coloured(simulate, numbers, slopes, layout.colours)

        def terms(x: Array, observed: dict[str, Array]) -> list[tuple[Array, Predictors]]:
            numbers, known = self.pooled(x)
            return [rows.predicted(numbers, observed, known) for rows in outputs]

        x = self._solved(x, observed)
        unit = jnp.eye(x.size)
        slopes = jax.vmap(lambda e, o: jax.jvp(terms, (x, observed), (e, o))[1], in_axes=(0, 0))(unit, tangents)
        return Linearised(x, Outcomes(observed, result, time), terms(x, observed), slopes)

    def quadratic(self, x: Point) -> Evaluation:
        """Return the log density with its gradient and its Gauss-Newton curvature, by forward sensitivities."""
        if self.penalties:
            must = "must have no penalties where curvature is needed: Descent(), Adam() and LBFGS() need none."
            raise ArgumentError("problem", must)
        joined = self.layout.joined
        linear = self.linearised(x, joined)
        x, outcomes = linear.x, linear.outcomes
        value, gradient, curvature = self._prior_terms(x)
        predictors, slopes = slopes_given_earlier(
            joined, [predictors for _, predictors in linear.predicted], [slopes for _, slopes in linear.slopes]
        )
        for rows, p, output_slopes in zip(joined, predictors, slopes, strict=True):
            density, score, information = rows.scores(p)
            value += jnp.sum(density)
            for s, d in zip(score, output_slopes, strict=True):
                gradient += d @ s
            for w, d in information.terms(output_slopes):
                curvature += (d * w) @ d.T
        finite = jnp.isfinite(gradient).all() & jnp.isfinite(curvature).all()
        value = jnp.where(finite, _or_minus_infinity(value, outcomes), -jnp.inf)
        defined = jnp.isfinite(value)
        gradient, curvature = jnp.where(defined, gradient, 0.0), jnp.where(defined, curvature, jnp.eye(x.size))
        return Evaluation(value, gradient, curvature, x, outcomes.result, outcomes.time)

    def simulate(self, x: Point) -> Outcomes:
        """Return the observed values of all experiments at a point, and the results of the simulations."""
        numbers, _ = self.pooled(x)
        return self.layout.stages.simulate(numbers)

    def content(self) -> dict[str, object]:
        """Return everything on which the log density depends, by the words that name a difference in it."""
        return {
            "kind": type(self),
            "model": self.model,
            "method": self.method,
            "experiments": self.experiments,
            "outputs": self.outputs,
            "parameters": [self.free, self.fixed, {block.name: block.prior for block in self.weights.blocks}],
            "functions": self.functions,
            "penalties": self.penalties,
        }

    @property
    def simulated_by(self) -> AbstractMethod:
        """How simulations are solved."""
        return default_method(self.model) if self.method is None else self.method

    @property
    def differentiated_by(self) -> AbstractGradient:
        """How the gradient is computed."""
        return self.costs.cheaper if self.gradient is None else self.gradient

    @cached_property
    def costs(self) -> Costs:
        """What a gradient costs."""
        return costs_of(self.layout.directions, len(state_names(as_state(self.model, None))))

    def explained(self) -> ProblemExplanation:
        """Return how simulations are compiled and how the gradient is computed, see `qsp.explain`."""
        with compilations() as solves:
            jax.jit(self.value_and_gradient).lower(self.start)
        return ProblemExplanation(
            simulations=Explanation(self.simulated_by.describe(), tuple(solves)),
            experiments=len(self.experiments),
            stages=len(self.layout.stages.stages),
            parameters=len(self.names),
            simulated=int(self.layout.simulated.sum()) + self.weights.size,
            costs=self.costs,
            gradient=self.differentiated_by,
            chosen=self.gradient is not None,
        )

    def with_effort(self, active: Scalar, looser: Scalar) -> "Problem":
        """Return the same problem, simulated only where `active`, and with tolerances that are greater by a factor.

        A method outside the ensemble kernel, and steady states, know no such thing: they stay as they are.
        """
        stages, method = self.layout.stages, self.simulated_by
        if not has_effort(method):
            return self
        effort = Effort(method, jnp.asarray(active), jnp.asarray(looser, float))
        new = copy.copy(self)
        settle(new, layout=dataclasses.replace(self.layout, stages=dataclasses.replace(stages, method=effort)))
        return new

    @property
    def rows(self) -> tuple[OutputData, ...]:
        """The measurements, output by output."""
        return self.layout.rows

    def predictions(self, x: Point) -> list[tuple[OutputData, Array, Array]]:
        """Return the measurements with prediction and standardised residual of each, output by output."""
        numbers, known = self.pooled(x)
        observed = self.layout.stages.simulate(numbers).observed
        predicted = [rows.predicted(numbers, observed, known) for rows in self.rows]
        predictors = given_earlier(self.rows, [predictors for _, predictors in predicted])
        return [
            (rows, prediction, rows.residual(p))
            for rows, (prediction, _), p in zip(self.rows, predicted, predictors, strict=True)
        ]

    def table(self, x: Point) -> Table:
        """Return every measurement with its prediction, as columns: the data of plots.

        The columns are `experiment`, `output`, `time`, `observed`, `prediction`, `residual` (standardised, NaN where
        censored) and `censored`.
        """
        predictions = self._predicted(jnp.asarray(x, float))
        return self.columns() | {
            "observed": np.concatenate([rows.value for rows in self.rows]),
            "prediction": np.concatenate([np.asarray(prediction) for prediction, _ in predictions]),
            "residual": np.concatenate([np.asarray(residual) for _, residual in predictions]),
            "censored": np.concatenate([rows.censored for rows in self.rows]),
        }

    def columns(self) -> Table:
        """Return experiment, output and time of every measurement, as columns."""
        names = np.array([*self.experiments], dtype=object)
        return {
            "experiment": np.concatenate([names[rows.experiment] for rows in self.rows]),
            "output": np.concatenate([np.full(rows.value.size, rows.name, dtype=object) for rows in self.rows]),
            "time": np.concatenate([rows.time for rows in self.rows]),
        }

    def curves(self, x: Point, *, points: int = 200) -> Table:
        """Return predictions at closely spaced times, for each output that an experiment measures, as columns.

        Args:
            x: The point, on the scale of the search.
            points: The number of times of each curve.
        """
        table = self.densely(points).table(x)
        return {name: table[name] for name in ("experiment", "output", "time", "prediction")}

    def densely(self, points: int) -> "Problem":
        """Return the same problem with placeholder measurements at many times."""
        if points not in self._dense:
            experiments = {name: experiment.closely(points) for name, experiment in self.experiments.items()}
            outputs = {name: Output(output.prediction, output.error) for name, output in self.outputs.items()}
            self._dense[points] = Problem(
                self.model, experiments, outputs, self.parameters, method=self.method, functions=self.functions
            )
        return self._dense[points]

    @cached_property
    def _dense(self) -> dict[int, "Problem"]:
        return {}  # filled on demand, as each problem compiles its own programs

    def failures(self, x: Point) -> list[str]:
        """Return why experiments have no likelihood at a point, where, and what helps; empty if all have one."""
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
    def _explained(self) -> Callable[[Vector], list[Explained]]:
        def at(x: Vector) -> list[Explained]:
            numbers, known = self.pooled(x)
            return explained(self.rows, numbers, self.layout.stages.simulate(numbers).observed, known)

        return eqx.filter_jit(at)

    @cached_property
    def _simulated(self) -> Callable[[Vector], Outcomes]:
        return eqx.filter_jit(self.simulate)

    @cached_property
    def _predicted(self) -> Callable[[Vector], list[tuple[Array, Array]]]:
        return eqx.filter_jit(lambda x: [(prediction, residual) for _, prediction, residual in self.predictions(x)])

    def pooled(self, x: Point) -> tuple[Float[Array, " numbers"], Named]:
        """Return the numbers to which simulations and measurements refer, and the parameters by name."""
        natural, weights = self.split(self.natural(x))
        numbers = jnp.concatenate([natural, np.array([*self.fixed.values()])])
        known = Named(self.layout.table.parameters, numbers, self.weights.callables(weights))
        return jnp.concatenate([self.layout.table.values(known), weights]), known

    def _solved(self, x: Vector, observed: Mapping[str, Array]) -> Vector:
        return x if self.solver is None else self.solver(x, observed)

    def _prior_terms(self, x: Vector) -> tuple[Float[Array, ""], Vector, Float[Array, "parameters parameters"]]:
        """Return value and gradient of the log prior, and the positive part of its curvature."""
        if all(parameter.prior is None for parameter in (*self.free.values(), *self.weights.blocks)):
            return jnp.zeros(()), jnp.zeros_like(x), jnp.zeros((x.size, x.size))
        value, gradient = jax.value_and_grad(self.log_prior)(x)
        curvature = jax.jvp(jax.grad(self.log_prior), (x,), (jnp.ones_like(x),))[1]
        return value, gradient, jnp.diag(jnp.maximum(-curvature, 0.0))


def _or_minus_infinity(value: Array, outcomes: Outcomes) -> Array:
    defined = (outcomes.result == RESULTS.successful).all() & jnp.isfinite(value)
    return jnp.where(defined, value, -jnp.inf)
