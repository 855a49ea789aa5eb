"""What a traced program depends on, as bytes that are the same in another process: only where all of it is known.

It is known where every class and function in the arguments is qspjax's own, or of a library whose version says what it
does. A class of the user's may read anything (a global variable, another module, a closure), and its code may change
without a trace: a program that involves one has no identity here, and is traced to find out what it is.
"""

import io
import os
import pickle
import re
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import jaxlib
import numpy as np
from jax._src.config import trace_context

from qspjax._begun import BEGUN, FOLDER, FOUND
from qspjax._cache import key_of, version_of

_LIBRARIES = frozenset(
    ("abc", "builtins", "collections", "copyreg", "dataclasses", "enum", "equinox", "functools", "jax", "jaxlib")
    + ("jaxtyping", "math", "numpy", "operator", "typing")
)
"""Packages whose classes and functions are known by their names and versions."""
_ELSEWHERE = ("jax_compilation_cache_", "jax_persistent_cache_", "jax_log_", "jax_logging_", "jax_traceback_")
"""How the settings of JAX begin that no program depends on."""
_MARGIN = 1.0
"""Seconds before the start of this process in which a source that changed counts as changed since."""


class UnknownIdentityError(TypeError):
    """What something is cannot be said in a way that holds in other processes."""


def identity(*parts: object) -> str | None:
    """Return a key of all that a program depends on that is traced from some parts; None where that is not known."""
    try:
        content = io.BytesIO()
        pickler = _Pickler(content)
        pickler.fast = True  # what is equal is written in the same way, whether it is one object or two
        pickler.dump(parts)
        return key_of("identity", content.getvalue().hex(), pickler.attributes, *_surroundings())
    except Exception:  # noqa: BLE001 (whatever cannot be written down is not known)
        return None


def packed(value: object) -> bytes | None:
    """Return a value with structures of trees in it as bytes, which `pickle.loads` reads; None if that cannot be."""
    content = io.BytesIO()
    try:
        _Pickler(content).dump(value)
    except Exception:  # noqa: BLE001 (as above)
        return None
    return content.getvalue()


class _Pickler(pickle.Pickler):
    """Writes what is qspjax's own, arrays by their content, and structures of trees; everything else is refused."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.attributes: dict[str, list[tuple[str, object]]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, jax.Array):
            return _array, (np.asarray(obj), obj.weak_type)
        if isinstance(obj, (np.ndarray, np.generic)):
            if obj.dtype.hasobject:
                raise UnknownIdentityError("an array of objects")
            return _numbers, (obj.dtype.str, obj.shape, obj.tobytes())
        if isinstance(obj, jax.tree_util.PyTreeDef):
            return jax.tree.structure, (jax.tree.unflatten(obj, [0] * obj.num_leaves),)
        for thing in (obj, type(obj)):
            if isinstance(module := getattr(thing, "__module__", None), str):
                _check_known(module, thing)
        if isinstance(obj, FunctionType):
            _check_known(obj.__globals__["__name__"], obj)
        if isinstance(obj, type) and f"{obj.__module__}.{obj.__qualname__}" not in self.attributes:
            self.attributes[f"{obj.__module__}.{obj.__qualname__}"] = _plain(obj)
        return NotImplemented


def _array(numbers: np.ndarray, weak_type: bool) -> jax.Array:
    if weak_type:
        raise UnknownIdentityError("an array of a weak type")
    return jax.numpy.asarray(numbers)


def _numbers(dtype: str, shape: tuple[int, ...], content: bytes) -> np.ndarray | np.generic:
    return np.frombuffer(content, dtype).reshape(shape)[() if not shape else ...]


def _check_known(module: str, thing: object) -> None:
    """Check that something is qspjax's own, or of a library.

    Raises:
        UnknownIdentityError: If it is not.
    """
    package = module.partition(".")[0]
    if package != __package__ and package not in _LIBRARIES:
        raise UnknownIdentityError(f"{thing} of {module}")


def _plain(kind: type) -> list[tuple[str, object]]:
    """Return the numbers and words that are attributes of a class of qspjax; check that its methods are its own.

    Raises:
        UnknownIdentityError: If a method was replaced by one from elsewhere.
    """
    plain = []
    for base in kind.__mro__ if kind.__module__.partition(".")[0] == __package__ else ():
        for name, value in vars(base).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, FunctionType) and function.__globals__["__name__"] != f"namedtuple_{base.__name__}":
                _check_known(function.__globals__["__name__"], function)
            elif isinstance(value, (int, float, str)) and name not in ("__doc__", "__firstlineno__"):
                plain.append((name, value))
    return plain


def _surroundings() -> tuple[object, ...]:
    """Return on what else a program depends: settings, versions, and the sources of the package.

    Raises:
        UnknownIdentityError: If the sources were changed since this process read them.
    """
    settings = {name: value for name, value in jax.config.values.items() if not name.startswith(_ELSEWHERE)}
    context = re.sub(r"<jax\._src\.core\.AxisEnv object at 0x\w+>", "axes", repr(trace_context()))
    known = repr(sorted(settings.items())), context
    if any(" at 0x" in text for text in known):
        raise UnknownIdentityError("a setting of JAX")
    versions = (sys.version, *(module.__version__ for module in (jax, jaxlib, np, eqx)), version_of("diffrax"))
    return (*known, environment(), versions, _sources())


def environment() -> list[tuple[str, str]]:
    """Return the environment variables on which the numbers of a program depend."""
    ours = sorted((name, x) for name, x in os.environ.items() if name.startswith(("QSPJAX_", "XLA_")))
    return [(name, x) for name, x in ours if name != "QSPJAX_CACHE"]


def _sources() -> str:
    """Return a key of the sources of the package: a file that changes has another time.

    Raises:
        UnknownIdentityError: If one was changed since this process began, or the times of changes are not known.
    """
    if os.name == "nt":
        raise UnknownIdentityError("on Windows the time of a change can be set")
    if FOUND is None or not os.path.samestat(os.stat(FOLDER), FOUND):  # noqa: PTH116
        raise UnknownIdentityError("the package was replaced")
    return repr([*_files(FOLDER)])


def _files(folder: str) -> Iterator[tuple[object, ...]]:
    """Find the files in a folder and below; return of each what differs once it was changed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _files(entry.path) if entry.name != "__pycache__" else ()
                continue
            status = entry.stat()
            if status.st_ctime > BEGUN - _MARGIN:
                raise UnknownIdentityError(f"{entry.name} was changed")
            yield entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns
