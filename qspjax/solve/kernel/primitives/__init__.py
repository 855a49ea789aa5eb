"""The ensemble as JAX primitives: every operand may have an axis of patients, and `vmap` only makes it longer.

JAX has no public way to define derivative rules in both modes: `custom_vjp` forbids forward mode, and a loop of unknown
length cannot be transposed. So there are primitives (`_define`): `solve` has a tangent rule that records (`record`) and
calls `tangent`, which is linear, and whose transpose is `adjoint`. The tangent of `tangent` is `tangent` of one order
more, and so on. What else derivatives of second and higher order need, that of `adjoint` and the transposes of these,
comes from a replay in plain JAX of the steps of each patient (`steps`). `_differentiate` holds these rules.

The record belongs to the whole ensemble. Batching (`_batch`) folds the mapped axis into the patients of all primitives
alike, so a record is never mapped itself: under `vmap` it is that of the longer ensemble.
"""

from qspjax.solve.kernel.primitives import _batch, _differentiate  # noqa: F401  (they register their rules)
from qspjax.solve.kernel.primitives._define import run as run
