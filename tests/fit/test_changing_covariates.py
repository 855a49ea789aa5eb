"""Covariates of data sets in fits: constant ones, and those that change from record to record."""

import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Change, Experiment, Free, Measurements, MixedModel, Output, Proportional, RandomEffects
from qspjax.fit.mixed._time_varying import hoisted

HEAD = "ID,TIME,AMT,RATE,DV,WT\n"
TEXT = HEAD + "1,0,100,50,.,70\n1,6,0,0,2.1,75\n1,12,0,0,1.2,80\n1,12,100,50,.,80\n1,20,0,0,2.6,60\n"
TEXT += "2,0,100,50,.,50\n2,6,0,0,3.1,50\n2,12,0,0,2.2,50\n2,24,0,0,1.2,55\n"


def read(tmp_path, text=TEXT, **options):
    path = tmp_path / "data.csv"
    path.write_text(text)
    return qsp.io.read_nonmem(path, **options)


def mixed_of(data, output="concentration", **settings):
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        qsp.io.experiments(data, "out") if isinstance(data, qsp.io.NonmemData) else data,
        {"out": Output(output, Proportional("cv"))},
        **{
            "parameters": {"tCL": Free(3.0), "tV": Free(30.0), "power": Free(0.75), "cv": Free(0.1)},
            "individual": {"CL": "tCL * exp(eta_CL) * (WT / 70)^power", "V": "tV * exp(eta_V) * WT / 70"},
            "random": [RandomEffects({"eta_CL": 0.09, "eta_V": 0.04})],
        }
        | settings,
    )


ETAS = np.array([[0.2, -0.1], [-0.3, 0.15]])


def predictions(mixed):
    """Return predictions for `ETAS`, in the order of the subjects."""
    x = jnp.asarray(mixed.start)
    u = jnp.asarray(np.linalg.solve(np.asarray(mixed.factor(x)), ETAS.T).T)
    ((found, _),) = mixed.predicted(x, u, mixed.expanded(x, u, 0))
    return np.asarray(found)


def simulated(data):
    """Return what the simulation of the data set says, the volumes, and the weights at each observation."""
    clearance = {"CL": lambda c: 3.0 * np.exp(ETAS[:, :1]) * (c["WT"] / 70.0) ** 0.75}
    volume = {"V": lambda c: 30.0 * np.exp(ETAS[:, 1:]) * c["WT"] / 70.0}
    cohort, regimen = data.patients(qsp.models.OneCompartment(CL=3.0, V=30.0), clearance | volume)
    found = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order).observed["concentration"]
    return np.asarray(found)[np.isfinite(data.dv)]


@pytest.mark.parametrize("interpolation", [qsp.NOCB(), qsp.LOCF()], ids=str)
def test_a_fit_sees_what_a_simulation_sees(tmp_path, interpolation):
    data = read(tmp_path, interpolation=interpolation)
    mixed = mixed_of(data)
    assert len(mixed.individuals.starts) == 3  # tCL exp(eta), power, tV exp(eta), however often WT changes
    np.testing.assert_allclose(predictions(mixed), simulated(data), rtol=1e-8)


def test_outputs_see_what_holds_at_their_time(tmp_path):
    data = read(tmp_path)
    weights = np.array([75.0, 80.0, 60.0, 50.0, 50.0, 55.0])
    volumes = 30.0 * np.exp(np.repeat(ETAS[:, 1], 3)) * weights / 70.0
    expected = simulated(data)
    np.testing.assert_allclose(predictions(mixed_of(data, "concentration * WT")), expected * weights, rtol=1e-8)
    np.testing.assert_allclose(predictions(mixed_of(data, "concentration * V")), expected * volumes, rtol=1e-8)


@pytest.mark.slow
def test_the_gradient_where_covariates_change(tmp_path):
    method = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
    mixed = mixed_of(read(tmp_path), "concentration * V / 30", method=method)
    x = mixed.start

    def total(x):
        fit = qsp.fit.nlme(mixed, start=x, iterations=0)
        return fit.objective

    fit = qsp.fit.nlme(mixed, iterations=0)
    slope = np.asarray(fit.evaluated(x).slopes).sum(axis=0)
    central = [(total(x + h) - total(x - h)) / 2e-4 for h in 1e-4 * np.eye(x.size)]
    np.testing.assert_allclose(slope, central, rtol=1e-5, atol=1e-5)


def test_formulas_of_outputs_have_the_numbers_of_each_subject():
    data = Measurements([1.0], [8.0], output="out")
    people = {
        name: Experiment(data, qsp.bolus(300.0, to="central"), set={"WT": w}) for name, w in (("a", 50.0), ("b", 80.0))
    }
    settings = {
        "parameters": {"tCL": Free(3.0), "cv": 0.1},
        "individual": {"CL": "tCL * exp(eta_CL)"},
        "random": [RandomEffects({"eta_CL": 0.09, "eta_F": 0.04})],
    }
    found = predictions(mixed_of(people, "concentration * WT * exp(eta_F)", **settings))
    CL = 3.0 * np.exp(ETAS[:, 0])
    np.testing.assert_allclose(found, 10.0 * np.exp(-CL / 30.0) * [50.0, 80.0] * np.exp(ETAS[:, 1]), rtol=1e-8)


def test_observations_before_a_dose_of_the_same_time(tmp_path):
    text = "ID,TIME,AMT,DV\n1,0,100,.\n1,12,.,1.0\n1,12,100,.\n1,12,.,4.0\n"
    data = read(tmp_path, text)
    for people in (qsp.io.experiments(data, "out"), qsp.io.experiments(data, "out", covariates=[])):
        problem = qsp.fit.Problem(
            qsp.models.OneCompartment(CL=3.0, V=30.0),
            people,
            {"out": Output("concentration", Additive(0.1))},
            {"CL": Free(3.0)},
        )
        trough = 100.0 / 30.0 * np.exp(-1.2)
        np.testing.assert_allclose(
            problem.table(problem.start)["prediction"], [trough, trough + 100.0 / 30.0], rtol=1e-6
        )


def test_which_covariates(tmp_path):
    data = read(tmp_path, TEXT.replace("2,6,0,0,3.1,50", "2,6,0,0,3.1,."))
    first, second = qsp.io.experiments(data, "out").values()
    assert [change.set for change in first.changes] == [{"WT": 75.0}, {"WT": 80.0}, {"WT": 60.0}]
    assert "WT" not in second.begin.set
    assert not qsp.io.experiments(data, "out", covariates=[])["1"].changes
    with pytest.raises(ValueError, match="`covariates` must name a covariate of the data"):
        qsp.io.experiments(data, "out", covariates=["AGE"])
    with pytest.raises(ValueError, match="`subjects` must all have the covariate `WT`, but `2` has none"):
        mixed_of(data)
    linear = read(tmp_path, interpolation=qsp.LinearInterpolation())
    with pytest.raises(
        ValueError, match="must have covariates that change in steps, NOCB.. or LOCF.., in a fit, but is"
    ):
        qsp.io.experiments(linear, "out")


def test_covariates_beside_other_changes():
    """Where a state is put as well, the experiment goes on in stages."""
    data = Measurements([1.0, 3.0], [8.0, 4.0], output="out")
    change = Change(2.0, set={"WT": 140.0}, put={"central": 300.0})
    people = {"a": Experiment(data, qsp.bolus(300.0, to="central"), set={"WT": 70.0}, changes=[change])}
    mixed = mixed_of(
        people | {"b": people["a"]}, individual={"CL": "tCL * exp(eta_CL) * WT / 70", "V": "tV * exp(eta_V) * power"}
    )
    assert mixed.steps is None
    CL, V = 3.0 * np.exp(ETAS[:, 0]), 0.75 * 30.0 * np.exp(ETAS[:, 1])
    expected = np.stack([300.0 / V * np.exp(-CL / V), 300.0 / V * np.exp(-2.0 * CL / V)], axis=1)
    np.testing.assert_allclose(predictions(mixed).reshape(2, 2), expected, rtol=1e-6)


def test_what_does_not_change_is_kept_together():
    from qspjax._expression import parse

    _, parts = hoisted(parse("2 * a * exp(b) * (WT / 70)^c"), {"WT"})
    assert len(parts) == 2
    assert {str(one) for one in parts.values()} == {"2 * a * exp(b)", "c"}
    assert hoisted(parse("WT"), {"WT"}) == (parse("WT"), {})
