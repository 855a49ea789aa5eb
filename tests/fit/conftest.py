"""Fits in tests are compiled without optimisation: most of their time is the compiler's."""

import pytest

from tests.systems.compiled import OPTIONS


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr("qspjax.fit._search.QUICKLY", OPTIONS)
