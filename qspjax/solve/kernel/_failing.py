"""Which state made a patient fail, for the patients who did."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qspjax.solve._control import SUCCESS, failing_state
from qspjax.solve.kernel._lanes import End, Patients, Program


def failing_index(
    program: Program, constants: list[jax.Array], t: jax.Array, y: jax.Array, span: jax.Array, code: jax.Array
) -> Int[Array, ""]:
    """Return the index of the state for which one patient failed, 0 if he did not.

    Args:
        program: The solve.
        constants: The constants of the patient.
        t: The time at which he failed.
        y: His state there, shape (states,).
        span: The latest time of interest.
        code: Why he failed.
    """
    slope = program.system.slope_of_patient(constants)
    return failing_state(slope, program.control, program.system.mass, t=t, y=y, span=span, code=code)


def failing_indices(program: Program, patients: Patients, end: End) -> Int[Array, " patients"]:
    """Return the index of the state for which each patient failed, 0 for those who did not."""

    def of_patients() -> jax.Array:
        axes = [0 if batched else None for batched in program.batched.constants]
        mapped = jax.vmap(
            lambda *values: failing_index(program, *values),
            in_axes=(axes, 0, 0, 0 if program.batched.span else None, 0),
        )
        return mapped(list(patients.constants), end.t, end.y, patients.span, end.code)

    return jax.lax.cond(jnp.any(end.code != SUCCESS), of_patients, lambda: jnp.zeros(end.code.shape, int))
