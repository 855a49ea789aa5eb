"""What tells one calculation from another: a hash of everything that its result depends on.

Values are described by what they hold (numbers bit by bit, formulas node by node, objects by their class and their
fields, functions by their code and by the numbers and functions of their module that it uses; those of libraries by
their names) and never by where they lie, in memory or in which file, so that the same model, made again in another
process, has the same fingerprint.
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
        hash: What has been described.
        seen: The numbers of the nodes of formulas.
        around: The objects that hold what is being described, which may hold them in turn.
    """

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[Expression, int] = {}
        self.around: list[int] = []

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
            for key, one in value.items():
                yield from self._parts(key)
                yield from self._parts(one)
        elif isinstance(value, (tuple, list)):
            yield f"{type(value).__name__} {len(value)}".encode()
            for one in value:
                yield from self._parts(one)
        elif isinstance(value, (set, frozenset)):
            yield f"set {sorted(map(fingerprint, value))}".encode()
        elif isinstance(value, Expression):
            yield from self._formula(value)
        else:
            yield from self._object(value)

    def _formula(self, formula: Expression) -> Iterator[bytes]:
        for node in nodes(formula):
            if node not in self.seen:
                places = [self.seen[argument] for argument in node.args]
                self.seen[node] = len(self.seen)
                yield f"{node.op} {node.value!r} {places}".encode()
        yield f"node {self.seen[formula]}".encode()

    def _object(self, value: object) -> Iterator[bytes]:
        """Yield what describes an object, a class, a function or its code."""
        if id(value) in self.around:
            yield f"the object {self.around.index(id(value))} around".encode()
            return
        self.around.append(id(value))
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
            known = inspect.getclosurevars(function)
            edited = not _is_of_a_package(function)
            code = [function.__code__, _own(known.globals, function.__module__)] if edited else function.__module__
            yield function.__qualname__.encode()
            yield from self._parts([code, known.nonlocals, function.__defaults__, function.__kwdefaults__])
        else:
            yield from self._parts(type(value))
            yield from self._parts(_fields(value))
        self.around.pop()


def _is_of_a_package(value: type | types.FunctionType) -> bool:
    """Whether a class or a function is that of a library, and not one that a user edits."""
    return (value.__module__ or "").partition(".")[0] in ("builtins", "equinox", "jax", "qspjax")


def _own(names: Mapping[str, object], module: str) -> dict[str, object]:
    """Return which of the names that a function uses are numbers, text, or functions and classes of its module."""
    plain = (bool, int, float, complex, str, bytes, tuple, list, dict, np.ndarray, np.generic, jax.Array)
    return {
        name: one
        for name, one in sorted(names.items())
        if isinstance(one, plain) or (isinstance(one, (types.FunctionType, type)) and one.__module__ == module)
    }


def _fields(value: object) -> dict[str, object]:
    """Return what an object holds, by name."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    kinds = [vars(kind) for kind in type(value).__mro__]
    known_later = {name for own in kinds for name, one in own.items() if isinstance(one, functools.cached_property)}
    return {name: one for name, one in sorted(getattr(value, "__dict__", {}).items()) if name not in known_later}
