"""Events: changes of the state at times that the state itself determines.

A condition that becomes true is located to rounding error and its event applied there, in the order that SBML
prescribes (Level 3 Version 2, section 4.11): the condition is the trigger; the change that follows may be delayed, and
is cancelled if it is not persistent and the trigger turns false first. Of several changes that are due, the one with
the highest priority comes first, after which all triggers are evaluated again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qspjax._checks import refuse
from qspjax._types import Scalar, State


@dataclasses.dataclass(frozen=True)
class Event:
    """A change of the state where a condition becomes true.

    $$ g(t, y) \\text{ turns true at } t^*: \\quad y(t^* + delay) \\leftarrow assign(t, y) $$

    The functions take the time and the state. Comparisons in `trigger` (`y.tumour > 20.0`, joined by `&`, `|`, `~`)
    are located by their difference, and the time of the event is differentiated through it. Steps resolve a condition
    that oscillates in time, such as `cos(w * t) > 0.4`, whatever the states do; where it holds for less than a few
    hundredths of its period, or in a pulse, put an output there.

    Args:
        trigger: Whether the condition holds, `(t, y) -> bool`. The event fires where it turns from false to true.
        assign: New values by name of a state or of a parameter, `(t, y) -> {name: value}`.
        delay: Time from the trigger to the change, `(t, y) -> number >= 0`; None for none.
        priority: Of several changes at one time the highest comes first, `(t, y) -> number`; None for the last.
        persistent: Whether a change takes place even if the trigger turns false before it.
        initial_value: What the trigger was before the start: if false, a condition that holds at the start fires.
        from_trigger_time: Whether `assign` is evaluated when the trigger fires, else when the change takes place.
        pending: Maximum number of changes of this event that wait at one time; more end the solve with a result code.
        name: What the event is called.

    Raises:
        ValueError: If a function is not callable, or `pending` is not a positive integer.

    Reference: Hucka et al., J Integr Bioinform 2019;16:20190021, doi:10.1515/jib-2019-0021.

    Example:
        >>> import qspjax as qsp
        >>> stop = qsp.Event(trigger=lambda t, y: y.central < 2.0, assign=lambda t, y: {"central": y.central + 8.0})
        >>> stop.persistent
        True
    """

    trigger: Callable[[Scalar, State], ArrayLike]
    assign: Callable[[Scalar, State], Mapping[str, ArrayLike]]
    delay: Callable[[Scalar, State], ArrayLike] | None = None
    priority: Callable[[Scalar, State], ArrayLike] | None = None
    persistent: bool = True
    initial_value: Any = True
    from_trigger_time: bool = True
    pending: int = 8
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("trigger", "assign"):
            if not callable(getattr(self, name)):
                refuse(name, "be a function of the time and the state", type(getattr(self, name)).__name__)
        for name in ("delay", "priority"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                refuse(name, "be a function of the time and the state, or None", type(getattr(self, name)).__name__)
        if not (isinstance(self.pending, int) and self.pending > 0):
            refuse("pending", "be a positive integer", self.pending)


def of_whole(event: Event, inner: Callable[[Scalar, State], tuple], outer: Callable[[str, State], str]) -> Event:
    """Return an event of a part of a model as an event of the whole model.

    Args:
        event: The event of the part.
        inner: Returns the arguments of its functions, from the time and the state of the whole model.
        outer: Returns the full name of what the event assigns, from its name and the state of the whole model.
    """

    def lifted(function: Callable[..., ArrayLike] | None) -> Callable[[Scalar, State], ArrayLike] | None:
        return None if function is None else lambda t, y: function(*inner(t, y))

    def assign(t: Scalar, y: State) -> dict[str, ArrayLike]:
        return {outer(name, y): value for name, value in event.assign(*inner(t, y)).items()}

    changed = {name: lifted(getattr(event, name)) for name in ("trigger", "delay", "priority")}
    return dataclasses.replace(event, assign=assign, **changed)


def check_trigger(event: Event, start: State) -> None:
    """Check that a trigger is a condition: where a number passes zero, nothing would happen.

    Raises:
        ValueError: If it is not.
    """
    holds = jax.eval_shape(lambda y: jnp.asarray(event.trigger(jnp.zeros(()), y)), jax.tree.map(jnp.asarray, start))
    if holds.dtype != bool or holds.shape:
        actual = f"an array of shape {holds.shape}" if holds.shape else "a number"
        refuse("trigger", "return whether a condition holds, such as `y.tumour > 20.0`", f"one that returns {actual}")


def assigned_names(event: Event, start: State) -> tuple[str, ...]:
    """Return the names that an event assigns.

    Raises:
        ValueError: If `assign` does not return numbers by name.
    """
    results: list[object] = []
    start = jax.tree.map(jnp.asarray, start)
    jax.eval_shape(lambda y: results.append(event.assign(jnp.zeros(()), y)), start)
    (assigned,) = results
    if not isinstance(assigned, Mapping) or not all(isinstance(name, str) for name in assigned):
        refuse("assign", "return a dict of numbers by name", f"one that returns a {type(assigned).__name__}")
    return tuple(assigned)
