"""The statistics of a measurement: error models, distributions of residuals, and censoring.

A new error model is a class in a file of its own and an export of `qspjax.fit`: one with a location and a scale defines
its scale, its transform and its support, others implement `AbstractErrorModel`. Fits, files, simulation and diagnostics
need nothing else.
"""
