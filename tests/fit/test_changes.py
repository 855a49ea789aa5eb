"""Formulas of changes see what is in force at their time; names that are set have a use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    Additive,
    Change,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    Problem,
    RandomEffects,
)

PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
BOLUS = qsp.bolus(300.0, to="central")
OUTPUTS = {"out": Output("concentration", Additive(1.0))}
CHANGES = {
    "a number of the model": [Change(5.0, put={"central": "concentration * V * s"})],
    "set before": [Change(3.0, set={"CL": 6.0}), Change(5.0, put={"central": "CL * s"})],
    "set at the same time": [Change(5.0, set={"V": "V2"}), Change(5.0, put={"central": "concentration * V * s"})],
    "set to something observed": [
        Change(2.0, set={"CL": "concentration * s"}),
        Change(5.0, put={"central": "CL * V"}),
    ],
    "the time": [Change(2.0, set={"V": "15 * time"}), Change(5.0, put={"central": "100 * time * s"})],
    "set to its own multiple": [Change(3.0, set={"CL": "CL * s"}), Change(5.0, set={"CL": "CL * s"})],
    "a name of its own": [Change(3.0, set={"extra": "2 * s"}), Change(5.0, put={"central": "extra * V"})],
}


def right(s, V2):
    """Return the concentrations at 5 and 8 h after each of the changes."""
    one, three = 0.1 * 5.0, 0.1 * 3.0
    CL = 10.0 * jnp.exp(-0.2) * s
    begins = [
        (10.0 * jnp.exp(-one) * s, 0.1),
        (6.0 * s / 30.0, 0.2),
        (300.0 * jnp.exp(-one) / V2 * s, 3.0 / V2),
        (CL, CL / 30.0),
        (500.0 * s / 30.0, 0.1),
        (10.0 * jnp.exp(-three - 0.2 * s), 0.1 * s**2),
        (2.0 * s, 0.1),
    ]
    return jnp.array([[at, at * jnp.exp(-3.0 * rate)] for at, rate in begins]).ravel()


def all_changes():
    data = Measurements([5.0, 8.0], [4.0, 2.0], output="out")
    people = {name: Experiment(data, BOLUS, set={"extra": 1.0}, changes=changes) for name, changes in CHANGES.items()}
    return Problem(PATIENT, people, OUTPUTS, {"s": Free(0.7), "V2": Free(60.0)})


def test_formulas_see_what_is_in_force():
    every = all_changes()
    found = every.table(every.point({"s": 0.8, "V2": 50.0}))["prediction"]
    np.testing.assert_allclose(found, right(0.8, 50.0), rtol=1e-7)


@pytest.mark.slow
def test_derivatives_of_what_is_in_force():
    def density(x):
        s, V2 = jnp.exp(x)
        return -0.5 * jnp.sum((right(s, V2) - jnp.tile(jnp.array([4.0, 2.0]), len(CHANGES))) ** 2)

    every = all_changes()
    x = jnp.asarray(every.start)
    np.testing.assert_allclose(jax.jit(every.quadratic)(x).gradient, jax.grad(density)(x), rtol=1e-6)


def test_formulas_of_covariates_mean_the_number_of_the_model(tmp_path):
    (tmp_path / "data.csv").write_text("ID,TIME,AMT,DV,WT\n1,0,300,.,140\n1,2,.,1,35\n1,4,.,1,35\n")
    data = qsp.io.read_nonmem(tmp_path / "data.csv", interpolation=qsp.LOCF())
    people = qsp.io.experiments(data, "out", set={"CL": "CL * (WT / 70)^p"})
    problem = Problem(PATIENT, people, OUTPUTS, {"p": Free(1.0)})
    np.testing.assert_allclose(problem.table(problem.start)["prediction"], 10.0 * np.exp([-0.4, -0.5]), rtol=1e-7)


@pytest.mark.slow
def test_formulas_of_individuals_mean_the_number_of_the_model():
    settings = {"set": {"WT": 140.0}, "changes": [Change(2.0, set={"WT": 35.0}, put={"central": "30 * WT * V / V"})]}
    mixed = MixedModel(
        PATIENT,
        {"one": Experiment(Measurements([1.0, 4.0], [1.0, 1.0], output="out"), BOLUS, **settings)},
        OUTPUTS,
        parameters={"p": Free(1.0)},
        individual={"CL": "CL * exp(eta) * (WT / 70)^p"},
        random=[RandomEffects({"eta": 0.1})],
    )
    x, u = jnp.asarray(mixed.start), jnp.zeros((1, 1))
    ((prediction, _),) = mixed.predicted(x, u, mixed.expanded(x, u, 0))
    np.testing.assert_allclose(prediction, [10.0 * np.exp(-0.2), 35.0 * np.exp(-0.1)], rtol=1e-6)


DATA = Measurements([1.0, 4.0], [8.0, 4.0], output="out")


def problem(*, outputs=OUTPUTS, **settings):
    return Problem(PATIENT, Experiment(DATA, BOLUS, **settings), outputs, {"CL": Free(3.0)})


def mixed(individual, **settings):
    return MixedModel(
        PATIENT,
        {"one": Experiment(DATA, BOLUS, **settings)},
        OUTPUTS,
        parameters={"tCL": Free(3.0)},
        individual=individual,
        random=[RandomEffects({"eta": 0.1})],
    )


MISSPELT = "(CL, V), but is `Cl`. Did you mean `CL`?"
GOOD = {"CL": "tCL * exp(eta)"}
WRONG = {
    "at the start": (lambda: problem(set={"Cl": 6.0}), MISSPELT),
    "later": (lambda: problem(changes=[Change(2.0, set={"Cl": 6.0})]), MISSPELT),
    "in the steady state": (lambda: problem(equilibrated=Change(0.0, set={"Cl": 6.0})), MISSPELT),
    "a state": (lambda: problem(set={"central": 6.0}), "(CL, V), but is `central`."),
    "of all individuals": (lambda: mixed({"Cl": "tCL * exp(eta)"}), "but is `Cl`. Did you mean `CL`?"),
    "of no use": (lambda: mixed(GOOD | {"v": "30 * WT / 70"}, set={"WT": 50.0}), "but is `v`. Did you mean `V`?"),
    "of a subject": (lambda: mixed(GOOD, set={"v ": 50.0}), "set `v `, which nothing uses. Did you mean `V`?"),
    "later in a subject": (lambda: mixed(GOOD, changes=[Change(2.0, set={"v": 50.0})]), "Did you mean `V`?"),
    "with the time": (lambda: mixed({"CL": "tCL * exp(eta * time)"}), "must have formulas without time, but is"),
    "without a value": (
        lambda: problem(set={"CL": "2 * extra"}, changes=[Change(2.0, set={"extra": 1.0})], outputs=OUTPUTS),
        "must have a value for `extra` by time 0, for the formula of `CL`, but `experiment` has none.",
    ),
    "in an output": (
        lambda: problem(
            changes=[Change(2.0, set={"V": "30 + concentration"})],
            outputs={"out": Output("concentration * V", Additive(1.0))},
        ),
        "must use nothing that a change sets by observed values, as they do `V`, to `30 + concentration`.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_without_a_use_are_refused(case):
    make, message = WRONG[case]
    with pytest.raises(ValueError) as found:
        make()
    assert message in str(found.value)


def test_columns_of_a_data_set_need_no_use(tmp_path):
    (tmp_path / "data.csv").write_text("ID,TIME,AMT,DV,WT\n1,0,300,.,70\n1,5,.,1,80\n")
    data = qsp.io.read_nonmem(tmp_path / "data.csv")
    people = qsp.io.experiments(data, "out")
    assert Problem(PATIENT, people, OUTPUTS, {"CL": Free(3.0)}).names == ("CL",)
    misspelt = qsp.io.experiments(data, "out", set={"Cl": "3 * WT / 70"})
    with pytest.raises(ValueError, match=r"but is `Cl`\. Did you mean `CL`\?"):
        Problem(PATIENT, misspelt, OUTPUTS, {"CL": Free(3.0)})
