"""Modules made without their constructors: with equinox one takes longer than the rest of a simulation in Python.

A bound method is a module, too, so what is called for each simulation is a function, or `Class.method(instance)`.
"""

from collections.abc import Mapping
from typing import TypeVar

import equinox as eqx

Module = TypeVar("Module", bound=eqx.Module)


def made(kind: type[Module], fields: Mapping[str, object]) -> Module:
    """Return a module of all its fields, as they are: nothing is converted or checked."""
    module = object.__new__(kind)
    vars(module).update(fields)
    return module
