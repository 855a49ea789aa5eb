"""What may be missing in a network: species that modify reactions, and reactions that are not there."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_above, check_instance, check_one_of, refuse
from qspjax._expression import Expression, call, exp, number, parse, symbol, symbols
from qspjax._transform import Identity
from qspjax.fit import Free
from qspjax.models.network import Definition, Network, Reaction
from qspjax.models.network._terms import plus

STRENGTH = 8.0
"""The greatest size of the exponent of a modifier."""
EDGE = "tested_edge"
"""The strength of the edge that is tested."""
WIDE = 1e6
"""The bounds of the rate constant of a reaction, a factor of its start."""


class AbstractEdge(abc.ABC):
    """Something that may be missing, with a strength that is 0 where it is.

    Attributes:
        name: What it is called in tables.
        strength: The id of its strength in the network.
        positive: Whether its strength cannot be negative.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.discover.Modifier("drug", "growth", 5.0), qsp.discover.AbstractEdge)
        True
    """

    name: str
    strength: str
    positive: bool

    @abc.abstractmethod
    def check(self, definition: Definition) -> None:
        """Check that it could be in a network.

        Raises:
            ValueError: If it names something that is not there.
        """

    @abc.abstractmethod
    def reaction(self, reactions: Mapping[str, Reaction], effect: Expression | None = None) -> tuple[str, Reaction]:
        """Return the id of its reaction, and this reaction with it.

        Args:
            reactions: The reactions of the network.
            effect: What stands for `strength * effect` in a rate that is linear in it, as for a test at 0; such rates
                may be negative.
        """

    @property
    @abc.abstractmethod
    def effect(self) -> Expression:
        """What its strength multiplies; edges of different reactions may have the same."""

    @abc.abstractmethod
    def free(self, estimate: float) -> Free:
        """Return its strength as a parameter to estimate, from a first estimate."""


@dataclasses.dataclass(frozen=True)
class Modifier(AbstractEdge):
    """A species that makes a reaction faster or slower.

    $$ v \\to v \\exp(w A / (A_{50} + A)) $$

    so that the rate keeps its sign, whatever the strength w: negative for an inhibitor, exp(w) the greatest factor.

    Args:
        species: The species A.
        target: The id of the reaction.
        half: The value of the species at half of its effect, best a typical one.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.Modifier("drug", "growth", 5.0).name
        'drug modifies growth'
    """

    species: str
    target: str
    half: float
    positive = False

    def __post_init__(self) -> None:
        check_above("half", self.half, 0.0)

    @property
    def name(self) -> str:
        return f"{self.species} modifies {self.target}"

    @property
    def strength(self) -> str:
        return f"effect_of_{self.species}_on_{self.target}"

    def check(self, definition: Definition) -> None:
        check_one_of("edges", self.species, definition.species, "a species of the network")
        check_one_of("edges", self.target, definition.reactions, "a reaction of the network")

    @property
    def effect(self) -> Expression:
        return symbol(self.species) / (number(self.half) + symbol(self.species))

    def reaction(self, reactions: Mapping[str, Reaction], effect: Expression | None = None) -> tuple[str, Reaction]:
        old = reactions[self.target]
        factor = exp(symbol(self.strength) * self.effect) if effect is None else number(1.0) + effect
        rate = old.rate * factor
        return self.target, Reaction(old.reactants, old.products, rate, reversible=old.reversible, name=old.name)

    def free(self, estimate: float) -> Free:
        return Free(float(np.clip(estimate, -2.0, 2.0)), bounds=(-STRENGTH, STRENGTH), transform=Identity())


@dataclasses.dataclass(frozen=True)
class NewReaction(AbstractEdge):
    """A reaction that is not in the network.

    $$ v = k \\, g, \\qquad k \\ge 0 $$

    Args:
        equation: What goes in and out, as `Reaction` takes it: `"A -> B"`.
        factor: The rate over the constant k, as text: `"A"` by default the product of the reactants (mass action).
        id: Its id; by default it follows from the equation.
        positive: Whether k is positive, as is usual.

    Raises:
        ValueError: If the equation or the factor cannot be read.

    Example:
        >>> import qspjax as qsp
        >>> edge = qsp.discover.NewReaction("drug -> metabolite")
        >>> edge.name, edge.strength
        ('drug -> metabolite', 'k_drug_to_metabolite')
    """

    equation: str
    factor: Expression | str | None = None
    id: str = ""
    positive: bool = True

    def __post_init__(self) -> None:
        reaction = Reaction(self.equation, "1")
        sides = [[part.species for part in side] for side in (reaction.reactants, reaction.products)]
        if not any(sides):
            refuse("equation", "have a reactant or a product", f"`{self.equation}`")
        factor = parse(self.factor) if isinstance(self.factor, str) else self.factor
        if factor is None:
            factor = number(1.0)
            for part in reaction.reactants:
                power = symbol(part.species) ** number(part.stoichiometry)  # pyright: ignore[reportArgumentType]
                one = symbol(part.species) if part.stoichiometry == 1.0 else power
                factor = one if factor is number(1.0) else factor * one
        object.__setattr__(self, "factor", factor)
        if not self.id:
            joined = ["_".join(side) or "nothing" for side in sides]
            object.__setattr__(self, "id", "_to_".join(joined))

    @property
    def name(self) -> str:
        return self.equation

    @property
    def strength(self) -> str:
        return f"k_{self.id}"

    def check(self, definition: Definition) -> None:
        reaction = Reaction(self.equation, "1")
        for _, part in reaction.participants():
            check_one_of("edges", part.species, definition.species, "a species of the network")
        for name in sorted(symbols(self.effect)):
            check_one_of("edges", name, definition.ids(), "an id of the network")
        if self.id in definition.ids():
            refuse("edges", "have ids that are new", f"the id `{self.id}` of `{self.equation}`")

    @property
    def effect(self) -> Expression:
        assert isinstance(self.factor, Expression)
        return self.factor

    def reaction(self, reactions: Mapping[str, Reaction], effect: Expression | None = None) -> tuple[str, Reaction]:
        return self.id, Reaction(self.equation, symbol(self.strength) * self.effect if effect is None else effect)

    def free(self, estimate: float) -> Free:
        if not self.positive:
            return Free(estimate, transform=Identity())
        start = max(estimate, 1e-12)
        return Free(start, bounds=(start / WIDE, start * WIDE))


def with_edges(network: Network, edges: Sequence[AbstractEdge], strengths: Sequence[float]) -> Network:
    """Return a network with edges of some strengths."""
    reactions = {**network.definition.reactions}
    for edge in edges:
        id, reaction = edge.reaction(reactions)
        reactions[id] = reaction
    parameters = {edge.strength: float(value) for edge, value in zip(edges, strengths, strict=True)}
    return _edited(network, parameters, reactions)


class Switched(NamedTuple):
    """A network in which one edge at a time can be switched on.

    Attributes:
        network: The network.
        parameters: The names of the strength of the edge and of the switches.
        switches: The values of the switches for each edge, shape (edges, switches).
    """

    network: Network
    parameters: tuple[str, ...]
    switches: Float[np.ndarray, "edges switches"]


def switched(network: Network, edges: Sequence[AbstractEdge]) -> Switched:
    """Return a network in which one edge at a time can be switched on: a switch of its reaction, and one of its effect.

    $$ v_r \\to v_r (1 + w \\, s_r \\sum_j e_j g_j) $$
    """
    reactions, targets, effects = {**network.definition.reactions}, {}, {}
    for edge in edges:
        effects.setdefault(edge.effect, f"{EDGE}_effect_{len(effects) + 1}")
        id, _ = edge.reaction(reactions)
        targets.setdefault((id, type(edge)), (f"{EDGE}_target_{len(targets) + 1}", edge, []))[2].append(edge.effect)
    for switch, edge, own in targets.values():
        total = [symbol(effects[effect]) * effect for effect in dict.fromkeys(own)]
        id, reaction = edge.reaction(reactions, call("*", symbol(EDGE), symbol(switch), plus(total)))
        reactions[id] = reaction
    names = [*(switch for switch, _, _ in targets.values()), *effects.values()]
    places = {name: k for k, name in enumerate(names)}
    switches = np.zeros((len(edges), len(names)))
    for k, edge in enumerate(edges):
        id, _ = edge.reaction(reactions)
        switches[k, [places[targets[id, type(edge)][0]], places[effects[edge.effect]]]] = 1.0
    edited = _edited(network, dict.fromkeys((EDGE, *names), 0.0), reactions)
    return Switched(edited, (EDGE, *names), switches)


def _edited(network: Network, parameters: Mapping[str, float], reactions: Mapping[str, Reaction]) -> Network:
    """Return a network with more parameters and other reactions."""
    old = network.definition.reactions
    new = {id: one for id, one in reactions.items() if id not in old}
    changed = {id: one for id, one in reactions.items() if old.get(id, one) is not one}
    network = network.add(parameters=parameters, reactions=new)
    return network.replace(reactions=changed) if changed else network


def check_edges(edges: Sequence[AbstractEdge], network: Network) -> tuple[AbstractEdge, ...]:
    """Return edges as a tuple, after a check that each could be in a network and that no two are the same.

    Raises:
        ValueError: If there are none, or one cannot be.
    """
    edges, seen = tuple(edges), set(network.definition.ids())
    if not edges:
        raise ArgumentError("edges", "must have at least one edge to test, but has none.")
    for edge in edges:
        check_instance("edges", edge, AbstractEdge, "edges such as Modifier('drug', 'growth', 5.0)")
        edge.check(network.definition)
        if edge.strength in seen:
            refuse("edges", "have strengths that are new", f"`{edge.strength}` twice")
        seen.add(edge.strength)
    return edges
