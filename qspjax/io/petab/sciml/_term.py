"""A network as a function of numbers: its inputs are taken together as arrays, or come from files."""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._types import Scalar
from qspjax.io.petab.sciml._layer import AbstractLayer
from qspjax.io.petab.sciml._neural_network import NeuralNetwork, Node, Result
from qspjax.models import AbstractTerm


@dataclasses.dataclass(frozen=True)
class Numbers:
    """An argument of a network whose elements are inputs of the term.

    Attributes:
        shape: The shape of the argument.
        places: Which input of the term each element is, in row-major order.
    """

    shape: tuple[int, ...]
    places: tuple[int, ...]

    def array(self, inputs: tuple[Scalar, ...]) -> Array:
        """Return the argument."""
        return jnp.stack([jnp.asarray(inputs[place], float) for place in self.places]).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class FromFile:
    """An argument of a network that a file gives: one array, or one of several.

    Attributes:
        shape: The shape of the argument.
        contents: The numbers of each array, as bytes, so that they are compared and hashed, and are no weights.
        place: Which input of the term is the number of the array; None if there is one.
    """

    shape: tuple[int, ...]
    contents: tuple[bytes, ...]
    place: int | None

    def array(self, inputs: tuple[Scalar, ...]) -> Array:
        """Return the argument."""
        values = np.stack([np.frombuffer(content).reshape(self.shape) for content in self.contents])
        if self.place is None:
            return jnp.asarray(values[0])
        return jnp.take(values, jnp.asarray(inputs[self.place]).astype(int), axis=0, mode="clip")


Argument: TypeAlias = Numbers | FromFile


class NetworkTerm(AbstractTerm):
    """A network of a PEtab SciML problem as a term of its model, or a function of its formulas.

    Attributes:
        layers: The layers of the network by name, with its weights.
        network: The rest of the network, as names and numbers.
        arguments: Where each argument of the network comes from.
    """

    layers: dict[str, AbstractLayer]
    steps: tuple[tuple[str, ...], tuple[Node, ...], tuple[Result, ...]] = eqx.field(static=True)
    arguments: tuple[Argument, ...] = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    @classmethod
    def of(cls, network: NeuralNetwork, arguments: tuple[Argument, ...], inputs: int, outputs: int) -> "NetworkTerm":
        """Return the term of a network."""
        steps = (network.inputs, network.nodes, network.outputs)
        return cls(layers=network.layers, steps=steps, arguments=arguments, inputs=inputs, outputs=outputs)

    @property
    def network(self) -> NeuralNetwork:
        """The network itself, a function of arrays."""
        inputs, nodes, outputs = self.steps
        return NeuralNetwork(self.layers, nodes, inputs, outputs)

    def __call__(self, *inputs: Scalar) -> Array:
        """Return all outputs of the network, one after the other, in row-major order."""
        results = self.network(*(argument.array(inputs) for argument in self.arguments))
        several = results if isinstance(results, tuple) else (results,)
        return jnp.concatenate([jnp.ravel(result) for result in several])


def output_shapes(network: NeuralNetwork, shapes: Mapping[int, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the shapes of the outputs of a network, for arguments of given shapes.

    Raises:
        ValueError: If a layer cannot take its input.
    """
    zeros = [jnp.zeros(shapes[i]) for i in range(len(network.inputs))]
    results = eqx.filter_eval_shape(network, *zeros)
    return [result.shape for result in (results if isinstance(results, tuple) else (results,))]
