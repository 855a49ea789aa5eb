"""Sensitivities of many experiments to many numbers, in as few directions as possible.

Two numbers can be perturbed at once if no experiment depends on both: the response of each is due to its own number.
Finding such groups is colouring a graph (Curtis, Powell and Reid, J Inst Math Appl 1974;13:117,
doi:10.1093/imamat/13.1.117).
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Others = TypeVar("Others")


@dataclasses.dataclass(frozen=True)
class Colours:
    """Groups of numbers that are perturbed together.

    Attributes:
        uses: Whether an experiment depends on a number that varies.
        groups: Whether a group has a number.
    """

    uses: Bool[np.ndarray, "experiments numbers"]
    groups: Bool[np.ndarray, "groups numbers"]

    @cached_property
    def members(self) -> Int[np.ndarray, "experiments groups"]:
        """The number of each group that an experiment depends on, -1 for none: there is one at most."""
        members = np.full((len(self.uses), len(self.groups)), -1)
        for group, mask in enumerate(self.groups):
            experiments, numbers = np.nonzero(self.uses & mask)
            members[experiments, group] = numbers
        return members

    def responsible(self, numbers: Float[Array, "numbers *more"]) -> Float[Array, "experiments groups *more"]:
        """Return what belongs to the number of each group that an experiment depends on, 0 for none."""
        some = (self.members >= 0).reshape(*self.members.shape, *[1] * (numbers.ndim - 1))
        return jnp.where(some, numbers[np.maximum(self.members, 0)], 0.0)

    @classmethod
    def of(cls, uses: Bool[np.ndarray, "experiments numbers"], varies: Bool[np.ndarray, " numbers"]) -> "Colours":
        """Group numbers greedily; those that do not vary, or that nothing depends on, are in none."""
        uses = uses & varies
        users_of: list[np.ndarray] = []
        groups: list[list[int]] = []
        for number in np.argsort(-uses.sum(axis=0), kind="stable"):
            users = uses[:, number]
            if not users.any():
                continue
            group = next((k for k, others in enumerate(users_of) if not (others & users).any()), None)
            if group is None:
                users_of.append(users.copy())
                groups.append([number])
            else:
                users_of[group] |= users
                groups[group].append(number)
        masks = np.zeros((len(groups), uses.shape[1]), bool)
        for k, members in enumerate(groups):
            masks[k, members] = True
        return cls(uses, masks)

    def with_more(self, used: Bool[np.ndarray, " more"]) -> "Colours":
        """Return the same groups, and one for each of further numbers that all experiments depend on.

        Args:
            used: Which of the further numbers they depend on.
        """
        if not used.size:
            return self
        places = self.uses.shape[1] + np.flatnonzero(used)
        new = np.zeros((places.size, self.uses.shape[1] + used.size), bool)
        new[np.arange(places.size), places] = True
        groups = np.concatenate([np.pad(self.groups, ((0, 0), (0, used.size))), new])
        return Colours(np.concatenate([self.uses, np.tile(used, (len(self.uses), 1))], axis=1), groups)


def grouped(
    function: Callable[[Array], tuple[dict[str, Array], Others]], numbers: Float[Array, " numbers"], colours: Colours
) -> tuple[dict[str, Array], dict[str, Array], Others]:
    """Return the values of a function, and their derivatives along each group of numbers.

    Args:
        function: Returns values of shape (experiments, times), and others that are not differentiated.
        numbers: Its argument.
        colours: The groups.

    Returns:
        The values, their derivatives of shape (groups, experiments, times), and the other values of the function.
    """
    if not len(colours.groups):
        values, others = function(numbers)
        return values, {name: jnp.zeros((0, *value.shape)) for name, value in values.items()}, others

    def along(direction: Array) -> tuple[dict[str, Array], dict[str, Array], Others]:
        return jax.jvp(function, (numbers,), (direction,), has_aux=True)

    return jax.vmap(along, out_axes=(None, 0, None))(jnp.asarray(colours.groups, float))


def coloured(
    function: Callable[[Array], tuple[dict[str, Array], Others]],
    numbers: Float[Array, " numbers"],
    slopes: Float[Array, "numbers parameters"],
    colours: Colours,
) -> tuple[dict[str, Array], dict[str, Array], Others]:
    """Return the values of a function, and their derivatives with respect to the parameters of the numbers.

    Args:
        function: Returns values of shape (experiments, times), and others that are not differentiated.
        numbers: Its argument.
        slopes: The derivatives of the numbers.
        colours: The groups.

    Returns:
        The values, their derivatives of shape (parameters, experiments, times), and the other values of the function.
    """
    values, tangents, others = grouped(function, numbers, colours)
    chain = colours.responsible(slopes)
    return values, {name: jnp.einsum("cet,ecp->pet", by, chain) for name, by in tangents.items()}, others


def linearly(
    function: Callable[[Array], tuple[dict[str, Array], Others]], numbers: Float[Array, " numbers"], colours: Colours
) -> tuple[dict[str, Array], Others]:
    """Return the result of a function as one that is linear near its argument: its derivatives are not its own.

    $$ f(v) = f(v_0) + J (v - v_0),  v_0 = v $$

    Whatever is differentiated backwards through it costs the forward sensitivities along each group, computed once.

    Args:
        function: Returns values of shape (experiments, times), and others that are not differentiated.
        numbers: Its argument.
        colours: The groups.
    """
    fixed = jax.lax.stop_gradient(numbers)
    values, tangents, others = jax.lax.stop_gradient(grouped(function, fixed, colours))
    step = colours.responsible(numbers - fixed)
    return {name: value + jnp.einsum("cet,ec->et", tangents[name], step) for name, value in values.items()}, others
