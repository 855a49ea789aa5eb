"""Multilayer perceptrons that are monotone in some of their inputs.

$$ h_1 = \\rho(\\tilde W_1 z + b_1), \\quad h_k = \\rho(|W_k| h_{k-1} + b_k) $$

where a column of the first matrix that belongs to a monotone input is its absolute value times the sign, and all other
columns are as they are. Every path from a monotone input has one sign, so the function is monotone in it, whatever the
weights. Half of the units have the activation, half the activation turned around the origin, -rho(-x): with a convex
activation alone the function would be convex.

Reference: Runje and Shankaranarayana 2023, Constrained monotonic neural networks, arXiv:2205.11775; Sill 1998,
Monotonic networks, Advances in Neural Information Processing Systems 10.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import refuse

GRID = np.linspace(-6.0, 6.0, 241)
"""Where an activation is checked to be increasing."""


def check_increasing_activation(network: Any) -> None:
    """Check that a network can be made monotone: a multilayer perceptron with increasing activations.

    Raises:
        ValueError: If it cannot.
    """
    if not isinstance(network, eqx.nn.MLP):
        kind = type(network).__name__
        refuse("network", "be an eqx.nn.MLP to be monotone in an input, so that its weights can be constrained", kind)
    for activation in (network.activation, network.final_activation):
        if any(map(eqx.is_array, jax.tree.leaves(activation))):
            must = "have an activation without weights to be monotone in an input"
            refuse("network", must, type(activation).__name__)
        values = np.asarray(jax.vmap(activation)(jnp.asarray(GRID)))
        if (np.diff(values) < -1e-12).any():
            must = "have an activation that never decreases, such as jnp.tanh, to be monotone in an input"
            refuse("network", must, getattr(activation, "__name__", activation))


def monotone(network: Any, signs: Sequence[int]) -> Callable[[jax.Array], jax.Array]:
    """Return the function of a multilayer perceptron with its weights constrained.

    Args:
        network: The perceptron.
        signs: For each input, 1 or -1 if the function increases or decreases in it, else 0.
    """
    sign = np.asarray(signs, float)

    def function(z: jax.Array) -> jax.Array:
        hidden = jnp.atleast_1d(z)
        for k, layer in enumerate(network.layers):
            weight = jnp.abs(layer.weight)
            if k == 0:
                weight = jnp.where(sign == 0.0, layer.weight, sign * weight)
            hidden = weight @ hidden
            hidden = hidden if layer.bias is None else hidden + layer.bias
            if k < len(network.layers) - 1:
                half = len(hidden) // 2
                first, second = network.activation(hidden[:half]), -network.activation(-hidden[half:])
                hidden = jnp.concatenate([first, second])
        return network.final_activation(hidden)

    return function
