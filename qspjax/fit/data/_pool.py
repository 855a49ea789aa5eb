"""Every number that depends on the parameters of a fit, once, in one vector: what conditions and data refer to."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from qspjax._expression import Expression
from qspjax.fit.data._formula import names_in, value_of


class Pool:
    """Distinct formulas over parameters, and their values as one vector.

    Args:
        parameters: The names of the parameters, which come first.
        defaults: Other names that formulas may use, with their numbers.

    Attributes:
        individual: Names of numbers that each experiment has its own of.
    """

    def __init__(self, parameters: Sequence[str], defaults: Mapping[str, Any]) -> None:
        self.parameters, self.defaults = tuple(parameters), defaults
        self._places: dict[Any, int] = {name: i for i, name in enumerate(self.parameters)}
        self._formulas: list[float | Expression] = []
        self.individual: frozenset[str] = frozenset()

    def place(self, formula: float | Expression, experiment: int = 0) -> int:
        """Return where the value of a formula stands for an experiment; here it is the same for all."""
        del experiment
        key: Any = formula
        if isinstance(formula, Expression) and formula.op == "symbol" and formula.value in self._places:
            key = formula.value
        elif not isinstance(formula, Expression):
            key = ("number", float(formula))
        if key not in self._places:
            self._places[key] = len(self.parameters) + len(self._formulas)
            self._formulas.append(formula)
        return self._places[key]

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.parameters) + len(self._formulas)

    def place_of_parameter(self, name: str) -> int:
        """Return where a parameter stands."""
        return self._places[name]

    def knows(self, formula: float | Expression) -> bool:
        """Return whether a formula uses nothing but parameters and other known names."""
        return all(name in self._places or name in self.defaults for name in names_in(formula))

    def depends(self) -> np.ndarray:
        """Return which values depend on each parameter, shape (values, parameters)."""
        names = [frozenset({name}) for name in self.parameters] + [names_in(one) for one in self._formulas]
        return np.array([[name in used for name in self.parameters] for used in names], bool).reshape(
            -1, len(self.parameters)
        )

    def values(self, parameters: Any) -> Any:
        """Return all values, for parameters in their order."""
        known = dict(self.defaults) | dict(zip(self.parameters, parameters, strict=True))
        plain = [one for one in self._formulas if not isinstance(one, Expression)]
        others = {id(one): value_of(one, known) for one in self._formulas if isinstance(one, Expression)}
        if not others:
            return jnp.concatenate([parameters, jnp.asarray(plain, float)])
        found = [others[id(one)] if isinstance(one, Expression) else one for one in self._formulas]
        return jnp.concatenate([parameters, jnp.stack([jnp.asarray(x, float) for x in found])])
