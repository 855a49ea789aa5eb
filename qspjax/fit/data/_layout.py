"""The layout of a problem: indices into the table of its numbers, made once, in numpy."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Real

from qspjax._checks import ArgumentError, check_one_of, did_you_mean, in_a_row, refuse
from qspjax._declared import declared
from qspjax._dosing._covariates import FIRST
from qspjax._expression import Expression, check_constants, check_function_names, known_functions, misuses, symbol
from qspjax._model import AbstractModel, as_state
from qspjax._names import at, names, state_names
from qspjax._simulate import observed_names
from qspjax._types import Scalar
from qspjax.fit._weights import Blocks
from qspjax.fit.data._colours import Colours
from qspjax.fit.data._dependence import check_dependence
from qspjax.fit.data._formula import NOW, called_by, names_in
from qspjax.fit.data._formula_table import AbstractFormulaTable, FormulaTable
from qspjax.fit.data._in_force import depends_on_observed, in_force
from qspjax.fit.data._measurements import Change, Experiment, Output, passed
from qspjax.fit.data._output_data import OutputData, chosen, joined
from qspjax.fit.data._stages import (
    NOT_PUT,
    Equilibrated,
    Stage,
    Stages,
    TimeVaryingParameter,
    begins,
    check_carried,
    doses_outlast_stages,
    leaf_and_element,
    parameters_of,
    windows,
)
from qspjax.models.network import Network
from qspjax.solve import AbstractMethod, MatrixExponential


@dataclasses.dataclass(frozen=True)
class Design:
    """The parts of a problem that are laid out.

    Attributes:
        model: The typical model.
        experiments: The experiments by name.
        outputs: The outputs by name.
        free: The names of the parameters that are estimated.
        fixed: The names of the others.
        method: How to simulate.
        weights: The weights that are estimated.
    """

    model: AbstractModel
    experiments: Mapping[str, Experiment]
    outputs: Mapping[str, Output]
    free: Sequence[str]
    fixed: Sequence[str]
    method: AbstractMethod | None
    weights: Blocks

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters of the fit, those that are estimated first."""
        return (*self.free, *self.fixed)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A problem as arrays: the table of its numbers, simulations and measurements.

    Attributes:
        table: Every number that depends on the parameters.
        stages: The simulations.
        rows: The measurements, output by output.
        of_table: Groups of numbers of the table that share a forward sensitivity.
        simulated: Which free parameters a simulation depends on, shape (parameters,).
        direct: Which free parameters the formulas of an output use, shape (outputs, parameters).
    """

    table: FormulaTable
    stages: Stages
    rows: tuple[OutputData, ...]
    of_table: Colours
    simulated: Bool[np.ndarray, " parameters"]
    direct: Bool[np.ndarray, "outputs parameters"]

    def where_measured(self, observed: Mapping[str, Real[Array, "experiments times"]]) -> dict[str, Array]:
        """Return observed values, with 0 at the times that pad them: no measurement refers to these."""
        if not observed:
            return {}
        measured = np.zeros(next(iter(observed.values())).shape, bool)
        for data in self.rows:
            measured[data.experiment, data.place] = True
        return {name: jnp.where(measured, value, 0.0) for name, value in observed.items()}

    @property
    def directions(self) -> int:
        """Along how many directions simulations would be differentiated forwards."""
        return len(self.of_table.groups) + int(self.stages.weights.of_model.sum())

    @functools.cached_property
    def colours(self) -> Colours:
        """Groups of numbers that share a forward sensitivity; each weight of the model has one of its own."""
        return self.of_table.with_more(self.stages.weights.of_model)

    @functools.cached_property
    def joined(self) -> tuple[OutputData, ...]:
        """The measurements, those with errors of one kind together."""
        return joined(self.rows)


def layout_of(design: Design) -> Layout:
    """Lay a problem out.

    Raises:
        ValueError: If there are no data, a name is unknown, or nothing depends on a parameter.
    """
    functions = design.weights.functions
    table = FormulaTable(design.parameters, numbers_of(design.model, design.parameters), functions)
    stages, data = parts_of(design, table)
    free = table.depends()[:, : len(design.free)]
    uses = stages.uses(table)
    simulated = uses.any(axis=0) @ free
    direct = np.array([_direct(design, output, free) for output in data])
    for name, used in zip(design.free, simulated | direct.any(axis=0), strict=True):
        if not used:
            must = f"must be parameters that a measurement depends on, but no measurement depends on `{name}`."
            raise ArgumentError("parameters", must)
    varies = np.asarray(free.any(axis=1)) | table.calls(design.weights.learned)
    return Layout(table, stages, data, Colours.of(uses, varies), simulated, direct)


def _direct(
    design: Design, data: OutputData, free: Bool[np.ndarray, "numbers parameters"]
) -> Bool[np.ndarray, " parameters"]:
    """Return which free parameters the formulas of an output use, by their names."""
    names = data.output.names()
    columns = [free[np.unique(indices)].any(axis=0) for indices in data.given.values()]
    return np.asarray(np.array([[name in names for name in design.free], *columns]).any(axis=0))


def parts_of(design: Design, table: AbstractFormulaTable) -> tuple[Stages, tuple[OutputData, ...]]:
    """Return simulations and measurements; their formulas go to a table that may have numbers for each experiment.

    Args:
        design: The parts of the problem.
        table: The table, empty.
    """
    return _Builder(design, table).parts()


def numbers_of(model: AbstractModel, parameters: Collection[str]) -> dict[str, Scalar]:
    """Return the numbers of a model that formulas may use: its parameters that are not parameters of the fit."""
    plain = {
        parameter.name: parameter.value
        for parameter in names(model)
        if np.ndim(parameter.value) == 0 and parameter.value is not None
    }
    return {name: value for name, value in plain.items() if name not in parameters}


class _Builder:
    """The state of a layout under construction."""

    def __init__(self, design: Design, table: AbstractFormulaTable) -> None:
        self.design, self.model, self.table = design, design.model, table
        self.leaves = parameters_of(self.model)
        self.start = as_state(self.model, None)
        self.states = frozenset(state_names(self.start))
        self.observed = tuple(dict.fromkeys((*observed_names(self.model, self.start), *state_names(self.start))))
        self.moving = self.states | (set(self.observed) - self.leaves)
        self.set_somewhere = {
            name
            for experiment in design.experiments.values()
            for change in _changes_of(experiment)
            for name in change.set
        }
        self._check_names()
        self._check_calls()
        self.begin = [begins(experiment) for experiment in design.experiments.values()]
        meaning = {"kept": self._own_names(), "numbers": table.defaults, "observed": self.moving}
        pairs = zip(design.experiments.values(), self.begin, strict=True)
        self.experiments = [in_force(experiment, start, **meaning) for experiment, start in pairs]
        self._check_formulas()
        self.events = bool(declared(self.model).events())
        cut = self._goes_in_stages()
        self.cuts = [
            [change for change in experiment.changes if cut and self._acts(change)] for experiment in self.experiments
        ]
        time_varying = {name for experiment in self.experiments for change in experiment.changes for name in change.set}
        self.time_varying = [] if cut else sorted(time_varying & self.leaves)

    def _acts(self, change: Change) -> bool:
        """Return whether a change affects the simulation, and not only formulas of outputs."""
        return bool(change.put) or any(
            name in self.leaves or self._is_observed(formula) for name, formula in change.set.items()
        )

    def _goes_in_stages(self) -> bool:
        """Return whether simulations stop at changes and go on; otherwise parameters change within a simulation.

        Raises:
            ValueError: If they must stop, but doses go on beyond changes.
        """
        changes = [change for experiment in self.experiments for change in experiment.changes if self._acts(change)]
        if not changes:
            return False
        within_stages = not doses_outlast_stages(self.model, self.experiments)
        put = any(change.put for change in changes)
        observed = any(
            self._is_observed(formula) or "[" in name for change in changes for name, formula in change.set.items()
        )
        reaches_steady_state = any(np.isinf(experiment.measurements.time).any() for experiment in self.experiments)
        exact = isinstance(self.design.method, MatrixExponential)
        if (
            within_stages
            or put
            or observed
            or reaches_steady_state
            or exact
            or self.events
            or isinstance(self.model, Network)
        ):
            check_carried(self.model, self.experiments)
            if not within_stages:
                must = "have boluses without a lag only in an experiment with such changes"
                refuse("regimen", must, "one with others")
            return True
        return False

    def parts(self) -> tuple[Stages, tuple[OutputData, ...]]:
        """Return simulations and measurements."""
        individual = {name for name in self.set_somewhere if name in self.leaves}
        shared = {
            name: self.table.index_of_parameter(name)
            for name in self.design.parameters
            if name in self.leaves and name not in individual
        }
        times, rows = self._measured()
        check_dependence(rows)
        save = self._saved(rows)
        stages = self._stages(times)
        steady = np.array([np.isinf(experiment.measurements.time).any() for experiment in self.experiments])
        settings = self.table.parameters, save, self.design.method, self._varying()
        weights = self.design.weights
        return Stages(self.model, shared, stages, self._equilibrated(), steady, *settings, weights), tuple(rows)

    # --- names ------------------------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        leaves = sorted(self.leaves)
        others = (*self.design.parameters, *sorted(self.set_somewhere), *self.table.individual)
        known = [*dict.fromkeys((*self.observed, *leaves, *others))]
        for name, output in self.design.outputs.items():
            columns = [
                column
                for experiment in self.design.experiments.values()
                for column in experiment.measurements.given
                if column not in known
            ]
            check_constants("outputs", {*known, *columns}, output.formulas())
            for used in sorted(output.names() - {"prediction"}):
                expected = f"an observed value, a state or a parameter, in output `{name}`"
                check_one_of("outputs", used, [*known, *dict.fromkeys(columns)], expected)
        for name, experiment in self.design.experiments.items():
            check_constants("experiments", known, experiment.formulas())
            for used in sorted(experiment.names()):
                expected = f"an observed value, a state or a parameter, in experiment `{name}`"
                check_one_of("experiments", used, known, expected)
            for output in dict.fromkeys(experiment.measurements.output):
                if output not in self.design.outputs:
                    hint = did_you_mean(output, self.design.outputs)
                    must = f"name what is measured, but `{output}` of experiment `{name}` is missing in it.{hint}"
                    raise ArgumentError("outputs", f"must {must}")
            for change in _changes_of(experiment):
                for put in change.put:
                    if not isinstance(self.model, Network):
                        leaf_and_element(self.start, put)
                    else:
                        check_one_of("put", put, self.states, "a state")
            if experiment.regimen.rules or experiment.regimen.decision is not None:
                refuse("regimen", "have amounts that are numbers, and no rule", "one that has others")
        used = frozenset().union(
            *(output.names() for output in self.design.outputs.values()),
            *(experiment.names() for experiment in self.design.experiments.values()),
        )
        settable = [*leaves, *sorted(used - self.leaves - self.moving - {"prediction"})]
        for name, experiment in self.design.experiments.items():
            for key in dict.fromkeys(key for change in _changes_of(experiment) for key in change.set):
                if key not in experiment.optional:
                    by_put = "; `put` sets states" if key in self.states else ""
                    expected = f"a parameter of the model or a name in a formula{by_put}, in experiment `{name}`"
                    check_one_of("set", key, settable, expected)
        for name in self.design.free:
            if name not in self.leaves and name not in used:
                of_model = f"a parameter of the model ({in_a_row(leaves)}) or a name in a formula"
                raise ArgumentError(
                    "parameters",
                    f"must be parameters that something depends on, {of_model}, but nothing depends on `{name}`."
                    + did_you_mean(name, leaves),
                )

    def _check_calls(self) -> None:
        functions, design = self.design.weights.functions, self.design
        check_function_names("functions", functions, {*self.leaves, *self.moving, *design.parameters})
        owners = [
            *(("outputs", formula) for output in design.outputs.values() for formula in output.formulas()),
            *(
                ("experiments", formula)
                for experiment in design.experiments.values()
                for formula in experiment.formulas()
            ),
        ]
        for argument, formula in owners:
            for misuse in misuses(formula, functions) if isinstance(formula, Expression) else ():
                hints = [did_you_mean(name, [*functions, *known_functions()]) for name in called_by(formula)]
                raise ArgumentError(argument, misuse + next(filter(None, hints), ""))
        called = called_by(*(formula for _, formula in owners))
        for name in functions:
            if name not in called:
                refuse("functions", "be called by formulas", f"`{name}`, which none calls")

    def _own_names(self) -> frozenset[str]:
        """Return the names that mean the same in all formulas."""
        return frozenset(self.table.parameters) | self.table.individual

    def _check_formulas(self) -> None:
        known = self._own_names() | self.table.defaults.keys() | self.moving
        for name, experiment in zip(self.design.experiments, self.experiments, strict=True):
            for change in (experiment.begin, *experiment.changes):
                for key, formula in (*change.set.items(), *change.put.items()):
                    for used in sorted(names_in(formula) - known):
                        if not used.endswith(NOW):
                            must = f"have a value for `{used}` by time {change.at:g}, for the formula of `{key}`"
                            raise ArgumentError("experiments", f"must {must}, but `{name}` has none.")
                    if key in change.set and key not in self.leaves and self._is_observed(formula):
                        must = f"set parameters of the model where observed values are used ({formula})"
                        refuse("experiments", must, f"one that sets `{key}`")

    # --- measurements -----------------------------------------------------------------------------------------------

    def _measured(self) -> tuple[list[list[np.ndarray]], list[OutputData]]:
        """Return the times of each stage of each experiment, and the measurements by output."""
        n_stages = 1 + max(map(len, self.cuts))
        times: list[list[np.ndarray]] = []
        parts: dict[str, list[tuple]] = {}
        for number, (title, experiment) in enumerate(self.design.experiments.items()):
            data = experiment.measurements
            stage = np.where(np.isinf(data.time), n_stages, passed(self.cuts[number], data.time, experiment.seen))
            moments, positions = np.stack([data.time, experiment.seen], axis=1), np.zeros(data.rows, int)
            times.append([])
            for k in range(n_stages):
                distinct, positions[stage == k] = np.unique(moments[stage == k], axis=0, return_inverse=True)
                times[number].append(distinct)
            outputs = np.array(data.output, dtype=object)
            for name in dict.fromkeys(data.output):
                is_output = outputs == name
                included, censoring = chosen(self.design.outputs[name], data, is_output, title)
                records = np.flatnonzero(is_output)[included]
                bounds = {key: column[included] for key, column in censoring.items()}
                parts.setdefault(name, []).append((number, records, stage[records], positions[records], bounds))
        widths = [max((len(by_stage[k]) for by_stage in times), default=0) for k in range(n_stages)]
        ends = [any(k < len(cut) for cut in self.cuts) for k in range(n_stages)]
        offsets = np.cumsum([0, *(max(w, 1) + e for w, e in zip(widths, ends, strict=True))])
        rows = [self._rows(name, pieces, offsets) for name, pieces in parts.items()]
        rows = [output for output in rows if output.value.size]
        if not rows:
            empty = all(experiment.measurements.rows == 0 for experiment in self.experiments)
            is_now = "there are none" if empty else "all are missing or left out below the limit of quantification"
            raise ArgumentError("experiments", f"must have measurements, but {is_now}.")
        if all((output.censored & np.isinf(output.upper - output.lower)).all() for output in rows):
            raise ArgumentError(
                "experiments", "must have measurements above the limit of quantification, but all are below."
            )
        return times, rows

    def _rows(self, name: str, parts: list[tuple], offsets: np.ndarray) -> OutputData:
        output = self.design.outputs[name]
        kinds = ("experiment", "record", "place", "time", "order", "value", "side", "lower", "upper")
        columns: dict[str, list] = {key: [] for key in kinds}
        given: dict[str, list] = {}
        needed = sorted(output.names() - {"prediction"})
        for number, records, stage, positions, censoring in parts:
            experiment = self.experiments[number]
            data = experiment.measurements
            changes = passed(experiment.changes, data.time[records], experiment.seen[records])
            columns["experiment"] += [number] * len(records)
            columns["record"] += records.tolist()
            columns["place"] += (offsets[stage] + positions).tolist()
            columns["time"] += data.time[records].tolist()
            columns["order"] += experiment.seen[records].tolist()
            for key, column in censoring.items():
                columns[key] += column.tolist()
            for used in needed:
                if used in data.given:
                    cells = [self.table.index_of(data.given[used][i], number) for i in records]
                elif used in self.set_somewhere:
                    cells = [self._set_at(experiment, number, used, int(k)) for k in changes]
                elif used in self.design.parameters and used not in self.states:
                    cells = [self.table.index_of_parameter(used)] * len(records)
                elif used in self.observed:
                    continue
                else:
                    cells = [self.table.index_of(symbol(used), number)] * len(records)
                given.setdefault(used, []).extend(cells)
        arrays = {key: np.array(values) for key, values in columns.items()}
        arrays |= {key: arrays[key].astype(int) for key in ("experiment", "record", "place", "side")}
        for used, cells in given.items():
            if len(cells) != len(arrays["value"]):
                refuse(
                    "given", f"have the column `{used}` wherever output `{name}` is measured", "without it somewhere"
                )
        own = {key: np.array(cells) for key, cells in given.items()}
        return OutputData(name, output, given=own, members=(), **arrays)

    def _set_at(self, experiment: Experiment, number: int, name: str, passed: int) -> int:
        """Return the index of the value that an experiment has set after some of its changes."""
        for change in reversed([experiment.begin, *experiment.changes[:passed]]):
            if name in change.set:
                if self._is_observed(change.set[name]):
                    must = f"use nothing that a change sets by observed values, as they do `{name}`"
                    raise ArgumentError("outputs", f"must {must}, to `{change.set[name]}`.")
                return self.table.index_of(change.set[name], number)
        return self._default(name)

    def _default(self, name: str) -> int:
        if name in self.design.parameters:
            return self.table.index_of_parameter(name)
        if name not in self.leaves:
            refuse(name, "be set in all experiments, or be a parameter", "set in some experiments only")
        return self.table.index_of(symbol(name) if "[" not in name else self._element(name))

    def _element(self, name: str) -> float:
        return float(at(self.model, name).get())

    def _saved(self, rows: list[OutputData]) -> tuple[str, ...]:
        used = frozenset().union(*(data.output.names() - data.given.keys() for data in rows))
        return tuple(name for name in self.observed if name in used)

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stages(self, times: list[list[np.ndarray]]) -> tuple[Stage, ...]:
        n_stages = len(times[0])
        individual = sorted(name for name in self.set_somewhere if name in self.leaves)
        regimens = windows(self.experiments, self.begin, self.cuts)
        ordered = any(np.isfinite(experiment.seen).any() for experiment in self.experiments)
        current = {name: np.array([self._default(name) for _ in self.experiments]) for name in individual}
        stages = []
        for k in range(n_stages):
            ends = any(k < len(cut) for cut in self.cuts)
            width = max(1, *(len(by_stage[k]) for by_stage in times)) + ends
            ts, order = np.full((2, len(self.experiments), width), np.inf)
            start = np.array(self.begin)
            puts: dict[str, np.ndarray] = {}
            later: dict[int, list] = {}
            current = {name: indices.copy() for name, indices in current.items()}
            for number, experiment in enumerate(self.experiments):
                cut = self.cuts[number]
                if k > len(cut):
                    start[number] = max([self.begin[number], *(c.at for c in cut)])
                    continue
                change = [experiment.begin, *cut][k]
                start[number] = self.begin[number] if k == 0 else change.at
                moments = times[number][k]
                ts[number, : len(moments)], order[number, : len(moments)] = moments.T
                if k < len(cut):
                    # events at the very time of a change come after it
                    end = cut[k].at
                    ts[number, len(moments) :] = max(np.nextafter(end, -np.inf), start[number]) if self.events else end
                for is_state, table in ((False, change.set), (True, change.put)):
                    for name, formula in table.items():
                        if self._is_observed(formula):
                            later.setdefault(number, []).append((is_state, name, formula))
                            if name in current:
                                current[name][number] = NOT_PUT
                        elif is_state:
                            empty = np.full(len(self.experiments), NOT_PUT)
                            puts.setdefault(name, empty)[number] = self.table.index_of(formula, number)
                        elif name in current:
                            current[name][number] = self.table.index_of(formula, number)
            sets = {name: indices for name, indices in current.items() if name not in self.time_varying}
            stages.append(Stage(start, ts, order if ordered else None, sets, puts, later, regimens[k]))
        return tuple(stages)

    def _varying(self) -> dict[str, TimeVaryingParameter]:
        """Return the parameters of the model that change while it is simulated."""
        varying = {}
        for name in self.time_varying:
            by_experiment = [
                [change for change in experiment.changes if name in change.set] for experiment in self.experiments
            ]
            shape = len(by_experiment), max(map(len, by_experiment))
            at, order = np.full(shape, np.inf), np.full(shape, FIRST)
            indices = np.zeros((shape[0], shape[1] + 1), int)
            for number, (experiment, changes) in enumerate(zip(self.experiments, by_experiment, strict=True)):
                indices[number] = self._set_at(experiment, number, name, 0)
                for k, change in enumerate(changes):
                    at[number, k], order[number, k] = change.at, change.order
                    indices[number, k + 1 :] = self.table.index_of(change.set[name], number)
            varying[name] = TimeVaryingParameter(at, order, symbol(name), {name: indices}, {})
        return varying

    def _is_observed(self, formula: float | Expression) -> bool:
        """Return whether a formula uses something that changes with time."""
        return depends_on_observed(formula, self.moving)

    def _equilibrated(self) -> Equilibrated | None:
        """Return the distinct conditions in which experiments are equilibrated."""
        conditions: dict[tuple, int] = {}
        of = np.full(len(self.experiments), -1)
        set_names = {
            name for experiment in self.experiments if experiment.equilibrated for name in experiment.equilibrated.set
        }
        names = sorted(set_names & self.leaves)
        put = list(
            dict.fromkeys(
                n for experiment in self.experiments if experiment.equilibrated for n in experiment.equilibrated.put
            )
        )
        for number, experiment in enumerate(self.experiments):
            if experiment.equilibrated is None:
                continue
            condition = experiment.equilibrated
            for formula in (*condition.set.values(), *condition.put.values()):
                if not self.table.knows(formula):
                    refuse("equilibrated", "have formulas over parameters only", str(formula))
            sets = tuple(
                self.table.index_of(condition.set[n], number) if n in condition.set else self._default(n) for n in names
            )
            puts = tuple(self.table.index_of(condition.put[n], number) if n in condition.put else NOT_PUT for n in put)
            of[number] = conditions.setdefault((sets, puts), len(conditions))
        if not conditions:
            return None
        keys = [*conditions]
        sets = {name: np.array([key[0][i] for key in keys]) for i, name in enumerate(names)}
        puts = {name: np.array([key[1][i] for key in keys]) for i, name in enumerate(put)}
        return Equilibrated(sets, puts, of, float(min(self.begin)))


def _changes_of(experiment: Experiment) -> tuple[Change, ...]:
    return (
        experiment.begin,
        *experiment.changes,
        *([] if experiment.equilibrated is None else [experiment.equilibrated]),
    )
