"""Screening: a known part of the candidates is plausible, each is confirmed, and what is missed is estimated."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import Bound
from qspjax.surrogate import Boundary, GaussianProcess, Plausibility, Sobol, Surrogate

KEY = jax.random.key(0)
POPULATION = qsp.Population(
    qsp.models.OneCompartment(CL=3.0, V=30.0), between={"CL": qsp.Uniform(1.0, 5.0), "V": qsp.Uniform(10.0, 50.0)}
)
ARMS = [qsp.Arm("300 mg", qsp.bolus(300.0, to="central"))]


def simulator(**bounds):
    value = {name: qsp.endpoints.Value("concentration", at=at) for name, at in {"C0": 0.0, "C10": 10.0}.items()}
    return Plausibility(POPULATION, {name: Bound(value[name], *ends) for name, ends in bounds.items()}, arms=ARMS)


def test_all_plausible_patients_but_a_known_part():
    both = simulator(C0=(10.0, 12.0), C10=(3.0, 5.0))
    emulated = qsp.surrogate.fit(both, Sobol(64), learn=Boundary(error=0.02, most=128, batch=32), key=KEY)
    found = qsp.surrogate.screen(emulated, both, candidates=20_000, checked=128, key=jax.random.key(1))
    CL, V = np.random.default_rng(0).uniform([1.0, 10.0], [5.0, 50.0], (400_000, 2)).T
    c0, c10 = 300.0 / V, 300.0 / V * np.exp(-10.0 * CL / V)
    share = np.mean((c0 >= 10.0) & (c0 <= 12.0) & (c10 >= 3.0) & (c10 <= 5.0))
    assert found.found == pytest.approx(20_000 * share, abs=4.0 * np.sqrt(20_000 * share))
    assert found.missed < 0.03
    assert found.simulations == emulated.simulations + found.chosen + 128
    assert found.found / found.chosen > 0.8
    assert found.saved > 10.0
    for name, bound in found.population.bounds.items():
        assert bound.holds(found.population.statistics[name]).all()
    assert "plausible patients among 20,000 candidates" in str(found)


def test_what_a_bad_surrogate_misses_is_said():
    both = simulator(C0=(10.0, 12.0))
    emulated = qsp.surrogate.fit(both, Sobol(64), key=KEY)
    wrong = jax.tree.map(lambda leaf: leaf, emulated)
    scale = type(wrong.scale)(
        *(getattr(wrong.scale, name) for name in ("logarithmic", "centre", "size", "bent", "least"))
    )
    moved = type(scale)(scale.logarithmic, scale.centre + 0.06, scale.size, scale.bent, scale.least)
    wrong = Surrogate(**{**vars(wrong), "scale": moved})
    found = qsp.surrogate.screen(wrong, both, candidates=20_000, checked=2000, key=jax.random.key(1))
    assert found.missed > 0.2


def test_messages():
    one, two = simulator(C0=(10.0, 12.0)), simulator(C0=(10.0, 12.0), C10=(3.0, 5.0))
    emulated = qsp.surrogate.fit(one, Sobol(16), method=GaussianProcess(), key=KEY)
    with pytest.raises(ValueError, match="Argument `surrogate` must have the outputs C0, C10, but is `C0`"):
        qsp.surrogate.screen(emulated, two, key=KEY)
    with pytest.raises(ValueError, match="Argument `missed` must be between 0 and 1, but is 0"):
        qsp.surrogate.screen(emulated, one, missed=0.0, key=KEY)
