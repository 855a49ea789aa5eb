"""Subjects on several cores: what is found does not depend on how they are dealt out."""

import jax
import numpy as np
import pytest

from qspjax.fit import FOCEI, SAEM, OuterProducts, nlme
from qspjax.fit.mixed import _parts
from qspjax.fit.mixed._conditional import twice_and_effects
from tests.systems.mixed import levels

KEY = jax.random.key(0)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(_parts, "FEWEST", 2)
    monkeypatch.setattr(_parts, "cores", lambda: 2)


def test_results_are_joined_or_added(two_cores, monkeypatch):
    mixed, _ = levels(subjects=9)
    x, u = mixed.start, np.random.default_rng(0).normal(size=(9, 2))

    def of(part):
        def program(x, u):
            values = twice_and_effects(part, x, u)
            return {"values": values, "columns": [values[None], u.T], "sum": values.sum()}

        return program

    axes = {"values": 0, "columns": 1, "sum": _parts.ADDED}
    found = _parts.on_all_cores(mixed, "here", of, (_parts.SHARED, 0), axes)(x, u)
    assert [part.count for part in _parts.divided(mixed)] == [4, 5]
    monkeypatch.setattr(_parts, "cores", lambda: 1)
    whole, _ = levels(subjects=9)
    expected = _parts.on_all_cores(whole, "here", of, (_parts.SHARED, 0), axes)(x, u)
    assert _parts.divided(whole) == [whole]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [FOCEI(), SAEM(exploration=3, smoothing=4, samples=32, key=KEY)], ids=["FOCEI", "SAEM"]
)
def test_an_estimation_on_two_cores(method, two_cores, monkeypatch):
    (parted, _), (whole, _) = levels(subjects=9), levels(subjects=9)
    found = nlme(parted, method=method)
    assert [part.count for part in _parts.divided(parted)] == [4, 5]
    monkeypatch.setattr(_parts, "cores", lambda: 1)
    expected = nlme(whole, method=method)
    assert _parts.divided(whole) == [whole]
    np.testing.assert_allclose(found.path, expected.path, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.u, expected.u, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.subject_objectives, expected.subject_objectives, rtol=1e-8)
    np.testing.assert_allclose(
        found.to_dataframe(OuterProducts()).se, expected.to_dataframe(OuterProducts()).se, rtol=1e-6
    )


def test_parts_need_measurements_of_every_output(two_cores):
    mixed, _ = levels(subjects=9)
    for rows in mixed.rows:
        rows.experiment[:] = 0
    assert _parts.divided(mixed) == [mixed]
