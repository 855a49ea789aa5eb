"""Which variable an algebraic rule determines, and what it says of it.

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
    """What algebraic rules say: formulas over nodes, and residuals of implicit variables."""

    determined: Mapping[str, Expression]
    implicit: Mapping[str, Expression]


def settled(definition: Definition) -> Settled:
    """Return what the algebraic rules of a network say.

    Raises:
        Unresolvable: If a rule determines nothing, or what an event assigns.
    """
    if not definition.algebraic:
        return Settled({}, {})
    free = _free(definition)
    formulas = Formulas(definition, {}, dict.fromkeys(free, ZERO))
    expanded = ExpandedFormulas(formulas)
    residuals = [expanded.written_out(plain(rule)) for rule in definition.algebraic]
    wanted = [[id for id in free if f"{id}#y" in symbols(residual)] for residual in residuals]
    matched: list[str] = []
    for number, variable in enumerate(_matched(wanted)):
        if variable is None:
            raise Unresolvable(
                Problem(f"algebraic rule {number + 1}", "must determine a variable that nothing else determines.")
            )
        if variable in formulas.assigned:
            raise Unresolvable(Problem(variable, "not supported: an event assigns what an algebraic rule determines."))
        matched.append(variable)
    determined, implicit = _eliminated(residuals, matched)
    back = _nodes(formulas)
    return Settled(
        {id: substitute(formula, back) for id, formula in determined.items()},
        {id: substitute(residual, back) for id, residual in implicit.items()},
    )


def _free(definition: Definition) -> list[str]:
    """Return what nothing else determines; first what a rule most likely determines."""
    taken = {*changed(definition), *definition.assignments, *definition.rates}
    assigned = {id for event in definition.events for id in event.assign}
    found: list[tuple[tuple[bool, ...], str]] = []
    tables = (definition.species, definition.compartments, definition.parameters, definition.participants)
    for table in tables:
        for id, one in table.items():
            if not one.constant and id not in taken:
                value = getattr(one, _VALUES[type(one)])
                found.append(((id in assigned, id in definition.initial, value is not None), id))
    return [id for _, id in sorted(found, key=lambda item: item[0])]


_VALUES = {Species: "initial", Compartment: "size", Parameter: "value", Participant: "stoichiometry"}


def _matched(wanted: Sequence[Sequence[str]]) -> list[str | None]:
    """Return a variable for each rule, each variable once; None for a rule that is left over."""
    owner: dict[str, int] = {}

    def placed(rule: int, seen: set[str]) -> bool:
        for variable in wanted[rule]:
            if variable not in seen:
                seen.add(variable)
                if variable not in owner or placed(owner[variable], seen):
                    owner[variable] = rule
                    return True
        return False

    for rule in range(len(wanted)):
        placed(rule, set())
    found = {rule: variable for variable, rule in owner.items()}
    return [found.get(rule) for rule in range(len(wanted))]


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
        own = {f"{variable}#y": formula}
        determined = {id: substitute(other, own) for id, other in determined.items()} | {variable: formula}
        implicit = {id: substitute(other, own) for id, other in implicit.items()}
    return determined, implicit


def _nodes(formulas: Formulas) -> dict[str, Expression]:
    """Return the node that each state stands for, since what is a state may change once the rules are settled."""
    back = {}
    for id in formulas.states:
        amount = id in formulas.definition.species and id not in formulas.by_concentration
        back[f"{id}#y"] = symbol(f"{id}#amount") if amount else symbol(id)
    return back
