"""Machine code from text of LLVM, and its functions as operations of JAX.

XLA calls a handler with the address of a call frame, which holds the addresses of the buffers; the handler is text of
LLVM as well, so that no compiler is needed. Before the first, `check_layout` asks whether the frame is as expected.
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import threading
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from qspjax import _cache
from qspjax.solve.native import _interrupts
from qspjax.solve.native._frame import CONTEXT, Axis
from qspjax.solve.native._text import Writer
from qspjax.solve.native._values import UnsupportedError

ARGUMENTS, RESULTS = 72, 112
"""Where in a call frame the addresses of the arrays of buffers are."""
DATA, DIMENSIONS = 24, 40
"""Where in a buffer its data and its dimensions are."""
EXTENSION, METADATA = 8, 24
SIZES = {"%frame": {40: 40, 56: 1, 80: 40, 96: 1}, "buffer": {0: 48, 32: 1}}
"""What a frame with one operand and one result holds, and a buffer with one axis: sizes of structures, and counts."""

_KEPT: dict[str, object] = {}
"""Machine code that was compiled: never freed, since an executable of XLA may call it."""
_DESCRIPTIONS: dict[str, tuple[str, list[str]]] = {}
"""By name the key under which code is kept, and the functions of the C library that it calls."""
_LOCK = threading.RLock()


@functools.cache
def llvm():  # noqa: ANN201 (a module)
    """Return the binding of LLVM, ready to compile for this machine.

    Raises:
        UnsupportedError: If there is none.
    """
    try:
        import llvmlite.binding as binding
    except ImportError as error:
        raise UnsupportedError("llvmlite is not installed") from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@functools.cache
def features() -> frozenset[str]:
    """Return the features of this processor."""
    return frozenset(name for name, there in llvm().get_host_cpu_features().items() if there)


@functools.cache
def widest() -> int:
    """Return the number of floats that a vector of this machine holds.

    Raises:
        UnsupportedError: If it is one for which nothing is compiled.
    """
    if platform.system() == "Windows":
        raise UnsupportedError("Windows")
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        if "fma" not in features():
            raise UnsupportedError("a processor without fused multiply-add")
        return 8 if "avx512f" in features() else 4
    if machine in ("arm64", "aarch64"):
        return 2
    raise UnsupportedError(f"a processor of type {machine}")


def lanes(size: int) -> int:
    """Return the number of lanes for a state of a size; no result depends on it.

    Two vectors side by side hide the latency of divisions, as long as there are registers for both.
    """
    return 2 * widest() if size <= 12 else widest()


def compiled(text: str):  # noqa: ANN201 (an engine of LLVM)
    """Compile a module, or load what was compiled from the same text before, perhaps by another process.

    The graphs are merged and folded already: passes over the text gain nothing, and take long where a function is;
    code of level 1 is faster than that of level 2, which spills more.

    Raises:
        UnsupportedError: If a function of the C library is not there.
    """
    binding, key = llvm(), _cache.key_of("native", text, *processor())
    engine = _loaded(key, _declared(text))
    if engine is not None:
        return engine
    engine, module = _empty(), binding.parse_assembly(text)
    module.verify()
    engine.set_object_cache(notify_func=lambda which, made: _cache.keep(key, made) if which is module else None)
    engine.add_module(module)
    engine.finalize_object()
    return engine


def _declared(text: str) -> list[str]:
    """Return the functions of the C library that a module calls."""
    return re.findall(r"^declare \w+ @([\w]+)\(", text, flags=re.MULTILINE)


def processor() -> tuple[str, str]:
    """Return the name of this processor, and its features."""
    return llvm().get_host_cpu_name(), llvm().get_host_cpu_features().flatten()


def _empty():  # noqa: ANN202 (an engine of LLVM)
    """Return an engine without code."""
    name, abilities = processor()
    machine = llvm().Target.from_default_triple().create_target_machine(cpu=name, features=abilities, opt=1)
    return llvm().create_mcjit_compiler(llvm().parse_assembly(""), machine)


def _loaded(key: str, functions: Sequence[str]):  # noqa: ANN202 (an engine of LLVM, or None)
    """Return an engine with the code that is kept under a key; None without.

    Raises:
        UnsupportedError: If one of the functions that it calls is not there.
    """
    engine = _empty()  # from now on, symbols are found
    for function in functions:
        if not llvm().address_of_symbol(function):
            raise UnsupportedError(f"the function `{function}`, which the C library of this machine does not have")
    there = _cache.find(key)
    if there is None:
        return None
    try:
        engine.add_object_file(llvm().ObjectFileRef.from_data(there))
        engine.finalize_object()
    except RuntimeError:  # whatever is wrong with it, it is compiled again
        _cache.forget(key)
        return None
    return engine


def threads() -> int:
    """Return the number of threads that may be used."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


def registered(text: str, handler: str) -> str:
    """Compile a module with a handler, once; return the name under which XLA calls it."""
    check_layout()
    with _LOCK:
        hear_interrupts()
    return _registered(text + handler)


def _registered(text: str) -> str:
    name = "qspjax_" + hashlib.sha256(text.encode()).hexdigest()[:24]
    with _LOCK:
        if name not in _KEPT:
            _register(name, compiled(text))
            _DESCRIPTIONS[name] = _cache.key_of("native", text, *processor()), _declared(text)
    return name


def _register(name: str, engine) -> None:  # noqa: ANN001 (an engine of LLVM)
    """Let XLA call the handler of some code under a name."""
    address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("handler"))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    _KEPT[name] = engine, address


def description(name: str) -> tuple[str, list[str]] | None:
    """Return what `load` needs to find code again; None if it is not known."""
    return _DESCRIPTIONS.get(name)


def load(name: str, description: tuple[str, list[str]]) -> bool:
    """Register code that is kept; return whether it is there."""
    key, functions = description
    try:
        check_layout()
        with _LOCK:
            hear_interrupts()
            if name not in _KEPT and (engine := _loaded(key, functions)) is not None:
                _register(name, engine)
                _DESCRIPTIONS[name] = description
            return name in _KEPT
    except UnsupportedError:
        return False


@functools.cache
def hear_interrupts() -> None:
    """Let solves hear of Ctrl-C."""
    engine = compiled(_interrupts.TEXT)
    for name in (_interrupts.ENTER, _interrupts.LEAVE):
        llvm().add_symbol(name, engine.get_function_address(name))
    _interrupts.listen(engine.get_global_value_address("state"), engine.get_global_value_address("pipe"))
    _KEPT["interrupts"] = engine


@functools.cache
def check_layout() -> None:
    """Check that XLA calls a handler with the frame that is expected here.

    Raises:
        UnsupportedError: If it does not.
    """
    w = Writer(1)

    def body() -> None:
        _answer(w)
        operand, result = (_load(w, _load(w, "%frame", place), 0) for place in (ARGUMENTS, RESULTS))
        fits = w.op("icmp eq i64 0, 0")
        for base, sizes in (("%frame", SIZES["%frame"]), (operand, SIZES["buffer"]), (result, SIZES["buffer"])):
            for offset, size in sizes.items():
                same = w.op(f"icmp eq i64 {_load(w, base, offset, 'i64')}, {size}")
                fits = w.op(f"and i1 {fits}, {same}")
        w.branch(fits, "copy", "leave")
        w.label("copy")
        source, into = (_load(w, buffer, DATA) for buffer in (operand, result))
        count = _load(w, _load(w, operand, DIMENSIONS), 0, "i64")

        def copy(k: str) -> None:
            x = w.op(f"load double, ptr {w.at('double', source, k)}")
            w.put(f"  store double {x}, ptr {w.at('double', into, k)}")

        w.loop(count, copy)
        w.jump("leave")
        w.label("leave")
        w.put("  ret ptr null")

    w.function("ptr @handler(ptr %frame)", body)
    text = w.module()
    key = _cache.key_of("layout", text)
    if _cache.find(key) is not None:
        return
    call = jax.ffi.ffi_call(_registered(text), jax.ShapeDtypeStruct((3,), np.float64))
    numbers = np.array([0.5, -3.25, 1e300])
    with jax.ensure_compile_time_eval():
        if np.asarray(jax.jit(call)(numbers)).tobytes() != numbers.tobytes():
            raise UnsupportedError("this version of XLA, whose call frame is another")
    _cache.keep(key, b"as expected")


def _load(w: Writer, base: str, offset: int, type: str = "ptr") -> str:
    return w.op(f"load {type}, ptr {w.at('i8', base, offset)}")


def _answer(w: Writer) -> None:
    """Answer when XLA asks for which version of its interface a handler is written: 0.3."""
    extension = _load(w, "%frame", EXTENSION)
    w.branch(w.op(f"icmp ne ptr {extension}, null"), "metadata", "call")
    w.label("metadata")
    metadata = _load(w, extension, METADATA)
    for offset, x in ((24, 0), (28, 3), (32, 0)):
        w.put(f"  store i32 {x}, ptr {w.at('i8', metadata, offset)}")
    w.put("  ret ptr null")
    w.label("call")


def handler(operands: int, results: int, lengths: Mapping[str, Axis | None], least: int) -> str:
    """Return the text of the handler of a module.

    Args:
        operands: The number of operands, whose addresses follow `CONTEXT`.
        results: The number of results, whose addresses follow these.
        lengths: By field of the context the axis whose length it is, None where it is zero.
        least: The number of patients from which on another thread is worth its start.
    """
    w = Writer(1)

    def put(index: int, x: str, type: str = "i64") -> None:
        w.put(f"  store {type} {x}, ptr {w.at('i64', '%ctx', index)}")

    def body() -> None:
        w.put(f"  %ctx = alloca [{len(CONTEXT) + operands + results} x i64]\n  %counter = alloca i64")
        _answer(w)
        w.put("  store i64 0, ptr %counter")
        places = (_load(w, "%frame", ARGUMENTS), operands), (_load(w, "%frame", RESULTS), results)
        buffers = [[_load(w, array, 8 * k) for k in range(count)] for array, count in places]
        for k, buffer in enumerate([*buffers[0], *buffers[1]]):
            put(len(CONTEXT) + k, _load(w, buffer, DATA, "i64"))
        length = dict.fromkeys(lengths, "0")
        for name, place in lengths.items():
            if place is not None:
                dimensions = _load(w, buffers[place.result][place.number], DIMENSIONS)
                length[name] = _load(w, dimensions, 8 * place.axis, "i64")
            put(CONTEXT.index(name), length[name])
        put(CONTEXT.index("counter"), "%counter", "ptr")
        put(CONTEXT.index("begun"), "0")
        interrupts = w.op(f"call ptr @{_interrupts.ENTER}()")
        put(CONTEXT.index("interrupts"), interrupts, "ptr")
        put(CONTEXT.index("heard"), w.op(f"load atomic i64, ptr {interrupts} monotonic, align 8"))
        _run(w, length["patients"], least)
        w.put(f"  call void @{_interrupts.LEAVE}()")
        w.put("  ret ptr null")

    w.function("ptr @handler(ptr %frame)", body)
    if platform.system() != "Windows":
        w.function("internal ptr @work(ptr %ctx)", lambda: w.put("  call void @run(ptr %ctx)\n  ret ptr null"))
    declared = f"declare ptr @{_interrupts.ENTER}()\ndeclare void @{_interrupts.LEAVE}()\n"
    declared += "" if platform.system() == "Windows" else _THREADS
    return declared + w.module()


_THREADS = """declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(ptr, ptr)
"""


def _run(w: Writer, patients: str, least: int) -> None:
    """Run in this thread, and in as many others as there is work for."""
    others = min(threads() - 1, 63)
    if not others:
        w.put("  call void @run(ptr %ctx)")
        return
    w.put(f"  %threads = alloca [{others} x ptr]\n  %begun = alloca i64\n  store i64 0, ptr %begun")
    for k in range(others):
        another, after = w.fresh("another"), w.fresh("after")
        w.branch(w.op(f"icmp sge i64 {patients}, {(k + 2) * least}"), another, after)
        w.label(another)
        begun = w.op("load i64, ptr %begun")
        place = w.at("ptr", "%threads", begun)
        failed = w.op(f"call i32 @pthread_create(ptr {place}, ptr null, ptr @work, ptr %ctx)")
        one = w.op(f"zext i1 {w.op(f'icmp eq i32 {failed}, 0')} to i64")
        w.put(f"  store i64 {w.add(begun, one)}, ptr %begun")
        w.jump(after)
        w.label(after)
    w.put("  call void @run(ptr %ctx)")

    def join(k: str) -> None:
        thread = w.op(f"load ptr, ptr {w.at('ptr', '%threads', k)}")
        w.put(f"  %joined = call i32 @pthread_join(ptr {thread}, ptr null)")

    w.loop(w.op("load i64, ptr %begun"), join)
