"""The files of the networks of a problem: networks, arrays, and the tables that connect them with the model."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._tables import Row, TableIssues, listed, read_tables
from qspjax.io.petab.sciml._arrays import ALL, Arrays, read_arrays
from qspjax.io.petab.sciml._neural_network import NeuralNetwork
from qspjax.io.petab.sciml._read import read_structure
from qspjax.io.petab.sciml._references import References, is_reference

EXTENSIONS = ("petab_sciml", "sciml")
"""The names of the extension in files of problems."""


@dataclasses.dataclass
class Hybrid:
    """The networks of a problem, and how the tables refer to them.

    Attributes:
        file: The name of the file of the problem.
        networks: The networks by id.
        files: The name of the file of each network.
        before: The ids of networks that are evaluated once, before an experiment begins.
        arrays: The arrays of all files.
        references: What ids of the tables mean in networks.
        rows: The rows of the table of hybridization.
    """

    file: str
    networks: dict[str, NeuralNetwork]
    files: dict[str, str]
    before: frozenset[str]
    arrays: Arrays
    references: References
    rows: list[Row]

    @property
    def conditions(self) -> frozenset[str]:
        """The conditions for which there are arrays."""
        names = (name for _, conditions in self.arrays.inputs for name in conditions.split(";"))
        return frozenset(name.strip() for name in names) - {ALL}

    def ids(self) -> tuple[str, ...]:
        """Return all ids that the tables use for parts of networks."""
        return (*self.references.inputs, *self.references.outputs, *self.references.weights)


def read_hybrid(path: Path, extensions: object, mapping: Sequence[Row], issues: TableIssues) -> Hybrid | None:
    """Read the networks of a problem, None if it has none.

    Args:
        path: The file of the problem.
        extensions: Its extensions.
        mapping: The rows of the table of mappings.
        issues: Collects the issues.

    Raises:
        FileIssues: If there is another extension, or a file cannot be read.
    """
    if not extensions:
        return None
    names = [*extensions] if isinstance(extensions, (dict, list)) else [extensions]
    for name in names:
        if name not in EXTENSIONS:
            raise FileIssues([Issue(path.name, ("extensions",), f"not supported: extension {name}.")])
    section = extensions[names[0]] if isinstance(extensions, dict) else None
    place = ("extensions", str(names[0]))
    if len(names) != 1 or not isinstance(section, dict):
        raise FileIssues([Issue(path.name, place, "must have neural_networks and hybridization_files, but has not.")])
    networks, files, before = _networks(path, (*place, "neural_networks"), section.get("neural_networks"))
    references = _references(mapping, networks, issues)
    _add_named_inputs(references, networks)
    rows = read_tables(path.parent, listed(section.get("hybridization_files")), _COLUMNS, (), issues)
    arrays = read_arrays([path.parent / name for name in listed(section.get("array_files"))])
    for (network, *_), stored in arrays.parameters.items():
        if network not in networks:
            message = f"must belong to a network ({', '.join(networks)}), but {network} is none."
            issues.issues.append(Issue(stored.file, stored.path, message))
    return Hybrid(path.name, networks, files, frozenset(before), arrays, references, rows)


_COLUMNS = ("targetId", "targetValue")


def _networks(
    path: Path, place: tuple[str, ...], entries: object
) -> tuple[dict[str, NeuralNetwork], dict[str, str], set[str]]:
    if not isinstance(entries, dict) or not entries:
        raise FileIssues([Issue(path.name, place, "must be networks by id, but is not.")])
    networks, files, before = {}, {}, set()
    for id, entry in entries.items():
        here = (*place, str(id))

        def refuse(key: str, message: str, here: tuple[str, ...] = here) -> None:
            raise FileIssues([Issue(path.name, (*here, key), message)])

        entry = entry if isinstance(entry, dict) else {}
        if str(entry.get("format", "")).lower() != "yaml":
            refuse("format", f"must be YAML, the only format that is read, but is {entry.get('format', 'missing')}.")
        if not isinstance(entry.get("location"), str):
            refuse("location", "must name a file, but is missing or none.")
        early: Any = entry.get("pre_initialization")
        if not isinstance(early, bool):
            refuse("pre_initialization", f"must be true or false, but is {'missing' if early is None else early}.")
        _, networks[str(id)] = read_structure(path.parent / str(entry["location"]))
        files[str(id)] = Path(str(entry["location"])).name
        before |= {str(id)} if early else set()
    return networks, files, before


def _references(mapping: Sequence[Row], networks: Mapping[str, NeuralNetwork], issues: TableIssues) -> References:
    references = References()
    for row in mapping:
        text = row.get("modelEntityId")
        if is_reference(text) and text.split(".")[0] not in networks:
            issues.add(row, "modelEntityId", f"must be part of a network ({', '.join(networks)}), but is {text}.")
        elif message := references.add(row.get("petabEntityId"), text):
            issues.add(row, "modelEntityId", message)
    for id, places in references.inputs.items():
        for place in places:
            number = len(networks[place.network].inputs)
            if place.argument >= number:
                row = next(row for row in mapping if row.get("petabEntityId") == id)
                message = f"must be one of {number} inputs, from 0, but is {row.get('modelEntityId')}."
                issues.add(row, "modelEntityId", message)
    issues.close()
    return references


def _add_named_inputs(references: References, networks: Mapping[str, NeuralNetwork]) -> None:
    """Let the names of inputs in the files of networks stand for them, where the table of mappings names none."""
    mapped = {(place.network, place.argument) for places in references.inputs.values() for place in places}
    for id, network in networks.items():
        for argument, name in enumerate(network.inputs):
            if (id, argument) not in mapped:
                references.add(name, f"{id}.inputs[{argument}]")
