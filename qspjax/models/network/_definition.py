"""What a network consists of, as immutable data: no arrays, no functions, so that it can be compared, read and written.

The words are those of SBML Level 3 Version 2 (Hucka et al., J Integr Bioinform 2019;16:20190021,
doi:10.1515/jib-2019-0021). Compartments, species, parameters, reactions and named participants share one namespace of
ids, the symbols of all mathematics.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from qspjax._checks import refuse
from qspjax._expression import Expression

V = TypeVar("V")


class Table(Mapping[str, V]):
    """An immutable mapping that keeps its order and can be hashed.

    Example:
        >>> Table({"k": 1.0}) == Table({"k": 1.0})
        True
    """

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        """Copy the items."""
        self._items: dict[str, V] = dict(items)
        self._hash: int | None = None

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(tuple(self._items.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Table):
            return NotImplemented
        return hash(self) == hash(other) and list(self._items.items()) == list(other._items.items())

    def __reduce__(self) -> tuple:
        return Table, (self._items,)

    def __repr__(self) -> str:
        return f"Table({self._items!r})"


@dataclasses.dataclass(frozen=True)
class Compartment:
    """A volume (or area, or length) that species are in.

    Args:
        size: Its size; None if a rule or an initial assignment gives it.
        constant: Whether it keeps its size.
        unit: The unit of its size.
        dimensions: Spatial dimensions; in a compartment of 0 dimensions a species has an amount, no concentration.
        doc: What it is.

    Raises:
        ValueError: If the size is not a number.

    Example:
        >>> from qspjax.models import Compartment
        >>> Compartment(3.0, unit="L").unit
        'L'
    """

    size: float | None = 1.0
    _: dataclasses.KW_ONLY
    constant: bool = True
    unit: str = ""
    dimensions: float = 3.0
    doc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _number("size", self.size))


@dataclasses.dataclass(frozen=True)
class Species:
    """A substance in a compartment.

    In mathematics the symbol of a species is its concentration, amount / size of the compartment; its amount if
    `only_substance`, or if the compartment has 0 dimensions.

    Args:
        initial: Its initial amount, or its initial concentration if not `is_amount`; None if something else gives it.
        compartment: The compartment it is in; `""` for the only one, or one of size 1 if the network names none.
        is_amount: Whether `initial` is an amount.
        only_substance: Whether its symbol is its amount.
        boundary: Whether reactions leave it unchanged.
        constant: Whether its amount never changes.
        conversion: The parameter that converts the extent of reactions to its amount, if not that of the network.
        unit: The unit of `initial`.
        doc: What it is.

    Raises:
        ValueError: If the initial value is not a number.

    Example:
        >>> Species(5.0, compartment="plasma", is_amount=False, unit="nM").initial
        5.0
    """

    initial: float | None = 0.0
    compartment: str = ""
    _: dataclasses.KW_ONLY
    is_amount: bool = True
    only_substance: bool = False
    boundary: bool = False
    constant: bool = False
    conversion: str | None = None
    unit: str = ""
    doc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", _number("initial", self.initial))


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A number with a name.

    Args:
        value: The number; None if a rule or an initial assignment gives it.
        constant: Whether it keeps its value; one that a rule or an event determines does not.
        unit: Its unit.
        doc: What it is.

    Raises:
        ValueError: If the value is not a number.

    Example:
        >>> from qspjax.models import Parameter
        >>> Parameter(0.1, unit="1/h").unit
        '1/h'
    """

    value: float | None = None
    _: dataclasses.KW_ONLY
    constant: bool = True
    unit: str = ""
    doc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _number("value", self.value))


@dataclasses.dataclass(frozen=True)
class Participant:
    """A reactant or a product, with its stoichiometry.

    Args:
        species: The species.
        stoichiometry: A number, or an expression; None if a rule or an initial assignment gives it.
        name: A symbol for the stoichiometry, which rules, events and initial assignments may then determine.
        constant: Whether the stoichiometry keeps its value, so that no algebraic rule determines it.

    Example:
        >>> Participant("A", 2.0).stoichiometry
        2.0
    """

    species: str
    stoichiometry: Expression | float | None = 1.0
    name: str = ""
    constant: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.stoichiometry, Expression):
            object.__setattr__(self, "stoichiometry", _number("stoichiometry", self.stoichiometry))


@dataclasses.dataclass(frozen=True, init=False)
class Reaction:
    """A reaction: what goes in, what comes out, and how fast.

    $$ dA_S/dt = c_S \\sum_r n_{Sr} v_r $$

    with amounts A, stoichiometries n (negative for reactants), conversion factors c (1 unless given) and rates v in
    amount per time.

    Written as text, `Reaction("drug + 2 target -> complex", rate)`, or with tuples of `Participant`,
    `Reaction(reactants, products, rate)`. The rate is one of:

    - text such as `"CL * drug"`, or an expression: an amount per time, in which a species is its concentration;
    - a law such as `MassAction("kon", "koff")`: per volume, so it is multiplied by the size of the compartment that the
      substrates are in;
    - a function of symbols, `lambda drug, CL: CL * drug`, called once with the symbols that its arguments name.

    Args:
        reactants: The equation as text, or the reactants.
        products: The rate, if the equation is text; or the products.
        rate: The rate.
        modifiers: Species that the rate depends on without being used up.
        reversible: Whether it also runs backwards (in text, `<->` for `->`); this is for the reader and changes
            nothing, since the rate decides.
        name: A longer name.

    Raises:
        ValueError: If the equation cannot be read.

    Example:
        >>> binding = Reaction("drug + 2 target -> complex", "kon * drug * target^2")
        >>> [(one.species, one.stoichiometry) for one in binding.reactants]
        [('drug', 1.0), ('target', 2.0)]
    """

    reactants: tuple[Participant, ...]
    products: tuple[Participant, ...]
    rate: Any
    modifiers: tuple[str, ...]
    reversible: bool
    name: str

    def __init__(
        self,
        reactants: str | Iterable[Participant],
        products: Any = (),
        rate: Any = None,
        *,
        modifiers: Iterable[str] = (),
        reversible: bool = False,
        name: str = "",
    ) -> None:
        """Read the equation."""
        if isinstance(reactants, str):
            if rate is None:
                products, rate = (), products
            reactants, products, arrow = parse_equation(reactants)
            reversible = reversible or arrow
        parts = (tuple(reactants), tuple(products), rate, tuple(modifiers), reversible, name)
        for field, value in zip(dataclasses.fields(self), parts, strict=True):
            object.__setattr__(self, field.name, value)

    def participants(self) -> Iterator[tuple[float, Participant]]:
        """Yield -1 with every reactant and 1 with every product."""
        yield from ((-1.0, participant) for participant in self.reactants)
        yield from ((1.0, participant) for participant in self.products)


@dataclasses.dataclass(frozen=True)
class NetworkEvent:
    """A change where a condition turns true, as SBML describes it.

    Args:
        trigger: The condition, an expression (or text).
        assign: New values by id, in the unit that the id has in mathematics.
        delay: Time from the trigger to the change.
        priority: Of several changes at one time the highest comes first.
        persistent: Whether the change takes place even if the condition turns false before it.
        initial_value: What the condition was before the start; if False, one that holds at the start fires.
        from_trigger_time: Whether the values are computed when the condition turns true, else at the change.
        name: The id of the event.

    Example:
        >>> from qspjax._expression import symbol
        >>> NetworkEvent(symbol("tumour") > 20.0, {"dose": symbol("dose") / 2.0}).persistent
        True
    """

    trigger: Any
    assign: Mapping[str, Any]
    _: dataclasses.KW_ONLY
    delay: Any = None
    priority: Any = None
    persistent: bool = True
    initial_value: bool = True
    from_trigger_time: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "assign", Table(self.assign))


@dataclasses.dataclass(frozen=True)
class LearnedFunction:
    """What a network knows of a function that is learned; what it computes is a part of the model.

    Args:
        inputs: The number of its inputs.
        outputs: The number of its outputs, None if it is one number.
        unit: The unit of what it returns.

    Example:
        >>> LearnedFunction(2, unit="1/h").inputs
        2
    """

    inputs: int
    _: dataclasses.KW_ONLY
    outputs: int | None = None
    unit: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Definition:
    """A complete network.

    Args:
        name: What it is called.
        time_unit: The unit of time.
        compartments: By id.
        species: By id.
        parameters: By id.
        reactions: By id; their rates are expressions.
        assignments: Assignment rules: what an id is at all times.
        rates: Rate rules: the slope of an id, for a species that of the value of its symbol.
        algebraic: Expressions that are 0 at all times.
        initial: Initial assignments: what an id is at time 0.
        events: The events.
        conversion: The parameter that converts the extent of reactions to amounts, 1 if None.
        dose_unit: The unit of an amount that is given as a dose.
        closed: Species that take no dose, because they are part of a conserved total that is a fixed number.
        functions: By name, the functions that are learned from data.

    Example:
        >>> from qspjax.models import MassAction, Network, Reaction
        >>> reactions = {"r": Reaction("A ->", MassAction("k"))}
        >>> network = Network(species={"A": 1.0}, parameters={"k": 0.1}, reactions=reactions)
        >>> [*network.definition.species], [*network.definition.reactions]
        (['A'], ['r'])
    """

    name: str = ""
    time_unit: str = ""
    compartments: Mapping[str, Compartment] = Table()
    species: Mapping[str, Species] = Table()
    parameters: Mapping[str, Parameter] = Table()
    reactions: Mapping[str, Reaction] = Table()
    assignments: Mapping[str, Expression] = Table()
    rates: Mapping[str, Expression] = Table()
    algebraic: tuple[Expression, ...] = ()
    initial: Mapping[str, Expression] = Table()
    events: tuple[NetworkEvent, ...] = ()
    conversion: str | None = None
    dose_unit: str = ""
    closed: tuple[str, ...] = ()
    functions: Mapping[str, LearnedFunction] = Table()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping) and not isinstance(value, Table):
                object.__setattr__(self, field.name, Table(value))
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @functools.cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Definition):
            return NotImplemented
        return self._hash == other._hash and all(
            getattr(self, field.name) == getattr(other, field.name) for field in dataclasses.fields(self)
        )

    def __getstate__(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def participants(self) -> Table[Participant]:
        """The named participants, by name."""
        return Table(
            (participant.name, participant)
            for reaction in self.reactions.values()
            for _, participant in reaction.participants()
            if participant.name
        )

    def ids(self) -> tuple[str, ...]:
        """Return all ids, species first."""
        return (*self.species, *self.compartments, *self.parameters, *self.participants, *self.reactions)

    def compartment_of(self, species: str) -> str:
        """Return the id of the compartment that a species is in, `""` for one of size 1 that has no name."""
        compartment = self.species[species].compartment
        return next(iter(self.compartments)) if not compartment and len(self.compartments) == 1 else compartment

    def in_amount(self, species: str) -> bool:
        """Whether the symbol of a species stands for its amount, not for its concentration."""
        item, compartment = self.species[species], self.compartment_of(species)
        return item.only_substance or (
            compartment in self.compartments and self.compartments[compartment].dimensions == 0
        )


def parse_equation(equation: str) -> tuple[tuple[Participant, ...], tuple[Participant, ...], bool]:
    """Return reactants, products and whether it is reversible, from text such as `drug + 2 target -> complex`.

    Raises:
        ValueError: If there is not one arrow, or a term is not a number and a name.
    """
    arrow = next((arrow for arrow in ("<->", "<=>", "=>", "->") if arrow in equation), "->")
    sides = equation.split(arrow)
    if len(sides) != 2:
        refuse("equation", "have one arrow, as in `drug + 2 target -> complex`", f"`{equation}`")
    reactants, products = (tuple(map(_term, filter(str.strip, side.split("+")))) for side in sides)
    return reactants, products, arrow.startswith("<")


def _term(text: str) -> Participant:
    parts = text.replace("*", " ").split()
    try:
        count = float(parts[0]) if len(parts) == 2 else 1.0
    except ValueError:
        count = math.nan
    if not 1 <= len(parts) <= 2 or math.isnan(count) or not parts[-1][0].isalpha() and parts[-1][0] != "_":
        refuse("equation", "have terms such as `2 target`", f"`{text.strip()}`")
    return Participant(parts[-1], count)


def _number(argument: str, value: Any) -> float | None:
    """Return a number as a float, and None for one that is missing (None or NaN)."""
    if value is None:
        return None
    if isinstance(value, str):
        refuse(argument, "be a number", value)
    number = float(value)
    return None if math.isnan(number) else number
