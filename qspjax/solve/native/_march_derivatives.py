"""The lowerings of the derivatives of linear patients to native code, on a CPU."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import mlir

from qspjax.solve._march_again import Derivative, adjoint_p, for_xla, tangent_p
from qspjax.solve.native import _call, _engine
from qspjax.solve.native._march import lanes_of
from qspjax.solve.native._march_adjoint import MarchAdjointText
from qspjax.solve.native._march_tangent import MarchTangentText
from qspjax.solve.native._tangent import directions
from qspjax.solve.native._values import UnsupportedError


def _shapes(ctx: mlir.LoweringRuleContext) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ctx.avals_in if isinstance(x, ShapedArray)]


def _lower_adjoint(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    march, (leaves, _) = derivative.march, derivative.split(_shapes(ctx))
    try:
        text = MarchAdjointText(derivative, march.of(leaves), lanes_of(march), _engine.threads())
        name = _call.register(text, {}, _call.THREADED)
    except UnsupportedError as reason:
        _call.report(_call.Compiled(march.size, f"{reason}"))
        return for_xla[adjoint_p](ctx, *operands, derivative=derivative)
    _call.report(_call.Compiled(march.size, None))

    def pull(*operands: jax.Array) -> Sequence[jax.Array]:
        return jax.ffi.ffi_call(name, text.shapes)(*operands)[:-2]

    return mlir.lower_fun(pull, multiple_results=True)(ctx, *operands)


def _lower_tangent(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, derivative: Derivative) -> Sequence:
    march, (leaves, tangents) = derivative.march, derivative.split(_shapes(ctx))
    all = tangents[0].shape[0]
    blocks = -(-all // directions(march.size, 1))
    count = -(-all // blocks)
    try:
        text = MarchTangentText(derivative, march.of(leaves), lanes_of(march), count)
        name = _call.register(text, {}, _call.THREADED)
    except UnsupportedError as reason:
        _call.report(_call.Compiled(march.size, f"{reason}"))
        return for_xla[tangent_p](ctx, *operands, derivative=derivative)
    _call.report(_call.Compiled(march.size, None))

    def push(*operands: jax.Array) -> Sequence[jax.Array]:
        leaves, tangents = derivative.split(operands)

        def along(tangents: list[jax.Array]) -> Sequence[jax.Array]:
            return jax.ffi.ffi_call(name, text.shapes)(*leaves, *tangents)

        if all == count:
            return along(tangents)
        padded = [
            jnp.pad(x, [(0, blocks * count - all), *[(0, 0)] * (x.ndim - 1)]).reshape(blocks, count, *x.shape[1:])
            for x in tangents
        ]
        return [x.reshape(-1, *x.shape[2:])[:all] for x in jax.lax.map(along, padded)]

    return mlir.lower_fun(push, multiple_results=True)(ctx, *operands)


mlir.register_lowering(adjoint_p, _lower_adjoint, platform="cpu")
mlir.register_lowering(tangent_p, _lower_tangent, platform="cpu")
