"""A rate that is a spline of one input."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_number, concrete, refuse
from qspjax._types import Scalar
from qspjax.models.learned._contract import AbstractTerm
from qspjax.models.learned._neural import check_weights
from qspjax.models.learned._scaling import (
    AbstractRange,
    Input,
    Unbounded,
    check_count,
    check_range,
    finished,
    named_inputs,
)

LEAST = 4
"""The least number of coefficients of a cubic spline."""


class SplineRate(AbstractTerm):
    """A rate, or any other number of a model, that is a cubic spline of one input.

    $$ f(x) = g\\left(\\sum_k c_k B(u - k + 1)\\right), \\quad u = m (z - z_a) / (z_b - z_a) $$

    with the scaled input z (`Input`), m equal intervals between a and b, the cubic B-spline B and the coefficients c,
    three more than intervals; outside a to b it goes on as a straight line. A term that increases has coefficients
    c_0 + sum_j softplus(w_j): a B-spline with increasing coefficients increases.

    Args:
        inputs: The name of its input, `["drug"]`, or by name an `Input` or its nominal size.
        between: The values a and b of the input.
        coefficients: The weights c (or c_0 and w), shape (coefficients,); or how many, of a term that starts flat.
        output: What the output may be.
        unit: The unit of the output.

    Raises:
        ValueError: If there is more than one input, the ends are not in order, or there are fewer than 4 coefficients.

    Reference: de Boor 1978, A practical guide to splines; Ramsay 1988, doi:10.1214/ss/1177012761, on monotone ones.

    Example:
        >>> import jax.numpy as jnp
        >>> from qspjax.models import SplineRate
        >>> line = SplineRate(["drug"], between=(0.0, 10.0), coefficients=jnp.arange(-1.0, 7.0))
        >>> [round(float(line(x)), 6) for x in (0.0, 5.0, 12.0)]
        [0.0, 2.5, 6.0]
    """

    coefficients: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)
    scales: tuple[Input, ...] = eqx.field(static=True)
    between: tuple[float, float] = eqx.field(static=True)
    output: AbstractRange = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: Sequence[str] | Mapping[str, Input | float],
        *,
        between: tuple[float, float],
        coefficients: int | jax.Array | np.ndarray = 8,
        output: AbstractRange = Unbounded(),  # noqa: B008 - immutable
        unit: str = "",
    ) -> None:
        """Check the ends and the coefficients."""
        self.names, self.scales = named_inputs("inputs", inputs)
        if len(self.names) != 1:
            refuse("inputs", "be one for a spline", len(self.names))
        ends = np.asarray(between, float)
        if ends.shape != (2,) or not np.isfinite(ends).all() or ends[0] >= ends[1]:
            refuse("between", "be the two ends of the spline, in order", between)
        check_range(self.scales, self.names, output)
        self.inputs, self.outputs, self.output, self.unit = 1, None, output, unit
        self.between = (float(ends[0]), float(ends[1]))
        check_number("coefficients", coefficients)
        many = int(coefficients) if isinstance(coefficients, (int, np.integer)) else 0
        self.coefficients = jnp.zeros(many) if many else jnp.asarray(coefficients, float)
        if self.coefficients.ndim != 1 or len(self.coefficients) < LEAST:
            actual = coefficients if concrete(coefficients) is None or many else f"of shape {np.shape(coefficients)}"
            refuse("coefficients", f"be at least {LEAST}", actual)
        check_weights("coefficients", self.coefficients)

    def __call__(self, *inputs: Scalar) -> Scalar:
        """Return the output at the input."""
        check_count(inputs, self.names)
        (scale,) = self.scales
        a, b = (scale.scaled(end) for end in self.between)
        c = self._effective()
        last = len(c) - 3
        u = last * (scale.scaled(inputs[0]) - a) / (b - a)
        inside = jnp.clip(u, 0.0, float(last))
        raw = jnp.sum(c * _cubic(inside - (np.arange(len(c)) - 1.0)))
        raw = raw + jnp.minimum(u, 0.0) * (c[2] - c[0]) / 2.0 + jnp.maximum(u - last, 0.0) * (c[-1] - c[-3]) / 2.0
        return finished(self.scales, self.output, raw, inputs)

    def _effective(self) -> jax.Array:
        """Return the coefficients of the B-splines."""
        sign = self.scales[0].sign
        if sign == 0:
            return self.coefficients
        steps = jnp.cumsum(jax.nn.softplus(self.coefficients[1:])) / len(self.coefficients)
        return self.coefficients[0] + sign * jnp.concatenate([jnp.zeros(1), steps])


def _cubic(v: jax.Array) -> jax.Array:
    """Return the cubic B-spline of unit intervals, centred at 0."""
    distance = jnp.abs(v)
    outer, inner = jnp.maximum(2.0 - distance, 0.0), jnp.maximum(1.0 - distance, 0.0)
    return outer**3 / 6.0 - 4.0 * inner**3 / 6.0
