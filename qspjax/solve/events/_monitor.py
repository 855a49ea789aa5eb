"""What a solver's loop asks about events, for one patient or for lanes of patients alike."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from qspjax._model import AbstractModel
from qspjax._types import State
from qspjax.solve._consistent import Equations
from qspjax.solve._near import Near
from qspjax.solve.events._locate import Bracket, Sight, Verdict, judged, sighted
from qspjax.solve.events._system import Ahead, Hybrid, Look, hybrid_of, inset, repeated


class Watch(NamedTuple):
    """The events of the patients in hand; times have shape (...), states (states, ...), memories (numbers, ...).

    Attributes:
        hybrid: What is static about the events.
        look: `(t, y, memory) -> Look`.
        ahead: `(t, y, memory, slope) -> Ahead`.
        act: `(t, y, memory) -> (y, memory, whether it came to an end)`.
        again: `(rate, t, y, memory, cause, span) -> (t, y, memory)` after a recorded change, to be differentiated.
    """

    hybrid: Hybrid
    look: Callable[..., Look]
    ahead: Callable[..., Ahead]
    act: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    again: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]

    def foresee(
        self, t: jax.Array, y: jax.Array, memory: jax.Array, bracket: Bracket, remaining: jax.Array, slope: jax.Array
    ) -> Sight:
        """Return what is seen ahead of a step from `t`; `remaining` is the time to the next boundary."""
        seen = self.look(t, y, memory)
        if self.hybrid.timed.any():
            ahead = self.ahead(t, y, memory, slope)
        else:
            never = jnp.full_like(t, jnp.inf)
            ahead = Ahead(never, jnp.zeros(t.shape, bool), never, jnp.zeros(t.shape, int))
        return sighted(seen.gaps, seen.sizes, ahead, bracket, t, remaining)

    def find(
        self, sight: Sight, h: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, good: jax.Array
    ) -> tuple[Verdict, Look]:
        """Return what a step that ended at `t` and `y` came upon, and what the triggers say there."""
        seen = self.look(t, y, memory)
        before = jnp.ones_like(seen.fires)
        if self.hybrid.timed.any():
            before = self.look(t - 2.0 * sight.precise - 64.0 * jnp.finfo(t.dtype).eps * jnp.abs(t), y, memory).fires
        return judged(sight, h, seen.gaps, own=self.hybrid.own, good=good, fires=seen.fires, before=before), seen

    def apply(
        self, wanted: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Apply what is due where `wanted`; return state, memory and whether all came to an end."""

        def act(t: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            new, kept, fine = self.act(t, y, memory)
            return jnp.where(wanted, new, y), jnp.where(wanted, kept, memory), fine | ~wanted

        def rest(_: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            return y, memory, jnp.ones_like(wanted)

        return jax.lax.cond(eqxi.unvmap_any(wanted), act, rest, t, y, memory)

    def repeat(
        self, rate: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, cause: jax.Array, span: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return time, state and memory after a recorded step, `cause` telling of the change it ended with."""
        memory = self.look(t, y, memory).memory

        def rest(_: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, *__: Any) -> tuple:
            return t, y, memory

        operands = (rate, t, y, memory, cause, span)
        return jax.lax.cond(eqxi.unvmap_any(cause >= 0), self.again, rest, *operands)

    def within(self, t0: jax.Array, t1: jax.Array, sight: Sight | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the ends of a step, drawn in by rounding error where the vector field jumps there.

        The difference of the ends has the derivative of that of the times, however short the step is.
        """
        if not self.hybrid.squeezed:
            return t0, t1
        start = end = inset(jnp.maximum(jnp.abs(t0), jnp.abs(t1)))
        if sight is not None:
            start = jnp.where(sight.leaves, start, 0.0)
            end = jnp.where(sight.known <= t1 - t0 + sight.precise, end, 0.0)
        start, end = jax.lax.stop_gradient((start, jnp.minimum(end, t1 - t0 - start)))
        return t0 + start, t1 - end


class Begun(NamedTuple):
    """The events of one patient at the start of a solve.

    Attributes:
        hybrid: What is static about them.
        memory: What they remember.
        settled: Whether those that fire at the start came to an end.
    """

    hybrid: Hybrid
    memory: jax.Array
    settled: jax.Array


def begun(model: AbstractModel, start: State, t0: Any, near: Near) -> tuple[jax.Array, Begun | None, jax.Array]:
    """Return the flat state with which a solve begins, all events, None if there are none, and whether it may begin.

    Algebraic states satisfy their equations, else it may not; events that fire at the start have acted.
    """
    y0, hybrid = ravel_pytree(start)[0], hybrid_of(model, start, near)
    t0 = jnp.asarray(t0, y0.dtype)
    if hybrid is None:
        y0, solved = Equations(model, start, near).solved(model, t0, y0)
        return y0, None, solved
    y0, memory, settled = hybrid.start(model, t0, y0)
    y0, solved = hybrid.equations.solved(model, t0, y0)
    return y0, Begun(hybrid, memory, settled), solved


class Events(NamedTuple):
    """The events of a structure of model, as functions of the leaves of the model.

    Attributes:
        hybrid: What is static about them.
        model: `leaves -> model`.
    """

    hybrid: Hybrid
    model: Callable[[Sequence[jax.Array]], AbstractModel]


def events_over_leaves(hybrid: Hybrid, model: AbstractModel) -> Events:
    """Return the events of a model over its leaves, in the order of `jax.tree.leaves`."""
    arrays, static = eqx.partition(model, eqx.is_array)
    structure = jax.tree.structure(arrays)
    return Events(hybrid, lambda leaves: eqx.combine(jax.tree.unflatten(structure, leaves), static))


def watch_lanes(events: Events, leaves: Sequence[jax.Array], laned: Sequence[bool]) -> Watch:
    """Return what watches over the events of the patients in lanes; a leaf has its lanes last where `laned`."""
    hybrid = events.hybrid
    axes = [-1 if own else None for own in laned]

    def over_lanes(function: Callable[..., Any]) -> Callable[..., Any]:
        def laned_function(*operands: Any) -> Any:
            each = jax.vmap(
                lambda leaves, *at: function(events.model(leaves), *at),
                in_axes=(axes, *[-1] * len(operands)),
                out_axes=-1,
            )
            return each(list(leaves), *operands)

        return laned_function

    return Watch(
        hybrid,
        look=over_lanes(hybrid.look),
        ahead=over_lanes(hybrid.ahead),
        act=over_lanes(partial(hybrid.act, bounded=False)),
        again=over_lanes(partial(repeated, hybrid)),
    )


def watch_one(events: Begun | None, model: AbstractModel) -> Watch | None:
    """Return what watches over the events of one patient, None if there are none."""
    if events is None:
        return None
    hybrid = events.hybrid

    return Watch(
        hybrid,
        look=partial(hybrid.look, model),
        ahead=partial(hybrid.ahead, model),
        act=partial(hybrid.act, model, bounded=False),
        again=partial(repeated, hybrid, model),
    )
