"""Ask XLA on CPU for multi-output fusion where a program is written out.

By default XLA computes a value that several others need once for each of them; a step of a stiff method, written out,
shares nearly everything, and runs three times slower than it must. The option that prevents this cannot be given
through `jax.jit`, so the one private function of jax that hands a module to XLA is wrapped, once, when the first
kernel is lowered: a module that holds a function named `MARK` is compiled with the option, every other as ever. The
mark is part of the module, and so of its key in the persistent cache. Where a jax has no such function, programs are
compiled without the option.

In jax 0.10 the newer of XLA's two emitters of fusions stops the process on some multi-output fusions, so such a module
gets the older one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from qspjax.solve.kernel._layout import System

MARK = "qspjax_written_out"
_FUSION = b"xla_cpu_use_multi_output_fusion"


def fused(function: Callable, system: System) -> Callable:
    """Return the function under a name by which its compilation is recognised, if it is written out."""
    if not system.written:
        return function
    _watch()

    def marked(*operands: Any) -> Any:
        return function(*operands)

    marked.__name__ = marked.__qualname__ = MARK
    return jax.jit(marked)


@functools.cache
def _watch() -> bool:
    """Wrap the compilation of modules; return whether this jax allows it."""
    try:
        from jax._src import compiler
        from jax._src.lib import xla_client

        original = compiler.backend_compile_and_load
        options = xla_client.CompileOptions
        options.ParseFromString(options().SerializeAsString() + _FIELD)
    except Exception:  # noqa: BLE001 - private functions of jax may change in any way
        return False

    @functools.wraps(original)
    def compile_and_load(backend: Any, module: Any, executable_devices: Any, compile_options: Any, *rest: Any) -> Any:
        if backend.platform == "cpu" and _marked(module):
            compile_options = options.ParseFromString(compile_options.SerializeAsString() + _FIELD)
            compile_options.env_option_overrides = [*compile_options.env_option_overrides, *_OPTIONS]
        return original(backend, module, executable_devices, compile_options, *rest)

    compiler.backend_compile_and_load = compile_and_load
    return True


def _marked(module: Any) -> bool:
    return any(MARK in str(operation.attributes["sym_name"]) for operation in module.body.operations)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _message(field: int, payload: bytes) -> bytes:
    """Return a length-delimited field in the encoding of protocol buffers."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


_OPTIONS = [("xla_cpu_prefer_vector_width", 512)]
if jax.__version_info__ < (0, 11):
    _OPTIONS.append(("xla_cpu_use_fusion_emitters", False))
# executable_build_options (3) . debug_options (3) . xla_backend_extra_options (500): {option: ""}
_FIELD = _message(3, _message(3, _message(500, _message(1, _FUSION) + _message(2, b""))))
