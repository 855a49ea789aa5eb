"""Settings for all tests: no display, no implicit rank promotion in our own code."""

import os

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

import qspjax as qsp  # noqa: E402


@pytest.fixture(scope="session")
def tight():
    """Return the method for comparisons with closed forms."""
    return qsp.solve.Diffrax(rtol=1e-10, atol=1e-16)
