"""Mixtures: subjects belong to subpopulations, and the data do not say to which.

    p(y_i) = sum_k pi_k p_k(y_i),   P(k | y_i) = pi_k p_k(y_i) / p(y_i)

Every subject is laid out once for each subpopulation, as if it belonged there: all simulations are made side by side by
the programs of a model without subpopulations, and only the objectives of the copies are brought together,

    o_i = -2 log sum_k pi_k exp(-o_ik / 2),   do_i/dx = sum_k P(k | y_i) (do_ik/dx - 2 d log pi_k / dx).

The probabilities are searched as log(pi_k / pi_K), on the whole line.

References: Wang, Schumitzky and D'Argenio, Comput Stat Data Anal 2007;51:6614, doi:10.1016/j.csda.2007.03.008;
Carlsson, Savic, Hooker and Karlsson, AAPS J 2009;11:148, doi:10.1208/s12248-009-9093-4.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_above, check_instance, check_number, refuse
from qspjax._model import AbstractModel
from qspjax._random import generator
from qspjax._transform import AbstractTransform, Identity, Logit
from qspjax._types import Key
from qspjax.fit._free import Free
from qspjax.fit.data._formula import Formula, as_formula, names_in
from qspjax.fit.data._measurements import Experiment, Output
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.mixed._mixed import Mixed
from qspjax.fit.mixed._random import Random
from qspjax.solve import AbstractMethod

WIDEST = 15.0
"""The greatest |log(pi_k / pi_K)|: a subpopulation may all but vanish."""


class _Divided(Mixed):
    """A mixed-effects model with probabilities of subpopulations among its parameters.

    Attributes:
        subpopulations: Their names.
    """

    subpopulations: tuple[str, ...]

    @property
    def is_divisible(self) -> bool:
        return False

    def _begin(self, shares: Mapping[str, float], subjects: Mapping[str, Experiment], settings: dict[str, Any]) -> None:
        """Lay out everything, then put the probabilities behind the other parameters."""
        super().__init__(subjects=subjects, **settings)
        *others, last = self.subpopulations = tuple(shares)
        logs = [float(np.log(shares[name] / shares[last])) for name in others]
        edges, scale, place = (-WIDEST, WIDEST), Identity(), len(self.free)
        weights = {
            _label(name): Free(start, bounds=edges, transform=scale) for name, start in zip(others, logs, strict=True)
        }
        self.free, self.parameters = self.free | weights, self.parameters | weights
        self.start = np.insert(self.start, place, logs)
        lower, upper = (np.insert(edge, place, [end] * len(logs)) for edge, end in zip(self.bounds, edges, strict=True))
        self.bounds = lower, upper
        self.blocks = tuple(dataclasses.replace(one, point=_moved(one.point, len(logs))) for one in self.blocks)

    def log_shares(self, x: Any) -> Array:
        """Return the logarithms of the probabilities at a point, shape (subpopulations,)."""
        end = len(self.free)
        ratios = jnp.asarray(x, float)[end - len(self.subpopulations) + 1 : end]
        return jax.nn.log_softmax(jnp.append(ratios, 0.0))

    def values(self, x: Any) -> dict[str, Array]:
        shares = jnp.exp(self.log_shares(x))
        return super().values(x) | {_label(name): shares[k] for k, name in enumerate(self.subpopulations[:-1])}

    def scales(self, x: Any) -> tuple[AbstractTransform, ...]:
        end = len(self.free)
        found = super().scales(x)
        shares = (Logit(),) * (len(self.subpopulations) - 1)
        return (*found[: end - len(shares)], *shares, *found[end:])


class Mixture(_Divided):
    """A mixed-effects model whose subjects belong to subpopulations that are not known (`$MIXTURE` of NONMEM).

    $$ p(y_i) = \\sum_k \\pi_k \\, p_k(y_i) $$

    Args:
        model: The typical model.
        subjects: As of `Mixed`.
        outputs: As of `Mixed`.
        subpopulations: By name, the probabilities where the search begins; they add up to 1. The names stand in
            formulas for 1 in this subpopulation and 0 in the others: `{"CL": "tCL * exp(eta_CL) * (1 - 0.8 * poor)"}`,
            `{"CL": "piecewise(slow, poor > 0, fast) * exp(eta_CL)"}`. All but the last are estimated, as `P(poor)`.
        parameters: As of `Mixed`.
        individual: As of `Mixed`.
        random: As of `Mixed`.
        method: As of `Mixed`.

    Attributes:
        people: The names of the subjects; `subjects` are their copies, one for each subpopulation.
        subpopulations: The names of the subpopulations.

    Raises:
        ValueError: As of `Mixed`; if there are fewer than two subpopulations, their probabilities are not positive or
            do not add up to 1, or a name has another meaning or none.

    Reference: Carlsson et al., AAPS J 2009;11:148, doi:10.1208/s12248-009-9093-4.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Mixture, Output, Random
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
        ...     random=[Random({"eta_CL": 0.1})],
        ... )
        >>> mixture.names
        ('tCL', 'less', 'P(extensive)', 'var(eta_CL)')
    """

    def __init__(
        self,
        model: AbstractModel,
        subjects: Mapping[str, Experiment],
        outputs: Mapping[str, Output],
        *,
        subpopulations: Mapping[str, float],
        parameters: Mapping[str, Free | float],
        individual: Mapping[str, Formula],
        random: Sequence[Random],
        method: AbstractMethod | None = None,
    ) -> None:
        """Check the subpopulations, and lay out a copy of every subject in each."""
        check_instance("model", model, AbstractModel, "a model")
        _check_shares(subpopulations)
        taken = {"a parameter": {*parameters, *parameters_of(model)}, "a covariate": set()}
        for subject, one in subjects.items():
            check_instance(f'subjects["{subject}"]', one, Experiment, "an Experiment")
            taken["a covariate"] |= one.begin.set.keys()
        for what, names in taken.items():
            for name in names & subpopulations.keys():
                refuse("subpopulations", f"have names that mean nothing else, and not that of {what}", name)
        formulas = [as_formula(name, one) for name, one in individual.items()]
        used = names_in(*formulas).union(*(one.names() for one in outputs.values()))
        if not used & subpopulations.keys():
            listed = ", ".join(subpopulations)
            raise ArgumentError("subpopulations", f"must be told apart by a formula, but none uses {listed}.")
        self.people, self._experiments = tuple(subjects), dict(subjects)
        self._settings = {"model": model, "outputs": outputs, "parameters": parameters, "individual": individual}
        self._settings |= {"random": random, "method": method}
        copies = {
            f"{subject} ({name})": _within(one, name, subpopulations)
            for name in subpopulations
            for subject, one in subjects.items()
        }
        self._begin(subpopulations, copies, self._settings)

    def joined(self, x: Any, values: Any) -> tuple[Array, Array]:
        """Return the objective of each subject, and the probability of each subpopulation given its data.

        Args:
            x: The point.
            values: The objectives of the copies, shape (copies,).

        Returns:
            Shape (subjects,), and shape (subjects, subpopulations).
        """
        own = jnp.asarray(values).reshape(len(self.subpopulations), -1)
        terms = self.log_shares(x)[:, None] - 0.5 * own
        total = logsumexp(terms, axis=0)
        return -2.0 * total, jnp.exp(terms - total).T

    def joined_slopes(self, x: Array, shares: Array, slopes: Array) -> Array:
        """Return the derivative of the objective of each subject, shape (subjects, names).

        Args:
            x: The point.
            shares: The probabilities of the subpopulations, shape (subjects, subpopulations).
            slopes: The derivatives of the copies, shape (copies, names).
        """
        own = slopes.reshape(len(self.subpopulations), -1, x.size) - 2.0 * jax.jacfwd(self.log_shares)(x)[:, None]
        return jnp.einsum("nk,knx->nx", shares, own)

    def classified(self, shares: np.ndarray, u: np.ndarray) -> tuple["Classified", np.ndarray]:
        """Return the problem with every subject where it most probably belongs, and the modes there.

        Args:
            shares: The probabilities of the subpopulations, shape (subjects, subpopulations).
            u: The modes of the copies, shape (copies, effects).
        """
        best = np.argmax(shares, axis=1)
        modes = u.reshape(len(self.subpopulations), len(self.people), -1)[best, np.arange(best.size)]
        return Classified(self, best), modes

    def drawn(self, x: Any, samples: list[np.ndarray], key: Key) -> list[np.ndarray]:
        """Return measurements of subjects that are drawn from the subpopulations.

        Args:
            x: The point.
            samples: Measurements of the copies, output by output, shape (replicates, measurements of copies).
            key: Of the subpopulations.
        """
        count = len(self.subpopulations)
        shares = np.exp(np.asarray(self.log_shares(x)))
        size = (len(samples[0]), len(self.people))
        of = generator(key).choice(count, size, p=shares / shares.sum())
        found = []
        for rows, own in zip(self.rows, samples, strict=True):
            each = own.reshape(len(own), count, -1)
            which = of[:, None, rows.experiment[: each.shape[2]]]
            found.append(np.take_along_axis(each, which, axis=1)[:, 0])
        return found


class Classified(_Divided):
    """The problem of a mixture with every subject where it most probably belongs, for tables and pictures.

    Args:
        whole: The mixture.
        best: The number of the subpopulation of each subject, shape (subjects,).
    """

    def __init__(self, whole: Mixture, best: np.ndarray) -> None:
        self.whole = whole
        names, shares = whole.subpopulations, np.exp(np.asarray(whole.log_shares(whole.start)))
        subjects = {
            subject: _within(one, names[k], names)
            for (subject, one), k in zip(whole._experiments.items(), best, strict=True)
        }
        self._begin(dict(zip(names, shares.tolist(), strict=True)), subjects, whole._settings)


def whole_of(mixed: Mixed) -> Mixed:
    """Return the mixture of which this is the classified problem, else the problem itself."""
    return mixed.whole if isinstance(mixed, Classified) else mixed


def _moved(place: slice, by: int) -> slice:
    return slice(place.start + by, place.stop + by)


def _label(name: str) -> str:
    return f"P({name})"


def _within(one: Experiment, name: str, names: Sequence[str] | Mapping[str, float]) -> Experiment:
    """Return an experiment as it is in a subpopulation."""
    own = {**one.begin.set, **{other: float(other == name) for other in names}}
    return one.changed(begin=one.begin.setting(own), changes=one.changes)


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
