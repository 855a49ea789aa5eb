"""Functions of the compiled program that are differentiated as they are called, in both modes.

JAX differentiates what a function is made of; here, its derivatives are functions themselves, which compute again what
they need of its values. So a program that calls a slope eight times, and is differentiated, has one function for it
and one for its transposed derivative, whatever the number of calls.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching

from qspjax._jaxpr._products import WIDE, largest_product
from qspjax.solve.native._translate import Translator, rule
from qspjax.solve.native._values import AbstractNodes, Value

T = TypeVar("T")
Marks = tuple[bool, ...]
"""Which operands have a tangent."""
Kinds = tuple[tuple[tuple[int, ...], np.dtype], ...]
"""Shapes and types of arrays."""


Translate = Callable[[Translator, Sequence[Value]], Sequence[Value]]
"""From operands to results, as they are translated."""
Pull = Callable[[Marks, Sequence[jax.Array], Sequence[jax.Array]], list[jax.Array]]
"""From what is marked, operands, and cotangents of results that are smooth, to those of the operands marked."""


class Outlined:
    """A function of arrays, compared by identity.

    Attributes:
        compute: From its operands to its results.
        translate: How it is translated, by default as it computes.
        numbers: Whether there is a function for each set of numbers among its operands.
        origin: The function of which this is the derivative along tangents of the operands that are marked.
        pull: Its transposed derivative, by default that of JAX.
        shapes: From the shapes of its operands to those of its results, by default by tracing it.
        sparse: Whether it is a derivative, of which most numbers may be zero.
        brief: Whether it is so short that it is not worth a function of its own.
    """

    def __init__(
        self,
        compute: Callable[..., list[jax.Array]],
        translate: Translate | None = None,
        *,
        numbers: bool = True,
        origin: "tuple[Outlined, Marks] | None" = None,
        pull: Pull | None = None,
        shapes: Callable[[Kinds], Kinds] | None = None,
        sparse: bool = False,
        brief: bool = False,
    ) -> None:
        self.compute, self.numbers, self.origin, self.sparse, self.brief = compute, numbers, origin, sparse, brief
        self.program = functools.cache(self._program)
        self.shapes = self._shapes if shapes is None else shapes
        self.pull = self._pulled if pull is None else pull
        self.translate = self._translated if translate is None else translate
        self.tangent = functools.cache(self._tangent)
        self.cotangent = functools.cache(self._cotangent)
        self.mapped = functools.cache(self._mapped)
        self.joined = functools.cache(self._joined)

    def __call__(self, *operands: jax.Array) -> list[jax.Array]:
        """Call it, in a program that is translated."""
        return outlined_p.bind(*operands, function=self)

    def _tangent(self, marks: Marks) -> "Outlined":
        """Return its derivative: a function of the operands, and of the tangents of those that are marked."""

        def compute(*operands: jax.Array) -> list[jax.Array]:
            primals, tangents = operands[: len(marks)], operands[len(marks) :]
            values, changes = jax.jvp(self._of_marked(primals, marks), chosen(primals, marks), list(tangents))
            return chosen(changes, smooth(values))

        return Outlined(compute, origin=(self, marks), sparse=True)

    def _cotangent(self, marks: Marks, there: Marks | None = None) -> "Outlined":
        """Return its transposed derivative: a function of the operands, and of the cotangents of the results.

        Those of which `there` is false are zero, and no operands.
        """

        def compute(*operands: jax.Array) -> list[jax.Array]:
            primals, given = operands[: len(marks)], iter(operands[len(marks) :])
            results = [kind for kind in self.shapes(kinds(primals)) if jnp.issubdtype(kind[1], jnp.inexact)]
            marked = (True,) * len(results) if there is None else there
            pairs = zip(results, marked, strict=True)
            cotangents = [next(given) if each else jnp.zeros(*kind) for kind, each in pairs]
            return self.pull(marks, primals, cotangents)

        return Outlined(compute, sparse=True)

    def _pulled(self, marks: Marks, primals: Sequence[jax.Array], cotangents: Sequence[jax.Array]) -> list[jax.Array]:
        results, pull = jax.vjp(self._of_marked(primals, marks), *chosen(primals, marks))
        remaining = iter(cotangents)
        return list(
            pull(
                [next(remaining) if each else _no_tangent(x) for x, each in zip(results, smooth(results), strict=True)]
            )
        )

    def _mapped(self, axes: tuple[int | None, ...]) -> "Outlined":
        """Return it mapped over an axis of some operands: what does not depend on these is computed once.

        One with wide products is computed for one element after the other: its long arrays are those of memory then.
        """

        def compute(*operands: jax.Array) -> list[jax.Array]:
            size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)

            def element(k: int) -> list[jax.Array]:
                pairs = zip(operands, axes, strict=True)
                return self.compute(
                    *(x if axis is None else jax.lax.index_in_dim(x, k, axis, False) for x, axis in pairs)
                )

            pairs = zip(operands, axes, strict=True)
            own = tuple((x.shape if axis is None else _without(x.shape, axis), np.dtype(x.dtype)) for x, axis in pairs)
            if largest_product(self.program(own).jaxpr) < WIDE:
                return jax.vmap(self.compute, in_axes=axes)(*operands)
            return [jnp.stack(parts) for parts in zip(*map(element, range(size)), strict=True)]

        return Outlined(compute)

    def _joined(self, groups: tuple[tuple[int, ...], ...]) -> "Outlined":
        """Return it with an array for each group of its results, in which they follow one another."""

        def compute(*operands: jax.Array) -> list[jax.Array]:
            results = self.compute(*operands)
            return [jnp.concatenate([jnp.ravel(results[k]) for k in group]) for group in groups]

        return Outlined(compute, sparse=self.sparse)

    def _translated(self, translator: Translator, values: Sequence[Value]) -> Sequence[Value]:
        return translator.run(self.program(kinds(values)), values)

    def _program(self, operands: Kinds) -> ClosedJaxpr:
        """Trace it, once for all calls and for its translation."""
        return jax.make_jaxpr(self.compute)(*(jax.ShapeDtypeStruct(*kind) for kind in operands))

    def _shapes(self, operands: Kinds) -> Kinds:
        return kinds(cast("list[ShapedArray]", self.program(operands).out_avals))

    def _of_marked(self, primals: Sequence[jax.Array], marks: Marks) -> Callable[..., list[jax.Array]]:
        def function(*chosen: jax.Array) -> list[jax.Array]:
            remaining = iter(chosen)
            return self.compute(*(next(remaining) if mark else x for x, mark in zip(primals, marks, strict=True)))

        return function


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape without an axis, which may be counted from the end."""
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def kinds(values: Sequence[Value] | Sequence[ShapedArray] | Sequence[jax.Array]) -> Kinds:
    """Return the shape and the type of each value."""
    return tuple((x.shape, np.dtype(x.dtype)) for x in values)


def chosen(values: Sequence[T], marks: Sequence[bool]) -> list[T]:
    """Return what is marked."""
    return [value for value, mark in zip(values, marks, strict=True) if mark]


def smooth(values: Sequence[jax.Array | ShapedArray]) -> Marks:
    """Return which values are real numbers, so that they have tangents."""
    return tuple(jnp.issubdtype(x.dtype, jnp.inexact) for x in values)


def _no_tangent(x: jax.Array) -> np.ndarray:
    return np.zeros(x.shape, jax.dtypes.float0)


outlined_p = Primitive("lane_outlined")
outlined_p.multiple_results = True


@outlined_p.def_abstract_eval
def _shapes(*operands: ShapedArray, function: Outlined) -> list[ShapedArray]:
    return [ShapedArray(*kind) for kind in function.shapes(kinds(operands))]


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero], *, function: Outlined
) -> tuple[list[jax.Array], list[jax.Array | ad.Zero]]:
    there = [tangent for tangent in tangents if not isinstance(tangent, ad.Zero)]
    marks = tuple(not isinstance(tangent, ad.Zero) for tangent in tangents)
    results, changes = function(*primals), iter(function.tangent(marks)(*primals, *there))
    none = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in results]
    return results, [next(changes) if each else zero for each, zero in zip(smooth(results), none, strict=True)]


def _transpose(
    cotangents: Sequence[jax.Array | ad.Zero], *operands: jax.Array | ad.UndefinedPrimal, function: Outlined
) -> list[jax.Array | None]:
    assert function.origin is not None  # only derivatives are linear
    origin, marks = function.origin
    primals = cast("Sequence[jax.Array]", operands[: len(marks)])
    pulled = origin.cotangent(marks)(*primals, *map(ad.instantiate_zeros, cotangents))
    pairs = zip(operands[len(marks) :], pulled, strict=True)
    return [*[None] * len(marks), *(value if ad.is_undefined_primal(x) else None for x, value in pairs)]


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, function: Outlined
) -> tuple[list[jax.Array], list[int]]:
    results = function.mapped(tuple(axes))(*operands)
    return results, [0] * len(results)


ad.primitive_jvps[outlined_p] = _jvp
ad.primitive_transposes[outlined_p] = _transpose
batching.primitive_batchers[outlined_p] = _batch


@rule("lane_outlined")
def _outlined(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    function: Outlined = eqn.params["function"]
    if not any(isinstance(x, AbstractNodes) for x in operands):
        return function.translate(self, operands)
    return self.call(("outlined", function), function.translate, operands, numbers=function.numbers)
