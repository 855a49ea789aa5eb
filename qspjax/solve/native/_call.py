"""The lowering of a solve to native code, on a CPU; what cannot be translated is lowered for XLA, with a reason."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import jax
from jax.core import ShapedArray
from jax.interpreters import mlir
from jaxtyping import PyTree

from qspjax.solve.kernel._lanes import Patients, Program
from qspjax.solve.kernel.primitives._define import Ensemble, for_xla, solve_p
from qspjax.solve.native import _engine, rules  # noqa: F401  (the rules register themselves)
from qspjax.solve.native._loop import Text, Traced, trace
from qspjax.solve.native._system import LaneSystem, check_size
from qspjax.solve.native._values import UnsupportedError

THREADED = 64
"""Patients from which on another thread is worth its start."""
TERMS = 5_000
"""With more entries in its Jacobian, a system that is too large to be factorised is too large for any method."""


class Compiled(NamedTuple):
    """How a solve was compiled.

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
    """Collect how solves are compiled meanwhile.

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


def _report(compiled: Compiled) -> None:
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
    check_backend()
    if program.system.pattern.sum() > TERMS:
        check_size(program.system.elimination)
    lanes = _engine.lanes(program.system.size)
    program = dataclasses.replace(program, system=LaneSystem(program.system))
    return registered(trace(program, patients), patients, program.batched, lanes)


def check_backend() -> None:
    """Check that XLA is not asked for.

    Raises:
        UnsupportedError: If it is.
    """
    if os.environ.get("QSPJAX_BACKEND", "").lower() == "xla":
        raise UnsupportedError("QSPJAX_BACKEND is xla")


def registered(traced: Traced, patients: Patients, batched: PyTree, lanes: int, columns: int = 1) -> str:
    """Compile what a lane does; return the name under which XLA calls it: see `Text`."""
    text = Text(traced, patients, batched, lanes, columns)
    shapes: dict[str, tuple[int, int] | None] = {"vectors": None}
    time, vectors = patients.boundaries.time, patients.vectors
    shapes["boundaries"] = text.number[id(time)], len(time.shape) - 1
    if vectors is not None:
        shapes["vectors"] = text.number[id(vectors)], len(vectors.shape) - 2
    return _engine.registered(text.text, _engine.handler(text.arrays, shapes, text.results, text.context, THREADED))


def lower(
    ctx: mlir.LoweringRuleContext,
    operands: Sequence[mlir.ir.Value],
    states: int,
    compile: Callable[[list[jax.ShapeDtypeStruct]], str],
    otherwise: Callable[[], Sequence],
) -> Sequence:
    """Lower a solve of so many states: what `compile` returns is called, unless it cannot."""
    avals = cast("Sequence[ShapedArray]", ctx.avals_in)
    try:
        name = compile([jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals])
    except UnsupportedError as reason:
        _report(Compiled(states, f"{reason}"))
        return otherwise()
    _report(Compiled(states, None))
    return jax.ffi.ffi_lowering(name)(ctx, *operands)


def _lower(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, ensemble: Ensemble) -> Sequence:
    return lower(
        ctx,
        operands,
        ensemble.program.system.size,
        lambda shapes: target(ensemble.program, ensemble.patients(shapes)),
        lambda: for_xla(solve_p)(ctx, *operands, ensemble=ensemble),
    )


mlir.register_lowering(solve_p, _lower, platform="cpu")
