"""Algebraic states of the patients in lanes, solved again where something jumps."""

import jax
import jax.numpy as jnp

from qspjax.solve._consistent import consistent
from qspjax.solve._control import Control
from qspjax.solve._near import Near
from qspjax.solve.kernel._layout import Rows, System
from qspjax.solve.kernel._rosenbrock import Lanes


def settled(
    system: System, control: Control, lanes: Lanes, t: jax.Array, y: Rows, wanted: jax.Array
) -> tuple[Rows, jax.Array]:
    """Return states whose algebraic part satisfies its equations, and whether these were found; as they are elsewhere.

    Args:
        system: The vector field.
        control: Its tolerances are those of the states.
        lanes: The patients in the lanes.
        t: Times, shape (lanes,).
        y: States.
        wanted: Where to solve, shape (lanes,).
    """
    if system.mass.all():
        return y, jnp.ones_like(wanted)
    near = Near(control.rtol, jnp.asarray(control.atol))

    def slope(inputs: tuple[list[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        moved = system.slope(*inputs, tuple(y) if system.unrolled else y)
        return jnp.stack(moved) if system.unrolled else moved

    def one(constants: list, t: jax.Array, y: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
        return consistent(slope, (constants, t), y, system.algebraic, near, wanted)

    axes = [-1 if own else None for own in lanes.batched]
    each = jax.vmap(one, in_axes=(axes, -1, -1, -1), out_axes=-1)

    def rest(_: list, __: jax.Array, y: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
        return y, jnp.ones_like(wanted)

    y, fine = jax.lax.cond(wanted.any(), each, rest, list(lanes.constants), t, system.join(y), wanted)
    return system.split(y), fine
