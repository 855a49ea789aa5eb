"""A `fit.Problem` of a network as a PEtab problem, version 2: a model in SBML, tables and a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool

from qspjax._checks import check_instance
from qspjax._dosing._regimen import Action, Parameter
from qspjax._expression import Expression, number, symbol
from qspjax._files import replaced_directory
from qspjax.fit import M1, M3, Change, Experiment, Free, Measurements, Output, Problem
from qspjax.fit.data._formula import NOW, names_in
from qspjax.fit.data._in_force import depends_on_observed, in_force
from qspjax.fit.data._measurements import FIRST
from qspjax.fit.data._output_data import chosen
from qspjax.fit.data._stages import begins
from qspjax.io._directory import check_destination
from qspjax.io.petab._write_formulas import Ids, noise_of, prior_of, refuse, text_of
from qspjax.io.sbml import write_sbml
from qspjax.models import Network

TABLES = ("parameters", "conditions", "experiments", "observables", "measurements")
FILES = ("problem.yaml", "model.xml", *(f"{name}.tsv" for name in TABLES))
"""The files that are written."""

Columns: TypeAlias = tuple[str, ...]
_COLUMNS: dict[str, Columns] = {
    "parameters": ("parameterId", "lowerBound", "upperBound", "nominalValue", "estimate")
    + ("priorDistribution", "priorParameters"),
    "conditions": ("conditionId", "targetId", "targetValue"),
    "experiments": ("experimentId", "time", "conditionId"),
    "observables": ("observableId", "observableName", "observableFormula", "noiseFormula", "noiseDistribution")
    + ("observablePlaceholders", "noisePlaceholders"),
    "measurements": ("observableId", "experimentId", "time", "measurement", "observableParameters", "noiseParameters"),
}


def write_petab(problem: Problem, folder: str | Path) -> Path:
    """Write a problem as PEtab 2: `problem.yaml`, the model in SBML, and tables.

    `read_petab` gives a problem with the same log likelihood and the same names, as far as PEtab allows them: local
    parameters of reactions become global ones (`binding.kon` is `binding_kon`), an amount or a size that is a parameter
    of the fit is called `drug_initial` or `plasma_size`, and outputs get other ids where the model uses theirs.
    Boluses become conditions that add to a species. PEtab has no search scale (positive parameters are searched on a
    logarithmic one) and truncates priors to the bounds, which adds a constant. The method and the distribution of
    starts are not written. A folder that holds such a problem is replaced at the very end.

    Args:
        problem: The problem; its model is a network.
        folder: The folder of the files.

    Returns:
        The path of the YAML file.

    Raises:
        ValueError: If PEtab cannot express something: doses other than boluses, measurements below a limit, errors
            other than normal, Laplace and log-normal ones, priors of transformed values.
        OSError: If the folder holds something else, or cannot be written.
        ImportError: If libsbml is missing (extra `sbml`).

    Reference: Schmiester et al., PLoS Comput Biol 2021;17:e1008646, doi:10.1371/journal.pcbi.1008646.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> loss = {"loss": qsp.models.Reaction("drug ->", "k * drug")}
        >>> network = qsp.models.Network(species={"drug": 9.0}, parameters={"k": 0.1}, reactions=loss)
        >>> data = Experiment(Measurements([1.0, 4.0], [8.1, 5.2], output="drug"))
        >>> problem = Problem(network, data, {"drug": Output("drug", Additive(0.5))}, {"k": Free(0.1)})
        >>> path = qsp.io.write_petab(problem, pathlib.Path(tempfile.mkdtemp()) / "petab")
        >>> print((path.parent / "observables.tsv").read_text().splitlines()[1].split())
        ['drug_measured', 'drug', 'drug', '0.5', 'normal']
        >>> again = qsp.io.read_petab(path)
        >>> bool(abs(again.log_likelihood(again.start) - problem.log_likelihood(problem.start)) < 1e-9)
        True
    """
    check_instance("problem", problem, Problem, "a Problem")
    network = problem.model
    if not isinstance(network, Network):
        check_instance("problem.model", network, Network, "a network (models.Network)")
        raise AssertionError("unreachable")
    path = check_destination(folder, FILES, FILES)
    for block in problem.weights.blocks:
        refuse("have numbers only", f"the weights of `{block.name}` are estimated")
    writer = _Writer(problem, network)
    tables = writer.tables()
    model = write_sbml(writer.network)

    def write(directory: Path) -> None:
        (directory / "model.xml").write_text(model, encoding="utf-8", newline="\n")
        for name, rows in tables.items():
            lines = ["\t".join(row) for row in (_COLUMNS[name], *rows)]
            (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        yaml = ["format_version: 2.0.0", "model_files:", "  model:", "    location: model.xml", "    language: sbml"]
        yaml += [f"{name.removesuffix('s')}_files:\n- {name}.tsv" for name in TABLES if tables[name]]
        (directory / "problem.yaml").write_text("\n".join(yaml) + "\n", encoding="utf-8", newline="\n")

    replaced_directory(path, write)
    return path / "problem.yaml"


class _Writer:
    """The ids of a problem in the files, and the rows of the tables."""

    def __init__(self, problem: Problem, network: Network) -> None:
        """Assign the ids.

        A parameter of the model that an experiment sets must not be in the table of parameters: if it is also one of
        the fit, that of the model gets another id, and every experiment sets it.
        """
        self.problem, self.model, self.ids = problem, network, Ids()
        self.definition = network.definition
        self.leaves, self.states = {*network.values}, {*network.plan.states}
        self.moving = self.states | ({*self.definition.ids()} - self.leaves)
        meaning = {"kept": problem.parameters, "numbers": network.values, "observed": self.moving}
        self.experiments = {
            name: in_force(experiment, begins(experiment), **meaning)
            for name, experiment in problem.experiments.items()
        }
        changes = [change for experiment in problem.experiments.values() for change in _all_changes(experiment)]
        regimens = {name for experiment in problem.experiments.values() for name in experiment.regimen.parameters}
        self.set_somewhere = {name for change in changes for name in change.set} | regimens
        split = {id for id in self.set_somewhere & problem.parameters.keys() if id in self.leaves}
        self.model_id = {id: self.ids.new(f"{id}_in_model" if id in split else id) for id in self.definition.ids()}
        self.set_id = {id: self.model_id[id] for id in self.definition.parameters if id in self.leaves}
        self.network = network.rename({id: new for id, new in self.model_id.items() if id != new})
        numbers = {*problem.parameters, *self.set_somewhere} & self.leaves
        for id in (id for id in network.values if id in numbers and id not in self.definition.parameters):
            self._begin_with_parameter(id)
        self.set_id |= {name: self.ids.new(name) for name in sorted(self.set_somewhere - self.leaves)}
        self.table_id = {
            name: self.set_id[name] if name in self.leaves and name not in split else self.ids.new(name)
            for name in problem.parameters
        }
        self.split = {id: self.table_id[id] for id in sorted(split)}
        self.output_id = {
            name: self.ids.new(f"{name}_measured" if name in self.model_id.values() else name)
            for name in problem.outputs
        }
        self.rows: dict[str, list[Columns]] = {name: [] for name in TABLES}
        self.used: set[str] = set()
        self.placeholders: dict[str, tuple[dict[str, str], list[str], list[str]]] = {}

    def _begin_with_parameter(self, id: str) -> None:
        """Let a species or a compartment begin with a parameter, which PEtab may set and estimate."""
        if id in self.definition.participants:
            refuse("have no stoichiometry as a parameter of the fit", f"`{id}` is one")
        new = self.model_id[id]
        species = self.definition.species.get(id)
        self.set_id[id] = name = self.ids.new(f"{id}_{'size' if species is None else 'initial'}")
        compartment = "" if species is None else self.definition.compartment_of(id)
        amount = species is not None and species.is_amount and not self.definition.in_amount(id)
        size = symbol(self.model_id[compartment]) if amount and compartment in self.definition.compartments else None
        if species is not None and not species.is_amount and self.definition.in_amount(id):
            refuse("have species with an initial amount where their symbols are amounts", f"`{id}` has a concentration")
        formula = symbol(name) if size is None else symbol(name) / size
        value = self.model.values[id]
        self.network = self.network.add(parameters={name: float(value)}).replace(new, initial=formula)

    # --- tables -----------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, list[Columns]]:
        """Return the rows of all tables."""
        for name, output in self.problem.outputs.items():
            self._observable(name, output)
        for name, experiment in self.experiments.items():
            self._experiment(self.ids.new(name), name, experiment)
        numbers = {**self.problem.free, **self.problem.fixed}
        for name in self.problem.parameters:
            self._parameter(name, numbers[name])
        return self.rows

    def _parameter(self, name: str, parameter: Free | float) -> None:
        id = self.table_id[name]
        if not isinstance(parameter, Free):
            if name in self.leaves or id in self.used:
                self.rows["parameters"].append((id, "", "", repr(float(parameter)), "false", "", ""))
            return
        kind, numbers, low, high = prior_of(name, parameter)
        bounds = (repr(float(low)), repr(float(high)))
        numbers = ";".join(repr(float(x)) for x in numbers)
        self.rows["parameters"].append((id, *bounds, repr(parameter.start), "true", kind, numbers))

    def _table(self, name: str) -> str:
        self.used.add(self.table_id[name])
        return self.table_id[name]

    def _observable(self, name: str, output: Output) -> None:
        tables = [experiment.measurements for experiment in self.problem.experiments.values()]
        columns = {column for table in tables for column in table.given}
        placeholders = {column: f"{column}_of_{self.output_id[name]}" for column in sorted(columns & output.names())}
        placeholders = {column: self.ids.new(id) for column, id in placeholders.items()}

        def meaning(used: str) -> str:
            if used in placeholders:
                return placeholders[used]
            if used in self.set_somewhere and used in self.set_id:
                return self.set_id[used]
            if used in self.problem.parameters and used not in self.states:
                return self._table(used)
            return self.model_id[used]

        noise, kind = noise_of(name, output)
        of_observable = [
            placeholders[column] for column in sorted(placeholders) if column in names_in(output.prediction)
        ]
        of_noise = [
            placeholders[column] for column in sorted(placeholders) if placeholders[column] not in of_observable
        ]
        self.placeholders[name] = placeholders, of_observable, of_noise
        formulas = text_of(output.prediction, meaning), text_of(noise, meaning)
        row = (self.output_id[name], name, *formulas, kind, ";".join(of_observable), ";".join(of_noise))
        self.rows["observables"].append(row)

    def _experiment(self, id: str, name: str, experiment: Experiment) -> None:
        start, doses = begins(experiment), _doses(name, experiment)
        times = sorted({start, *(change.at for change in experiment.changes), *doses})
        if times[0] < start:
            refuse("have doses after the start of an experiment", f"`{name}` has one at {times[0]:g}")
        if experiment.equilibrated is not None:
            targets = {self.set_id[leaf]: table for leaf, table in self.split.items()}
            targets |= self._targets(experiment.equilibrated.set, experiment.equilibrated.put, first=True)
            self._period(id, "-inf", targets)
        for time in times:
            first = experiment.equilibrated is None and time == start
            sets: dict[str, float | Expression] = {}
            puts: dict[str, float | Expression] = {}
            targets = {}
            if time == start:
                targets = {self.set_id[leaf]: self._table(leaf) for leaf in self.split}
                before = {} if experiment.equilibrated is None else experiment.equilibrated.set
                targets |= {self.set_id[leaf]: self._default(leaf) for leaf in before if leaf not in self.split}
                sets, puts = dict(experiment.begin.set), dict(experiment.begin.put)
            for change in experiment.changes:
                if change.at == time:
                    self._check_together(name, change, sets, puts)
                    sets, puts = {**sets, **change.set}, {**puts, **change.put}
            targets |= self._targets(sets, puts, first=first)
            for kind, target, amount in doses.get(time, ()):
                if kind == Action.SET:
                    targets[self.set_id[target]] = repr(amount)
                else:
                    state = self.model_id[target]
                    targets[state] = (
                        f"{targets.get(state) or self._before(target, first)} + {self._added(target, amount, first)}"
                    )
            self._period(id, repr(time), targets)
        self._measurements(id, experiment)

    def _check_together(
        self, name: str, change: Change, sets: Mapping[str, object], puts: Mapping[str, object]
    ) -> None:
        """Refuse formulas over what others at the same time have changed: PEtab applies all of them at once."""
        used = {used for used in change.names() if used in self.moving or used.endswith(NOW)}
        if used and (puts or (sets and (used - self.states or sets.keys() & self.definition.compartments))):
            must = "have no change of observed values after another one at the same time"
            refuse(must, f"`{name}` has one at {change.at:g}")

    def _period(self, id: str, time: str, targets: Mapping[str, str]) -> None:
        condition = self.ids.new(f"{id}_at_{time}") if targets else ""
        self.rows["experiments"].append((id, time, condition))
        self.rows["conditions"] += [(condition, target, value) for target, value in targets.items()]

    def _targets(
        self, sets: Mapping[str, float | Expression], puts: Mapping[str, float | Expression], *, first: bool
    ) -> dict[str, str]:
        values = {self.set_id[name]: self._value(formula, first) for name, formula in sets.items()}
        return values | {self.model_id[name]: self._value(formula, first) for name, formula in puts.items()}

    def _value(self, formula: float | Expression, first: bool) -> str:
        """Return a formula over parameters of the fit and numbers of the model, or values observed at that time."""
        problem = self.problem
        is_observed = depends_on_observed(formula, self.moving - problem.parameters.keys())
        if is_observed and first:
            refuse("begin with formulas over parameters", f"an experiment begins with `{formula}`")

        def meaning(used: str) -> str | Expression:
            if used in problem.parameters:
                return self._table(used)
            return self.model_id[used.removesuffix(NOW)] if is_observed else number(float(self.model.values[used]))

        return text_of(formula, meaning)

    def _default(self, leaf: str) -> str:
        return self._table(leaf) if leaf in self.table_id else repr(float(self.model.values[leaf]))

    def _before(self, species: str, first: bool) -> str:
        """Return the value of a species before a dose."""
        if not first:
            return self.model_id[species]
        if species in self.set_id:
            id = self.table_id.get(species, self.set_id[species])
            if id not in self.table_id.values():
                refuse("give a dose at the start where the amount before it is known", f"`{species}` is set")
            self.used.add(id)
            return f"{id} / {self._size(species, first)}" if self._is_divided(species) else id
        model = self.model
        if species in self.definition.initial:
            refuse(
                "give a dose at the start where the amount before it is a number", f"that of `{species}` is a formula"
            )
        return repr(float(model.observe(0.0, model.initial())[species]))

    def _is_divided(self, species: str) -> bool:
        compartment = self.definition.compartment_of(species)
        return not self.definition.in_amount(species) and compartment in self.definition.compartments

    def _added(self, species: str, amount: float, first: bool) -> str:
        return f"{amount!r} / {self._size(species, first)}" if self._is_divided(species) else repr(amount)

    def _size(self, species: str, first: bool) -> str:
        compartment = self.definition.compartment_of(species)
        if not first:
            return self.model_id[compartment]
        if compartment in self.table_id:
            return self._table(compartment)
        if compartment not in self.leaves or compartment in self.set_somewhere:
            refuse(
                "give a dose at the start into a compartment whose size is a number", f"that of `{compartment}` is none"
            )
        return repr(float(self.model.values[compartment]))

    def _measurements(self, id: str, experiment: Experiment) -> None:
        data = experiment.measurements
        if not np.isposinf(data.order).all() or any(change.order != FIRST for change in experiment.changes):
            refuse("have measurements that come after all else of their time", "some come before")
        outputs = np.array(data.output, dtype=object)
        for name in dict.fromkeys(data.output):
            self._measured(id, data, name, outputs == name)

    def _measured(self, id: str, data: Measurements, name: str, rows: Bool[np.ndarray, " rows"]) -> None:
        output = self.problem.outputs[name]
        if output.below is not None and not isinstance(output.below, (M1, M3)):
            refuse("have no limit of quantification", f"`{name}` has one ({type(output.below).__name__})")
        used, limits = chosen(output, data, rows, id)
        if limits["side"][used].any():
            refuse("have no measurements below or above a limit", f"`{name}` has some")
        placeholders, of_observable, of_noise = self.placeholders[name]
        column = {id: column for column, id in placeholders.items()}
        for i in np.flatnonzero(rows)[used]:
            cells = [
                ";".join(self._value(data.given[column[id]][i], first=True) for id in ids if column[id] in data.given)
                for ids in (of_observable, of_noise)
            ]
            time, value = repr(float(data.time[i])), repr(float(data.value[i]))
            self.rows["measurements"].append((self.output_id[name], id, time, value, *cells))


def _all_changes(experiment: Experiment) -> list[Change]:
    begin = [experiment.begin, *experiment.changes]
    return begin if experiment.equilibrated is None else [*begin, experiment.equilibrated]


def _doses(name: str, experiment: Experiment) -> dict[float, list[tuple[Action, str, float]]]:
    """Return the doses and the settings at each time."""
    regimen = experiment.regimen
    doses: dict[float, list[tuple[Action, str, float]]] = {}
    if regimen.rules or regimen.decision is not None or regimen.static_shape.steady:
        refuse("have boluses of known amounts", f"`{name}` has doses by rules or at steady state")
    columns = (np.asarray(x) for x in (regimen.time, regimen.kind, regimen.index, regimen.amount))
    for time, kind, index, amount in zip(*columns, strict=True):
        if not np.isfinite(time):
            continue
        if kind not in (Action.BOLUS, Action.SET):
            refuse("have boluses only", f"`{name}` has {Action(int(kind)).phrase} at {time:g}")
        target = regimen.targets[index]
        target = target.name if isinstance(target, Parameter) else target
        if not isinstance(target, str):
            refuse("give doses to species by their names", f"`{name}` gives one to {target}")
        doses.setdefault(float(time), []).append((Action(int(kind)), target, float(amount)))
    return doses
