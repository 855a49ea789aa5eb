"""The formulas of changes over what is in force at their time: earlier values take the place of the names they set."""

from collections.abc import Collection, Mapping

from qspjax._expression import Expression, as_expression, number, substitute, symbol
from qspjax._expression._tree import rebuilt
from qspjax._types import Scalar
from qspjax.fit.data._formula import NOW, names_in
from qspjax.fit.data._measurements import Change, Experiment

Formulas = Mapping[str, float | Expression]


def in_force(
    experiment: Experiment,
    start: float,
    *,
    kept: Collection[str],
    numbers: Mapping[str, Scalar],
    observed: Collection[str],
) -> Experiment:
    """Return an experiment whose changes have formulas without names that earlier changes set, and without time.

    A value that follows from observed ones is known only while the experiment is simulated: its name ends in `NOW`.

    Args:
        experiment: The experiment.
        start: When it begins.
        kept: The names that stand for something else: parameters of the fit, numbers of individuals.
        numbers: The numbers of the model that formulas may use.
        observed: The names whose values change while it is simulated.
    """
    begin = previous = _resolved(experiment.begin, {}, start)
    values: dict[str, float | Expression] = {}
    changes = []
    for change in experiment.changes:
        values |= {name: _value(name, formula, numbers, observed) for name, formula in previous.set.items()}
        usable = {name: value for name, value in values.items() if name not in kept and name not in observed}
        previous = _resolved(change, {} if change.typical else usable, change.at)
        changes.append(previous)
    if all(new is old for new, old in zip([begin, *changes], [experiment.begin, *experiment.changes], strict=True)):
        return experiment
    return experiment.changed(begin=begin, changes=changes)


def depends_on_observed(formula: float | Expression, observed: Collection[str]) -> bool:
    """Return whether a formula uses something that changes with time."""
    return any(name in observed or name.endswith(NOW) for name in names_in(formula))


def _value(
    name: str, formula: float | Expression, numbers: Mapping[str, Scalar], observed: Collection[str]
) -> float | Expression:
    """Return what stands for a name in later formulas; numbers of the model are those before any change."""
    if not isinstance(formula, Expression):
        return formula
    if depends_on_observed(formula, observed):
        return symbol(name + NOW)
    return substitute(formula, {used: numbers[used] for used in names_in(formula) & numbers.keys()})


def _resolved(change: Change, values: Formulas, time: float) -> Change:
    def resolved(formulas: Formulas) -> dict[str, float | Expression]:
        return {name: _at_time(_substituted(formula, values), time) for name, formula in formulas.items()}

    sets, puts = resolved(change.set), resolved(change.put)
    if all(sets[name] is value for name, value in change.set.items()) and all(
        puts[name] is value for name, value in change.put.items()
    ):
        return change
    return Change(change.at, set=sets, put=puts, order=change.order, typical=change.typical)


def _substituted(formula: float | Expression, values: Formulas) -> float | Expression:
    used = names_in(formula) & values.keys()
    return substitute(as_expression(formula), {name: values[name] for name in used}) if used else formula


def _at_time(formula: float | Expression, time: float) -> float | Expression:
    """Return the formula that another one is at a time."""
    if not isinstance(formula, Expression):
        return formula
    return rebuilt([formula], lambda part: number(time) if part.op == "time" else None)[0]
