"""Exposure from a simulation: areas, extremes and times above a level, integrated with the model.

A solution with a `source` is solved again for each question about it, with the method and the tolerances of the first
solve, whatever times it reports. Several questions about one solution are answered by one solve (`together`).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from qspjax._arrays import first_true
from qspjax._checks import check_one_of
from qspjax._lost import lost
from qspjax._model import as_state
from qspjax._solution import Solution
from qspjax._types import Observed, Scalar, State
from qspjax.solve import MatrixExponential, Rosenbrock
from qspjax.solve._exposed import AboveOf, Measures, PeakOf, TurnOf, exposed
from qspjax.solve._linear import is_linear
from qspjax.solve._posed import Packed, Posed
from qspjax.solve.dosing._schedule import slack

ACCURATE = Rosenbrock(rtol=1e-10, atol=1e-13)
"""The method for quantities of a linear model that are not linear functions of its states."""

BEFORE, AFTER = -jnp.inf, jnp.inf
"""The state that an output at the time of a dose shows: that before the dose, or that after it."""


class Area(eqx.Module):
    """The integral of an output over a window."""

    output: str = eqx.field(static=True)
    start: Scalar
    stop: Scalar


class Extreme(eqx.Module):
    """The greatest value of an output in a window and its time, or with sign -1 the least one."""

    output: str = eqx.field(static=True)
    sign: int = eqx.field(static=True)
    start: Scalar
    stop: Scalar


class Beyond(eqx.Module):
    """How long an output is above a level in a window, or with sign -1 below it."""

    output: str = eqx.field(static=True)
    sign: int = eqx.field(static=True)
    level: Scalar
    start: Scalar
    stop: Scalar


class Before(eqx.Module):
    """The value of an output at the end of a window, before any dose given at that time."""

    output: str = eqx.field(static=True)
    start: Scalar
    stop: Scalar


class At(eqx.Module):
    """The value of an output at a time, after any dose given at that time."""

    output: str = eqx.field(static=True)
    start: Scalar

    @property
    def stop(self) -> Scalar:
        """The same time."""
        return self.start


Question = Area | Extreme | Beyond | Before | At


def ask(solution: Solution, question: Question) -> PyTree:
    """Answer a question about the solution of one patient: a number, or for an `Extreme` its value and time.

    NaN where the window does not lie between the start and the last time of the solution, or the solve failed.

    Raises:
        ValueError: If the model observes nothing of that name.
    """
    source = solution.source
    if isinstance(source, _Questions):
        source.questions.append(question)
        nothing = jnp.full((), jnp.nan)
        return (nothing, nothing) if isinstance(question, Extreme) else nothing
    if isinstance(source, _Answers):
        return next(source.remaining)
    return answers(source, _last_time(solution), (question,))[0]


def together(function: Callable[[Solution], PyTree], solution: Solution) -> PyTree:
    """Return the value of a function of one patient's solution, all whose questions are answered by one solve."""
    if not isinstance(solution.source, Packed):
        return function(solution)
    collector = _Questions()
    placeholder = function(dataclasses.replace(solution, source=collector))
    if not collector.questions:
        return placeholder
    results = answers(solution.source, _last_time(solution), tuple(collector.questions))
    return function(dataclasses.replace(solution, source=_Answers(results)))


class _Questions:
    """In place of a source: collects the questions."""

    def __init__(self) -> None:
        self.questions: list[Question] = []


class _Answers:
    """In place of a source: the answers, in the order of the questions."""

    def __init__(self, answers: list) -> None:
        self.remaining = iter(answers)


def _last_time(solution: Solution) -> jax.Array:
    ts = jnp.asarray(solution.ts, float)
    return jnp.max(jnp.where(jnp.isfinite(ts), ts, -jnp.inf))


@eqx.filter_jit
def answers(source: Packed, last: jax.Array, questions: tuple[Question, ...]) -> list:
    """Answer questions about a patient who was solved up to a time, in as few solves as the method allows."""
    posed: Posed = source.value
    outputs = _outputs_of(posed)
    for question in questions:
        check_one_of("output", question.output, outputs, "an observed value")
    smooth = [isinstance(question, (Area, Before, At)) for question in questions]
    results: dict[int, PyTree] = {}
    separate = isinstance(posed.method, MatrixExponential)
    for group in (smooth, [not flag for flag in smooth]) if separate else ([True] * len(smooth),):
        indices = [i for i, flag in enumerate(group) if flag]
        if indices:
            results |= dict(zip(indices, _solved(posed, last, [questions[i] for i in indices]), strict=True))
    return [results[i] for i in range(len(questions))]


def _outputs_of(posed: Posed) -> tuple[str, ...]:
    outputs: list[PyTree] = []
    start = as_state(posed.model, posed.initial)
    jax.eval_shape(lambda y: outputs.append(tuple(posed.model.observe(jnp.zeros(()), y))), start)
    return outputs[0]


class _Window(NamedTuple):
    """The window of a question, and whether it is covered; if not, it is an empty one at the start."""

    start: jax.Array
    stop: jax.Array
    covered: jax.Array


def _window(posed: Posed, last: jax.Array, question: Question) -> _Window:
    start, stop = (jnp.asarray(time, last.dtype) for time in (question.start, question.stop))
    near = slack(jnp.maximum(jnp.abs(start), jnp.abs(stop)))
    covered = (start >= posed.t0 - near) & (stop <= last + near)
    if not isinstance(question, At):
        covered &= start < stop
    begin, end = (jnp.where(covered, jnp.maximum(time, posed.t0), posed.t0) for time in (start, stop))
    return _Window(begin, end, covered)


def _span(questions: list[Question], windows: list[_Window], output: str) -> jax.Array:
    """Return the length of the longest window of an output, 1 if there is none."""
    lengths = [
        window.stop - window.start
        for question, window in zip(questions, windows, strict=True)
        if question.output == output
    ]
    longest = jax.lax.stop_gradient(jnp.max(jnp.stack(lengths)))
    return jnp.where(longest > 0.0, longest, 1.0)


def _solved(posed: Posed, last: jax.Array, questions: list[Question]) -> list:
    """Answer questions by one solve."""
    windows = [_window(posed, last, question) for question in questions]
    extremes = {i: question for i, question in enumerate(questions) if isinstance(question, Extreme)}
    beyond = {i: question for i, question in enumerate(questions) if isinstance(question, Beyond)}
    areas = tuple(dict.fromkeys(question.output for question in questions if isinstance(question, Area)))
    turning = dict.fromkeys(question.output for question in (*extremes.values(), *beyond.values()))
    spans = {output: _span(questions, windows, output) for output in turning}
    measures = Measures(
        areas,
        tuple(TurnOf(output, span) for output, span in spans.items()),
        tuple(PeakOf(question.output, question.sign, *windows[i][:2]) for i, question in extremes.items()),
        tuple(AboveOf(question.output, question.sign, question.level) for question in beyond.values()),
    )
    sides = [(BEFORE if isinstance(question, Before) else AFTER) for question in questions]
    times = [*(window.start for window in windows), *(window.stop for window in windows)]
    jumps = _jumps(posed, windows) if extremes else jnp.zeros(0)
    course = _course(posed, measures, jnp.stack(times), jnp.asarray([AFTER] * len(sides) + sides), jumps)

    results = []
    for i, (question, window) in enumerate(zip(questions, windows, strict=True)):
        begin, end = i, len(questions) + i
        values, states = course.observed[question.output], course.states
        if isinstance(question, Area):
            area = states.areas[areas.index(question.output)]
            answer = area[end] - area[begin]
        elif isinstance(question, Beyond):
            time = states.aboves[list(beyond).index(i)].time
            answer = jnp.where(jnp.isnan(values[begin] + values[end]), jnp.nan, time[end] - time[begin])
        elif isinstance(question, (Before, At)):
            answer = values[end]
        else:
            peak = jax.tree.map(lambda leaf, end=end: leaf[end], states.peaks[list(extremes).index(i)])
            ends = (values[jnp.asarray([begin, end])], jnp.stack(window[:2]), jnp.ones(2, bool))
            inner = (peak.value[None], peak.time[None], (peak.exists > 0.0)[None])
            answer = _extreme(question.sign, window, ends, inner, course.at_jumps(question.output))
        results.append(jax.tree.map(lambda x, covered=window.covered: jnp.where(covered, x, jnp.nan), answer))
    return results


def _jumps(posed: Posed, windows: list[_Window]) -> jax.Array:
    """Return the times at which a dose is given or an infusion ends, inf for those after all windows."""
    schedule = posed.schedule
    times = schedule.start
    if schedule.stop is not None and schedule.infused is not None:
        ends = jnp.where(schedule.infused & jnp.isfinite(schedule.start), schedule.stop, jnp.inf)
        times = jnp.concatenate([times, ends])
    end = jnp.max(jnp.stack([window.stop for window in windows]))
    return jnp.where((times <= end + slack(end)) & (times >= posed.t0), times, jnp.inf)


class _Course(NamedTuple):
    """States and outputs at the requested times, and before and after each jump."""

    states: State
    observed: Observed
    jumps: jax.Array
    requested: int

    def at_jumps(self, output: str) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return an output before each jump and after it, and the times."""
        values = self.observed[output][self.requested :]
        before, after = jnp.split(values, 2)
        return before, after, self.jumps


def _course(posed: Posed, measures: Measures, times: jax.Array, sides: jax.Array, jumps: jax.Array) -> _Course:
    """Solve again, with the measures, and with outputs at some times and at jumps."""
    requested = times.size
    times = jnp.concatenate([times, jumps, jumps])
    sides = jnp.concatenate([sides, jnp.full(jumps.shape, BEFORE), jnp.full(jumps.shape, AFTER)])
    sorting = jnp.lexsort((sides, jax.lax.stop_gradient(times)))
    inverse = jnp.argsort(sorting)
    schedule = posed.schedule
    order = jnp.zeros_like(schedule.start) if schedule.order is None else schedule.order
    schedule = dataclasses.replace(schedule, order=order, output_order=sides[sorting])
    model, schedule, initial = exposed(
        posed.model, schedule, posed.initial, measures, adapts=posed.decision is not None
    )
    method = posed.method
    if isinstance(method, MatrixExponential) and (measures.turns or not is_linear(model)):
        method = ACCURATE
    max_steps = getattr(method, "max_steps", None)
    if max_steps is not None:  # events and outputs take steps of their own
        method = dataclasses.replace(method, max_steps=4 * max_steps + 64 * times.size)
    extended = dataclasses.replace(posed, method=method, model=model, schedule=schedule, initial=initial)
    solved = extended.solve(times[sorting])
    solved = solved._replace(states=jax.tree.map(lambda leaf: leaf[inverse], solved.states))
    of_model = solved._replace(states=solved.states.state)
    missed = ~posed.arrived(times, of_model) & jnp.isfinite(times)
    sources = eqx.filter(posed, eqx.is_inexact_array)
    states, observed = lost((solved.states, posed.observed(times, of_model)), missed, sources)
    return _Course(states, observed, jumps, requested)


def _extreme(sign: int, window: _Window, ends: tuple, inner: tuple, jumps: tuple) -> tuple[jax.Array, jax.Array]:
    """Return the greatest (or least) value of an output in a window, and the first time that it is reached.

    It is at an end of the window, where the slope changes sign, or on either side of a jump; the value before a jump at
    the start is outside the window.
    """
    before, after, times = jumps
    near = slack(times)
    closed = (times >= window.start - near) & (times <= window.stop + near)
    open_ = (times > window.start + near) & (times <= window.stop + near)
    columns = (ends, inner, (before, times, open_), (after, times, closed))
    values, times, inside = (jnp.concatenate(column) for column in zip(*columns, strict=True))
    signed = jnp.where(inside, sign * values, -jnp.inf)
    best = jnp.max(signed)
    first = jnp.min(jnp.where(signed == best, times, jnp.inf))
    index = first_true((signed == best) & (times == first))
    defined = ~jnp.isnan(best)
    return jnp.where(defined, values[index], jnp.nan), jnp.where(defined, times[index], jnp.nan)
