"""The PCSK9 case study of gQSPSim, as `benchmarks/pcsk9.py` has it: the baseline is reached, the trial is predicted."""

import runpy
from pathlib import Path

import jax
import pytest

from qspjax.population import plausible, weights
from tests.systems.data import data_folder, needs_data

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "pcsk9.py"))


@needs_data
@pytest.mark.slow
def test_a_population_like_that_before_treatment_predicts_the_trial():
    folder = data_folder() / "gqspsim" / "pcsk9"
    bounds, arms = STUDY["bounds"](folder), STUDY["arms"](folder)
    found = plausible(STUDY["population"](folder), bounds, arms=arms, size=1000, key=jax.random.key(9))
    agreed = weights(found, STUDY["targets"](folder))
    assert agreed.worst < 0.03
    assert agreed.effective_size > 100
    for dose, percent in STUDY["predicted"](found.cohort, folder, agreed.weights).items():
        assert percent == pytest.approx(STUDY["observed"](folder)[dose], abs=10.0)
