"""Public names of a package that are imported when they are first used, each from the module that holds it."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def imported_when_used(
    package: str, names: Mapping[str, str], parts: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, the `__dir__` and the `__all__` of a package.

    Args:
        package: Its full name.
        names: The public names, apart by spaces, by the module that holds them.
        parts: The packages in it, apart by spaces.
    """
    own = sys.modules[package]
    modules = {name: f"{package}.{module}" for module, those in names.items() for name in those.split()}

    def attribute(name: str) -> object:
        """Import a public name, or a package."""
        if name in modules:
            value = getattr(import_module(modules[name]), name)
            setattr(own, name, value)
            return value
        if name in parts.split():
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=own)

    def everything() -> list[str]:
        """List what is imported later, too."""
        return sorted({*vars(own), *modules, *parts.split()})

    return attribute, everything, sorted(modules)
