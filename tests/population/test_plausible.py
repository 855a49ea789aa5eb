"""Plausible patients: known sets are filled evenly, by every search; failures, duplicates, keys, and messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import Bound, Langevin, MetropolisHastings, Optimised, Rejection, Screened, plausible
from qspjax.population._plausible import _screened
from qspjax.population._plausible._criteria import Criteria
from qspjax.population._plausible._effective import effective_size
from qspjax.population._plausible._emulator import fitted, with_length
from qspjax.population._plausible._network import trained

KEY = jax.random.key(0)
SEARCHES = {
    "rejection": Rejection(256),
    "screened": Screened(),
    "Metropolis-Hastings": MetropolisHastings(warmup=20),
    "Langevin": Langevin(warmup=20),
    "Hamilton": Langevin(warmup=10, leaps=3),
}


class Plane(qsp.AbstractModel):
    """Two numbers and nothing that moves; fails to be defined where x is below `hole`."""

    x: jax.Array = qsp.parameter(unit="", doc="one number", minimum=0.0)
    y: jax.Array = qsp.parameter(unit="", doc="another", minimum=0.0)
    hole: jax.Array = qsp.parameter(unit="", doc="the least x", default=0.0, minimum=0.0)

    def initial(self):
        return {}

    def vector_field(self, t, y):
        return {}

    def observe(self, t, y):
        return {"sum": self.x + self.y, "root": jnp.sqrt(self.x - self.hole)}


SQUARE = {"x": qsp.Uniform(0.0, 1.0), "y": qsp.Uniform(0.0, 1.0)}
NOTHING = [qsp.Arm("none", qsp.no_doses())]


def value(output, at=0.0):
    return qsp.endpoints.Value(output, at=at)


def triangle(size=400, key=KEY, **choices):
    population = qsp.Population(Plane(0.5, 0.5), between=SQUARE)
    return plausible(population, {"sum": Bound(value("sum"), high=0.5)}, arms=NOTHING, size=size, key=key, **choices)


@pytest.mark.parametrize("name", SEARCHES)
def test_patients_fill_a_triangle_evenly(name):
    found = triangle(search=SEARCHES[name])
    assert found.size == len(np.unique(found.points, axis=0)) == found.cohort.size == 400
    assert (found.statistics["sum"] <= 0.5).all()
    error = 4.0 / np.sqrt(found.effective_size)
    mean, sd = 0.5 / 3.0, 0.5 / np.sqrt(18.0)
    for leaf in (found.cohort.model.x, found.cohort.model.y):
        assert float(leaf.mean()) == pytest.approx(mean, abs=error * sd)
        assert float(leaf.std()) == pytest.approx(sd, rel=error)
    product = np.asarray(found.cohort.model.x * found.cohort.model.y)
    assert product.mean() == pytest.approx(0.5**2 / 12.0, abs=error * product.std())
    assert found.spread["x"] == pytest.approx(float(found.cohort.model.x.std()) * np.sqrt(12.0))
    assert found.coverage["x"] in (0.5, 0.4)


def test_starts_follow_the_gradient_into_narrow_bounds():
    population = qsp.Population(Plane(0.5, 0.5), between=SQUARE)
    bounds = {"sum": Bound(value("sum"), 0.4, 0.402), "root": Bound(value("root"), 0.4, 0.5)}
    found = plausible(population, bounds, arms=NOTHING, size=60, key=KEY, search=Optimised(starts=64))
    x, y = np.asarray(found.cohort.model.x), np.asarray(found.cohort.model.y)
    assert len(np.unique(x)) == 60
    assert ((x + y >= 0.4) & (x + y <= 0.402) & (x >= 0.16) & (x <= 0.25)).all()
    assert found.gradients / 60 < 60  # rejection takes 9,000
    assert found.simulations == 0
    assert found.equivalents == found.gradients * found.gradient_cost
    assert "of them with gradients, each the cost of" in str(found)


def test_gradients_of_a_score_are_those_of_differences():
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    population = qsp.Population(patient, between={"CL": qsp.LogUniform(1.0, 9.0), "V": qsp.Uniform(10.0, 50.0)})
    bounds = {"late": Bound(value("concentration", 24.0), 5.0, 6.0), "early": Bound(value("concentration"), high=1.0)}
    arms = [qsp.Arm("once", qsp.bolus(100.0, to="central"))]
    criteria = Criteria(population, bounds, arms=arms, ts=None, method=None, executor=None)
    points, step = np.random.default_rng(0).random((8, 2)), 1e-5
    slopes = criteria.judge_with_slopes(points).slopes
    for k in range(2):
        ahead, behind = (criteria.judge(points + sign * step * np.eye(2)[k]).score for sign in (1, -1))
        np.testing.assert_allclose(slopes[:, k], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_a_screen_spares_simulations():
    screened, rejected = (triangle(search=SEARCHES[name]) for name in ("screened", "rejection"))
    assert rejected.equivalents / 400 > 7.0
    assert screened.equivalents / 400 < 1.6
    assert screened.missed < 0.05
    assert screened.effective_size == 400


@pytest.mark.slow
def test_a_network_takes_over_where_it_spares_many_simulations(monkeypatch):
    monkeypatch.setattr(_screened, "_LEARNT", 512)
    monkeypatch.setattr(_screened, "_SPARED", 0)
    found = triangle(1000, search=Screened(first=512))
    assert found.equivalents / 1000 < 1.6  # rejection takes 8
    assert found.missed < 0.05
    x, y = np.asarray(found.cohort.model.x), np.asarray(found.cohort.model.y)
    mean, sd = 0.5 / 3.0, 0.5 / np.sqrt(18.0)
    for values in (x, y):
        assert values.mean() == pytest.approx(mean, abs=4.0 * sd / np.sqrt(1000))
        assert values.std() == pytest.approx(sd, rel=4.0 / np.sqrt(2000))
    assert (x * y).mean() == pytest.approx(0.5**2 / 12.0, rel=0.1)


def test_a_network_says_how_far_it_errs():
    points = np.random.default_rng(0).random((4096, 6))
    values = np.stack([np.sin(4.0 * points[:, 0] * points[:, 1]), np.tanh(6.0 * (points[:, 2:].mean(axis=1) - 0.5))], 1)
    network = trained(points[:2048], values[:2048], np.zeros(2048))
    errors = network.mean(points[2048:]) - values[2048:]
    assert (errors.std(axis=0) < 0.02).all()
    assert (np.mean(np.abs(errors) < 2.326 * network.spread, axis=0) > 0.95).all()
    np.testing.assert_allclose(network.mean(points[network.known]), network.left_out, atol=1e-6)


def test_changes_between_reported_times_need_no_other_solve():
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    population = qsp.Population(patient, between={"CL": qsp.Uniform(1.0, 9.0)})
    endpoints = {"relative": qsp.endpoints.RelativeChange, "absolute": qsp.endpoints.ChangeFromBaseline}
    bounds = {name: Bound(endpoint("concentration", at=10.0), high=0.0) for name, endpoint in endpoints.items()}
    arms = [qsp.Arm("once", qsp.bolus(60.0, to="central"))]
    criteria = Criteria(population, bounds, arms=arms, ts=None, method=None, executor=None)
    (_, statistics), points = criteria._arms[0], np.linspace(0.0, 1.0, 5)[:, None]
    assert statistics.others.names == ()
    expected = np.exp(-(1.0 + 8.0 * points) / 3.0) - 1.0
    np.testing.assert_allclose(criteria.judge(points).values, expected * [1.0, 2.0], rtol=1e-6)


def test_neighbours_in_a_chain_are_alike():
    found = triangle(search=SEARCHES["Metropolis-Hastings"])
    assert 20 < found.effective_size < 400


def test_effective_size_of_an_autoregression():
    random, phi = np.random.default_rng(0), 0.8
    noise = random.standard_normal((2000, 8, 1))
    chains = np.zeros_like(noise)
    for i in range(1, len(noise)):
        chains[i] = phi * chains[i - 1] + noise[i]
    assert effective_size(chains) == pytest.approx(16000 * (1 - phi) / (1 + phi), rel=0.1)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_key_decides(name):
    first, again = (triangle(50, search=SEARCHES[name]) for _ in range(2))
    other = triangle(50, jax.random.key(1), search=SEARCHES[name])
    np.testing.assert_array_equal(first.points, again.points)
    assert first.simulations == again.simulations
    assert not (first.points[:, 0] == other.points[:, 0]).any()


def test_the_executor_and_the_size_change_no_patient():
    first = triangle(50, search=Rejection(256))
    chunked = triangle(50, search=Rejection(256), executor=qsp.execute.Chunked(64))
    np.testing.assert_array_equal(first.points, chunked.points)
    np.testing.assert_array_equal(first.points, triangle(150, search=Rejection(256)).points[:50])


def test_batches_of_most_sizes_share_a_program(monkeypatch):
    sizes, simulated = [], Criteria._simulated
    monkeypatch.setattr(
        Criteria, "_simulated", lambda self, cohort: sizes.append(cohort.size) or simulated(self, cohort)
    )
    criteria = Criteria(
        qsp.Population(Plane(0.5, 0.5), between=SQUARE),
        {"sum": Bound(value("sum"), high=0.5)},
        arms=NOTHING,
        ts=None,
        method=None,
        executor=None,
    )
    points = np.random.default_rng(0).random((600, 2))
    whole = criteria.judge(points)
    for count in (1, 37, 64, 65, 300):
        np.testing.assert_array_equal(criteria.judge(points[:count]).values, whole.values[:count])
    assert sizes == [1024, 64, 64, 64, 512, 512]


def test_progress_is_told():
    told = []
    triangle(300, search=Rejection(256), progress=told.append)
    assert told[-1].done == told[-1].total == 300
    assert told[0].figures["simulations"] == 256


class Doomed(qsp.AbstractModel):
    """Decays, or ends in the square root of a negative number."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="squared rate", minimum=-9.0)

    def initial(self):
        return {"y": 1.0}

    def vector_field(self, t, y):
        return {"y": -jnp.sqrt(self.k) * y["y"]}

    def observe(self, t, y):
        return {"y": y["y"]}


@pytest.mark.parametrize("name", ["rejection", "screened"])
def test_patients_that_fail_are_counted_and_never_plausible(name):
    population = qsp.Population(Doomed(1.0), between={"k": qsp.Uniform(-1.0, 3.0)})
    bounds = {"late": Bound(value("y", 1.0), low=0.3)}
    found = plausible(population, bounds, arms=NOTHING, size=100, key=KEY, search=SEARCHES[name])
    k = np.asarray(found.cohort.model.k)
    assert ((k >= 0) & (np.exp(-np.sqrt(k)) >= 0.3)).all()
    ((cause, count),) = found.failures.items()
    assert cause.startswith("none: The model or a dose gave NaN")
    assert "(state `y`)" in cause
    assert count > 20
    assert f"{count} failed: none: The model" in str(found)


def test_a_statistic_that_is_not_defined_is_not_plausible():
    population = qsp.Population(Plane(0.5, 0.5, hole=0.4), between=SQUARE)
    found = plausible(population, {"root": Bound(value("root"), high=0.5)}, arms=NOTHING, size=60, key=KEY)
    assert (np.asarray(found.cohort.model.x) >= 0.4).all()


def test_the_ratio_of_two_arms_and_an_area():
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    population = qsp.Population(patient, between={"CL": qsp.LogUniform(1.0, 9.0)})
    once, twice = qsp.bolus(100.0, to="central"), qsp.bolus(100.0, to="central").every(12.0, doses=2)
    late = value("concentration", 24.0)
    bounds = {
        "accumulation": Bound(late, 2.5, 4.0, arm="twice", over="once"),
        "area": Bound(qsp.endpoints.AUC("concentration", between=(0.0, 24.0)), 10.0, 60.0, arm="once"),
    }
    arms = [qsp.Arm("once", once), qsp.Arm("twice", twice)]
    found = plausible(population, bounds, arms=arms, ts=[24.0], size=20, key=KEY, search=Rejection(256))
    k = np.asarray(found.cohort.model.CL) / 30.0
    np.testing.assert_allclose(found.statistics["accumulation"], 1.0 + np.exp(12.0 * k), rtol=1e-6)
    np.testing.assert_allclose(found.statistics["area"], 100.0 / (30.0 * k) * (1.0 - np.exp(-24.0 * k)), rtol=1e-6)


def test_rows_of_a_table_stay_together_and_nobody_comes_twice():
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    table = {"WT": [50.0, 70.0, 90.0], "AGE": [20.0, 40.0, 60.0]}
    population = qsp.Population(patient, covariates=table, effects=[qsp.Power("V", "WT", exponent=1.0, reference=70.0)])
    bounds = {"C0": Bound(value("concentration"), high=4.0)}
    arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
    with pytest.warns(UserWarning, match="2 of 5 plausible patients were found in 300 simulations: raise `most`"):
        found = plausible(population, bounds, arms=arms, size=5, key=KEY, search=Rejection(100), most=300)
    assert sorted(zip(found.values["WT"], found.values["AGE"], strict=True)) == [(70.0, 40.0), (90.0, 60.0)]
    assert found.duplicates > 100
    assert f"{found.duplicates} refused that were there already" in str(found)
    screened = plausible(population, bounds, arms=arms, size=2, key=KEY)
    assert sorted(screened.values["WT"]) == [70.0, 90.0]


def test_nobody_is_plausible():
    population = qsp.Population(Plane(0.5, 0.5), between=SQUARE)
    bounds = {"sum": Bound(value("sum"), 3.0, 4.0)}
    with pytest.warns(UserWarning, match="0 of 400 plausible patients"):
        found = plausible(population, bounds, arms=NOTHING, size=400, key=KEY, most=600)
    assert found.cohort is None
    assert found.simulations == 600
    assert "0 of 400 plausible patients of 600 simulated, effective size 0" in str(found)


def test_a_correlated_population_is_filled_as_it_is_sampled():
    between = {"x": qsp.Uniform(0.0, 1.0), "y": qsp.Truncated(qsp.Normal(0.5, sd=0.2), 0.0, 1.0)}
    covariates = {"SEX": qsp.Categorical({"female": 0.3, "male": 0.7})}
    correlation = {("x", "y"): 0.7}
    population = qsp.Population(Plane(0.5, 0.5), between=between, covariates=covariates, correlation=correlation)
    assert population.coordinates() == ("x", "y", "SEX")
    cohort = population.from_unit(np.random.default_rng(0).random((4000, 3)))
    sampled = population.sample(key=KEY, size=4000)
    for one, other in ((cohort.model.x, sampled.model.x), (cohort.model.y, sampled.model.y)):
        np.testing.assert_allclose([one.mean(), one.std()], [other.mean(), other.std()], atol=0.015)
    corr = [np.corrcoef(c.model.x, c.model.y)[0, 1] for c in (cohort, sampled)]
    assert corr[0] == pytest.approx(corr[1], abs=0.04)
    assert float(cohort.covariates["SEX"].mean()) == pytest.approx(0.7, abs=0.03)
    found = plausible(population, {"sum": Bound(value("sum"), high=2.0)}, arms=NOTHING, size=200, key=KEY)
    assert set(found.values) == {"x", "y", "SEX"}
    assert found.points[:, 0] == pytest.approx(found.values["x"])
    with pytest.raises(ValueError, match=r"Argument `points` must have shape \(patients, 3\), but is"):
        population.from_unit(np.zeros((4, 2)))
    for wrong in (1.5, -0.5, np.nan):
        with pytest.raises(ValueError, match="Argument `points` must be between 0 and 1, but is not, or NaN."):
            population.from_unit([[0.5, 0.5, wrong]])
    assert float(population.from_unit([[0.5, 0.5, 0.9]]).model.x[0]) == pytest.approx(0.5)


def test_errors_left_out_are_those_of_refits():
    random = np.random.default_rng(0)
    points = random.random((40, 2))
    values = np.stack([np.sin(3.0 * points[:, 0]) + points[:, 1] ** 3, points[:, 0] * points[:, 1] * 2.0], axis=1)
    emulator = fitted(points, values)
    for i in (0, 17):
        others = np.delete(np.arange(40), i)
        without = with_length(points[others], values[others], emulator.terms, emulator.length, emulator.nugget)
        np.testing.assert_allclose(without.mean(points[i : i + 1])[0], emulator.left_out[i], rtol=1e-6, atol=1e-9)
    new = random.random((200, 2))
    truth = np.stack([np.sin(3.0 * new[:, 0]) + new[:, 1] ** 3, new[:, 0] * new[:, 1] * 2.0], axis=1)
    mean, deviation = emulator.predict(new)
    assert np.abs(mean - truth).max() < 0.05
    assert np.mean(np.abs(mean - truth) <= 2.0 * deviation) > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": {}}, "Argument `bounds` must have at least one bound, but is `empty`."),
        ({"arms": []}, "Argument `arms` must be at least one arm, with different names, but is `empty`."),
        ({"bounds": {"a": 3.0}}, 'Argument `bounds\\["a"\\]` must be a `Bound`, but is of type float.'),
        (
            {"bounds": {"a": Bound(value("sum"), 0.0, arm="other")}},
            'Argument `bounds\\["a"\\]` must name an arm \\(none\\), but is `other`.',
        ),
        (
            {"bounds": {"a": Bound(qsp.endpoints.AUC("sum"), 0.0)}},
            "Argument `ts` must be given where a bound is on a whole course, such as `Cmax`, but is left out.",
        ),
        (
            {"population": qsp.Population(Plane(0.5, 0.5))},
            "Argument `population` must have something that varies between patients, but is one without.",
        ),
        ({"search": "rejection"}, "Argument `search` must be a search such as Screened\\(\\) or Rejection\\(\\)"),
    ],
)
def test_messages(arguments, message):
    usual = {
        "population": qsp.Population(Plane(0.5, 0.5), between=SQUARE),
        "bounds": {"sum": Bound(value("sum"), high=0.5)},
        "arms": NOTHING,
    }
    with pytest.raises(ValueError, match=message):
        plausible(**(usual | arguments), size=5, key=KEY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Argument `low` must be finite where `high` is not, but is -inf."),
        ((2.0, 1.0), r"Argument `high` must be greater than `low` \(2\), but is 1."),
        ((float("nan"), 1.0), "Argument `low` must be a number or infinite, but is nan."),
        (([0.0, 1.0], 2.0), r"Argument `low` must be one number, but is of shape \(2,\)."),
    ],
)
def test_bounds_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bound(value("sum"), *arguments)
    with pytest.raises(ValueError, match="Argument `statistic` must be an endpoint"):
        Bound("sum", 0.0)
