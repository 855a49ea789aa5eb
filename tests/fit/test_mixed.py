"""Mixed effects: closed forms, published objectives, gradients, failures, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    FO,
    FOCE,
    FOCEI,
    M3,
    Additive,
    Change,
    Experiment,
    Free,
    ImportanceSampling,
    Laplace,
    Measurements,
    MixedModel,
    Output,
    Proportional,
    Quadrature,
    RandomEffects,
    diagnostics,
    marginal,
    nlme,
    visual_predictive_check,
)
from qspjax.fit.mixed._approximations import subject_objectives
from qspjax.fit.mixed._modes import modes
from tests.systems.data import data_folder, needs_data
from tests.systems.marks import slow_for
from tests.systems.mixed import TIMES, Level, decays, exact, levels

KEY = jax.random.key(0)

METHODS = [FO(), FOCE(), FOCEI(), Laplace()]


def named(method):
    return type(method).__name__


def objective(mixed, method):
    """Return the objective with its gradient as one program."""

    def program(x):
        u = jnp.zeros((mixed.count, len(mixed.effects)))
        if method.conditional:
            u = modes(mixed, x, u, interaction=method.interaction).u
        values, slopes, _, failed = subject_objectives(mixed, method, x, u)
        return values.sum(), slopes.sum(axis=0), failed.any()

    return jax.jit(program)


@pytest.mark.parametrize("method", slow_for(METHODS, METHODS[1], METHODS[3]), ids=named)
def test_all_are_exact_where_the_model_is_linear(method):
    mixed, values = levels()
    found, slope, failed = objective(mixed, method)(jnp.asarray(mixed.start))
    assert not failed
    np.testing.assert_allclose(found, exact(mixed, values, mixed.start), rtol=1e-9)
    step = 1e-5 * np.eye(mixed.start.size)
    central = [(exact(mixed, values, mixed.start + h) - exact(mixed, values, mixed.start - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(slope, central, rtol=1e-5, atol=1e-5)


def test_the_estimates_of_a_linear_model_are_those_of_its_likelihood():
    from scipy.optimize import minimize

    mixed, values = levels(subjects=12)
    fit = nlme(mixed)
    truth = minimize(lambda x: exact(mixed, values, x), mixed.start, method="BFGS")
    assert fit.status == "converged"
    np.testing.assert_allclose(fit.objective, truth.fun, atol=1e-5)
    np.testing.assert_allclose(fit.x, truth.x, atol=2e-3)
    np.testing.assert_allclose(fit.subject_objectives.sum(), fit.objective, rtol=1e-12)
    assert (fit.covariance[0, 1], fit.parameters["cov(eta_slope, eta_base)"]) == (fit.covariance[1, 0],) * 2


GRADIENTS = [*((method, None) for method in METHODS), *((method, M3(5.0)) for method in METHODS)]


@pytest.mark.parametrize("case", slow_for(GRADIENTS, GRADIENTS[0], GRADIENTS[2], *GRADIENTS[4:6], GRADIENTS[7]))
def test_gradients_against_central_differences(case):
    method, below = case
    mixed = decays(method=qsp.solve.MatrixExponential(), below=below)
    assert mixed.censored.any() == (below is not None)
    program, x = objective(mixed, method), jnp.asarray(mixed.start)
    _, slope, failed = program(x)
    assert not failed
    step = 1e-4 * jnp.eye(x.size)
    central = [(program(x + h)[0] - program(x - h)[0]) / 2e-4 for h in step]
    np.testing.assert_allclose(slope, central, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_a_solve_in_steps():
    mixed = decays(method=qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12))
    program, x = objective(mixed, FOCEI()), jnp.asarray(mixed.start)
    exactly = objective(decays(method=qsp.solve.MatrixExponential()), FOCEI())
    np.testing.assert_allclose(program(x)[0], exactly(x)[0], rtol=1e-7)
    np.testing.assert_allclose(program(x)[1], exactly(x)[1], rtol=1e-5)


def test_an_estimation_goes_on_from_where_it_was(tmp_path):
    mixed, file = decays(), tmp_path / "state.npz"
    whole = nlme(mixed)
    first = nlme(mixed, iterations=2, checkpoint=file)
    assert (first.status, len(first.history)) == ("iterations used up", 3)
    later = nlme(mixed, checkpoint=file)
    np.testing.assert_array_equal(later.x, whole.x)
    np.testing.assert_array_equal(later.history, whole.history)
    with pytest.raises(ValueError, match="must be the checkpoint of this estimation, but is that of another one"):
        nlme(mixed, method=FO(), checkpoint=file)


class Fragile(Level):
    """A level whose slope is no number above 100."""

    def vector_field(self, t, y):
        return {"level": jnp.where(self.base > 100.0, jnp.nan, self.slope)}


def test_a_subject_that_fails_is_left_out_and_named():
    people = {
        name: Experiment(Measurements(TIMES, base + 0.2 * np.cos(TIMES), output="level"), set={"base0": base})
        for name, base in {"one": 4.0, "two": 5.0, "three": 200.0, "four": 6.0}.items()
    }
    settings = {
        "parameters": {"sigma": Free(0.3), "factor": Free(1.0)},
        "individual": {"base": "base0 * factor + eta"},
        "random": [RandomEffects({"eta": 0.5})],
    }
    outputs = {"level": Output("level", Additive("sigma"))}
    mixed = MixedModel(Fragile(base=5.0, slope=0.0), people, outputs, **settings)
    fit = nlme(mixed)
    assert fit.kept.tolist() == [True, True, False, True]
    (message,) = fit.reasons
    assert message.startswith("Subject `three`: failed at time 0. ")
    assert str(fit).endswith(f"left out, since they have no likelihood at the start: three\n{message}")
    del people["three"]
    others = nlme(MixedModel(Fragile(base=5.0, slope=0.0), people, outputs, **settings))
    np.testing.assert_allclose(fit.x, others.x, rtol=1e-8)


def test_what_changes_nothing_is_not_estimated():
    """Only the initial level is measured, before the slope can matter."""
    data = Measurements([0.0], [5.0], output="level")
    mixed = MixedModel(
        Level(base=5.0, slope=0.3),
        {"anna": Experiment(data), "otto": Experiment(data)},
        {"level": Output("level", Additive(0.3))},
        parameters={"mu": Free(4.0), "slope": Free(0.2)},
        individual={"base": "mu + eta"},
        random=[RandomEffects({"eta": 1.0})],
    )
    with pytest.raises(
        ValueError, match="must all have an effect on measurements, but at the start these do not depend on `slope`"
    ):
        nlme(mixed)


def test_a_covariate_may_change():
    """The clearance doubles with a covariate at 3 h; a regimen of boluses."""
    data = Measurements([2.0, 3.0, 5.0], [8.0, 7.0, 4.0], output="concentration")
    change = Change(3.0, set={"INFECTED": 1.0})
    person = Experiment(data, qsp.bolus(300.0, to="central"), set={"INFECTED": 0.0}, changes=[change])
    mixed = MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        {"one": person},
        {"concentration": Output("concentration", Additive(0.1))},
        parameters={"tCL": Free(3.0), "effect": Free(1.0)},
        individual={"CL": "tCL * exp(eta) * (1 + effect * INFECTED)"},
        random=[RandomEffects({"eta": 0.1})],
    )
    x, u = jnp.asarray(mixed.start), jnp.zeros((1, 1))
    ((prediction, _),) = mixed.predicted(x, u, mixed.expanded(x, u, 0))
    expected = 10.0 * np.exp(-np.array([0.2, 0.3, 0.3 + 0.4]))
    np.testing.assert_allclose(prediction, expected, rtol=1e-6)


WRONG = {
    "no effect": ({"random": []}, "Argument `random` must have at least one random effect, but has none."),
    "not positive definite": (
        {"random": lambda: [RandomEffects(["a", "b"], [[1.0, 2.0], [2.0, 1.0]])]},
        "Argument `covariance` must be positive definite, but its least eigenvalue is -1.",
    ),
    "unknown name": (
        {"individual": {"CL": "tCL * exp(eta_CL) * WTT"}},
        "Argument `individual` must name a parameter, a random effect or a covariate of all subjects, in the formula "
        "of `CL` (",
    ),
    "constant": (
        {"individual": {"CL": "tCL * exp(eta_CL) / pi"}, "parameters": {"tCL": Free(2.5), "cv": 0.1, "pi": 7.0}},
        "Argument `individual` must write `pi` in backticks for what is declared with that name, or rename that",
    ),
    "unused effect": (
        {"random": lambda: [RandomEffects({"eta_CL": 0.1, "eta_V": 0.1})]},
        "Argument `random` must have names that something depends on, but nothing depends on `eta_V`.",
    ),
    "a name twice": (
        {"random": lambda: [RandomEffects({"tCL": 0.1})]},
        "Argument `random` must have names that mean nothing else, and not that of a parameter, but is `tCL`.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    settings, message = WRONG[case]
    with pytest.raises(ValueError) as found:
        decays(**{name: value() if callable(value) else value for name, value in settings.items()})
    assert str(found.value).startswith(message)


def test_bad_subjects():
    def mixed(people, outputs=("concentration",)):
        return MixedModel(
            qsp.models.OneCompartment(CL=3.0, V=30.0),
            people,
            {name: Output("concentration", Additive(0.1)) for name in outputs},
            parameters={"tCL": Free(3.0)},
            individual={"CL": "tCL * exp(eta)"},
            random=[RandomEffects({"eta": 0.1})],
        )

    data = Measurements([1.0], [8.0], output="concentration")
    missing = Measurements([1.0], [np.nan], output="concentration")
    for people, outputs, message in (
        (
            {"anna": Experiment(data, set={"WT": 70.0}), "otto": Experiment(data)},
            ("concentration",),
            "Argument `subjects` must all have the covariate `WT`, but `otto` has none.",
        ),
        (
            {"anna": Experiment(data), "otto": Experiment(missing)},
            ("concentration",),
            "Argument `subjects` must have measurements, but subject `otto` has none.",
        ),
        (
            {"anna": Experiment(data)},
            ("concentration", "effect"),
            "Argument `outputs` must be measured, but nothing is measured of output `effect`.",
        ),
        ({}, ("concentration",), "Argument `subjects` must have measurements, but there are none."),
    ):
        with pytest.raises(ValueError) as found:
            mixed(people, outputs)
        assert str(found.value) == message


def shared_subjects(name, dose_to):
    table = np.genfromtxt(data_folder() / "nlmixr2data" / name, delimiter=",", names=True)
    names = {column.upper(): column for column in table.dtype.names}
    people = {}
    for subject in np.unique(table["ID"]):
        rows = table[table["ID"] == subject]
        dosing = rows[names["EVID"]] != 0 if "EVID" in names else np.zeros(len(rows), bool)
        amount = rows[names["AMT"]][dosing][0] if dosing.any() else 10.0
        data = Measurements(
            rows[names["TIME"]][~dosing], rows[names.get("DV", names.get("Y"))][~dosing], output="concentration"
        )
        people[f"{subject:.0f}"] = Experiment(data, qsp.bolus(float(amount), to=dose_to))
    return people


def test_random_effects_are_integrated_out():
    mixed, values = levels()
    np.testing.assert_allclose(marginal(mixed, mixed.start, Quadrature(2)).objective, exact(mixed, values, mixed.start))
    mixed = decays(sd=0.3, parameters={"tCL": Free(2.5), "V": 28.0, "power": 1.0, "cv": Free(0.3)})
    fine = marginal(mixed, mixed.start, Quadrature(25))
    sampled = marginal(mixed, mixed.start, ImportanceSampling(4096, key=KEY))
    np.testing.assert_allclose(marginal(mixed, mixed.start, Quadrature(9)).objective, fine.objective, atol=1e-3)
    assert fine.standard_error == 0.0 < sampled.standard_error < 0.1
    np.testing.assert_allclose(sampled.subject_objectives, fine.subject_objectives, atol=0.05)
    with pytest.raises(ValueError, match=r"must give at most 100,000 points, but is .400\^2"):
        Quadrature(400).points(2)


def test_diagnostics_of_a_linear_model():
    mixed, values = levels(subjects=8)
    fit = nlme(mixed, iterations=0)
    table = diagnostics(fit, replicates=2000, key=KEY)
    assert len(table["ID"]) == values.size
    known = mixed.values(fit.x)
    mean = float(known["mu"]) + float(known["slope"]) * TIMES
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    V = A @ fit.covariance @ A.T + float(known["sigma"]) ** 2 * np.eye(3)
    spread, turned = np.linalg.eigh(V)
    away = values - mean
    np.testing.assert_allclose(table["PRED"].reshape(values.shape), np.broadcast_to(mean, values.shape))
    np.testing.assert_allclose(table["RES"].reshape(values.shape), away, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(table["CWRES"].reshape(values.shape), away @ (turned / np.sqrt(spread) @ turned.T))
    etas = np.linalg.solve(np.linalg.inv(fit.covariance) + A.T @ A / known["sigma"] ** 2, A.T @ away.T) / (
        known["sigma"] ** 2
    )
    np.testing.assert_allclose(fit.etas.T, etas, rtol=1e-6)
    np.testing.assert_allclose(table["ETA_eta_base"][::3], etas[0], rtol=1e-6)
    ipred = mean + (A @ etas).T
    np.testing.assert_allclose(table["IWRES"].reshape(values.shape), (values - ipred) / known["sigma"], rtol=1e-6)
    expected = np.linalg.solve(np.linalg.cholesky(V), away.T).T
    inside = np.abs(expected) < 2.0  # beyond, a share of two thousand is coarse
    np.testing.assert_allclose(table["NPDE"].reshape(values.shape)[inside], expected[inside], atol=0.25)
    assert np.isnan(table["TAD"]).all()
    relative = [100 * (1 - np.std(e, ddof=1) / np.sqrt(o)) for e, o in zip(etas, np.diag(fit.covariance), strict=True)]
    np.testing.assert_allclose([own[0] for own in fit.shrinkage.values()], relative, rtol=1e-6)


def test_a_visual_predictive_check_and_pictures():
    mixed, values = levels(subjects=40)
    fit = nlme(mixed, method=FO(), iterations=0)
    table = visual_predictive_check(fit, replicates=300, corrected=False, key=KEY)
    np.testing.assert_array_equal(table["TIME"], np.repeat(TIMES, 3))
    np.testing.assert_array_equal(table["COUNT"], 40)
    observed = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
    np.testing.assert_allclose(table["OBSERVED"].reshape(3, 3).T, observed)
    # the simulated quantiles are those of the normal distribution of the model
    known = mixed.values(fit.x)
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    sd = np.sqrt(np.diag(A @ fit.covariance @ A.T) + float(known["sigma"]) ** 2)
    mean = float(known["mu"]) + float(known["slope"]) * TIMES
    np.testing.assert_allclose(table["MEDIAN"][1::3], mean, atol=0.2)
    np.testing.assert_allclose(table["MEDIAN"][2::3], mean + 1.6449 * sd, rtol=0.1)
    assert (table["LOWER"] < table["MEDIAN"]).all()
    assert (table["MEDIAN"] < table["UPPER"]).all()
    two = visual_predictive_check(fit, replicates=20, bins=[0.0, 2.0, 10.0], key=KEY)
    assert two["COUNT"].tolist() == [40, 40, 40, 80, 80, 80]
    fewer = visual_predictive_check(
        dataclasses.replace(fit, kept=np.arange(40) != 3), replicates=300, corrected=False, key=KEY
    )
    np.testing.assert_array_equal(fewer["COUNT"], 39)
    observed = np.quantile(np.delete(values, 3, axis=0), [0.05, 0.5, 0.95], axis=0)
    np.testing.assert_allclose(fewer["OBSERVED"].reshape(3, 3).T, observed)
    with pytest.raises(ValueError, match="must be increasing edges"):
        visual_predictive_check(fit, replicates=20, bins=[2.0, 1.0], key=KEY)
    axes = qsp.plot.vpc(table)
    assert len(axes.lines) == 7  # observed and median of each quantile, and the measurements
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), values.ravel())
    figure = qsp.plot.goodness_of_fit(diagnostics(fit))
    assert [ax.get_ylabel().split()[0] for ax in figure.axes] == ["observed", "observed", "conditional", "conditional"]
    assert [ax.get_xlabel() for ax in qsp.plot.random_effects(fit).axes] == ["eta_base", "eta_slope"]


PRINTED = {"FO": 39.213, "FOCE": 39.207, "FOCEI": 39.458, "Laplace": 39.227}
"""Objectives of Wang, J Pharmacokinet Pharmacodyn 2007;34:575, doi:10.1007/s10928-007-9060-6."""


def wang():
    return MixedModel(
        qsp.models.OneCompartment(CL=0.5, V=1.0),
        shared_subjects("Wang2007.csv", "central"),
        {"concentration": Output("concentration", Proportional(float(np.sqrt(0.1))))},
        parameters={"k": Free(0.5)},
        individual={"CL": "k * exp(eta)"},
        random=[RandomEffects({"eta": 0.04})],
    )


@needs_data
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_the_objectives_of_wang(method):
    mixed = wang()
    assert round(float(objective(mixed, method)(jnp.asarray(mixed.start))[0]), 3) == PRINTED[named(method)]


@needs_data
def test_the_likelihood_of_wang():
    assert marginal(wang(), wang().start, Quadrature(15)).objective == pytest.approx(39.355, abs=5e-4)


@needs_data
def test_theophylline_as_nonmem_has_it():
    mixed = MixedModel(
        qsp.models.OneCompartmentOral(CL=2.75, V=31.8, ka=1.59),
        shared_subjects("theo_sd.csv", "depot"),
        {"concentration": Output("concentration", Additive("sigma"))},
        parameters={"tka": Free(1.5), "tCL": Free(3.0), "tV": Free(30.0), "sigma": Free(0.7)},
        individual={"ka": "tka * exp(eta_ka)", "CL": "tCL * exp(eta_CL)", "V": "tV * exp(eta_V)"},
        random=[RandomEffects({"eta_ka": 0.6, "eta_CL": 0.3, "eta_V": 0.1})],
    )
    fit = nlme(mixed)
    assert fit.objective == pytest.approx(116.8038, abs=1e-3)
    published = [1.591, 2.751, 31.82, 0.694, 0.40463, 0.068796, 0.019222]
    np.testing.assert_allclose([*fit.parameters.values()], published, rtol=0.01)


@needs_data
def test_phenobarbital_as_nonmem_has_it():
    """The objective to its seventh digit, estimates, and the standard errors of NONMEM's sandwich."""
    data = qsp.io.read_nonmem(data_folder() / "pheno" / "pheno.dta")
    for unused in ("FA1", "FA2"):
        data.varying.pop(unused)
    mixed = MixedModel(
        qsp.models.OneCompartment(CL=0.005, V=1.0),
        qsp.io.experiments(data, "concentration"),
        {"concentration": Output("concentration", Proportional("cv"))},
        parameters={
            "tCL": Free(0.00469307),
            "tV": Free(1.00916),
            "small": Free(0.1, bounds=(-0.99, 5.0), transform=qsp.Identity()),
            "cv": Free(0.115),
        },
        individual={"CL": "tCL * WGT * exp(eta_CL)", "V": "tV * WGT * piecewise(1 + small, APGR < 5, 1) * exp(eta_V)"},
        random=[RandomEffects({"eta_CL": 0.0309626, "eta_V": 0.031128})],
    )
    fit = nlme(mixed)
    assert fit.objective == pytest.approx(586.27605628, abs=1e-5)
    np.testing.assert_allclose(
        [*fit.parameters.values()], [4.69555e-3, 0.984258, 0.15892, 0.115069, 0.0293508, 0.027906], rtol=1e-3
    )
    errors = np.sqrt(np.diag(fit.covariance_of_estimates()))
    np.testing.assert_allclose(
        errors, [2.10036e-4, 2.68952e-2, 8.37623e-2, 9.90444e-3, 1.34153e-2, 7.47651e-3], rtol=0.01
    )
