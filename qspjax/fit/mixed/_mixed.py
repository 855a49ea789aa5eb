"""A mixed-effects model: a model, the individuals it was measured in, and how their parameters differ."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse
from qspjax._explain import AbstractExplainable, Explanation
from qspjax._expression import Expression, Formula, check_constants, nodes
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._simulate import default_method
from qspjax._solution import RESULTS
from qspjax._transform import AbstractTransform
from qspjax.fit._cost import costs_of
from qspjax.fit._explained import MixedExplanation
from qspjax.fit._free import Free, fixed_of, free_of
from qspjax.fit._frozen import settle
from qspjax.fit._types import Point, Vector
from qspjax.fit._weights import Blocks, Weights
from qspjax.fit.data._causes import why_undefined
from qspjax.fit.data._dependence import explained
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._layout import Design, numbers_of
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._output_data import Explained, OutputData
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.errors._contract import Predictors
from qspjax.fit.errors._distributions import Gaussian
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.mixed._individuals import Expansion, Individuals
from qspjax.fit.mixed._occasions import Block, Occasions
from qspjax.fit.mixed._parameters import PopulationParameters
from qspjax.fit.mixed._random import RandomEffects
from qspjax.fit.mixed._subjects import covariates_of, experiments_of, formulas_of, laid_out, names_of
from qspjax.fit.mixed._time_varying import CovariateSteps, steps_of
from qspjax.models import AbstractTerm
from qspjax.solve import AbstractMethod
from qspjax.solve.native import compilations

NO_SLOPE = "its measurements have a likelihood, but that has no finite derivative in the random effects or parameters."

Made = TypeVar("Made")


class AbstractMixed(AbstractExplainable[MixedExplanation]):
    """A mixed-effects model, or a mixture of several: the model, the subjects, and what is estimated.

    Attributes:
        subjects: The experiments of the subjects by name.
        space: Parameters and Omega, as points of a search.
    """

    subjects: Mapping[str, Experiment]
    space: PopulationParameters

    @property
    @abc.abstractmethod
    def copies(self) -> "MixedModel":
        """The model in which every subject is laid out once, or once for each subpopulation."""

    @abc.abstractmethod
    def content(self) -> dict[str, object]:
        """Return everything that the likelihood depends on, by name: models with equal contents are the same."""

    @property
    def subject_names(self) -> tuple[str, ...]:
        """The names of the subjects."""
        return tuple(self.subjects)

    @property
    def count(self) -> int:
        """Number of subjects."""
        return len(self.subjects)

    @property
    def free(self) -> Mapping[str, Free]:
        """What is estimated of the parameters, by name."""
        return self.space.free

    @property
    def fixed(self) -> Mapping[str, float]:
        """The numbers of the other parameters, by name."""
        return self.space.fixed

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of random effects, with their indices among all effects and in a point."""
        return self.space.blocks

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is estimated: free parameters, elements of Omega, and each weight."""
        return self.space.names

    @property
    def weights(self) -> Blocks:
        """The weights that are estimated."""
        return self.space.weights

    def networks(self, x: Point) -> dict[str, PyTree]:
        """Return the parts of the model, and the functions, whose weights are estimated, with those of a point."""
        return self.weights.parts(self.space.split(x)[1])

    @property
    def start(self) -> Float[np.ndarray, " parameters"]:
        """The point at which a search begins."""
        return self.space.start

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " parameters"], Float[np.ndarray, " parameters"]]:
        """The least and the greatest point."""
        return self.space.bounds

    def values(self, x: Point) -> dict[str, Float[Array, ""]]:
        """Return the natural values of all parameters at a point, by name."""
        return self.space.values(x)

    def natural(self, x: Point) -> Vector:
        """Return the natural values of what is estimated, in the order of `names`."""
        return self.space.natural(x)

    def factor(self, x: Point) -> Float[Array, "effects effects"]:
        """Return the lower Cholesky factor of Omega at a point."""
        return self.space.factor(x)

    def covariance(self, x: Point) -> Float[Array, "effects effects"]:
        """Return Omega at a point."""
        return self.space.covariance(x)

    def scales(self, x: Point) -> tuple[AbstractTransform, ...]:
        """Return the scale on which uncertainty about each of `names` is symmetric."""
        return self.space.scales(x)

    def log_prior(self, x: Point) -> Float[Array, ""]:
        """Return the log density of the priors of parameters and weights at a point."""
        return self.space.log_prior(x)

    def prior(
        self, x: Point
    ) -> tuple[Float[np.ndarray, ""], Float[np.ndarray, " parameters"], Float[np.ndarray, "parameters parameters"]]:
        """Return the log density of the priors at a point, its slope and its second derivative."""
        return self.space.prior(x)

    def explained(self) -> MixedExplanation:
        """Return how simulations are compiled and differentiated, see `qsp.explain`."""
        copies = self.copies
        method = default_method(copies.model) if copies.method is None else copies.method
        u = np.zeros((copies.count, len(copies.effects)))
        with compilations() as solves:
            jax.jit(lambda x, u: copies.expanded(x, u, 1)).lower(self.start, u)
        numbers = len(copies.individuals.starts)
        return MixedExplanation(
            simulations=Explanation(method.describe(), tuple(solves)),
            subjects=copies.count,
            numbers=numbers,
            effects=len(copies.effects),
            costs=costs_of(numbers, len(state_names(as_state(copies.model, None)))),
        )

    def failures(self, x: Point, u: Float[np.ndarray, "copies effects"] | None = None) -> list[str]:
        """Say which subjects have no likelihood at a point, where, why and what helps; an empty list if all have one.

        Args:
            x: The point.
            u: The random effects eta = L u; by default zero.
        """
        causes = self.copies.causes(x, u)
        return [causes[i] for i in sorted(causes)]

    def reasons(
        self, lost: Bool[np.ndarray, " subjects"], x: Point, u: Float[np.ndarray, "copies effects"] | None = None
    ) -> tuple[str, ...]:
        """Say why each of some subjects has no likelihood at a point.

        Args:
            lost: Which subjects have none.
            x: The point.
            u: The random effects, as in `failures`.
        """
        causes, reasons = self.copies.causes(x, u), []
        for i in np.flatnonzero(lost):
            lines = [causes[k] for k in range(i, self.copies.count, len(lost)) if k in causes]
            reasons += lines or [f"Subject `{self.subject_names[i]}`: {NO_SLOPE}"]
        return tuple(reasons)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MixedModel(AbstractMixed):
    """A nonlinear mixed-effects model and its data.

    $$ y_{ij} \\sim p(y | f_w(t_{ij}, \\phi_i)), \\quad \\phi_i = h_w(\\theta, \\eta_i, x_i), \\quad
       \\eta_i \\sim N(0, \\Omega) $$

    A network with weights w may stand in the equations f of the model, or in the formulas h of individuals.

    Args:
        model: The typical model.
        subjects: By name, the experiment of each subject: its doses, its measurements, and in `set` its covariates x_i
            (names that are no parameters of the model, with numbers).
        outputs: By name, what is measured.
        parameters: By name, `Free(start, ...)` for what is estimated, numbers for what is fixed: the typical values and
            any other names that formulas use (exponents of covariates, noise); `Weights(...)` for all weights of a
            network that is a part of the model or one of `functions`.
        individual: By name, formulas for what differs between subjects: parameters of the model, or other names that
            formulas of outputs use. They use parameters, random effects and covariates:
            `{"CL": "tCL * exp(eta_CL) * (WT / 70)^0.75"}`. Other distributions are formulas as well: logit-normal
            `1 / (1 + exp(-(lF + eta)))`, Box-Cox `tCL * exp((exp(eta)^shape - 1) / shape)` with an estimated shape.
        random: The random effects.
        functions: Terms that formulas of `individual` call, by name: `{"CL": "tCL * f(WT, eta_1) * exp(eta_CL)"}`.
        method: How to simulate; by default as `simulate` does.
        subpopulations: Those of the mixture whose copies these are, see `Mixture.copies`.

    Attributes:
        names: The names of what is estimated: free parameters, elements of Omega, and each weight.
        space: Parameters, Omega and weights, as points of a search.
        start: The point at which a search begins, shape (names,), on the scale of the search.
        bounds: The least and the greatest point.
        effects: The names of the random effects; those of an occasion end with it, as in `kappa_CL@2`.
        present: Which of them each subject has, shape (subjects, effects).
        formulas: Those of individuals as they are laid out: with one effect per occasion.

    Raises:
        ValueError: If a name is unknown or has two meanings, a subject lacks a covariate, a subject has no
            measurements, an output is not measured, no formula calls a function, or one calls it with other inputs.

    References: Lindstrom and Bates, Biometrics 1990;46:673, doi:10.2307/2532087; of shapes, Petersson et al., Pharm Res
    2009;26:2174, doi:10.1007/s11095-009-9931-1; of networks, Bram et al., J Pharmacokinet Pharmacodyn 2024;51:123,
    doi:10.1007/s10928-023-09886-4.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects
        >>> subjects = {
        ...     name: Experiment(
        ...         Measurements([1.0, 8.0], values, output="concentration"), qsp.bolus(300.0, to="central")
        ...     )
        ...     for name, values in {"anna": [9.1, 4.6], "otto": [7.6, 5.2]}.items()
        ... }
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     subjects,
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.0), "V": Free(30.0)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> mixed.names
        ('tCL', 'V', 'var(eta_CL)')
    """

    model: AbstractModel
    subjects: Mapping[str, Experiment]
    outputs: Mapping[str, Output]
    _: dataclasses.KW_ONLY
    parameters: Mapping[str, Free | Weights | float]
    individual: Mapping[str, Formula]
    random: Sequence[RandomEffects]
    functions: Mapping[str, AbstractTerm] = dataclasses.field(default_factory=dict)
    method: AbstractMethod | None = None
    subpopulations: tuple[str, ...] = ()
    effects: tuple[str, ...] = dataclasses.field(init=False)
    present: Bool[np.ndarray, "subjects effects"] = dataclasses.field(init=False)
    space: PopulationParameters = dataclasses.field(init=False)
    formulas: Mapping[str, float | Expression] = dataclasses.field(init=False)
    covariates: Mapping[str, Float[np.ndarray, " subjects"]] = dataclasses.field(init=False)
    steps: CovariateSteps | None = dataclasses.field(init=False)
    experiments: Mapping[str, Experiment] = dataclasses.field(init=False)
    individuals: Individuals = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        check_instance("model", self.model, AbstractModel, "a model")
        settle(self, subjects=dict(self.subjects), outputs=dict(self.outputs), parameters=dict(self.parameters))
        must = "a list of blocks, such as [RandomEffects({'eta_CL': 0.1})]"
        check_instance("random", self.random, Iterable, must)
        settle(self, individual=dict(self.individual), random=tuple(self.random), functions=dict(self.functions))
        for i, block in enumerate(self.random):
            check_instance(f"random[{i}]", block, RandomEffects, "a block such as RandomEffects({'eta_CL': 0.1})")
        if not self.random:
            raise ArgumentError("random", "must have at least one random effect, but has none.")
        if not self.subjects:
            raise ArgumentError("subjects", "must have measurements, but there are none.")
        occasions = Occasions.of(self.random, self.subjects)
        settle(self, effects=occasions.effects(), present=occasions.present())
        free, fixed = free_of(self.parameters), fixed_of(self.parameters)
        weights = Blocks(self.model, self.parameters, self.functions)
        space = PopulationParameters(free, fixed, occasions.blocks(len(free)), weights, self.subpopulations)
        leaves = parameters_of(self.model)
        formulas = formulas_of(self.individual, [*free], leaves, self.outputs, occasions, self.functions)
        subjects = {name: occasions.indicated(subject) for name, subject in self.subjects.items()}
        settle(self, space=space, formulas=formulas, covariates=covariates_of(subjects, leaves))
        self._check_settings(leaves)
        self._check_names(leaves)
        settle(self, steps=steps_of(subjects, self.covariates, names_in(*formulas.values()) | names_of(self.outputs)))
        estimated = [name for name in free if name not in space.shares]
        numbers = numbers_of(self.model, [*estimated, *fixed])
        experiments = experiments_of(subjects, formulas, self.covariates, self.steps, self.outputs, numbers)
        design = Design(self.model, experiments, self.outputs, estimated, [*fixed], self.method, weights)
        individuals = laid_out(design, self.effects, self.covariates, self.steps, formulas, fixed)
        settle(self, experiments=experiments, individuals=individuals)
        self._check_measured()

    @property
    def copies(self) -> "MixedModel":
        return self

    @property
    def rows(self) -> tuple[OutputData, ...]:
        """The measurements, output by output."""
        return self.individuals.rows

    @property
    def censored(self) -> Bool[np.ndarray, " subjects"]:
        """Which subjects have measurements below the limit of quantification."""
        censored = np.zeros(self.count, bool)
        for rows in self.rows:
            censored[rows.experiment[rows.censored]] = True
        return censored

    @property
    def is_divisible(self) -> bool:
        """Whether the model of some of the subjects has the same names and random effects."""
        return not self.subpopulations and not any(block.occasion for block in self.random)

    def part(self, span: slice) -> "MixedModel":
        """Return the model of some of the subjects."""
        return dataclasses.replace(self, subjects={name: self.subjects[name] for name in self.subject_names[span]})

    def closely(self, points: int) -> "MixedModel":
        """Return the same subjects with measurements at closely spaced times, whose values are arbitrary."""
        outputs = {name: Output(output.prediction, output.error) for name, output in self.outputs.items()}
        subjects = {name: subject.closely(points) for name, subject in self.subjects.items()}
        return dataclasses.replace(self, subjects=subjects, outputs=outputs)

    # --- one evaluation ---------------------------------------------------------------------------------------------

    def pooled(
        self, x: Point, u: Float[Array, "subjects effects"]
    ) -> tuple[Float[Array, " numbers"], dict[str, Float[Array, ""]]]:
        """Return every number of the individuals, for random effects eta = L u, and the parameters by name."""
        parameters = self.values(x)
        return self.numbers(parameters, u @ self.factor(x).T, self.space.split(x)[1]), parameters

    def numbers(
        self,
        known: Mapping[str, Float[Array, ""]],
        etas: Float[Array, "subjects effects"],
        weights: Float[Array, " weights"],
    ) -> Float[Array, " numbers"]:
        """Return every number of the individuals, for parameters by name, random effects and weights."""
        effects = {name: etas[:, k] for k, name in enumerate(self.effects)}
        later = {} if self.steps is None else self.steps.later()
        table = self.individuals.table
        parameters = [known[name] for name in table.parameters]
        return table.values(parameters, {**effects, **self.covariates, **later}, weights)

    def expanded(self, x: Point, u: Float[Array, "subjects effects"], order: int) -> Expansion:
        """Return the simulations of all individuals, expanded about their numbers at a point."""
        return self.individuals.expanded(self.pooled(x, u)[0], order)

    def predicted(
        self, x: Point, u: Float[Array, "subjects effects"], expansion: Expansion
    ) -> list[tuple[Array, Predictors]]:
        """Return the prediction of each measurement and the predictors of its density, output by output."""
        numbers, parameters = self.pooled(x, u)
        observed = self.individuals.observed(expansion, numbers)
        return [rows.predicted(numbers, observed, parameters) for rows in self.rows]

    def content(self) -> dict[str, object]:
        return {
            "kind": type(self),
            "model": self.model,
            "method": self.method,
            "subjects": [self.experiments, self.covariates, self.steps],
            "outputs": self.outputs,
            "parameters": [self.free, self.fixed, {block.name: block.prior for block in self.weights.blocks}],
            "functions": self.functions,
            "formulas of individuals": self.formulas,
            "random effects": self.random,
        }

    def causes(self, x: Point, u: Float[np.ndarray, "subjects effects"] | None) -> dict[int, str]:
        """Say why subjects have no likelihood at a point, by the number of the subject."""
        u = np.zeros((self.count, len(self.effects))) if u is None else u

        def evaluated(x: Array, u: Array) -> tuple[RESULTS | None, Array | None, list[Explained]]:
            expansion = self.expanded(x, u, 0)
            numbers, parameters = self.pooled(x, u)
            observed = self.individuals.observed(expansion, numbers)
            return expansion.result, expansion.time, explained(self.rows, numbers, observed, parameters)

        program = self.program("explained", lambda: jax.jit(evaluated))
        result, time, parts = program(jnp.asarray(x, float), jnp.asarray(u, float))
        lines = {}
        for rows, part in zip(self.rows, parts, strict=True):
            for i, why in why_undefined(rows, *part).items():
                lines.setdefault(i, f"Subject `{self.subject_names[i]}`: {why}")
        assert time is not None
        for i in np.flatnonzero(np.asarray(result != RESULTS.successful)):
            code = jax.tree.map(lambda leaf, i=i: leaf[i], result)
            why = f"failed at time {float(time[i]):g}. {RESULTS[code]}"
            lines[int(i)] = f"Subject `{self.subject_names[i]}`: {why}"
        return lines

    def program(self, name: str, make: Callable[[], Made]) -> Made:
        """Return a compiled program of this model, or another result that depends only on it, made on first use."""
        if name not in self._programs:
            self._programs[name] = make()
        return cast(Made, self._programs[name])

    @cached_property
    def _programs(self) -> dict[str, object]:
        return {}

    # --- checks -----------------------------------------------------------------------------------------------------

    def _check_names(self, leaves: frozenset[str]) -> None:
        if len(set(self.effects)) < len(self.effects):
            twice = next(name for name in self.effects if self.effects.count(name) > 1)
            refuse("random", "name every effect once", f"a list that names `{twice}` twice")
        for name in self.effects:
            for kind_of_name, others in (
                ("a parameter", {*self.parameters, *leaves}),
                ("a covariate", self.covariates),
                ("a function", self.functions),
            ):
                if name in others:
                    refuse("random", f"have names that mean nothing else, and not that of {kind_of_name}", name)
        known = sorted({*self.free, *self.fixed, *self.effects, *self.covariates, *leaves})
        check_constants("individual", known, self.formulas.values())
        for name, formula in self.formulas.items():
            for used in sorted(names_in(formula)):
                kind_of_name = (
                    f"a parameter, a random effect or a covariate of all subjects, in the formula of `{name}`"
                )
                check_one_of("individual", used, known, kind_of_name)
        used = names_in(*self.formulas.values()) | names_of(self.outputs) | {*self.space.shares}
        for kind, names in (("random", self.effects), ("parameters", self.free)):
            for name in names:
                if name not in used:
                    name = name.partition("@")[0]  # of an occasion
                    must = f"must have names that something depends on, but nothing depends on `{name}`."
                    raise ArgumentError(kind, must)

    def _check_settings(self, leaves: frozenset[str]) -> None:
        """Check that whatever individuals have of their own has a use, so that no name is misspelt."""
        used = names_of(self.outputs).union(*(subject.names() for subject in self.subjects.values())) - {"prediction"}
        settable = [*sorted(leaves), *sorted(used - leaves)]
        for name, formula in self.formulas.items():
            check_one_of("individual", name, settable, "a parameter of the model or a name in a formula of outputs")
            if isinstance(formula, Expression) and any(part.op == "time" for part in nodes(formula)):
                refuse("individual", "have formulas without time", f"`{formula}` for `{name}`")
        used |= names_in(*self.formulas.values()) | {block.occasion for block in self.random}
        used = used.union(*(subject.optional for subject in self.subjects.values()))
        spellings = {_spelling(name): name for name in leaves}
        for name in self.covariates:
            if name not in used and _spelling(name) in spellings:
                must = f"must set parameters of the model, or covariates, but set `{name}`, which nothing uses."
                raise ArgumentError("subjects", f"{must} Did you mean `{spellings[_spelling(name)]}`?")

    def _check_measured(self) -> None:
        measured = np.zeros(self.count, int)
        for rows in self.rows:
            measured += np.bincount(rows.experiment, minlength=self.count)
        for name, count in zip(self.subjects, measured, strict=True):
            if not count:
                raise ArgumentError("subjects", f"must have measurements, but subject `{name}` has none.")
        for name in self.outputs:
            if name not in {rows.name for rows in self.rows}:
                raise ArgumentError("outputs", f"must be measured, but nothing is measured of output `{name}`.")
        if any(stage.later for stage in self.individuals.stages.stages):
            must = "have formulas over parameters, random effects and covariates"
            refuse("individual", must, "over observed values")


def _spelling(name: str) -> str:
    """Return the letters and digits of a name."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def without_constant(rows: OutputData) -> np.ndarray:
    """Return the part of -2 log p of each row that NONMEM leaves out: log 2 pi for uncensored normal measurements."""
    error = rows.output.error
    normal = isinstance(error, AbstractLocationScale) and isinstance(error.distribution, Gaussian)
    return np.where(rows.censored | (not normal), 0.0, np.log(2.0 * np.pi))
