"""A function of arrays, translated, compiled and called, for many lanes at once."""

import ctypes

import jax
import numpy as np

from qspjax.solve.native._emit import Emitter
from qspjax.solve.native._engine import compiled
from qspjax.solve.native._graph import Graph, Region
from qspjax.solve.native._text import Elementary, Writer
from qspjax.solve.native._translate import Nodes, Translator, kind_of

_KEPT = []


def native(function, *operands, lanes=4):
    """Return the results of a function for each lane; operands and results have their lanes first."""
    shapes = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in operands]
    program = jax.make_jaxpr(function)(*shapes)
    translator, values, first = Translator(Graph()), [], 0
    for x in shapes:
        ids = translator.inputs(int(np.prod(x.shape, dtype=int)), x.dtype, first)
        first += ids.size
        values.append(Nodes(ids.reshape(x.shape), np.dtype(x.dtype)))
    results = translator.run(program, values)
    outputs = [i for x in results for i in translator.ids(x).ravel().tolist()]
    writer = Writer(lanes)
    emitter = Emitter(writer)

    def body():
        kinds = [translator.graph.kind(i) for i in outputs]
        for k, value in enumerate(emitter.region(Region(translator.graph, outputs), emitter.read_frame)):
            writer.store(value, writer.row("%out", k), kinds[k])
        writer.put("  ret void")

    writer.function("void @run(ptr %frame, ptr %out)", body)
    emitter.write_functions(emitter.functions)
    Elementary(writer).write()
    engine = compiled(writer.module())
    _KEPT.append(engine)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("run"))
    return _called(run, operands, [(x.shape, x.dtype) for x in results], lanes)


def _called(run, operands, shapes, lanes):
    patients = len(operands[0])
    rows = np.concatenate([_words(x.reshape(patients, -1)) for x in operands], axis=1).T
    sizes = [int(np.prod(shape, dtype=int)) for shape, _ in shapes]
    out = np.zeros((sum(sizes), patients), np.int64)
    for start in range(0, patients, lanes):
        part = rows[:, start : start + lanes]
        part = np.pad(part, ((0, 0), (0, lanes - part.shape[1])))
        into, result = _aligned(part), _aligned(np.zeros((max(len(out), 1), lanes), np.int64))
        run(into.ctypes.data, result.ctypes.data)
        out[:, start : start + lanes] = result[: len(out), : out[:, start : start + lanes].shape[1]]
    parts = np.split(out, np.cumsum(sizes)[:-1])
    return [_values(x, dtype).T.reshape(patients, *shape) for x, (shape, dtype) in zip(parts, shapes, strict=True)]


def _words(x):
    """Return numbers as the rows of a frame hold them: 64 bits each."""
    return x.astype(float).view(np.int64) if kind_of(x.dtype) == "float" else x.astype(np.int64)


def _values(words, dtype):
    words = np.ascontiguousarray(words)
    return words.view(float).astype(dtype) if kind_of(dtype) == "float" else words.astype(dtype)


def _aligned(x):
    raw = np.zeros(x.size + 16, np.int64)
    start = (-raw.ctypes.data % 64) // 8
    out = raw[start : start + x.size].reshape(x.shape)
    out[...] = x
    return out
