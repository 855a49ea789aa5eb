"""Float64 by default: the one place in qspjax that decides the precision.

Stiff pharmacology is wrong, or fails, in float32. Importing qspjax turns on double precision in JAX, unless the
environment variable `JAX_ENABLE_X64` is set: then that choice stands.
"""

import os

import jax

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)
