"""Coefficients of Rosenbrock methods, one a file: what `solve.Rosenbrock` and its diffrax twin are made from.

A further one is a class here, exported in `qspjax.solve`; the tests find it there and check its order conditions, its
stability and its order of convergence.
"""
