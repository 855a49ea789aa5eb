"""The log density of a problem: by hand, its derivatives, conditions, changes, steady states, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import M1, M3, Additive, Change, Experiment, Free, Measurements, Output, Problem, Proportional
from qspjax.models import MassAction, Network, Reaction

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0])
PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
BOLUS = qsp.bolus(300.0, to="central")


def curve(CL, V, dose=300.0, times=TIMES):
    return dose / V * np.exp(-CL / V * times)


DATA = curve(2.5, 28.0) * np.exp(0.1 * np.sin(7.0 * TIMES))


def measured(values=DATA, times=TIMES, **more):
    return Measurements(times, values, output="concentration", **more)


def problem(**parameters):
    parameters = {"CL": Free(3.0, bounds=(0.1, 50.0)), "V": Free(30.0, bounds=(3.0, 300.0))} | parameters
    outputs = {"concentration": Output("concentration", Additive("sigma"))}
    return Problem(
        PATIENT, Experiment(measured(), BOLUS), outputs, parameters | {"sigma": parameters.get("sigma", 0.2)}
    )


def test_the_log_density_is_that_of_the_data():
    one = problem(sigma=Free(0.2, prior=qsp.LogNormal(0.2, omega=0.5)))
    x = one.point({"CL": 2.6, "V": 27.0, "sigma": 0.3})
    expected = stats.norm(curve(2.6, 27.0), 0.3).logpdf(DATA).sum()
    np.testing.assert_allclose(one.log_likelihood(x), expected, rtol=1e-12)
    np.testing.assert_allclose(one.log_prior(x), stats.lognorm(0.5, scale=0.2).logpdf(0.3), rtol=1e-12)
    np.testing.assert_allclose(one.log_density(x), expected + one.log_prior(x), rtol=1e-12)
    np.testing.assert_allclose(one.log_jacobian(x), np.log([2.6, 27.0, 0.3]).sum(), rtol=1e-12)


def test_gradients_in_both_modes_and_by_sensitivities():
    one = problem(sigma=Free(0.2))
    x = one.point({"CL": 2.0, "V": 33.0, "sigma": 0.4})
    found = jax.jit(one.quadratic)(x)
    reverse, forward = (jax.jit(mode(one.log_density))(x) for mode in (jax.grad, jax.jacfwd))
    step = 1e-5
    central = [
        (one.log_density(x.at[i].add(step)) - one.log_density(x.at[i].add(-step))) / (2 * step) for i in range(3)
    ]
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    np.testing.assert_allclose(found.gradient, reverse, rtol=1e-10)
    np.testing.assert_allclose(reverse, central, rtol=1e-6)
    np.testing.assert_allclose(found.value, one.log_density(x), rtol=1e-12)


def test_a_name_in_backticks_is_no_constant():
    outputs = {"concentration": Output("concentration * `pi`", Additive("`time`"))}
    one = Problem(PATIENT, Experiment(measured(), BOLUS), outputs, {"pi": Free(2.0), "time": 0.5})
    table = one.table(one.start)
    np.testing.assert_allclose(table["prediction"], 2.0 * curve(3.0, 30.0), rtol=1e-6)
    np.testing.assert_allclose(table["residual"], (DATA - table["prediction"]) / 0.5)


def test_the_curvature_is_that_of_least_squares():
    one = problem(sigma=Free(0.2))
    x = one.point({"CL": 2.0, "V": 33.0, "sigma": 0.4})

    def predicted(x):
        CL, V = jnp.exp(x[0]), jnp.exp(x[1])
        return 300.0 / V * jnp.exp(-CL / V * TIMES)

    slopes = jax.jacfwd(predicted)(x) / 0.4
    expected = np.array(slopes.T @ slopes)
    expected[2, 2] += 2 * TIMES.size
    np.testing.assert_allclose(jax.jit(one.quadratic)(x).curvature, expected, rtol=1e-8, atol=1e-8)


def test_experiments_share_parameters_and_have_their_own():
    experiments = {
        "low": Experiment(measured(), BOLUS),
        "high": Experiment(measured(2 * DATA), qsp.bolus(600.0, to="central"), set={"CL": "CL * factor"}),
        "given": Experiment(measured(given={"offset": [0.1] * 6}), BOLUS, set={"V": 25.0}),
    }
    experiments["low"].measurements.given["offset"] = experiments["high"].measurements.given["offset"] = (0.0,) * 6
    outputs = {"concentration": Output("concentration + offset", Proportional("cv"))}
    parameters = {"CL": Free(3.0), "V": Free(30.0), "factor": Free(0.5), "cv": Free(0.1)}
    one = Problem(PATIENT, experiments, outputs, parameters)
    x = one.point({"CL": 2.6, "V": 27.0, "factor": 0.7, "cv": 0.2})
    curves = [curve(2.6, 27.0), curve(2.6 * 0.7, 27.0, 600.0), curve(2.6, 25.0) + 0.1]
    data = [DATA, 2 * DATA, DATA]
    expected = sum(stats.norm(f, 0.2 * f).logpdf(y).sum() for f, y in zip(curves, data, strict=True))
    np.testing.assert_allclose(one.log_density(x), expected, rtol=1e-10)
    found = jax.jit(one.quadratic)(x)
    np.testing.assert_allclose(found.gradient, jax.jit(jax.grad(one.log_density))(x), rtol=1e-9)


def test_parameters_of_different_experiments_share_a_direction():
    own = {f"e{i}": Experiment(measured(), BOLUS, set={"CL": f"CL{i}"}) for i in range(4)}
    outputs = {"concentration": Output("concentration", Additive(0.2))}
    one = Problem(PATIENT, own, outputs, {f"CL{i}": Free(3.0 + i) for i in range(4)})
    assert "1 forward sensitivities" in str(one)
    found = jax.jit(one.quadratic)(one.start)
    np.testing.assert_allclose(found.gradient, jax.jit(jax.grad(one.log_density))(one.start), rtol=1e-9)


def test_changes_of_parameters_and_states():
    late = np.array([3.0, 5.0, 6.0])
    change = Change(4.0, set={"CL": "CL2"}, put={"central": "central + extra"})
    experiment = Experiment(Measurements(late, [5.0, 8.0, 7.0], output="concentration"), BOLUS, changes=[change])
    parameters = {"CL": Free(3.0), "CL2": Free(6.0), "extra": Free(100.0)}
    one = Problem(PATIENT, experiment, {"concentration": Output("concentration", Additive(0.2))}, parameters)
    x = one.point({"CL": 2.0, "CL2": 5.0, "extra": 80.0})
    at4 = 300.0 * np.exp(-2.0 / 30.0 * 4.0) + 80.0
    expected = [10.0 * np.exp(-2.0 / 30.0 * 3.0), *(at4 / 30.0 * np.exp(-5.0 / 30.0 * np.array([1.0, 2.0])))]
    np.testing.assert_allclose(one.table(x)["prediction"], expected, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(one.quadratic)(x).gradient, jax.jit(jax.grad(one.log_density))(x), rtol=1e-8)


CONVERSION = Network(
    species={"A": 1.0, "B": 0.0},
    parameters={"k1": 0.8, "k2": 0.6},
    reactions={"r": Reaction("A -> B", MassAction("k1", reverse="k2"))},
)


def test_an_experiment_begins_in_a_steady_state():
    experiment = Experiment(
        Measurements([0.0, 1.0, np.inf], [0.6, 0.5, 0.4], output="A"),
        set={"k1": 0.8},
        equilibrated=Change(0.0, set={"k1": "0.5 * k"}),
    )
    one = Problem(CONVERSION, experiment, {"A": Output("A", Additive(0.1))}, {"k": Free(0.6), "k2": Free(0.6)})
    x = one.point({"k": 0.5, "k2": 0.7})
    before, after = 0.7 / 0.95, 0.7 / 1.5
    expected = [before, after + (before - after) * np.exp(-1.5), after]
    table = one.table(x)
    np.testing.assert_allclose(table["prediction"], expected, rtol=1e-7)
    scaled = (np.array([0.6, 0.5, 0.4]) - np.array(expected)) / 0.1**2
    shift = np.array([-0.7 / 0.95**2 * 0.5, -0.7 / 0.95**2 * 0.5 * np.exp(-1.5), 0.0])
    gradient = jax.jit(one.quadratic)(x).gradient
    np.testing.assert_allclose(gradient[0], scaled @ shift * 0.5, rtol=1e-6)


def test_censoring():
    outputs = {name: Output("concentration", Additive("sigma"), below=below) for name, below in
               (("plain", None), ("far", M3(1e-3)), ("M3", M3(5.0)), ("M1", M1(5.0)))}  # fmt: skip
    found = {}
    for name, output in outputs.items():
        free = {"CL": Free(3.0), "V": Free(30.0), "sigma": 0.2}
        one = Problem(PATIENT, Experiment(measured(), BOLUS), {"concentration": output}, free)
        found[name] = float(one.log_density(one.start))
    f, known = curve(3.0, 30.0), DATA >= 5.0
    normal = stats.norm(f, 0.2)
    assert found["far"] == found["plain"]
    np.testing.assert_allclose(found["M1"], normal.logpdf(DATA)[known].sum(), rtol=1e-12)
    expected = np.where(known, normal.logpdf(DATA), normal.logcdf(5.0)).sum()
    np.testing.assert_allclose(found["M3"], expected, rtol=1e-10)


def test_a_failed_simulation_is_a_density_of_zero_that_says_why():
    growing = Network(species={"N": 1.0}, parameters={"r": 1.0}, reactions={"growth": Reaction("-> N", "r * N^2")})
    experiment = Experiment(Measurements([0.5, 5.0], [1.0, 2.0], output="N"))
    one = Problem(growing, {"culture": experiment}, {"N": Output("N", Additive(0.1))}, {"r": Free(1.0)})
    found = jax.jit(one.quadratic)(one.start)
    assert float(found.value) == -np.inf
    assert np.isfinite(found.gradient).all()
    (line,) = one.failures(one.start)
    assert line.startswith("Experiment `culture` failed at time 1")
    assert "r = 1" in line
    with pytest.raises(RuntimeError, match=r"No start can be evaluated \(1 tried\). The first: Experiment `culture`"):
        qsp.fit.estimate(one)


GOOD = Experiment(measured(), BOLUS)
OUTPUT = {"concentration": Output("concentration", Additive(0.1))}
FREE = {"CL": Free(3.0)}
TIME = {"time": Free(1.0)}
MISSING = Experiment(measured(np.full(6, np.nan)), BOLUS)
CENSORED = {"concentration": Output("concentration", Additive(0.1), below=M3(1000.0))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Problem(PATIENT, {}, OUTPUT, FREE),
            "Argument `experiments` must have measurements, but there are none.",
        ),
        (lambda: Problem(PATIENT, MISSING, OUTPUT, FREE), "Argument `experiments` must have measurements, but all are"),
        (lambda: Problem(PATIENT, GOOD, CENSORED, FREE), "must have measurements above the limit of quantification"),
        (lambda: Problem(PATIENT, GOOD, OUTPUT, {"CL": 3.0}), "must have at least one that is Free"),
        (lambda: Problem(PATIENT, GOOD, OUTPUT, FREE | {"k": Free(1.0)}), "but nothing depends on `k`"),
        (
            lambda: Problem(PATIENT, GOOD, {}, FREE),
            "Argument `outputs` must name what is measured, but `concentration` of",
        ),
        (
            lambda: Problem(PATIENT, GOOD, {"concentration": Output("conc", Additive(0.1))}, FREE),
            "Argument `outputs` must name an observed value, a state or a parameter, in output `conc",
        ),
        (
            lambda: Problem(PATIENT, GOOD, {"concentration": Output("-pi", Additive(0.1))}, FREE | {"pi": Free(2.0)}),
            "Argument `outputs` must write `pi` in backticks for what is declared with that name, or rename that, "
            "but is -pi, where it means the constant.",
        ),
        (
            lambda: Problem(PATIENT, GOOD, {"concentration": Output("concentration", Additive("time"))}, FREE | TIME),
            "Argument `outputs` must write `time` in backticks for what is declared with that name, or rename that, "
            "but is time, where it means the time.",
        ),
        (
            lambda: Problem(PATIENT, Experiment(measured(), BOLUS, set={"V": "inf"}), OUTPUT, FREE | {"inf": 2.0}),
            "Argument `experiments` must write `inf` in backticks",
        ),
        (lambda: Free(3.0, bounds=(4.0, 5.0)), "Argument `start` must lie within the bounds 4 to 5, but is 3."),
        (lambda: Free(3.0, bounds=(5.0, 4.0)), "Argument `bounds` must be the least and the greatest value"),
        (lambda: Free(-3.0, transform=qsp.Log()), "Argument `start` must lie in the domain of its transform Log"),
        (lambda: Measurements([1.0], [1.0, 2.0], output="a"), "Argument `value` must have one element per time"),
        (lambda: Measurements([np.nan], [1.0], output="a"), "Argument `time` must hold numbers"),
        (lambda: problem().point({"ka": 1.0}), "Argument `values` must name a free parameter"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
