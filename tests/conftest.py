"""Settings for all tests: no display, and a bounded number of compiled programs in a process."""

import os
from pathlib import Path

import jax
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

import qspjax as qsp  # noqa: E402


@pytest.fixture(scope="session")
def tight():
    """Return the method for comparisons with closed forms."""
    return qsp.solve.Diffrax(rtol=1e-10, atol=1e-16)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs where they are many: they live in memory maps, and Linux gives a process 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
