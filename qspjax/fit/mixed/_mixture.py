"""Mixtures: subjects belong to subpopulations, but to which is unknown.

    p(y_i) = sum_k pi_k p_k(y_i),   P(k | y_i) = pi_k p_k(y_i) / p(y_i)

Every subject is laid out once for each subpopulation, as if it belonged there: all simulations run side by side in the
programs of a model without subpopulations, and only the objectives of the copies are combined,

    o_i = -2 log sum_k pi_k exp(-o_ik / 2),   do_i/dx = sum_k P(k | y_i) (do_ik/dx - 2 d log pi_k / dx).

The probabilities are searched as log(pi_k / pi_K), on the whole line.

References: Wang, Schumitzky and D'Argenio, Comput Stat Data Anal 2007;51:6614, doi:10.1016/j.csda.2007.03.008;
Carlsson, Savic, Hooker and Karlsson, AAPS J 2009;11:148, doi:10.1208/s12248-009-9093-4.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from qspjax._checks import ArgumentError, check_above, check_instance, check_number, refuse
from qspjax._expression import Formula, as_formula
from qspjax._model import AbstractModel
from qspjax._random import generator
from qspjax._transform import Identity
from qspjax._types import Key
from qspjax.fit._free import Free
from qspjax.fit._frozen import settle
from qspjax.fit._types import Point, Vector
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.mixed._parameters import PopulationParameters, share_label
from qspjax.fit.mixed._random import RandomEffects
from qspjax.solve import AbstractMethod

WIDEST = 15.0
"""The greatest |log(pi_k / pi_K)|: the probability of a subpopulation may become almost zero."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Mixture(AbstractMixed):
    """A mixed-effects model whose subjects belong to unknown subpopulations (`$MIXTURE` of NONMEM).

    $$ p(y_i) = \\sum_k \\pi_k \\, p_k(y_i) $$

    Args:
        model: The typical model.
        subjects: As in `MixedModel`.
        outputs: As in `MixedModel`.
        subpopulations: By name, the probabilities with which the search begins; they add up to 1. The names stand in
            formulas for 1 in this subpopulation and 0 in the others: `{"CL": "tCL * exp(eta_CL) * (1 - 0.8 * poor)"}`,
            `{"CL": "piecewise(slow, poor > 0, fast) * exp(eta_CL)"}`. All but the last are estimated, as `P(poor)`.
        parameters: As in `MixedModel`.
        individual: As in `MixedModel`.
        random: As in `MixedModel`.
        method: As in `MixedModel`.

    Attributes:
        copies: The mixed-effects model in which every subject is laid out once for each subpopulation, all those of the
            first one before those of the next.

    Raises:
        ValueError: As `MixedModel`; or if there are fewer than two subpopulations, their probabilities are not positive
            or do not add up to 1, or a name has another meaning or none.

    Reference: Carlsson et al., AAPS J 2009;11:148, doi:10.1208/s12248-009-9093-4.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Mixture, Output, RandomEffects
        >>> subjects = {
        ...     name: Experiment(
        ...         Measurements([1.0, 8.0], values, output="concentration"), qsp.bolus(300.0, to="central")
        ...     )
        ...     for name, values in {"anna": [9.1, 4.6], "otto": [9.6, 8.2]}.items()
        ... }
        >>> mixture = Mixture(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     subjects,
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     subpopulations={"extensive": 0.7, "poor": 0.3},
        ...     parameters={"tCL": Free(3.0), "less": Free(0.2)},
        ...     individual={"CL": "tCL * exp(eta_CL) * (1 - poor + poor * less)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> mixture.names
        ('tCL', 'less', 'P(extensive)', 'var(eta_CL)')
    """

    model: AbstractModel
    subjects: Mapping[str, Experiment]
    outputs: Mapping[str, Output]
    _: dataclasses.KW_ONLY
    subpopulations: Mapping[str, float]
    parameters: Mapping[str, Free | float]
    individual: Mapping[str, Formula]
    random: Sequence[RandomEffects]
    method: AbstractMethod | None = None
    space: PopulationParameters = dataclasses.field(init=False)
    laid_out: MixedModel = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        check_instance("model", self.model, AbstractModel, "a model")
        _check_shares(self.subpopulations)
        settle(self, subpopulations=dict(self.subpopulations), subjects=dict(self.subjects))
        self._check_names()
        copies = {
            f"{subject} ({name})": _within(experiment, name, self.subpopulations)
            for name in self.subpopulations
            for subject, experiment in self.subjects.items()
        }
        laid_out = self._mixed(copies)
        settle(self, laid_out=laid_out, space=laid_out.space)

    def _mixed(self, subjects: Mapping[str, Experiment]) -> MixedModel:
        """Return a mixed-effects model of subjects in their subpopulations, whose points are those of the mixture."""
        *others, last = self.subpopulations
        logs = {name: float(np.log(self.subpopulations[name] / self.subpopulations[last])) for name in others}
        edges, scale = (-WIDEST, WIDEST), Identity()
        ratios = {share_label(name): Free(log, bounds=edges, transform=scale) for name, log in logs.items()}
        return MixedModel(
            self.model,
            subjects,
            self.outputs,
            parameters={**self.parameters, **ratios},
            individual=self.individual,
            random=self.random,
            method=self.method,
            subpopulations=tuple(self.subpopulations),
        )

    def _check_names(self) -> None:
        other_names = {"a parameter": {*self.parameters, *parameters_of(self.model)}, "a covariate": set()}
        for subject, experiment in self.subjects.items():
            check_instance(f'subjects["{subject}"]', experiment, Experiment, "an Experiment")
            other_names["a covariate"] |= experiment.begin.set.keys()
        for kind, names in other_names.items():
            for name in names & self.subpopulations.keys():
                refuse("subpopulations", f"have names that mean nothing else, and not that of {kind}", name)
        formulas = [as_formula(name, formula) for name, formula in self.individual.items()]
        used = names_in(*formulas).union(*(output.names() for output in self.outputs.values()))
        if not used & self.subpopulations.keys():
            listed = ", ".join(self.subpopulations)
            raise ArgumentError("subpopulations", f"must be distinguished by a formula, but no formula uses {listed}.")

    @property
    def copies(self) -> MixedModel:
        return self.laid_out

    def content(self) -> dict[str, object]:
        return {**self.copies.content(), "kind": type(self)}

    def log_shares(self, x: Point) -> Float[Array, " subpopulations"]:
        """Return the logarithms of the probabilities of the subpopulations at a point."""
        return self.space.log_shares(x)

    def joined(
        self, x: Point, values: Float[Array, " copies"] | Float[np.ndarray, " copies"]
    ) -> tuple[Float[Array, " subjects"], Float[Array, "subjects subpopulations"]]:
        """Return the objective of each subject, and the probability of each subpopulation given its data.

        Args:
            x: The point.
            values: The objectives of the copies.
        """
        of_copies = jnp.asarray(values).reshape(len(self.subpopulations), -1)
        terms = self.log_shares(x)[:, None] - 0.5 * of_copies
        total = logsumexp(terms, axis=0)
        return -2.0 * total, jnp.exp(terms - total).T

    def joined_slopes(
        self, x: Vector, shares: Float[Array, "subjects subpopulations"], slopes: Float[Array, "copies parameters"]
    ) -> Float[Array, "subjects parameters"]:
        """Return the derivative of the objective of each subject.

        Args:
            x: The point.
            shares: The probabilities of the subpopulations.
            slopes: The derivatives of the copies.
        """
        of_copies = slopes.reshape(len(self.subpopulations), -1, x.size) - 2.0 * jax.jacfwd(self.log_shares)(x)[:, None]
        return jnp.einsum("nk,knx->nx", shares, of_copies)

    def classified(self, shares: Float[np.ndarray, "subjects subpopulations"]) -> MixedModel:
        """Return the model in which every subject is in its most probable subpopulation, for tables and figures.

        Args:
            shares: The probabilities of the subpopulations.
        """
        names = [*self.subpopulations]
        best = np.argmax(shares, axis=1)
        members = zip(self.subjects.items(), best, strict=True)
        return self._mixed(
            {subject: _within(experiment, names[k], self.subpopulations) for (subject, experiment), k in members}
        )

    def chosen(
        self, shares: Float[np.ndarray, "subjects subpopulations"], u: Float[np.ndarray, "copies effects"]
    ) -> Float[np.ndarray, "subjects effects"]:
        """Return the modes of the subjects in their most probable subpopulations, from those of all copies."""
        best = np.argmax(shares, axis=1)
        return u.reshape(len(self.subpopulations), self.count, -1)[best, np.arange(best.size)]

    def drawn(
        self, x: Point, samples: Sequence[Float[np.ndarray, "replicates copied"]], key: Key
    ) -> list[Float[np.ndarray, "replicates measurements"]]:
        """Return measurements of subjects whose subpopulations are drawn.

        Args:
            x: The point.
            samples: Measurements of the copies, output by output.
            key: The random key for the subpopulations.
        """
        count = len(self.subpopulations)
        shares = np.exp(np.asarray(self.log_shares(x)))
        size = (len(samples[0]), self.count)
        belongs = generator(key).choice(count, size, p=shares / shares.sum())
        drawn = []
        for rows, values in zip(self.copies.rows, samples, strict=True):
            of_copies = values.reshape(len(values), count, -1)
            chosen = belongs[:, None, rows.experiment[: of_copies.shape[2]]]
            drawn.append(np.take_along_axis(of_copies, chosen, axis=1)[:, 0])
        return drawn


def _within(experiment: Experiment, name: str, names: Iterable[str]) -> Experiment:
    """Return an experiment as it is in a subpopulation."""
    belongs = {other: float(other == name) for other in names}
    begin = experiment.begin.setting({**experiment.begin.set, **belongs})
    return experiment.changed(begin=begin, changes=experiment.changes)


def _check_shares(shares: Mapping[str, float]) -> None:
    check_instance("subpopulations", shares, Mapping, "probabilities by name, such as {'extensive': 0.7, 'poor': 0.3}")
    if len(shares) < 2:
        refuse("subpopulations", "be at least two", len(shares))
    for name, share in shares.items():
        check_number(f'subpopulations["{name}"]', share)
        check_above(f'subpopulations["{name}"]', share, 0.0)
    total = float(sum(shares.values()))
    if abs(total - 1.0) > 1e-6:
        refuse("subpopulations", "have probabilities that add up to 1", total)
