"""A network as readable equations."""

import dataclasses
from collections.abc import Iterator

from qspjax._expression import Expression, nodes, with_functions
from qspjax.models.network._definition import Definition, NetworkEvent
from qspjax.models.network._moieties import signed
from qspjax.models.network._resolve import Formulas
from qspjax.models.network._rewriting import rewritten
from qspjax.models.network._terms import ONE


@dataclasses.dataclass(frozen=True)
class Equations:
    """The equations of a network, as text.

    A prime is a slope in time; `(plasma * drug)'` is that of an amount, the concentration times the size of the
    compartment. A function `f` that is learned from data is `f_theta`.

    Attributes:
        slopes: Of species, compartments and parameters.
        rates: Of the reactions.
        rules: What holds at all times.
        start: What holds at time 0.
        events: What happens when a condition turns true.

    Example:
        >>> from qspjax.models import MassAction, Network, Reaction
        >>> reactions = {"loss": Reaction("drug ->", MassAction("k"))}
        >>> print(Network(species={"drug": 10.0}, parameters={"k": 0.1}, reactions=reactions).equations())
        drug' = -loss
        loss = k * drug
    """

    slopes: tuple[str, ...]
    rates: tuple[str, ...]
    rules: tuple[str, ...]
    start: tuple[str, ...]
    events: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*self.slopes, *self.rates, *self.rules, *self.start, *self.events))


def equations(definition: Definition, formulas: Formulas) -> Equations:
    """Return the equations of a network."""
    d = _with_weights(definition)
    return Equations(
        slopes=tuple(_slopes(d, formulas)),
        rates=tuple(f"{id} = {reaction.rate}" for id, reaction in d.reactions.items()),
        rules=(
            *(f"{id} = {rule}" for id, rule in d.assignments.items()),
            *(f"0 = {rule}" for rule in d.algebraic),
        ),
        start=tuple(f"{id}(0) = {value}" for id, value in d.initial.items()),
        events=tuple(map(_event, d.events)),
    )


def terms(definition: Definition, formulas: Formulas, state: str) -> tuple[str, ...]:
    """Return the equations of what changes a state: only those that may be undefined, if there are any."""
    d = _with_weights(definition)
    texts = {f"{id} = {d.reactions[id].rate}": d.reactions[id].rate for _, id in formulas.terms.get(state, ())}
    if state in d.rates:
        texts[f"{state}' = {d.rates[state]}"] = d.rates[state]
    partial = [text for text, formula in texts.items() if any(node.op in _PARTIAL for node in nodes(formula))]
    return tuple(partial or texts)


def _with_weights(definition: Definition) -> Definition:
    """Return a definition in which the name of a learned function f says so: f_theta."""
    if not definition.functions:
        return definition
    names = {name: f"{name}_theta" for name in definition.functions}
    return rewritten(definition, lambda formula: with_functions(formula, names))


_PARTIAL = {"/", "^", "root", "ln", "log"}


def _slopes(d: Definition, formulas: Formulas) -> Iterator[str]:
    for id in d.species:
        if id in formulas.reacting and id not in formulas.rules:
            amount = id if formulas.size(id) is ONE else f"({formulas.size(id)} * {id})"
            factor = d.species[id].conversion or d.conversion
            terms = formulas.terms[id]
            total = signed(_term(count, reaction) for count, reaction in terms)
            if factor is not None:
                total = f"{factor} * ({total})"
            yield f"{amount}' = {total}"
    yield from (f"{id}' = {rule}" for id, rule in d.rates.items())


def _term(count: Expression, reaction: str) -> tuple[float, str]:
    if isinstance(count.value, float):
        return count.value, reaction
    if count.op == "*" and isinstance(factor := count.args[0].value, float) and len(count.args) == 2:
        return factor, f"{_bracketed(count.args[1])} * {reaction}"
    return 1.0, f"{_bracketed(count)} * {reaction}"


def _bracketed(expression: Expression) -> str:
    return str(expression) if not expression.args else f"({expression})"


def _event(event: NetworkEvent) -> str:
    changes = ", ".join(f"{id} = {value}" for id, value in event.assign.items())
    delay = "" if event.delay is None else f" after {event.delay}"
    when = " (with the values of that moment)" if event.delay is not None and event.from_trigger_time else ""
    priority = "" if event.priority is None else f", priority {event.priority}"
    return f"{event.name + ': ' if event.name else ''}when {event.trigger}{priority}{delay}: {changes}{when}"
