"""Ask XLA on CPU to compile the loops of the kernel as a whole, and to share values between the results of a fusion.

By default XLA runs a program on CPU operation by operation: a step of a small stiff model is a hundred operations on
arrays of a few hundred bytes, and most of the time goes into starting them. XLA compiles *small* loops as one function
each; with the limit of what is small raised, the loop over steps is one, twice as fast or more. And it computes a value
that several others need once for each of them: an unrolled step shares nearly everything, so there it is told not to;
looped programs share little, and run faster without.

Neither option can be given through `jax.jit`, so the one private function of jax that hands a module to XLA is wrapped,
once, when the first kernel is lowered: a module that holds a function with a name from `MARKS` is compiled with the
options, every other as usual. The mark is part of the module, and so of its key in the persistent cache. Where jax has
no such function, programs are compiled without the options, and there is a warning, once.

Such fusions cannot contain a reduction to several results at once (`argmax`): XLA stops the process. A module with one
is compiled without them; qspjax itself has none (`_arrays`).

In jax 0.10 the newer of XLA's two emitters of fusions stops the process on some fusions of several results, so such a
module gets the older one. XLA leaves a loop alone that holds what it has a library for: scatter, matrix product and,
from jax 0.12 on, the sum of an array; `_jaxpr._rows` has loops for them.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

SLOW = (
    f"jax {jax.__version__} has no function by which qspjax can give options to XLA: the solves of `Rosenbrock`, "
    "`Explicit` and `Automatic` are right, but two to three times slower on a CPU than with an earlier jax."
)


P = ParamSpec("P")
T = TypeVar("T")


def fused(function: Callable[P, T], *, unrolled: bool) -> Callable[P, T]:
    """Return the function under a name by which its compilation is recognised."""
    _wrap_compilation()

    def marked(*operands: P.args, **options: P.kwargs) -> T:
        return function(*operands, **options)

    marked.__name__ = marked.__qualname__ = UNROLLED if unrolled else LOOPED
    return jax.jit(marked)


@functools.cache
def _wrap_compilation() -> bool:
    """Wrap the compilation of modules; return whether this jax allows it."""
    try:
        from jax._src import compiler
        from jax._src.lib import xla_client  # pyright: ignore[reportPrivateImportUsage] (there is no public one)

        original = compiler.backend_compile_and_load
        options = xla_client.CompileOptions
        for field in MARKS.values():
            options.ParseFromString(options().SerializeAsString() + field)
    except Exception:  # noqa: BLE001 - private functions of jax may change in any way
        if jax.default_backend() == "cpu":
            warnings.warn(SLOW, RuntimeWarning, stacklevel=2)
        return False

    @functools.wraps(original)
    def compile_and_load(
        backend: Any, module: Any, executable_devices: object, compile_options: Any, *others: object
    ) -> object:
        field = _field(module) if backend.platform == "cpu" else None
        if field is not None:
            compile_options = options.ParseFromString(compile_options.SerializeAsString() + field)
            compile_options.env_option_overrides = [*compile_options.env_option_overrides, *_OPTIONS]
        return original(backend, module, executable_devices, compile_options, *others)

    compiler.backend_compile_and_load = compile_and_load
    return True


def _field(module: Any) -> bytes | None:
    """Return the options of a module by the names of its functions, None if there is no mark among them."""
    names = [str(operation.attributes["sym_name"]) for operation in module.body.operations]
    mark = next((mark for mark in MARKS if any(mark in name for name in names)), None)
    if mark == UNROLLED and _reduces_to_several(module):
        mark = LOOPED
    return None if mark is None else MARKS[mark]


def _reduces_to_several(module: Any) -> bool:
    """Whether there is a reduction with more than one result."""
    from jax.extend.mlir import ir

    reductions = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.reduce" and len(operation.results) > 1:
            reductions.append(operation)
        return ir.WalkResult.INTERRUPT if reductions else ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return bool(reductions)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _message(field: int, payload: bytes) -> bytes:
    """Return a length-delimited field in the encoding of protocol buffers."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _extra(**options: str) -> bytes:
    """Return `CompileOptions` with these extra options of a backend.

    They are executable_build_options (3) . debug_options (3) . xla_backend_extra_options (500): {name: value}.
    """
    entries = (_message(1, name.encode()) + _message(2, value.encode()) for name, value in options.items())
    return _message(3, _message(3, b"".join(_message(500, entry) for entry in entries)))


_OPTIONS = [("xla_cpu_use_fusion_emitters", False)] if jax.__version_info__ < (0, 11) else []
_LOOP_OPTIONS = {
    "xla_cpu_small_while_loop_byte_threshold": str(1 << 62),
    # neither makes this code faster, and both take time to compile
    "xla_cpu_disable_loop_unrolling": "",
    "xla_cpu_disable_slp_vectorizer": "",
}
UNROLLED, LOOPED = "qspjax_unrolled", "qspjax_looped"
MARKS = {UNROLLED: _extra(**_LOOP_OPTIONS, xla_cpu_use_multi_output_fusion=""), LOOPED: _extra(**_LOOP_OPTIONS)}
"""Names of functions, and the options that a module with one of them is compiled with."""
