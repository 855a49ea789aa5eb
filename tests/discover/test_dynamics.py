"""Unknown rates are found as few terms, from noisy and irregular measurements under doses."""

import numpy as np
import pytest

import qspjax as qsp
from qspjax.discover import rate_terms, sparse_dynamics
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
from qspjax.models import Network, Reaction

ELIMINATION = {"elimination": Reaction("drug ->", "k * drug")}
KNOWN = Network(species={"drug": 0.0, "tumour": 5.0}, parameters={"k": 0.2}, reactions=ELIMINATION)
TRUTH = KNOWN.add(
    parameters={"growth": 0.3, "crowding": 0.015, "kill": 0.06},
    reactions={
        "grows": Reaction("-> tumour", "growth * tumour - crowding * tumour^2"),
        "dies": Reaction("tumour ->", "kill * drug * tumour"),
    },
)
LIBRARY = ("1", "drug", "tumour", "tumour^2", "drug * tumour", "drug^2", "tumour / (8 + tumour)", "drug / (5 + drug)")
FOUND = {"tumour: + tumour", "tumour: - tumour^2", "tumour: - drug * tumour"}


def problem_of(seed: int) -> Problem:
    """Three doses, irregular times, 5 % noise."""
    draw, experiments = np.random.default_rng(seed), {}
    for dose in (0.0, 10.0, 30.0):
        times = np.sort(draw.uniform(0.0, 24.0, 14))
        regimen = qsp.bolus(dose, to="drug", at=4.0) + qsp.bolus(dose, to="drug", at=14.0)
        observed = qsp.simulate(TRUTH, regimen, times).observed
        names = [name for name in ("drug", "tumour") for _ in times]
        exact = np.concatenate([np.asarray(observed[name]) for name in ("drug", "tumour")])
        sd = np.where(np.array(names) == "drug", 0.3, 0.4)
        data = Measurements(np.tile(times, 2), exact + sd * draw.normal(size=exact.size), output=names)
        experiments[f"dose {dose:g}"] = Experiment(data, regimen)
    outputs = {"drug": Output("drug", Additive(0.3)), "tumour": Output("tumour", Additive(0.4))}
    return Problem(KNOWN, experiments, outputs, {"k": Free(0.3)})


def test_an_unknown_rate_is_found_with_its_coefficients():
    found = sparse_dynamics(problem_of(0), ["tumour"], LIBRARY[1:5], tried=1)
    assert {*found.coefficients} == FOUND
    truth = {"tumour: + tumour": 0.3, "tumour: - tumour^2": 0.015, "tumour: - drug * tumour": 0.06}
    assert found.coefficients == pytest.approx(truth, rel=0.15)
    assert found.fit.parameters["k"] == pytest.approx(0.2, rel=0.05)
    new = qsp.simulate(found.network, qsp.bolus(20.0, to="drug"), [10.0, 20.0]).observed["tumour"]
    old = qsp.simulate(TRUTH, qsp.bolus(20.0, to="drug"), [10.0, 20.0]).observed["tumour"]
    np.testing.assert_allclose(new, old, rtol=0.05)
    assert "BIC" in str(found)


@pytest.mark.slow
def test_it_is_found_in_four_of_five_seeds():
    assert (
        sum({*sparse_dynamics(problem_of(seed), ["tumour"], LIBRARY).coefficients} == FOUND for seed in range(5)) >= 4
    )


def test_messages():
    problem = problem_of(0)
    with pytest.raises(ValueError, match="Argument `library` must use ids of the network, but is with `mass`"):
        sparse_dynamics(problem, ["tumour"], ["mass"])
    with pytest.raises(ValueError, match="Argument `library` must have at least one term"):
        sparse_dynamics(problem, ["tumour"], [])
    with pytest.raises(ValueError, match="Argument `states` must name a species of the network"):
        sparse_dynamics(problem, ["tumor"])
    half = Problem(KNOWN, Experiment(Measurements([1.0], [1.0], output="drug")), problem.outputs, {"k": Free(0.3)})
    assert rate_terms(half, ["drug"]) == ("1", "drug", "drug^2", "drug / (1 + drug)")
