"""The lowerings of the derivatives of linear patients to native code, on a CPU."""

from collections.abc import Sequence
from typing import cast

import jax
from jax.core import ShapedArray
from jax.interpreters import mlir

from qspjax.solve._march_again import Derivative, adjoint_p, for_xla, tangent_p
from qspjax.solve.native import _call, _engine
from qspjax.solve.native._march import lanes_of
from qspjax.solve.native._march_adjoint import MarchAdjointText
from qspjax.solve.native._march_tangent import MarchTangentText
from qspjax.solve.native._tangent import at_once, by_blocks


def _shapes(ctx: mlir.LoweringRuleContext) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in cast("Sequence[ShapedArray]", ctx.avals_in)]


def _registered(text: MarchAdjointText | MarchTangentText) -> tuple[str, list[jax.ShapeDtypeStruct]]:
    """Return the name under which XLA calls a text, and the shapes of its results."""
    return _call.register(text, {}, _call.THREADED), text.shapes


def _lower_adjoint(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    march, (leaves, _) = derivative.march, derivative.split(_shapes(ctx))

    def compile() -> tuple[str, list[jax.ShapeDtypeStruct]]:
        return _registered(MarchAdjointText(derivative, march.of(leaves), lanes_of(march), _engine.threads()))

    compiled = _call.attempted(march.size, compile)
    if compiled is None:
        return for_xla[adjoint_p](ctx, *operands, derivative=derivative)

    def pull(*operands: jax.Array) -> Sequence[jax.Array]:
        return jax.ffi.ffi_call(*compiled)(*operands)[:-2]

    return mlir.lower_fun(pull, multiple_results=True)(ctx, *operands)


def _lower_tangent(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    march, (leaves, tangents) = derivative.march, derivative.split(_shapes(ctx))
    count = at_once(tangents[0].shape[0], march.size, 1)

    def compile() -> tuple[str, list[jax.ShapeDtypeStruct]]:
        return _registered(MarchTangentText(derivative, march.of(leaves), lanes_of(march), count))

    compiled = _call.attempted(march.size, compile)
    if compiled is None:
        return for_xla[tangent_p](ctx, *operands, derivative=derivative)

    def push(*operands: jax.Array) -> Sequence[jax.Array]:
        leaves, tangents = derivative.split(operands)

        def along(tangents: Sequence[jax.Array]) -> Sequence[jax.Array]:
            return jax.ffi.ffi_call(*compiled)(*leaves, *tangents)

        return by_blocks(along, tangents, count)

    return mlir.lower_fun(push, multiple_results=True)(ctx, *operands)


mlir.register_lowering(adjoint_p, _lower_adjoint, platform="cpu")
mlir.register_lowering(tangent_p, _lower_tangent, platform="cpu")
