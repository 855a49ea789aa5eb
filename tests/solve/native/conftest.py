"""What is tested here is native code, whatever the environment chose for the other tests."""

import pytest


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """Compile natively."""
    monkeypatch.delenv("QSPJAX_BACKEND", raising=False)
