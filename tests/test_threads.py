"""Programs with linear algebra, in as many threads as there are cores, come to an end."""

import subprocess
import sys

PROGRAM = """
import os, threading
import qspjax, jax, jax.numpy as jnp

assert os.environ["NPROC"]
matrices = jnp.eye(12) + 0.01 * jax.random.normal(jax.random.key(0), (1000, 12, 12))

@jax.jit
def solved(b):
    def again(_, b):
        factors = jax.vmap(jax.scipy.linalg.lu_factor)(matrices + 1e-9 * b[..., None])
        return jax.vmap(jax.scipy.linalg.lu_solve)(factors, b)

    return jax.lax.fori_loop(0, 10, again, b)

b = jax.block_until_ready(solved(jnp.ones((1000, 12))))

def several():
    for _ in range(4):
        jax.block_until_ready(solved(b))

threads = [threading.Thread(target=several) for _ in range(os.cpu_count())]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_batched_linear_algebra_in_several_threads_ends():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=300)
