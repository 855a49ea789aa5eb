"""Properties that any regimen must have, on random ones: superposition, splitting, order, scaling."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings, strategies as st

import qspjax as qsp
from qspjax._dosing._regimen import Action, table

PATIENT = qsp.models.TwoCompartmentOral(CL=3.7, V1=12.5, Q=5.1, V2=33.0, ka=1.15, tlag=0.4, F=0.8)
TS = jnp.asarray([0.3, 1.0, 5.0, 12.0, 24.5, 48.0, 90.0])
TARGETS = ("depot", "central", "peripheral")
ROWS = 4
examples = settings(max_examples=60, deadline=None, derandomize=True)


@jax.jit
def concentration(patient, regimen):
    return qsp.simulate(patient, regimen, TS, throw=False, t0=0.0).observed["concentration"]


row = st.fixed_dictionaries(
    {
        "time": st.floats(0.0, 80.0),
        "kind": st.sampled_from([Action.BOLUS, Action.INFUSION_OVER, Action.INFUSION_RATE]),
        "index": st.integers(0, 2),
        "amount": st.just(0.0) | st.floats(0.1, 500.0),  # at most 100 an hour: the rounding of times is small
        "duration": st.floats(0.1, 30.0),
        "rate": st.floats(1.0, 100.0),
    }
)
rows = st.lists(row, min_size=1, max_size=ROWS)


def regimen_of(found):
    """All regimens of one shape, so that one program serves all examples."""
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    regimen = table(TARGETS, **columns, rule=np.full(len(found), -1)).padded(2 * ROWS)
    return qsp.Regimen(**{**vars(regimen), "static_shape": regimen.static_shape._replace(infuses=True)})


def close(got, expected, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11 * scale)


@examples
@given(rows, rows)
def test_superposition(first, second):
    one, two = (concentration(PATIENT, regimen_of(found)) for found in (first, second))
    close(concentration(PATIENT, regimen_of([*first, *second])), one + two)


@examples
@given(rows, st.integers(0, ROWS - 1), st.floats(0.05, 0.95))
def test_a_split_infusion_equals_the_whole(found, which, share):
    which %= len(found)
    whole = {**found[which], "kind": Action.INFUSION_OVER}
    parts = [
        {**whole, "amount": share * whole["amount"], "duration": share * whole["duration"]},
        {
            **whole,
            "time": whole["time"] + share * whole["duration"],
            "amount": (1.0 - share) * whole["amount"],
            "duration": (1.0 - share) * whole["duration"],
        },
    ]
    others = [one for i, one in enumerate(found) if i != which]
    close(concentration(PATIENT, regimen_of([*others, *parts])), concentration(PATIENT, regimen_of([*others, whole])))


@examples
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    close(concentration(PATIENT, regimen_of(shuffled)), concentration(PATIENT, regimen_of(found)))


@examples
@given(rows, st.floats(0.01, 100.0))
def test_scaling_doses_and_volumes_together_changes_nothing(found, factor):
    larger = [{**one, "amount": factor * one["amount"], "rate": factor * one["rate"]} for one in found]
    patient = PATIENT
    for name in ("CL", "V1", "Q", "V2"):
        patient = qsp.at(patient, name).set(factor * qsp.at(patient, name).get())
    close(concentration(patient, regimen_of(larger)), concentration(PATIENT, regimen_of(found)))


@examples
@given(rows, st.floats(0.5, 100.0))
def test_a_shift_in_time_shifts_everything(found, shift):
    later = [{**one, "time": one["time"] + shift} for one in found]
    moved = qsp.simulate(PATIENT, regimen_of(later), TS + shift).observed["concentration"]
    close(moved, concentration(PATIENT, regimen_of(found)))
