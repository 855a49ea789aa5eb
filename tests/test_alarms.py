"""XLA's alarms about slow compilation reach nobody, whichever of JAX and qspjax is imported first."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import {first}, {second}
import jax, jax.numpy as jnp

def folded(x):
    constant = jax.lax.iota(jnp.float32, 4_000)
    return x + jax.lax.reduce_window(constant, 0.0, jax.lax.add, (1001,), (1,), "SAME")[0]

jax.jit(folded).lower(1.0).compile()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("jax", "qspjax"), ("qspjax", "jax")])
def test_nobody_hears_of_slow_compilation(first, second):
    settings = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    program = PROGRAM.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", program], env=settings, check=True, capture_output=True, text=True)
    assert done.stderr == ""
