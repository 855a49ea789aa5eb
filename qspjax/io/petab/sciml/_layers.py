"""The layers of the format, by the names that PyTorch gives them."""

import functools
from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_number, check_whole, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._convolution import Convolution, TransposedConvolution
from qspjax.io.petab.sciml._dense import Bilinear, Flatten, Identity, Linear
from qspjax.io.petab.sciml._dropout import AlphaDropout, Dropout
from qspjax.io.petab.sciml._functions import FUNCTIONS, WORDS
from qspjax.io.petab.sciml._layer import AbstractLayer, along
from qspjax.io.petab.sciml._normalisation import BatchNorm, InstanceNorm, LayerNorm
from qspjax.io.petab.sciml._pooling import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, LPPool, MaxPool


class Activation(AbstractLayer):
    """An activation function as a layer."""

    function: str = eqx.field(static=True)
    arguments: tuple[tuple[str, float | str | None], ...] = eqx.field(static=True)

    def __init__(self, function: str, *, key: Key | None = None, **arguments: float | str | None) -> None:
        """Check that the arguments are numbers."""
        for name, value in arguments.items():
            if name not in WORDS and value is not None and not isinstance(value, (int, float)):
                refuse(name, "be a number", value)
        self.function, self.arguments = function, tuple(arguments.items())

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return jnp.asarray(FUNCTIONS[self.function](x, **dict(self.arguments)))


class PReLU(AbstractLayer):
    """x where it is positive, elsewhere x times a weight, one for all or for each channel."""

    weight: Float[Array, " num_parameters"]

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, key: Key | None = None) -> None:
        """Check the arguments."""
        check_whole("num_parameters", num_parameters, 1)
        check_number("init", init)
        self.weight = jnp.full((num_parameters,), float(init))

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        slope = along(self.weight, min(1, x.ndim - 1), x.ndim) if self.weight.size > 1 else self.weight
        return jnp.where(x > 0, x, slope * x)


_ALONG_AXES: Mapping[str, Callable[..., AbstractLayer]] = {
    "Conv": Convolution,
    "ConvTranspose": TransposedConvolution,
    "MaxPool": MaxPool,
    "AvgPool": AvgPool,
    "LPPool": LPPool,
    "AdaptiveMaxPool": AdaptiveMaxPool,
    "AdaptiveAvgPool": AdaptiveAvgPool,
    "BatchNorm": BatchNorm,
    "InstanceNorm": InstanceNorm,
    "Dropout": Dropout,
}
_ACTIVATIONS = {
    **{name: name.lower() for name in ("ReLU", "ReLU6", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Tanh")},
    **{name: name.lower() for name in ("Sigmoid", "Hardtanh", "Hardsigmoid", "Hardswish", "Softplus", "Softsign")},
    **{name: name.lower() for name in ("Tanhshrink", "Softshrink", "Hardshrink", "Threshold", "GLU", "Softmax")},
    **{"LeakyReLU": "leaky_relu", "LogSigmoid": "logsigmoid", "Softmin": "softmin", "LogSoftmax": "log_softmax"},
}
LAYERS: Mapping[str, Callable[..., AbstractLayer]] = {
    "Linear": Linear,
    "Bilinear": Bilinear,
    "Flatten": Flatten,
    "Identity": Identity,
    "LayerNorm": LayerNorm,
    "PReLU": PReLU,
    "Dropout": functools.partial(Dropout, 0),
    "AlphaDropout": functools.partial(AlphaDropout, False),
    "FeatureAlphaDropout": functools.partial(AlphaDropout, True),
    **{f"{name}{n}d": functools.partial(kind, n) for name, kind in _ALONG_AXES.items() for n in (1, 2, 3)},
    **{name: functools.partial(Activation, function) for name, function in _ACTIVATIONS.items()},
}
"""What makes each layer of its arguments in PyTorch and a key for its first weights."""
