"""The statistics of a measurement: error models, distributions of residuals, and censoring.

A new error model is a class in a file of its own and an export of `qspjax.fit`: one of the location and scale kind says
its scale, its transform and its support, others implement `AbstractErrorModel`. Fits, files, simulation and diagnostics
ask it for all else.
"""
