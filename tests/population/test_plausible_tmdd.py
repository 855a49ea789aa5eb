"""The TMDD case study of gQSPSim, as `benchmarks/plausible.py` has it: simulations, diversity, and the 48 means."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import EntropyBalancing, Rejection, Screened, plausible, weights
from tests.systems.data import data_folder, needs_data

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "plausible.py"))
pytestmark = [needs_data, pytest.mark.slow]


def found(width, size, search):
    folder = data_folder() / "gqspsim" / "tmdd"
    population, bounds = STUDY["population"](folder), STUDY["bounds"](folder, width)
    return plausible(population, bounds, arms=STUDY["arms"](), size=size, key=jax.random.key(2), search=search)


@pytest.mark.parametrize(("width", "each", "rejected"), [(1.0, 3.0, 6.0), (0.7, 12.5, 100.0)])
def test_few_simulations_and_as_different_as_by_rejection(width, each, rejected):
    screened, reference = found(width, 1000, Screened()), found(width, 1000, Rejection(8192))
    assert reference.equivalents / 1000 > rejected
    assert screened.equivalents / 1000 < each
    assert len(np.unique(screened.points, axis=0)) == 1000
    for name, sd in screened.spread.items():
        assert sd > 0.9 * reference.spread[name]
    cohort = screened.cohort.take(slice(0, 50))
    again = qsp.simulate_cohort(cohort, STUDY["arms"]()[0].regimen, [7.0]).observed["pk_free_ugm"][:, 0]
    np.testing.assert_allclose(again, screened.statistics["pk_free_ugm, group 1, day 7.0"][:50], rtol=1e-6)


def test_the_means_are_reached():
    pool = found(1.0, 12000, Screened())
    agreed = weights(pool, STUDY["means"](data_folder() / "gqspsim" / "tmdd"), method=EntropyBalancing(0.049))
    assert agreed.worst < 0.05
    assert agreed.effective_size > 50
    assert agreed.unreachable == ()
