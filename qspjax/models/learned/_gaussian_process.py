"""A rate that is a Gaussian process."""

import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from qspjax._checks import check_above, check_number, check_whole, refuse
from qspjax._types import Scalar
from qspjax.models.learned._contract import AbstractTerm
from qspjax.models.learned._scaling import (
    AbstractRange,
    Input,
    Unbounded,
    check_count,
    check_range,
    finished,
    named_inputs,
)


class GaussianProcessRate(AbstractTerm):
    """A rate, or any other number of a model, that is a Gaussian process of its inputs, by random Fourier features.

    $$ f(x) = g\\left(\\sigma \\sqrt{2 / D} \\sum_{d=1}^D w_d \\cos(\\omega_d \\cdot z + b_d)\\right), \\quad
       w_d \\sim N(0, 1) $$

    with the scaled inputs z (`Input`), frequencies omega from the spectral density of the squared exponential kernel
    and phases b, both drawn once. With the prior N(0, 1) of its weights, `fit.Weights(prior=qsp.Normal(0.0, sd=1.0))`,
    the sum is a Gaussian process whose kernel is, up to an error of order D^-1/2,

    $$ k(z, z') = \\sigma^2 \\exp(-|z - z'|^2 / (2 l^2)) $$

    Args:
        inputs: The names of its inputs, or by name an `Input` or its nominal size.
        key: A key of `jax.random` for the frequencies and phases.
        lengthscale: The length l over which it changes, in scaled inputs (so 1 is the nominal size of an input, or a
            factor of e of a logarithmic one).
        deviation: The standard deviation sigma, before the range of the output.
        features: The number D of features.
        output: What the output may be.
        unit: The unit of the output.

    Attributes:
        weights: The weights w, shape (features,); 0 at the start.

    Raises:
        ValueError: If a length or a deviation is not positive, or an input is to be monotone.

    Reference: Rahimi and Recht 2007, Random features for large-scale kernel machines, Advances in Neural Information
    Processing Systems 20; Rasmussen and Williams 2006, Gaussian processes for machine learning.

    Example:
        >>> import jax
        >>> from qspjax.models import GaussianProcessRate, Positive
        >>> rate = GaussianProcessRate(["drug"], output=Positive(0.1), key=jax.random.key(0))
        >>> round(float(rate(2.0)), 6), rate.weights.shape
        (0.1, (64,))
    """

    weights: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)
    scales: tuple[Input, ...] = eqx.field(static=True)
    frequencies: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    phases: tuple[float, ...] = eqx.field(static=True)
    deviation: float = eqx.field(static=True)
    output: AbstractRange = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: Sequence[str] | Mapping[str, Input | float],
        *,
        key: PRNGKeyArray,
        lengthscale: float = 1.0,
        deviation: float = 1.0,
        features: int = 64,
        output: AbstractRange = Unbounded(),  # noqa: B008 - immutable
        unit: str = "",
    ) -> None:
        """Draw the frequencies and the phases."""
        self.names, self.scales = named_inputs("inputs", inputs)
        for name, value in (("lengthscale", lengthscale), ("deviation", deviation)):
            check_number(name, value)
            check_above(name, value, 0.0)
        check_whole("features", features, 1)
        check_range(self.scales, self.names, output)
        monotone = [name for name, scale in zip(self.names, self.scales, strict=True) if scale.sign]
        if monotone:
            refuse(monotone[0], "not be monotone for a Gaussian process: take a NeuralRate or a SplineRate", "monotone")
        self.inputs, self.outputs, self.output, self.unit = len(self.names), None, output, unit
        normal, uniform = jax.random.split(key)
        shape = (features, self.inputs)
        self.frequencies = tuple(map(tuple, (np.asarray(jax.random.normal(normal, shape)) / lengthscale).tolist()))
        self.phases = tuple(np.asarray(jax.random.uniform(uniform, (features,), maxval=2.0 * math.pi)).tolist())
        self.deviation = float(deviation)
        self.weights = jnp.zeros(features)

    def __call__(self, *inputs: Scalar) -> Scalar:
        """Return the output at inputs."""
        check_count(inputs, self.names)
        z = jnp.stack([scale.scaled(x) for scale, x in zip(self.scales, inputs, strict=True)])
        waves = jnp.cos(np.asarray(self.frequencies) @ z + np.asarray(self.phases))
        raw = self.deviation * math.sqrt(2.0 / len(self.phases)) * jnp.sum(self.weights * waves)
        return finished(self.scales, self.output, raw, inputs)
