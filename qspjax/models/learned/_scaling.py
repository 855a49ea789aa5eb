"""How the inputs of a term are scaled before it sees them, and what its outputs may be."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_above, check_finite, check_instance, check_number, refuse
from qspjax._types import Scalar

Sizes = float | tuple[float, ...]
"""A number, or one for each output."""


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a term: how it is scaled, and what the term must be in it.

    $$ z = x / s, \\qquad z = \\ln\\left(\\tfrac12 \\left(x / s + \\sqrt{(x / s)^2 + 4 \\epsilon^2}\\right)\\right)
       \\text{ if it is logarithmic} $$

    which is ln(x / s) where x is much larger than epsilon s, and smooth through 0, below which a solver may step.

    Args:
        size: The nominal size s, in the unit of the input: that of a typical value.
        logarithmic: Whether the term sees its logarithm, for inputs that vary over orders of magnitude.
        small: The fraction epsilon of the size below which a logarithmic input counts as none.
        increasing: Whether the term never decreases in it.
        decreasing: Whether the term never increases in it.
        zero: Whether the term is 0 where the input is 0: it is multiplied by x / (|x| + s), which is between 0 and 1,
            smooth, and proportional to a small x.

    Raises:
        ValueError: If a size is not positive, or the term would be increasing and decreasing.

    Example:
        >>> float(Input(10.0).scaled(5.0)), round(float(Input(10.0, logarithmic=True).scaled(100.0)), 4)
        (0.5, 2.3026)
    """

    size: float = 1.0
    _: dataclasses.KW_ONLY
    logarithmic: bool = False
    small: float = 1e-3
    increasing: bool = False
    decreasing: bool = False
    zero: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "small"):
            check_number(name, getattr(self, name))
            check_above(name, getattr(self, name), 0.0)
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.increasing and self.decreasing:
            refuse("decreasing", "be False for a term that is increasing in the input", True)

    @property
    def sign(self) -> int:
        """1 if the term increases in the input, -1 if it decreases, else 0."""
        return int(self.increasing) - int(self.decreasing)

    def scaled(self, x: Scalar) -> jax.Array:
        """Return what the term sees of a value."""
        u = jnp.asarray(x, float) / self.size
        return jnp.arcsinh(u / (2.0 * self.small)) + math.log(self.small) if self.logarithmic else u

    def share(self, x: Scalar) -> jax.Array:
        """Return the factor that is 0 where the input is 0."""
        x = jnp.asarray(x, float)
        return x / (jnp.abs(x) + self.size)


class AbstractRange(abc.ABC):
    """What the outputs of a term may be; it never decreases in what it is made of.

    Example:
        >>> isinstance(Positive(0.1), AbstractRange)
        True
    """

    @abc.abstractmethod
    def __call__(self, raw: jax.Array) -> jax.Array:
        """Return outputs from numbers without bounds."""

    @abc.abstractmethod
    def least(self) -> float:
        """Return the smallest value that an output may have."""

    @abc.abstractmethod
    def most(self) -> float:
        """Return the largest value that an output may have."""


@dataclasses.dataclass(frozen=True)
class Unbounded(AbstractRange):
    """Outputs that may be anything.

    $$ f = s \\, r $$

    with the raw value r of a network.

    Args:
        size: The nominal size s, in the unit of the output; a sequence has one for each output.

    Example:
        >>> float(Unbounded(10.0)(jax.numpy.array(0.5)))
        5.0
    """

    size: Sizes = 1.0

    def __post_init__(self) -> None:
        _check_sizes("size", self)

    def __call__(self, raw: jax.Array) -> jax.Array:
        return jnp.multiply(np.asarray(self.size), raw)

    def least(self) -> float:
        return -math.inf

    def most(self) -> float:
        return math.inf


@dataclasses.dataclass(frozen=True)
class Positive(AbstractRange):
    """Outputs that are positive.

    $$ f = s \\ln(1 + (e - 1) e^r) $$

    so that a network that returns 0 means the nominal size s.

    Args:
        size: The nominal size s, in the unit of the output; a sequence has one for each output.

    Example:
        >>> round(float(Positive(0.1)(jax.numpy.array(0.0))), 12)
        0.1
    """

    size: Sizes = 1.0

    def __post_init__(self) -> None:
        _check_sizes("size", self)

    def __call__(self, raw: jax.Array) -> jax.Array:
        return jnp.multiply(np.asarray(self.size), jax.nn.softplus(raw + math.log(math.e - 1.0)))

    def least(self) -> float:
        return 0.0

    def most(self) -> float:
        return math.inf


@dataclasses.dataclass(frozen=True)
class Bounded(AbstractRange):
    """Outputs between two bounds.

    $$ f = a + (b - a) / (1 + e^{-r}) $$

    Args:
        low: The bound a, in the unit of the output; a sequence has one for each output.
        high: The bound b.

    Raises:
        ValueError: If the upper bound is not above the lower one.

    Example:
        >>> float(Bounded(0.0, 3.0)(jax.numpy.array(0.0)))
        1.5
    """

    low: Sizes
    high: Sizes

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            check_number(name, getattr(self, name))
            object.__setattr__(self, name, _plain(getattr(self, name)))
            check_finite(name, getattr(self, name))
        if not np.all(np.asarray(self.low) < np.asarray(self.high)):
            refuse("high", f"be above `low` ({self.low})", self.high)

    def __call__(self, raw: jax.Array) -> jax.Array:
        low, high = np.asarray(self.low), np.asarray(self.high)
        return jnp.add(low, jnp.multiply(high - low, jax.nn.sigmoid(raw)))

    def least(self) -> float:
        return float(np.min(self.low))

    def most(self) -> float:
        return float(np.max(self.high))


def _check_sizes(name: str, of: object) -> None:
    """Check that a nominal size is positive, and keep it as a number or a tuple."""
    size = getattr(of, name)
    check_number(name, size)
    check_above(name, size, 0.0)
    object.__setattr__(of, name, _plain(size))


def _plain(size: object) -> Sizes:
    array = np.asarray(size, float)
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def named_inputs(argument: str, inputs: object) -> tuple[tuple[str, ...], tuple[Input, ...]]:
    """Return the names of inputs and how each is scaled.

    Args:
        argument: What the user calls them.
        inputs: Names, or by name an `Input` or its nominal size.

    Raises:
        ValueError: If there are none, or one is neither.
    """
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        refuse(argument, 'be names of inputs, such as ["drug"], or a dict of `Input` by name', inputs)
    table = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(inputs, 1.0)
    if not table or (not isinstance(inputs, Mapping) and len(table) != len(tuple(inputs))):
        refuse(argument, "be at least one name, each once", [*inputs])
    for name, value in table.items():
        check_instance(argument, name, str, "names of inputs")
        if not isinstance(value, (int, float, np.integer, np.floating, Input)):
            refuse(name, "be an Input or its nominal size", value if isinstance(value, str) else type(value).__name__)
    scales = (value if isinstance(value, Input) else Input(float(value)) for value in table.values())
    return tuple(table), tuple(scales)


def check_range(scales: Sequence[Input], names: Sequence[str], output: AbstractRange) -> None:
    """Check that what is asked of a term can be at once.

    Raises:
        ValueError: If bounds leave out the 0 that the term must have, or a factor would undo that it is monotone.
    """
    check_instance("output", output, AbstractRange, "Unbounded, Positive or Bounded")
    for name, scale in zip(names, scales, strict=True):
        if scale.zero and not output.least() <= 0.0 <= output.most():
            refuse("output", f"allow 0 for a term that is 0 where `{name}` is", output)
    signs = [scale.sign for scale in scales]
    if any(scale.zero for scale in scales) and any(signs):
        decreasing = [name for name, scale in zip(names, scales, strict=True) if scale.zero and scale.decreasing]
        if decreasing:
            refuse(decreasing[0], "not be where a decreasing term is 0", "both `decreasing` and `zero`")
        if output.least() < 0.0:
            refuse("output", "be Positive, or Bounded by 0, for a monotone term that is 0 somewhere", output)


def finished(scales: Sequence[Input], output: AbstractRange, raw: jax.Array, inputs: Sequence[Scalar]) -> jax.Array:
    """Return the outputs of a term from numbers without bounds."""
    value = output(raw)
    for scale, x in zip(scales, inputs, strict=True):
        value = value * scale.share(x) if scale.zero else value
    return value


def check_count(inputs: Sequence[object], names: Sequence[str]) -> None:
    """Check that a term is called with as many numbers as it has inputs."""
    if len(inputs) != len(names):
        refuse("inputs", f"be {len(names)} ({', '.join(names)})", len(inputs))
