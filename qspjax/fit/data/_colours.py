"""Sensitivities of many experiments to many numbers, in as few directions as possible.

Two numbers can be perturbed at once if no experiment depends on both: the response of each is due to its own number.
Finding such groups is colouring a graph (Curtis, Powell and Reid, J Inst Math Appl 1974;13:117,
doi:10.1093/imamat/13.1.117).
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

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
    if not len(colours.groups):
        values, others = function(numbers)
        return values, {name: jnp.zeros((slopes.shape[1], *v.shape)) for name, v in values.items()}, others

    def along(direction: Array) -> tuple[dict[str, Array], dict[str, Array], Others]:
        return jax.jvp(function, (numbers,), (direction,), has_aux=True)

    seeds = jnp.asarray(colours.groups, float)
    values, tangents, others = jax.vmap(along, out_axes=(None, 0, None))(seeds)
    chain = jnp.einsum("ej,cj,jp->ecp", colours.uses.astype(float), seeds, slopes)
    return values, {name: jnp.einsum("cet,ecp->pet", by, chain) for name, by in tangents.items()}, others
