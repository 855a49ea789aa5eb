"""Weights and selections against closed forms; conflicts are named; every kind of target is met."""

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.population import (
    MAPEL,
    SD,
    Correlation,
    DensityRatio,
    EntropyBalancing,
    Exchange,
    Histogram,
    LeastViolation,
    Mean,
    Quantile,
    Shares,
    SurvivalCurve,
    select,
    weights,
)

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
PATIENTS = {
    "LDL": RANDOM.uniform(100.0, 250.0, 2000),
    "PCSK9": RANDOM.lognormal(5.6, 0.3, 2000),
    "response": RANDOM.integers(0, 3, 2000).astype(float),
    "progression": RANDOM.exponential(10.0, 2000),
}
TARGETS = [
    Mean("LDL", 165.0),
    SD("LDL", 25.0, mean=165.0),
    Quantile("PCSK9", 0.25, 260.0),
    Histogram("progression", [0.0, 5.0, 20.0, np.inf], [0.3, 0.5, 0.2]),
    Shares("response", {0: 0.2, 2: 0.5}),
    Correlation("LDL", "PCSK9", 0.3, means=(165.0, 280.0), sds=(25.0, 80.0)),
    SurvivalCurve("progression", [2.0, 10.0], [0.9, 0.4]),
]


def test_weights_of_greatest_entropy_are_exponential():
    x = np.arange(7.0)
    found = weights({"x": x}, [Mean("x", 2.0)])
    slopes = np.diff(np.log(found.weights))
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)
    assert found.weights @ x == pytest.approx(2.0, rel=1e-8)
    assert found.weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights({"x": [0.0, 1.0]}, [Mean("x", 0.3)]).weights, [0.7, 0.3], rtol=1e-7)


def test_a_normal_sample_is_shifted_by_an_exponential():
    """Tilting N(0, 1) to the mean m gives N(m, 1), with effective size n exp(-m^2)."""
    x = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    found = weights({"x": x}, [Mean("x", 0.5)])
    assert found.weights @ (x - 0.5) ** 2 == pytest.approx(1.0, rel=2e-3)
    assert found.effective_size / 20000 == pytest.approx(np.exp(-0.25), rel=2e-3)


def test_every_kind_of_target_is_met():
    found = weights(PATIENTS, TARGETS)
    assert len(found.names) == 11
    assert found.worst < 1e-6
    assert found.effective_size > 500
    assert found.unreachable == found.conflicting == ()
    w, ldl = found.weights, PATIENTS["LDL"]
    assert np.sqrt(w @ (ldl - 165.0) ** 2) == pytest.approx(25.0, rel=1e-6)
    assert w[PATIENTS["PCSK9"] <= 260.0].sum() == pytest.approx(0.25, abs=1e-7)
    assert w[PATIENTS["response"] == 2].sum() == pytest.approx(0.5, abs=1e-7)
    assert w[PATIENTS["progression"] > 10.0].sum() == pytest.approx(0.4, abs=1e-7)
    assert dict(zip(found.names, found.reached, strict=True))["SD of LDL"] == pytest.approx(25.0)
    assert "share of progression from 20 to inf     0.2      0.2" in str(found)


def test_an_error_of_rounding_has_no_sign():
    found = weights({"x": [1.0, 2.0]}, [Mean("x", 1.5)])
    tiny = eqx.tree_at(lambda one: one.errors, found, np.array([-1e-15]))
    assert "-0.00" not in str(tiny)


def test_a_tolerance_is_used_and_no_more():
    exact, loose = (weights(PATIENTS, TARGETS, method=EntropyBalancing(t)) for t in (0.0, 0.02))
    assert loose.effective_size > exact.effective_size
    assert 0.015 < loose.worst < 0.0205
    entropy = [-(w.weights @ np.log(np.maximum(w.weights, 1e-300))) for w in (exact, loose)]
    assert entropy[1] > entropy[0]


def test_the_least_violation_of_conflicting_targets():
    patients = {"x": [0.0, 0.0, 1.0, 1.0]}
    targets = [Mean("x", 0.4), Mean("x", 0.8, weight=4.0)]
    for method in (LeastViolation(), EntropyBalancing()):
        found = weights(patients, targets, method=method)
        assert found.reached == pytest.approx([0.8, 0.8], abs=2e-3)
        assert found.conflicting == ("mean of x",)
        assert "in conflict with other targets: the mean of x" in str(found)


def test_targets_out_of_reach_are_named():
    found = weights(PATIENTS, [Mean("LDL", 300.0), Mean("PCSK9", 280.0)], method=LeastViolation())
    entropic = weights(PATIENTS, [Mean("LDL", 300.0), Mean("PCSK9", 280.0)])
    assert entropic.unreachable == found.unreachable == ("mean of LDL",)
    assert entropic.reached == pytest.approx(found.reached, rel=2e-3)
    assert found.conflicting == ()
    assert "no weights can reach the mean of LDL: all patients are on one side of it" in str(found)


def test_a_programme_keeps_an_effective_size():
    found = weights(PATIENTS, TARGETS, method=LeastViolation(effective=100.0))
    assert found.worst < 1e-6
    assert found.effective_size >= 100.0
    assert weights(PATIENTS, TARGETS, method=LeastViolation()).effective_size < 15


def test_different_patients_of_equal_weight():
    chosen = select(PATIENTS, TARGETS, size=60, key=KEY, method=Exchange(0.02))
    assert chosen.members.size == len(np.unique(chosen.members)) == 60
    assert chosen.effective_size == pytest.approx(60.0)
    assert chosen.worst <= 0.0201
    again = select(PATIENTS, TARGETS, size=60, key=KEY, method=Exchange(0.02))
    np.testing.assert_array_equal(chosen.members, again.members)
    everyone = select({"x": [1.0, 2.0]}, [Mean("x", 1.0)], size=2, key=KEY)
    assert everyone.reached == [1.5]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_accepted_patients_follow_the_distribution(logarithmic):
    random = np.random.default_rng(1)
    x, y = random.uniform(1.0, 20.0, 20000), random.uniform(1.0, 20.0, 20000)
    targets = [Mean("x", 8.0), SD("x", 2.0, mean=8.0), Mean("y", 10.0), SD("y", 2.5, mean=10.0)]
    if not logarithmic:
        targets.append(Correlation("x", "y", 0.6, means=(8.0, 10.0), sds=(2.0, 2.5)))
    chosen = select({"x": x, "y": y}, targets, size=400, key=KEY, method=DensityRatio(logarithmic=logarithmic))
    assert chosen.members.size <= 400
    for column, mean, sd in ((x, 8.0, 2.0), (y, 10.0, 2.5)):
        omega = np.sqrt(np.log1p((sd / mean) ** 2))
        law = stats.lognorm(omega, scale=mean / np.exp(omega**2 / 2)) if logarithmic else stats.norm(mean, sd)
        assert stats.kstest(column[chosen.members], law.cdf).pvalue > 0.01
    assert chosen.worst < 0.15


def test_prevalence_of_mechanisms():
    class Linear(qsp.AbstractModel):
        x: jax.Array = qsp.parameter(unit="", doc="one number")
        y: jax.Array = qsp.parameter(unit="", doc="another")

        def initial(self):
            return {}

        def vector_field(self, t, y):
            return {}

        def observe(self, t, y):
            return {"sum": self.x + self.y}

    between = {"x": qsp.Uniform(0.0, 1.0), "y": qsp.Uniform(0.0, 1.0)}
    bound = qsp.population.Bound(qsp.endpoints.Value("sum", at=0.0), high=2.0)
    found = qsp.population.plausible(
        qsp.Population(Linear(0.5, 0.5), between=between),
        {"sum": bound},
        arms=[qsp.Arm("none", qsp.no_doses())],
        size=500,
        key=KEY,
        search=qsp.population.Rejection(512),
    )
    targets = [Mean("x", 0.3), Mean("sum", 0.9), SD("y", 0.2, mean=0.6)]
    weighed = weights(found, targets, method=MAPEL(parts=5))
    assert weighed.worst < 0.01
    x_bin, y_bin = np.minimum(found.points * 5, 4).astype(int).T
    cells = [[weighed.weights[(x_bin == i) & (y_bin == j)].mean() for j in range(5)] for i in range(5)]
    table = np.log(np.array(cells))
    np.testing.assert_allclose(table - table[:1], (table - table[:1])[:, :1] + np.zeros((5, 5)), atol=1e-8)  # a product
    with pytest.raises(ValueError, match="Argument `patients` must be a `PlausiblePopulation` for `MAPEL`"):
        weights(PATIENTS, TARGETS, method=MAPEL())


UNDEFINED = {
    "SD of x": SD("x", 1.0, mean=1.0),
    "share of x up to 1": Quantile("x", 0.5, 1.0),
    "share of x from 0 to 1": Histogram("x", [0.0, 1.0, 3.0], [0.5, 0.5]),
    "share of x = 1": Shares("x", {1: 0.5}),
    "share of x after 1": SurvivalCurve("x", [1.0], [0.5]),
    "correlation of y and x": Correlation("y", "x", 0.5, means=(1.0, 1.0), sds=(1.0, 1.0)),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_statistic_that_is_not_defined_is_refused_by_every_target(name):
    patients = {"x": [0.5, 1.0, np.nan, 2.0], "y": np.ones(4)}
    with pytest.raises(ValueError, match=f"must be those whose {name} is defined, but is 1 of 4 without it"):
        weights(patients, [Mean("y", 1.0), UNDEFINED[name]])


X = np.linspace(-1.0, 1.0, 50)
SPREAD = [Mean("x", 0.5), SD("x", 0.2, mean=0.5)]
RELATED = [Mean("y", 0.5), SD("y", 0.2, mean=0.5), Correlation("x", "y", 1.0, means=(0.5, 0.5), sds=(0.2, 0.2))]


@pytest.mark.parametrize(
    ("patients", "targets", "method", "message"),
    [
        ({"x": X, "y": X}, SPREAD + RELATED[2:], DensityRatio(), "and correlations of these, for `DensityRatio`"),
        ({"x": X, "y": X**2}, SPREAD + RELATED, DensityRatio(), "must have correlations that are possible together"),
        ({"x": X}, SPREAD, DensityRatio(logarithmic=True), "Argument `patients` must be positive, but is -1."),
        (
            {"x": X + 2.0},
            [Mean("x", -1.0), SD("x", 1.0, mean=-1.0)],
            DensityRatio(logarithmic=True),
            "Argument `targets` must be positive, but is -1.",
        ),
        ({"x": [0.5]}, SPREAD, DensityRatio(), "Argument `patients` must be at least 2 for `DensityRatio`, but is 1."),
    ],
)
def test_what_has_no_density_is_refused(patients, targets, method, message):
    with pytest.raises(ValueError, match=message):
        select(patients, targets, key=KEY, method=method)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights(PATIENTS, []), "Argument `targets` must have at least one target, but is `empty`."),
        (lambda: weights(PATIENTS, [Mean("LDLC", 1.0)]), "Argument `statistic` must name a statistic of the patients"),
        (
            lambda: weights({"x": [1.0, np.nan]}, [Mean("x", 1.0)]),
            "Argument `patients` must be those whose mean of x is defined, but is 1 of 2 without it.",
        ),
        (lambda: weights({"x": [1.0], "y": [1.0, 2.0]}, [Mean("x", 1.0)]), "must have one number per patient"),
        (lambda: select({"x": [1.0]}, [Mean("x", 1.0)], key=KEY, size=2), r"at most the number of patients \(1\)"),
        (lambda: select({"x": [1.0]}, [Mean("x", 1.0)], key=KEY), "Argument `size` must be given for `Exchange`"),
        (
            lambda: select(PATIENTS, [Mean("LDL", 1.0)], key=KEY, method=DensityRatio()),
            "Argument `targets` must be the mean and the SD of each statistic",
        ),
        (lambda: Quantile("x", 1.5, 1.0), r"Argument `level` must be between 0 and 1, but is \(1.5,\)"),
        (lambda: Shares("x", {0: 0.6, 1: 0.6}), "Argument `shares` must be no more than 1 together, but is 1.2."),
        (lambda: Histogram("x", [0.0, 1.0], [0.5, 0.5]), "Argument `edges` must be 3 increasing numbers"),
        (lambda: SD("x", -1.0, mean=0.0), "Argument `value` must be positive"),
        (lambda: SD("x", 1.0, mean=np.nan), "Argument `mean` must be finite, but is nan."),
        (lambda: Mean("x", np.nan), "Argument `value` must be finite, but is nan."),
        (lambda: Mean("x", np.ones(2)), r"Argument `value` must be one number, but is of shape \(2,\)."),
        (
            lambda: Shares("x", {"CR": 0.5}),
            "Argument `shares` must have the numbers of categories as keys, but is `CR`",
        ),
        (
            lambda: Correlation("x", "y", 2.0, means=(0.0, 0.0), sds=(1.0, 1.0)),
            "Argument `value` must be between -1 and 1, but is 2.",
        ),
        (
            lambda: Correlation("x", "y", 0.5, means=(0.0,), sds=(1.0, 1.0)),
            r"Argument `means` must be two numbers, one of each statistic, but is \(0.0,\).",
        ),
        (lambda: weights({}, [Mean("x", 1.0)]), "in each statistic, but is of shape none."),
        (lambda: weights({"x": []}, [Mean("x", 1.0)]), r"in each statistic, but is of shape \(0,\)."),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
