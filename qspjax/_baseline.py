"""Baselines: the state in which the treatment of a patient begins, found once and the same in every arm."""

import abc
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._arrays import put, taken
from qspjax._checks import check_instance, concrete, refuse
from qspjax._cohort import Cohort
from qspjax._declared import assigned_parameters, declared
from qspjax._extras import require
from qspjax._lost import lost
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._solution import RESULTS, Failure, failures_of
from qspjax._text import aligned, number
from qspjax._traced import in_the_users_words
from qspjax._types import Scalar, State
from qspjax.execute import AbstractExecutor, Vmap
from qspjax.solve import AbstractMethod

if TYPE_CHECKING:
    import pandas


class Baselines(NamedTuple):
    """The baseline of a patient or, with a leading axis of patients everywhere, of many.

    Attributes:
        state: The state, in the structure of the model's; NaN where there is none.
        time: How long it took to get there, such as the time from the seed of a tumour to its diagnosis; NaN likewise.
        rightmost: The largest real part of the eigenvalues of the Jacobian at a steady state, conserved totals left
            out; NaN where the baseline is none.
        result: `RESULTS` item of each patient.
        stats: By name, per patient: the `last_time` reached, and `culprit`, the number of the state that failed.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> found = qsp.population.baselines(cohort, qsp.equilibrium.SteadyState())
        >>> found.rightmost.round(6), found.failures()
        (Array([-0.1 , -0.05], dtype=float64), [])
    """

    state: State
    time: Scalar
    rightmost: Scalar
    result: Any
    stats: dict[str, PyTree]

    @property
    def failed(self) -> jax.Array:
        """Whether each patient has no baseline, shape () or (patients,)."""
        return self.result != RESULTS.successful

    def take(self, members: np.ndarray) -> "Baselines":
        """Return the baselines of some of the patients, by their numbers."""
        return jax.tree.map(lambda leaf: taken(leaf, members), self)

    def failures(self) -> list[Failure]:
        """List the patients without a baseline, with the reason in words."""
        return failures_of(self.result, self.stats, self._names())

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per patient: `patient`, `failed`, `time`, `rightmost` and the states."""
        columns = {"failed": self.failed, "time": self.time, "rightmost": self.rightmost}
        columns = {name: np.atleast_1d(np.asarray(column)) for name, column in columns.items()}
        patients = {"patient": np.arange(columns["failed"].size)}
        return require("pandas", extra="data").DataFrame(patients | columns | self._states())

    def __str__(self) -> str:
        """Return a table of the states, the time and the eigenvalue, and how many patients failed."""
        if concrete(self.time) is None:
            return repr(self)
        columns = self._states() | {"(time)": np.asarray(self.time), "(rightmost)": np.asarray(self.rightmost)}
        rows = [["baseline", "median", "5 %", "95 %"]]
        for name, column in columns.items():
            known = column[np.isfinite(column)]
            if known.size:
                rows.append([name, *(number(np.quantile(known, q)) for q in (0.5, 0.05, 0.95))])
        return f"{int(np.sum(self.failed))} of {self.failed.size} patients without a baseline\n{aligned(rows)}"

    def _names(self) -> tuple[str, ...]:
        return state_names(self.state if self.failed.ndim == 0 else jax.tree.map(lambda leaf: leaf[0], self.state))

    def _states(self) -> dict[str, np.ndarray]:
        """Return the states by name, each of shape (patients,)."""
        leaves = [np.asarray(leaf).reshape(self.failed.size, -1) for leaf in jax.tree.leaves(self.state)]
        return dict(zip(self._names(), np.concatenate(leaves, axis=1).T, strict=True))


class AbstractBaseline(eqx.Module):
    """What the baseline of a patient is: a steady state, or the state at diagnosis.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.equilibrium.SteadyState(), qsp.population.AbstractBaseline)
        True
    """

    @abc.abstractmethod
    def of(self, model: AbstractModel, *, method: AbstractMethod | None = None) -> Baselines:
        """Return the baseline of one patient; it works under `jit`, `vmap` and `grad`.

        Args:
            model: The patient.
            method: As in `simulate`.
        """


def or_nothing(found: Baselines, *sources: PyTree) -> Baselines:
    """Return what was found of one patient, NaN where he failed, and so are its derivatives by its sources."""
    values = jax.tree.map(lambda x: jnp.where(found.failed, jnp.nan, x)[None], (found.state, found.time))
    values = lost(values, found.failed[None], eqx.filter(sources, eqx.is_inexact_array))
    state, time = jax.tree.map(lambda x: x[0], values)
    return found._replace(state=state, time=time)


class _OfPatient(eqx.Module):
    """Find the baseline of one patient given in two parts: the leaves that vary and those that are shared."""

    baseline: AbstractBaseline
    method: AbstractMethod | None

    def __call__(self, each: PyTree, shared: PyTree) -> Baselines:
        return self.baseline.of(eqx.combine(each, shared), method=self.method)


@in_the_users_words()
def baselines(
    cohort: Cohort,
    baseline: AbstractBaseline,
    *,
    method: AbstractMethod | None = None,
    executor: AbstractExecutor | None = None,
) -> Baselines:
    """Find the baselines of all patients of a cohort; a patient without one changes nothing for the others.

    Give them to `simulate_cohort` as `initial`: patients without one fail there, too, for the same reason. A `Trial`
    does so in every arm.

    Args:
        cohort: The patients.
        baseline: What the baseline is: `equilibrium.SteadyState()`, `GrowUntil("diameter", 20.0, at_most=3650.0)`.
        method: As in `simulate`.
        executor: As in `simulate_cohort`; `Stored(folder)` keeps the baselines there, and reads them when they are
            asked for again.

    Returns:
        `Baselines`, each of whose arrays has shape (patients, ...).

    Raises:
        ValueError: If a state is not all that the model remembers: it has delays, or events that come later or assign
            parameters.

    Example:
        >>> import qspjax as qsp
        >>> growth = qsp.io.read_antimony("V' = k*V; V = 1; k = 0.5")
        >>> cohort = qsp.Cohort.of(growth, {"k": [0.5, 0.25]})
        >>> found = qsp.population.baselines(cohort, qsp.population.GrowUntil("V", 10.0, at_most=100.0))
        >>> found.time.round(3)  # ln(10) / k
        Array([4.605, 9.21 ], dtype=float64)
        >>> later = qsp.simulate_cohort(cohort, qsp.no_doses(), [0.0, 2.0], initial=found)
        >>> later.observed["V"].round(3)
        Array([[10.   , 27.183],
               [10.   , 16.487]], dtype=float64)
    """
    check_instance("cohort", cohort, Cohort, "a cohort (`Population.sample` draws one, `Cohort.of` makes one)")
    check_baseline(baseline)
    executor = Vmap() if executor is None else executor
    check_instance("executor", executor, AbstractExecutor, "an executor such as Vmap() or Chunked(1024)")
    _check_memory(cohort.patient(0))
    interventions, plain = cohort.interventions(), cohort.unrecorded()
    each, shared = eqx.partition(plain.model, plain.axes_mask())
    note = "" if interventions is None else str(interventions)
    found = executor.map(_OfPatient(baseline, method), each, shared, size=cohort.size, note=note)
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else put(np.asarray(leaf)), found)


def check_baseline(baseline: object) -> None:
    """Check that an argument says what a baseline is."""
    check_instance("baseline", baseline, AbstractBaseline, "a baseline such as `equilibrium.SteadyState()`")


def _check_memory(model: AbstractModel) -> None:
    """Check that the state is all that a model remembers."""
    must = "be that of a model whose state is all it remembers"
    if declared(model).echoes().later:
        refuse("baseline", must, "that of one with delays")
    if any(event.delay is not None for event in declared(model).events()):
        refuse("baseline", must, "that of one whose events have a delay")
    if assigned := assigned_parameters(model, as_state(model, None)):
        refuse("baseline", must, f"that of one whose events assign the parameter `{assigned[0]}`")
