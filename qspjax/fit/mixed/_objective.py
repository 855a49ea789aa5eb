"""The objective of an approximation at a point, from the modes on, as one program."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qspjax.fit.mixed._approximations import AbstractApproximation, subject_objectives
from qspjax.fit.mixed._mixed import Mixed
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.mixed._modes import modes
from qspjax.fit.mixed._parts import SHARED, on_all_cores


class Evaluation(NamedTuple):
    """The objective at a point.

    Attributes:
        values: Of each subject, shape (subjects,).
        slopes: Its derivatives, shape (subjects, names).
        modes: The modes of the random effects; of a mixture those of all copies, shape (copies, effects).
        failed: Which subjects have no likelihood.
        found: Whether their modes were found.
        shares: The probabilities of the subpopulations given the data, shape (subjects, subpopulations).
    """

    values: np.ndarray
    slopes: np.ndarray
    modes: np.ndarray
    failed: np.ndarray
    found: np.ndarray
    shares: np.ndarray


def objective_program(mixed: Mixed, method: AbstractApproximation) -> Any:
    """Return the program that evaluates the objective at a point, for modes to begin from."""
    return on_all_cores(mixed, repr(method), lambda part: partial(_evaluate, part, method), (SHARED, 0), 0)


def _evaluate(mixed: Mixed, method: AbstractApproximation, x: jax.Array, u: jax.Array) -> Evaluation:
    found = jnp.ones(mixed.count, bool)
    if method.conditional:
        near = modes(mixed, x, u, interaction=method.interaction)
        u, found = near.u, near.found
    values, slopes, better, failed = subject_objectives(mixed, method, x, u)
    if not isinstance(mixed, Mixture):
        return Evaluation(values, slopes, better, failed, found, jnp.ones((mixed.count, 1)))
    values, shares = mixed.joined(x, values)
    slopes = mixed.joined_slopes(x, shares, slopes)
    failed, found = (part.reshape(shares.shape[::-1]) for part in (failed, found))
    return Evaluation(values, slopes, better, failed.any(axis=0), found.all(axis=0), shares)
