"""What a problem may penalise beside its priors: how a term moves the states along the simulated trajectories."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from qspjax._checks import check_instance, check_one_of
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._parameters import AbstractChecked
from qspjax._types import State
from qspjax.fit._types import Vector
from qspjax.fit._weights import Blocks
from qspjax.fit.data._layout import Layout
from qspjax.fit.data._stages import Stages

Result = TypeVar("Result")

SAFE = 0.7310585786300049
"""In place of values that nobody observed: within the domain of every formula, whatever comes of it is left out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectories:
    """The states of all experiments where they are measured, at a point.

    Attributes:
        stages: The simulations.
        blocks: The weights that are estimated.
        numbers: Returns the numbers of the simulations at a point.
        x: The point.
        free: The number of numbers of a point, which come before its weights.
        states: The states, shape (experiments, times, states).
        seen: Where they are known, shape (experiments, times).
    """

    stages: Stages
    blocks: Blocks
    numbers: Callable[[Vector], Vector]
    x: Vector
    free: int
    states: Float[Array, "experiments times states"]
    seen: Bool[Array, "experiments times"]

    def contributed(self, name: str) -> tuple[Float[Array, "points states"], Float[Array, "points states"]]:
        """Return how a term moves the states, and how the rest of the model does, both relative to their size.

        $$ d_{ij} = (f_j - f_j^0) / s_j, \\quad s_j^2 = \\sum_i (f_j^0)^2 + (f_j - f_j^0)^2 $$

        with f the vector field at point i, and f^0 that without the term.

        Args:
            name: The name of the weights of the term.
        """
        check_one_of("term", name, [block.name for block in self.blocks.blocks], "weights that are estimated")
        rest = self._moves(self.x, name)
        term = self._moves(self.x, None) - rest
        size = jnp.sqrt(jnp.maximum(jnp.sum(rest**2 + term**2, axis=0), 1e-300))
        return term / size, rest / size

    def sensitivities(self, name: str) -> Float[Array, "parameters points states"]:
        """Return the derivatives of the vector field without a term in the free numbers, as `contributed` scales it."""
        numbers, weights = self.x[: self.free], self.x[self.free :]
        rest, term = self._moves(self.x, name), self._moves(self.x, None)
        size = jnp.sqrt(jnp.maximum(jnp.sum(rest**2 + (term - rest) ** 2, axis=0), 1e-300))
        slopes = jax.jacfwd(lambda numbers: self._moves(jnp.concatenate([numbers, weights]), name))(numbers)
        return jnp.moveaxis(slopes, -1, 0) / size

    def _moves(self, x: Vector, without: str | None) -> Float[Array, "points states"]:
        """Return the vector field at all points, 0 where states are not known."""

        def moves(model: AbstractModel, t: Array, y: State) -> Array:
            field = model if without is None else self.blocks.without(model, without)
            return ravel_pytree(field.vector_field(t, y))[0]

        states = jnp.where(self.seen[..., None], self.states, SAFE)
        field = at_all_points(self.stages, self.numbers(x), states, moves)
        known = self.seen[:, : field.shape[1], None]
        return jnp.where(known, field, 0.0).reshape(-1, field.shape[-1])


def with_states(stages: Stages) -> Stages:
    """Return the same simulations, of which all states are observed, too."""
    names = state_names(as_state(stages.model, None))
    return dataclasses.replace(stages, save=tuple(dict.fromkeys((*stages.save, *names))))


def for_penalties(layout: Layout, penalties: Sequence["AbstractPenalty"]) -> Layout:
    """Return a layout in which all states are observed, if there are penalties.

    Raises:
        ValueError: If one is none.
    """
    for penalty in penalties:
        check_instance("penalties", penalty, AbstractPenalty, "made of penalties such as Magnitude(...)")
    return dataclasses.replace(layout, stages=with_states(layout.stages)) if penalties else layout


def trajectories(
    stages: Stages,
    numbers: Callable[[Vector], Vector],
    x: Vector,
    free: int,
    observed: Mapping[str, Array],
    seen: Bool[Array, "experiments times"],
) -> Trajectories:
    """Return the trajectories of simulations, see there; `observed` holds their states by name."""
    states = jnp.stack([observed[name] for name in state_names(as_state(stages.model, None))], axis=-1)
    known = seen & jnp.isfinite(states).all(axis=-1)
    return Trajectories(stages, stages.weights, numbers, x, free, states, known)


def at_all_points(
    stages: Stages,
    numbers: Vector,
    states: Float[Array, "experiments times states"],
    function: Callable[[AbstractModel, Array, State], Result],
) -> Result:
    """Return a function of the model of an experiment, a time and a state there, for all experiments and times.

    Args:
        stages: The simulations.
        numbers: The numbers of the simulations.
        states: The states at the times of the stages, one stage after the other.
        function: The function; the arrays that it returns get axes of experiments and times.
    """
    first, parts = 0, []
    for stage, cohort in zip(stages.stages, stages.cohorts(numbers), strict=True):
        here = states[:, first : first + stage.ts.shape[1]]
        first += stage.ts.shape[1]
        times = jnp.where(jnp.isfinite(stage.ts), stage.ts, 0.0)
        each, shared = eqx.partition(cohort.model, cohort.axes_mask())

        def of_experiment(individual: AbstractModel, y: Array, t: Array, shared: AbstractModel = shared) -> Result:
            model = eqx.combine(individual, shared)
            unravel = ravel_pytree(as_state(model, None))[1]
            return jax.vmap(lambda y, t: function(model, t, unravel(y)))(y, t)

        parts.append(jax.vmap(of_experiment)(each, here, times))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)


class AbstractPenalty(AbstractChecked):
    """What a problem penalises beside its priors: it is taken off the log density.

    Example:
        >>> from qspjax.fit import AbstractPenalty, Magnitude
        >>> isinstance(Magnitude("rate", weight=1.0), AbstractPenalty)
        True
    """

    @abc.abstractmethod
    def value(self, along: Trajectories) -> Float[Array, ""]:
        """Return what is taken off the log density.

        Args:
            along: The simulated trajectories.
        """
