"""Rules, initial assignments and events."""

from typing import TYPE_CHECKING

from qspjax._expression import Expression, symbols
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import add_at
from qspjax.io.sbml._math import Mathematics
from qspjax.io.sbml._parts import Ids, each
from qspjax.models.network import NetworkEvent

if TYPE_CHECKING:
    import libsbml

MOST_ALGEBRAIC = 200
"""The maximum number of algebraic rules; to find their variables takes a time that grows with the third power."""


class Rules:
    """The rules and initial assignments of a model; those without mathematics have no effect.

    Attributes:
        assignments: The values of ids at all times.
        rates: The slopes of ids.
        algebraic: Expressions that are 0 at all times.
        initial: The values of ids at the start.
    """

    def __init__(self, model: "libsbml.Model", ids: Ids, mathematics: Mathematics, issues: IssueCollector):
        """Read all rules and initial assignments."""
        self.assignments: dict[str, Expression] = {}
        self.rates: dict[str, Expression] = {}
        self.algebraic: list[Expression] = []
        self.initial: dict[str, Expression] = {}
        self._ids, self._issues = ids, issues
        determined: set[str] = set()
        for rule in each(model.getListOfRules()):
            expression = mathematics.of(rule)
            if rule.isAlgebraic():
                if expression is not None:
                    self.algebraic.append(expression)
                continue
            id = rule.getVariable()
            self._check(id, rule, determined, "rule")
            if expression is not None:
                (self.rates if rule.isRate() else self.assignments)[id] = expression
        if len(self.algebraic) > MOST_ALGEBRAIC:
            add_at(issues, model, f"not supported: more than {MOST_ALGEBRAIC} algebraic rules.")
        started: set[str] = set()
        for item in each(model.getListOfInitialAssignments()):
            expression = mathematics.of(item)
            self._check(item.getSymbol(), item, started, "initial assignment")
            if expression is not None:
                self.initial[item.getSymbol()] = expression

    def __contains__(self, id: str) -> bool:
        """Return whether a rule or an initial assignment gives an id its value."""
        return id in self.assignments or id in self.rates or id in self.initial

    def _check(self, id: str, item: "libsbml.SBase", earlier: set[str], kind: str) -> None:
        if id not in self._ids:
            must = "must be about an id of the model that has a value"
            add_at(self._issues, item, f"{must}, but is about {id or 'none'}.")
        elif id in earlier:
            add_at(self._issues, item, f"must be the only {kind} of {id}, but there is another one.")
        earlier.add(id)


def changed_in_level_1(rules: Rules) -> frozenset[str]:
    """Return the ids that rules may change; in Level 1 all others are constant."""
    return frozenset((*rules.assignments, *rules.rates)) | symbols(*rules.algebraic)


def events(model: "libsbml.Model", ids: Ids, mathematics: Mathematics, issues: IssueCollector) -> list[NetworkEvent]:
    """Return the events of a model, without those that never fire because they have no trigger."""
    read = []
    for item in each(model.getListOfEvents()):
        trigger = mathematics.of(item.getTrigger() if item.isSetTrigger() else None)
        if trigger is None:
            issues.warn("ignored: an event without a trigger.", "event " + item.getIdAttribute(), line=item.getLine())
            continue
        latest = item.getLevel() >= 3
        read.append(
            NetworkEvent(
                trigger,
                _assigned(item, ids, mathematics, issues),
                delay=mathematics.of(item.getDelay() if item.isSetDelay() else None),
                priority=mathematics.of(item.getPriority() if item.isSetPriority() else None),
                persistent=item.getTrigger().getPersistent() if latest else True,
                initial_value=item.getTrigger().getInitialValue() if latest else True,
                from_trigger_time=item.getUseValuesFromTriggerTime(),
                name=item.getIdAttribute(),
            )
        )
    return read


def _assigned(
    event: "libsbml.Event", ids: Ids, mathematics: Mathematics, issues: IssueCollector
) -> dict[str, Expression]:
    assigned: dict[str, Expression] = {}
    earlier: set[str] = set()
    for item in each(event.getListOfEventAssignments()):
        id, expression = item.getVariable(), mathematics.of(item)
        if id not in ids:
            add_at(issues, item, f"must be about an id of the model that has a value, but is about {id or 'none'}.")
        elif id in earlier:
            add_at(issues, item, "must be the only one of this event, but there is another one.")
        earlier.add(id)
        if expression is not None:
            assigned[id] = expression
    return assigned
