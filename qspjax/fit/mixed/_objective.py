"""The objective of an approximation at a point, the search for the modes included, as one program."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax.fit._types import Data
from qspjax.fit.mixed._approximations import AbstractApproximation, subject_objectives
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.mixed._modes import modes
from qspjax.fit.mixed._parts import FEWEST, SHARED, on_all_cores
from qspjax.fit.search._search import quickly_compiled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation(Generic[Data]):
    """The objective at a point.

    Attributes:
        values: That of each subject, shape (subjects,).
        slopes: Their derivatives, shape (subjects, parameters).
        modes: The modes of the random effects; for a mixture those of all copies, shape (copies, effects).
        failed: Which subjects have no likelihood, shape (subjects,).
        found: Whether their modes were found, shape (subjects,).
        shares: The probabilities of the subpopulations given the data, shape (subjects, subpopulations).
    """

    values: Data
    slopes: Data
    modes: Data
    failed: Data
    found: Data
    shares: Data


Objective: TypeAlias = Callable[[Array, Array], Evaluation[Array]]
"""Returns the objective at a point, given modes of all copies to search from."""


def objective_program(mixed: AbstractMixed, method: AbstractApproximation) -> Objective:
    """Return the program that evaluates the objective at a point."""
    name, copies = repr(method), mixed.copies
    if isinstance(mixed, Mixture):
        return copies.program(
            name, lambda: quickly_compiled(partial(_evaluate_mixture, mixed, method), short=copies.count < FEWEST)
        )
    return on_all_cores(copies, name, lambda part: partial(_evaluate, part, method), (SHARED, 0), 0)


def _evaluate(mixed: MixedModel, method: AbstractApproximation, x: Array, u: Array) -> Evaluation[Array]:
    found = jnp.ones(mixed.count, bool)
    if method.conditional:
        searched = modes(mixed, x, u, interaction=method.interaction)
        u, found = searched.u, searched.found
    values, slopes, improved, failed = subject_objectives(mixed, method, x, u)
    return Evaluation(values, slopes, improved, failed, found, jnp.ones((mixed.count, 1)))


def _evaluate_mixture(mixture: Mixture, method: AbstractApproximation, x: Array, u: Array) -> Evaluation[Array]:
    copies = _evaluate(mixture.copies, method, x, u)
    values, shares = mixture.joined(x, copies.values)
    slopes = mixture.joined_slopes(x, shares, copies.slopes)
    failed, found = (part.reshape(shares.shape[::-1]) for part in (copies.failed, copies.found))
    return Evaluation(values, slopes, copies.modes, failed.any(axis=0), found.all(axis=0), shares)
