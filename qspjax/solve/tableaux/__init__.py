"""Coefficients of Rosenbrock methods, one per file, for `solve.Rosenbrock` and its diffrax counterpart.

A new method is a class here, exported in `qspjax.solve`; the tests find it there and check its order conditions, its
stability and its order of convergence.
"""
