"""The rules of the primitives of JAX, which register themselves."""

from qspjax.solve.native.rules import _control, _elementwise, _moves, _products, _reductions  # noqa: F401
