"""Sensitivities of many experiments to many numbers, in as few directions as possible.

Two numbers of which no experiment depends on both can be moved at once: what each experiment does is due to its own.
Finding such groups is colouring a graph (Curtis, Powell and Reid, J Inst Math Appl 1974;13:117,
doi:10.1093/imamat/13.1.117).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Colours:
    """Groups of numbers that are moved together.

    Attributes:
        uses: Which experiment depends on which number that varies, shape (experiments, numbers).
        groups: Which numbers each group has, shape (groups, numbers).
    """

    uses: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, uses: np.ndarray, varies: np.ndarray) -> "Colours":
        """Group numbers greedily; those that do not vary, or that nothing depends on, are in none."""
        uses = uses & varies
        taken: list[np.ndarray] = []
        groups: list[list[int]] = []
        for number in np.argsort(-uses.sum(axis=0), kind="stable"):
            mine = uses[:, number]
            if not mine.any():
                continue
            place = next((k for k, rows in enumerate(taken) if not (rows & mine).any()), None)
            if place is None:
                taken.append(mine.copy())
                groups.append([number])
            else:
                taken[place] |= mine
                groups[place].append(number)
        masks = np.zeros((len(groups), uses.shape[1]), bool)
        for k, members in enumerate(groups):
            masks[k, members] = True
        return cls(uses, masks)


def coloured(
    function: Callable[[Array], tuple[dict[str, Array], Any]], numbers: Array, slopes: Array, colours: Colours
) -> tuple[dict[str, Array], dict[str, Array], Any]:
    """Return the values of a function, and their derivatives with respect to the parameters of the numbers.

    Args:
        function: Returns values of shape (experiments, times), and more that is not differentiated.
        numbers: Where, shape (numbers,).
        slopes: The derivatives of the numbers, shape (numbers, parameters).
        colours: The groups.

    Returns:
        The values, their derivatives of shape (parameters, experiments, times), and the rest.
    """
    if not len(colours.groups):
        values, rest = function(numbers)
        return values, {name: jnp.zeros((slopes.shape[1], *v.shape)) for name, v in values.items()}, rest

    def along(direction: Array) -> tuple:
        values, moved, rest = jax.jvp(function, (numbers,), (direction,), has_aux=True)
        return values, moved, rest

    seeds = jnp.asarray(colours.groups, float)
    values, moved, rest = jax.vmap(along, out_axes=(None, 0, None))(seeds)
    chain = jnp.einsum("ej,cj,jp->ecp", colours.uses.astype(float), seeds, slopes)
    return values, {name: jnp.einsum("cet,ecp->pet", by, chain) for name, by in moved.items()}, rest
