"""Networks in a problem: in its equations and observables, or before an experiment begins.

A network in the equations is a term of the model: its outputs are rules, and so are the parameters that they determine.
A network that is evaluated before an experiment is a function of the formulas that set parameters and initial values.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from qspjax._expression import Expression, as_expression, learned, substitute, symbol, symbols
from qspjax.io._issues import Issue
from qspjax.io.petab._parts import Formula, Period, Tables, Target
from qspjax.io.petab._tables import Row, TableIssues
from qspjax.io.petab.sciml._arrays import ALL
from qspjax.io.petab.sciml._hybrid import Hybrid
from qspjax.io.petab.sciml._neural_network import NeuralNetwork
from qspjax.io.petab.sciml._references import Place
from qspjax.io.petab.sciml._term import Argument, FromFile, NetworkTerm, Numbers, output_shapes
from qspjax.io.petab.sciml._weights import ARRAY, filled, settings_of
from qspjax.models import Network, Parameter


@dataclasses.dataclass(frozen=True)
class Which:
    """The number of an array, for an input with an array for each condition.

    Attributes:
        input: The id of the input.
        conditions: The number of the array by condition.
    """

    input: str
    conditions: Mapping[str, int]

    @property
    def id(self) -> str:
        """The name of the number."""
        return f"array of {self.input}"


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A network in its problem.

    Attributes:
        term: The network as a function of numbers.
        inputs: Where its inputs come from: ids of the tables, or which array of a file.
        outputs: The number of each output among all, by the ids of the tables.
    """

    term: NetworkTerm
    inputs: tuple[str | Which, ...]
    outputs: Mapping[str, int]

    def call(self, name: str, output: str, values: Mapping[str, Expression]) -> Expression:
        """Return an output as an expression, with the values of the inputs by id."""
        inputs = [values[input if isinstance(input, str) else input.id] for input in self.inputs]
        return learned(name, *(inputs or [as_expression(0.0)]), output=self.outputs[output])


def embedded(tables: Tables, hybrid: Hybrid, weights: Sequence[Row], issues: TableIssues) -> Tables:
    """Return the tables of a problem with its networks in the model and in the formulas of conditions.

    Args:
        tables: The tables without networks.
        hybrid: The networks.
        weights: The rows of the table of parameters that are weights.
        issues: Collects the issues.

    Raises:
        FileIssues: If an input has no value, a weight no array, or anything does not fit.
    """
    return _Embedding(tables, hybrid, issues).tables_with(weights)


class _Embedding:
    """Puts networks into the tables of a problem."""

    def __init__(self, tables: Tables, hybrid: Hybrid, issues: TableIssues) -> None:
        self.tables, self.hybrid, self.issues = tables, hybrid, issues
        self.parameters = frozenset(row.get("parameterId") for row in tables.parameters)
        self.targets = frozenset(target.id for target in tables.targets)
        self.assigned: dict[str, Formula | str] = {}
        self.row_of: dict[str, Row] = {}
        inputs = hybrid.references.inputs
        for row in hybrid.rows:
            id, text = row.get("targetId"), row.get("targetValue")
            if id in self.assigned:
                issues.add(row, "targetId", f"must be assigned once, but {id} is assigned again.")
            if text == ARRAY:
                value: Formula | str = ARRAY
                if id not in inputs:
                    issues.add(
                        row, "targetValue", f"must be a formula, as {id} is no input of a network, but is array."
                    )
            else:
                value = tables.in_model_ids(issues.formula(row, "targetValue"))
            self.assigned[tables.renamed.get(id, id)], self.row_of[tables.renamed.get(id, id)] = value, row
        issues.close()

    def tables_with(self, rows: Sequence[Row]) -> Tables:
        """Return the tables with the networks."""
        implicit = any(row.get("priorDistribution") for row in (*rows, *self.tables.parameters))
        settings = settings_of(rows, self.hybrid.references.weights, self.issues, implicit=implicit)
        found: dict[str, Embedded] = {}
        estimated = {}
        for id, network in self.hybrid.networks.items():
            filling = filled(id, network, settings, self.hybrid.arrays, self.hybrid.file, self.issues)
            estimated |= filling.parameters
            embedding = self._embedded(id, filling.network)
            if embedding is not None:
                found[id] = embedding
        self.issues.close()
        self._check_assigned()
        self.issues.close()
        before = {id: one for id, one in found.items() if id in self.hybrid.before}
        during = {id: one for id, one in found.items() if id not in self.hybrid.before}
        experiments, carried = self._before(before, during)
        network = self._during(during, carried)
        self.issues.close()
        used = {name for value in self.assigned.values() for name in _names(value)}
        used |= {name for target in self.tables.targets for name in _names(target.formula)}
        used |= {input for one in found.values() for input in one.inputs if isinstance(input, str)}
        return dataclasses.replace(
            self.tables,
            network=network,
            experiments=experiments,
            targets=[*self._targets(during), *self._carried_targets(carried)],
            weights=estimated,
            functions={id: one.term for id, one in before.items()},
            used=frozenset(used),
            has_priors=any(row.get("priorDistribution") for row in rows),
        )

    # --- one network ------------------------------------------------------------------------------------------------

    def _embedded(self, id: str, network: NeuralNetwork) -> Embedded | None:
        """Return a network in its problem, None if there are issues."""
        inputs: list[str | Which] = []
        arguments: list[Argument] = []
        for number, name in enumerate(network.inputs):
            argument = self._argument(id, number, name, inputs)
            if argument is None:
                return None
            arguments.append(argument)
        try:
            shapes = output_shapes(network, {i: argument.shape for i, argument in enumerate(arguments)})
        except ValueError as error:
            self._of_network(id, f"must be a network that can be computed, but: {error}")
            return None
        sizes = [math.prod(shape) for shape in shapes]
        outputs = {}
        for output, place in self.hybrid.references.outputs.items():
            if place.network == id:
                index = _flat(place, shapes)
                if index is None:
                    self._of_network(
                        id, f"must have the output that {output} names, but has outputs of shape {shapes}."
                    )
                    return None
                outputs[output] = sum(sizes[: place.argument]) + index
        term = NetworkTerm.of(network, tuple(arguments), max(len(inputs), 1), sum(sizes))
        return Embedded(term, tuple(inputs), outputs)

    def _argument(self, id: str, number: int, name: str, inputs: list[str | Which]) -> Argument | None:
        """Return where an argument comes from; what it takes is added to the inputs."""
        places = {
            input: place.index
            for input, several in self.hybrid.references.inputs.items()
            for place in several
            if place.network == id and place.argument == number
        }
        for input, index in places.items():
            if not index and (self.assigned.get(input) == ARRAY or self.hybrid.arrays.input(input)):
                return self._from_file(id, input, inputs)
            if self.assigned.get(input) == ARRAY:
                self.issues.add(self.row_of[input], "targetValue", "must be a formula for one element, but is array.")
                return None
        if not places:
            self._of_network(id, f"must have a value for its input {name}, but has none.")
            return None
        indices = {input: index or (0,) for input, index in places.items()}
        axes = {len(index) for index in indices.values()}
        if len(axes) > 1:
            self._of_network(id, f"must have elements with as many indices for input {number}, but has not.")
            return None
        shape = tuple(max(index[axis] for index in indices.values()) + 1 for axis in range(axes.pop()))
        by_index = {index: input for input, index in indices.items()}
        if len(by_index) != math.prod(shape):
            message = f"must have a value for each element of input {number}, shape {shape}, but has {len(by_index)}."
            self._of_network(id, message)
            return None
        first = len(inputs)
        inputs.extend(by_index[index] for index in np.ndindex(*shape))
        return Numbers(shape, tuple(range(first, len(inputs))))

    def _from_file(self, id: str, input: str, inputs: list[str | Which]) -> FromFile | None:
        arrays = self.hybrid.arrays.input(input)
        if not arrays:
            self._of_network(id, f"must have an array for its input {input} in a file of arrays, but has none.")
            return None
        shapes = {stored.value.shape for stored in arrays.values()}
        if len(shapes) > 1:
            self._of_network(id, f"must have arrays of one shape for {input}, but has {sorted(shapes)}.")
            return None
        contents = {stored.value.tobytes(): None for stored in arrays.values()}
        numbers = {content: i for i, content in enumerate(contents)}
        which = {condition: numbers[stored.value.tobytes()] for condition, stored in arrays.items()}
        if ALL in which:
            return FromFile(shapes.pop(), tuple(contents), None)
        inputs.append(Which(input, which))
        return FromFile(shapes.pop(), tuple(contents), len(inputs) - 1)

    def _of_network(self, id: str, message: str) -> None:
        self.issues.issues.append(Issue(self.hybrid.files[id], (), message))

    # --- what is assigned -------------------------------------------------------------------------------------------

    def _check_assigned(self) -> None:
        """Add issues of assignments to what is no input and no parameter, and of names that are unknown."""
        definition, references = self.tables.network.definition, self.hybrid.references
        known = {*definition.ids(), *self.parameters, *self.targets, *references.outputs}
        for id, formula in self.assigned.items():
            row = self.row_of[id]
            for name in sorted(_names(formula) - known):
                self.issues.add(row, "targetValue", f"must use ids of the model and of the tables, but {name} is none.")
            if id in references.inputs:
                continue
            calls = {references.outputs[name].network for name in _names(formula) & references.outputs.keys()}
            allowed = definition.parameters.keys() | (definition.species.keys() if calls <= self.hybrid.before else ())
            if id not in allowed:
                kinds = "a parameter of the model" + (", or a species" if calls <= self.hybrid.before else "")
                self.issues.add(
                    row, "targetId", f"must be an input of a network or {kinds}, but {id or 'empty'} is none."
                )
            elif id in self.parameters:
                self.issues.add(row, "targetId", f"must not be in the table of parameters too, but {id} is.")
        for output in references.outputs.keys() & {*definition.ids(), *self.parameters}:
            self.issues.of_file(
                self.hybrid.file, f"must give outputs of networks ids of their own, but {output} is none."
            )

    def _targets(self, during: Mapping[str, Embedded]) -> Iterator[Target]:
        """Yield the targets of conditions that are no inputs of networks evaluated before experiments."""
        kept = {input for one in during.values() for input in one.inputs if isinstance(input, str)}
        outputs = self.hybrid.references.outputs.keys()
        for target in self.tables.targets:
            if target.id in kept or target.id not in self.hybrid.references.inputs:
                yield dataclasses.replace(target, formula=0.0) if _names(target.formula) & outputs else target

    def _carried_targets(self, carried: Collection[str]) -> list[Target]:
        row = Row(self.hybrid.file, 0, {})
        return [Target(id, 0.0, row, "", "", first=True) for id in sorted(carried)]

    # --- before an experiment ---------------------------------------------------------------------------------------

    def _before(
        self, before: Mapping[str, Embedded], during: Mapping[str, Embedded]
    ) -> tuple[dict[str, list[Period]], set[str]]:
        """Return the periods with what networks set at their beginning, and outputs that other formulas use."""
        outputs = {output for one in before.values() for output in one.outputs}
        inputs = self.hybrid.references.inputs
        early = {
            id: as_expression(formula)
            for id, formula in self.assigned.items()
            if id not in inputs and not self._calls(formula) - self.hybrid.before
        }
        others: list[Formula | str] = [formula for id, formula in self.assigned.items() if id not in early]
        for observable in self.tables.observables.values():
            others += [observable.formula, observable.noise]
        late = {input for one in during.values() for input in one.inputs if isinstance(input, str)}
        carried = {
            name
            for formula in [*others, *(self.assigned.get(input, 0.0) for input in late)]
            for name in _names(formula) & outputs
        }
        experiments = {}
        for name, periods in self.tables.experiments.items():
            values = self._values_before(name, periods[0], before)
            new = []
            for period in periods:
                kept = {id: f for id, f in period.targets.items() if id not in inputs or id in late}
                targets = {id: _with(formula, values) for id, formula in kept.items()}
                new.append(dataclasses.replace(period, targets=targets | self._arrays_during(name, period, during)))
            new[0].targets |= {id: _with(formula, values) for id, formula in early.items()}
            new[0].targets |= {id: values[id] for id in sorted(carried) if id in values}
            experiments[name] = new
        return experiments, carried

    def _calls(self, formula: Formula | str) -> set[str]:
        outputs = self.hybrid.references.outputs
        return {outputs[name].network for name in _names(formula) & outputs.keys()}

    def _values_before(self, experiment: str, first: Period, before: Mapping[str, Embedded]) -> dict[str, Expression]:
        """Return the outputs of networks in an experiment, by id."""
        values: dict[str, Expression] = {}
        pending = dict(before)
        outputs = {output for one in before.values() for output in one.outputs}
        while pending:
            ready = {}
            for id, one in pending.items():
                inputs = {
                    input if isinstance(input, str) else input.id: self._input_before(experiment, first, id, input)
                    for input in one.inputs
                }
                if not any(symbols(value) & (outputs - values.keys()) for value in inputs.values()):
                    ready[id] = {name: substitute(value, values) for name, value in inputs.items()}
            if not ready:
                self.issues.of_file(
                    self.hybrid.file, f"must have networks without a cycle, but {', '.join(pending)} are one."
                )
                break
            for id, inputs in ready.items():
                one = pending.pop(id)
                values |= {output: one.call(id, output, inputs) for output in one.outputs}
        return values

    def _input_before(self, experiment: str, first: Period, id: str, input: str | Which) -> Expression:
        if isinstance(input, Which):
            return as_expression(float(self._which(experiment, first, input) or 0))
        if input in self.assigned:
            value = self.assigned[input]
        elif input in first.targets:
            value = first.targets[input]
        elif input in self.parameters:
            value = symbol(input)
        else:
            self._of_network(id, f"must have a value for its input {input} in experiment {experiment}, but has none.")
            value = 0.0
        return self._constant(as_expression(value), first)

    def _constant(self, value: Expression, first: Period) -> Expression:
        """Return an expression in which the numbers of the model stand in place of its parameters."""
        numbers = self.tables.network.values
        known: dict[str, Expression] = {}
        for name in symbols(value) - self.parameters:
            if name in first.targets:
                known[name] = as_expression(first.targets[name])
            elif name in numbers:
                known[name] = as_expression(float(numbers[name]))
        return substitute(value, known) if known else value

    def _which(self, experiment: str, period: Period, which: Which) -> int | None:
        """Return the number of the array of a period, None if its conditions have none; an issue at the start."""
        numbers = {which.conditions[name] for name in period.conditions if name in which.conditions}
        if len(numbers) == 1:
            return numbers.pop()
        if numbers or period is self.tables.experiments[experiment][0]:
            words = "several" if numbers else "none"
            conditions = ", ".join(period.conditions) or "no condition"
            message = f"must have one array of {which.input} for {conditions} of {experiment}, but has {words}."
            self.issues.of_file(", ".join(self.hybrid.arrays.files), message)
        return None

    # --- during an experiment ---------------------------------------------------------------------------------------

    def _arrays_during(self, experiment: str, period: Period, during: Mapping[str, Embedded]) -> dict[str, Formula]:
        """Return the numbers of the arrays that networks in the equations take in a period."""
        original = next(p for p in self.tables.experiments[experiment] if p.time == period.time)
        which = {input.id: input for one in during.values() for input in one.inputs if isinstance(input, Which)}
        found = {id: self._which(experiment, original, input) for id, input in which.items()}
        return {id: float(number) for id, number in found.items() if number is not None}

    def _during(self, during: Mapping[str, Embedded], carried: Collection[str]) -> Network:
        """Return the model with the networks that are in its equations."""
        definition = self.tables.network.definition
        inputs = [input for one in during.values() for input in one.inputs]
        values = {
            input if isinstance(input, str) else input.id: as_expression(self.assigned[input])
            if isinstance(input, str) and input in self.assigned
            else symbol(input if isinstance(input, str) else input.id)
            for input in inputs
        }
        rules = {output: one.call(id, output, values) for id, one in during.items() for output in one.outputs} | {
            id: as_expression(formula)
            for id, formula in self.assigned.items()
            if id not in self.hybrid.references.inputs and self._calls(formula) & during.keys()
        }
        needed = {name for rule in rules.values() for name in symbols(rule)} | set(carried)
        new = {id: Parameter(constant=False) for id in rules}
        new |= {id: Parameter(0.0) for id in needed - {*definition.ids(), *rules}}
        for id in needed & {input for input in inputs if isinstance(input, str)} - {*definition.ids(), *self.assigned}:
            if id not in self.parameters | self.targets:
                network = next(name for name, one in during.items() if id in one.inputs)
                self._of_network(network, f"must have a value for its input {id}, but has none.")
        if not rules and not new:
            return self.tables.network
        changed = dataclasses.replace(
            definition,
            parameters={**definition.parameters, **new},
            assignments={**definition.assignments, **rules},
            initial={id: formula for id, formula in definition.initial.items() if id not in rules},
        )
        return Network(changed, functions={id: one.term for id, one in during.items()})


def _names(formula: Formula | str) -> frozenset[str]:
    return symbols(formula) if isinstance(formula, Expression) else frozenset()


def _with(formula: Formula, values: Mapping[str, Expression]) -> Formula:
    return substitute(formula, values) if isinstance(formula, Expression) else formula


def _flat(place: Place, shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the number of an element of an output in row-major order, None if there is none."""
    if place.argument >= len(shapes):
        return None
    shape = shapes[place.argument]
    index = place.index or (0,)
    if len(index) == 1:  # an element of a vector, also of one with further axes of size 1
        return index[0] if index[0] < math.prod(shape) else None
    if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape, strict=True)):
        return None
    return int(np.ravel_multi_index(index, shape))
