"""Global sensitivities of functions whose indices are known, and against SALib on the same samples."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.sensitivity import Inputs, OfModel, efast, morris, prcc, sobol
from qspjax.sensitivity._fast import fast_of
from qspjax.sensitivity._morris import morris_of, paths
from qspjax.sensitivity._sobol import saltelli, sobol_of

KEY = jax.random.key(0)

ANGLES = Inputs({name: (-np.pi, np.pi) for name in ("x1", "x2", "x3")})
SIZES = np.array([0.0, 1.0, 4.5, 9.0, 99.0, 99.0])
UNIT = Inputs({f"x{i}": (0.0, 1.0) for i in range(SIZES.size)})


def ishigami(x):
    return np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def g_function(x):
    return np.prod((np.abs(4.0 * x - 2.0) + SIZES) / (1.0 + SIZES), axis=1)


def g_indices():
    parts = 1.0 / (3.0 * (1.0 + SIZES) ** 2)
    whole = np.prod(1.0 + parts)
    return parts / (whole - 1.0), parts * (whole / (1.0 + parts)) / (whole - 1.0)


def test_ishigami():
    found = sobol(ishigami, ANGLES, samples=2**14, key=KEY)
    np.testing.assert_allclose(found.first[:, 0], [0.3139, 0.4424, 0.0], atol=0.01)
    np.testing.assert_allclose(found.total[:, 0], [0.5576, 0.4424, 0.2437], atol=0.01)
    assert np.all(np.abs(found.first[:, 0] - [0.3139, 0.4424, 0.0]) <= found.first_error[:, 0])
    assert list(found.to_dataframe()["input"]) == ["x1", "x2", "x3"]


def test_g_function():
    first, total = g_indices()
    found = sobol(g_function, UNIT, samples=2**14, key=KEY)
    np.testing.assert_allclose(found.first[:, 0], first, atol=0.01)
    np.testing.assert_allclose(found.total[:, 0], total, atol=0.01)
    fast = efast(g_function, UNIT, samples=4097, key=KEY)
    np.testing.assert_allclose(fast.first[:, 0], first, atol=0.02)
    np.testing.assert_allclose(fast.total[:, 0], total, atol=0.06)


def test_sobol_is_salib_on_the_same_samples():
    from SALib.analyze import sobol as oracle

    samples, names = 2**10, list(ANGLES.names)
    values = ishigami(saltelli(ANGLES, samples, jax.random.key(3)))
    blocks = values.reshape(5, samples)
    order = blocks[[0, 2, 3, 4, 1]].T.ravel()  # SALib: A, A with columns of B, B for each sample
    problem = {"num_vars": 3, "names": names, "bounds": [[-np.pi, np.pi]] * 3}
    theirs = oracle.analyze(problem, order, calc_second_order=False)
    ours = sobol_of(values[:, None], ANGLES.names, key=KEY)
    np.testing.assert_allclose(ours.first[:, 0], theirs["S1"], rtol=1e-9)
    np.testing.assert_allclose(ours.total[:, 0], theirs["ST"], rtol=1e-10)
    np.testing.assert_allclose(ours.first_error[:, 0], theirs["S1_conf"], rtol=0.3)


def test_morris_is_salib_on_the_same_paths():
    from SALib.analyze import morris as oracle

    unit, order, delta = paths(6, 30, 4, KEY)
    values = g_function(unit.reshape(-1, 6)).reshape(30, 7, 1)
    ours = morris_of(values, order, delta, UNIT.names)
    problem = {"num_vars": 6, "names": list(UNIT.names), "bounds": [[0.0, 1.0]] * 6}
    theirs = oracle.analyze(problem, unit.reshape(-1, 6), values.ravel(), num_levels=4)
    np.testing.assert_allclose(ours.mu_star[:, 0], theirs["mu_star"], rtol=1e-9)
    np.testing.assert_allclose(ours.mu[:, 0], theirs["mu"], rtol=1e-9)
    np.testing.assert_allclose(ours.sigma[:, 0], theirs["sigma"], rtol=1e-9)


def test_efast_is_salib_on_the_same_curves():
    from SALib.analyze import fast as oracle
    from SALib.sample import fast_sampler

    problem = {"num_vars": 3, "names": list(ANGLES.names), "bounds": [[-np.pi, np.pi]] * 3}
    points = fast_sampler.sample(problem, 1025, seed=1)
    values = ishigami(points)
    theirs = oracle.analyze(problem, values, M=4)
    ours = fast_of(values.reshape(3, 1025, 1), (1025 - 1) // 8, 4, ANGLES.names)
    np.testing.assert_allclose(ours.first[:, 0], theirs["S1"], rtol=1e-9)
    np.testing.assert_allclose(ours.total[:, 0], theirs["ST"], rtol=1e-9)


def test_rank_correlation_by_regression():
    def function(x):
        return np.exp(x[:, 0]) - 3.0 * x[:, 1] ** 3 + 0.3 * x[:, 2]

    inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0), "c": (0.0, 1.0), "nothing": (0.0, 1.0)})
    found = prcc(function, inputs, samples=2000, key=KEY)
    a, b, c, nothing = found.coefficients[:, 0]
    assert a > 0.8
    assert b < -0.8
    assert 0.05 < c < 0.7
    assert abs(nothing) < 0.06
    assert found.p_values[0, 0] < 1e-9 < found.p_values[3, 0]


def test_rank_correlation_of_an_output_that_follows_one_input():
    inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
    found = prcc(
        lambda x: np.column_stack([1.0 / (1.0 + x[:, 1]), 0.0 * x[:, 0], x[:, 0] ** 3]),
        inputs,
        samples=64,
        key=KEY,
    )
    np.testing.assert_allclose(found.coefficients, [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]], atol=1e-12)
    np.testing.assert_array_equal(found.p_values[:, 1], 1.0)


PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
AUC = {"AUC": qsp.endpoints.AUC("concentration"), "Cmax": qsp.endpoints.Cmax("concentration")}


def exposure():
    return OfModel(PATIENT, qsp.bolus(300.0, to="central"), np.linspace(0.0, 96.0, 97), ["CL", "V"], AUC)


def test_a_model_on_the_cohort():
    inputs = Inputs({"CL": qsp.LogNormal(3.0, omega=0.3), "V": qsp.LogNormal(30.0, omega=0.1)})
    found = sobol(exposure(), inputs, samples=512, key=KEY)
    assert found.first[0, 0] > 0.9  # AUC is dose / CL
    np.testing.assert_allclose(found.first[:, 1], [0.0, 1.0], atol=0.02)  # the peak is dose / V
    assert found.failed == 0


def test_evaluations_that_fail_are_left_out():
    def function(x):
        return np.where(x[:, 0] > 3.1, np.nan, ishigami(x))

    found = sobol(function, ANGLES, samples=2**12, key=KEY)
    assert 0 < found.failed < 400
    np.testing.assert_allclose(found.first[:, 0], [0.31, 0.44, 0.0], atol=0.06)
    assert morris(function, ANGLES, trajectories=30, key=KEY).failed > 0
    with pytest.raises(ValueError, match="At least two evaluations must succeed, but 0 of 64 do"):
        sobol(lambda x: np.full(len(x), np.nan), ANGLES, samples=64, key=KEY)
    with pytest.raises(ValueError, match="`function` must succeed at every sample"):
        efast(function, ANGLES, samples=129, key=KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inputs({}), "Argument `inputs` must have at least one input, but is `empty`."),
        (lambda: Inputs({"a": (1.0, 0.0)}), "must be bounds in increasing order"),
        (lambda: Inputs({"a": 1.0}), "must be a distribution or a pair of bounds"),
        (
            lambda: sobol(ishigami, ANGLES, samples=1, key=KEY),
            "`samples` must be a whole number of at least 2",
        ),
        (
            lambda: sobol(lambda x: x[:5, 0], ANGLES, samples=8, key=KEY),
            "`function` must return one row per sample",
        ),
        (lambda: morris(ishigami, ANGLES, levels=5, key=KEY), "`levels` must be even, but is 5"),
        (
            lambda: efast(ishigami, ANGLES, samples=64, key=KEY),
            "`samples` must be a whole number of at least 65",
        ),
        (lambda: OfModel(PATIENT, qsp.no_doses(), [1.0], ["ka"], AUC), "`name` must name a parameter of the model"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


def test_inputs_of_a_population_are_its_patients():
    population = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        between={"CL": qsp.LogNormal(cv=0.3)},
        covariates={
            "WT": qsp.Truncated(qsp.Normal(70.0, sd=15.0), 40.0, 120.0),
            "SEX": qsp.Categorical({"f": 0.3, "m": 0.7}),
        },
        effects=[qsp.Allometric(clearances=["CL"]), qsp.ByCategory("CL", "SEX", factors={"f": 0.8, "m": 1.0})],
        individual={"V": "tV * WT / 70 * exp(eta)"},
        parameters={"tV": 30.0},
        random={"eta": 0.04},
        correlation={("CL", "eta"): 0.6},
    )
    inputs = Inputs.of(population)
    assert inputs.names == ("CL", "eta", "WT", "SEX")
    points = inputs.from_unit(np.random.default_rng(1).uniform(size=(20_000, 4)))
    assert abs(np.corrcoef(np.log(points[:, 0]), points[:, 1])[0, 1] - 0.6) < 0.02
    assert abs(points[:, 3].mean() - 0.7) < 0.02
    cohort = population.at_inputs({name: points[:, k] for k, name in enumerate(inputs.names)})
    weight = points[:, 2] / 70.0
    np.testing.assert_allclose(cohort.model.V, 30.0 * weight * np.exp(points[:, 1]), rtol=1e-12)
    sex = np.where(points[:, 3] == 0, 0.8, 1.0)
    np.testing.assert_allclose(cohort.model.CL, points[:, 0] * weight**0.75 * sex, rtol=1e-9)
    drawn = population.sample(key=KEY, size=20_000)
    for name in ("CL", "V"):
        mine, theirs = np.log(np.asarray(getattr(cohort.model, name))), np.log(np.asarray(getattr(drawn.model, name)))
        assert abs(mine.mean() - theirs.mean()) < 0.01
        assert abs(mine.std() - theirs.std()) < 0.01
    outputs = {"C0": qsp.endpoints.Value("concentration", at=0.0)}
    function = OfModel.of(population, qsp.bolus(300.0, to="central"), [0.0], outputs)
    np.testing.assert_allclose(function(points[:50])[:, 0], 300.0 / np.asarray(cohort.model.V)[:50], rtol=1e-12)


def test_indices_of_correlated_inputs_are_of_what_each_adds():
    inputs = Inputs({"a": qsp.Normal(0.0, sd=1.0), "b": qsp.Normal(0.0, sd=1.0)}, correlation=[[1.0, 0.6], [0.6, 1.0]])
    found = sobol(lambda x: x[:, 0] + x[:, 1], inputs, samples=2**12, key=KEY)
    np.testing.assert_allclose(found.first[:, 0], [1.6**2 / 3.2, 0.8**2 / 3.2], atol=0.02)  # a + b = 1.6 z1 + 0.8 z2
    with pytest.raises(ValueError, match="`correlation` must be positive definite"):
        Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)}, correlation=[[1.0, 2.0], [2.0, 1.0]])
