"""The ensemble kernel: many patients side by side, from the loop over lanes to its derivatives.

`_layout` traces a model into rows of lanes, with `qspjax._jaxpr` (`_split` partitions it, `_lanes` evaluates it there,
`_sparsity` finds the entries of its Jacobian); `_jacobian`, `_rates` and `_sparse_lu` are the linear algebra;
`_rosenbrock` and `_explicit` one step; `_lanes` the loop, with refilling; `_replay` and `_adjoint` its derivatives;
`primitives` makes JAX primitives of it all, and `_fusion` tells XLA how to compile them.

On a GPU the same programs run, with the whole cohort as lanes; that has not been measured yet. A kernel in Pallas that
keeps a block of lanes in registers from start to end would take the place of `_lanes.solve`, whose arguments and
results are all that the other modules know of it.
"""
