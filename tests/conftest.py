"""Settings for all tests: no display, programs that compile quickly, and a bounded number of them in a process.

Most of the time of a test is the compiler's, so programs are compiled without optimisation; where every bit counts, a
test asks for the programs that users have (`optimised`), and `JAX_DISABLE_MOST_OPTIMIZATIONS=0` gives them to all.
"""

import os
import zlib
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("QSPJAX_CACHE", "off")

import jax  # noqa: E402
import pytest  # noqa: E402

import qspjax as qsp  # noqa: E402


@pytest.fixture(scope="session")
def tight():
    """Return the method for comparisons with closed forms."""
    return qsp.solve.Diffrax(rtol=1e-10, atol=1e-16)


@pytest.fixture
def optimised():
    """Compile programs as users have them."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.clear_caches()
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs where they are many: they live in memory maps, and Linux gives a process 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


def pytest_addoption(parser):
    parser.addoption("--share", metavar="K/N", help="run the K-th of N shares of the tests, K from 0; by file and test")


def pytest_collection_modifyitems(config, items):
    """Keep one share of the tests, chosen by their names alone, so that N runs of the N shares are all of them once."""
    if share := config.getoption("share"):
        k, n = map(int, share.split("/"))
        elsewhere = [item for item in items if zlib.crc32(item.nodeid.encode()) % n != k % n]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % n == k % n]
