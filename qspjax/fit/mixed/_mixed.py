"""A mixed-effects model: a model, the individuals it was measured in, and how their parameters differ."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse
from qspjax._expression import Expression, substitute, symbol
from qspjax._model import AbstractModel
from qspjax._solution import RESULTS
from qspjax._transform import AbstractTransform, Log, Logit
from qspjax.fit._free import Free, log_priors, natural_values
from qspjax.fit.data._causes import why_undefined
from qspjax.fit.data._formula import Formula, as_formula, names_in
from qspjax.fit.data._layout import parts_of
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._rows import Rows
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.errors._models import AbstractScaled, LogNormalError, Predictors
from qspjax.fit.errors._tails import Gaussian
from qspjax.fit.mixed._following import steps_of
from qspjax.fit.mixed._individuals import Expansion, IndividualPool, Individuals
from qspjax.fit.mixed._occasions import Occasions
from qspjax.fit.mixed._random import Random
from qspjax.solve import AbstractMethod

NO_SLOPE = "its measurements have a likelihood, but that has no finite derivative in the random effects or parameters."


class Mixed:
    """A nonlinear mixed-effects model and its data.

    $$ y_{ij} \\sim p(y | f(t_{ij}, \\phi_i)), \\quad \\phi_i = h(\\theta, \\eta_i, x_i), \\quad
       \\eta_i \\sim N(0, \\Omega) $$

    Args:
        model: The typical model.
        subjects: By name, the experiment of each subject: its doses, its measurements, and in `set` its covariates x_i
            (names that are no parameters of the model, with numbers).
        outputs: By name, what is measured.
        parameters: By name, `Free(start, ...)` for what is estimated, numbers for what is fixed: the typical values and
            any other names that formulas use (exponents of covariates, noise).
        individual: By name, formulas for what each subject has its own value of: parameters of the model, or other
            names that formulas of outputs use. They use parameters, random effects and covariates:
            `{"CL": "tCL * exp(eta_CL) * (WT / 70)^0.75"}`. Other distributions are formulas as well: logit-normal
            `1 / (1 + exp(-(lF + eta)))`, Box-Cox `tCL * exp((exp(eta)^shape - 1) / shape)` with an estimated shape.
        random: The random effects.
        method: How to simulate; by default as `simulate` does.

    Attributes:
        names: The names of what is estimated: free parameters, and elements of Omega.
        effects: The names of the random effects; those of an occasion with it, such as `kappa_CL@2`.
        present: Which of them each subject has, shape (subjects, effects).
        blocks: Where the blocks of random effects stand.
        start: The point where a search begins, shape (names,), on the scale of the search.
        bounds: The least and the greatest point.

    Raises:
        ValueError: If a name is not known or has two meanings, a covariate is missing in a subject, a subject has no
            measurements, or an output is not measured.

    References: Lindstrom and Bates, Biometrics 1990;46:673, doi:10.2307/2532087; of shapes, Petersson et al., Pharm Res
    2009;26:2174, doi:10.1007/s11095-009-9931-1.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Mixed, Output, Random
        >>> subjects = {
        ...     name: Experiment(
        ...         Measurements([1.0, 8.0], values, output="concentration"), qsp.bolus(300.0, to="central")
        ...     )
        ...     for name, values in {"anna": [9.1, 4.6], "otto": [7.6, 5.2]}.items()
        ... }
        >>> mixed = Mixed(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     subjects,
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.0), "V": Free(30.0)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[Random({"eta_CL": 0.1})],
        ... )
        >>> mixed.names
        ('tCL', 'V', 'var(eta_CL)')
    """

    def __init__(
        self,
        model: AbstractModel,
        subjects: Mapping[str, Experiment],
        outputs: Mapping[str, Output],
        *,
        parameters: Mapping[str, Free | float],
        individual: Mapping[str, Formula],
        random: Sequence[Random],
        method: AbstractMethod | None = None,
    ) -> None:
        """Check and lay out everything."""
        check_instance("model", model, AbstractModel, "a model")
        self.model, self.outputs, self.parameters, self.method = model, dict(outputs), dict(parameters), method
        self.random, self._written = tuple(random), dict(individual)
        for i, one in enumerate(self.random):
            check_instance(f"random[{i}]", one, Random, "a block such as Random({'eta_CL': 0.1})")
        if not self.random:
            raise ArgumentError("random", "must have at least one random effect, but has none.")
        if not subjects:
            raise ArgumentError("subjects", "must have measurements, but there are none.")
        self._given = dict(subjects)
        occasions = Occasions(self.random, subjects)
        subjects = {name: occasions.indicated(one) for name, one in subjects.items()}
        self.effects, self.present = occasions.effects(), occasions.present()
        self.free = {name: one for name, one in parameters.items() if isinstance(one, Free)}
        self.fixed = {name: as_formula(name, one) for name, one in parameters.items() if name not in self.free}
        for name, value in self.fixed.items():
            if isinstance(value, Expression):
                refuse("parameters", "be Free(...) or numbers", name)
        self.individual = {name: as_formula(name, one) for name, one in individual.items()}
        leaves = parameters_of(model)
        own = {name: symbol(name) for name in self.free if name in leaves and name not in self.individual}
        self.individual |= own
        self._add_effects(occasions)
        self.subjects = tuple(subjects)
        self.covariates = _covariates(subjects, leaves)
        self._check_names(leaves)
        used = names_in(*self.individual.values()).union(*(output.names() for output in self.outputs.values()))
        self.steps = steps_of(subjects, self.covariates, used)
        self._later = {} if self.steps is None else self.steps.later()
        self.experiments = {name: self._experiment(i, one) for i, (name, one) in enumerate(subjects.items())}
        self.individuals = self._laid_out(leaves)
        self._check_measured()
        thetas = [one.transform.forward(one.start) for one in self.free.values()]
        self.start = np.concatenate([np.asarray(thetas, float), *(one.point() for one in self.random)])
        self.blocks = occasions.blocks(len(thetas))
        self._programs: dict[str, Any] = {}
        edges = [one.searched_bounds() for one in self.free.values()]
        omegas = np.full(self.start.size - len(edges), np.inf)
        lower, upper = (np.array([float(pair[k]) for pair in edges]) for k in range(2))
        self.bounds = np.concatenate([lower, -omegas]), np.concatenate([upper, omegas])

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.free, *(label for one in self.random for label in one.labels()))

    @property
    def count(self) -> int:
        """Number of subjects."""
        return len(self.subjects)

    @property
    def rows(self) -> tuple[Rows, ...]:
        """The measurements, output by output."""
        return self.individuals.rows

    @property
    def censored(self) -> np.ndarray:
        """Which subjects have measurements below the limit of quantification, shape (subjects,)."""
        found = np.zeros(self.count, bool)
        for rows in self.rows:
            found[rows.experiment[rows.censored]] = True
        return found

    def values(self, x: Any) -> dict[str, Array]:
        """Return the natural values of all parameters at a point, by name."""
        natural = natural_values([*self.free.values()], jnp.asarray(x, float)[: len(self.free)])
        return {name: natural[i] for i, name in enumerate(self.free)} | {
            name: jnp.asarray(value, float) for name, value in self.fixed.items()
        }

    def factor(self, x: Any) -> Array:
        """Return the lower Cholesky factor of Omega at a point, shape (effects, effects)."""
        x = jnp.asarray(x, float)
        factors = [one.random.factor(x[one.point]) for one in self.blocks for _ in one.effects]
        return jax.scipy.linalg.block_diag(*factors)

    def covariance(self, x: Any) -> Array:
        """Return Omega at a point, shape (effects, effects)."""
        factor = self.factor(x)
        return factor @ factor.T

    def natural(self, x: Any) -> Array:
        """Return the natural values of what is estimated, in the order of `names`."""
        known, omega = self.values(x), self.covariance(x)
        pieces = [jnp.stack([known[name] for name in self.free])] if self.free else []
        pieces += [one.random.elements(omega[one.effects[0], one.effects[0]]) for one in self.blocks]
        return jnp.concatenate(pieces)

    def scales(self, x: Any) -> tuple[AbstractTransform, ...]:
        """Return the scale on which uncertainty about each of `names` is symmetric: see `Free`, and of Omega

        log var,   atanh(cov / (sd sd'))

        """
        natural, omega = np.asarray(self.natural(x)), np.asarray(self.covariance(x))
        found = [one.scale(float(natural[k])) for k, one in enumerate(self.free.values())]
        for one in self.blocks:
            sd = np.sqrt(np.diag(omega[one.effects[0], one.effects[0]]))
            rows, cols = np.tril_indices(sd.size, -1)
            labels = len(one.random.labels())
            found += [Log()] * min(labels, sd.size)
            if labels > sd.size:
                found += [Logit(-most, most) for most in sd[rows] * sd[cols]]
        return tuple(found)

    def log_prior(self, x: Any) -> Array:
        """Return the log density of the priors of the parameters at a point."""
        if not self.free:
            return jnp.zeros(())
        return log_priors(
            [*self.free.values()], natural_values([*self.free.values()], jnp.asarray(x)[: len(self.free)])
        )

    def prior(self, x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the log density of the priors at a point, its slope and its second derivative."""
        x = jnp.asarray(x, float)
        if all(one.prior is None for one in self.free.values()):
            return np.zeros(()), np.zeros(x.size), np.zeros((x.size, x.size))

        def all_of(x: Array) -> tuple[Array, Array, Array]:
            return self.log_prior(x), jax.grad(self.log_prior)(x), jax.hessian(self.log_prior)(x)

        value, slope, bend = self.program("prior", lambda: jax.jit(all_of))(x)
        return np.asarray(value), np.asarray(slope), np.asarray(bend)

    @property
    def is_divisible(self) -> bool:
        """Whether a part of the subjects has the same names and random effects."""
        return not any(one.occasion for one in self.random)

    def part(self, span: slice) -> "Mixed":
        """Return the problem of some of the subjects."""
        return self._of({name: self._given[name] for name in self.subjects[span]}, self.outputs)

    def closely(self, points: int) -> "Mixed":
        """Return the same subjects with measurements at many times, whose values mean nothing."""
        outputs = {name: Output(one.prediction, one.error) for name, one in self.outputs.items()}
        return self._of({name: one.closely(points) for name, one in self._given.items()}, outputs)

    def _of(self, subjects: Mapping[str, Experiment], outputs: Mapping[str, Output]) -> "Mixed":
        return Mixed(
            self.model,
            subjects,
            outputs,
            parameters=self.parameters,
            individual=self._written,
            random=self.random,
            method=self.method,
        )

    # --- one evaluation ---------------------------------------------------------------------------------------------

    def pooled(self, x: Any, u: Any) -> tuple[Array, dict[str, Array]]:
        """Return every number of the individuals, for random effects eta = L u, and the parameters by name."""
        known = self.values(x)
        return self.numbers(known, u @ self.factor(x).T), known

    def numbers(self, known: Mapping[str, Any], etas: Any) -> Array:
        """Return every number of the individuals, for parameters by name and random effects (subjects, effects)."""
        own = {name: etas[:, k] for k, name in enumerate(self.effects)}
        own |= self.covariates | self._later
        pool = self.individuals.pool
        return pool.values([known[name] for name in pool.parameters], own)

    def expanded(self, x: Any, u: Any, order: int) -> Expansion:
        """Return the simulations of all individuals, expanded about where they are."""
        return self.individuals.expanded(self.pooled(x, u)[0], order)

    def predicted(self, x: Any, u: Any, expansion: Expansion) -> list[tuple[Array, Predictors]]:
        """Return the prediction of each measurement and the predictors of its density, output by output."""
        pool, known = self.pooled(x, u)
        observed = self.individuals.observed(expansion, pool)
        return [rows.predicted(pool, observed, known) for rows in self.rows]

    def content(self) -> dict[str, Any]:
        """Return everything that the likelihood depends on, by what it is in words, which tells problems apart."""
        return {
            "kind": type(self),
            "model": self.model,
            "method": self.method,
            "subjects": [self.experiments, self.covariates, self.steps],
            "outputs": self.outputs,
            "parameters": [self.free, self.fixed],
            "formulas of individuals": self.individual,
            "random effects": self.random,
        }

    def failures(self, x: Any, u: Any = None) -> list[str]:
        """Say which subjects have no likelihood at a point, where, why and what helps; an empty list if all have.

        Args:
            x: The point.
            u: The random effects eta = L u, shape (subjects, effects); by default zero.
        """
        found = self._causes(x, u)
        return [found[i] for i in sorted(found)]

    def reasons(self, lost: np.ndarray, x: Any, u: Any = None) -> tuple[str, ...]:
        """Say of each subject that is lost at a point why.

        Args:
            lost: Which subjects are, shape (subjects,), of a mixture without their copies.
            x: The point.
            u: The random effects, as in `failures`.
        """
        known, found = self._causes(x, u), []
        for i in np.flatnonzero(lost):
            own = [known[k] for k in range(i, self.count, len(lost)) if k in known]
            found += own or [f"Subject `{self.subjects[i]}`: {NO_SLOPE}"]
        return tuple(found)

    def _causes(self, x: Any, u: Any) -> dict[int, str]:
        u = np.zeros((self.count, len(self.effects))) if u is None else u

        def once(x: Array, u: Array) -> tuple[Any, Array, list]:
            here = self.expanded(x, u, 0)
            pool, known = self.pooled(x, u)
            observed = self.individuals.observed(here, pool)
            return here.result, here.time, [rows.explained(pool, observed, known) for rows in self.rows]

        program = self.program("explained", lambda: jax.jit(once))
        result, time, parts = program(jnp.asarray(x, float), jnp.asarray(u, float))
        lines = {}
        for rows, own in zip(self.rows, parts, strict=True):
            for i, why in why_undefined(rows, *own).items():
                lines.setdefault(i, f"Subject `{self.subjects[i]}`: {why}")
        for i in np.flatnonzero(np.asarray(result != RESULTS.successful)):
            code = jax.tree.map(lambda leaf, i=i: leaf[i], result)
            lines[int(i)] = f"Subject `{self.subjects[i]}`: failed at time {float(time[i]):g}. {RESULTS[code]}"
        return lines

    def program(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a compiled program of this problem, made once."""
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]

    def _add_effects(self, occasions: Occasions) -> None:
        """Write the formulas of individuals with an effect an occasion, also those that outputs use as they are."""
        used = frozenset().union(*(output.names() for output in self.outputs.values()))
        apart = {name: symbol(name) for one in self.random if one.occasion for name in one.names if name in used}
        self.individual = {name: occasions.written(formula) for name, formula in (self.individual | apart).items()}

    # --- checks -----------------------------------------------------------------------------------------------------

    def _experiment(self, number: int, one: Experiment) -> Experiment:
        """Return the experiment of a subject, with its own parameters at the start, and where covariates change."""
        given = {name: value for name, value in one.begin.set.items() if name in self.covariates}
        set_here = {name: value for name, value in one.begin.set.items() if name not in given}
        names = frozenset().union(*(output.names() for output in self.outputs.values()))
        if self.steps is not None:
            measured = self.steps.measured(number, one, names, self.individual)
            begin = one.begin.setting(self.individual | set_here)
            return one.measuring(measured).changed(begin=begin, changes=[])
        direct = {name: symbol(name) for name in names & given.keys()}  # outputs use these covariates as they are
        begin = one.begin.setting(self.individual | set_here | direct)
        changes = []
        now = dict(given)
        for change in one.changes:
            now |= {name: value for name, value in change.set.items() if name in self.covariates}
            moved = {
                name: substitute(formula, {key: value for key, value in now.items() if value != given[key]})
                for name, formula in self.individual.items()
                if isinstance(formula, Expression) and names_in(formula) & change.set.keys()
            }
            rest = {name: value for name, value in change.set.items() if name not in given or name in direct}
            changes.append(change.setting(moved | rest))
        return one.changed(begin=begin, changes=changes)

    def _laid_out(self, leaves: frozenset[str]) -> Individuals:
        def empty(names: Sequence[str], defaults: Mapping[str, Any]) -> IndividualPool:
            own = (*self.effects, *self.covariates, *self._later)
            return IndividualPool(names, defaults, individual=own, count=self.count)

        pool, stages, rows = parts_of(self, empty)
        if self.steps is None or not self.steps.values:
            return Individuals(pool, stages, rows)
        followed = {
            name: self.steps.followed(formula, self.fixed, pool.place)
            for name, formula in self.individual.items()
            if name in leaves and self.steps.of(formula)
        }
        (stage,) = stages.stages
        sets = {name: places for name, places in stage.sets.items() if name not in followed}
        stages = dataclasses.replace(stages, stages=(dataclasses.replace(stage, sets=sets),), followed=followed)
        return Individuals(pool, stages, rows)

    def _check_names(self, leaves: frozenset[str]) -> None:
        if len(set(self.effects)) < len(self.effects):
            twice = next(name for name in self.effects if self.effects.count(name) > 1)
            refuse("random", "name every effect once", f"with `{twice}` twice")
        for name in self.effects:
            for what, others in (("a parameter", {*self.parameters, *leaves}), ("a covariate", self.covariates)):
                if name in others:
                    refuse("random", f"have names that mean nothing else, and not that of {what}", name)
        known = {*self.parameters, *self.effects, *self.covariates, *leaves}
        used = frozenset().union(*(names_in(one) for one in self.individual.values()))
        for name, formula in self.individual.items():
            for one in sorted(names_in(formula)):
                what = f"a parameter, a random effect or a covariate of all subjects, in the formula of `{name}`"
                check_one_of("individual", one, sorted(known), what)
        used |= frozenset().union(*(output.names() for output in self.outputs.values()))
        for kind, names in (("random", self.effects), ("parameters", self.free)):
            for name in names:
                if name not in used:
                    name = name.partition("@")[0]  # of an occasion
                    raise ArgumentError(
                        kind, f"must have names that something depends on, but nothing depends on `{name}`."
                    )

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
            refuse(
                "individual", "have formulas over parameters, random effects and covariates", "over what is observed"
            )


def without_constant(rows: Rows) -> np.ndarray:
    """Return the part of -2 log p of each row that NONMEM leaves out: log 2 pi of what is normal and measured."""
    error = rows.output.error
    normal = isinstance(error, (AbstractScaled, LogNormalError)) and isinstance(error.tails, Gaussian)
    return np.where(rows.censored | (not normal), 0.0, np.log(2.0 * np.pi))


def _covariates(subjects: Mapping[str, Experiment], leaves: frozenset[str]) -> dict[str, np.ndarray]:
    """Return what subjects set that is no parameter of the model, shape (subjects,)."""
    names = dict.fromkeys(name for one in subjects.values() for name in one.begin.set if name not in leaves)
    found = {}
    for name in names:
        column = []
        for subject, one in subjects.items():
            if name not in one.begin.set:
                raise ArgumentError("subjects", f"must all have the covariate `{name}`, but `{subject}` has none.")
            value = one.begin.set[name]
            if isinstance(value, Expression) or not np.isfinite(value):
                raise ArgumentError(
                    "subjects", f"must have numbers as covariates, but `{name}` of `{subject}` is {value}."
                )
            column.append(value)
        found[name] = np.array(column, float)
    return found
