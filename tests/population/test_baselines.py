"""Baselines in closed form, with derivatives in both modes; patients without one; trials that begin with them."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.equilibrium import SteadyState
from qspjax.execute import Chunked, Vmap
from qspjax.models import MassAction, Network, Reaction
from qspjax.population import Bound, GrowUntil, baselines

TIGHT = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-14)


@pytest.fixture(params=["native", pytest.param("xla", marks=pytest.mark.slow)])
def backend(request, monkeypatch):
    """Compile natively, or by XLA."""
    monkeypatch.setenv("QSPJAX_BACKEND", request.param)
    jax.clear_caches()
    yield
    jax.clear_caches()


def both_modes(function, p):
    """Return the Jacobian, after the same by the other mode."""
    forwards, backwards = jax.jit(jax.jacfwd(function))(p), jax.jit(jax.jacrev(function))(p)
    np.testing.assert_allclose(forwards, backwards, rtol=1e-9, atol=1e-12)
    return backwards


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


TURNOVER = Network(
    parameters={"R": 1.0, "kin": 6.0, "kout": 2.0, "kdrug": 0.0}, rates={"R": "kin - (kout + kdrug) * R"}
)
RECEPTOR = Network(
    species={"A": 1.0, "B": 0.0},
    parameters={"k1": 0.8, "k2": 0.6},
    reactions={"r": Reaction("A -> B", MassAction("k1", reverse="k2"))},
)


@pytest.mark.usefixtures("backend")
def test_turnover_comes_to_rest():
    """R = kin / kout."""

    def of(p):
        cohort = qsp.Cohort.of(TURNOVER, {"kin": p[:2], "kout": p[2:]})
        return baselines(cohort, SteadyState()).state["R"]

    p = jnp.array([6.0, 8.0, 2.0, 0.5])
    np.testing.assert_allclose(of(p), p[:2] / p[2:], rtol=1e-12)
    expected = [[1 / 2.0, 0.0, -6.0 / 4.0, 0.0], [0.0, 1 / 0.5, 0.0, -8.0 / 0.25]]
    np.testing.assert_allclose(both_modes(of, p), expected, rtol=1e-9, atol=1e-12)


def test_totals_stay_those_of_the_initial_state():
    """A = T k2 / (k1 + k2), and -(k1 + k2) is the only eigenvalue."""

    def of(p):
        values = dict(zip(("k1", "k2", "A"), p[:, None], strict=True))
        found = baselines(qsp.Cohort.of(RECEPTOR, values), SteadyState())
        return found.state["A"][0], found.rightmost[0]

    p = jnp.array([0.8, 0.6, 2.0])
    A, rightmost = of(p)
    np.testing.assert_allclose([A, rightmost], [2.0 * 0.6 / 1.4, -1.4], rtol=1e-12)
    expected = [-2.0 * 0.6 / 1.4**2, 2.0 * 0.8 / 1.4**2, 0.6 / 1.4]
    np.testing.assert_allclose(both_modes(lambda p: of(p)[0], p), expected, rtol=1e-9)


TWO_CLONES = Network(
    parameters={"S": 1.0, "R": 0.01, "kS": 0.5, "kR": 0.3, "found": 1000.0, "kill": 0.0},
    rates={"S": "(kS - kill) * S", "R": "kR * R"},
    rules={"V": "S + R"},
)
ONE_CLONE = qsp.at(TWO_CLONES, "R").set(0.0)


@pytest.mark.usefixtures("backend")
def test_exponential_growth_until_diagnosis():
    """t* = ln(V* / V0) / k, with its derivatives by the rate, the seed and the level."""

    def of(p):
        model = qsp.at(qsp.at(ONE_CLONE, "kS").set(p[0]), "S").set(p[1])
        found = GrowUntil("V", p[2], at_most=200.0).of(model, method=TIGHT)
        return jnp.stack([found.time, found.state["S"]])

    p = jnp.array([0.5, 1.0, 1e3])
    t = math.log(1e3) / 0.5
    np.testing.assert_allclose(of(p), [t, 1e3], rtol=1e-9)
    expected = [[-t / 0.5, -1 / 0.5, 1 / (0.5 * 1e3)], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(both_modes(of, p), expected, rtol=1e-7, atol=1e-6)


def test_what_else_grows_has_the_derivative_of_the_time():
    """The resistant clone at diagnosis is R0 exp(kR t*), here with R much smaller than S, by differences."""

    def of(p):
        cohort = qsp.Cohort.of(TWO_CLONES, {"kS": p[:1], "kR": p[1:2], "found": p[2:]})
        found = baselines(cohort, GrowUntil("V", "found", at_most=200.0), method=TIGHT)
        after = qsp.simulate_cohort(cohort, qsp.no_doses(), [0.0, 3.0], initial=found, method=TIGHT)
        return jnp.stack([found.time[0], found.state["R"][0], after.observed["V"][0, 1]])

    p = jnp.array([0.5, 0.3, 1000.0])
    time, R, later = of(p)
    np.testing.assert_allclose(math.exp(0.5 * time) + R, 1000.0, rtol=1e-8)
    np.testing.assert_allclose(R, 0.01 * math.exp(0.3 * time), rtol=1e-8)
    np.testing.assert_allclose(later, (1000.0 - R) * math.exp(1.5) + R * math.exp(0.9), rtol=1e-8)
    steps = 1e-5 * np.diag(p)
    differences = [(of(p + step) - of(p - step)) / (2.0 * step.sum()) for step in steps]
    np.testing.assert_allclose(both_modes(of, p), np.stack(differences, axis=1), rtol=1e-6, atol=1e-9)


class Tumour(NamedTuple):
    volume: jax.Array
    damaged: jax.Array


class Logistic(qsp.AbstractModel):
    """A tumour whose growth slows down, seen by its diameter."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth rate constant")
    K: jax.Array = qsp.parameter(unit="mm3", doc="greatest volume")

    def initial(self):
        return Tumour(volume=1.0, damaged=0.0)

    def vector_field(self, t, y):
        return Tumour(self.k * y.volume * (1.0 - y.volume / self.K), 0.0)

    def observe(self, t, y):
        return {"diameter": jnp.cbrt(6.0 / jnp.pi * y.volume)}


PATIENTS = qsp.Cohort.of(Logistic(k=0.05, K=1e5), {"K": [1e5, 3e4, 1000.0, 2e5], "k": [0.05, 0.03, 0.05, 0.005]})
FOUND = GrowUntil("diameter", 20.0, at_most=1000.0)


def test_a_diameter_and_a_patient_who_is_never_diagnosed():
    """t* = ln(V (K - V0) / (V0 (K - V))) / k; 1000 mm3 are 12.4 mm, and the slowest needs 1,670 days."""
    found = baselines(PATIENTS, FOUND, method=TIGHT)
    V, K, k = math.pi / 6.0 * 20.0**3, np.array([1e5, 3e4]), np.array([0.05, 0.03])
    np.testing.assert_allclose(found.time[:2], np.log(V * (K - 1.0) / (K - V)) / k, rtol=1e-8)
    np.testing.assert_allclose(found.state.volume[:2], V, rtol=1e-8)
    assert np.isnan(found.time[2:]).all()
    assert np.isnan(found.state.volume[2:]).all()
    failures = found.failures()
    assert [(f.patient, f.time, f.state) for f in failures] == [(2, 1000.0, "volume"), (3, 1000.0, "volume")]
    assert failures[0].reason == qsp.RESULTS[qsp.RESULTS.not_diagnosed]
    assert str(found).startswith("2 of 4 patients without a baseline\nbaseline  median")
    table = found.to_dataframe()
    assert list(table.columns) == ["patient", "failed", "time", "rightmost", "volume", "damaged"]
    np.testing.assert_array_equal(table["volume"], found.state.volume)


def test_found_at_once():
    found = baselines(PATIENTS, GrowUntil("diameter", 0.5, at_most=1.0))
    np.testing.assert_array_equal(found.time, 0.0)
    np.testing.assert_array_equal(found.state.volume, 1.0)


def test_patients_without_a_baseline_fail_in_every_arm_and_no_other_derivative_is_spoilt():
    def size_at(k):
        cohort = eqx.tree_at(lambda c: c.model.k, PATIENTS, k)
        trial = qsp.Trial(
            [qsp.Arm("watch", qsp.no_doses())],
            [0.0, 30.0],
            endpoints={"day 30": qsp.endpoints.Value("diameter", at=30.0)},
            baseline=FOUND,
        )
        result = qsp.simulate_trial(trial, cohort, method=TIGHT)
        return jnp.nansum(result.arms[0].endpoints["day 30"]), result

    k = PATIENTS.model.k
    _, result = size_at(k)
    (arm,) = result.arms
    assert [(f.patient, f.time, f.reason) for f in arm.solution.failures()] == [
        (i, 0.0, qsp.RESULTS[qsp.RESULTS.not_diagnosed]) for i in (2, 3)
    ]
    np.testing.assert_array_equal(np.isnan(arm.endpoints["day 30"]), [False, False, True, True])
    gradient = jax.grad(lambda k: size_at(k)[0])(k)
    V, K = math.pi / 6.0 * 20.0**3, 1e5
    grown = math.exp(0.05 * 30.0) * V / (K - V)
    volume, slope = K * grown / (1.0 + grown), 30.0 * K * grown / (1.0 + grown) ** 2
    np.testing.assert_allclose(gradient[0], slope * (6.0 / math.pi) ** (1 / 3) * volume ** (-2 / 3) / 3.0, rtol=1e-6)
    np.testing.assert_array_equal(gradient[2:], 0.0)


ALLEE = Network(parameters={"N": 2.0, "a": 1.0, "K": 5.0}, rates={"N": "0.3 * N * (N / a - 1) * (1 - N / K)"})
"""Bistable: extinct below a, which is a steady state without stability."""


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("executor", [Vmap(), Chunked(16)], ids=["whole", "chunks"])
def test_failing_patients_change_no_bit(executor):
    start = np.linspace(0.5, 4.0, 40)
    start[7] = start[20] = 1.7
    well = baselines(qsp.Cohort.of(ALLEE, {"N": start}), SteadyState())
    start[7], start[20] = 1.0, np.nan
    ill = baselines(qsp.Cohort.of(ALLEE, {"N": start}), SteadyState(), executor=executor)
    others = np.delete(np.arange(40), [7, 20])
    assert bits(ill.take(others)) == bits(well.take(others))
    np.testing.assert_allclose(ill.state["N"][others], np.where(start[others] < 1.0, 0.0, 5.0), atol=1e-8)
    reasons = [qsp.RESULTS.unstable, qsp.RESULTS.state_nonfinite]
    assert [(f.patient, f.reason, f.state) for f in ill.failures()] == [
        (i, qsp.RESULTS[reason], "N") for i, reason in zip((7, 20), reasons, strict=True)
    ]
    assert float(ill.rightmost[7]) == pytest.approx(0.3 * (1.0 - 1.0 / 5.0))


@pytest.mark.usefixtures("optimised")
def test_growth_in_chunks_to_the_last_bit():
    cohort = qsp.Cohort.of(Logistic(k=0.05, K=1e5), {"k": np.geomspace(0.003, 0.2, 45)})
    whole = baselines(cohort, FOUND)
    assert bits(baselines(cohort, FOUND, executor=Chunked(16))) == bits(whole)
    assert 0 < int(whole.failed.sum()) < 45
    alone = baselines(cohort.take(np.flatnonzero(~whole.failed)), FOUND)
    assert bits(alone) == bits(whole.take(np.flatnonzero(~whole.failed)))


def test_a_model_that_oscillates_has_no_baseline():
    brusselator = Network(
        parameters={"B": 3.0, "X": 1.0, "Y": 1.0}, rates={"X": "1 + X^2 * Y - (B + 1) * X", "Y": "B * X - X^2 * Y"}
    )
    found = baselines(qsp.Cohort.of(brusselator, {"B": [1.5, 3.0]}), SteadyState())
    np.testing.assert_allclose(found.state["Y"], [1.5, np.nan], rtol=1e-9)
    ((patient, reason, _, _),) = found.failures()
    assert (patient, reason) == (1, qsp.RESULTS[qsp.RESULTS.oscillates])


def test_arms_begin_where_patients_are():
    cohort = qsp.Cohort.of(TURNOVER, {"kin": np.linspace(2.0, 9.0, 30)})
    dose = qsp.set_parameter("kdrug", 2.0, at=1.0)
    arms = [qsp.Arm("none", qsp.no_doses()), qsp.Arm("drug", dose)]
    trial = qsp.Trial(arms, [0.0, 1.0, 5.0], baseline=SteadyState(), allocation=qsp.Randomised())
    result = qsp.simulate_trial(trial, cohort, key=jax.random.key(0))
    rest = np.linspace(2.0, 9.0, 30) / 2.0
    np.testing.assert_allclose(result.baselines.state["R"], rest, rtol=1e-12)
    none, drug = result.arms
    np.testing.assert_allclose(none.solution.observed["R"], np.outer(rest[none.members], np.ones(3)), rtol=1e-9)
    expected = rest[drug.members] * (0.5 + 0.5 * math.exp(-16.0))
    np.testing.assert_allclose(drug.solution.observed["R"][:, 2], expected, rtol=1e-5)


def test_an_event_of_the_model_happens_before_diagnosis_alone():
    """A tumour that a first line of treatment halves at day 5, and would again at day 50."""

    class Treated(qsp.AbstractEventful):
        k: jax.Array = qsp.parameter(unit="1/d", doc="growth rate constant")

        def initial(self):
            return Tumour(1.0, 0.0)

        def vector_field(self, t, y):
            return Tumour(self.k * y.volume, 0.0)

        def observe(self, t, y):
            return {"volume": y.volume}

        def events(self):
            halve = lambda t, y: {"volume": 0.5 * y.volume}  # noqa: E731
            return tuple(qsp.Event(lambda t, y, day=day: t > day, halve) for day in (5.0, 50.0))

    found = GrowUntil("volume", 100.0, at_most=200.0).of(Treated(k=0.5), method=TIGHT)
    np.testing.assert_allclose([found.time, found.state.volume], [math.log(200.0) / 0.5, 100.0], rtol=1e-8)


class Complex(NamedTuple):
    total: jax.Array
    free: jax.Array


def test_algebraic_states_hold_at_diagnosis():
    class Binding(qsp.AbstractAlgebraic):
        k: jax.Array = qsp.parameter(unit="1/h", doc="production")

        def initial(self):
            return Complex(0.0, 0.0)

        def vector_field(self, t, y):
            return Complex(self.k, y.total - y.free - 2.0 * y.free / (1.0 + y.free))

        def observe(self, t, y):
            return {"free": y.free}

        def algebraic(self):
            return ("free",)

    found = GrowUntil("free", 1.0, at_most=100.0).of(Binding(k=0.5), method=TIGHT)  # total = 1 + 2 / 2
    np.testing.assert_allclose([found.time, found.state.total, found.state.free], [4.0, 2.0, 1.0], rtol=1e-8)


def test_plausible_patients_have_a_baseline():
    """Within bounds at rest: 2 < kin / kout < 4."""
    population = qsp.Population(TURNOVER, between={"kin": qsp.LogUniform(1.0, 20.0), "kout": qsp.Uniform(0.5, 4.0)})
    bounds = {"R": Bound(qsp.endpoints.Value("R", at=0.0), 2.0, 4.0)}
    found = qsp.population.plausible(
        population,
        bounds,
        arms=[qsp.Arm("none", qsp.no_doses())],
        size=20,
        key=jax.random.key(0),
        search=qsp.population.Rejection(),
        baseline=SteadyState(),
    )
    rest = np.asarray(found.values["kin"]) / np.asarray(found.values["kout"])
    np.testing.assert_allclose(found.statistics["R"], rest, rtol=1e-9)
    assert ((rest > 2.0) & (rest < 4.0)).all()


DELAYED = Network(parameters={"x": 1.0, "z": 0.0}, rates={"x": "-x", "z": "delay(x, 2) - z"})


class Switching(qsp.AbstractEventful):
    """Growth whose rate a condition changes, later or at once."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth rate constant")
    later: bool = eqx.field(static=True, default=False)

    def initial(self):
        return Tumour(1.0, 0.0)

    def vector_field(self, t, y):
        return Tumour(self.k * y.volume, 0.0)

    def observe(self, t, y):
        return {"volume": y.volume}

    def events(self):
        if self.later:
            return (qsp.Event(lambda t, y: t > 1.0, lambda t, y: {"volume": 1.0}, delay=lambda t, y: 1.0),)
        return (qsp.Event(lambda t, y: t > 1.0, lambda t, y: {"k": 1.0}),)


ALL_IT_REMEMBERS = "Argument `baseline` must be that of a model whose state is all it remembers, but is that of one "
TURNOVERS = qsp.Cohort.of(TURNOVER, {"kin": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: GrowUntil("V", 1.0, at_most=0.0), "Argument `at_most` must be positive, but is 0"),
        (lambda: GrowUntil("V", np.inf, at_most=1.0), "Argument `level` must be finite, but"),
        (
            lambda: GrowUntil("V", [1.0, 2.0], at_most=1.0),
            "Argument `level` must be one number; one for each",
        ),
        (lambda: GrowUntil(2.0, 1.0, at_most=1.0), "Argument `output` must be the name of an observed value, but"),
        (
            lambda: baselines(TURNOVERS, GrowUntil("Q", 1.0, at_most=1.0)),
            "Argument `output` must name an observed value .*`Q`.",
        ),
        (lambda: baselines(TURNOVERS, GrowUntil("R", "kon", at_most=1.0)), "`kon`"),
        (lambda: baselines(TURNOVERS, "rest"), r"Argument `baseline` must be a baseline such as `equilibrium.Steady"),
        (lambda: baselines(qsp.Cohort.of(DELAYED, {}), SteadyState()), ALL_IT_REMEMBERS + "with delays."),
        (
            lambda: baselines(qsp.Cohort.of(Switching(k=0.1, later=True), {}), SteadyState()),
            ALL_IT_REMEMBERS + "whose events have a delay.",
        ),
        (
            lambda: baselines(qsp.Cohort.of(Switching(k=0.1), {}), SteadyState()),
            ALL_IT_REMEMBERS + "whose events assign the parameter `k`.",
        ),
        (
            lambda: qsp.Trial([qsp.Arm("baseline", qsp.no_doses())], [0.0], baseline=SteadyState()),
            "Argument `arms` must have other names than `baseline`, which is what the arms begin with",
        ),
        (
            lambda: qsp.simulate_cohort(
                qsp.Cohort.of(TURNOVER, {"kin": [1.0, 2.0, 3.0]}),
                qsp.no_doses(),
                [0.0],
                initial=baselines(TURNOVERS, SteadyState()),
            ),
            r"Argument `initial` must have one row per patient \(3\)",
        ),
    ],
)
def test_what_is_wrong_is_said(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
