"""No alarms of XLA about what takes long to compile: the one place in qspjax that decides what XLA writes to stderr.

XLA writes some lines, as an error, where a program takes two minutes to compile, or a constant a second to fold.
Nothing is wrong then, and what is wrong is raised besides. Importing qspjax keeps XLA silent, unless the environment
variable `TF_CPP_MIN_LOG_LEVEL` is set: then that choice stands. XLA reads it when JAX is imported, which sets it to 1.
"""

import os
import sys

if "jax" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
elif os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":
    from contextlib import suppress

    with suppress(ImportError, AttributeError):  # it is no public part of JAX
        from jax._src.lib import utils  # pyright: ignore[reportPrivateImportUsage]

        utils.absl_set_min_log_level(3)
