"""What happens at a boundary: a time at which every solve lands, where states and rates of infusion change.

A boundary changes one state, or all that are not protected, by

    y_i <- k_i y_i + a_i

with k_i = 1 where something is added (a dose, a steady state added to the state), 0 where a value is set (a reset, a
steady state, a parameter), and any factor where a state is scaled; it changes the rate of infusion into its
state; or it is where an output is due. All functions work element by element: for one patient with its states in one
array, and for lanes of patients with a row for each state.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

NONE = -1
"""The index of no state, of no vector and of no output."""

Factor = Float[Array, "..."] | None
"""The factor of states; None is 1."""


class Boundary(NamedTuple):
    """One boundary for each element, or columns of boundaries; a column that no boundary needs is None.

    In a boundary of tangents, or of marks of what is differentiated, any other column may be None as well.

    Attributes:
        time: The time.
        state: Which state changes, `NONE` if none or many.
        keep: The factor of that state, None if always 1.
        add: What is then added to it.
        vector: Which of the vectors of the patient is added to all states that are not protected, in place of `add`.
        rate_change: How the rate of infusion into the state changes.
        output: Which output is due, `NONE` if none.
    """

    time: Float[Array, "..."]
    state: Int[Array, "..."]
    keep: Float[Array, "..."] | None
    add: Float[Array, "..."]
    vector: Int[Array, "..."] | None
    rate_change: Float[Array, "..."] | None
    output: Int[Array, "..."]

    def map(self, function: Callable[..., Array | None], *others: "Boundary") -> "Boundary":
        """Apply a function to each column, and to those of other boundaries, None included."""
        return jax.tree.map(function, self, *others, is_leaf=lambda x: x is None)

    def cast(self, dtype: DTypeLike) -> "Boundary":
        """Return the boundary with numbers of a type, and indices of 32 bits."""

        def typed(column: Array) -> Array:
            return column.astype(jnp.int32 if jnp.issubdtype(column.dtype, jnp.integer) else dtype)

        return jax.tree.map(typed, self)

    def merged(self, other: "Boundary | None") -> "Boundary":
        """Return the boundary with what is not None in another."""
        return self if other is None else self.map(lambda old, new: old if new is None else new, other)


def effect(
    boundary: Boundary,
    state: int | Int[Array, "..."],
    protected: bool | Bool[Array, "..."],
    vector: Float[Array, "..."] | None,
    landed: bool | Bool[Array, "..."] = True,
) -> tuple[Factor, Float[Array, "..."]]:
    """Return the factors of states, and what is then added to them.

    Args:
        boundary: The boundary.
        state: The indices of the states.
        protected: Whether these are protected from vectors.
        vector: The elements of the boundary's vector for these states, None without vectors.
        landed: Where the boundary is reached; elsewhere nothing happens.
    """
    changes, add = landed & (boundary.state == state), boundary.add
    if vector is not None:
        all_states = landed & (boundary.vector != NONE) & ~jnp.asarray(protected)
        changes, add = changes | all_states, jnp.where(all_states, vector, add)
    keep = None if boundary.keep is None else jnp.where(changes, boundary.keep, 1.0)
    return keep, jnp.where(changes, add, 0.0)


def changed(y: Float[Array, "..."], keep: Factor, add: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return states after a boundary."""
    return y + add if keep is None else keep * y + add


def rate_after(
    rate: Float[Array, "..."],
    boundary: Boundary,
    state: int | Int[Array, "..."],
    landed: bool | Bool[Array, "..."] = True,
) -> Float[Array, "..."]:
    """Return the rates of infusion into states after a boundary; one that stops is exactly zero.

    One that never ran is zero as well, with a derivative.
    """
    change = boundary.rate_change
    if change is None:
        return rate
    after = rate + change
    after = jnp.where(jnp.abs(after) < 1e-12 * jnp.abs(change), 0.0, after)
    return jnp.where(landed & (boundary.state == state), after, rate)
