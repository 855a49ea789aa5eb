"""What a simulation returns: times, observed values, states, and how the solve of each patient ended."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from qspjax._checks import check_names, check_one_of, concrete, in_a_row
from qspjax._extras import require
from qspjax._interventions import Interventions
from qspjax._made import made
from qspjax._model import Units
from qspjax._names import leaf_names, state_names
from qspjax._tables import ByName, ParameterTable
from qspjax._text import aligned, number
from qspjax._types import Observed, State, Times

if TYPE_CHECKING:
    import pandas
    import xarray


class RESULTS(eqx.Enumeration):
    """How a solve ended; each item says what happened and what to change.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(100.0, to="central"), [1.0])
        >>> bool(solution.result == qsp.RESULTS.successful)
        True
    """

    successful = ""
    max_steps_reached = "The maximum number of solver steps was reached. Try increasing `max_steps`."
    state_nonfinite = (
        "The model or a dose gave NaN or infinity and smaller steps did not help. Look at the named state: a "
        "logarithm, root, power or division of a value that reached zero is the usual cause, then a parameter out of "
        "its range."
    )
    step_too_small = (
        "The step size shrank to rounding error. The solution may grow without bound, or the vector field may jump: "
        "look at the named state, or loosen `rtol` and `atol` on the method."
    )
    events_unsettled = (
        "The events at one moment did not come to an end, or more changes wait than `pending` of an event allows. Look "
        "for events that trigger each other in a circle, or raise `pending`."
    )
    algebraic_unsolved = (
        "The equations of the algebraic states have no solution near the values they had before: at the start, or "
        "after a dose, an event or a change of a parameter. Look at the equation of the named state and at what it is "
        "a function of, or give the model an initial state closer to a solution."
    )
    steady_state_not_found = (
        "No steady state of the doses was found. The doses may reach what the patient can eliminate, or nothing may be "
        "eliminated, so that the named state accumulates without bound: lower the dose, or look at the elimination. "
        "Inside `jit`, more than four earlier doses may still run or be on their way."
    )
    not_at_rest = (
        "The model has not come to a steady state yet. Continue from another `initial` state, raise `max_steps` on the "
        "method, or look for a state that never stops changing."
    )
    interrupted = "The solve was interrupted (Ctrl-C) before it came to its end."
    oscillates = (
        "The model oscillates and comes to no steady state. Simulate it over its period instead, or change the "
        "parameters."
    )
    unstable = (
        "The steady state is unstable: an eigenvalue of the Jacobian has a positive real part, so that the least "
        "disturbance leads away from it. Start from another initial state of the model, such as one with some disease."
    )
    not_diagnosed = (
        "The disease did not reach the level of diagnosis in time. Raise `at_most`, or look at what holds the growth "
        "of the named state."
    )


_MAX_SHOWN = 12
"""Maximum number of observed values that are shown by default."""


class Failure(NamedTuple):
    """A patient that failed: which, why, the last time reached, and the state at fault."""

    patient: int
    reason: str
    time: float
    state: str


def failures_of(result: RESULTS, stats: Mapping[str, PyTree], states: Sequence[str]) -> list[Failure]:
    """List the patients that failed, with the reason in words; the names are those of all states."""
    failed = np.atleast_1d(result != RESULTS.successful)
    times, culprits = (np.atleast_1d(stats[key]) for key in ("last_time", "culprit"))
    items = jax.tree.map(jnp.atleast_1d, result)
    return [
        Failure(
            int(i), RESULTS[jax.tree.map(lambda code, i=i: code[i], items)], float(times[i]), states[int(culprits[i])]
        )
        for i in np.flatnonzero(failed)
    ]


def _by_name(values: Observed) -> Observed:
    """Return observed values as a table that knows its names."""
    return ByName(values) if type(values) is dict else values


class Solution(eqx.Module):
    """The solution of a simulation, of one patient or, with a leading axis of patients everywhere, of many.

    Attributes:
        ts: Times, shape (times,) or (patients, times).
        observed: Observed values by name, each of shape (times,) or (patients, times); NaN after a failure.
        states: States as the model has them, each leaf with leading axes like `observed`; None if not kept.
        result: `RESULTS` item of each patient.
        stats: By name, per patient: `steps` and `rejected` steps, `last_time` reached, and `culprit`, the number of the
            state that failed (of the worst error, or the first that was not finite).
        reduced: What `reduce` returned for each patient, else None.
        labels: Names and units for tables and pictures.
        source: What it takes to solve again, at other times or for an exposure; None for a solution of many patients,
            or one made by hand, of which only the samples are known.
        interventions: What `do` set of the model or the patients; None if nothing.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(100.0, to="central"), [0.0, 10.0])
        >>> solution.observed["concentration"].round(3), solution.states.central.round(2), solution.failures()
        (Array([3.333, 1.226], dtype=float64), Array([100.  ,  36.79], dtype=float64), [])
    """

    ts: Times
    observed: Observed = eqx.field(converter=_by_name)
    states: State
    result: Any
    stats: dict[str, PyTree]
    reduced: PyTree
    labels: "Labels" = eqx.field(static=True)
    source: PyTree = None
    interventions: Interventions | None = None

    @classmethod
    def of(
        cls, ts: Times, outcome: "Outcome", labels: "Labels", source: PyTree, interventions: Interventions | None
    ) -> "Solution":
        """Return the solution of an outcome."""
        fields = {"ts": ts, **outcome._asdict(), "labels": labels, "source": source, "interventions": interventions}
        return made(cls, fields | {"observed": _by_name(outcome.observed)})

    @property
    def failed(self) -> Bool[Array, "*patients"]:
        """Whether each patient failed, shape () or (patients,)."""
        return self.result != RESULTS.successful

    def failures(self) -> list[Failure]:
        """List the patients that failed, with the reason in words."""
        return failures_of(self.result, self.stats, self.labels.states)

    def to_xarray(self) -> "xarray.Dataset":
        """Return observed values and states as a dataset with dimensions `time`, or `patient` and `time`."""
        xarray = require("xarray", extra="data")
        columns = self._columns()
        single = self.result_ndim() == 0
        dims: tuple[str, ...] = ("time",) if single else ("patient", "time")
        data: dict[str, object] = {
            name: (dims, value, {"units": self.labels.unit(name)}) for name, value in columns.items()
        }
        if self.ts.ndim == 1:
            coords: dict[str, object] = {"time": ("time", np.asarray(self.ts), {"units": self.labels.units.time})}
        else:
            coords = {"time_of_patient": (dims, np.asarray(self.ts), {"units": self.labels.units.time})}
        attributes = {"method": self.labels.method}
        if self.interventions is not None:
            attributes["interventions"] = str(self.interventions)
        if not single:
            data["failed"] = (("patient",), np.asarray(self.failed), {})
            coords["patient"] = np.arange(np.asarray(self.failed).size)
        return xarray.Dataset(data, coords=coords, attrs=attributes)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per time (and patient): `patient`, `time`, observed values and states."""
        pandas = require("pandas", extra="data")
        columns = self._columns()
        if self.result_ndim() == 0:
            return pandas.DataFrame({"time": np.asarray(self.ts), **columns})
        patients = np.asarray(self.failed).size
        ts = np.broadcast_to(np.asarray(self.ts), (patients, self.ts.shape[-1]))
        real = np.isfinite(ts).ravel()
        table = {"patient": np.repeat(np.arange(patients), ts.shape[1]), "time": ts.ravel()}
        table |= {name: value.ravel() for name, value in columns.items()}
        return pandas.DataFrame({name: value[real] for name, value in table.items()})

    def main(self) -> tuple[str, ...]:
        """Return the names of observed values that pictures and tables show by default.

        All of them where there are few; of a large network those that are states, not every constant and flux.
        """
        names = tuple(self.observed)
        states = tuple(name for name in names if name in self.labels.states)
        return states if len(names) > _MAX_SHOWN and states else names

    def result_ndim(self) -> int:
        """Return 0 for one patient, 1 for many."""
        return np.ndim(self.stats["steps"])

    def __str__(self) -> str:
        """Say what is in the solution, how it was solved and how many patients failed."""
        if concrete(self.stats["steps"]) is None:
            return eqx.tree_pformat(self)
        names = in_a_row(dict.fromkeys([*self.main(), *self.labels.kept_states]), _MAX_SHOWN) or "no trajectories"
        shape = " x ".join(map(str, np.broadcast_shapes(np.shape(self.stats["steps"]) + (1,), self.ts.shape)))
        steps = np.asarray(self.stats["steps"])
        failed = int(np.sum(np.asarray(self.failed)))
        head = (
            f"Solution of {names} at {shape} times; {self.labels.method}; "
            f"{steps.mean():.0f} steps on average, {steps.max()} at most; {failed} of {steps.size} failed"
        )
        if self.interventions is not None:
            head += f"; {self.interventions}"
        return f"{head}\n{self._numbers()}" if self.observed else head

    def _numbers(self) -> str:
        """Return a table of the main observed values: units, and numbers of the median patient."""
        rows = [["" if self.result_ndim() == 0 else "median patient", "unit", "first", "last", "least", "greatest"]]
        ends = np.maximum(np.isfinite(np.asarray(self.ts)).sum(axis=-1) - 1, 0)
        for name in self.main():
            values = np.asarray(self.observed[name])
            last = np.take_along_axis(values, np.broadcast_to(ends, values.shape[:-1])[..., None], axis=-1)
            least, greatest = np.fmin.reduce(values, axis=-1), np.fmax.reduce(values, axis=-1)
            cells = [number(_middle(each)) for each in (values[..., 0], last, least, greatest)]
            rows.append([name, self.labels.unit(name), *cells])
        return aligned(rows, most=_MAX_SHOWN)

    __repr__ = __str__

    def _columns(self) -> dict[str, np.ndarray]:
        columns = {name: np.asarray(value) for name, value in self.observed.items()}
        lead = self.result_ndim() + 1
        flat = [np.asarray(leaf).reshape(*np.shape(leaf)[:lead], -1) for leaf in jax.tree.leaves(self.states)]
        values = (column for leaf in flat for column in np.moveaxis(leaf, -1, 0))
        return columns | {
            name: value for name, value in zip(self.labels.kept_states, values, strict=True) if name not in columns
        }


def _middle(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if defined.size else np.nan


class Labels(NamedTuple):
    """The static side of a solution: names, units, and the method in words."""

    states: tuple[str, ...]
    kept_states: tuple[str, ...]
    units: Units
    method: str

    def unit(self, name: str) -> str:
        """Return the unit of an observed value or a state."""
        return self.units.observed.get(name) or self.units.of_state(name)


class Outcome(NamedTuple):
    """The computed parts of a `Solution`: the result of solving one patient, or of many, stacked."""

    observed: Observed
    states: State
    result: Any
    stats: dict[str, PyTree]
    reduced: PyTree

    @property
    def failed(self) -> Bool[Array, "*patients"]:
        """Whether each patient failed."""
        return self.result != RESULTS.successful


class Save(NamedTuple):
    """Which observed values and which leaves of the state to keep."""

    observed: tuple[str, ...]
    leaves: tuple[bool, ...]
    states: tuple[str, ...]

    @classmethod
    def of(cls, requested: Sequence[str] | None, observed: tuple[str, ...], state: State) -> "Save":
        """Sort the names that the user gave into observed values and states; None keeps everything."""
        by_leaf = leaf_names(state)
        known = dict.fromkeys((*observed, *state_names(state)))
        names = dict.fromkeys(known if requested is None else check_names("save", requested))
        for name in names:
            if name not in known:
                check_one_of("save", name, known, "observed values or states")
        leaves = tuple(any(name in names for name in leaf) for leaf in by_leaf)
        states = tuple(name for leaf, is_kept in zip(by_leaf, leaves, strict=True) if is_kept for name in leaf)
        return cls(tuple(name for name in observed if name in names), leaves, states)

    def keep(self, observed: Observed, states: State) -> tuple[Observed, State]:
        """Return what is kept of the observed values and the states; a leaf that is not kept becomes None."""
        leaves, structure = jax.tree.flatten(states)
        saved = [leaf if is_kept else None for leaf, is_kept in zip(leaves, self.leaves, strict=True)]
        states = jax.tree.unflatten(structure, saved) if any(self.leaves) else None
        if isinstance(observed, ParameterTable):
            return observed.select(self.observed), states
        return {name: observed[name] for name in self.observed}, states
