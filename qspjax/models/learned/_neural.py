"""A rate that a neural network computes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from qspjax._checks import check_instance, check_whole, concrete, refuse
from qspjax._types import Scalar
from qspjax.models.learned._contract import AbstractTerm
from qspjax.models.learned._monotone import check_increasing_activation, monotone
from qspjax.models.learned._scaling import (
    AbstractRange,
    Input,
    Unbounded,
    check_count,
    check_range,
    finished,
    named_inputs,
)

if TYPE_CHECKING:
    from jaxtyping import Array


class NeuralRate(AbstractTerm):
    """A rate, or any other number of a model, that a neural network computes.

    $$ f(x_1, ..., x_n) = g(N(z_1, ..., z_n)) \\prod_{i \\in Z} \\frac{x_i}{|x_i| + s_i} $$

    with the scaled inputs z (`Input`), the network N, the range g of the output (`Unbounded`, `Positive`, `Bounded`),
    and the inputs Z where the term is 0. Where it must be monotone in an input, the weights on all paths from this
    input have one sign, and half of the units of each hidden layer have the activation turned around its origin, so
    that the network can bend both ways.

    In a rate law of a `Network` it is used by its name; `A -> B` with it moves mass and keeps it. In a model that is a
    class it is a field, called in `vector_field` or `observe`; what leaves one state and enters another with the same
    number is kept as well.

    Args:
        network: An equinox module that maps an array of shape (inputs,) to a number, or an array of shape (outputs,).
        inputs: The names of its inputs, in order, or by name an `Input` or its nominal size.
        output: What the output may be.
        unit: The unit of the output.

    Raises:
        ValueError: If the network does not take this number of inputs, its weights are not finite, or what is asked of
            it cannot be at once.

    Reference: monotone networks, Runje and Shankaranarayana 2023, arXiv:2205.11775; Sill 1998, Advances in Neural
    Information Processing Systems 10; rates in ordinary models, Rackauckas et al. 2020, arXiv:2001.04385.

    Example:
        >>> import jax
        >>> import qspjax as qsp
        >>> from qspjax.models import Input, Network, NeuralRate, Positive, Reaction
        >>> inputs = {"drug": Input(10.0, logarithmic=True, increasing=True), "target": 5.0}
        >>> uptake = NeuralRate.mlp(inputs, width=8, output=Positive(0.1), unit="1/h", key=jax.random.key(0))
        >>> network = Network(
        ...     species={"drug": 10.0, "target": 5.0, "inside": 0.0},
        ...     reactions={"entry": Reaction("drug -> inside", "uptake(drug, target) * drug")},
        ...     functions={"uptake": uptake},
        ... )
        >>> print(network.equations().rates[0])
        entry = uptake_theta(drug, target) * drug
        >>> solution = qsp.simulate(network, qsp.no_doses(), [0.0, 5.0])
        >>> float(solution.observed["drug"][1] + solution.observed["inside"][1]).__round__(6)
        10.0
    """

    network: eqx.Module
    names: tuple[str, ...] = eqx.field(static=True)
    scales: tuple[Input, ...] = eqx.field(static=True)
    output: AbstractRange = eqx.field(static=True)
    inputs: int = eqx.field(static=True)
    takes_number: bool = eqx.field(static=True)

    def __init__(
        self,
        network: eqx.Module,
        inputs: Sequence[str] | Mapping[str, Input | float],
        *,
        output: AbstractRange = Unbounded(),  # noqa: B008 - immutable
        unit: str = "",
    ) -> None:
        """Check the network and the shapes of what it takes and returns."""
        check_instance("network", network, eqx.Module, "an equinox module")
        self.network, self.output, self.unit = network, output, unit
        self.names, self.scales = named_inputs("inputs", inputs)
        self.inputs = len(self.names)
        check_range(self.scales, self.names, output)
        self.takes_number, self.outputs = _shapes(network, self.inputs)
        check_weights("network", network)
        if any(scale.sign for scale in self.scales):
            check_increasing_activation(network)

    @classmethod
    def mlp(
        cls,
        inputs: Sequence[str] | Mapping[str, Input | float],
        *,
        key: PRNGKeyArray,
        width: int = 16,
        depth: int = 2,
        activation: Callable[["Array"], "Array"] = jax.lax.tanh,
        outputs: int | None = None,
        output: AbstractRange = Unbounded(),  # noqa: B008 - immutable
        unit: str = "",
    ) -> "NeuralRate":
        """Return the rate of a multilayer perceptron.

        Args:
            inputs: The names of its inputs, or by name an `Input` or its nominal size.
            key: A key of `jax.random` for the first weights.
            width: The number of units of each hidden layer.
            depth: The number of hidden layers.
            activation: The activation of the hidden layers.
            outputs: The number of outputs if the term returns a vector.
            output: What the output may be.
            unit: The unit of the output.

        Example:
            >>> import jax
            >>> rate = NeuralRate.mlp(["drug"], width=4, depth=1, key=jax.random.key(0))
            >>> rate(2.0).shape
            ()
        """
        for name, value in (("width", width), ("depth", depth), ("outputs", 1 if outputs is None else outputs)):
            check_whole(name, value, 0 if name == "depth" else 1)
        count = len(named_inputs("inputs", inputs)[0])
        size = "scalar" if outputs is None else outputs
        ends = {"activation": activation, "final_activation": _same}
        network = eqx.nn.MLP(count, size, width, depth, **ends, key=key)
        return cls(network, inputs, output=output, unit=unit)

    def __call__(self, *inputs: Scalar) -> Scalar:
        """Return the output at inputs: a number, or a vector of shape (outputs,)."""
        check_count(inputs, self.names)
        z = jnp.stack([scale.scaled(x) for scale, x in zip(self.scales, inputs, strict=True)])
        signs = tuple(scale.sign for scale in self.scales)
        network: Any = monotone(self.network, signs) if any(signs) else self.network
        raw = network(z[0] if self.takes_number else z)
        raw = jnp.reshape(raw, () if self.outputs is None else (self.outputs,))
        return finished(self.scales, self.output, raw, inputs)


def _same(x: jax.Array) -> jax.Array:
    """Return a value as it is; unlike that of equinox, it can be pickled."""
    return x


def check_weights(argument: str, module: Any) -> None:
    """Check that the weights of a module are finite, as far as they are known.

    Raises:
        ValueError: If one is not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(module, eqx.is_inexact_array)):
        values = concrete(leaf)
        if values is not None and not np.isfinite(values).all():
            place = jax.tree_util.keystr(path).lstrip(".") or argument
            refuse(argument, "have finite weights", f"NaN or infinite in `{place}`")


def _shapes(network: Any, inputs: int) -> tuple[bool, int | None]:
    """Return whether a network takes a number in place of an array, and the number of its outputs, None for one."""
    problem: object = ""
    for shape in [(inputs,), ()] if inputs == 1 else [(inputs,)]:
        try:
            result: Any = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
        except (TypeError, ValueError) as error:
            problem = problem or " ".join(str(error).split())[:200]
            continue
        if not isinstance(result, jax.ShapeDtypeStruct) or len(result.shape) > 1:
            refuse("network", "return a number or an array of shape (outputs,)", f"of {result}")
        one = result.shape in ((), (1,))
        return shape == (), None if one else int(result.shape[0])
    return refuse("network", f"take an array of shape ({inputs},), its inputs", f"one that does not: {problem}")
