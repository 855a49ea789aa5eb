"""Searches: to a known optimum, within bounds, from many starts, interrupted and resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    LBFGS,
    AbstractSearch,
    Adam,
    Additive,
    DifferentialEvolution,
    Experiment,
    Free,
    LevenbergMarquardt,
    Measurements,
    MultiStart,
    Output,
    Problem,
    TrustRegion,
    estimate,
)
from qspjax.fit.search._search import FAILURES, STATUS, begun, stepped
from tests.systems.marks import slow_for

KEY = jax.random.key(0)

TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
TRUE = {"CL": 2.6, "V": 27.0, "ka": 1.7}


def oral(CL, V, ka):
    k = CL / V
    return 200.0 * ka / V / (ka - k) * (np.exp(-k * TIMES) - np.exp(-ka * TIMES))


def problem(data, **parameters):
    free = {
        "CL": Free(5.0, bounds=(0.1, 50.0)),
        "V": Free(60.0, bounds=(3.0, 300.0)),
        "ka": Free(0.9, bounds=(0.3, 20.0)),
        "sigma": 0.1,
    }
    model = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    experiment = Experiment(Measurements(TIMES, data, output="concentration"), qsp.bolus(200.0, to="depot"))
    return Problem(model, experiment, {"concentration": Output("concentration", Additive("sigma"))}, free | parameters)


EXACT = problem(oral(**TRUE))


@pytest.mark.parametrize(
    ("method", "within"),
    [
        (TrustRegion(), 1e-5),
        (LevenbergMarquardt(), 1e-5),
        (LBFGS(), 1e-3),
        pytest.param(Adam(learning_rate=0.03, max_steps=600), 3e-2, marks=pytest.mark.slow),
        pytest.param(DifferentialEvolution(population=5, generations=15, key=KEY), 1e-5, marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_method_finds_the_truth(method, within):
    found = estimate(EXACT, method=method)
    for name, value in TRUE.items():
        assert found.parameters[name] == pytest.approx(value, rel=within)
    assert method.describe() in str(found)


@pytest.mark.parametrize("method", slow_for([TrustRegion(), LBFGS()], LBFGS()), ids=lambda m: type(m).__name__)
def test_bounds_are_kept_and_reached(method):
    bounded = problem(oral(**TRUE), V=Free(60.0, bounds=(35.0, 300.0)))
    found = estimate(bounded, method=method)
    assert 35.0 <= found.parameters["V"] < 35.0 * 1.002
    free = problem(oral(**TRUE), V=35.0)
    assert found.log_density == pytest.approx(estimate(free).log_density, abs=2e-2)


@pytest.mark.slow
def test_many_starts_wait_for_their_place():
    standings = []
    found = estimate(EXACT, starts=MultiStart(11, key=jax.random.key(1)), lanes=4, progress=standings.append)
    assert sorted(found.number) == list(range(11))
    assert np.all(np.diff(found.values) <= 0)
    assert found.reached() >= 8
    assert standings[-1].done == 11
    assert standings[-1].figures["steps"] == found.steps.sum()
    alone = estimate(EXACT, starts=MultiStart(11, key=jax.random.key(1)).points(EXACT)[found.number[0]][None])
    np.testing.assert_allclose(alone.x, found.x, rtol=1e-6)
    table = found.to_dataframe()
    assert list(table["start"]) == list(found.number)
    assert np.isfinite(found.history[0, : found.steps[0]]).all()


def test_sobol_starts_fill_the_bounds():
    points = MultiStart(16, sobol=True, key=KEY).points(EXACT)
    lower, upper = EXACT.bounds
    assert np.all((points > np.asarray(lower)) & (points < np.asarray(upper)))
    assert not np.array_equal(points, MultiStart(16, key=KEY).points(EXACT))


class Killed(Exception):
    pass


def test_an_interrupted_run_ends_with_the_same_optima(tmp_path, monkeypatch):
    monkeypatch.setattr("qspjax.fit.search._estimate.SAVED_EVERY", 0.0)
    path, starts = tmp_path / "fit.npz", MultiStart(9, key=jax.random.key(3))
    whole = estimate(EXACT, starts=starts, lanes=4)
    calls = []

    def kill(standing):
        calls.append(standing)
        if len(calls) == 12:
            raise Killed

    with pytest.raises(Killed):
        estimate(EXACT, starts=starts, lanes=4, checkpoint=path, progress=kill)
    steps = []
    monkeypatch.setattr("qspjax._progress.PATIENCE", 0.0)
    resumed = estimate(EXACT, starts=starts, lanes=4, checkpoint=path, progress=steps.append)
    assert steps[0].doing == "compiling (1 of 2)"
    steps = [step for step in steps if step.doing != "compiling (1 of 2)"]
    assert 0 < steps[0].figures["steps"] < steps[-1].figures["steps"] == whole.steps.sum()
    for name in ("points", "values", "status", "steps", "number"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    with pytest.raises(ValueError, match="must be the checkpoint of this estimation, but is that of another one"):
        estimate(EXACT, starts=MultiStart(9, key=jax.random.key(4)), lanes=4, checkpoint=path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be a checkpoint, but cannot be read"):
        estimate(EXACT, starts=starts, lanes=4, checkpoint=path)


def test_starts_that_are_refused():
    with pytest.raises(ValueError, match=r"`starts` must have shape \(starts, 3\)"):
        estimate(EXACT, starts=jnp.zeros(3))
    with pytest.raises(ValueError, match="outside in `CL` of start 0"):
        estimate(EXACT, starts=jnp.full((1, 3), 99.0))
    unbounded = problem(oral(**TRUE), V=Free(60.0, bounds=(-np.inf, np.inf), transform=qsp.Identity()))
    with pytest.raises(ValueError, match="must have bounds to be drawn within for `V`"):
        estimate(unbounded, starts=MultiStart(2, key=KEY))


def shifted(offset):
    data = Measurements([1.0, 4.0, 8.0], np.log10([9.1, 6.6, 4.6]), output="y")
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(data, qsp.bolus(300.0, to="central")),
        {"y": Output("log10(concentration - offset)", Additive(0.1))},
        {"CL": Free(2.0, bounds=(0.5, 10.0)), "offset": offset},
        method=qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12),
    )


def test_a_search_is_loose_until_it_has_ended():
    starts, tight = MultiStart(3, key=KEY), shifted(Free(0.0, bounds=(-30.0, 30.0)))
    found = estimate(tight, starts=starts, lanes=2)  # some of these cannot be evaluated
    assert (found.status == 1).all()
    assert found.failures.sum() > 0
    assert found.reached(1e-6) == 3
    np.testing.assert_array_equal(found.values, [jax.jit(tight.log_density)(x) for x in found.points])
    loose = dataclasses.replace(tight, method=qsp.solve.Rosenbrock(rtol=1e-6, atol=1e-9))
    began = np.flatnonzero(found.failures == 0)[0]
    first = float(jax.jit(loose.log_density)(found.starts[began]))
    assert found.history[began, 0] == pytest.approx(first, rel=1e-13)
    assert first != float(jax.jit(tight.log_density)(found.starts[began]))


def test_a_start_that_fails_says_why():
    found = estimate(shifted(Free(0.0, bounds=(-30.0, 30.0))), starts=[[1.0, 0.0], [1.0, 29.0]])
    assert [found.status_text(k) for k in (0, 1)] == ["converged", "start failed"]
    assert found.reasons(0) == []
    assert "`concentration - offset` is -" in found.reasons(1)[0]


class Lost(AbstractSearch):
    """Every evaluation but the first fails."""

    def begin(self, problem, x):
        return ()

    def step(self, problem, search, held):
        fails = ~search.fresh
        return search._replace(value=jnp.zeros(()), steps=search.steps + 1, failures=search.failures + fails)

    def describe(self):
        return "lost"


def test_a_search_that_goes_on_failing_is_given_up():
    search = begun(Lost(), EXACT, EXACT.start)
    step = jax.jit(lambda search: stepped(Lost(), EXACT, search, jnp.zeros(3, bool)))
    for _ in range(20):
        search = step(search)
    assert STATUS[int(search.status)] == "evaluations went on failing"
    assert int(search.failures) == FAILURES
    assert int(search.steps) == FAILURES + 1


@pytest.mark.slow
def test_no_start_depends_on_the_others():
    tight = shifted(Free(0.0, bounds=(-30.0, 30.0)))
    points = MultiStart(5, key=KEY).points(tight)
    points[:, 1] = np.minimum(points[:, 1], 1.0)
    few, many = estimate(tight, starts=points, lanes=2), estimate(tight, starts=points[::-1], lanes=5)
    for name in ("points", "values", "steps"):
        np.testing.assert_array_equal(
            getattr(few, name)[np.argsort(few.number)], getattr(many, name)[np.argsort(-many.number)]
        )
