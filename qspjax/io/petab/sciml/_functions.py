"""Functions and methods of tensors, by the names that PyTorch gives them, with its arguments and defaults."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array

from qspjax._checks import check_one_of, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._dense import flattened
from qspjax.io.petab.sciml._dropout import Dropout
from qspjax.io.petab.sciml._pooling import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, LPPool, MaxPool

Number = float | Array


# --- activations ----------------------------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return jax.nn.relu(x)


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0.0, 6.0)


def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """x, but no less than `min_val` and no more than `max_val`."""
    return jnp.clip(x, min_val, max_val)


def hardsigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6."""
    return jnp.clip(x + 3.0, 0.0, 6.0) / 6.0


def hardswish(x: Array) -> Array:
    """Return x relu6(x + 3) / 6."""
    return x * hardsigmoid(x)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """Return x where it is positive, alpha (exp(x) - 1) elsewhere."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x)))


def selu(x: Array) -> Array:
    """elu, scaled such that mean 0 and variance 1 are kept, doi:10.48550/arXiv.1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def celu(x: Array, alpha: float = 1.0) -> Array:
    """Return x where it is positive, alpha (exp(x / alpha) - 1) elsewhere."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x) / alpha))


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """Return x where it is positive, `negative_slope` x elsewhere."""
    return jnp.where(x > 0, x, negative_slope * x)


def gelu(x: Array, approximate: str = "none") -> Array:
    """Return x Phi(x), with the normal distribution function Phi or an approximation of it by tanh."""
    check_one_of("approximate", approximate, ("none", "tanh"), "a way to compute gelu")
    if approximate == "tanh":
        return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def silu(x: Array) -> Array:
    """Return x / (1 + exp(-x))."""
    return x * jax.nn.sigmoid(x)


def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + exp(beta x)) / beta, and x where beta x is above `threshold`."""
    linear = beta * x > threshold
    return jnp.where(linear, x, jax.nn.softplus(jnp.where(linear, 0.0, beta * x)) / beta)


def mish(x: Array) -> Array:
    """Return x tanh(log(1 + exp(x)))."""
    return x * jnp.tanh(jax.nn.softplus(x))


def logsigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x)))."""
    return -jax.nn.softplus(-x)


def softsign(x: Array) -> Array:
    """Return x / (1 + |x|)."""
    return x / (1.0 + jnp.abs(x))


def tanhshrink(x: Array) -> Array:
    """Return x - tanh(x)."""
    return x - jnp.tanh(x)


def softshrink(x: Array, lambd: float = 0.5) -> Array:
    """x, nearer to 0 by `lambd`, and 0 within."""
    return jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0.0))


def hardshrink(x: Array, lambd: float = 0.5) -> Array:
    """x, and 0 where it is within `lambd` of 0."""
    return jnp.where(jnp.abs(x) > lambd, x, 0.0)


def threshold(x: Array, threshold: float, value: float) -> Array:
    """Return x where it is above `threshold`, `value` elsewhere."""
    return jnp.where(x > threshold, x, value)


def glu(x: Array, dim: int = -1) -> Array:
    """The first half along an axis, times the logistic function of the second."""
    first, second = jnp.split(x, 2, dim)
    return first * jax.nn.sigmoid(second)


def softmax(x: Array, dim: int | None = None) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    return jax.nn.softmax(x, _axis(x, dim))


def softmin(x: Array, dim: int | None = None) -> Array:
    """exp(-x) / sum(exp(-x)) along an axis."""
    return jax.nn.softmax(-x, _axis(x, dim))


def log_softmax(x: Array, dim: int | None = None) -> Array:
    """The logarithm of softmax."""
    return jax.nn.log_softmax(x, _axis(x, dim))


def _axis(x: Array, dim: int | None) -> int:
    """Return the axis that PyTorch takes where none is named."""
    return dim if dim is not None else 0 if x.ndim in (0, 1, 3) else 1


# --- arithmetic -----------------------------------------------------------------------------------------------------


def add(x: Number, other: Number, alpha: float = 1.0) -> Number:
    """Return x + alpha other."""
    return x + (other if alpha == 1.0 else alpha * other)


def sub(x: Number, other: Number, alpha: float = 1.0) -> Number:
    """Return x - alpha other."""
    return x - (other if alpha == 1.0 else alpha * other)


def clamp(x: Array, min: Number | None = None, max: Number | None = None) -> Array:
    """x, but no less than `min` and no more than `max`."""
    return jnp.clip(x, min, max)


def total(x: Array, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Array:
    """The sum, of all numbers or along axes."""
    return jnp.sum(x, _axes(dim), keepdims=keepdim)


def mean(x: Array, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Array:
    """The mean, of all numbers or along axes."""
    return jnp.mean(x, _axes(dim), keepdims=keepdim)


def _axes(dim: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    return tuple(dim) if isinstance(dim, (list, tuple)) else dim  # pyright: ignore[reportReturnType]


# --- shapes ---------------------------------------------------------------------------------------------------------


def cat(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Several arrays, one after the other along an axis."""
    return jnp.concatenate([*tensors], dim)


def stack(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Several arrays along a new axis."""
    return jnp.stack([*tensors], dim)


def flatten(x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Several axes as one, in row-major order."""
    return flattened(x, start_dim, end_dim)


def reshape(x: Array, *shape: int | Sequence[int]) -> Array:
    """The same numbers, in row-major order, with other axes."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (list, tuple)) else shape
    return jnp.reshape(x, tuple(sizes))  # pyright: ignore[reportArgumentType]


def permute(x: Array, *dims: int | Sequence[int]) -> Array:
    """The same array with its axes in another order."""
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (list, tuple)) else dims
    return jnp.transpose(x, tuple(order))  # pyright: ignore[reportArgumentType]


def transpose(x: Array, dim0: int, dim1: int) -> Array:
    """The same array with two axes exchanged."""
    return jnp.swapaxes(x, dim0, dim1)


def squeeze(x: Array, dim: int | Sequence[int] | None = None) -> Array:
    """The same array without axes of size 1: all of them, or those named that are."""
    if dim is None:
        return jnp.squeeze(x)
    dims = dim if isinstance(dim, (list, tuple)) else (dim,)
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))  # pyright: ignore[reportCallIssue, reportArgumentType]


def unsqueeze(x: Array, dim: int) -> Array:
    """The same array with a new axis of size 1."""
    return jnp.expand_dims(x, dim)


def getitem(x: Array, index: int | Sequence[int]) -> Array:
    """An element, or a part along the first axes."""
    position = tuple(index) if isinstance(index, (list, tuple)) else (index,)
    for i, size in zip(position, jnp.shape(x), strict=False):
        if not isinstance(i, int) or not -size <= i < size:
            refuse("index", f"be a whole number below {size}", i)
    return x[position]


def same(x: Array) -> Array:
    """The array itself."""
    return x


# --- dropping numbers -----------------------------------------------------------------------------------------------


def _dropping(axes: int) -> Callable[..., Array]:
    def dropout(x: Array, p: float = 0.5, training: bool = True, *, key: Key | None) -> Array:
        return Dropout(axes, p)(x, key=key if training else None)

    return dropout


RANDOM: Mapping[str, Callable[..., Array]] = {
    "dropout": _dropping(0),
    **{f"dropout{axes}d": _dropping(axes) for axes in (1, 2, 3)},
}
"""Functions that take a key."""
FUNCTIONS: Mapping[str, Callable[..., Array | Number]] = {
    **{f.__name__: f for f in (relu, relu6, hardtanh, hardsigmoid, hardswish, elu, selu, celu, leaky_relu, gelu)},
    **{f.__name__: f for f in (silu, softplus, mish, logsigmoid, softsign, tanhshrink, softshrink, hardshrink)},
    **{f.__name__: f for f in (threshold, glu, softmax, softmin, log_softmax, add, sub, clamp, mean)},
    **{f.__name__: f for f in (cat, stack, flatten, reshape, permute, transpose, squeeze, unsqueeze, getitem)},
    **RANDOM,
    "log_sigmoid": logsigmoid,
    "tanh": lambda input: jnp.tanh(input),
    "sigmoid": lambda input: jax.nn.sigmoid(input),
    "exp": lambda input: jnp.exp(input),
    "log": lambda input: jnp.log(input),
    "log1p": lambda input: jnp.log1p(input),
    "sqrt": lambda input: jnp.sqrt(input),
    "square": lambda input: input * input,
    "sin": lambda input: jnp.sin(input),
    "cos": lambda input: jnp.cos(input),
    "abs": lambda input: jnp.abs(input),
    "neg": lambda input: -input,
    "mul": lambda input, other: input * other,
    "truediv": lambda input, other: input / other,
    "div": lambda input, other: input / other,
    "pow": lambda input, exponent: input**exponent,
    "matmul": lambda input, other: jnp.matmul(input, other),
    "maximum": lambda input, other: jnp.maximum(input, other),
    "minimum": lambda input, other: jnp.minimum(input, other),
    "t": lambda input: jnp.transpose(input),
    "sum": total,
    "clip": clamp,
    "view": reshape,
    "concat": cat,
    "contiguous": same,
    "clone": same,
    "identity": same,
    **{
        f"{name}{axes}d": lambda input, *args, _kind=kind, _axes=axes, **kwargs: _kind(_axes, *args, **kwargs)(input)
        for name, kind in (
            ("max_pool", MaxPool),
            ("avg_pool", AvgPool),
            ("lp_pool", LPPool),
            ("adaptive_max_pool", AdaptiveMaxPool),
            ("adaptive_avg_pool", AdaptiveAvgPool),
        )
        for axes in (1, 2, 3)
    },
}
"""Functions of `torch`, `torch.nn.functional` and `operator`, and methods of tensors."""

WORDS = frozenset(("approximate",))
"""The arguments whose values are words, not names of nodes."""
