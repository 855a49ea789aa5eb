"""What ids of a table mean in a network: `net.inputs[0][1]`, `net.outputs[0][0]`, `net.parameters[layer].weight`."""

import dataclasses
import re

_KINDS = {
    "inputs": re.compile(r"\[(?P<argument>\d+)\](\[(?P<index>[\d\s,]+)\])?"),
    "outputs": re.compile(r"\[(?P<argument>\d+)\](\[(?P<index>[\d\s,]+)\])?"),
    "parameters": re.compile(r"(\[(?P<layer>[^\[\]]+)\](\.(?P<array>\w+)(\[(?P<index>[\d\s,]+)\])?)?)?"),
}
_REFERENCE = re.compile(r"(?P<network>\w+)\.(?P<kind>inputs|outputs|parameters)(?P<rest>.*)")
FORMS = "net.inputs[0][0], net.outputs[0][0], net.parameters or net.parameters[layer].weight"


@dataclasses.dataclass(frozen=True)
class Place:
    """An input or an output of a network.

    Attributes:
        network: The id of the network.
        argument: The number of the argument, or of the result.
        index: The index of an element, empty for the whole array.
    """

    network: str
    argument: int
    index: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """Weights of a network.

    Attributes:
        network: The id of the network.
        layer: The id of the layer, empty for all.
        array: The name of the array, empty for all of the layer.
    """

    network: str
    layer: str
    array: str

    @property
    def depth(self) -> int:
        """How special it is: 0 for a network, 2 for an array."""
        return bool(self.layer) + bool(self.array)

    def holds(self, layer: str, array: str) -> bool:
        """Whether an array is among these weights."""
        return self.layer in ("", layer) and self.array in ("", array)


@dataclasses.dataclass
class References:
    """The ids of the mapping table that mean something in a network.

    Attributes:
        inputs: The inputs by id; networks may share an id.
        outputs: The outputs by id.
        weights: The weights by id.
    """

    inputs: dict[str, list[Place]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Place] = dataclasses.field(default_factory=dict)
    weights: dict[str, Part] = dataclasses.field(default_factory=dict)

    def add(self, id: str, text: str) -> str:
        """Add what an id means; return what is wrong with the text, empty if nothing is."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return ""
        network, kind = match["network"], match["kind"]
        parts = _KINDS[kind].fullmatch(match["rest"].strip())
        if parts is None:
            return f"must be a part of a network ({FORMS}), but is {text}."
        index = tuple(int(number) for number in (parts["index"] or "").split(",") if number.strip())
        if kind == "parameters":
            if index:
                return f"not supported: single elements of an array of weights, {text}."
            self.weights[id] = Part(network, parts["layer"] or "", parts["array"] or "")
        elif kind == "inputs":
            self.inputs.setdefault(id, []).append(Place(network, int(parts["argument"]), index))
        else:
            self.outputs[id] = Place(network, int(parts["argument"]), index)
        return ""


def is_reference(text: str) -> bool:
    """Return whether an id of a model looks like a part of a network."""
    return _REFERENCE.fullmatch(text) is not None
