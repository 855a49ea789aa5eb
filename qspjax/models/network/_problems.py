"""What is wrong with a definition, as a list: each problem names the id it concerns and says what must be."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from qspjax._checks import did_you_mean
from qspjax._expression import Expression, functions_in, misuses, symbols
from qspjax.models.network._definition import Definition


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a network.

    Attributes:
        id: The id it concerns; the name or the number of an event or an algebraic rule.
        message: What must be, and what is.

    Example:
        >>> str(Problem("r", "must use ids of the network, but uses `k`."))
        '`r` must use ids of the network, but uses `k`.'
    """

    id: str
    message: str

    def __str__(self) -> str:
        return f"`{self.id}` {self.message}"


class NetworkProblems(ValueError):
    """A network that cannot be made; `problems` lists all that is wrong with it.

    Example:
        >>> from qspjax.models import Network, Reaction
        >>> try:
        ...     Network(species={"A": 1.0}, reactions={"r": Reaction("A ->", "k * A")})
        ... except NetworkProblems as error:
        ...     print(error)
        `r` must use ids of the network, but uses `k`.
    """

    def __init__(self, problems: Sequence[Problem]):
        """Collect the problems."""
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def event_name(definition: Definition, number: int) -> str:
    """Return the name of an event, or its number from 1."""
    return definition.events[number].name or f"event {number + 1}"


def stated_problems(definition: Definition) -> list[Problem]:
    """Return what is wrong with a definition as stated: its ids, what they refer to, and what determines them."""
    checks = (_ids, _references, _participants, _symbols, _functions, _determined, _constant)
    return list(dict.fromkeys(problem for check in checks for problem in check(definition)))


def mathematics(definition: Definition) -> Iterator[tuple[str, Expression]]:
    """Yield every expression of a definition with the id it belongs to."""
    for id, reaction in definition.reactions.items():
        if reaction.rate is not None:
            yield id, reaction.rate
        for _, participant in reaction.participants():
            if isinstance(participant.stoichiometry, Expression):
                yield participant.name or id, participant.stoichiometry
    for table in (definition.assignments, definition.rates, definition.initial):
        yield from table.items()
    yield from ((f"algebraic rule {number + 1}", rule) for number, rule in enumerate(definition.algebraic))
    for number, event in enumerate(definition.events):
        for expression in (event.trigger, event.delay, event.priority, *event.assign.values()):
            if expression is not None:
                yield event_name(definition, number), expression


def used(definition: Definition) -> set[str]:
    """Return the ids that occur in mathematics, or that a rule, an event or an initial assignment determines."""
    tables = (definition.assignments, definition.rates, definition.initial, *(e.assign for e in definition.events))
    expressions = dict.fromkeys(expression for _, expression in mathematics(definition))
    return set().union(*tables, *map(symbols, expressions))


def _ids(definition: Definition) -> Iterator[Problem]:
    seen: set[str] = set()
    named = [
        participant.name
        for reaction in definition.reactions.values()
        for _, participant in reaction.participants()
        if participant.name
    ]
    tables = (definition.species, definition.compartments, definition.parameters, named, definition.reactions)
    for id in itertools.chain(*tables, definition.functions):
        if not id and id not in definition.compartments:
            yield Problem(id, "must not be an empty name.")
        if id in seen:
            yield Problem(id, "must be the id of one thing, but is that of two.")
        if "#" in id:
            yield Problem(id, "must not have a # in its name.")
        seen.add(id)


def _references(definition: Definition) -> Iterator[Problem]:
    for id, species in definition.species.items():
        compartment = species.compartment
        if compartment and compartment not in definition.compartments:
            yield Problem(id, f"must be in a compartment of the network, but is in `{compartment}`.")
        if not compartment and len(definition.compartments) > 1 and "" not in definition.compartments:
            yield Problem(id, "must say which compartment it is in, because there are several.")
        yield from _conversion(id, species.conversion, definition)
    yield from _conversion("network", definition.conversion, definition)


def _conversion(id: str, factor: str | None, definition: Definition) -> Iterator[Problem]:
    if factor is not None and factor not in definition.parameters:
        yield Problem(id, f"must have a parameter as its conversion factor, but has `{factor}`.")


def _participants(definition: Definition) -> Iterator[Problem]:
    for id, reaction in definition.reactions.items():
        if reaction.rate is None:
            yield Problem(id, "must have a rate, but has none.")
        for _, participant in reaction.participants():
            if participant.species not in definition.species:
                yield Problem(id, f"must be a reaction of species, but `{participant.species}` is none.")
            elif (
                definition.species[participant.species].constant
                and not definition.species[participant.species].boundary
            ):
                yield Problem(id, f"must not change `{participant.species}`, which is constant.")
            if participant.stoichiometry is None and not participant.name:
                yield Problem(id, f"must have a stoichiometry for `{participant.species}`, but has none.")
        for modifier in reaction.modifiers:
            if modifier not in definition.species:
                yield Problem(id, f"must have species as modifiers, but `{modifier}` is none.")


def _symbols(definition: Definition) -> Iterator[Problem]:
    known = set(definition.ids())
    for id, expression in mathematics(definition):
        for name in sorted(symbols(expression) - known):
            local_name = f"{id}.{name}"
            hint = f"; did you mean `{local_name}`?" if local_name in known else f".{did_you_mean(name, sorted(known))}"
            yield Problem(id, f"must use ids of the network, but uses `{name}`{hint}")
    targets = [*definition.assignments, *definition.rates, *definition.initial]
    for id in dict.fromkeys((*targets, *(name for event in definition.events for name in event.assign))):
        if id not in known or id in definition.reactions:
            yield Problem(id, "must be a species, a compartment, a parameter or a named participant to be determined.")


def _functions(definition: Definition) -> Iterator[Problem]:
    if not functions_in(*(expression for _, expression in mathematics(definition))):
        return
    for id, expression in mathematics(definition):
        yield from (Problem(id, message) for message in misuses(expression, definition.functions))


def changed(definition: Definition) -> set[str]:
    """Return the species whose amounts reactions change."""
    participating = {
        participant.species for reaction in definition.reactions.values() for _, participant in reaction.participants()
    }
    return {
        id
        for id in participating
        if id in definition.species and not (definition.species[id].boundary or definition.species[id].constant)
    }


def _determined(definition: Definition) -> Iterator[Problem]:
    rules, rates = definition.assignments, definition.rates
    for id in rules:
        if id in rates:
            yield Problem(id, "must be determined by one rule, but has an assignment and a rate rule.")
        if id in definition.initial:
            yield Problem(id, "must not have an initial assignment, because an assignment rule determines it.")
        if any(id in event.assign for event in definition.events):
            yield Problem(id, "must not be assigned by an event, because an assignment rule determines it.")
    for id in sorted(changed(definition) & {*rules, *rates}):
        yield Problem(id, "must be a boundary species, because a rule determines it and reactions change it.")


def _constant(definition: Definition) -> Iterator[Problem]:
    fixed = {
        id
        for table in (definition.species, definition.compartments, definition.parameters)
        for id, item in table.items()
        if item.constant
    }
    for cause, ids in _changing(definition):
        for id in ids:
            if id in fixed:
                yield Problem(id, f"must not be constant, because {cause} changes it.")


def _changing(definition: Definition) -> Iterable[tuple[str, Iterable[str]]]:
    yield "a rule", (*definition.assignments, *definition.rates)
    for number, event in enumerate(definition.events):
        yield event_name(definition, number), event.assign
