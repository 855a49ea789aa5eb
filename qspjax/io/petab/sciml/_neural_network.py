"""A network from a file: layers by name, and the order in which they are called."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from qspjax._types import Key
from qspjax.io.petab.sciml._functions import FUNCTIONS, RANDOM
from qspjax.io.petab.sciml._layer import AbstractLayer


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an earlier node, as an argument of another."""

    name: str


@dataclasses.dataclass(frozen=True)
class Node:
    """A step of the forward pass.

    Attributes:
        name: The name of its result.
        layer: The name of the layer that it calls, empty for a function.
        function: The name of the function that it calls.
        arguments: What it is called with: results, numbers, tuples of such.
        named: The same, by name.
        replaced: The result that it replaces, where PyTorch computes in place; empty if it does not.
    """

    name: str
    layer: str
    function: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    replaced: str = ""


class NeuralNetwork(eqx.Module):
    """A neural network as a file of PEtab SciML describes it; see `read_neural_network`.

    It is called with arrays that have the axes of PyTorch, and returns an array, or several as a tuple. With a `key`,
    layers such as Dropout drop numbers at random, as in training; without one they do nothing.

    Attributes:
        layers: The layers by their names; their weights are the weights of the network.
        nodes: The steps of the forward pass.
        inputs: The names of the inputs.
        outputs: What is returned.
    """

    layers: dict[str, AbstractLayer]
    nodes: tuple[Node, ...] = eqx.field(static=True)
    inputs: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[Result, ...] = eqx.field(static=True)

    def __call__(self, *inputs: Array, key: Key | None = None) -> Array | tuple[Array, ...]:
        """Return the output, or the outputs as a tuple.

        Raises:
            ValueError: If a layer cannot take its input; the message names it.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"The network has {len(self.inputs)} inputs, but is called with {len(inputs)}.")
        results: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for number, node in enumerate(self.nodes):
            arguments = [_filled(value, results) for value in node.arguments]
            named = {name: _filled(value, results) for name, value in node.named}
            if node.layer or node.function in RANDOM:
                named["key"] = None if key is None else jax.random.fold_in(key, number)
            called = self.layers[node.layer] if node.layer else FUNCTIONS[node.function]
            try:
                result = called(*arguments, **named)
            except (TypeError, ValueError, IndexError) as error:
                raise ValueError(f"The network cannot compute {node.name}: {error}") from error
            results[node.name] = result
            if node.replaced:
                results[node.replaced] = result
        returned = tuple(results[output.name] for output in self.outputs)
        return returned[0] if len(returned) == 1 else returned

    def weights(self) -> Mapping[str, Mapping[str, Array]]:
        """Return the weights of each layer that has any, by name."""
        return {name: arrays for name, layer in self.layers.items() if (arrays := weights_of(layer))}


def weights_of(layer: AbstractLayer) -> dict[str, Array]:
    """Return the weights of a layer by name."""
    values = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    return {name: value for name, value in values.items() if eqx.is_inexact_array(value)}


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    if isinstance(value, Result):
        return results[value.name]
    return [_filled(part, results) for part in value] if isinstance(value, tuple) else value
