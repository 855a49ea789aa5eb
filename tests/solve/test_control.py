"""What every adaptive loop does with a step, and what a boundary does with states, element by element."""

import jax.numpy as jnp
import numpy as np
import pytest

from qspjax._solution import RESULTS
from qspjax.solve._control import (
    GROW,
    MAX_STEPS,
    NONFINITE,
    SHRINK,
    STEP_TOO_SMALL,
    SUCCESS,
    Control,
    Judgement,
    advance,
    judge,
    propose,
    result_of,
    start_clock,
)
from qspjax.solve.dosing._boundary import NONE, Boundary, changed, effect, rate_after

CONTROL = Control(rtol=1e-3, atol=1e-3, order=4)


def clock(*, due, h, t=0.0):
    """Patients who know how long their next step may be."""
    h = jnp.asarray(h)
    due, t = jnp.broadcast_to(jnp.asarray(due), h.shape), jnp.broadcast_to(jnp.asarray(t), h.shape)
    started = start_clock(t, due, jnp.full(h.shape, SUCCESS), jnp.zeros(h.shape, int))
    return started._replace(h=h, fresh=jnp.zeros(h.shape, bool))


def test_steps_land_on_boundaries_and_two_that_remain_are_of_one_length():
    proposal = propose(clock(due=10.0, h=[20.0, 10.0 * (1.0 - 1e-13), 6.0, 3.0]), jnp.asarray(7.0))
    assert proposal.lands.tolist() == [True, True, False, False]
    assert proposal.h.tolist() == [10.0, 10.0, 5.0, 3.0]


def test_a_step_after_a_jump_has_the_first_length_and_one_of_a_patient_who_is_done_has_none():
    fresh = clock(due=10.0, h=[3.0])._replace(fresh=jnp.asarray([True]))
    assert propose(fresh, jnp.asarray([2.0])).h.tolist() == [2.0]
    assert propose(clock(due=jnp.inf, h=[3.0]), jnp.asarray([2.0])).h.tolist() == [0.0]


def test_a_step_is_no_longer_than_a_limit_unless_it_reaches_the_boundary_within_the_precision():
    proposal = propose(clock(due=10.0, h=[20.0, 20.0]), jnp.asarray(7.0))
    limited = proposal.limited(jnp.asarray([4.0, 9.999]), jnp.asarray(0.01))
    assert limited.h.tolist() == [4.0, 10.0]
    assert limited.lands.tolist() == [False, True]


def test_errors_decide_whether_a_step_fits_and_how_long_the_next_is():
    now = clock(due=100.0, h=[1.0, 1.0, 1.0])
    y0, y1 = jnp.ones((2, 3)), jnp.ones((2, 3)).at[0, 2].set(jnp.nan)
    error = jnp.asarray([[1e-3, 1.0, 0.0], [1e-3, 1.0, 0.0]])  # half the tolerance; 500 times; the state is lost
    judgement = judge(CONTROL, now, propose(now, jnp.zeros(3)), error, y0, y1)
    assert judgement.fits.tolist() == [True, False, False]
    assert judgement.finite.tolist() == [True, True, False]
    np.testing.assert_allclose(judgement.following, [0.9 * 0.5 ** (-1 / 4), SHRINK, SHRINK], rtol=1e-6)
    rows = judge(CONTROL, now, propose(now, jnp.zeros(3)), tuple(error), tuple(y0), tuple(y1))
    for row, array in zip(rows, judgement, strict=True):
        np.testing.assert_array_equal(row, array)


def test_a_step_that_a_boundary_clipped_does_not_shorten_the_next():
    now = clock(due=1.0, h=[50.0])
    judgement = judge(CONTROL, now, propose(now, jnp.zeros(1)), *(jnp.zeros((1, 1)) for _ in range(3)))
    assert judgement.following.tolist() == [50.0]
    exact = clock(due=100.0, h=[1.0])
    judgement = judge(CONTROL, exact, propose(exact, jnp.zeros(1)), *(jnp.zeros((1, 1)) for _ in range(3)))
    assert judgement.following.tolist() == [GROW]


@pytest.mark.parametrize(
    ("finite", "fits", "h", "following", "code"),
    [
        (True, True, 1.0, 2.0, SUCCESS),
        (True, False, 1.0, 0.2, SUCCESS),
        (True, False, 1e-17, 1e-18, STEP_TOO_SMALL),
        (False, False, 1e-17, 1e-18, NONFINITE),
        (True, True, 1e-17, 1e-16, STEP_TOO_SMALL),
    ],
)
def test_a_patient_fails_whose_steps_no_longer_move_the_time(finite, fits, h, following, code):
    now = clock(due=6.0, h=[h], t=5.0)
    judgement = Judgement(*(jnp.asarray([x]) for x in (finite, fits, following)))
    good, no = judgement.fits, jnp.zeros(1, bool)

    def after(**more):
        settings = {"good": good, "landed": no, "jumps": no, "end": now.t + h, "due": now.due, "max_steps": 9}
        return advance(now, propose(now, now.h), judgement, **settings | more)

    assert after().code.tolist() == [code]
    assert (after().accepted + after().rejected).tolist() == [1]
    assert after(bracketing=jnp.ones(1, bool)).code.tolist() == [SUCCESS]
    assert after(max_steps=1).code.tolist() == [MAX_STEPS if code == SUCCESS else code]
    landed = after(good=~no, landed=~no, due=jnp.asarray([8.0]), jumps=~no)
    assert (landed.t.tolist(), landed.due.tolist(), landed.boundary.tolist()) == ([6.0], [8.0], [1])
    assert (landed.code.tolist(), landed.fresh.tolist()) == ([SUCCESS], [True])


def test_codes_are_results():
    assert result_of(jnp.asarray(STEP_TOO_SMALL)) == RESULTS.step_too_small
    assert result_of(jnp.asarray(SUCCESS)) == RESULTS.successful


def test_boundaries_add_give_scale_and_reset():
    """One boundary per lane: a dose, a value, a factor, a reset, what is added to all, and an output."""
    y = jnp.tile(jnp.asarray([[1.0], [2.0], [4.0]]), (1, 6))
    vector = jnp.tile(jnp.asarray([[10.0], [20.0], [30.0]]), (1, 6))
    boundary = Boundary(
        time=jnp.zeros(6),
        state=jnp.asarray([0, 1, 1, NONE, NONE, NONE]),
        keep=jnp.asarray([1.0, 0.0, 0.5, 0.0, 1.0, 1.0]),
        add=jnp.asarray([5.0, 7.0, 0.0, 0.0, 0.0, 0.0]),
        vector=jnp.asarray([NONE, NONE, NONE, 0, 0, NONE]),
        rate_change=None,
        output=jnp.asarray([NONE, NONE, NONE, NONE, NONE, 0]),
    )
    expected = [
        [6.0, 1.0, 1.0, 10.0, 11.0, 1.0],
        [2.0, 7.0, 1.0, 20.0, 22.0, 2.0],
        [4.0, 4.0, 4.0, 4.0, 4.0, 4.0],  # protected
    ]
    states = jnp.arange(3)[:, None]
    np.testing.assert_array_equal(changed(y, *effect(boundary, states, states >= 2, vector)), expected)
    rows = [changed(y[i], *effect(boundary, i, i >= 2, vector[i])) for i in range(3)]
    np.testing.assert_array_equal(jnp.stack(rows), expected)
    nowhere = effect(boundary, states, states >= 2, vector, jnp.zeros(6, bool))
    np.testing.assert_array_equal(changed(y, *nowhere), y)


def test_rates_of_infusion_that_stop_are_zero():
    change = jnp.asarray([0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
    rate = jnp.zeros(2)
    for i in range(6):
        boundary = Boundary(jnp.zeros(()), jnp.asarray(1), None, jnp.zeros(()), None, change[i], jnp.asarray(NONE))
        rate = rate_after(rate, boundary, jnp.arange(2))
        np.testing.assert_allclose(rate, [0.0, np.sum(change[: i + 1])], atol=1e-15)
    assert rate.tolist() == [0.0, 0.0]
