"""Compiled programs of functions of trees: one for each structure and shape, kept on disk for other processes."""

import functools
import os
import pickle
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax._src.array import ArrayImpl
from jax._src.core import trace_state_clean
from jax._src.util import cache  # pyright: ignore[reportPrivateImportUsage] (`jax.clear_caches` empties it)
from jax.core import Tracer
from jax.experimental import serialize_executable
from jaxtyping import PyTree

from qspjax import _cache
from qspjax._collection import seldom_collected

MAX_PROGRAMS = 256
"""The number of programs of a function that are remembered, the latest ones."""
QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
"""How XLA compiles what holds no loop: it takes a quarter of the time, and such a program runs for microseconds."""
BRIEFLY: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
"""How it compiles short loops around native code: it takes half the time, and results are the same to the last bit."""
if jax.__version_info__ < (0, 11):
    QUICKLY["xla_cpu_use_fusion_emitters"] = BRIEFLY["xla_cpu_use_fusion_emitters"] = False
_NATIVE = "stablehlo.custom_call @qspjax_"
"""What the text of a program has where it calls native code."""

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
        return jax.tree.unflatten(self.structure, [next(numbers) if x is _ARRAY else x for x in self.others])


_LOCKS = [threading.RLock() for _ in range(64)]

_ARRAY = object()
"""The place of an array."""


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
    compiled_for = cache(max_size=MAX_PROGRAMS)(functools.partial(_compiled, function, options, around, small))

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


@seldom_collected()
def _compiled(
    function: Callable[..., PyTree],
    options: Mapping[str, str | bool],
    around: Mapping[str, str | bool] | None,
    small: Callable[..., bool],
    key: _Key,
) -> _Program | None:
    """Return the program of a function for some arguments; None for one that calls Python (equinox does)."""
    made: list[tuple[tuple, Structure]] = []
    is_small: list[bool] = []

    def of_arrays(arrays: list[jax.Array]) -> list[jax.Array]:
        numbers = iter(arrays)
        leaves = [next(numbers) if isinstance(x, _Shape) else x.value for x in key.leaves]
        arguments = jax.tree.unflatten(key.structure, leaves)
        is_small.append(small(*arguments))
        results, structure = jax.tree.flatten(function(*arguments))
        made.append((tuple(_ARRAY if eqx.is_array(x) else x for x in results), structure))
        return [x for x in results if eqx.is_array(x)]

    of_arrays.__name__ = getattr(function, "__name__", "program").strip("_")
    shapes = [jax.ShapeDtypeStruct(*x[:2], weak_type=x.weak_type) for x in key.leaves if isinstance(x, _Shape)]
    lowered = jax.jit(of_arrays, keep_unused=True).lower(shapes)  # or the text does not say which are used
    text = lowered.as_text()
    if "callback" in text:
        return None
    if is_small[-1] or "stablehlo.while" not in text:
        options = QUICKLY
    elif around is not None and _NATIVE in text:
        options = around
    return _Program(_loaded(lowered, text, options), *made[-1])


def _loaded(lowered: jax.stages.Lowered, text: str, options: Mapping[str, str | bool]) -> jax.stages.Compiled:
    """Return the compiled program, as it was kept or compiled and kept now."""
    effort = jax.config.read("jax_disable_most_optimizations"), os.environ.get("XLA_FLAGS", "")
    key = _cache.key_of("xla", text, lowered.in_tree, lowered.out_tree, sorted(options.items()), *effort)
    kept = _cache.find(key)
    if kept is not None:
        try:
            serialised, inputs, outputs = pickle.loads(kept)
            return serialize_executable.deserialize_and_load(serialised, inputs, outputs)
        except Exception:  # noqa: BLE001 (whatever is wrong with it, it is compiled again)
            _cache.forget(key)
    with _found_by_jax() as found:
        compiled = lowered.compile(compiler_options=dict(options))
    if _cache.is_on() and not found:
        try:
            _cache.keep(key, pickle.dumps(serialize_executable.serialize(compiled)))
        except (ValueError, NotImplementedError, pickle.PicklingError, jax.errors.JaxRuntimeError):
            return compiled  # it cannot be kept
    return compiled


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
