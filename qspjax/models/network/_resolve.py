"""The formula of every id of a network, expanded over the states and the numbers alone.

The mathematics of a network is in terms of its ids. Here each id gets a formula, and the formulas are substituted into
each other in the order of their dependence, until only these are left:

- `x#v`, the number of x: a leaf of the model;
- `x#y`, the state of x;
- the time.

Besides the id `x` itself (the value its symbol has in mathematics) there are `x#amount` of a species, `x#rate` (what
SBML calls rateOf), `x#slope` (of the state), and any of them at time 0: `x#0`, `x#amount#0`, `x#y#0`; before it:
`x#before`; and at a time that may be before it, within a delay: `x#past`.
"""

from collections.abc import Iterator, Mapping

from qspjax._expression import TIME, Expression, call, nodes, number, piecewise, substitute, symbol, symbols
from qspjax._expression._tree import rebuilt
from qspjax.models.network._definition import Definition, Participant, Reaction
from qspjax.models.network._delays import held_still
from qspjax.models.network._problems import Problem, changed, used
from qspjax.models.network._terms import ONE, ZERO, Unresolvable, minus, over, plus, rate_of, times, weighted


def leaf(id: str) -> Expression:
    """Return the symbol of a number of the model."""
    return symbol(f"{id}#v")


def state(id: str) -> Expression:
    """Return the symbol of a state."""
    return symbol(f"{id}#y")


class Formulas:
    """The formulas of a network, one per node, before they are substituted into each other.

    Args:
        definition: The network.
        determined: The formulas over nodes of what algebraic rules determine, by id.
        unknown: Ids that algebraic rules determine only implicitly, each with the residual that must be 0.
    """

    def __init__(
        self, definition: Definition, determined: Mapping[str, Expression], unknown: Mapping[str, Expression]
    ) -> None:
        self.definition = definition
        self.rules = {**definition.assignments, **determined}
        self.unknown = unknown
        self._used = used(definition)
        self.reacting = changed(definition)
        self.assigned = dict.fromkeys(id for event in definition.events for id in event.assign)
        self.late = {
            id
            for event in definition.events
            if event.delay is not None and event.from_trigger_time
            for id in event.assign
        }
        self.terms: dict[str, list[tuple[Expression, str]]] = {id: [] for id in definition.species}
        for id, reaction in definition.reactions.items():
            for species, count in self._counts(reaction):
                self.terms[species].append((count, id))
        self.states = tuple(id for id in definition.ids() if self.is_state(id))
        self.by_concentration = frozenset(
            id for id in definition.species if self.is_state(id) and self._is_concentration(id)
        )
        self._cache: dict[str, Expression] = {}

    def is_state(self, id: str) -> bool:
        """Whether an id has a state."""
        if id in self.rules:
            return False
        species = self.definition.species.get(id)
        if species is not None and not (species.constant or species.boundary):
            return True
        return id in self.definition.rates or id in self.assigned or id in self.unknown

    def varies(self, id: str) -> bool:
        """Whether the value of an id can change with time."""
        return id in self.rules or self.is_state(id)

    def has_value(self, id: str) -> bool:
        """Whether the definition has a number for an id, and needs it."""
        if id in self.rules or id in self.definition.initial:
            return False
        return self.has_number(id)

    def has_number(self, id: str) -> bool:
        """Whether the definition has a number for an id."""
        d = self.definition
        if id in d.species:
            return d.species[id].initial is not None
        if id in d.compartments:
            return d.compartments[id].size is not None
        if id in d.parameters:
            return d.parameters[id].value is not None
        return id in d.participants and isinstance(d.participants[id].stoichiometry, float)

    def __getitem__(self, node: str) -> Expression:
        """Return the formula of a node, over nodes, numbers, states and the time."""
        if node not in self._cache:
            self._cache[node] = self._formula(node)
        return self._cache[node]

    def _formula(self, node: str) -> Expression:
        if node.endswith("#0"):
            return self._at_start(node[:-2])
        if node.endswith("#before"):
            return self._before(node.removesuffix("#before"))
        if node.endswith("#past"):
            return self._past(node.removesuffix("#past"))
        id, _, part = node.partition("#")
        if part == "":
            return self._value(id)
        if part == "amount":
            return self._amount(id)
        return self._rate(id) if part == "rate" else self.slope(id)

    # --- the value of an id -----------------------------------------------------------------------------------------

    def _value(self, id: str) -> Expression:
        d = self.definition
        if id in self.rules:
            return plain(self.rules[id])
        if id in d.reactions:
            return plain(d.reactions[id].rate)
        if id in d.species:
            return self._concentration(id)
        if self.is_state(id):
            return state(id)
        if id in d.initial:
            return symbol(f"{id}#0")
        if id in d.participants:
            stoichiometry = d.participants[id].stoichiometry
            if isinstance(stoichiometry, Expression):
                return plain(stoichiometry)
            if stoichiometry is not None and not self.uses(id):
                return number(stoichiometry)
        return leaf(id)

    def size(self, id: str) -> Expression:
        """Return the factor between the symbol of a species and its amount: 1, or the size of its compartment."""
        compartment = self.definition.compartment_of(id)
        return (
            ONE
            if self.definition.in_amount(id) or compartment not in self.definition.compartments
            else symbol(compartment)
        )

    def size_varies(self, id: str) -> bool:
        """Whether the factor between the symbol of a species and its amount can change with time."""
        return self.size(id) is not ONE and self.varies(self.definition.compartment_of(id))

    def _concentration(self, id: str) -> Expression:
        if self.is_state(id):
            return state(id) if id in self.by_concentration else over(state(id), self.size(id))
        return over(symbol(f"{id}#amount#0"), self.size(id)) if self.size_varies(id) else symbol(f"{id}#0")

    def _amount(self, id: str) -> Expression:
        if id in self.rules or id in self.by_concentration:
            return times(symbol(id), self.size(id))
        return state(id) if self.is_state(id) else symbol(f"{id}#amount#0")

    def _is_concentration(self, id: str) -> bool:
        """Whether the state of a species is its concentration, because it cannot be its amount."""
        if self.size(id) is ONE:
            return False
        compartment = self.definition.compartment_of(id)
        if id in self.unknown or (id not in self.reacting and not self._has_size(compartment)):
            return True
        return self.size_varies(id) and (id in self.late or (id in self.definition.rates and compartment in self.rules))

    def _has_size(self, compartment: str) -> bool:
        """Whether anything determines the size of a compartment."""
        return self.has_number(compartment) or self.varies(compartment) or compartment in self.definition.initial

    # --- at time 0 --------------------------------------------------------------------------------------------------

    def _at_start(self, node: str) -> Expression:
        id, _, part = node.partition("#")
        d = self.definition
        if part == "y":
            return (
                symbol(f"{id}#amount#0") if id in d.species and id not in self.by_concentration else symbol(f"{id}#0")
            )
        if part == "" and id in d.initial and id not in self.rules:
            return at_start(plain(d.initial[id]))
        if id in d.species and id not in self.rules and part in ("", "amount"):
            return self._species_at_start(id, part)
        if part == "" and id not in self.rules and id not in d.reactions:
            participant = d.participants.get(id)
            if participant is not None and isinstance(participant.stoichiometry, Expression):
                return at_start(plain(participant.stoichiometry))
            return self._guess(id)
        return at_start(self[node])

    def _species_at_start(self, id: str, part: str) -> Expression:
        d, size = self.definition, at_start(self.size(id))
        if id in d.initial:
            return times(symbol(f"{id}#0"), size)
        species, compartment = d.species[id], d.compartment_of(id)
        if id in self.unknown and species.initial is None:
            return ONE
        if d.in_amount(id):
            unscaled = species.is_amount or compartment not in d.compartments
            if unscaled or (d.compartments[compartment].dimensions == 0 and not self._has_size(compartment)):
                return leaf(id)
            return times(leaf(id), symbol(f"{compartment}#0"))
        if species.is_amount:
            return leaf(id) if part == "amount" else over(leaf(id), size)
        return times(leaf(id), size) if part == "amount" else leaf(id)

    def _guess(self, id: str) -> Expression:
        """Return the number of an id, or the initial guess for what an algebraic rule determines."""
        return ONE if id in self.unknown and not self.has_number(id) else leaf(id)

    # --- before time 0 ----------------------------------------------------------------------------------------------

    def begins_in_time(self, id: str) -> bool:
        """Whether the initial value of an id is a function of time, so that the value before time 0 was another."""
        return (
            id in self.definition.initial
            and id not in self.rules
            and self._depends_on_time(self.definition.initial[id])
        )

    def _before(self, node: str) -> Expression:
        """Return a value, or a state, before time 0."""
        id, _, part = node.partition("#")
        value = in_past(plain(self.definition.initial[id]))
        amount = part == "amount" or (part == "y" and id in self.definition.species and id not in self.by_concentration)
        return times(value, in_past(self.size(id))) if amount else value

    def _past(self, node: str) -> Expression:
        """Return a node as it is within a delay, where time may be before 0."""
        id, _, part = node.partition("#")
        if self.begins_in_time(id) and not self.is_state(id) and part in ("", "amount"):
            return piecewise(symbol(f"{node}#0"), call("geq", TIME, ZERO), symbol(f"{node}#before"))
        return in_past(self[node])

    def _depends_on_time(self, formula: Expression) -> bool:
        """Whether a formula depends on the time, directly or through the ids in it."""
        visited: set[str] = set()
        todo = [formula]
        while todo:
            current = todo.pop()
            if any(node is TIME for node in nodes(current)):
                return True
            new = symbols(current) - visited
            visited |= new
            for name in new:
                todo += [table[name] for table in (self.rules, self.definition.initial) if name in table]
        return False

    # --- slopes -----------------------------------------------------------------------------------------------------

    def slope(self, id: str) -> Expression:
        """Return the slope of a state."""
        d = self.definition
        if id in self.unknown:
            return self.unknown[id]
        if id not in d.species:
            return plain(d.rates[id]) if id in d.rates else ZERO
        size, dilution = self.size(id), self._dilution(id)
        if id in d.rates:
            rule = plain(d.rates[id])
            return rule if id in self.by_concentration else plus([times(rule, size), dilution])
        gained = self._gained(id)
        return over(minus(gained, dilution), size) if id in self.by_concentration else gained

    def parts(self, id: str) -> list[tuple[float, Expression]]:
        """Return the slope of a state as a weighted sum of formulas; a reaction has one formula for all states."""
        is_sum = id in self.reacting and id not in self.by_concentration and id not in self.unknown
        if not is_sum or id in self.definition.rates:
            return [(1.0, symbol(f"{id}#slope"))]
        factor = self.definition.species[id].conversion or self.definition.conversion
        parts = []
        for count, reaction in self.terms[id]:
            weight, rate = (
                (count.value, symbol(reaction)) if count.op == "number" else (1.0, times(count, symbol(reaction)))
            )
            parts.append((weight, rate if factor is None else times(symbol(factor), rate)))
        return parts

    def _gained(self, id: str) -> Expression:
        """Return the rate at which reactions change the amount of a species."""
        if id not in self.reacting:
            return ZERO
        factor = self.definition.species[id].conversion or self.definition.conversion
        terms = weighted([(count, symbol(reaction)) for count, reaction in self.terms[id]])
        return terms if factor is None else times(symbol(factor), terms)

    def _dilution(self, id: str) -> Expression:
        """Return what a change of the compartment adds to the slope of the amount at a given concentration."""
        if not self.size_varies(id):
            return ZERO
        return times(symbol(id), symbol(f"{self.definition.compartment_of(id)}#rate"))

    def _rate(self, id: str) -> Expression:
        """Return the rate of change of the value of an id."""
        d = self.definition
        if id in self.rules or id in d.reactions:
            return rate_of(self[id])
        if id in self.unknown:
            raise Unresolvable(Problem(id, "not supported: rateOf of what an algebraic rule determines."))
        if id not in d.species:
            return symbol(f"{id}#slope") if self.is_state(id) else ZERO
        if id in d.rates:
            return plain(d.rates[id])
        return over(minus(self._gained(id), self._dilution(id)), self.size(id))

    def _counts(self, reaction: Reaction) -> Iterator[tuple[str, Expression]]:
        """Yield the stoichiometry of each species in a reaction; numbers of one species are added."""
        totals: dict[str, float] = {}
        for sign, participant in reaction.participants():
            count = self._count(participant)
            if isinstance(count.value, float):
                totals[participant.species] = totals.get(participant.species, 0.0) + sign * count.value
            else:
                yield participant.species, count if sign > 0 else times(number(-1.0), count)
        yield from ((species, number(count)) for species, count in totals.items() if count)

    def _count(self, participant: Participant) -> Expression:
        """Return the stoichiometry of a participant."""
        if participant.name and self.uses(participant.name):
            return symbol(participant.name)
        if isinstance(participant.stoichiometry, Expression):
            return plain(participant.stoichiometry)
        return symbol(participant.name) if participant.stoichiometry is None else number(participant.stoichiometry)

    def uses(self, name: str) -> bool:
        """Whether the name of a participant occurs in mathematics, so that its stoichiometry is not just a number."""
        return name in self._used


class ExpandedFormulas(dict[str, Expression]):
    """Nodes over numbers, states and the time alone, expanded on demand.

    Args:
        formulas: The formulas.
    """

    def __init__(self, formulas: Formulas) -> None:
        super().__init__()
        self.formulas = formulas

    def of(self, node: str) -> Expression:
        """Return a node."""
        return self.expand(symbol(node))

    def expand(self, expression: Expression) -> Expression:
        """Return an expression over nodes, expanded.

        Raises:
            Unresolvable: If something depends on itself.
        """
        for node in self._ordered(expression):
            self[node] = substitute(self.formulas[node], self)
        return substitute(expression, self)

    def _ordered(self, expression: Expression) -> list[str]:
        """Return the nodes that an expression still needs, each after those it depends on."""
        ordered: dict[str, None] = {}
        path: dict[str, None] = {}
        todo = [iter(self._needs(expression))]
        names: list[str] = []
        while todo:
            node = next(todo[-1], None)
            if node is None:
                todo.pop()
                if names:
                    name = names.pop()
                    del path[name]
                    ordered[name] = None
                continue
            if node in self or node in ordered:
                continue
            if node in path:
                raise Unresolvable(_cycle([*path], node))
            path[node] = None
            names.append(node)
            todo.append(iter(self._needs(self.formulas[node])))
        return [*ordered]

    @staticmethod
    def _needs(expression: Expression) -> list[str]:
        return [name for name in sorted(symbols(expression)) if not name.endswith(("#v", "#y"))]


def _cycle(path: list[str], node: str) -> Problem:
    around = [name.partition("#")[0] for name in [*path[path.index(node) :], node]]
    ids = [id for i, id in enumerate(around) if i == 0 or id != around[i - 1]]
    return Problem(ids[0], f"must not depend on itself, but does: {' -> '.join(ids if len(ids) > 1 else ids * 2)}.")


def plain(expression: Expression) -> Expression:
    """Return an expression in which `rate(x)` is the node `x#rate`, and nodes within a delay are those of the past."""

    def change(node: Expression) -> Expression | None:
        if node.op == "rate":
            return symbol(f"{node.args[0].value}#rate")
        return call("delay", in_past(node.args[0]), node.args[1]) if node.op == "delay" else None

    return rebuilt([held_still(expression)], change)[0]


def in_past(expression: Expression) -> Expression:
    """Return an expression over nodes as it is within a delay."""

    def change(node: Expression) -> Expression | None:
        name = str(node.value)
        if node.op == "symbol" and not name.endswith(("#v", "#y", "#0", "#past", "#before")):
            return symbol(f"{name}#past")
        return None

    return rebuilt([expression], change)[0]


def at_start(expression: Expression) -> Expression:
    """Return an expression over nodes at time 0."""

    def change(node: Expression) -> Expression | None:
        if node is TIME:
            return ZERO
        if node.op == "delay":
            raise Unresolvable(Problem("delay", "not supported: delay in what holds at the start."))
        if node.op == "symbol" and not str(node.value).endswith(("#v", "#0")):
            return symbol(f"{node.value}#0")
        return None

    return rebuilt([expression], change)[0]
