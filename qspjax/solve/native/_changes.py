"""What events change at the end of a recorded step, as a function of the compiled program with derivatives of its own.

One change may cause another, for a number of rounds that is known only when the program runs. Forwards, a loop carries
tangents along. Backwards, the last round comes first: for each, the rounds before it are computed again, since there
are few, and the transposed derivative of that round alone is one function, whatever their number.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from qspjax.solve.events._monitor import Events
from qspjax.solve.events._system import repeat_change
from qspjax.solve.native._outlined import Marks, Outlined, chosen, smooth


def with_outlined_changes(events: Events | None) -> Events | None:
    """Return events of which a change that is repeated is a function of the compiled program; None for none."""
    if events is None:
        return None
    system, model = events.system, events.model

    def change(*operands: jax.Array) -> list[jax.Array]:
        *leaves, rate, t, y, memory, cause, span = (x[..., 0] for x in operands)
        after = repeat_change(system, model(leaves), rate, t, y, memory, cause, span, loop=looped)
        return [x[..., None] for x in after]

    outlined = Outlined(change, numbers=False)

    def redo(leaves: Sequence[jax.Array], *operands: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        t, y, memory = outlined(*leaves, *operands)
        return t, y, memory

    return events._replace(redo=redo)


def looped(condition: Callable[[tuple], jax.Array], body: Callable[[tuple], tuple], start: tuple, most: int) -> tuple:
    """Run a loop, whose condition is a function of what is carried alone; see `Loop`."""
    del most  # the condition counts
    carry, structure = jax.tree.flatten(start)
    closed = jax.make_jaxpr(lambda *carry: jax.tree.leaves(body(jax.tree.unflatten(structure, carry))))(*carry)
    consts, program, count = list(closed.consts), closed.jaxpr, len(closed.consts)

    @Outlined
    def step(*operands: jax.Array) -> list[jax.Array]:
        return jaxpr_as_fun(ClosedJaxpr(program, operands[:count]))(*operands[count:])

    def goes_on(carry: Sequence[jax.Array]) -> jax.Array:
        return condition(jax.tree.unflatten(structure, carry))

    def run(*operands: jax.Array) -> list[jax.Array]:
        consts, carry = operands[:count], list(operands[count:])
        return jax.lax.while_loop(goes_on, lambda carry: step(*consts, *carry), carry)

    def pull(marks: Marks, primals: Sequence[jax.Array], cotangents: Sequence[jax.Array]) -> list[jax.Array]:
        consts, start = primals[:count], list(primals[count:])
        moved, each, zero = marks[:count], smooth(start), jnp.zeros((), int)
        back, size = step.cotangent((*moved, *each)), sum(moved)

        def advanced(now: tuple) -> tuple:
            return now[0] + 1, step(*consts, *now[1])

        def retreated(now: tuple) -> tuple:
            number, total, of_carry = now
            _, before = jax.lax.while_loop(lambda now: now[0] < number - 1, advanced, (zero, start))
            gains = back(*consts, *before, *of_carry)
            return number - 1, [x + gain for x, gain in zip(total, gains[:size], strict=True)], gains[size:]

        rounds, _ = jax.lax.while_loop(lambda now: goes_on(now[1]), advanced, (zero, start))
        none = [jnp.zeros_like(x) for x in chosen(consts, moved)]
        _, total, of_carry = jax.lax.while_loop(lambda now: now[0] > 0, retreated, (rounds, none, list(cotangents)))
        return [*total, *chosen(of_carry, chosen(marks[count:], each))]

    return jax.tree.unflatten(structure, Outlined(run, pull=pull)(*consts, *carry))
