"""Compiled programs of functions of trees: one for each structure and shape, kept on disk for other processes."""

import abc
import functools
import os
import pickle
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FunctionType, MappingProxyType
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax._src.array import ArrayImpl
from jax._src.core import trace_state_clean
from jax._src.lax.linalg import initialize_lapack
from jax._src.util import cache  # pyright: ignore[reportPrivateImportUsage] (`jax.clear_caches` empties it)
from jax.core import Tracer
from jax.experimental import serialize_executable
from jax.extend.core import Primitive
from jaxtyping import PyTree

from qspjax import _cache
from qspjax._collection import seldom_collected
from qspjax._identity import identity, packed

MAX_PROGRAMS = 256
"""The number of programs of a function that are remembered, the latest ones."""
QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
"""How XLA compiles what holds no loop: it takes a quarter of the time, and such a program runs for microseconds."""
BRIEFLY: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
"""How it compiles short loops around native code: it takes half the time, and results are the same to the last bit."""
if jax.__version_info__ < (0, 11):
    QUICKLY["xla_cpu_use_fusion_emitters"] = BRIEFLY["xla_cpu_use_fusion_emitters"] = False
_OURS, _LAPACK = "qspjax_", "lapack_"
"""How the names begin of native code that a program calls: ours, and jaxlib's, which has to be made ready."""
_NATIVE = f"stablehlo.custom_call @{_OURS}"
"""What the text of a program has where it calls native code."""
_CALL = re.compile(r"stablehlo\.custom_call @(\w+)\(")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Structure: TypeAlias = Hashable
"""How a tree is made of its leaves, as `jax.tree.flatten` says it."""


class _Shape(NamedTuple):
    """What a program has to know of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    weak_type: bool


class _Static(NamedTuple):
    """A leaf that is no array, and its type: 1 and True are equal."""

    type: type
    value: object


class _NoHashError(TypeError):
    """A static part of the arguments has no hash."""


class _Key:
    """What a program is made for: how its arguments are made of leaves, and the leaves, arrays by their shapes."""

    def __init__(self, structure: Structure, leaves: Sequence[_Shape | _Static]):
        self.structure, self.leaves = structure, tuple(leaves)
        try:
            self.hash = hash((structure, self.leaves))
        except TypeError as error:
            raise _NoHashError from error

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, _Key) and self.structure == other.structure and self.leaves == other.leaves
        except ValueError:  # an array in a static place
            return False


class _Program(NamedTuple):
    """A compiled program, and how its result is made of its arrays and of what is none."""

    call: Callable[[list], list]
    others: tuple
    structure: Structure

    def result(self, arrays: list) -> PyTree:
        numbers = iter(self.call(arrays))
        return jax.tree.unflatten(self.structure, [next(numbers) if x is _Place else x for x in self.others])


_LOCKS = [threading.RLock() for _ in range(64)]


class _Place:
    """The place of an array."""


class AbstractForeignCode(abc.ABC):
    """Native code that programs call by name: it has to be there before such a program is loaded."""

    @abc.abstractmethod
    def surroundings(self) -> object:
        """Return on what else than its text it depends."""

    @abc.abstractmethod
    def is_watched(self) -> bool:
        """Whether somebody wants to see what is compiled."""

    @abc.abstractmethod
    def description(self, name: str) -> tuple[str, list[str]] | None:
        """Return under which key it is kept and which functions it calls; None if it cannot be loaded elsewhere."""

    @abc.abstractmethod
    def load(self, name: str, description: tuple[str, list[str]]) -> bool:
        """Load it from where it was kept; return whether it is there."""


_foreign: list[AbstractForeignCode] = []


def call_foreign(code: AbstractForeignCode) -> None:
    """Let programs call native code."""
    _foreign[:] = [code]


def program(
    function: Callable[Arguments, Result],
    *,
    options: Mapping[str, str | bool] = MappingProxyType({}),
    around: Mapping[str, str | bool] | None = None,
    small: Callable[Arguments, bool] = lambda *_, **__: False,
) -> Callable[Arguments, Result]:
    """Compile a function of trees, whose arrays are its operands; everything else is part of the program.

    It is `eqx.filter_jit` in a function that is traced, on other devices than a CPU, and for an array that is not where
    JAX puts it by default.

    Args:
        function: The function.
        options: Options of XLA for programs with loops.
        around: Those for loops around native code, by default the same.
        small: Returns for some arguments whether the loops are so short that they are as good as none.
    """
    jitted = eqx.filter_jit(function, compiler_options=dict(options) or None)  # pyright: ignore[reportCallIssue]
    recipe = _Recipe(function, options, around, small)
    compiled_for = cache(max_size=MAX_PROGRAMS)(functools.partial(_compiled, recipe))

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        interpreted = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
        if named or interpreted or not trace_state_clean() or jax.default_backend() != "cpu":
            return jitted(*arguments, **named)
        leaves, structure = jax.tree.flatten(arguments)
        about = [x for x in map(_about, leaves) if x is not None]
        compiled = None
        if len(about) == len(leaves):
            with suppress(_NoHashError):
                key = _Key(structure, about)
                with _LOCKS[key.hash % len(_LOCKS)]:  # what one thread compiles, another waits for
                    compiled = compiled_for(key)
        if compiled is None:
            return jitted(*arguments)
        return compiled.result([leaf for leaf, x in zip(leaves, about, strict=True) if type(x) is _Shape])

    return call


def alone(primitive: Primitive) -> Callable[..., list[jax.Array]]:
    """Return how a primitive is computed outside of programs: as one of its own, though JAX may interpret others."""

    def compute(*operands: jax.Array, **parameters: object) -> list[jax.Array]:
        with jax.disable_jit(False):
            return jax.jit(functools.partial(primitive.bind, **parameters))(*operands)

    return compute


def _about(leaf: object) -> _Shape | _Static | None:
    """Return what a program has to know of a leaf; None if it is an array that is not at hand, or of keys."""
    if type(leaf) is np.ndarray:
        return _Shape(leaf.shape, leaf.dtype, False)
    if type(leaf) is ArrayImpl:  # never of keys
        return None if leaf.committed else _Shape(leaf.shape, leaf.dtype, leaf.weak_type)
    if isinstance(leaf, jax.Array):
        if isinstance(leaf, Tracer) or leaf.committed or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return None
        return _Shape(leaf.shape, leaf.dtype, leaf.weak_type)
    if isinstance(leaf, (np.ndarray, np.generic)):
        return _Shape(leaf.shape, leaf.dtype, False)
    return None if eqx.is_array(leaf) else _Static(type(leaf), leaf)


class _Recipe(NamedTuple):
    """How a function becomes a program: see `program`."""

    function: Callable[..., PyTree]
    options: Mapping[str, str | bool]
    around: Mapping[str, str | bool] | None
    small: Callable[..., bool]


@seldom_collected()
def _compiled(recipe: _Recipe, key: _Key) -> _Program | None:
    """Return the program of a function for some arguments; None for one that calls Python (equinox does)."""
    label = _label(recipe, key)
    kept = None if label is None else _kept(label)
    return _traced(recipe, key, label) if kept is None else kept


def _traced(recipe: _Recipe, key: _Key, label: str | None) -> _Program | None:
    """Trace a function, and compile it or load what was compiled from the same text; keep it under a label."""
    made: list[tuple[tuple, Structure]] = []
    is_small: list[bool] = []

    def of_arrays(arrays: list[jax.Array]) -> list[jax.Array]:
        numbers = iter(arrays)
        leaves = [next(numbers) if isinstance(x, _Shape) else x.value for x in key.leaves]
        arguments = jax.tree.unflatten(key.structure, leaves)
        is_small.append(recipe.small(*arguments))
        results, structure = jax.tree.flatten(recipe.function(*arguments))
        made.append((tuple(_Place if eqx.is_array(x) else x for x in results), structure))
        return [x for x in results if eqx.is_array(x)]

    of_arrays.__name__ = getattr(recipe.function, "__name__", "program").strip("_")
    shapes = [jax.ShapeDtypeStruct(*x[:2], weak_type=x.weak_type) for x in key.leaves if isinstance(x, _Shape)]
    lowered = jax.jit(of_arrays, keep_unused=True).lower(shapes)  # or the text does not say which are used
    text, options = lowered.as_text(), recipe.options
    if "callback" in text:
        return None
    if is_small[-1] or "stablehlo.while" not in text:
        options = QUICKLY
    elif recipe.around is not None and _NATIVE in text:
        options = recipe.around
    effort = jax.config.read("jax_disable_most_optimizations"), os.environ.get("XLA_FLAGS", "")
    text_key = _cache.key_of("xla", text, lowered.in_tree, lowered.out_tree, sorted(options.items()), *effort)
    compiled = _loaded(text_key)
    if compiled is None:
        compiled = _compiled_and_kept(lowered, text_key, options)
    result = _Program(compiled, *made[-1])
    if label is not None:
        _keep(label, text_key, text, result)
    return result


def _loaded(key: str) -> jax.stages.Compiled | None:
    """Return the compiled program that is kept under a key; None without."""
    kept = _cache.find(key)
    if kept is not None:
        try:
            serialised, inputs, outputs = pickle.loads(kept)
            return serialize_executable.deserialize_and_load(serialised, inputs, outputs)
        except Exception:  # noqa: BLE001 (whatever is wrong with it, it is compiled again)
            _cache.forget(key)
    return None


def _compiled_and_kept(lowered: jax.stages.Lowered, key: str, options: Mapping[str, str | bool]) -> jax.stages.Compiled:
    with _found_by_jax() as found:
        compiled = lowered.compile(compiler_options=dict(options))
    if _cache.is_on() and not found:
        try:
            _cache.keep(key, pickle.dumps(serialize_executable.serialize(compiled)))
        except (ValueError, NotImplementedError, pickle.PicklingError, jax.errors.JaxRuntimeError):
            return compiled  # it cannot be kept
    return compiled


class _Record(NamedTuple):
    """What is kept of a program under its label.

    Attributes:
        key: The key of what was compiled.
        foreign: The native code that it calls: names, and what loads it.
        lapack: Whether it calls LAPACK.
        others: See `_Program`.
        structure: See `_Program`.
    """

    key: str
    foreign: dict[str, tuple[str, list[str]]]
    lapack: bool
    others: tuple
    structure: Structure


def _label(recipe: _Recipe, key: _Key) -> str | None:
    """Return the label under which a program is found without being traced; None if that cannot be."""
    functions = [f for f in (recipe.function, recipe.small) if isinstance(f, FunctionType)]
    named = all(f.__module__.startswith(f"{__package__}.") and f.__closure__ is None for f in functions)
    if len(functions) < 2 or not named or not _cache.is_on() or any(code.is_watched() for code in _foreign):
        return None
    names = [f"{f.__module__}.{f.__qualname__}:{f.__code__.co_firstlineno}" for f in functions]
    options = [None if x is None else sorted(x.items()) for x in (recipe.options, recipe.around)]
    around = [code.surroundings() for code in _foreign]
    return identity(names, options, around, jax.tree.unflatten(key.structure, key.leaves))


def _kept(label: str) -> _Program | None:
    """Return the program that is kept under a label; None without."""
    kept = _cache.find(label)
    if kept is None:
        return None
    try:
        record: _Record = pickle.loads(kept)
        for name, description in record.foreign.items():
            if not any(code.load(name, description) for code in _foreign):
                return None
        if record.lapack:
            initialize_lapack()
        compiled = _loaded(record.key)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, it is traced again)
        _cache.forget(label)
        return None
    return None if compiled is None else _Program(compiled, record.others, record.structure)


def _keep(label: str, key: str, text: str, program: _Program) -> None:
    """Keep what finds a program under a label."""
    foreign, names = {}, dict.fromkeys(_CALL.findall(text))
    if len(_CALL.findall(text)) < text.count("custom_call"):
        return
    for name in names:
        description = next((code.description(name) for code in _foreign), None) if name.startswith(_OURS) else None
        if description is not None:
            foreign[name] = description
        elif not name.startswith(_LAPACK):
            return
    lapack = len(foreign) < len(names)
    content = packed(_Record(key, foreign, lapack, program.others, program.structure))
    if content is not None:
        _cache.keep(label, content)


@contextmanager
def _found_by_jax() -> Iterator[list[str]]:
    """Collect what this thread finds in JAX's own cache meanwhile: what was loaded from there is not whole if saved."""
    found, here = [], threading.get_ident()

    def listen(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits" and threading.get_ident() == here:
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(listen)
