"""The fingerprint of a calculation: a hash of everything that its result depends on.

Values are described by their contents (numbers bit by bit, formulas node by node, objects by their class and their
fields, functions by their code and by the numbers and functions of their module that they use; those of libraries by
their names) and never by their location in memory or in a file, so that the same model, made again in another process,
has the same fingerprint.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._expression import Expression, nodes


def fingerprint(*values: object) -> str:
    """Return a hash of values: the same for equal ones, also in another process.

    Example:
        >>> from qspjax._expression import parse
        >>> fingerprint({"CL": parse("tCL * 2")}) == fingerprint({"CL": parse("tCL * 2")})
        True
        >>> fingerprint({"CL": parse("tCL * 2")}) == fingerprint({"CL": parse("tCL * 3")})
        False
    """
    return _Description().of(values).hexdigest()


class _Description:
    """A hash that grows as values are described; each node of a formula is described once.

    Attributes:
        hash: The hash of what has been described.
        node_numbers: The numbers of the nodes of formulas.
        enclosing: The objects that contain the value being described, which may contain them in turn.
    """

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.node_numbers: dict[Expression, int] = {}
        self.enclosing: list[int] = []

    def of(self, value: object) -> "hashlib._Hash":
        for part in self._parts(value):
            self.hash.update(len(part).to_bytes(8, "little") + part)
        return self.hash

    def _parts(self, value: object) -> Iterator[bytes]:
        """Yield what describes a value."""
        if isinstance(value, enum.Enum):
            yield f"{type(value).__qualname__}.{value.name}".encode()
        elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            yield f"{type(value).__name__} {value!r}".encode()
        elif isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield from self._parts([str(jax.random.key_impl(value)), jax.random.key_data(value)])
        elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
            array = np.asarray(value)
            yield f"array {array.dtype} {array.shape}".encode()
            yield repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
        elif isinstance(value, Mapping):
            yield f"mapping {len(value)}".encode()
            for key, item in value.items():
                yield from self._parts(key)
                yield from self._parts(item)
        elif isinstance(value, (tuple, list)):
            yield f"{type(value).__name__} {len(value)}".encode()
            for item in value:
                yield from self._parts(item)
        elif isinstance(value, (set, frozenset)):
            yield f"set {sorted(map(fingerprint, value))}".encode()
        elif isinstance(value, Expression):
            yield from self._formula(value)
        else:
            yield from self._object(value)

    def _formula(self, formula: Expression) -> Iterator[bytes]:
        for node in nodes(formula):
            if node not in self.node_numbers:
                arguments = [self.node_numbers[argument] for argument in node.args]
                self.node_numbers[node] = len(self.node_numbers)
                yield f"{node.op} {node.value!r} {arguments}".encode()
        yield f"node {self.node_numbers[formula]}".encode()

    def _object(self, value: object) -> Iterator[bytes]:
        """Yield what describes an object, a class, a function or its code."""
        if id(value) in self.enclosing:
            yield f"the object {self.enclosing.index(id(value))} around".encode()
            return
        self.enclosing.append(id(value))
        if isinstance(value, types.CodeType):
            yield value.co_code
            yield from self._parts([value.co_names, value.co_varnames, value.co_freevars, value.co_consts])
        elif isinstance(value, types.ModuleType):
            yield value.__name__.encode()
        elif isinstance(value, functools.partial):
            yield from self._parts([value.func, value.args, value.keywords])
        elif isinstance(value, type):
            edited = issubclass(value, eqx.Module) and not _is_of_a_package(value)
            yield (value.__qualname__ if edited else f"{value.__module__}.{value.__qualname__}").encode()
            if edited:  # its equations
                yield from self._parts([function for _, function in inspect.getmembers(value, inspect.isfunction)])
        elif isinstance(value, types.FunctionType):
            inner = inspect.unwrap(value)
            function = inner if inspect.isfunction(inner) else value
            closure = inspect.getclosurevars(function)
            edited = not _is_of_a_package(function)
            code = (
                [function.__code__, _relevant(closure.globals, function.__module__)] if edited else function.__module__
            )
            yield function.__qualname__.encode()
            yield from self._parts([code, closure.nonlocals, function.__defaults__, function.__kwdefaults__])
        else:
            yield from self._parts(type(value))
            yield from self._parts(_fields(value))
        self.enclosing.pop()


def _is_of_a_package(value: type | types.FunctionType) -> bool:
    """Whether a class or a function belongs to a library, so that users do not edit it."""
    return (value.__module__ or "").partition(".")[0] in ("builtins", "equinox", "jax", "qspjax")


def _relevant(names: Mapping[str, object], module: str) -> dict[str, object]:
    """Return the numbers, texts, and functions and classes of its module among the globals that a function uses."""
    plain = (bool, int, float, complex, str, bytes, tuple, list, dict, np.ndarray, np.generic, jax.Array)
    return {
        name: value
        for name, value in sorted(names.items())
        if isinstance(value, plain) or (isinstance(value, (types.FunctionType, type)) and value.__module__ == module)
    }


def _fields(value: object) -> dict[str, object]:
    """Return the fields of an object, by name."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    namespaces = [vars(kind) for kind in type(value).__mro__]
    cached = {
        name
        for namespace in namespaces
        for name, member in namespace.items()
        if isinstance(member, functools.cached_property)
    }
    return {name: member for name, member in sorted(getattr(value, "__dict__", {}).items()) if name not in cached}
