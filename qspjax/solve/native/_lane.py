"""What a lane holds, and the programs that it runs: traced for one patient, to be translated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.typing import DTypeLike
from jaxtyping import PyTree, PyTreeDef

from qspjax.solve.events._monitor import monitor_lanes
from qspjax.solve.kernel._failing import failing_index
from qspjax.solve.kernel._lanes import Landing, Lane, Patients, Program, attempt, begin
from qspjax.solve.kernel._layout import Lanes

Structure: TypeAlias = PyTreeDef  # pyright: ignore[reportInvalidTypeForm] (a variable in the stubs of jaxlib)


class Start(NamedTuple):
    """What is known of a patient at the start."""

    t: jax.Array
    y: jax.Array
    due: jax.Array
    ended: jax.Array | None
    memory: jax.Array | None
    looser: jax.Array | None = None


class Frame(NamedTuple):
    """Everything that a lane holds: in place of arrays their shapes while it is traced, in a `Text` their `Rows`."""

    constants: PyTree
    leaves: PyTree
    landing: Landing
    lane: Lane
    start: Start
    span: jax.Array


class Attempted(NamedTuple):
    """What the loop, or a derivative, asks of a step.

    Attributes:
        landed: The boundary that was landed on, or -1.
        busy: Whether there is something to do.
        h: The step size, 0 where none was accepted; None where there are no steps of any size.
        cause: What caused the event at its end; None without events.
        width: The step size that was tried.
        lands: Whether it was to land.
    """

    landed: PyTree
    busy: PyTree
    h: PyTree = None
    cause: PyTree = None
    width: PyTree = None
    lands: PyTree = None


@dataclass(frozen=True)
class Traced:
    """The programs of one lane, and where in the frame their inputs and outputs are.

    Attributes:
        step: A step: from constants, leaves, landing and lane to the lane afterwards and `Attempted`.
        stepped: The structure of what a step results in.
        start: From the number of the patient and `Start` to a lane, and whether it has nothing to do.
        failing: From constants, lane and span to the state for which it failed.
        frame: The shapes of the frame.
    """

    step: ClosedJaxpr
    stepped: Structure
    start: ClosedJaxpr
    failing: ClosedJaxpr
    frame: Frame

    @classmethod
    def of(cls, frame: Frame, *, step: Callable, start: Callable, failing: Callable) -> "Traced":
        """Trace the programs of a lane that holds a frame."""
        program, results = jax.make_jaxpr(step, return_shape=True)(
            frame.constants, frame.leaves, frame.landing, frame.lane
        )
        return cls(
            program,
            jax.tree.structure(results),
            jax.make_jaxpr(start)(frame.lane.patient, frame.start),
            jax.make_jaxpr(failing)(frame.constants, frame.lane, frame.span),
            frame,
        )


def like(shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Return what stands for an array while programs are traced."""
    return cast("jax.Array", jax.ShapeDtypeStruct(shape, dtype))


def shapes_of(program: Program, patients: Patients) -> Frame:
    """Return the shapes of what a lane holds."""

    def one(leaf: jax.ShapeDtypeStruct, batched: bool) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leaf.shape[batched:], 1), leaf.dtype)

    def fields(name: str) -> PyTree:
        return jax.tree.map(one, getattr(patients, name), getattr(program.batched, name))

    number, index = like((1,), patients.y0.dtype), like((1,), jnp.int32)
    column = patients.boundaries.map(lambda leaf: None if leaf is None else like((1,), leaf.dtype))
    vector = None
    if patients.vectors is not None and patients.boundaries.vector is not None:
        vector = like((program.system.size, 1), patients.y0.dtype)
    start = Start(number, fields("y0"), number, fields("ended"), fields("memory"), fields("looser"))
    lane = jax.eval_shape(
        lambda start, patient: begin(program, patient, *start, infused=patients.infused), start, index
    )
    leaves = fields("leaves") if program.events is not None else ()
    return Frame(fields("constants"), leaves, Landing(column, vector, number), lane, start, number)


def trace(program: Program, patients: Patients) -> Traced:
    """Trace the programs of one lane.

    Args:
        program: The solve, with a system that is to be translated.
        patients: The shapes of the patients.
    """
    frame = shapes_of(program, patients)

    def step(constants: list, leaves: tuple, landing: Landing, lane: Lane) -> tuple[Lane, Attempted]:
        monitor = None
        if program.events is not None:
            monitor = monitor_lanes(program.events, leaves, [True] * len(leaves))
        lanes = Lanes(constants, (True,) * len(constants))
        after, tried = attempt(program, lanes, monitor, lane, landing)
        busy = (tried.landed >= 0) | ~after.clock.live
        return after, Attempted(tried.landed, busy, tried.h, tried.cause, tried.width, tried.lands)

    def start(patient: jax.Array, start: Start) -> tuple[Lane, jax.Array]:
        lane = begin(program, patient, *start, infused=patients.infused)
        return lane, ~lane.clock.live

    def failing(constants: list, lane: Lane, span: jax.Array) -> jax.Array:
        values, clock = [x[..., 0] for x in constants], lane.clock
        return failing_index(program, values, clock.t[0], lane.y[:, 0], span[0], clock.code[0])[None]

    return Traced.of(frame, step=step, start=start, failing=failing)
