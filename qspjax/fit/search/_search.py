"""What all searches share: a state for each start, and one evaluation of the problem per step.

Many starts are searched side by side: `step` is mapped over them, so that all their simulations are one cohort. The
first step of a start only evaluates it, so that a waiting start can replace one that has ended. Simulations are loose
until a search has ended; from there it goes on with the tolerances of the problem, which takes few more steps.
"""

import abc
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from qspjax._parameters import AbstractChecked
from qspjax._programs import BRIEFLY, program
from qspjax.fit._problem import Problem
from qspjax.fit._types import Vector
from qspjax.solve._ensemble import has_effort

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

RUNNING, CONVERGED, EXHAUSTED, FAILED, GIVEN_UP = range(5)
"""The status of a search: it goes on, found an optimum, used up its steps, could not evaluate its start, or went on
failing."""

STATUS = ("running", "converged", "steps used up", "start failed", "evaluations went on failing")
FAILURES = 8
"""A search is given up after so many evaluations in a row that failed; each was closer to the best point."""
LOOSE = 1e-6
"""The relative tolerance with which simulations begin, where that of the method is less."""
LOOSE_FTOL = 1e-5
"""A search with loose tolerances has converged when the log density is known to this, relative to it or to 1."""


def quickly_compiled(function: Callable[Arguments, Result], *, short: bool = False) -> Callable[Arguments, Result]:
    """Return a function of arrays and numbers that runs as one program, compiled in about half the time.

    Full optimisation would take longer than the few hundred evaluations of a search.

    Args:
        function: The function.
        short: Whether it runs for so short, or so seldom, that no optimisation at all is worth its time.
    """
    compiled = program(function, options=BRIEFLY, small=lambda *_, **__: short)

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
        tried: The point of the last evaluation.
        in_a_row: How many evaluations have failed since the last one that did not.
        looser: The factor by which tolerances of simulations are greater than they will be in the end.
    """

    x: Float[Array, " parameters"]
    value: Float[Array, ""]
    status: Int[Array, ""]
    steps: Int[Array, ""]
    failures: Int[Array, ""]
    own: PyTree
    tried: Float[Array, " parameters"]
    in_a_row: Int[Array, ""]
    looser: Float[Array, ""]

    @property
    def fresh(self) -> Bool[Array, ""]:
        """Whether the point has to be evaluated before any step is taken from it."""
        return jnp.isinf(self.value)

    def small(self, ftol: float) -> Float[Array, ""]:
        """Return the change of the value that is none, for a method that looks for less than `ftol`."""
        least = jnp.where(self.looser > 1.0, max(ftol, LOOSE_FTOL), ftol)
        return least * jnp.maximum(1.0, jnp.abs(self.value))


class AbstractSearch(AbstractChecked):
    """A local search: from a start to an optimum, within the bounds.

    Example:
        >>> from qspjax.fit import LBFGS
        >>> isinstance(LBFGS(), AbstractSearch)
        True
    """

    keeps: ClassVar[bool] = False
    """Whether the state of the method stays as it is where a search goes on with other tolerances."""
    noted: ClassVar[tuple[str, ...]] = ()
    """The names of the numbers that each step leaves in `noted` of the state of the method, for a picture."""

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


def begun(method: AbstractSearch, problem: Problem, x: Vector, looser: float = 1.0) -> Search:
    """Return the state of a search at its start, with simulations that are looser by a factor until it has ended."""
    none = jnp.zeros((), int)
    inside = jnp.clip(x, *problem.bounds)
    infinite, factor = jnp.asarray(jnp.inf, float), jnp.asarray(looser, float)
    own = method.begin(problem, inside)
    return Search(inside, infinite, none + RUNNING, none, none, own, inside, none, factor)


def stepped(
    method: AbstractSearch,
    problem: Problem,
    search: Search,
    held: Bool[Array, " parameters"],
    refuge: Vector | None = None,
) -> Search:
    """Return the state after one step; a search that has ended does not change, and nothing is simulated for it.

    One that has ended with loose tolerances begins again where it is, with those of the problem.

    Args:
        method: The method.
        problem: The problem.
        search: The state.
        held: Which parameters are held fixed.
        refuge: Halfway towards this point a start moves that cannot be evaluated; None if it stays.
    """
    running = search.status == RUNNING
    new = method.step(problem.with_effort(running, search.looser), search, held)
    in_a_row = jnp.where(new.failures > search.failures, search.in_a_row + 1, 0)
    lost = (new.status == RUNNING) & (in_a_row >= FAILURES)
    new = new._replace(in_a_row=in_a_row, status=jnp.where(lost, GIVEN_UP, new.status))
    loose = (new.status != RUNNING) & (new.status != FAILED) & (search.looser > 1.0)
    again = begun(method, problem, new.x)._replace(steps=new.steps, failures=new.failures, tried=new.tried)
    again = again._replace(own=new.own) if method.keeps else again
    new = jax.tree.map(lambda tight, as_it_is: jnp.where(loose, tight, as_it_is), again, new)
    if refuge is not None:
        fails = (new.status == FAILED) & (in_a_row < FAILURES)
        moved = begun(method, problem, 0.5 * (search.x + refuge))._replace(
            steps=new.steps, failures=new.failures, tried=new.tried, in_a_row=in_a_row, looser=search.looser
        )
        new = jax.tree.map(lambda elsewhere, as_it_is: jnp.where(fails, elsewhere, as_it_is), moved, new)
    return jax.tree.map(lambda after, before: jnp.where(running, after, before), new, search)


def centre(problem: Problem) -> Vector | None:
    """Return the point in the middle of all bounds, None where one is infinite."""
    lower, upper = (np.asarray(edge) for edge in problem.bounds)
    return jnp.asarray(0.5 * (lower + upper)) if np.isfinite(upper - lower).all() else None


def looseness(problem: Problem) -> float:
    """Return the factor by which tolerances may be greater until a search has nearly ended."""
    method = problem.simulated_by
    return max(1.0, LOOSE / method.rtol) if has_effort(method) else 1.0
