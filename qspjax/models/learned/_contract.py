"""What a part of a model that is learned from data says of itself."""

import abc

import equinox as eqx

from qspjax._types import Scalar


class AbstractTerm(eqx.Module):
    """A term: a function of numbers that is learned from data, a part of a model like any other.

    $$ f_\theta(x_1, ..., x_n) $$

    Its weights are its floating-point arrays; what is fixed (scales, bounds) is static, and no weight. A term is
    differentiable in its inputs and in its weights, and works under `jit` and `vmap`.

    Attributes:
        inputs: The number of its inputs.
        outputs: The number of its outputs if it returns a vector, None if it returns one number.
        unit: The unit of what it returns, `""` if it is not known.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import qspjax as qsp
        >>> class Saturation(qsp.models.AbstractTerm):
        ...     most: jax.Array
        ...     half: jax.Array
        ...     inputs: int = eqx.field(static=True, default=1)
        ...
        ...     def __call__(self, drug):
        ...         return self.most * drug / (self.half + drug)
        >>> network = qsp.models.Network(
        ...     species={"drug": 10.0},
        ...     reactions={"loss": qsp.models.Reaction("drug ->", "uptake(drug)")},
        ...     functions={"uptake": Saturation(jax.numpy.array(2.0), jax.numpy.array(5.0))},
        ... )
        >>> print(network.equations())
        drug' = -loss
        loss = uptake_theta(drug)
    """

    inputs: eqx.AbstractVar[int]
    outputs: int | None = eqx.field(static=True, default=None, kw_only=True)
    unit: str = eqx.field(static=True, default="", kw_only=True)

    @abc.abstractmethod
    def __call__(self, *inputs: Scalar) -> Scalar:
        """Return the value of the term: a number, or a vector of shape (outputs,)."""
