"""Forms that a pharmacologist expects of a rate: functions of one quantity, and the library of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_instance, check_whole, refuse
from qspjax._expression import Expression, parse, symbols

INPUT = "x"
"""The symbol of the quantity in the formula of a form."""
SHARES = (0.1, 0.35, 0.65, 0.9)
"""Where searches for a size begin: quantiles of the quantity."""
EXPONENTS = (0.5, 1.6, 3.0)
"""Where searches for an exponent begin."""
EXPONENT_BOUNDS = (0.2, 10.0)
"""The least and the greatest exponent."""
REACH = 100.0
"""How far beyond the range of the quantity its sizes are searched, a factor."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A function of one quantity x, with positive constants inside; a coefficient multiplies it.

    Args:
        formula: The function, as text over `x` and its constants: `"x / (Km + x)"`.
        constants: By name, how a constant goes with the size of x: 1 if it is a size of x itself, as Km, 0 for an
            exponent, -1 for one over a size, as the rate of an exponential.
        coefficient: What the coefficient is called in formulas.
        name: What the form is called.

    Attributes:
        expression: The formula as an expression.

    Raises:
        ValueError: If the formula cannot be read, has no `x`, or constants other than those named.

    Example:
        >>> import qspjax as qsp
        >>> form = qsp.discover.Form("x / (Km + x)", {"Km": 1}, coefficient="Vmax", name="Michaelis-Menten")
        >>> form.count
        1
    """

    formula: Expression | str
    constants: Mapping[str, int] = dataclasses.field(default_factory=dict)
    coefficient: str = "k"
    name: str = ""
    expression: Expression = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        formula = parse(self.formula) if isinstance(self.formula, str) else self.formula
        check_instance("formula", formula, Expression, "a formula over `x`, as text")
        if INPUT not in symbols(formula):
            refuse("formula", "be a function of `x`", f"`{formula}`")
        unknown = symbols(formula) - {INPUT} ^ set(self.constants)
        if unknown:
            name = min(unknown)
            is_now = "there is none for" if name in symbols(formula) else "the formula does not have"
            must = f"have an entry for each constant of `{formula}`, and no other"
            raise ArgumentError("constants", f"must {must}, but {is_now} `{name}`.")
        for name, power in self.constants.items():
            if power not in (-1, 0, 1):
                refuse(f"constants[{name!r}]", "be 1 (a size of x), 0 (an exponent) or -1 (one over a size)", power)
        object.__setattr__(self, "expression", formula)
        object.__setattr__(self, "constants", dict(self.constants))
        object.__setattr__(self, "name", self.name or str(formula))

    def __hash__(self) -> int:
        return hash((self.expression, self.name))

    @property
    def count(self) -> int:
        """The number of constants."""
        return len(self.constants)

    def starts(self, x: Float[np.ndarray, " points"]) -> list[tuple[float, ...]]:
        """Return, for each constant, where searches for it begin."""
        size = np.abs(x[x != 0]) if np.any(x != 0) else np.ones(1)
        sizes = tuple(dict.fromkeys((*np.quantile(size, SHARES).tolist(), 2.0 * float(size.max()))))
        of_power = {1: sizes, 0: EXPONENTS, -1: tuple(1.0 / value for value in sizes)}
        return [of_power[power] for power in self.constants.values()]

    def bounds(self, x: Float[np.ndarray, " points"]) -> list[tuple[float, float]]:
        """Return the least and the greatest value of each constant."""
        size = np.abs(x[x != 0]) if np.any(x != 0) else np.ones(1)
        low, high = float(size.min()) / REACH, float(size.max()) * REACH
        of_power = {1: (low, high), 0: EXPONENT_BOUNDS, -1: (1.0 / high, 10.0 / float(size.max()))}
        return [of_power[power] for power in self.constants.values()]


LINEAR = Form("x", name="linear")
SQUARE = Form("x^2", name="square")
CUBE = Form("x^3", name="cube")
POWER = Form("x^p", {"p": 0}, name="power")
INVERSE_POWER = Form("1 / x^p", {"p": 0}, name="inverse power")
MICHAELIS_MENTEN = Form("x / (Km + x)", {"Km": 1}, coefficient="Vmax", name="Michaelis-Menten")
HILL = Form("x^n / (EC50^n + x^n)", {"EC50": 1, "n": 0}, coefficient="Emax", name="Hill")
INHIBITION = Form("IC50 / (IC50 + x)", {"IC50": 1}, name="inhibition")
SIGMOID_INHIBITION = Form("IC50^n / (IC50^n + x^n)", {"IC50": 1, "n": 0}, name="sigmoid inhibition")
SUBSTRATE_INHIBITION = Form("x / (Km + x + x^2 / Ki)", {"Km": 1, "Ki": 1}, coefficient="Vmax", name="Haldane")
EXPONENTIAL = Form("exp(-a * x)", {"a": -1}, name="exponential")
LOGARITHM = Form("ln(1 + x / C)", {"C": 1}, name="logarithm")
LOGISTIC = Form("x * (1 - x / K)", {"K": 1}, name="logistic")
GOMPERTZ = Form("x * ln(K / x)", {"K": 1}, name="Gompertz")

FORMS = (
    LINEAR,
    SQUARE,
    CUBE,
    POWER,
    INVERSE_POWER,
    MICHAELIS_MENTEN,
    HILL,
    INHIBITION,
    SIGMOID_INHIBITION,
    SUBSTRATE_INHIBITION,
    EXPONENTIAL,
    LOGARITHM,
    LOGISTIC,
    GOMPERTZ,
)


@dataclasses.dataclass(frozen=True)
class Library:
    """The candidates: sums of terms, each a coefficient times a product of forms of different quantities.

    $$ f = \\sum_j c_j \\prod_{i} g_{ij}(x_i; \\kappa_{ij}) $$

    Args:
        forms: The forms g: by default polynomials to degree 3, powers and their inverse, Michaelis and Menten's (the
            Emax model), Hill's, inhibition and its sigmoid, Haldane's inhibition by the substrate, an exponential, a
            logarithm, and logistic and Gompertz growth. A constant is always one.
        factors: In how many quantities a term may be a product.
        terms: How many terms a candidate has at most.

    Raises:
        ValueError: If there are no forms, or two have one name.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.Library(terms=2).terms
        2
    """

    forms: tuple[Form, ...] = FORMS
    factors: int = 2
    terms: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", tuple(self.forms))
        for form in self.forms:
            check_instance("forms", form, Form, "instances of Form")
        if not self.forms:
            raise ArgumentError("forms", "must have at least one form, but has none.")
        names = [form.name for form in self.forms]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ArgumentError("forms", f"must have different names, but two are called `{twice}`.")
        check_whole("factors", self.factors, 1)
        check_whole("terms", self.terms, 1)
