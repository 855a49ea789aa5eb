"""A `jit` for tests: compiled without optimisation, since compiling is most of the time of a test of derivatives."""

import jax

OPTIONS = {"xla_backend_optimization_level": 0}


def compiled(function):
    """Return a function that runs as one program, quickly made and slow."""
    return jax.jit(function, compiler_options=OPTIONS)
