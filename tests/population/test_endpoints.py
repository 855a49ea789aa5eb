"""Endpoints against closed forms: values, gradients, padding, failures and edge cases."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qspjax._model import Units
from qspjax._solution import RESULTS, Labels, Solution
from qspjax.population._endpoints import (
    ChangeFromBaseline,
    Cmax,
    Cmin,
    RelativeChange,
    Responder,
    TimeAbove,
    TimeBelow,
    Tmax,
    Value,
)
from qspjax.population._nca import AUC, Accumulation, AUCInfinity, Average, ExtrapolatedShare, HalfLife, Trough

pytestmark = pytest.mark.filterwarnings("ignore:.* is computed from the samples alone")

C0, K = 8.0, 0.15
TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0, 24.0])  # h
DECAY = C0 * np.exp(-K * TIMES)  # mg/L
ORAL = 12.0 * (np.exp(-0.15 * TIMES) - np.exp(-1.1 * TIMES))  # mg/L

EVERY = [
    Value("c", at=5.0),
    Value("c", at=6.0),
    ChangeFromBaseline("c", at=11.0, baseline=1.0),
    RelativeChange("c", at=11.0, baseline=1.0),
    Cmax("c"),
    Cmax("c", between=(4.0, 12.0)),
    Cmin("c", between=(1.0, 12.0)),
    Tmax("c"),
    TimeAbove("c", threshold=3.3),
    TimeAbove("c", threshold=3.3, between=(0.7, 9.0)),
    TimeBelow("c", threshold=3.3),
    Responder(Value("c", at=12.0), at_most=5.0),
    AUC("c"),
    AUC("c", between=(0.7, 9.0)),
    Average("c", between=(1.0, 21.0)),
    Accumulation("c", first=(0.0, 10.0), last=(10.0, 20.0)),
    Trough("c", between=(0.0, 23.0)),
    HalfLife("c"),
    HalfLife("c", between=(7.0, 21.0)),
    AUCInfinity("c"),
    ExtrapolatedShare("c"),
]
SMOOTH = [endpoint for endpoint in EVERY if not isinstance(endpoint, (Tmax, Responder))]


def solution_of(values, ts=TIMES):
    values = jnp.asarray(values, dtype=float)
    labels = Labels((), (), Units(), "a closed form")
    return Solution(jnp.asarray(ts, dtype=float), {"c": values}, None, RESULTS.successful, {}, None, labels)


@eqx.filter_jit
def value_and_gradient(endpoint, values, ts):
    return jax.value_and_grad(lambda values: endpoint(solution_of(values, ts)))(values)


def of(endpoint, values, ts=TIMES):
    return float(value_and_gradient(endpoint, np.asarray(values, dtype=float), np.asarray(ts, dtype=float))[0])


def gradient(endpoint, values, ts=TIMES):
    return value_and_gradient(endpoint, np.asarray(values, dtype=float), np.asarray(ts, dtype=float))[1]


def name_of(endpoint):
    return f"{type(endpoint).__name__}-{'-'.join(str(float(x)) for x in jax.tree.leaves(endpoint))}"


def exponential_area(start, end):
    return C0 / K * (math.exp(-K * start) - math.exp(-K * end))


# Closed forms


def test_value_is_exact_at_a_sample_and_linear_between():
    assert [of(Value("c", at=t), DECAY) for t in TIMES] == DECAY.tolist()
    assert of(Value("c", at=5.0), DECAY) == pytest.approx(0.5 * (DECAY[4] + DECAY[5]), rel=1e-15)


def test_value_outside_the_samples_is_nan_but_not_for_rounding():
    assert math.isnan(of(Value("c", at=-0.1), DECAY))
    assert math.isnan(of(Value("c", at=24.1), DECAY))
    assert of(Value("c", at=np.nextafter(24.0, 25.0)), DECAY) == DECAY[-1]


def test_value_at_equal_times_is_the_last_of_them():
    assert of(Value("c", at=1.0), [5.0, 4.0, 9.0, 8.0], [0.0, 1.0, 1.0, 2.0]) == 9.0


def test_value_before_a_failure_is_defined():
    values = DECAY.copy()
    values[6:] = np.nan
    assert of(Value("c", at=6.0), values) == DECAY[5]
    assert math.isnan(of(Value("c", at=7.0), values))


def test_value_has_the_slope_on_the_right_as_derivative_in_time():
    slope = jax.grad(lambda at: Value("c", at=at)(solution_of(DECAY)))(4.0)
    np.testing.assert_allclose(slope, (DECAY[5] - DECAY[4]) / 2.0, rtol=1e-14)


def test_changes_from_baseline():
    assert of(ChangeFromBaseline("c", at=12.0), DECAY) == pytest.approx(DECAY[7] - C0)
    assert of(RelativeChange("c", at=12.0), DECAY) == pytest.approx(math.exp(-K * 12.0) - 1.0, rel=1e-14)
    assert of(RelativeChange("c", at=12.0, baseline=4.0), DECAY) == pytest.approx(math.exp(-K * 8.0) - 1.0, rel=1e-14)
    assert math.isnan(of(RelativeChange("c", at=12.0), ORAL))


def test_extremes_and_their_window():
    assert of(Cmax("c"), ORAL) == ORAL.max()
    assert of(Tmax("c"), ORAL) == TIMES[ORAL.argmax()]
    assert of(Cmax("c", between=(4.0, 12.0)), ORAL) == ORAL[4]
    assert of(Tmax("c", between=(5.0, 12.0)), ORAL) == 6.0
    assert of(Cmin("c"), DECAY) == DECAY[-1]
    assert of(Cmin("c", between=(0.0, 8.0)), DECAY) == DECAY[6]


@pytest.mark.parametrize("cls", [Cmax, Cmin, Tmax])
def test_extremes_of_a_window_without_samples_are_nan(cls):
    assert math.isnan(of(cls("c", between=(8.5, 11.5)), DECAY))


def test_area_of_an_exponential_is_exact():
    assert of(AUC("c"), DECAY) == pytest.approx(exponential_area(0.0, 24.0), rel=1e-12)


@pytest.mark.parametrize("between", [(0.0, 24.0), (0.2, 0.4), (0.7, 9.3), (4.0, 5.0), (3.0, 4.0), (0.5, 23.9)])
def test_area_of_a_part_of_an_exponential_is_exact(between):
    assert of(AUC("c", between=between), DECAY) == pytest.approx(exponential_area(*between), rel=1e-12)
    average = exponential_area(*between) / (between[1] - between[0])
    assert of(Average("c", between=between), DECAY) == pytest.approx(average, rel=1e-12)


@pytest.mark.parametrize("between", [(0.0, 3.0), (0.25, 0.5), (0.25, 2.5), (1.0, 1.5)])
def test_area_of_a_rising_line_is_exact(between):
    ts = [0.0, 1.0, 2.5, 3.0]
    area = of(AUC("c", between=between), [2.0 + 3.0 * t for t in ts], ts)
    assert area == pytest.approx(2.0 * (between[1] - between[0]) + 1.5 * (between[1] ** 2 - between[0] ** 2), rel=1e-14)


def test_areas_of_windows_add_up():
    cuts = [0.0, 0.3, 1.7, 2.0, 9.1, 24.0]
    parts = [of(AUC("c", between=pair), ORAL) for pair in zip(cuts[:-1], cuts[1:], strict=True)]
    assert sum(parts) == pytest.approx(of(AUC("c"), ORAL), rel=1e-14)


def test_area_of_a_falling_line_through_zero_is_linear():
    assert of(AUC("c"), [1.0, -1.0, -3.0], [0.0, 1.0, 2.0]) == pytest.approx(-2.0, rel=1e-14)


def test_area_of_a_window_not_covered_is_nan():
    for between in [(-1.0, 4.0), (20.0, 25.0), (30.0, 40.0)]:
        assert math.isnan(of(AUC("c", between=between), DECAY))
        assert math.isnan(of(TimeAbove("c", 1.0, between=between), DECAY))
    assert math.isfinite(of(AUC("c", between=(0.0, np.nextafter(24.0, 25.0))), DECAY))


def test_area_has_the_value_at_the_end_as_derivative_in_time():
    slope = jax.grad(lambda end: AUC("c", between=(0.0, end))(solution_of(DECAY)))
    np.testing.assert_allclose([slope(4.0), slope(5.0)], C0 * np.exp(-K * np.array([4.0, 5.0])), rtol=1e-12)


@pytest.mark.parametrize("fall", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.09, 0.11, 0.5, 5.0, 100.0, 600.0])
def test_area_of_a_fall_is_accurate_with_its_gradient_at_any_slope(fall):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(80):
        first, last = mpmath.mpf(3.0), mpmath.mpf(3.0 * math.exp(-fall))
        log_mean = (first - last) / mpmath.log(first / last) if first > last else first
        x = mpmath.log(first / last)
        d_first = (x - 1 + last / first) / x**2 if first > last else 0.5
        d_last = (first / last - 1 - x) / x**2 if first > last else 0.5
    values, ts = [3.0, 3.0 * math.exp(-fall)], [0.0, 1.0]
    assert of(AUC("c"), values, ts) == pytest.approx(float(log_mean), rel=1e-13)
    np.testing.assert_allclose(gradient(AUC("c"), values, ts), [float(d_first), float(d_last)], rtol=1e-11)


def test_terminal_endpoints_of_an_exponential_are_exact():
    assert of(HalfLife("c"), DECAY) == pytest.approx(math.log(2.0) / K, rel=1e-12)
    assert of(HalfLife("c", points=2), DECAY) == pytest.approx(math.log(2.0) / K, rel=1e-12)
    assert of(HalfLife("c", between=(3.0, 9.0)), DECAY) == pytest.approx(math.log(2.0) / K, rel=1e-12)
    assert of(AUCInfinity("c"), DECAY) == pytest.approx(C0 / K, rel=1e-12)
    assert of(ExtrapolatedShare("c"), DECAY) == pytest.approx(math.exp(-K * 24.0), rel=1e-11)


def test_terminal_slope_is_that_of_least_squares_on_the_last_points():
    slope, _ = np.polyfit(TIMES[-4:], np.log(ORAL[-4:]), 1)
    assert of(HalfLife("c", points=4), ORAL) == pytest.approx(-math.log(2.0) / slope, rel=1e-12)
    slope, _ = np.polyfit(TIMES[4:8], np.log(ORAL[4:8]), 1)
    assert of(HalfLife("c", between=(4.0, 12.0)), ORAL) == pytest.approx(-math.log(2.0) / slope, rel=1e-12)


def test_terminal_slope_needs_points_after_the_peak_that_fall():
    after = TIMES.size - 1 - ORAL.argmax()
    assert math.isfinite(of(HalfLife("c", points=int(after)), ORAL))
    assert math.isnan(of(HalfLife("c", points=int(after) + 1), ORAL))
    assert math.isnan(of(HalfLife("c"), TIMES))
    assert math.isnan(of(HalfLife("c", between=(0.1, 21.0)), np.full(TIMES.size, 0.7)))
    assert math.isnan(of(HalfLife("c", between=(0.0, 1.0)), ORAL))
    assert math.isnan(of(HalfLife("c", between=(5.0, 7.0)), DECAY))


def test_samples_below_zero_at_the_end_are_left_out_of_the_terminal_slope():
    values = np.where(TIMES > 12.0, 0.0, DECAY)
    assert of(HalfLife("c"), values) == pytest.approx(math.log(2.0) / K, rel=1e-12)
    assert of(AUCInfinity("c"), values) == pytest.approx(C0 / K, rel=1e-12)
    assert of(ExtrapolatedShare("c"), values) == pytest.approx(math.exp(-K * 12.0), rel=1e-11)


def repeated_bolus(ts, interval=12.0):
    doses = np.arange(0.0, 36.0 + 1.0, interval)
    since = np.asarray(ts)[:, None] - doses
    return np.where(since >= 0, C0 * np.exp(-K * np.maximum(since, 0.0)), 0.0).sum(axis=1)


def test_trough_of_repeated_boluses_is_the_value_before_the_dose():
    ts = np.linspace(0.0, 36.0, 19)
    expected = C0 * (math.exp(-K * 24.0) + math.exp(-K * 12.0))
    assert of(Trough("c", between=(12.0, 24.0)), repeated_bolus(ts), ts) == pytest.approx(expected, rel=1e-13)
    assert of(Value("c", at=24.0), repeated_bolus(ts), ts) == pytest.approx(expected + C0, rel=1e-13)


def test_trough_of_a_rising_curve_follows_the_line():
    assert of(Trough("c", between=(0.0, 4.0)), [1.0, 2.0, 4.0, 90.0], [0.0, 1.0, 3.0, 4.0]) == pytest.approx(5.0)


@pytest.mark.parametrize("ts", [[0.0, 24.0, 48.0], [0.0, 2.0, 4.0, 24.0], [0.0, 24.0], [23.0, 30.0]])
def test_trough_without_samples_near_the_end_of_the_interval_is_nan(ts):
    assert math.isnan(of(Trough("c", between=(0.0, 24.0)), np.exp(-np.array(ts)), ts))


def test_accumulation_of_repeated_boluses():
    before = [np.nextafter(t, 0.0) for t in (12.0, 24.0, 36.0)]
    ts = np.sort(np.concatenate([np.linspace(0.0, 36.0, 19), before]))
    ratio = of(Accumulation("c", first=(0.0, 12.0), last=(24.0, 36.0)), repeated_bolus(ts), ts)
    expected = (1.0 - math.exp(-3 * K * 12.0)) / (1.0 - math.exp(-K * 12.0))
    assert ratio == pytest.approx(expected, rel=1e-12)


def test_time_above_a_line_is_exact_and_complements_time_below():
    ts, values = [0.0, 2.0, 4.0], [0.0, 4.0, 0.0]
    assert of(TimeAbove("c", 1.0), values, ts) == pytest.approx(3.0, rel=1e-15)
    assert of(TimeBelow("c", 1.0), values, ts) == pytest.approx(1.0, rel=1e-15)
    assert of(TimeAbove("c", 1.0, between=(0.25, 2.5)), values, ts) == pytest.approx(2.0, rel=1e-15)
    assert of(TimeBelow("c", 1.0, between=(0.25, 2.5)), values, ts) == pytest.approx(0.25, rel=1e-15)


def test_a_curve_on_the_threshold_is_neither_above_nor_below():
    assert of(TimeAbove("c", 2.0), np.full(11, 2.0)) == 0.0
    assert of(TimeBelow("c", 2.0), np.full(11, 2.0)) == 0.0


def test_time_above_converges_with_the_square_of_the_spacing():
    exact = math.log(C0 / 1.3) / K
    errors = []
    for count in (41, 401):
        ts = np.linspace(0.0, 24.0, count)
        errors.append(abs(of(TimeAbove("c", 1.3), C0 * np.exp(-K * ts), ts) - exact))
        assert errors[-1] < K / 8.0 * (24.0 / (count - 1)) ** 2 * 1.1
    assert errors[1] < 0.05 * errors[0]


def test_responder_judges_another_endpoint():
    value = Value("c", at=12.0)
    at = float(DECAY[7])
    assert [of(Responder(value, at_most=bound), DECAY) for bound in (0.9 * at, at, 1.1 * at)] == [0.0, 1.0, 1.0]
    assert [of(Responder(value, at_least=bound), DECAY) for bound in (0.9 * at, at, 1.1 * at)] == [1.0, 1.0, 0.0]
    assert math.isnan(of(Responder(Value("c", at=30.0), at_most=1.0), DECAY))


# Every endpoint


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_padding_changes_nothing(endpoint):
    ts = np.append(TIMES, [math.inf] * 3)
    value, slope = value_and_gradient(endpoint, ORAL, TIMES)
    for filler in (math.nan, math.inf, 0.0, 1e9):
        padded_value, padded_slope = value_and_gradient(endpoint, np.append(ORAL, [filler] * 3), ts)
        np.testing.assert_allclose(padded_value, value, rtol=1e-14)
        np.testing.assert_allclose(padded_slope[:-3], slope, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(padded_slope[-3:], 0.0)


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_a_failed_patient_is_nan(endpoint):
    for first in (1, 0):
        assert math.isnan(of(endpoint, np.where(np.arange(TIMES.size) >= first, math.nan, ORAL)))


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_a_patient_of_nothing_but_padding_is_nan(endpoint):
    assert math.isnan(of(endpoint, np.zeros(4), np.full(4, math.inf)))


@pytest.mark.parametrize("endpoint", [AUC("c"), AUCInfinity("c"), HalfLife("c"), ExtrapolatedShare("c")], ids=name_of)
def test_a_failure_at_the_very_end_is_nan(endpoint):
    assert math.isnan(of(endpoint, np.append(DECAY[:-1], math.nan)))


@pytest.mark.parametrize("endpoint", SMOOTH, ids=name_of)
def test_gradient_matches_finite_differences(endpoint):
    steps = 1e-6 * np.eye(ORAL.size)[1:]
    differences = [(of(endpoint, ORAL + step) - of(endpoint, ORAL - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(gradient(endpoint, ORAL)[1:], differences, rtol=1e-6, atol=1e-8)
    assert np.isfinite(gradient(endpoint, ORAL)).all()


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_no_gradient_is_nan_and_modes_agree(endpoint):
    values = np.stack([0.0 * TIMES, 0.0 * TIMES + 2.0, TIMES, ORAL, DECAY, -DECAY])
    reverse, forward = (
        jax.jit(jax.vmap(mode(lambda values: endpoint(solution_of(values)))))(values) for mode in (jax.grad, jax.jacfwd)
    )
    assert np.isfinite(reverse).all()
    np.testing.assert_allclose(forward, reverse, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_vmap_under_jit_is_a_loop(endpoint):
    values = np.stack([DECAY, ORAL, 0.0 * ORAL, 1.3 * ORAL])
    ts = np.stack([TIMES, TIMES, 0.5 * TIMES, np.append(TIMES[:-1], math.inf)])
    together = jax.jit(jax.vmap(lambda values, ts: endpoint(solution_of(values, ts))))(values, ts)
    assert together.shape == (4,)
    np.testing.assert_allclose(together, [of(endpoint, *rows) for rows in zip(values, ts, strict=True)], rtol=1e-13)


@pytest.mark.parametrize("endpoint", EVERY, ids=name_of)
def test_endpoints_are_pytrees_of_numbers_and_trace_once(endpoint):
    traces = []

    @eqx.filter_jit
    def call(endpoint, solution):
        traces.append(1)
        return endpoint(solution)

    call(endpoint, solution_of(ORAL))
    call(jax.tree.map(lambda leaf: 1.01 * leaf, endpoint), solution_of(ORAL))
    assert len(traces) == 1
    assert all(leaf.dtype == jnp.result_type(float) for leaf in jax.tree.leaves(endpoint))


def test_endpoints_of_a_placebo():
    zero = 0.0 * TIMES
    assert of(AUC("c"), zero) == of(AUCInfinity("c"), zero) == of(Cmax("c"), zero) == 0.0
    assert of(TimeAbove("c", 1.0), zero) == of(Trough("c", between=(0.0, 24.0)), zero) == 0.0
    for endpoint in (HalfLife("c"), ExtrapolatedShare("c"), Accumulation("c", first=(0.0, 4.0), last=(4.0, 8.0))):
        assert math.isnan(of(endpoint, zero))


# Messages


@pytest.mark.parametrize("cls", [Cmax, Cmin, Tmax, AUC, Average, HalfLife, AUCInfinity, ExtrapolatedShare])
def test_an_unknown_output_is_named(cls):
    with pytest.raises(ValueError, match=r"^Argument `output` must name an observed value \(c\), but is `d`\.$"):
        cls("d")(solution_of(DECAY))


def test_a_cohort_without_vmap_is_refused():
    with pytest.raises(ValueError, match=r"`solution` must be that of one patient .*vmap.*, but is of shape \(2, 11\)"):
        AUC("c")(solution_of(np.stack([DECAY, ORAL])))


@pytest.mark.parametrize("between", [(24.0, 0.0), (1.0, 1.0), (1.0,), (0.0, 1.0, 2.0), (0.0, math.nan)])
@pytest.mark.parametrize("cls", [Cmax, Cmin, Tmax, AUC, Average, Trough, HalfLife])
def test_a_window_is_two_times_in_order(cls, between):
    with pytest.raises(ValueError, match=r"^Argument `between` must be two times, start before end, but is \("):
        cls("c", between=between)


def test_numbers_are_checked():
    with pytest.raises(ValueError, match="Argument `points` must be a whole number of at least 2, but is"):
        HalfLife("c", points=1)
    with pytest.raises(ValueError, match="Argument `at` must be finite, but is nan"):
        Value("c", at=math.nan)
    with pytest.raises(ValueError, match="Argument `threshold` must be finite, but is inf"):
        TimeAbove("c", threshold=math.inf)
    with pytest.raises(ValueError, match="Argument `first` must be two times, start before end"):
        Accumulation("c", first=(2.0, 1.0), last=(2.0, 3.0))


TEXT = {
    "at": (lambda: Value("c", at="2 h"), "Argument `at` must be a number, but is 2 h."),
    "baseline": (lambda: RelativeChange("c", 2.0, baseline="0"), "Argument `baseline` must be a number, but is `0`."),
    "threshold": (lambda: TimeBelow("c", "low"), "Argument `threshold` must be a number, but is `low`."),
    "at most": (
        lambda: Responder(Value("c", at=1.0), at_most="25"),
        "Argument `at_most` must be a number, but is `25`.",
    ),
    "one time": (
        lambda: AUC("c", between=24.0),
        "Argument `between` must be two times, start before end, but is 24.",
    ),
    "times": (
        lambda: AUC("c", between=(0.0, "24 h")),
        "Argument `between` must be two times, start before end, but is (0.0, '24 h').",
    ),
    "points": (
        lambda: HalfLife("c", points=2.5),
        "Argument `points` must be a whole number of at least 2, but is 2.5 of type float.",
    ),
    "endpoint": (
        lambda: Responder("c", at_most=1.0),
        "Argument `endpoint` must be an endpoint, but is of type str.",
    ),
}


@pytest.mark.parametrize("case", TEXT)
def test_what_is_no_number_is_refused(case):
    call, message = TEXT[case]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_a_responder_has_exactly_one_bound():
    with pytest.raises(ValueError, match="Exactly one of the arguments `at_most` and `at_least`.* none is"):
        Responder(Value("c", at=1.0))
    with pytest.raises(ValueError, match="Exactly one of the arguments `at_most` and `at_least`.* both are"):
        Responder(Value("c", at=1.0), at_most=1.0, at_least=2.0)
