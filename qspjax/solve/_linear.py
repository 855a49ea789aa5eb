"""Whether a model is linear, and small enough for matrix exponentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from qspjax._declared import declared
from qspjax._jaxpr._linearity import Structure, linear_structure
from qspjax._model import AbstractModel, as_state, check_slope, state_shape
from qspjax._remembered import by_structure
from qspjax._types import State

MAX_STATES = 30
"""Maximum number of states: beyond it, a few products of dense matrices per output cost more than sparse steps."""


@by_structure
def is_linear(model: AbstractModel, initial: State | None = None) -> bool:
    """Return whether dy/dt = A y + b with constant A and b, of at most `MAX_STATES` states.

    The equations are analysed, not evaluated: only sums, products with constants and rearrangements of states count as
    linear, so that the answer is False for a model that is linear in another way, and for one with algebraic states.
    """
    return structure_of(model, state_shape(model) if initial is None else as_state(model, initial)) is not None


def structure_of(model: AbstractModel, start: State) -> Structure | None:
    """Return the structure of a model that is linear and small, else None."""
    if declared(model).algebraic():
        return None
    leaves, tree = jax.tree.flatten(start)
    n = sum(leaf.size for leaf in leaves)
    if not 0 < n <= MAX_STATES:
        return None
    arrays, static = eqx.partition(model, eqx.is_array)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (leaves, arrays))
    number = jax.ShapeDtypeStruct((), leaves[0].dtype)

    def field(t: Float[Array, ""], y: list[jax.Array], arrays: PyTree[jax.Array]) -> list[jax.Array]:
        slope = eqx.combine(arrays, static).vector_field(t, jax.tree.unflatten(tree, y))
        check_slope(slope, start, model)
        return [jnp.broadcast_to(dydt, leaf.shape) for dydt, leaf in zip(jax.tree.leaves(slope), leaves, strict=True)]

    return linear_structure(jax.make_jaxpr(field)(number, *shapes), range(1, 1 + len(leaves)))
