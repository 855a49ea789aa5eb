"""The layout of a problem: which number of the table goes where, made once, in numpy."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from qspjax._checks import ArgumentError, check_one_of, did_you_mean, in_a_row, refuse
from qspjax._declared import declared
from qspjax._dosing._covariates import FIRST
from qspjax._expression import Expression, symbol
from qspjax._model import AbstractModel, as_state
from qspjax._names import at, names, state_names
from qspjax._simulate import observed_names
from qspjax._types import Scalar
from qspjax.fit.data._colours import Colours
from qspjax.fit.data._dependence import check_dependence
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._formula_table import AbstractFormulaTable, FormulaTable
from qspjax.fit.data._measurements import Change, Experiment, Output, passed
from qspjax.fit.data._output_data import OutputData, chosen
from qspjax.fit.data._stages import (
    NOT_PUT,
    Equilibrated,
    Stage,
    Stages,
    TimeVaryingParameter,
    begins,
    check_carried,
    lasting,
    parameters_of,
    place_of,
    windows,
)
from qspjax.models.network import Network
from qspjax.solve import AbstractMethod, MatrixExponential


@dataclasses.dataclass(frozen=True)
class Design:
    """What is laid out.

    Attributes:
        model: The typical model.
        experiments: By name.
        outputs: By name.
        free: The names of the parameters that are estimated.
        fixed: The names of the others.
        method: How to simulate.
    """

    model: AbstractModel
    experiments: Mapping[str, Experiment]
    outputs: Mapping[str, Output]
    free: Sequence[str]
    fixed: Sequence[str]
    method: AbstractMethod | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters of the fit, those that are estimated first."""
        return (*self.free, *self.fixed)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything of a problem stands.

    Attributes:
        table: Every number that depends on the parameters.
        stages: The simulations.
        rows: The measurements, output by output.
        colours: Which forward sensitivities serve which numbers.
        simulated: Which free parameters a simulation depends on, shape (parameters,).
        direct: Which free parameters the formulas of an output use, shape (outputs, parameters).
    """

    table: FormulaTable
    stages: Stages
    rows: tuple[OutputData, ...]
    colours: Colours
    simulated: Bool[np.ndarray, " parameters"]
    direct: Bool[np.ndarray, "outputs parameters"]


def layout_of(design: Design) -> Layout:
    """Lay a problem out.

    Raises:
        ValueError: If there are no data, a name is not known, or nothing depends on a parameter.
    """
    table = FormulaTable(design.parameters, defaults_of(design))
    stages, data = parts_of(design, table)
    free = table.depends()[:, : len(design.free)]
    uses = stages.uses(table)
    simulated = uses.any(axis=0) @ free
    direct = np.array([_direct(design, one, free) for one in data])
    for name, used in zip(design.free, simulated | direct.any(axis=0), strict=True):
        if not used:
            must = f"must be parameters that a measurement depends on, but no measurement depends on `{name}`."
            raise ArgumentError("parameters", must)
    return Layout(table, stages, data, Colours.of(uses, np.asarray(free.any(axis=1))), simulated, direct)


def _direct(
    design: Design, data: OutputData, free: Bool[np.ndarray, "numbers parameters"]
) -> Bool[np.ndarray, " parameters"]:
    """Return which free parameters the formulas of an output use, as far as names tell."""
    names = data.output.names()
    given = [free[np.unique(indices)].any(axis=0) for indices in data.given.values()]
    return np.asarray(np.array([[name in names for name in design.free], *given]).any(axis=0))


def parts_of(design: Design, table: AbstractFormulaTable) -> tuple[Stages, tuple[OutputData, ...]]:
    """Return simulations and measurements, with their formulas in a table that may have numbers of each experiment.

    Args:
        design: What is laid out.
        table: The table, empty.
    """
    return _Builder(design, table).parts()


def defaults_of(design: Design) -> dict[str, Scalar]:
    """Return the numbers of the model that formulas may use: those of its parameters that are none of the fit."""
    plain = {one.name: one.value for one in names(design.model) if np.ndim(one.value) == 0 and one.value is not None}
    return {name: value for name, value in plain.items() if name not in design.parameters}


class _Builder:
    """What is known of a problem while it is laid out."""

    def __init__(self, design: Design, table: AbstractFormulaTable) -> None:
        self.design, self.model, self.table = design, design.model, table
        self.experiments = [*design.experiments.values()]
        self.leaves = parameters_of(self.model)
        self.start = as_state(self.model, None)
        self.states = frozenset(state_names(self.start))
        self.observed = tuple(dict.fromkeys((*observed_names(self.model, self.start), *state_names(self.start))))
        self.set_somewhere = {name for one in self.experiments for change in _changes_of(one) for name in change.set}
        self.events = bool(declared(self.model).events())
        self.begin = [begins(one) for one in self.experiments]
        cut = self._goes_in_stages()
        self.cuts = [[change for change in one.changes if cut and self._acts(change)] for one in self.experiments]
        moving = {name for one in self.experiments for change in one.changes for name in change.set}
        self.moving = [] if cut else sorted(moving & self.leaves)

    def _acts(self, change: Change) -> bool:
        """Whether a change is one of the simulation, and not of formulas of outputs only."""
        return bool(change.put) or any(
            name in self.leaves or self._is_observed(one) for name, one in change.set.items()
        )

    def _goes_in_stages(self) -> bool:
        """Whether experiments stop at changes and go on; else parameters change while they are simulated.

        Raises:
            ValueError: If they must, but doses go on beyond changes.
        """
        changes = [change for one in self.experiments for change in one.changes if self._acts(change)]
        if not changes:
            return False
        stays = not lasting(self.model, self.experiments)
        put = any(change.put for change in changes)
        seen = any(self._is_observed(one) or "[" in name for change in changes for name, one in change.set.items())
        rests = any(np.isinf(one.measurements.time).any() for one in self.experiments)
        exact = isinstance(self.design.method, MatrixExponential)
        if stays or put or seen or rests or exact or self.events or isinstance(self.model, Network):
            check_carried(self.model, self.experiments)
            if not stays:
                must = "have boluses without a lag only in an experiment with such changes"
                refuse("regimen", must, "one with others")
            return True
        return False

    def parts(self) -> tuple[Stages, tuple[OutputData, ...]]:
        """Return simulations and measurements."""
        self._check_names()
        own = {name for name in self.set_somewhere if name in self.leaves}
        shared = {
            name: self.table.index_of_parameter(name)
            for name in self.design.parameters
            if name in self.leaves and name not in own
        }
        times, rows = self._measured()
        check_dependence(rows)
        save = self._saved(rows)
        stages = self._stages(times)
        steady = np.array([np.isinf(one.measurements.time).any() for one in self.experiments])
        settings = self.table.parameters, save, self.design.method, self._varying()
        return Stages(self.model, shared, stages, self._equilibrated(), steady, *settings), tuple(rows)

    # --- names ------------------------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        leaves = sorted(self.leaves)
        others = (*self.design.parameters, *sorted(self.set_somewhere), *self.table.individual)
        known = [*dict.fromkeys((*self.observed, *leaves, *others))]
        for name, output in self.design.outputs.items():
            columns = [column for one in self.experiments for column in one.measurements.given if column not in known]
            for used in sorted(output.names() - {"prediction"}):
                what = f"an observed value, a state or a parameter, in output `{name}`"
                check_one_of("outputs", used, [*known, *dict.fromkeys(columns)], what)
        for name, one in self.design.experiments.items():
            for used in sorted(one.names()):
                what = f"an observed value, a state or a parameter, in experiment `{name}`"
                check_one_of("experiments", used, known, what)
            for output in dict.fromkeys(one.measurements.output):
                if output not in self.design.outputs:
                    hint = did_you_mean(output, self.design.outputs)
                    must = f"name what is measured, but `{output}` of experiment `{name}` is missing in it.{hint}"
                    raise ArgumentError("outputs", f"must {must}")
            for change in _changes_of(one):
                for put in change.put:
                    if not isinstance(self.model, Network):
                        place_of(self.start, put)
                    else:
                        check_one_of("put", put, self.states, "a state")
            if one.regimen.rules or one.regimen.decision is not None:
                refuse("regimen", "have amounts that are numbers, and no rule", "one that has others")
        used = frozenset().union(
            *(output.names() for output in self.design.outputs.values()), *(one.names() for one in self.experiments)
        )
        for name in self.design.free:
            if name not in self.leaves and name not in used:
                of_model = f"a parameter of the model ({in_a_row(leaves)}) or a name in a formula"
                raise ArgumentError(
                    "parameters",
                    f"must be parameters that something depends on, {of_model}, but nothing depends on `{name}`."
                    + did_you_mean(name, leaves),
                )

    # --- measurements -----------------------------------------------------------------------------------------------

    def _measured(self) -> tuple[list[list[np.ndarray]], list[OutputData]]:
        """Return the times of each stage of each experiment, and the measurements by output."""
        most = 1 + max(map(len, self.cuts))
        times: list[list[np.ndarray]] = []
        parts: dict[str, list[tuple]] = {}
        for number, one in enumerate(self.experiments):
            data = one.measurements
            stage = np.where(np.isinf(data.time), most, passed(self.cuts[number], data.time, one.seen))
            moments, inside = np.stack([data.time, one.seen], axis=1), np.zeros(data.rows, int)
            times.append([])
            for k in range(most):
                own, inside[stage == k] = np.unique(moments[stage == k], axis=0, return_inverse=True)
                times[number].append(own)
            outputs = np.array(data.output, dtype=object)
            for name in dict.fromkeys(data.output):
                mine = outputs == name
                kept, how = chosen(self.design.outputs[name], data, mine)
                which = np.flatnonzero(mine)[kept]
                bounds = {key: column[kept] for key, column in how.items()}
                parts.setdefault(name, []).append((number, which, stage[which], inside[which], bounds))
        widths = [max((len(own[k]) for own in times), default=0) for k in range(most)]
        ends = [any(k < len(cut) for cut in self.cuts) for k in range(most)]
        offsets = np.cumsum([0, *(max(w, 1) + e for w, e in zip(widths, ends, strict=True))])
        rows = [self._rows(name, own, offsets) for name, own in parts.items()]
        rows = [one for one in rows if one.value.size]
        if not rows:
            empty = all(one.measurements.rows == 0 for one in self.experiments)
            is_now = "there are none" if empty else "all are missing or left out below the limit of quantification"
            raise ArgumentError("experiments", f"must have measurements, but {is_now}.")
        if all((one.censored & np.isinf(one.upper - one.lower)).all() for one in rows):
            raise ArgumentError(
                "experiments", "must have measurements above the limit of quantification, but all are below."
            )
        return times, rows

    def _rows(self, name: str, parts: list[tuple], offsets: np.ndarray) -> OutputData:
        output = self.design.outputs[name]
        kinds = ("experiment", "record", "place", "time", "order", "value", "side", "lower", "upper")
        columns: dict[str, list] = {key: [] for key in kinds}
        given: dict[str, list] = {}
        needed = [one for one in output.names() if one != "prediction"]
        for number, which, stage, inside, how in parts:
            one = self.experiments[number]
            data = one.measurements
            changes = passed(one.changes, data.time[which], one.seen[which])
            columns["experiment"] += [number] * len(which)
            columns["record"] += which.tolist()
            columns["place"] += (offsets[stage] + inside).tolist()
            columns["time"] += data.time[which].tolist()
            columns["order"] += one.seen[which].tolist()
            columns["value"] += data.value[which].tolist()
            for key, one_of in how.items():
                columns[key] += one_of.tolist()
            for used in needed:
                if used in data.given:
                    cells = [self.table.index_of(data.given[used][i], number) for i in which]
                elif used in self.set_somewhere:
                    cells = [self._set_at(one, number, used, int(k)) for k in changes]
                elif used in self.design.parameters and used not in self.states:
                    cells = [self.table.index_of_parameter(used)] * len(which)
                elif used in self.observed:
                    continue
                else:
                    cells = [self.table.index_of(symbol(used), number)] * len(which)
                given.setdefault(used, []).extend(cells)
        arrays = {key: np.array(values) for key, values in columns.items()}
        arrays |= {key: arrays[key].astype(int) for key in ("experiment", "record", "place", "side")}
        for used, cells in given.items():
            if len(cells) != len(arrays["value"]):
                refuse(
                    "given", f"have the column `{used}` wherever output `{name}` is measured", "without it somewhere"
                )
        return OutputData(name, output, given={key: np.array(cells) for key, cells in given.items()}, **arrays)

    def _set_at(self, one: Experiment, number: int, name: str, passed: int) -> int:
        """Return the place of what an experiment sets, after some of its changes."""
        for change in reversed([one.begin, *one.changes[:passed]]):
            if name in change.set:
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
        used = frozenset().union(*(one.output.names() - one.given.keys() for one in rows))
        return tuple(name for name in self.observed if name in used)

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stages(self, times: list[list[np.ndarray]]) -> tuple[Stage, ...]:
        most = len(times[0])
        own = sorted(name for name in self.set_somewhere if name in self.leaves)
        regimens = windows(self.experiments, self.begin, self.cuts)
        ordered = any(np.isfinite(one.seen).any() for one in self.experiments)
        current = {name: np.array([self._default(name) for _ in self.experiments]) for name in own}
        found = []
        for k in range(most):
            ends = any(k < len(cut) for cut in self.cuts)
            width = max(1, *(len(mine[k]) for mine in times)) + ends
            ts, order = np.full((2, len(self.experiments), width), np.inf)
            start = np.array(self.begin)
            puts: dict[str, np.ndarray] = {}
            later: dict[int, list] = {}
            current = {name: places.copy() for name, places in current.items()}
            for number, one in enumerate(self.experiments):
                cut = self.cuts[number]
                if k > len(cut):
                    start[number] = max([self.begin[number], *(c.at for c in cut)])
                    continue
                change = [one.begin, *cut][k]
                start[number] = self.begin[number] if k == 0 else change.at
                mine = times[number][k]
                ts[number, : len(mine)], order[number, : len(mine)] = mine.T
                if k < len(cut):
                    # events at the very time of a change come after it
                    end = cut[k].at
                    ts[number, len(mine) :] = max(np.nextafter(end, -np.inf), start[number]) if self.events else end
                for is_state, table in ((False, change.set), (True, change.put)):
                    for name, formula in table.items():
                        if not self.table.knows(formula) or self._is_observed(formula):
                            later.setdefault(number, []).append((is_state, name, formula))
                        elif is_state:
                            empty = np.full(len(self.experiments), NOT_PUT)
                            puts.setdefault(name, empty)[number] = self.table.index_of(formula, number)
                        elif name in current:
                            current[name][number] = self.table.index_of(formula, number)
            within = {name: places for name, places in current.items() if name not in self.moving}
            found.append(Stage(start, ts, order if ordered else None, within, puts, later, regimens[k]))
        return tuple(found)

    def _varying(self) -> dict[str, TimeVaryingParameter]:
        """Return the parameters of the model that change while it is simulated."""
        found = {}
        for name in self.moving:
            own = [[change for change in one.changes if name in change.set] for one in self.experiments]
            shape = len(own), max(map(len, own))
            at, order = np.full(shape, np.inf), np.full(shape, FIRST)
            places = np.zeros((shape[0], shape[1] + 1), int)
            for number, (one, changes) in enumerate(zip(self.experiments, own, strict=True)):
                places[number] = self._set_at(one, number, name, 0)
                for k, change in enumerate(changes):
                    at[number, k], order[number, k] = change.at, change.order
                    places[number, k + 1 :] = self.table.index_of(change.set[name], number)
            found[name] = TimeVaryingParameter(at, order, symbol(name), {name: places}, {})
        return found

    def _is_observed(self, formula: float | Expression) -> bool:
        """Whether a formula uses something that changes with time."""
        return bool(names_in(formula) & (self.states | (set(self.observed) - self.leaves)))

    def _equilibrated(self) -> Equilibrated | None:
        """Return the distinct conditions that experiments are equilibrated in."""
        conditions: dict[tuple, int] = {}
        of = np.full(len(self.experiments), -1)
        mine = {name for one in self.experiments if one.equilibrated for name in one.equilibrated.set}
        names = sorted(mine & self.leaves)
        put = list(dict.fromkeys(n for one in self.experiments if one.equilibrated for n in one.equilibrated.put))
        for number, one in enumerate(self.experiments):
            if one.equilibrated is None:
                continue
            own = one.equilibrated
            for formula in (*own.set.values(), *own.put.values()):
                if not self.table.knows(formula):
                    refuse("equilibrated", "have formulas over parameters only", str(formula))
            sets = tuple(self.table.index_of(own.set[n], number) if n in own.set else self._default(n) for n in names)
            puts = tuple(self.table.index_of(own.put[n], number) if n in own.put else NOT_PUT for n in put)
            of[number] = conditions.setdefault((sets, puts), len(conditions))
        if not conditions:
            return None
        keys = [*conditions]
        sets = {name: np.array([key[0][i] for key in keys]) for i, name in enumerate(names)}
        puts = {name: np.array([key[1][i] for key in keys]) for i, name in enumerate(put)}
        return Equilibrated(sets, puts, of, float(min(self.begin)))


def _changes_of(one: Experiment) -> tuple[Change, ...]:
    return (one.begin, *one.changes, *([] if one.equilibrated is None else [one.equilibrated]))
