"""Ids that SBML allows: letters, digits and underscores, each for one thing."""

import re
from collections.abc import Iterable

_LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_legal(id: str) -> bool:
    """Return whether SBML allows an id.

    Example:
        >>> is_legal("k_on"), is_legal("binding.kon"), is_legal("")
        (True, False, False)
    """
    return _LEGAL.fullmatch(id) is not None


class Ids(dict[str, str]):
    """The id in the file of every id of a network; those that SBML allows stay as they are.

    Example:
        >>> Ids(["binding.kon", "binding_kon", "2nd"])
        {'binding_kon': 'binding_kon', 'binding.kon': 'binding_kon_2', '2nd': '_2nd'}
    """

    def __init__(self, ids: Iterable[str]):
        """Assign a legal id to every id."""
        ids = list(dict.fromkeys(ids))
        super().__init__((id, id) for id in ids if is_legal(id))
        self._used = set(self.values())
        self.update((id, self.new(id)) for id in ids if id not in self)

    def new(self, wish: str, otherwise: str = "id") -> str:
        """Return an unused id, as close to `wish` as possible."""
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", wish) if wish else otherwise
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        id, number = plain, 1
        while id in self._used:
            number += 1
            id = f"{plain}_{number}"
        self._used.add(id)
        return id
