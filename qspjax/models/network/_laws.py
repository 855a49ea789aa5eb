"""Rate laws: how fast a reaction is, from the concentrations of its participants."""

import abc
import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple, SupportsFloat, TypeAlias

from qspjax._checks import refuse
from qspjax._expression import Expression, number, parse
from qspjax._types import Scalar
from qspjax.models.network._terms import times

Quantity: TypeAlias = Expression | str | Scalar
"""A formula, as text or an expression, or a number."""


class Side(NamedTuple):
    """A reactant or a product: its symbol and its stoichiometry."""

    symbol: Expression
    stoichiometry: float


class AbstractLaw(abc.ABC):
    """A rate law: a rate per volume, which the network multiplies by the size of the compartment.

    The forward rate is multiplied by the size of the compartment of the substrates, the backward rate by that of the
    products, so that a first-order law between two compartments moves k times the amount.

    Example:
        >>> isinstance(MassAction("k"), AbstractLaw)
        True
    """

    @abc.abstractmethod
    def rates(self, substrates: Sequence[Side], products: Sequence[Side]) -> tuple[Expression, Expression | None]:
        """Return the forward rate and the backward rate (None for none), both per volume."""


@dataclasses.dataclass(frozen=True)
class MassAction(AbstractLaw):
    """The law of mass action.

    $$ v = k \\prod_i S_i^{n_i} - k_r \\prod_j P_j^{m_j} $$

    with concentrations S of the substrates and P of the products, and their stoichiometries n and m. A rate without
    substrates is constant.

    Args:
        k: The forward rate constant: an id, a number, or text such as `"2 * kon"`.
        reverse: The backward rate constant; None for an irreversible reaction.

    Reference: Guldberg and Waage 1864; Voit et al. 2015, doi:10.1371/journal.pcbi.1004012.

    Example:
        >>> import qspjax as qsp
        >>> qsp.models.MassAction("kon", reverse="koff")
        MassAction(k='kon', reverse='koff')
    """

    k: Quantity
    reverse: Quantity | None = None

    def rates(self, substrates: Sequence[Side], products: Sequence[Side]) -> tuple[Expression, Expression | None]:
        forwards = _product(as_expression("k", self.k), substrates)
        return forwards, None if self.reverse is None else _product(as_expression("reverse", self.reverse), products)


@dataclasses.dataclass(frozen=True)
class MichaelisMenten(AbstractLaw):
    """Saturable kinetics of Michaelis and Menten, irreversible or reversible.

    $$ v = V_{max} S / (K_m + S), \\qquad
       v = (V_{max} S / K_m - V_r P / K_r) / (1 + S / K_m + P / K_r) $$

    with the concentration S of the only substrate and, if it is reversible, P of the only product (Haldane).

    Args:
        Vmax: The maximum forward rate, concentration per time.
        Km: The concentration of the substrate at half of it.
        reverse: The maximum backward rate; None for an irreversible reaction.
        Kr: The concentration of the product at half of that.

    Raises:
        ValueError: If only one of `reverse` and `Kr` is given.

    Reference: Michaelis and Menten 1913, translated in doi:10.1021/bi201284u; Haldane 1930.

    Example:
        >>> from qspjax.models import Network, Reaction
        >>> loss = Reaction("drug ->", MichaelisMenten("Vmax", "Km"))
        >>> network = Network(species={"drug": 10.0}, parameters={"Vmax": 2.0, "Km": 5.0}, reactions={"loss": loss})
        >>> print(network.equations())
        drug' = -loss
        loss = Vmax * drug / (Km + drug)
    """

    Vmax: Quantity
    Km: Quantity
    reverse: Quantity | None = None
    Kr: Quantity | None = None

    def __post_init__(self) -> None:
        if (self.reverse is None) != (self.Kr is None):
            refuse("Kr", "be given with `reverse`, and only with it", self.Kr)

    def rates(self, substrates: Sequence[Side], products: Sequence[Side]) -> tuple[Expression, Expression | None]:
        S, Vmax, Km = _single(substrates, "substrate"), as_expression("Vmax", self.Vmax), as_expression("Km", self.Km)
        if self.reverse is None:
            return Vmax * S / (Km + S), None
        P, back, Kr = _single(products, "product"), as_expression("reverse", self.reverse), as_expression("Kr", self.Kr)
        share = number(1.0) + S / Km + P / Kr
        return Vmax * S / Km / share, back * P / Kr / share


@dataclasses.dataclass(frozen=True)
class Hill(AbstractLaw):
    """A rate that a concentration turns on, or off, along Hill's sigmoid curve.

    $$ v = V_{max} X^n / (K^n + X^n), \\qquad v = V_{max} K^n / (K^n + X^n) \\text{ if it represses} $$

    Args:
        Vmax: The maximum rate, concentration per time.
        K: The concentration X at half of it.
        n: The Hill coefficient.
        by: The species X, by id; by default the only substrate.
        represses: Whether X turns the rate off.

    Reference: Hill 1910, J Physiol 40:iv-vii; Weiss 1997, doi:10.1096/fasebj.11.11.9285481.

    Example:
        >>> from qspjax.models import Network, Reaction
        >>> parameters = {"Vmax": 2.0, "K": 5.0, "n": 2.0}
        >>> loss = Reaction("drug ->", Hill("Vmax", "K", "n"))
        >>> network = Network(species={"drug": 10.0}, parameters=parameters, reactions={"loss": loss})
        >>> float(network.vector_field(0.0, network.initial())["drug"])  # 2 * 100 / (25 + 100)
        -1.6
    """

    Vmax: Quantity
    K: Quantity
    n: Quantity
    by: Quantity | None = None
    represses: bool = False

    def rates(self, substrates: Sequence[Side], products: Sequence[Side]) -> tuple[Expression, Expression | None]:
        Vmax, K, n = (as_expression(name, getattr(self, name)) for name in ("Vmax", "K", "n"))
        X = _single(substrates, "substrate") if self.by is None else as_expression("by", self.by)
        return Vmax * (K if self.represses else X) ** n / (K**n + X**n), None


class Scope(NamedTuple):
    """The names that text may use: ids, which are symbols whatever else they mean, and functions that are learned."""

    ids: Collection[str] = ()
    functions: Collection[str] = ()


def as_expression(argument: str, value: object, scope: Scope = Scope()) -> Expression:  # noqa: B008 - immutable
    """Return an expression from an id or other text, a number, or an expression."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, str):
        return parse(value, ids=scope.ids, functions=scope.functions)
    must, actual = "be an expression: text such as `CL * drug`, or a number", f"of type {type(value).__name__}"
    if not isinstance(value, SupportsFloat):
        refuse(argument, must, actual)
    try:
        return number(float(value))
    except (TypeError, ValueError):
        refuse(argument, must, actual)


def in_scope(law: AbstractLaw, scope: Scope) -> AbstractLaw:
    """Return a law whose quantities, where they are text, are read with the names of a scope."""
    fields = dataclasses.fields(law) if dataclasses.is_dataclass(law) else ()
    texts = {field.name: getattr(law, field.name) for field in fields if field.type in (Quantity, Quantity | None)}
    texts = {name: as_expression(name, text, scope) for name, text in texts.items() if isinstance(text, str)}
    return dataclasses.replace(law, **texts) if texts else law


def _product(k: Expression, sides: Sequence[Side]) -> Expression:
    return times(k, *(symbol if count == 1 else symbol ** number(count) for symbol, count in sides))


def _single(sides: Sequence[Side], role: str) -> Expression:
    if len(sides) != 1 or sides[0].stoichiometry != 1:
        refuse("rate", f"be a law for one {role}", f"one for {len(sides)}: write the rate as text")
    return sides[0].symbol
