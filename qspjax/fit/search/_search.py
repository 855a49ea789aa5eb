"""What all searches share: a state for each start, and one evaluation of the problem per step.

Many starts are searched side by side: `step` is mapped over them, so that all their simulations are one cohort. The
first step of a start only evaluates it, so that a waiting start can replace one that has ended.
"""

import abc
import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from qspjax._parameters import AbstractChecked
from qspjax._programs import program
from qspjax.fit._problem import Problem
from qspjax.fit._types import Vector

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

RUNNING, CONVERGED, EXHAUSTED, FAILED = range(4)
"""The status of a search: it goes on, found an optimum, used up its steps, or could not evaluate its start."""

STATUS = ("running", "converged", "steps used up", "start failed")


QUICKLY = {"xla_backend_optimization_level": "1"}
"""Options of the compiler: full optimisation would take longer than the few hundred evaluations of a search."""


def quickly_compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function of arrays and numbers that runs as one program, compiled in about half the time."""
    compiled = program(function, options=QUICKLY)

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        arrays = [np.asarray(x) if type(x) in (int, float) else x for x in arguments]  # or each has its own program
        return compiled(*arrays, **named)  # pyright: ignore[reportCallIssue] (arrays in place of numbers)

    return call


class Search(NamedTuple):
    """The state of one search; values are negative log densities.

    Attributes:
        x: The best point so far.
        value: Its value, inf before the first step.
        status: A code, see `STATUS`.
        steps: Steps taken.
        failures: Evaluations that failed.
        own: The state of the method.
    """

    x: Float[Array, " parameters"]
    value: Float[Array, ""]
    status: Int[Array, ""]
    steps: Int[Array, ""]
    failures: Int[Array, ""]
    own: PyTree


class AbstractSearch(AbstractChecked):
    """A local search: from a start to an optimum, within the bounds.

    Example:
        >>> from qspjax.fit import LBFGS
        >>> isinstance(LBFGS(), AbstractSearch)
        True
    """

    @abc.abstractmethod
    def begin(self, problem: Problem, x: Vector) -> PyTree:
        """Return the state of the method at a start, before anything is evaluated."""

    @abc.abstractmethod
    def step(self, problem: Problem, search: Search, held: Bool[Array, " parameters"]) -> Search:
        """Return the state after one evaluation.

        Args:
            problem: The problem.
            search: The state of a running search.
            held: Which parameters are held fixed.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return the method in a few words."""


def begun(method: AbstractSearch, problem: Problem, x: Vector) -> Search:
    """Return the state of a search at its start."""
    none = jnp.zeros((), int)
    inside = jnp.clip(x, *problem.bounds)
    return Search(inside, jnp.asarray(jnp.inf, float), none + RUNNING, none, none, method.begin(problem, inside))


def stepped(method: AbstractSearch, problem: Problem, search: Search, held: Bool[Array, " parameters"]) -> Search:
    """Return the state after one step; a search that has ended does not change."""
    new = method.step(problem, search, held)
    running = search.status == RUNNING
    return jax.tree.map(lambda after, before: jnp.where(running, after, before), new, search)
