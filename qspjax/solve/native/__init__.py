"""Solves compiled for this processor: the programs of one lane, translated to vectors of lanes.

`_lane` traces a step of one patient and `_loop` writes the loop that feeds it; `_translate` and `rules` make a graph of
scalars of it (`_graph`, `_values`), `_rows` loops of what is long; `_system` writes linear algebra out, or `_tables`
as loops; `_prepared` takes out what is fixed for a patient, and `_order` says when the rest is computed; `_emit` and
`_text` write the graph as text of LLVM, `_engine` compiles it, and `_call` makes it the lowering of a solve, which
`_interrupts` can end. `_march` is all of this for linear models, whose lanes go from boundary to boundary, and
`_lockstep`, `_march_adjoint` and `_march_tangent` are its derivatives.

`_mapped` does the same for functions without a loop: what is observed, what depends on parameters alone, formulas of a
fit.

Derivatives: `_record` writes down the steps that `_adjoint` retraces, `_tangent` carries tangents, and `_outlined`
differentiates functions as they are called.
"""

from qspjax.solve.native import _march, _march_derivatives  # noqa: F401  (they register their lowerings)
from qspjax.solve.native._call import Compiled as Compiled, compilations as compilations
