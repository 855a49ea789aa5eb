"""What is fitted is data: made once, complete, and never changed."""

import dataclasses

import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    Additive,
    Analytic,
    Change,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Mixture,
    Output,
    Problem,
    Progress,
    RandomEffects,
)

MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
DATA = Measurements([1.0, 8.0], [9.1, 4.6], output="c")
SUBJECTS = {name: Experiment(DATA, qsp.bolus(300.0, to="central")) for name in ("anna", "otto")}
OUTPUTS = {"c": Output("concentration", Additive("sigma"))}
NUMBERS = {"tCL": Free(3.0), "sigma": Free(0.2)}
RANDOM = [RandomEffects({"eta": 0.1})]
PROBLEM = Problem(MODEL, SUBJECTS, OUTPUTS, {"CL": Free(3.0), "sigma": Free(0.2)})
MIXED = MixedModel(MODEL, SUBJECTS, OUTPUTS, parameters=NUMBERS, individual={"CL": "tCL * exp(eta)"}, random=RANDOM)
MIXTURE = Mixture(
    MODEL,
    SUBJECTS,
    OUTPUTS,
    subpopulations={"extensive": 0.7, "poor": 0.3},
    parameters=NUMBERS,
    individual={"CL": "tCL * exp(eta) * (1 - 0.8 * poor)"},
    random=RANDOM,
)
RECORDS = [DATA, SUBJECTS["anna"], Change(1.0, set={"CL": 2.0}), OUTPUTS["c"], RANDOM[0], PROBLEM, MIXED, MIXTURE]


@pytest.mark.parametrize("record", [*RECORDS, MIXED.space, PROBLEM.layout], ids=lambda one: type(one).__name__)
def test_no_attribute_can_be_assigned(record):
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, getattr(record, field.name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.another = 1.0


def test_what_was_given_may_change_afterwards():
    subjects, numbers = dict(SUBJECTS), dict(NUMBERS)
    mixed = MixedModel(MODEL, subjects, OUTPUTS, parameters=numbers, individual={"CL": "tCL * exp(eta)"}, random=RANDOM)
    subjects.clear()
    numbers["tCL"] = 5.0
    assert (mixed.count, mixed.names) == (2, ("tCL", "sigma", "var(eta)"))


def test_a_mixture_is_made_of_a_mixed_model():
    copies = MIXTURE.copies
    assert isinstance(copies, MixedModel)
    assert not isinstance(MIXTURE, MixedModel)
    assert copies.subject_names == ("anna (extensive)", "otto (extensive)", "anna (poor)", "otto (poor)")
    assert MIXTURE.names == copies.names == ("tCL", "sigma", "P(extensive)", "var(eta)")
    np.testing.assert_allclose(np.exp(MIXTURE.log_shares(MIXTURE.start)), [0.7, 0.3])
    assert MIXTURE.classified(np.array([[0.9, 0.1], [0.2, 0.8]])).covariates["poor"].tolist() == [0.0, 1.0]


def test_solving_leaves_the_problem_as_it_was():
    solved = Analytic(["sigma"]).solving(PROBLEM)
    assert PROBLEM.solver is None
    assert solved.solver is not None
    x = PROBLEM.point({"CL": 2.5, "sigma": 1.0})
    assert float(solved.log_likelihood(x)) > float(PROBLEM.log_likelihood(x))


def test_progress_is_told_in_one_way():
    assert str(Progress(3, 20, {"best": -12.5, "steps": 140})) == "3 of 20: best -12.5, steps 140"
    assert str(Progress(7, 0)) == "7"
