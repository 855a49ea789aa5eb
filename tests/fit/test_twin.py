"""Twins: the posterior of one patient against closed forms, however its measurements arrive."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    M3,
    Additive,
    Binary,
    Correlated,
    Experiment,
    Free,
    Laplace,
    LogNormalError,
    Measurements,
    MixedModel,
    Near,
    Output,
    Particles,
    Proportional,
    RandomEffects,
    Risk,
    Twin,
    Within,
    nlme,
)

KEY = jax.random.key(0)
SD = 0.5
TIMES, VALUES = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.3, 2.9, 2.2, 6.0])
PRIOR_MEAN, PRIOR_SD = np.array([1.0, 0.5]), np.array([1.0, 0.6])


class Line(qsp.AbstractModel):
    a: jax.Array = qsp.parameter(unit="mg", doc="intercept", above=None)
    b: jax.Array = qsp.parameter(unit="mg/h", doc="slope", above=None)

    def initial(self):
        return {}

    def vector_field(self, t, y):
        return {}

    def observe(self, t, y):
        return {"y": self.a + self.b * t}


def line(method, **changes):
    population = qsp.Population(
        Line(a=1.0, b=0.5), between={"a": qsp.Normal(sd=PRIOR_SD[0]), "b": qsp.Normal(sd=PRIOR_SD[1])}
    )
    outputs = {"y": Output("y", Additive("sd"))} | changes
    return Twin(population, outputs, method, parameters={"sd": SD})


def exact(times, values):
    """Return mean, covariance and log evidence of a linear model with normal prior and error."""
    A = np.stack([np.ones_like(times), times], axis=1)
    S0 = np.diag(PRIOR_SD**2)
    V = A @ S0 @ A.T + SD**2 * np.eye(times.size)
    gain = S0 @ A.T @ np.linalg.inv(V)
    r = values - A @ PRIOR_MEAN
    evidence = -0.5 * (r @ np.linalg.solve(V, r) + np.linalg.slogdet(2.0 * np.pi * V)[1])
    return PRIOR_MEAN + gain @ r, S0 - gain @ A @ S0, evidence


def oral(method=None, **changes):
    population = qsp.Population(
        qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2),
        between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)},
    )
    outputs = {"C": Output("concentration", Proportional(0.15))} | changes
    return Twin(population, outputs, Particles(200, moves=2, key=KEY) if method is None else method)


DOSE = qsp.bolus(200.0, to="depot")


def test_laplace_is_exact_where_all_is_normal():
    twin = line(Laplace())
    for t, y in zip(TIMES, VALUES, strict=True):
        twin = twin.update(Measurements([t], [y], output="y"))
    mean, covariance, evidence = exact(TIMES, VALUES)
    np.testing.assert_allclose(PRIOR_MEAN + PRIOR_SD * twin.posterior.z, mean, rtol=1e-5)
    factor = PRIOR_SD[:, None] * twin.posterior.factor
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-5)
    assert twin.log_evidence == pytest.approx(evidence, rel=1e-6)


def test_particles_agree_with_the_closed_form():
    twin = line(Particles(8000, key=KEY)).update(Measurements(TIMES, VALUES, output="y"))
    mean, covariance, evidence = exact(TIMES, VALUES)
    table, sd = twin.summary(), np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((table["MEAN"] - mean) / sd, 0.0, atol=0.05)
    np.testing.assert_allclose(table["SD"], sd, rtol=0.05)
    np.testing.assert_allclose((table["LOWER"] - (mean - 1.6449 * sd)) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(table["SHRINKAGE"], 1.0 - (sd / PRIOR_SD) ** 2, atol=0.03)
    assert twin.log_evidence == pytest.approx(evidence, abs=0.05)


@pytest.mark.parametrize("method", [Particles(8000, key=KEY), Laplace()])
def test_forecasts_are_those_of_the_closed_form(method):
    twin = line(method).update(Measurements(TIMES, VALUES, output="y"))
    mean, covariance, _ = exact(TIMES, VALUES)
    at = np.array([1.0, 6.0])
    expected = mean[0] + mean[1] * at
    variance = np.array([np.array([1.0, t]) @ covariance @ np.array([1.0, t]) for t in at])
    for measured, spread in ((False, variance), (True, variance + SD**2)):
        table = twin.forecast(None, at, key=KEY, size=8000, measured=measured)
        sd = np.sqrt(spread)
        np.testing.assert_allclose((table["MEDIAN"] - expected) / sd, 0.0, atol=0.06)
        np.testing.assert_allclose((table["UPPER"] - table["LOWER"]) / (2.0 * 1.6449 * sd), 1.0, rtol=0.05)
    assert table["UNIT"].tolist() == ["", ""]
    assert table["COUNT"].tolist() == [8000, 8000]


def test_the_order_of_arrival_does_not_matter():
    forwards = line(Particles(8000, key=KEY)).update(Measurements(TIMES, VALUES, output="y"))
    backwards = line(Particles(8000, key=jax.random.key(5)))
    for t, y in zip(TIMES[::-1], VALUES[::-1], strict=True):
        backwards = backwards.update(Measurements([t], [y], output="y"))
    one, other = forwards.summary(), backwards.summary()
    np.testing.assert_allclose((one["MEAN"] - other["MEAN"]) / one["SD"], 0.0, atol=0.07)
    assert forwards.log_evidence == pytest.approx(backwards.log_evidence, abs=0.08)


def test_a_key_gives_the_same_twin_and_a_twin_does_not_change():
    before = oral()
    one, other = (before.update(Measurements([2.0, 8.0], [5.0, 3.1], output="C"), DOSE) for _ in range(2))
    np.testing.assert_array_equal(one.posterior.z, other.posterior.z)
    np.testing.assert_array_equal(one.patients(key=KEY, size=20).model.CL, other.patients(key=KEY, size=20).model.CL)
    assert before.measurements()["TIME"].size == 0
    assert before.regimen.rows == 0
    assert "Twin before the first measurement" in str(before)
    assert one.patients(key=KEY, size=20).size == 20


def test_a_dose_after_a_measurement_at_its_time_was_not_seen_by_it():
    population = qsp.Population(qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.LogNormal(cv=0.3)})
    twin = Twin(population, {"C": Output("concentration", Additive(0.01))}, Laplace())
    first, second = (qsp.bolus(300.0, to="central", at=at) for at in (0.0, 24.0))
    decayed = 10.0 * np.exp(-2.4)
    trough = twin.update(Measurements([24.0], [decayed], output="C"), first)
    assert trough.summary()["MEAN"][0] == pytest.approx(30.0, rel=1e-3)
    later = trough.update(Measurements([36.0], [(decayed + 10.0) * np.exp(-1.2)], output="C"), second)
    assert later.summary()["MEAN"][0] == pytest.approx(30.0, rel=1e-3)
    seen = twin.update(Measurements([24.0], [decayed + 10.0], output="C"), first + second)
    assert seen.summary()["MEAN"][0] == pytest.approx(30.0, rel=1e-3)


@pytest.mark.slow
def test_censored_missing_and_several_outputs():
    outputs = {
        "D": Output("central", LogNormalError(0.1)),
        "low": Output("concentration", Additive(0.2), below=M3(1.0)),
    }
    values = [5.0, np.nan, 140.0, 0.3]
    data = Measurements([2.0, 3.0, 4.0, 30.0], values, output=["C", "C", "D", "low"])
    twin = oral(Particles(1000, moves=3, key=KEY), **outputs).update(data, DOSE)
    table = twin.measurements()
    assert table["OUTPUT"].tolist() == ["C", "D", "low"]
    assert table["CENSORED"].tolist() == [False, False, True]
    other = oral(Laplace(), **outputs).update(data, DOSE)
    np.testing.assert_allclose(table["P_VALUE"], other.measurements()["P_VALUE"], atol=0.1)
    assert twin.log_evidence == pytest.approx(other.log_evidence, abs=0.2)
    np.testing.assert_allclose(twin.summary()["MEAN"], other.summary()["MEAN"], rtol=0.05)
    forecast = twin.forecast(None, [4.0], key=KEY, measured=True)
    assert forecast["OUTPUT"].tolist() == ["C", "D", "low"]
    assert forecast["UNIT"].tolist() == ["mg/L", "", "mg/L"]


def test_covariates_are_known_or_inferred():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        between={"CL": qsp.LogNormal(cv=0.1)},
        covariates={"WT": qsp.Normal(70.0, sd=15.0), "SEX": qsp.Categorical({"f": 0.5, "m": 0.5})},
        effects=[
            qsp.Allometric(clearances=["CL"], volumes=["V"]),
            qsp.ByCategory("CL", "SEX", factors={"f": 0.5, "m": 1.0}),
        ],
    )
    outputs = {"C": Output("concentration", Proportional(0.05))}
    data, dose = Measurements([0.5, 20.0], [11.4, 1.48], output="C"), qsp.bolus(300.0, to="central")
    method = Particles(400, moves=2, key=KEY)
    unknown = Twin(population, outputs, method).update(data, dose)
    known = Twin(population, outputs, method, covariates={"WT": 58.0, "SEX": "m"}).update(data, dose)
    assert unknown.prior.coordinates == ("CL", "WT", "SEX")
    assert known.prior.coordinates == ("CL",)
    table = unknown.summary()
    assert table["MEAN"][table["NAME"].tolist().index("WT")] < 65.0
    assert table["MEAN"][table["NAME"].tolist().index("SEX")] > 0.9
    assert known.patients(key=KEY, size=3).covariates["WT"].tolist() == [58.0, 58.0, 58.0]


def test_a_surprise_and_the_impossible_are_said():
    twin = oral().update(Measurements([2.0, 8.0], [5.0, 9.0], output="C"), DOSE)
    assert twin.measurements()["P_VALUE"][1] < 1e-3
    (line,) = twin.remarks()
    assert "The measurement of `C` at time 8 (9) was hardly to be expected of this patient" in line
    assert line in str(twin)
    positive = oral(P=Output("concentration", LogNormalError(0.1)))
    with pytest.raises(RuntimeError, match="`P` at time 2 is impossible for this patient, .* LogNormalError must be"):
        positive.update(Measurements([2.0], [-1.0], output="P"), DOSE)


def test_a_draw_that_fails_has_no_weight():
    class Fragile(qsp.AbstractModel):
        k: jax.Array = qsp.parameter(unit="1/h", doc="rate")

        def initial(self):
            return {"x": 1.0}

        def vector_field(self, t, y):
            return {"x": -self.k * y["x"] + 0.0 * jax.numpy.sqrt(0.5 - self.k) * y["x"] ** 2}

        def observe(self, t, y):
            return {"x": y["x"]}

    population = qsp.Population(Fragile(k=0.4), between={"k": qsp.LogNormal(cv=0.3)})
    twin = Twin(population, {"x": Output("x", Additive(0.05))}, Particles(400, key=KEY))
    twin = twin.update(Measurements([2.0], [0.5], output="x"))
    assert twin.posterior.failed > 20
    assert np.asarray(twin.patients(key=KEY, size=200).model.k).max() < 0.5
    assert "cannot be simulated" in twin.remarks()[-1]
    broken = Twin(
        qsp.Population(Fragile(k=2.0), between={"k": qsp.LogNormal(cv=0.1)}),
        {"x": Output("x", Additive(0.05))},
        Particles(100, key=KEY),
    )
    with pytest.raises(RuntimeError, match="No draw has a likelihood. The first: "):
        broken.update(Measurements([2.0], [0.5], output="x"))


def test_a_measurement_of_few_values_is_no_surprise():
    twin = oral(sick=Output("concentration / 10", Binary()))
    twin = twin.update(Measurements([2.0, 8.0], [1.0, 0.0], output="sick"), DOSE)
    assert (twin.measurements()["P_VALUE"] > 0.3).all()
    assert not twin.remarks()


def test_a_twin_of_a_fit_has_its_formulas_and_numbers():
    def subject(CL, WT):
        data = Measurements([1.0, 4.0, 8.0], 10.0 * np.exp(-CL / 30.0 * np.array([1.0, 4.0, 8.0])), output="c")
        return Experiment(data, qsp.bolus(300.0, to="central"), set={"WT": WT})

    mixed = MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        {f"{i}": subject(CL, 60.0 + 5.0 * i) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        {"c": Output("concentration", Additive("sd"))},
        parameters={"tCL": Free(3.0), "sd": 0.2},
        individual={"CL": "tCL * exp(eta_CL) * (WT / 70)"},
        random=[RandomEffects({"eta_CL": 0.1})],
    )
    fit = nlme(mixed, iterations=0)
    twin = Twin(fit, method=Laplace(), covariates={"WT": 70.0})
    twin = twin.update(subject(3.9, 70.0).measurements, qsp.bolus(300.0, to="central"))
    assert twin.summary()["MEAN"][0] == pytest.approx(3.9, rel=0.03)
    assert "eta_CL" in twin.patients(key=KEY, size=5).covariates
    with pytest.raises(ValueError, match="`covariates` must give `WT` of the patient"):
        Twin(fit, method=Laplace())


def test_updates_share_their_programs():
    population = oral().prior.population
    outputs = {"C": Output("concentration", Proportional(0.15))}
    compiled = []

    def listen(event, duration, **_):
        compiled.append(event) if "backend_compile" in event else None

    def followed(seed):
        twin = Twin(population, outputs, Particles(208, key=jax.random.key(seed)))
        for k, value in enumerate([5.0, 4.4, 3.2, 2.0, 1.5, 1.0, 0.7, 0.5]):
            twin = twin.update(Measurements([2.0 + 2.5 * k], [value], output="C"), DOSE if k == 0 else None)
        return twin.forecast(qsp.bolus(100.0, to="depot", at=24.0), [36.0], key=KEY, size=208)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        followed(0)
        assert 0 < len(compiled) < 40
        compiled.clear()
        followed(1)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: oral("SMC"), "`method` must be a method such as Particles"),
        (lambda: Twin(3.0, {}, Laplace()), "`population` must be a Population"),
        (lambda: oral(Laplace(), C=Output("conc", Additive(0.1))), "in output `C` .concentration, .*but is `conc`"),
        (lambda: oral(Laplace(), C=Output("concentration", Correlated(Additive(0.1), time=2.0))), "do not depend on"),
        (
            lambda: oral().update(Measurements([1.0], [2.0], output="B")),
            "`measurements` must name an output of the twin",
        ),
        (lambda: oral().update(Measurements([1.0], [np.nan], output="C")), "all are missing"),
        (
            lambda: oral().update(Measurements([1.0], [2.0], output="C"), qsp.bolus(1.0, to=1, at=3.0)),
            "`forecast` takes those",
        ),
        (lambda: Particles(5, key=KEY), "`count` must be"),
    ],
)
def test_what_is_wrong_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_doses_do_not_change_what_measurements_said():
    twin = oral().update(Measurements([4.0], [4.4], output="C"), DOSE)
    with pytest.raises(ValueError, match="`doses` must come no earlier than what was measured, at 4, but"):
        twin.update(Measurements([8.0], [3.0], output="C"), qsp.bolus(100.0, to="depot", at=2.0))
    with pytest.raises(ValueError, match="`regimen` must come no earlier"):
        twin.forecast(qsp.bolus(100.0, to="depot", at=2.0), [8.0], key=KEY)


def test_the_best_dose_is_that_of_the_closed_form_and_keeps_its_limit():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.LogNormal(cv=0.2), "CL": qsp.LogNormal(cv=0.3)}
    )
    twin = Twin(population, {"C": Output("concentration", Proportional(0.1))}, Laplace())
    draws = twin.patients(key=KEY, size=100).model
    per_dose = np.exp(-12.0 * np.asarray(draws.CL / draws.V)) / np.asarray(draws.V)
    aim = Near(qsp.endpoints.Value("concentration", at=12.0), 4.0)

    def best(*risks, aim=aim, low=10.0):
        return twin.best_dose(
            lambda amount: qsp.bolus(amount, to="central"),
            [0.0, 12.0],
            aim,
            bounds={"amount": (low, 1000.0)},
            risks=risks,
            key=KEY,
            size=100,
        )

    free = best()
    assert free.values["amount"] == pytest.approx(4.0 * per_dose.sum() / (per_dose**2).sum(), rel=1e-4)
    peak = qsp.endpoints.Cmax("concentration")
    limited = best(Risk(peak, 0.05, above=10.0))
    assert limited.values["amount"] == pytest.approx(10.0 * np.sort(np.asarray(draws.V))[5], rel=1e-5)
    assert limited.feasible
    assert limited.binds == (True,)
    assert limited.probabilities[0] == pytest.approx(0.05)
    assert "P(Cmax > 10) = 0.05, at most 0.05 allowed, which binds" in str(limited)
    impossible = best(Risk(peak, 0.05, above=1.0), low=100.0)
    assert impossible.values["amount"] == pytest.approx(100.0)
    assert "No dose within the bounds keeps all limits" in str(impossible)


def test_the_best_dose_for_a_share_of_the_patients():
    population = qsp.Population(qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.LogNormal(cv=0.2)})
    twin = Twin(population, {"C": Output("concentration", Proportional(0.1))}, Laplace())
    best = twin.best_dose(
        lambda amount: qsp.bolus(amount, to="central"),
        [0.0, 1.0],
        Within(qsp.endpoints.Value("concentration", at=0.0), low=8.0, high=12.0),
        bounds={"amount": (10.0, 1000.0)},
        key=KEY,
        size=200,
    )
    V = np.asarray(twin.patients(key=KEY, size=200).model.V)
    share = max(np.mean((dose / V >= 8.0) & (dose / V <= 12.0)) for dose in np.linspace(200.0, 400.0, 201))
    assert best.achieved > share - 0.05
    assert 250.0 < best.values["amount"] < 330.0
    with pytest.raises(ValueError, match="`regimen` must be a function of dose, the names in `bounds`"):
        twin.best_dose(lambda amount: DOSE, [0.0], best.aim, bounds={"dose": (1.0, 2.0)}, key=KEY)
