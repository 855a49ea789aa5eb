"""Multiple shooting: experiments cut into segments that are simulated side by side, each from a state of its own.

    y_k(t_k) = s_k,   y_{k-1}(t_k) = s_k

The states s_k at the cuts are estimated with everything else, and what is left of continuity is measured to be zero,
ever more precisely. Short simulations neither go astray nor lose their gradients, however wrong a network is at first.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._declared import declared
from qspjax._expression import Expression
from qspjax._model import as_state
from qspjax._names import state_names
from qspjax._transform import Identity
from qspjax.fit._free import Free
from qspjax.fit._problem import Problem
from qspjax.fit.data._measurements import Experiment, Measurements, Output
from qspjax.fit.errors._continuous import Additive
from qspjax.fit.search._estimate import Fit
from qspjax.fit.training._curriculum import Emphasis
from qspjax.fit.training._curves import Curves, infusing

TARGET = "start_of_the_next_segment"
"""The column of a measurement that holds the state with which the next segment begins."""


@dataclasses.dataclass(frozen=True, eq=False)
class MultipleShooting:
    """A problem cut into segments, each with an initial state of its own, whether that is observed or not.

    Each experiment is cut at times of its measurements, into segments with about as many of them. `problem` is a
    problem like any other: its experiments are the segments with the doses inside them, its parameters those of the
    whole and the states at the cuts. These begin where the data have them: of all states that agree with the smoothed
    data, they are those nearest to a simulation at the start of the whole problem. What continuity lacks is one more
    output for each state, `(y(t_k) - s_k) / size`, measured to be 0 with a standard deviation of 1, to which a training
    gives ever more weight (`emphasis`). From where that ends, `starts`, the whole problem goes on.

    Args:
        whole: The problem.
        segments: The number of segments of each experiment.

    Raises:
        ValueError: If the model has events, delays or lagged doses, experiments have changes, or none can be cut.

    Reference: Bock and Plitt, IFAC Proc 1984;17:1603, doi:10.1016/S1474-6670(17)61205-9; Turan and Jaeschke, IEEE
    Control Syst Lett 2022;6:1897, doi:10.1109/LCSYS.2021.3135835 (neural ordinary differential equations).

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Descent, Experiment, Free, Measurements, MultipleShooting, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0, 12.0], [9.1, 6.6, 4.6, 3.0], output="c")
        >>> whole = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0), "V": Free(30.0)},
        ... )
        >>> shooting = MultipleShooting(whole, segments=2)
        >>> method = Descent(curriculum=[shooting.emphasis(steps=100)], max_steps=200)
        >>> shooting.problem.names
        ('CL', 'V', 'central_0_1')
    """

    whole: Problem
    segments: int = 2

    def __post_init__(self) -> None:
        check_instance("whole", self.whole, Problem, "a Problem")
        check_whole("segments", self.segments, 2)
        model = self.whole.model
        known, echoes = declared(model), declared(model).echoes()
        if known.events() or echoes.later:
            refuse("whole", "have a model without events and delays to be cut into segments", "one that has some")
        if any(np.any(np.asarray(delivery.lag) != 0.0) for delivery in known.deliveries().values()):
            refuse("whole", "have doses without a lag to be cut into segments", "one that has some")
        for name, experiment in self.whole.experiments.items():
            if experiment.changes:
                refuse(
                    "whole", "have no changes within experiments to be cut into segments", f"one with some in `{name}`"
                )
        if not any(len(cuts) for cuts in self.cuts):
            refuse("segments", "be fewer than the times of measurements of some experiment", self.segments)

    @cached_property
    def cuts(self) -> tuple[Float[np.ndarray, " cuts"], ...]:
        """The times at which each experiment is cut."""
        return tuple(_cuts(experiment, self.segments) for experiment in self.whole.experiments.values())

    @cached_property
    def states(self) -> tuple[str, ...]:
        """The names of the states."""
        return state_names(as_state(self.whole.model, None))

    @cached_property
    def _begun(self) -> tuple[list[Float[np.ndarray, "cuts states"]], Float[np.ndarray, " states"]]:
        """The states at the cuts that are nearest to the data, and the size of each state."""
        states, times = np.asarray(Curves.of(self.whole).states), self.whole.layout.stages.times
        known = np.isfinite(times)
        sizes = np.max(np.where(known[..., None], np.abs(states), 0.0), axis=(0, 1), initial=0.0)
        sizes = np.where(sizes > 0.0, sizes, 1.0)
        begun = [
            np.stack([states[number, np.argmin(np.abs(times[number] - cut))] for cut in cuts] or [sizes])
            for number, cuts in enumerate(self.cuts)
        ]
        return begun, sizes

    @cached_property
    def problem(self) -> Problem:
        """The problem of all segments."""
        whole, (begun, sizes) = self.whole, self._begun
        experiments: dict[str, Experiment] = {}
        starts: dict[str, Free] = {}
        for number, (title, experiment) in enumerate(whole.experiments.items()):
            cuts = self.cuts[number]
            for k in range(len(cuts) + 1):
                put = (
                    {name: f"{float(sizes[j])!r} * {_own(name, number, k)}" for j, name in enumerate(self.states)}
                    if k
                    else {}
                )
                for j, name in enumerate(self.states if k else ()):
                    start = float(begun[number][k - 1, j] / sizes[j])
                    lower = 0.0 if start >= 0.0 else -np.inf
                    starts[_own(name, number, k)] = Free(start, bounds=(lower, np.inf), transform=Identity())
                ends = {
                    name: f"{float(sizes[j])!r} * {_own(name, number, k + 1)}" for j, name in enumerate(self.states)
                }
                first, last = ([-np.inf, *cuts][k], [*cuts, np.inf][k])
                segment = _segment(experiment, first, last, put, ends if k < len(cuts) else {})
                experiments[f"{title}, segment {k + 1}"] = segment
        gaps = {
            _gap(name): Output(f"({name} - {TARGET}) / {float(sizes[j])!r}", Additive(sd=1.0))
            for j, name in enumerate(self.states)
        }
        numbers = {name: value for name, value in whole.parameters.items() if name in whole.free}
        others = {name: value for name, value in whole.parameters.items() if name not in whole.free}
        return Problem(
            whole.model,
            experiments,
            {**whole.outputs, **gaps},
            {**numbers, **starts, **others},
            method=whole.method,
            gradient=whole.gradient,
            functions=whole.functions,
            penalties=whole.penalties,
        )

    def emphasis(self, *, first: float = 100.0, last: float = 1e5, steps: int) -> Emphasis:
        """Return how continuity counts ever more in a training.

        Args:
            first: Its factor at the first step: 100 for ten per cent of the size of a state.
            last: Its factor in the end.
            steps: The number of steps between.
        """
        return Emphasis([_gap(name) for name in self.states], first=first, last=last, steps=steps)

    def starts(self, fit: Fit) -> Float[np.ndarray, "starts parameters"]:
        """Return the points of the whole problem at which trainings of the segments have ended, the best first.

        Args:
            fit: The result of `estimate(shooting.problem, ...)`.

        Raises:
            ValueError: If it is that of another problem.
        """
        if fit.problem is not self.problem:
            refuse("fit", "be that of the problem of these segments", "that of another one")
        numbers = fit.points[:, : len(self.whole.free)]
        return np.concatenate([numbers, self.problem.split(jnp.asarray(fit.points))[1]], axis=1)


def _own(state: str, experiment: int, segment: int) -> str:
    """Return the name of the state with which a segment begins."""
    return f"{''.join(c if c.isalnum() else '_' for c in state)}_{experiment}_{segment}"


def _gap(state: str) -> str:
    """Return the name of the output that says what continuity lacks."""
    return f"continuity of {state}"


def _cuts(experiment: Experiment, segments: int) -> Float[np.ndarray, " cuts"]:
    """Return the times between which an experiment has about as many times of measurements, none in an infusion."""
    data, regimen = experiment.measurements, experiment.regimen
    times = np.unique(data.time[np.isfinite(data.time)])
    begin = 0.0 if experiment.start is None else experiment.start
    allowed = (times > max(begin, times.min(initial=np.inf))) & ~infusing(regimen, times)
    places = np.unique(np.round(np.linspace(0, len(times), segments + 1)[1:-1]).astype(int))
    return np.array([times[place] for place in places if place < len(times) and allowed[place]])


def _segment(
    experiment: Experiment, first: float, last: float, put: Mapping[str, str], ends: Mapping[str, str]
) -> Experiment:
    """Return an experiment between two times, which begins in a state of its own, and has an end to be continued."""
    data, regimen = experiment.measurements, experiment.regimen
    inside = (data.time >= first) & ((data.time < last) | np.isinf(last))
    columns: dict[str, list[float | Expression | str]] = {
        name: [value for value, keep in zip(column, inside, strict=True) if keep] for name, column in data.given.items()
    }
    for name, column in columns.items():
        column += [data.given[name][0]] * len(ends)
    columns[TARGET] = [*([0.0] * int(inside.sum())), *ends.values()]
    bare = [np.full(len(ends), value) for value in (last, 0.0, 0, np.nan, np.nan, np.inf)]
    kept = (data.time, data.value, data.side, data.lower, data.upper, data.order)
    time, value, side, lower, upper, order = (np.concatenate([k[inside], b]) for k, b in zip(kept, bare, strict=True))
    outputs = [name for name, keep in zip(data.output, inside, strict=True) if keep]
    outputs += [_gap(name) for name in ends]
    measured = Measurements(
        time, value, output=outputs, censored=side, lower=lower, upper=upper, given=columns, order=order
    )
    times = jnp.where((regimen.time >= first) & (regimen.time < last), regimen.time, jnp.inf)
    return Experiment(
        measured,
        eqx.tree_at(lambda r: r.time, regimen, times),
        set=experiment.begin.set,
        put={**(experiment.begin.put if np.isinf(first) else {}), **put},
        equilibrated=experiment.equilibrated if np.isinf(first) else None,
        start=experiment.start if np.isinf(first) else float(first),
        optional=experiment.optional,
    )
