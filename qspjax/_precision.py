"""Float64 by default: the one place in qspjax that decides the precision.

Stiff pharmacology is wrong, or fails, in float32. Importing qspjax, or a part of it, turns on double precision in JAX,
unless the environment variable `JAX_ENABLE_X64` is set: then that choice stands. JAX reads this variable when it is
imported, so it is set here as long as that has not happened: importing qspjax alone then does not import JAX.
"""

import os
import sys

if "JAX_ENABLE_X64" not in os.environ:
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_enable_x64", True)
    else:
        os.environ["JAX_ENABLE_X64"] = "1"
