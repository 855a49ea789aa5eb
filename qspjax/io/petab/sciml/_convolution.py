"""Convolutions and their transposes, along one to three axes of space."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_one_of, check_whole, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._layer import (
    AbstractLayer,
    Sizes,
    along,
    check_dimension,
    check_flag,
    product,
    sizes,
    uniform,
)

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""How PyTorch and numpy call the values beyond the edge."""


class AbstractConvolution(AbstractLayer):
    """The weights and arguments of a convolution, along any number of axes."""

    weight: eqx.AbstractVar[Float[Array, "..."]]
    bias: eqx.AbstractVar[Float[Array, " out_channels"] | None]


class Convolution(AbstractConvolution):
    """A convolution (in truth a cross-correlation) of the channels of each point with those of points around it."""

    weight: Float[Array, "out_channels in_channels_of_group *kernel"]
    bias: Float[Array, " out_channels"] | None
    stride: Sizes = eqx.field(static=True)
    padding: tuple[tuple[int, int], ...] = eqx.field(static=True)
    dilation: Sizes = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    padding_mode: str = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sizes,
        stride: int | Sizes = 1,
        padding: int | Sizes | str = 0,
        dilation: int | Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        key: Key,
    ) -> None:
        """Check the arguments; draw weights at random, as PyTorch does."""
        _check_channels(in_channels, out_channels, groups, bias)
        check_one_of("padding_mode", padding_mode, _MODES, "a way to pad")
        kernel = sizes("kernel_size", kernel_size, axes)
        self.stride, self.dilation = sizes("stride", stride, axes), sizes("dilation", dilation, axes)
        if isinstance(padding, str):
            check_one_of("padding", padding, ("valid", "same"), "a way to pad")
            if padding == "same" and any(step != 1 for step in self.stride):
                refuse("padding", "be numbers where the stride is not 1", padding)
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(self.dilation, kernel, strict=True)]
            self.padding = tuple((t // 2, t - t // 2) for t in total)
        else:
            self.padding = tuple((p, p) for p in sizes("padding", padding, axes, 0))
        self.groups, self.padding_mode = groups, padding_mode
        first, second = jax.random.split(key)
        shape = (out_channels, in_channels // groups, *kernel)
        self.weight = uniform(first, shape, product(shape[1:]))
        self.bias = uniform(second, (out_channels,), product(shape[1:])) if bias else None

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        axes = self.weight.ndim - 2
        check_dimension("input", x, (axes + 1, axes + 2), self.weight.shape[1] * self.groups)
        padding = self.padding
        if self.padding_mode != "zeros":
            x = jnp.pad(x, [(0, 0)] * (x.ndim - axes) + [*padding], _MODES[self.padding_mode])
            padding = ((0, 0),) * axes
        y = jax.lax.conv_general_dilated(
            x if x.ndim == axes + 2 else x[None],
            self.weight,
            self.stride,
            padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )
        y = y if self.bias is None else y + along(self.bias, 1, y.ndim)
        return y if x.ndim == axes + 2 else y[0]


class TransposedConvolution(AbstractConvolution):
    """The transpose of a convolution, which spreads the channels of each point over points around it."""

    weight: Float[Array, "in_channels out_channels_of_group *kernel"]
    bias: Float[Array, " out_channels"] | None
    stride: Sizes = eqx.field(static=True)
    padding: Sizes = eqx.field(static=True)
    output_padding: Sizes = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    dilation: Sizes = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sizes,
        stride: int | Sizes = 1,
        padding: int | Sizes = 0,
        output_padding: int | Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sizes = 1,
        padding_mode: str = "zeros",
        *,
        key: Key,
    ) -> None:
        """Check the arguments; draw weights at random, as PyTorch does."""
        _check_channels(in_channels, out_channels, groups, bias)
        check_one_of("padding_mode", padding_mode, ("zeros",), "a way to pad")
        kernel = sizes("kernel_size", kernel_size, axes)
        self.stride, self.dilation = sizes("stride", stride, axes), sizes("dilation", dilation, axes)
        self.padding, self.groups = sizes("padding", padding, axes, 0), groups
        self.output_padding = sizes("output_padding", output_padding, axes, 0)
        for more, step, spread in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(step, spread):
                refuse("output_padding", "be less than the stride or the dilation", more)
        first, second = jax.random.split(key)
        shape = (in_channels, out_channels // groups, *kernel)
        self.weight = uniform(first, shape, product(shape[1:]))
        self.bias = uniform(second, (out_channels,), product(shape[1:])) if bias else None

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        axes, (inputs, outputs, *kernel) = self.weight.ndim - 2, self.weight.shape
        check_dimension("input", x, (axes + 1, axes + 2), inputs)
        spread = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
        weight = self.weight.reshape(self.groups, inputs // self.groups, outputs, *kernel).swapaxes(1, 2)
        y = jax.lax.conv_general_dilated(
            x if x.ndim == axes + 2 else x[None],
            jnp.flip(weight.reshape(self.groups * outputs, inputs // self.groups, *kernel), range(2, axes + 2)),
            (1,) * axes,
            [(s - p, s - p + more) for s, p, more in zip(spread, self.padding, self.output_padding, strict=True)],
            lhs_dilation=self.stride,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )
        y = y if self.bias is None else y + along(self.bias, 1, y.ndim)
        return y if x.ndim == axes + 2 else y[0]


def _check_channels(in_channels: object, out_channels: object, groups: object, bias: object) -> None:
    for name, value in (("groups", groups), ("in_channels", in_channels), ("out_channels", out_channels)):
        check_whole(name, value, 1)
        if value % groups:  # pyright: ignore[reportOperatorIssue]
            refuse(name, f"be a multiple of groups, which is {groups}", value)
    check_flag("bias", bias)
