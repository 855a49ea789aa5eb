"""Which variable an algebraic rule determines, and its formula.

Each rule is matched with one variable that nothing else determines (a maximum matching of a bipartite graph, as SBML
asks for in Level 3 Version 2, section 4.9.5). A rule a x + b = 0 becomes the assignment x = -b / a; several of them are
solved by elimination. What is left is implicit: the variable becomes an algebraic state.

Reference: Hopcroft and Karp 1973, doi:10.1137/0202019, on matchings; here by augmenting paths.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qspjax._expression import Expression, substitute, symbol, symbols
from qspjax.models.network._definition import Compartment, Definition, Parameter, Participant, Species
from qspjax.models.network._problems import Problem, changed
from qspjax.models.network._resolve import ExpandedFormulas, Formulas, plain
from qspjax.models.network._terms import ZERO, Unresolvable, affine, minus, over


class Settled(NamedTuple):
    """The result of the algebraic rules: formulas over nodes, and residuals of implicit variables."""

    determined: Mapping[str, Expression]
    implicit: Mapping[str, Expression]


def settled(definition: Definition) -> Settled:
    """Return the formulas and residuals that the algebraic rules of a network give.

    Raises:
        Unresolvable: If a rule determines nothing, or what an event assigns.
    """
    if not definition.algebraic:
        return Settled({}, {})
    free = _free(definition)
    formulas = Formulas(definition, {}, dict.fromkeys(free, ZERO))
    expanded = ExpandedFormulas(formulas)
    residuals = [expanded.expand(plain(rule)) for rule in definition.algebraic]
    candidates = [[id for id in free if f"{id}#y" in symbols(residual)] for residual in residuals]
    matched: list[str] = []
    for number, variable in enumerate(_matched(candidates)):
        if variable is None:
            raise Unresolvable(
                Problem(f"algebraic rule {number + 1}", "must determine a variable that nothing else determines.")
            )
        if variable in formulas.assigned:
            raise Unresolvable(Problem(variable, "not supported: an event assigns what an algebraic rule determines."))
        matched.append(variable)
    determined, implicit = _eliminated(residuals, matched)
    node_of_state = _nodes(formulas)
    return Settled(
        {id: substitute(formula, node_of_state) for id, formula in determined.items()},
        {id: substitute(residual, node_of_state) for id, residual in implicit.items()},
    )


def _free(definition: Definition) -> list[str]:
    """Return the variables that nothing else determines, first those that a rule most likely determines."""
    determined = {*changed(definition), *definition.assignments, *definition.rates}
    assigned = {id for event in definition.events for id in event.assign}
    candidates: list[tuple[tuple[bool, ...], str]] = []
    tables = (definition.species, definition.compartments, definition.parameters, definition.participants)
    for table in tables:
        for id, item in table.items():
            if not item.constant and id not in determined:
                value = getattr(item, _VALUES[type(item)])
                candidates.append(((id in assigned, id in definition.initial, value is not None), id))
    return [id for _, id in sorted(candidates, key=lambda item: item[0])]


_VALUES = {Species: "initial", Compartment: "size", Parameter: "value", Participant: "stoichiometry"}


def _matched(candidates: Sequence[Sequence[str]]) -> list[str | None]:
    """Return a variable for each rule, each variable once; None for a rule that is left over."""
    owner: dict[str, int] = {}

    def assign(rule: int, visited: set[str]) -> bool:
        for variable in candidates[rule]:
            if variable not in visited:
                visited.add(variable)
                if variable not in owner or assign(owner[variable], visited):
                    owner[variable] = rule
                    return True
        return False

    for rule in range(len(candidates)):
        assign(rule, set())
    variable_of = {rule: variable for variable, rule in owner.items()}
    return [variable_of.get(rule) for rule in range(len(candidates))]


def _eliminated(
    residuals: Sequence[Expression], variables: Sequence[str]
) -> tuple[dict[str, Expression], dict[str, Expression]]:
    """Solve the rules that are affine in their variable, one after the other; return the others as residuals."""
    determined: dict[str, Expression] = {}
    implicit: dict[str, Expression] = {}
    for residual, variable in zip(residuals, variables, strict=True):
        residual = substitute(residual, {f"{id}#y": formula for id, formula in determined.items()})
        form = affine(residual, f"{variable}#y")
        if form is None or form[0] is ZERO:
            implicit[variable] = residual
            continue
        formula = minus(ZERO, over(form[1], form[0]))
        solution = {f"{variable}#y": formula}
        determined = {id: substitute(other, solution) for id, other in determined.items()} | {variable: formula}
        implicit = {id: substitute(other, solution) for id, other in implicit.items()}
    return determined, implicit


def _nodes(formulas: Formulas) -> dict[str, Expression]:
    """Return the node that each state stands for, since what is a state may change once the rules are settled."""
    node_of_state = {}
    for id in formulas.states:
        amount = id in formulas.definition.species and id not in formulas.by_concentration
        node_of_state[f"{id}#y"] = symbol(f"{id}#amount") if amount else symbol(id)
    return node_of_state
