"""A neural network from a file in YAML and its weights from files in HDF5: plain data, of which nothing is executed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import ArgumentError, nearest
from qspjax._types import Key
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._tables import read_yaml
from qspjax.io.petab.sciml._arrays import Arrays, Stored, read_arrays
from qspjax.io.petab.sciml._functions import FUNCTIONS, WORDS
from qspjax.io.petab.sciml._layer import AbstractLayer
from qspjax.io.petab.sciml._layers import LAYERS
from qspjax.io.petab.sciml._neural_network import NeuralNetwork, Node, Result, weights_of

MOST = 10_000
"""The maximum number of layers and of nodes."""


def read_neural_network(
    path: str | Path, arrays: str | Path | Sequence[str | Path] = (), *, key: Key | None = None
) -> NeuralNetwork:
    """Read a neural network in the YAML format of PEtab SciML.

    The layers, functions and arguments are those of PyTorch, and so is the order of axes and of numbers.

    Args:
        path: The YAML file.
        arrays: HDF5 files with the weights; by default they are drawn at random, as PyTorch draws them.
        key: For the weights that are drawn, by default `jax.random.key(0)`.

    Raises:
        FileIssues: If anything in the files is wrong or not supported: a list with file and place.
        ImportError: If the extra `petab` is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.yaml"
        >>> _ = path.write_text('''
        ... nn_model_id: net
        ... inputs: [{input_id: x}]
        ... layers: [{layer_id: layer, layer_type: Linear, args: {in_features: 2, out_features: 3}}]
        ... forward:
        ... - {name: x, op: placeholder, target: x}
        ... - {name: layer, op: call_module, target: layer, args: [x]}
        ... - {name: tanh, op: call_method, target: tanh, args: [layer]}
        ... - {name: output, op: output, target: output, args: [tanh]}
        ... ''')
        >>> read_neural_network(path)(jnp.ones(2)).shape
        (3,)
    """
    path = Path(path)
    files = [arrays] if isinstance(arrays, (str, Path)) else [*arrays]
    name, network = read_structure(path, key=key)
    return with_arrays(network, name, read_arrays([Path(file) for file in files])) if files else network


def read_structure(path: Path, *, key: Key | None = None) -> tuple[str, NeuralNetwork]:
    """Return the name of a network in a YAML file, and the network with weights that are drawn at random."""
    content = read_yaml(path, "must have layers and a forward pass")
    file = NetworkFile(path.name)
    layers = file.layers(content.get("layers"), jax.random.key(0) if key is None else key)
    file.close()
    network = file.forward(content, layers)
    file.close()
    return str(content.get("nn_model_id", "")), network


def with_arrays(network: NeuralNetwork, name: str, arrays: Arrays) -> NeuralNetwork:
    """Return a network with the weights of files.

    Raises:
        FileIssues: If one is missing, has another shape, or belongs to nothing in the network.
    """
    issues = unknown_arrays(network, name, arrays)
    layers = dict(network.layers)
    for layer, weights in network.weights().items():
        for weight, value in weights.items():
            stored = arrays.parameters.get((name, layer, weight))
            if stored is None:
                message = f"must have the array parameters/{name}/{layer}/{weight} of shape {value.shape}, but has not."
                issues.append(Issue(arrays.files[0], (), message))
            else:
                layers[layer] = with_weight(layers[layer], weight, stored, issues)
    if issues:
        raise FileIssues(issues)
    return eqx.tree_at(lambda network: network.layers, network, layers)


def unknown_arrays(network: NeuralNetwork, name: str, arrays: Arrays) -> list[Issue]:
    """Return issues of arrays that belong to nothing in a network."""
    weights = network.weights()
    return [
        Issue(stored.file, stored.path, f"must be a weight of a layer of the network {name}, but is none.")
        for (owner, layer, weight), stored in arrays.parameters.items()
        if owner == name and weight not in weights.get(layer, {})
    ]


def with_weight(layer: AbstractLayer, weight: str, stored: Stored, issues: list[Issue]) -> AbstractLayer:
    """Return a layer with a weight of a file; add an issue if it has another shape."""
    expected = weights_of(layer)[weight].shape
    if stored.value.shape != expected:
        message = f"must have the shape {expected}, but has {stored.value.shape}."
        issues.append(Issue(stored.file, stored.path, message))
        return layer
    return set_weight(layer, weight, stored.value)


def set_weight(layer: AbstractLayer, weight: str, value: np.ndarray) -> AbstractLayer:
    """Return a layer with another weight."""
    return eqx.tree_at(lambda layer: getattr(layer, weight), layer, jnp.asarray(value, float))


class NetworkFile:
    """Reads the parts of a network, and collects the issues of its file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.issues: list[Issue] = []
        self.in_place: set[str] = set()

    def add(self, path: tuple[str, ...], message: str) -> None:
        """Add an issue."""
        self.issues.append(Issue(self.name, path, message))

    def stop(self, path: tuple[str, ...], message: str) -> NoReturn:
        """Raise all issues, with one more."""
        self.add(path, message)
        raise FileIssues(self.issues)

    def close(self) -> None:
        """Raise the issues, if there are any."""
        if self.issues:
            raise FileIssues(self.issues)

    def entries(self, key: str, value: object, needed: Sequence[str]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """Return the mappings in a list, each with its place; those without the needed texts are issues."""
        if not isinstance(value, list) or len(value) > MOST:
            self.stop((key,), f"must be a list of at most {MOST} parts, but is not.")
        found = []
        for number, entry in enumerate(value, start=1):
            place = (f"{key}[{number}]",)
            if not isinstance(entry, dict):
                self.add(place, "must be keys with values, but is not.")
                continue
            missing = [name for name in needed if not isinstance(entry.get(name), str) or not entry[name]]
            for name in missing:
                self.add((*place, name), "must be a name, but is missing or none.")
            if not missing:
                found.append((place, entry))
        return found

    def layers(self, value: object, key: Key) -> dict[str, AbstractLayer]:
        """Return the layers by name."""
        layers: dict[str, AbstractLayer] = {}
        entries = self.entries("layers", [] if value is None else value, ("layer_id", "layer_type"))
        for number, (place, entry) in enumerate(entries):
            name, kind = entry["layer_id"], entry["layer_type"]
            arguments = {} if entry.get("args") is None else entry["args"]
            if isinstance(arguments, dict):
                arguments, in_place = self._without_hints((*place, "args"), arguments)
                self.in_place |= {name} if in_place else set()
            if name in layers:
                self.add((*place, "layer_id"), f"must occur once, but {name} is there before.")
            elif kind not in LAYERS:
                self.add((*place, "layer_type"), f"must be a layer that is known{_like(kind, LAYERS)}, but is {kind}.")
            elif not isinstance(arguments, dict):
                self.add((*place, "args"), "must be arguments by name, but is not.")
            elif self._fits((*place, "args"), LAYERS[kind], (), arguments):
                try:
                    layers[name] = LAYERS[kind](**arguments, key=jax.random.fold_in(key, number))
                except ArgumentError as error:
                    self.add((*place, "args", error.argument), error.must)
                except (TypeError, ValueError, OverflowError, MemoryError) as error:
                    self.add((*place, "args"), f"must be arguments of {kind}, but: {error}")
        return layers

    def forward(self, content: Mapping[str, object], layers: dict[str, AbstractLayer]) -> NeuralNetwork:
        """Return the network."""
        results: dict[str, Result] = {}
        inputs: list[str] = []
        nodes: list[Node] = []
        outputs: tuple[Result, ...] | None = None
        for place, entry in self.entries("forward", content.get("forward"), ("name", "op", "target")):
            name, op = entry["name"], entry["op"]
            if outputs is not None:
                self.stop(place, "must not follow the output, but does.")
            if name in results:
                self.stop((*place, "name"), f"must occur once, but {name} is there before.")
            if op == "placeholder":
                inputs.append(name)
            elif op == "output":
                outputs = self._outputs(place, entry.get("args"), results)
            elif op in ("call_module", "call_function", "call_method"):
                node = self._node(place, entry, results, layers)
                if node is not None:
                    nodes.append(node)
            else:
                self.add((*place, "op"), f"must be a step that is known (call_module, call_function ...), but is {op}.")
            results[name] = Result(name)
        if outputs is None:
            self.stop(("forward",), "must end with an output, but has none.")
        declared = self.entries("inputs", content.get("inputs"), ("input_id",))
        if len(declared) != len(inputs):
            message = (
                f"must be as many as the placeholders of the forward pass ({len(inputs)}), but are {len(declared)}."
            )
            self.add(("inputs",), message)
        return NeuralNetwork(layers, tuple(nodes), tuple(inputs), outputs)

    def _node(
        self,
        place: tuple[str, ...],
        entry: Mapping[str, Any],
        results: Mapping[str, Result],
        layers: Mapping[str, AbstractLayer],
    ) -> Node | None:
        target, is_layer = entry["target"], entry["op"] == "call_module"
        known: Mapping[str, object] = layers if is_layer else FUNCTIONS
        if target not in known:
            kind = "a layer of the network" if is_layer else "a function that is known"
            self.add((*place, "target"), f"must be {kind}{_like(target, known)}, but is {target}.")
            return None
        args, kwargs = entry.get("args"), entry.get("kwargs")
        if not isinstance(args, (list, type(None))) or not isinstance(kwargs, (dict, type(None))):
            self.add(place, "must have a list as args and keys with values as kwargs, but has not.")
            return None
        kwargs, in_place = self._without_hints((*place, "kwargs"), kwargs or {})
        arguments = tuple(self._value((*place, "args"), value, results) for value in args or ())
        named = {
            str(key): value if key in WORDS else self._value((*place, "kwargs", str(key)), value, results)
            for key, value in kwargs.items()
        }
        called = layers[target].__call__ if is_layer else FUNCTIONS[target]
        if not self._fits(place, called, arguments, named):
            return None
        replaced = ""
        if (in_place or (is_layer and target in self.in_place)) and arguments and isinstance(arguments[0], Result):
            replaced = arguments[0].name
        return Node(
            entry["name"],
            target if is_layer else "",
            "" if is_layer else target,
            arguments,
            (*named.items(),),
            replaced,
        )

    def _without_hints(self, place: tuple[str, ...], named: Mapping[Any, Any]) -> tuple[dict[Any, Any], bool]:
        """Return arguments without those that change no value, and whether one says to compute in place."""
        if named.get("dtype") is not None:
            self.add((*place, "dtype"), f"must be null, as all numbers are of one type, but is {named['dtype']}.")
        if named.get("inplace") not in (None, True, False):
            self.add((*place, "inplace"), f"must be true or false, but is {named['inplace']}.")
        kept = {name: value for name, value in named.items() if name not in ("inplace", "dtype", "_stacklevel")}
        return kept, named.get("inplace") is True

    def _fits(
        self, place: tuple[str, ...], called: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> bool:
        """Whether something can be called with arguments; an issue if not."""
        if any(not isinstance(name, str) for name in named) or "key" in named:
            self.add(place, "must be arguments of PyTorch by name, but are not.")
            return False
        try:
            signature = inspect.signature(called)
            if "key" in signature.parameters:
                signature.bind(*arguments, **named, key=None)
            else:
                signature.bind(*arguments, **named)
        except TypeError as error:
            self.add(place, f"must be arguments as in PyTorch, but: {error}.")
            return False
        return True

    def _value(self, place: tuple[str, ...], value: object, results: Mapping[str, Result]) -> Any:
        if isinstance(value, list):
            return tuple(self._value(place, part, results) for part in value)
        if isinstance(value, str):
            if value not in results:
                self.add(place, f"must be an earlier result{_like(value, results)} or a number, but is {value}.")
            return results.get(value)
        if value is not None and not isinstance(value, (int, float)):
            self.add(place, f"must be results and numbers, but is of type {type(value).__name__}.")
        return value

    def _outputs(self, place: tuple[str, ...], args: object, results: Mapping[str, Result]) -> tuple[Result, ...]:
        if not isinstance(args, list) or len(args) != 1:
            self.stop((*place, "args"), "must be one result or a list of results, but is not.")
        found = self._value((*place, "args"), args[0], results)
        outputs = found if isinstance(found, tuple) else (found,)
        if not outputs or not all(isinstance(output, Result) for output in outputs):
            self.stop((*place, "args"), "must be one result or a list of results, but is not.")
        return outputs


def _like(name: str, known: Mapping[str, object]) -> str:
    close = nearest(name, known)
    return f" (did you mean {close}?)" if close else ""
