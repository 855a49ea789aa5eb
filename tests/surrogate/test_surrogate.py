"""Surrogates: predictions and their error bars at fresh simulations, learning, failures, files, and messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population._plausible._emulator import fitted
from qspjax.population._plausible._features import Features
from qspjax.surrogate import Boundary, Ensemble, Function, GaussianProcess, Patients, Sobol, Surrogate, Training
from qspjax.surrogate._process import Process
from qspjax.surrogate._scale import OutputScale
from tests.systems.marks import slow_for

KEY = jax.random.key(0)
SMALL = Ensemble(3, Training(width=32, steps=800, batch=128, rate=1e-2))
METHODS = {"process": GaussianProcess(), "networks": SMALL}


def two(x):
    """Return the concentration of one compartment at two times, as CL and V say."""
    k = x[:, 0] / x[:, 1]
    return np.stack([300.0 / x[:, 1] * np.exp(-k * t) for t in (1.0, 12.0)], axis=1)


def concentrations():
    inputs = {"CL": qsp.LogNormal(3.0, cv=0.4), "V": qsp.LogUniform(15.0, 60.0)}
    return Function(two, inputs, ["C1", "C12"])


@pytest.mark.parametrize("name", METHODS)
def test_intervals_hold_what_they_say_at_fresh_simulations(name):
    simulator = concentrations()
    emulated = qsp.surrogate.fit(simulator, Sobol(512 if name == "networks" else 256), method=METHODS[name], key=KEY)
    fresh = np.random.default_rng(1).random((4000, 2))
    table = emulated.compared(fresh, simulator.simulate(fresh))
    for output in emulated.outputs:
        assert 0.85 < table["INSIDE"][table["OUTPUT"] == output].mean() < 0.95
    assert np.abs(np.log(table["PREDICTED"] / table["SIMULATED"])).mean() < 0.03
    half = emulated.compared(fresh, simulator.simulate(fresh), level=0.5)
    assert 0.4 < half["INSIDE"].mean() < 0.6


def test_a_process_in_jax_is_that_of_numpy_and_has_its_slope():
    random = np.random.default_rng(0)
    points, new = random.random((60, 3)), random.random((20, 3))
    emulator = fitted(points, np.stack([np.sin(3.0 * points[:, 0]) * points[:, 1], points[:, 2] ** 3], axis=1))
    process = Process.of(emulator)
    mean, deviation = emulator.predict(new)
    np.testing.assert_allclose(process.mean(jnp.asarray(new)), mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(process.deviation(jnp.asarray(new)), deviation, rtol=1e-6)
    at = jnp.asarray(new[0])
    forward = jax.jacfwd(lambda u: process.mean(u[None])[0])(at)
    backward = jax.jacrev(lambda u: process.mean(u[None])[0])(at)
    np.testing.assert_allclose(forward, backward, rtol=1e-9)
    for i in range(3):
        step = 1e-5 * np.eye(3)[i]
        difference = (emulator.mean(new[:1] + step) - emulator.mean(new[:1] - step))[0] / 2e-5
        np.testing.assert_allclose(forward[:, i], difference, rtol=1e-5, atol=1e-8)
    assert np.isfinite(jax.grad(lambda u: process.deviation(u[None])[0, 0])(jnp.asarray(points[0]))).all()


def test_it_learns_until_errors_are_small():
    emulated = qsp.surrogate.fit(
        concentrations(), Sobol(32), learn=qsp.surrogate.Variance(error=0.02, most=256, batch=32), key=KEY
    )
    curve = emulated.learning_curve()
    errors = curve["ERROR"].reshape(-1, 2).max(axis=1)
    assert errors[0] > 0.02 >= errors[-1]
    assert 32 < emulated.simulations < 256
    assert "Process of" in str(emulated)
    fresh = np.random.default_rng(1).random((500, 2))
    truth = np.log(two(np.asarray(concentrations()._inputs.from_unit(fresh))))
    assert np.sqrt(np.mean((np.log(emulated.mean(fresh)) - truth) ** 2, axis=0)).max() < 0.04 * truth.std(axis=0).min()


class Circle(qsp.AbstractModel):
    """Two numbers and nothing that moves."""

    x: jax.Array = qsp.parameter(unit="", doc="one number")
    y: jax.Array = qsp.parameter(unit="", doc="another")

    def initial(self):
        return {}

    def vector_field(self, t, y):
        return {}

    def observe(self, t, y):
        return {"square": (self.x - 1.0) ** 2 + (self.y - 1.0) ** 2}


def circle():
    population = qsp.Population(Circle(0.5, 0.5), between={name: qsp.Uniform(0.0, 2.0) for name in "xy"})
    bounds = {"r": qsp.population.Bound(qsp.endpoints.Value("square", at=0.0), high=0.25)}
    return qsp.surrogate.Plausibility(population, bounds, arms=[qsp.Arm("none", qsp.no_doses())])


def test_it_learns_at_the_boundary():
    seen = []
    simulator = circle()
    plain, simulator.simulate = simulator.simulate, lambda points: seen.append(points) or plain(points)
    qsp.surrogate.fit(
        simulator,
        Sobol(16),
        method=GaussianProcess(),
        learn=Boundary(error=1e-9, most=48, batch=32),
        key=KEY,
        progress=lambda progress: seen.append(progress),
    )
    points = np.concatenate([part for part in seen if isinstance(part, np.ndarray)])
    radius = np.hypot(*(2.0 * points[16:] - 1.0).T)
    assert np.abs(radius - 0.5).mean() < 0.1
    assert len(np.unique(points.round(3), axis=0)) == 48
    assert seen[-1].total == 48


@pytest.mark.parametrize("name", slow_for(METHODS, "networks"))
def test_failures_are_left_out_and_emulated(name):
    def root(x):
        return np.sqrt(np.where(x[:, 0] > 0.3, x[:, 0], np.nan))

    simulator = Function(root, {"x": (0.0, 1.0), "y": (0.0, 1.0)}, ["root"])
    emulated = qsp.surrogate.fit(simulator, Sobol(256), method=METHODS[name], key=KEY)
    assert emulated.failed == pytest.approx(77, abs=2)
    points = np.array([[0.1, 0.5], [0.2, 0.2], [0.4, 0.5], [0.9, 0.1]])
    np.testing.assert_allclose(emulated.mean(points)[2:, 0], np.sqrt(points[2:, 0]), rtol=0.02)
    chance = np.asarray(emulated.succeeds(points))
    assert chance[:2].max() < 0.2
    assert chance[2:].min() > 0.8


def test_simulations_are_not_made_again(tmp_path, monkeypatch):
    file, made, plain = tmp_path / "run.npz", [], Function.simulate

    def counted(self, points):
        made.append(len(points))
        if made == [8, 8, 8, 4]:
            raise KeyboardInterrupt
        return plain(self, points)

    def run(**choices):
        simulator = Function(lambda x: np.abs(np.sin(5.0 * x[:, 0])), {"x": (0.0, 3.0)}, ["y"])
        learn = qsp.surrogate.Variance(error=1e-9, most=40, batch=12)
        return qsp.surrogate.fit(simulator, Sobol(16), learn=learn, key=KEY, **choices)

    monkeypatch.setattr(Function, "simulate", counted)
    with pytest.raises(KeyboardInterrupt):
        run(together=8, checkpoint=file)
    again = run(together=8, checkpoint=file)
    assert made == [8, 8, 8, 4, 4, 8, 4]
    np.testing.assert_array_equal(again.mean([[0.3]]), run().mean([[0.3]]))
    with pytest.raises(ValueError, match="must be the checkpoint of this surrogate, but is that of another one"):
        qsp.surrogate.fit(concentrations(), Sobol(16), checkpoint=file, key=KEY)


@pytest.mark.parametrize("name", METHODS)
def test_a_surrogate_in_a_file(name, tmp_path):
    simulator = Function(lambda x: np.where(x[:, 0] > 0.1, x[:, 0] ** 2, np.nan), {"x": (0.0, 1.0)}, ["y"])
    emulated = qsp.surrogate.fit(simulator, Sobol(64), method=METHODS[name], key=KEY)
    qsp.surrogate.save(tmp_path / "one.surrogate", emulated)
    again = qsp.surrogate.load(tmp_path / "one.surrogate")
    assert isinstance(again, Surrogate)
    points = np.linspace(0.2, 0.9, 5)[:, None]
    for one, other in zip((emulated, again), (again, emulated), strict=True):
        np.testing.assert_array_equal(one.interval(points), other.interval(points))
        np.testing.assert_array_equal(one.succeeds(points), other.succeeds(points))
    assert str(again) == str(emulated)
    (tmp_path / "two").write_text("no archive")
    with pytest.raises(ValueError, match="must be a saved result of a fit, but cannot be read"):
        qsp.surrogate.load(tmp_path / "two")


def test_patients_in_several_arms_with_covariates():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        between={"CL": qsp.Uniform(1.0, 5.0)},
        covariates={"WT": [50.0, 70.0, 90.0], "AGE": [20.0, 60.0, 40.0]},
        effects=[qsp.Allometric(clearances=["CL"], volumes=["V"])],
    )
    arms = [qsp.Arm(f"{dose:g} mg", qsp.bolus(dose, to="central")) for dose in (100.0, 300.0)]
    simulator = Patients(population, arms=arms, observed={"concentration": [0.0, 5.0]})
    assert simulator.inputs == ("CL", "subject")
    assert simulator.outputs[:2] == ("concentration at 0, 100 mg", "concentration at 5, 100 mg")
    emulated = qsp.surrogate.fit(simulator, Sobol(64), key=KEY)
    points = np.array([[0.5, 0.1], [0.5, 0.5], [0.2, 0.9]])
    values = simulator.simulate(points)
    np.testing.assert_allclose(values[1], [100 / 30, 100 / 30 * np.exp(-0.5), 10.0, 10.0 * np.exp(-0.5)], rtol=1e-5)
    np.testing.assert_allclose(emulated.mean(points), values, rtol=0.01)


def test_features_in_jax_are_those_of_numpy():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogUniform(10.0, 50.0)},
        covariates={"SEX": qsp.Categorical({"female": 0.5, "male": 0.3, "other": 0.2}), "WT": [50.0, 70.0, 90.0]},
    )
    features, points = Features.of(population), np.random.default_rng(0).random((50, 4))
    assert features.tailed == (0,)
    np.testing.assert_allclose(features(jnp.asarray(points)), features(points), rtol=1e-12)
    assert features(points).shape == (50, features.size) == (50, 4)
    np.testing.assert_allclose(features(features.centred(points))[:, 2:], features(points)[:, 2:])


def test_scales_and_their_inverses():
    values = np.random.default_rng(0).lognormal(size=(50, 4)) * [1.0, 1.0, 1.0, 1.0] - [0.0, 1.0, 0.0, 1.0]
    scale = OutputScale.of(values, np.array([-np.inf, -np.inf, 0.5, -1.0]), np.array([np.inf, np.inf, 2.0, np.inf]))
    assert scale.logarithmic.tolist() == [True, False, True, False]
    assert scale.bent.tolist() == [False, False, True, True]
    scaled = scale.forward(jnp.asarray(values))
    np.testing.assert_allclose(scale.inverse(scaled), values, rtol=1e-9)
    np.testing.assert_allclose(scaled[:, :2].std(axis=0), 1.0)
    np.testing.assert_allclose(scale.forward(np.array([1.0, 1.0, 1.0, -1.0]))[2:], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qsp.surrogate.fit(two, key=KEY), "Argument `simulator` must be a simulator such as Patients"),
        (
            lambda: qsp.surrogate.fit(concentrations(), 64, key=KEY),
            r"Argument `design` must be a design such as Sobol\(256\)",
        ),
        (
            lambda: qsp.surrogate.fit(concentrations(), method="networks", key=KEY),
            r"Argument `method` must be a method such as GaussianProcess\(\) or Ensemble\(\)",
        ),
        (
            lambda: qsp.surrogate.fit(concentrations(), Sobol(32), learn=Boundary(), key=KEY),
            r"must not be Boundary\(\) where outputs have no bounds: use Variance\(\)",
        ),
        (
            lambda: qsp.surrogate.fit(Function(lambda x: x * np.nan, {"x": (0, 1)}, ["y"]), Sobol(8), key=KEY),
            "Argument `simulator` must succeed at 8 points at least, but 8 of 8 simulations failed",
        ),
        (
            lambda: Function(two, {"a": (0, 1), "b": (0, 1)}, ["y"]).simulate(np.ones((2, 2))),
            "Argument `outputs` must name the 2 outputs of the function, but is `y`",
        ),
        (
            lambda: concentrations().points(CL=1.0),
            "Argument `values` must be those of CL, V, but is `CL`",
        ),
        (
            lambda: Patients(qsp.Population(Circle(0.5, 0.5)), arms=[qsp.Arm("a", qsp.no_doses())]),
            "Argument `population` must have something that varies between patients",
        ),
        (
            lambda: Patients(
                qsp.Population(Circle(0.5, 0.5), between={"x": qsp.Uniform(0, 1)}),
                {"AUC": qsp.endpoints.AUC("square")},
                arms=[qsp.Arm("a", qsp.no_doses())],
            ),
            "Argument `ts` must be given where an endpoint is of a whole course",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
