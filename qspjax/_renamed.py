"""Names of before, which still answer: each warns with the name that it has now."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Concatenate, ParamSpec, TypeVar

from qspjax._checks import did_you_mean, warn

_Owner = TypeVar("_Owner")
_Result = TypeVar("_Result")
_Settings = ParamSpec("_Settings")


def renamed_in(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a module whose public names were others: new ones by old ones."""

    def attribute(name: str) -> object:
        """Return what an old name stands for, with a warning."""
        own = import_module(module)
        if name not in names:
            near = "" if name.startswith("_") else did_you_mean(name, (n for n in dir(own) if not n.startswith("_")))
            raise AttributeError(f"module {module!r} has no attribute {name!r}.{near}".removesuffix("."))
        if "importlib" not in sys._getframe(1).f_code.co_filename:  # `from module import name` asks twice
            _warn(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(own, names[name])

    return attribute


def renamed_method(
    old: str, new: str, function: Callable[Concatenate[_Owner, _Settings], _Result]
) -> Callable[Concatenate[_Owner, _Settings], _Result]:
    """Return a method that was replaced by a function of its object."""

    def method(owner: _Owner, /, *args: _Settings.args, **kwargs: _Settings.kwargs) -> _Result:
        """Call the function, with a warning."""
        _warn(old, new)
        return function(owner, *args, **kwargs)

    return method


def renamed_attribute(old: str, new: str) -> property:
    """Return a property for an attribute that has another name now, both as `Class.name`."""

    def attribute(owner: object) -> object:
        """Return the value of the attribute, with a warning."""
        _warn(old, new)
        return getattr(owner, new.rpartition(".")[2])

    return property(attribute)


def _warn(old: str, new: str) -> None:
    warn(f"`{old}` is now `{new}`: the old name will go.", DeprecationWarning)
