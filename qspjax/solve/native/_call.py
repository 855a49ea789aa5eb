"""The lowering of a solve to native code, on a CPU; what cannot be translated is lowered for XLA, with a reason."""

import contextlib
import dataclasses
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import PyTree

from qspjax._programs import AbstractForeignCode, call_foreign
from qspjax.solve.kernel._lanes import Patients, Program
from qspjax.solve.kernel.primitives._define import (
    SOLVED,
    Derivative,
    Ensemble,
    adjoint_p,
    computed,
    for_xla,
    record_p,
    solve_p,
    tangent_p,
)
from qspjax.solve.kernel.primitives._marked import select
from qspjax.solve.native import _engine, rules  # noqa: F401  (the rules register themselves)
from qspjax.solve.native._adjoint import AdjointText
from qspjax.solve.native._changes import with_outlined_changes
from qspjax.solve.native._frame import AbstractModule, Axis
from qspjax.solve.native._lane import Traced, trace
from qspjax.solve.native._loop import Text
from qspjax.solve.native._record import RecordText, layout
from qspjax.solve.native._system import LaneSystem, check_size
from qspjax.solve.native._tangent import TangentText, at_once, by_blocks
from qspjax.solve.native._values import UnsupportedError

Made = TypeVar("Made")

THREADED = 64
"""Patients from which on another thread is worth its start."""
TERMS = 5_000
"""With more entries in its Jacobian, a system that is too large to be factorised is too large for any method."""


class Compiled(NamedTuple):
    """How a solve, or a derivative of one, was compiled.

    Attributes:
        states: The number of its states.
        reason: Why XLA compiled it; None where it was compiled natively.

    Example:
        >>> from qspjax.solve.native import Compiled
        >>> Compiled(4, None).reason is None
        True
    """

    states: int
    reason: str | None


_listeners: list[list[Compiled]] = []


@contextlib.contextmanager
def compilations() -> Iterator[list[Compiled]]:
    """Collect how solves and their derivatives are compiled meanwhile.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> with qsp.solve.native.compilations() as solves:
        ...     _ = qsp.simulate(patient, qsp.bolus(9.0, to="central"), [1.0], method=qsp.solve.Explicit(rtol=3e-6))
        >>> len(solves)
        1
    """
    solves: list[Compiled] = []
    _listeners.append(solves)
    try:
        yield solves
    finally:
        _listeners.remove(solves)


def report(compiled: Compiled) -> None:
    """Tell who listens how something was compiled."""
    for solves in _listeners:
        solves.append(compiled)


def target(program: Program, patients: Patients) -> str:
    """Return the name under which XLA calls the compiled solve of a program.

    Args:
        program: The solve.
        patients: The shapes of the patients.

    Raises:
        UnsupportedError: If it cannot be compiled here.
    """
    lanes, lane_program = _lane_program(program)
    return registered(trace(lane_program, patients), patients, program.batched, lanes)


def _lane_program(program: Program) -> tuple[int, Program]:
    """Return the number of lanes, and a program as a lane sees it.

    Raises:
        UnsupportedError: If it is not to be compiled here.
    """
    check_backend()
    if program.system.pattern.sum() > TERMS:
        check_size(program.system.elimination)
    system, events = LaneSystem(program.system), with_outlined_changes(program.events)
    return _engine.lanes(program.system.size), dataclasses.replace(program, system=system, events=events)


def check_backend() -> None:
    """Check that XLA is not asked for.

    Raises:
        UnsupportedError: If it is.
    """
    if os.environ.get("QSPJAX_BACKEND", "").lower() == "xla":
        raise UnsupportedError("QSPJAX_BACKEND is xla")


SOLVE_AXES = {"patients": Axis(True, 0, 0), "outputs": Axis(True, 0, 1)}
"""The axes of the states at outputs, the first result of a solve."""


def registered(traced: Traced, patients: Patients, batched: PyTree, lanes: int, columns: int = 1) -> str:
    """Compile what a lane does; return the name under which XLA calls it: see `Text`."""
    return register(Text(traced, patients, batched, lanes, columns), SOLVE_AXES, THREADED)


def register(text: AbstractModule, axes: Mapping[str, Axis], least: int) -> str:
    """Compile a module; return the name under which XLA calls it."""
    handler = _engine.handler(text.operands, len(text.results), {**axes, **text.lengths}, least)
    return _engine.registered(text.text, handler)


def attempted(states: int, compile: Callable[[], Made]) -> Made | None:
    """Return what is compiled for a solve of so many states, None if it cannot be; whoever watches is told."""
    try:
        made = compile()
    except UnsupportedError as reason:
        report(Compiled(states, f"{reason}"))
        return None
    report(Compiled(states, None))
    return made


def lower(
    ctx: mlir.LoweringRuleContext,
    operands: Sequence[mlir.ir.Value],
    states: int,
    compile: Callable[[list[jax.ShapeDtypeStruct]], str],
    otherwise: Callable[[], Sequence],
) -> Sequence:
    """Lower a solve of so many states: what `compile` returns is called, unless it cannot."""
    avals = cast("Sequence[ShapedArray]", ctx.avals_in)
    name = attempted(states, lambda: compile([jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]))
    return otherwise() if name is None else jax.ffi.ffi_lowering(name)(ctx, *operands)


def _lower(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, ensemble: Ensemble) -> Sequence:
    return lower(
        ctx,
        operands,
        ensemble.program.system.size,
        lambda shapes: target(ensemble.program, ensemble.patients(shapes)),
        lambda: for_xla(solve_p)(ctx, *operands, ensemble=ensemble),
    )


def _shapes(ctx: mlir.LoweringRuleContext) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in cast("Sequence[ShapedArray]", ctx.avals_in)]


def _lower_record(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, ensemble: Ensemble) -> Sequence:
    return lower(
        ctx,
        operands,
        ensemble.program.system.size,
        lambda shapes: record(ensemble.program, ensemble.patients(shapes)),
        lambda: for_xla(record_p)(ctx, *operands, ensemble=ensemble),
    )


_recorded: "weakref.WeakKeyDictionary[Program, str]" = weakref.WeakKeyDictionary()
"""The names of solves that write down their steps."""


def record(program: Program, patients: Patients) -> str:
    """Return the name of a solve that writes down its steps; the arguments are those of `target`."""
    if program not in _recorded:
        (lanes, lane_program), threads = _lane_program(program), _engine.threads()
        if layout(lane_program, patients, lanes, threads).room:
            text = RecordText(lane_program, patients, lanes, threads)
            _recorded[program] = register(text, SOLVE_AXES, text.chunk)
        else:
            _recorded[program] = registered(trace(lane_program, patients), patients, program.batched, lanes)
    return _recorded[program]


def _lower_derivative(primitive: Primitive) -> Callable[..., Sequence]:
    """Return the lowering of a derivative by XLA, which records the solve again where that was compiled natively."""

    def lower(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
        ensemble, values = derivative.ensemble, derivative.unpack(_shapes(ctx))
        if ensemble.program.events is not None:  # these are replayed, without a record
            return for_xla(primitive)(ctx, *operands, derivative=derivative)
        try:
            record(ensemble.program, ensemble.patients(values.leaves))
        except UnsupportedError:
            return for_xla(primitive)(ctx, *operands, derivative=derivative)

        def recorded(*operands: jax.Array) -> list[jax.Array]:
            values = derivative.unpack(operands)
            record = computed(record_p)(*values.leaves, ensemble=ensemble)[SOLVED:]
            operands = (*record, *operands[len(record) :])
            return computed(primitive)(*operands, derivative=derivative)

        return mlir.lower_fun(recorded, multiple_results=True)(ctx, *operands)

    return lower


def _lower_adjoint(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    ensemble, values = derivative.ensemble, derivative.unpack(_shapes(ctx))
    patients = ensemble.patients(values.leaves)
    try:
        record(ensemble.program, patients)  # else the steps were written down by XLA, in another form
        name, text = adjoint(ensemble.program, patients, derivative.placed([True] * sum(derivative.wrt)))
    except UnsupportedError as reason:
        report(Compiled(ensemble.program.system.size, f"{reason}"))
        return _lower_derivative(adjoint_p)(ctx, *operands, derivative=derivative)
    shared = [not each for each in select(ensemble.batched, derivative.wrt)]

    def pull(*operands: jax.Array) -> list[jax.Array]:
        values = derivative.unpack(operands)

        def along(cotangent: jax.Array) -> list[jax.Array]:
            results = jax.ffi.ffi_call(name, text.shapes)(*values.leaves, *values.record[:2], cotangent)
            return [x.sum(axis=0) if total else x for x, total in zip(results, shared, strict=False)]

        (cotangents,) = values.tangents
        if len(cotangents) == 1:
            return [x[None] for x in along(cotangents[0])]
        return jax.lax.map(along, cotangents)

    return mlir.lower_fun(pull, multiple_results=True)(ctx, *operands)


def _lower_tangent(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    ensemble, values = derivative.ensemble, derivative.unpack(_shapes(ctx))
    size, order = ensemble.program.system.size, len(derivative.by_order(values.tangents))
    count = at_once(values.tangents[0].shape[0], size, order)
    try:
        if order > 2:
            raise UnsupportedError("a derivative of third order")
        patients = ensemble.patients(values.leaves)
        name, text = tangent(ensemble.program, patients, derivative.placed([True] * sum(derivative.wrt)), count, order)
    except UnsupportedError as reason:
        report(Compiled(size, f"{reason}"))
        return _lower_derivative(tangent_p)(ctx, *operands, derivative=derivative)

    def push(*operands: jax.Array) -> list[jax.Array]:
        values = derivative.unpack(operands)

        def along(tangents: Sequence[jax.Array]) -> list[jax.Array]:
            return [jax.ffi.ffi_call(name, text.shape)(*values.leaves, *tangents)]

        return by_blocks(along, values.tangents, count)

    return mlir.lower_fun(push, multiple_results=True)(ctx, *operands)


def tangent(program: Program, patients: Patients, marks: Patients, count: int, order: int) -> tuple[str, TangentText]:
    """Return the name of the derivative of a solve along some directions, and its text.

    Args:
        program: The solve.
        patients: The shapes of the patients.
        marks: What is differentiated, true or None.
        count: The number of directions.
        order: The order of the derivative.

    Raises:
        UnsupportedError: If it cannot be compiled here.
    """
    lanes, program = _lane_program(program)
    text = TangentText(program, patients, lanes, marks, count, order)
    axes = {"patients": Axis(True, 0, 1), "outputs": Axis(True, 0, 2)}
    least = max(lanes, THREADED // (1 + 2 * count))  # a direction costs twice what a step does
    return register(text, axes, least), text


def adjoint(program: Program, patients: Patients, marks: Patients) -> tuple[str, AdjointText]:
    """Return the name of the transposed derivative of a solve, and its text.

    Args:
        program: The solve.
        patients: The shapes of the patients.
        marks: What is differentiated, true or None.

    Raises:
        UnsupportedError: If it cannot be compiled here.
    """
    lanes, program = _lane_program(program)
    text = AdjointText(program, patients, lanes, marks, _engine.threads())
    last = text.operands - 1
    axes = {"patients": Axis(False, last, 0), "outputs": Axis(False, last, 1)}
    return register(text, axes, text.chunk), text


class _NativeCode(AbstractForeignCode):
    """Native code of lanes, as programs call it."""

    def surroundings(self) -> object:
        try:
            return _engine.processor(), _engine.threads()
        except UnsupportedError as reason:
            return str(reason)

    def is_watched(self) -> bool:
        return bool(_listeners)

    def description(self, name: str) -> tuple[str, list[str]] | None:
        return _engine.description(name)

    def load(self, name: str, description: tuple[str, list[str]]) -> bool:
        return _engine.load(name, description)


call_foreign(_NativeCode())
mlir.register_lowering(solve_p, _lower, platform="cpu")
mlir.register_lowering(record_p, _lower_record, platform="cpu")
mlir.register_lowering(tangent_p, _lower_tangent, platform="cpu")
mlir.register_lowering(adjoint_p, _lower_adjoint, platform="cpu")
