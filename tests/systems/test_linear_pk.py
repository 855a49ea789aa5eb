"""The closed forms of linear_pk against stored 17-digit answers, matrix exponentials and 40-digit differences."""

import json

import mpmath
import numpy as np
import pytest
import scipy.linalg

from .data import data_folder, needs_data
from .linear_pk import (
    ONE_COMPARTMENT,
    ONE_COMPARTMENT_ORAL,
    THREE_COMPARTMENT,
    THREE_COMPARTMENT_ORAL,
    TWO_COMPARTMENT,
    TWO_COMPARTMENT_ORAL,
    Dose,
    amounts,
    complex_step,
    concentration,
    eigenvalues,
    gradient,
)

INTRAVENOUS = (ONE_COMPARTMENT, TWO_COMPARTMENT, THREE_COMPARTMENT)
ORAL = (ONE_COMPARTMENT_ORAL, TWO_COMPARTMENT_ORAL, THREE_COMPARTMENT_ORAL)
every_system = pytest.mark.parametrize("system", INTRAVENOUS + ORAL, ids=lambda system: system.name)

VALUES = {"CL": 3.7, "V": 12.5, "V1": 12.5, "Q": 5.1, "Q2": 5.1, "V2": 33.0, "Q3": 0.9, "V3": 110.0, "ka": 1.15}
DOSES = [
    Dose(100.0, 0.0),
    Dose(60.0, 5.0, duration=3.0),
    Dose(80.0, 12.0, rate=25.0),
    Dose(40.0, 13.0),
    Dose(30.0, 14.0, to="central"),
]
TIMES = np.array([0.25, 0.75, 4.0, 6.5, 9.0, 12.25, 13.625, 15.0, 30.0, 96.0])  # between the events, lagged or not


def parameters_of(system, **more):
    names = ["CL", system.volume, *(name for pair in system.peripherals for name in pair)]
    return {name: VALUES[name] for name in (*names, *(["ka"] if system.oral else []))} | more


# --- an independent solution: products of matrix exponentials from event to event -----------------------------------


def rate_matrix(system, p):
    """dx/dt = A x, state order of `system.states`, as rows."""
    size, centre, volume = len(system.states), system.states.index("central"), p[system.volume]
    rows = np.zeros((size, size), dtype=object)
    rows[centre, centre] -= p["CL"] / volume
    for j, (q, v) in enumerate(system.peripherals, start=centre + 1):
        rows[centre, centre] -= p[q] / volume
        rows[j, centre] += p[q] / volume
        rows[centre, j] += p[q] / p[v]
        rows[j, j] -= p[q] / p[v]
    if system.oral:
        rows[0, 0], rows[centre, 0] = -p["ka"], p["ka"]
    return rows


def events_of(system, p, doses):
    """(time, into what, value) of every jump and change of rate, in order."""
    events = []
    for dose in doses:
        direct = system.oral and dose.to == "central"
        fraction, lag = (1, 0) if direct else (p.get("F", 1), p.get("tlag", 0))
        state = system.states.index("central") if direct else 0
        start, amount = dose.time + lag, fraction * dose.amount
        if dose.duration is None and dose.rate is None:
            events.append((start, "state", state, amount))
            continue
        rate = dose.rate if dose.duration is None else amount / dose.duration
        events += [(start, "rate", state, rate), (start + amount / rate, "rate", state, -rate)]
    return sorted(events)


def propagated(system, p, doses, ts, expm):
    """Amounts (times, states) by exponentials of [[A, r], [0, 0]] over each interval."""
    size = len(system.states)
    generator = np.zeros((size + 1, size + 1), dtype=object)
    generator[:size, :size] = rate_matrix(system, p)
    x = np.array([0] * size + [1], dtype=object)
    stops = sorted([*events_of(system, p, doses), *((t, "zz output", 0, 0) for t in ts)], key=lambda e: e[:2])
    now, out = stops[0][0], []
    for when, what, index, value in stops:
        if when > now:
            x, now = expm(generator * (when - now)) @ x, when
        if what == "state":
            x[index] += value
        elif what == "rate":
            generator[index, size] += value
        else:
            out.append(x[:size].copy())
    return np.array(out)


def expm_float(rows):
    return scipy.linalg.expm(rows.astype(float)).astype(object)


def expm_40(rows):
    return np.array(mpmath.expm(mpmath.matrix(rows.tolist())).tolist(), dtype=object)


# --- (1) stored answers ---------------------------------------------------------------------------------------------

BOLUS = [f"c{n}{route}_{what}" for n in "123" for route in "bo" for what in ("single_bolus", "7x_q12h")]
STEADY = [f"c{n}{route}_steady_state_q12h" for n in "123" for route in "bo"]
INFUSED = [f"c{n}b_infusion_3h{what}" for n in "123" for what in ("", "_ss_q12h")]


def doses_of(case):
    """The doses of a stored case; steady state is 800 doses in the past."""
    interval, rate = case.get("ii", 0), float(case["rate"]) if "rate" in case else None
    count = range(0, -800, -1) if case.get("ss") else range(case.get("addl", 0) + 1)
    return [Dose(float(case.get("amt") or case["dose"]), float(interval * k), rate=rate) for k in count]


@needs_data
@pytest.mark.parametrize("name", BOLUS + STEADY + INFUSED)
def test_agrees_with_the_stored_answers(name):
    stored = json.loads((data_folder() / "closed-form" / "pk_linear.json").read_text())
    case = next(case for case in stored["cases"] if case["id"] == name)
    system = (ORAL if name[2] == "o" else INTRAVENOUS)[int(name[1]) - 1]
    values = {key: float(value) for key, value in stored["params"].items()}
    values |= {"V": values["V1"], "Q": values["Q2"], "ka": values["KA"]}
    p = {key: values[key] for key in parameters_of(system)}
    result = concentration(system, p, doses_of(case), np.array(case["time"], dtype=float))
    np.testing.assert_allclose(result, np.array(case["conc"], dtype=float), rtol=1e-12)


# --- (2) matrix exponential ------------------------------------------------------------------------------------------


@every_system
@pytest.mark.parametrize("delivery", [{}, {"F": 0.7, "tlag": 0.4}], ids=["plain", "F and lag"])
def test_agrees_with_the_matrix_exponential(system, delivery):
    p = parameters_of(system, **delivery)
    expected = propagated(system, p, DOSES, TIMES, expm_float).astype(float)
    result = amounts(system, p, DOSES, TIMES)
    for state, column in zip(system.states, expected.T, strict=True):
        np.testing.assert_allclose(result[state], column, rtol=1e-11, atol=1e-12, err_msg=state)


@every_system
def test_agrees_with_the_matrix_exponential_at_the_events(system):
    p = parameters_of(system, F=0.75, tlag=0.5)
    ts = sorted({float(when) for when, *_ in events_of(system, p, DOSES)})
    expected = propagated(system, p, DOSES, ts, expm_float).astype(float)
    result = amounts(system, p, DOSES, ts)
    for state, column in zip(system.states, expected.T, strict=True):
        np.testing.assert_allclose(result[state], column, rtol=1e-11, atol=1e-12, err_msg=state)


# --- (3) gradients ---------------------------------------------------------------------------------------------------

SCHEDULE = [("amount", 0), ("amount", 1), ("amount", 2), ("time", 0), ("time", 1), ("time", 2), ("time", 4)]
SCHEDULE += [("duration", 1), ("rate", 2)]


def difference(system, p, doses, wrt):
    """Central difference of the concentration in 40 digits, step 1e-12 (error about 1e-24)."""
    h = mpmath.mpf(10) ** -12
    p = {name: mpmath.mpf(value) for name, value in p.items()}
    ends = []
    for step in (h, -h):
        moved, changed = list(doses), dict(p)
        if isinstance(wrt, str):
            changed[wrt] += step
        else:
            field, i = wrt
            kept = {name: getattr(doses[i], name) for name in ("amount", "time", "duration", "rate", "to")}
            moved[i] = Dose(**(kept | {field: mpmath.mpf(kept[field]) + step}))
        x = propagated(system, changed, moved, [mpmath.mpf(t) for t in TIMES], expm_40)
        ends.append(x[:, system.states.index("central")] / changed[system.volume])
    return ((ends[0] - ends[1]) / (2 * h)).astype(float)


@every_system
def test_gradient_agrees_with_forty_digit_differences(system):
    p = parameters_of(system, F=0.7, tlag=0.4)
    with mpmath.workdps(40):
        for wrt in (*p, *SCHEDULE):
            expected = difference(system, p, DOSES, wrt)
            result = gradient(system, p, DOSES, TIMES, wrt)
            np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-14, err_msg=str(wrt))
            assert np.any(expected != 0), wrt


@every_system
def test_gradient_of_every_amount_sums_to_the_balance(system):
    # without elimination d(sum of amounts) / d(amount of the dose) = 1, and no other derivative changes the sum
    p = parameters_of(system) | {"CL": 0.0}
    total = sum(gradient(system, p, DOSES[:1], TIMES, ("amount", 0), state=state) for state in system.states)
    np.testing.assert_allclose(total, 1.0, rtol=1e-13)
    for wrt in set(p) - {"CL"}:
        total = sum(gradient(system, p, DOSES[:1], TIMES, wrt, state=state) for state in system.states)
        np.testing.assert_allclose(total, 0.0, atol=1e-11, err_msg=wrt)


def test_gradient_of_an_absent_fraction_and_lag_is_taken_at_their_defaults():
    p, doses = parameters_of(ONE_COMPARTMENT_ORAL), DOSES[:1]
    c = concentration(ONE_COMPARTMENT_ORAL, p, doses, TIMES)
    np.testing.assert_allclose(gradient(ONE_COMPARTMENT_ORAL, p, doses, TIMES, "F"), c, rtol=1e-14)
    lag, time = (gradient(ONE_COMPARTMENT_ORAL, p, doses, TIMES, wrt) for wrt in ("tlag", ("time", 0)))
    np.testing.assert_array_equal(lag, time)


# --- conventions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", INTRAVENOUS, ids=lambda system: system.name)
def test_a_time_that_equals_a_dose_time_gives_the_value_after_the_dose(system):
    p = parameters_of(system)
    before, at = concentration(system, p, [Dose(100.0, 12.0)], [np.nextafter(12.0, 0.0), 12.0])
    assert before == 0.0
    np.testing.assert_allclose(at, 100.0 / p[system.volume], rtol=1e-14)


def test_bioavailability_scales_the_rate_if_duration_is_fixed_and_the_duration_if_rate_is_fixed():
    p, ts = parameters_of(TWO_COMPARTMENT), np.linspace(0.0, 10.0, 21)

    def c(dose, **more):
        return concentration(TWO_COMPARTMENT, p | more, [dose], ts)

    by_duration, by_rate = Dose(100.0, 1.0, duration=4.0), Dose(100.0, 1.0, rate=25.0)
    np.testing.assert_allclose(c(by_duration, F=0.5), c(by_duration) / 2, rtol=1e-14)
    np.testing.assert_allclose(c(by_rate, F=0.5), c(Dose(50.0, 1.0, duration=2.0)), rtol=1e-14)


def test_complex_inputs_give_complex_outputs_so_that_any_derived_quantity_is_differentiated():
    p, base = parameters_of(ONE_COMPARTMENT), [Dose(100.0, 8.0 * i) for i in range(4)]

    def by_interval(interval):
        return concentration(ONE_COMPARTMENT, p, [Dose(100.0, i * interval) for i in range(4)], TIMES)

    by_times = sum(i * gradient(ONE_COMPARTMENT, p, base, TIMES, ("time", i)) for i in range(4))
    assert concentration(ONE_COMPARTMENT, p, base, TIMES).dtype == float
    np.testing.assert_allclose(complex_step(by_interval, 8.0), by_times, rtol=1e-13)


def test_eigenvalues_of_stiff_and_of_nearly_equal_rates_are_accurate():
    for k in ((1e6, 1.0, 2.0, 1e-3, 1e-7), (0.3, 0.02, 0.01, 0.3001, 0.2999), (1e-9, 5.0, 1e-4, 3.0, 1e3)):
        k10, k12, k13, k21, k31 = map(mpmath.mpf, k)
        with mpmath.workdps(60):
            matrix = [[-k10 - k12 - k13, k21, k31], [k12, -k21, 0], [k13, 0, -k31]]
            exact = sorted((-mpmath.re(x) for x in mpmath.eig(mpmath.matrix(matrix), right=False)), reverse=True)
        np.testing.assert_allclose(eigenvalues(k[0], k[1:3], k[3:]), [float(x) for x in exact], rtol=1e-14)


def test_a_dose_with_both_duration_and_rate_is_refused():
    with pytest.raises(ValueError, match="Argument `duration` must be left out when `rate` is given"):
        Dose(100.0, 0.0, duration=1.0, rate=100.0)


def test_a_dose_to_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match="Argument `to` must be 'depot' or 'central', but it is 'gut'"):
        Dose(100.0, 0.0, to="gut")
