"""Numbers of a state by name, and functions that are learned, called with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._names import leaf_names
from qspjax._types import Scalar, State
from qspjax.models.learned import AbstractTerm

Learned: TypeAlias = Callable[..., jax.Array]
"""What is learned: an equinox network, of an array or of one number, or a term, of several numbers."""


def elements(state: State) -> dict[str, Scalar]:
    """Return every number of a state by its name."""
    values = {}
    for names, leaf in zip(leaf_names(state), jax.tree.leaves(state), strict=True):
        flat = jnp.reshape(leaf, (len(names),)) if np.shape(leaf) else (leaf,)
        values |= {name: flat[i] for i, name in enumerate(names)}
    return values


def with_added(slope: State, state: State, added: Mapping[str, Scalar]) -> State:
    """Return a slope with numbers added to some of its elements, by the names of those of the state."""
    leaves = []
    for names, part, leaf in zip(leaf_names(state), jax.tree.leaves(slope), jax.tree.leaves(state), strict=True):
        shape = np.shape(leaf)
        mine = [(i, added[name]) for i, name in enumerate(names) if name in added]
        if not shape:
            leaves.append(part + mine[0][1] if mine else part)
            continue
        unit = np.eye(len(names))
        leaves.append(sum((jnp.reshape(unit[i], shape) * value for i, value in mine), jnp.broadcast_to(part, shape)))
    return jax.tree.unflatten(jax.tree.structure(slope), leaves)


def called(function: Learned, inputs: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """Return the value of what is learned: of a term, or of a network, which takes its inputs as one array.

    One input that is no array is given as a number, as `eqx.nn.MLP("scalar", ...)` takes it.
    """
    if isinstance(function, AbstractTerm):
        return jnp.asarray(function(*inputs))
    return function(inputs if isinstance(inputs, jax.Array) else inputs[0] if len(inputs) == 1 else jnp.stack(inputs))
