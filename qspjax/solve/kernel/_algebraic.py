"""Algebraic states of the patients in lanes, solved again where something jumps."""

import jax
import jax.numpy as jnp

from qspjax.solve._consistent import consistent
from qspjax.solve._control import Control
from qspjax.solve._near import Near
from qspjax.solve.kernel._layout import AbstractSystem, Rows
from qspjax.solve.kernel._rosenbrock import Lanes


def settled(
    system: AbstractSystem, control: Control, lanes: Lanes, t: jax.Array, y: Rows, active: jax.Array
) -> tuple[Rows, jax.Array]:
    """Return states whose algebraic part satisfies its equations where `active`, and whether these were found.

    Args:
        system: The vector field.
        control: Its tolerances are those of the states.
        lanes: The patients in the lanes.
        t: Times, shape (lanes,).
        y: States.
        active: Where to solve, shape (lanes,); elsewhere states do not change.
    """
    if system.mass.all():
        return y, jnp.ones_like(active)
    near = Near(control.rtol, jnp.asarray(control.atol))

    def slope(inputs: tuple[list[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        dydt = system.slope(*inputs, tuple(y) if system.unrolled else y)
        return jnp.stack(dydt) if system.unrolled else dydt

    def of_patient(constants: list, t: jax.Array, y: jax.Array, active: jax.Array) -> tuple[jax.Array, jax.Array]:
        return consistent(slope, (constants, t), y, system.algebraic, near, active)

    axes = [-1 if has_lanes else None for has_lanes in lanes.batched]
    mapped = jax.vmap(of_patient, in_axes=(axes, -1, -1, -1), out_axes=-1)

    def skip(_: list, __: jax.Array, y: jax.Array, active: jax.Array) -> tuple[jax.Array, jax.Array]:
        return y, jnp.ones_like(active)

    y, solved = jax.lax.cond(active.any(), mapped, skip, list(lanes.constants), t, system.join(y), active)
    return system.split(y), solved
