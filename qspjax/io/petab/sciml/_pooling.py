"""Layers that summarise windows of points: their largest value, their mean, a norm."""

import abc
import dataclasses
import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from qspjax._checks import check_number, check_whole, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._layer import AbstractLayer, Sizes, check_dimension, check_false, check_flag, product, sizes


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows along an axis.

    Attributes:
        index: The points of each window.
        inside: Which of them count; others lie beyond the edge.
        counted: How many numbers a mean is taken of.
    """

    index: Int[np.ndarray, "windows points"]
    inside: Bool[np.ndarray, "windows points"]
    counted: Int[np.ndarray, " windows"]

    @classmethod
    def of(
        cls, size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, *, ceil_mode: bool = False
    ) -> "Windows":
        """Return windows of the same size at the same distances; what is padded is counted."""
        extent = size + 2 * padding - dilation * (kernel - 1) - 1
        if extent < 0:
            refuse("input", f"have at least {kernel} points for a window, with padding", size)
        number = (math.ceil(extent / stride) if ceil_mode else extent // stride) + 1
        if ceil_mode and (number - 1) * stride >= size + padding:  # the last window begins in the padding at the right
            number -= 1
        start = np.arange(number)[:, None] * stride - padding
        position = start + np.arange(kernel) * dilation
        inside = (position >= 0) & (position < size)
        return cls(position.clip(0, size - 1), inside, (position < size + padding).sum(1))

    @classmethod
    def adaptive(cls, size: int, number: int) -> "Windows":
        """Return a number of windows that cover an axis."""
        start = np.arange(number) * size // number
        stop = -(-(np.arange(1, number + 1) * size) // number)
        position = start[:, None] + np.arange(max((stop - start).max(initial=1), 1))
        return cls(position.clip(0, max(size - 1, 0)), position < stop[:, None], stop - start)

    def without_padding(self) -> "Windows":
        """Return windows of which nothing beyond the edge is counted."""
        return dataclasses.replace(self, counted=self.inside.sum(1))


def _gathered(x: Array, windows: Sequence[Windows], outside: float) -> Array:
    """Return the points of each window along the last axis, `outside` in place of those beyond the edge."""
    axes = len(windows)
    batch = x.ndim - axes
    inside = np.ones((), bool)
    for i, window in enumerate(windows):
        x = jnp.take(x, window.index, axis=batch + 2 * i)
        inside = inside[..., None, None] & window.inside
    x = jnp.where(inside, x, outside)
    order = [*range(batch), *(batch + 2 * i for i in range(axes)), *(batch + 2 * i + 1 for i in range(axes))]
    x = x.transpose(order)
    return x.reshape(*x.shape[: batch + axes], -1)


def _largest(x: Array, windows: Sequence[Windows]) -> Array:
    return _gathered(x, windows, -jnp.inf).max(-1)


def _mean(x: Array, windows: Sequence[Windows], divisor: int | None = None) -> Array:
    counted = np.ones(())
    for window in windows:
        counted = counted[..., None] * window.counted
    return _gathered(x, windows, 0.0).sum(-1) / (counted if divisor is None else divisor)


class AbstractPooling(AbstractLayer):
    """A layer that summarises windows."""

    @abc.abstractmethod
    def windows(self, size: Sizes) -> list[Windows]:
        """Return the windows along each axis of space."""


class MaxPool(AbstractPooling):
    """The largest value of each window."""

    kernel_size: Sizes = eqx.field(static=True)
    stride: Sizes = eqx.field(static=True)
    padding: Sizes = eqx.field(static=True)
    dilation: Sizes = eqx.field(static=True)
    ceil_mode: bool = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        kernel_size: int | Sizes,
        stride: int | Sizes | None = None,
        padding: int | Sizes = 0,
        dilation: int | Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        check_false("return_indices", return_indices)
        check_flag("ceil_mode", ceil_mode)
        self.kernel_size = sizes("kernel_size", kernel_size, axes)
        self.stride = self.kernel_size if stride is None else sizes("stride", stride, axes)
        self.padding, self.dilation = sizes("padding", padding, axes, 0), sizes("dilation", dilation, axes)
        self.ceil_mode = ceil_mode
        _check_padding(self.padding, self.kernel_size)

    def windows(self, size: Sizes) -> list[Windows]:
        arguments = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return [Windows.of(*numbers, ceil_mode=self.ceil_mode) for numbers in arguments]

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return _largest(x, self.windows(_space(x, len(self.kernel_size))))


class AvgPool(AbstractPooling):
    """The mean of each window."""

    kernel_size: Sizes = eqx.field(static=True)
    stride: Sizes = eqx.field(static=True)
    padding: Sizes = eqx.field(static=True)
    ceil_mode: bool = eqx.field(static=True)
    count_include_pad: bool = eqx.field(static=True)
    divisor_override: int | None = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        kernel_size: int | Sizes,
        stride: int | Sizes | None = None,
        padding: int | Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        check_flag("ceil_mode", ceil_mode)
        check_flag("count_include_pad", count_include_pad)
        if divisor_override is not None:
            check_whole("divisor_override", divisor_override, 1)
        self.kernel_size = sizes("kernel_size", kernel_size, axes)
        self.stride = self.kernel_size if stride is None else sizes("stride", stride, axes)
        self.padding, self.ceil_mode = sizes("padding", padding, axes, 0), ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        _check_padding(self.padding, self.kernel_size)

    def windows(self, size: Sizes) -> list[Windows]:
        arguments = zip(size, self.kernel_size, self.stride, self.padding, strict=True)
        windows = [Windows.of(*numbers, ceil_mode=self.ceil_mode) for numbers in arguments]
        return windows if self.count_include_pad else [window.without_padding() for window in windows]

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return _mean(x, self.windows(_space(x, len(self.kernel_size))), self.divisor_override)


class LPPool(AbstractPooling):
    """A norm of each window.

    $$ y = (\\sum_i x_i^p)^{1/p} $$
    """

    norm_type: float = eqx.field(static=True)
    kernel_size: Sizes = eqx.field(static=True)
    stride: Sizes = eqx.field(static=True)
    ceil_mode: bool = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        norm_type: float,
        kernel_size: int | Sizes,
        stride: int | Sizes | None = None,
        ceil_mode: bool = False,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        check_number("norm_type", norm_type)
        if norm_type == 0:
            refuse("norm_type", "be a number other than 0", norm_type)
        check_flag("ceil_mode", ceil_mode)
        self.norm_type, self.ceil_mode = norm_type, ceil_mode
        self.kernel_size = sizes("kernel_size", kernel_size, axes)
        self.stride = self.kernel_size if stride is None else sizes("stride", stride, axes)

    def windows(self, size: Sizes) -> list[Windows]:
        arguments = zip(size, self.kernel_size, self.stride, strict=True)
        return [Windows.of(*numbers, ceil_mode=self.ceil_mode) for numbers in arguments]

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        total = product(self.kernel_size) * _mean(x**self.norm_type, self.windows(_space(x, len(self.kernel_size))))
        return jnp.maximum(total, 0.0) ** (1.0 / self.norm_type)


class AdaptiveMaxPool(AbstractPooling):
    """The largest value of each of a number of windows that cover an axis."""

    output_size: tuple[int | None, ...] = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        output_size: int | None | Sequence[int | None],
        return_indices: bool = False,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        check_false("return_indices", return_indices)
        self.output_size = _output_sizes(output_size, axes)

    def windows(self, size: Sizes) -> list[Windows]:
        return _covering(size, self.output_size)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return _largest(x, self.windows(_space(x, len(self.output_size))))


class AdaptiveAvgPool(AbstractPooling):
    """The mean of each of a number of windows that cover an axis."""

    output_size: tuple[int | None, ...] = eqx.field(static=True)

    def __init__(self, axes: int, output_size: int | None | Sequence[int | None], *, key: Key | None = None) -> None:
        """Check the arguments."""
        self.output_size = _output_sizes(output_size, axes)

    def windows(self, size: Sizes) -> list[Windows]:
        return _covering(size, self.output_size)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return _mean(x, self.windows(_space(x, len(self.output_size))))


def _space(x: Array, axes: int) -> Sizes:
    check_dimension("input", x, (axes + 1, axes + 2))
    return x.shape[x.ndim - axes :]


def _covering(size: Sizes, numbers: Sequence[int | None]) -> list[Windows]:
    return [Windows.adaptive(s, s if n is None else n) for s, n in zip(size, numbers, strict=True)]


def _output_sizes(output_size: int | None | Sequence[int | None], axes: int) -> tuple[int | None, ...]:
    several = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * axes
    if len(several) != axes:
        refuse("output_size", f"be one number or {axes}", output_size)
    for size in several:
        if size is not None:
            check_whole("output_size", size, 1)
    return several


def _check_padding(padding: Sizes, kernel: Sizes) -> None:
    for p, k in zip(padding, kernel, strict=True):
        if 2 * p > k:
            refuse("padding", f"be at most half of kernel_size, which is {k}", p)
