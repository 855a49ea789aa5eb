"""One vector of all numbers that depend on the parameters of a fit, to which conditions and data refer by index."""

import abc
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from qspjax._expression import Expression
from qspjax._types import Scalar
from qspjax.fit.data._formula import Named, called_by, names_in, value_of
from qspjax.solve.native._mapped import Native

Key: TypeAlias = Expression | str | tuple[str, float]


class AbstractFormulaTable(abc.ABC):
    """A table of distinct formulas over parameters, which grows while a problem is laid out.

    Attributes:
        parameters: The names of the parameters, whose values come first.
        defaults: Other names that formulas may use, with their numbers.
        individual: Names of numbers of which each experiment has its own.
        functions: Names of functions that formulas may call.
    """

    functions: frozenset[str]
    parameters: tuple[str, ...]
    defaults: Mapping[str, Scalar]
    individual: frozenset[str]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of values."""

    @abc.abstractmethod
    def index_of(self, formula: float | Expression, experiment: int = 0) -> int:
        """Return the index of the value of a formula in an experiment."""

    def index_of_parameter(self, name: str) -> int:
        """Return the index of a parameter."""
        return self.parameters.index(name)

    def knows(self, formula: float | Expression) -> bool:
        """Return whether a formula uses nothing but parameters, other known names and functions."""
        return self.functions.issuperset(called_by(formula)) and all(
            name in self.parameters or name in self.defaults or name in self.individual for name in names_in(formula)
        )


class FormulaTable(AbstractFormulaTable):
    """Formulas that have the same value in all experiments, and their values as one vector.

    Args:
        parameters: The names of the parameters, which come first.
        defaults: Other names that formulas may use, with their numbers.
        functions: Names of functions that formulas may call.
    """

    def __init__(
        self, parameters: Sequence[str], defaults: Mapping[str, Scalar], functions: Collection[str] = ()
    ) -> None:
        self.parameters, self.defaults, self.individual = tuple(parameters), defaults, frozenset()
        self.functions = frozenset(functions)
        self._indices: dict[Key, int] = {name: i for i, name in enumerate(self.parameters)}
        self._formulas: list[float | Expression] = []

    @property
    def size(self) -> int:
        return len(self._indices)

    def index_of(self, formula: float | Expression, experiment: int = 0) -> int:
        del experiment
        if not isinstance(formula, Expression):
            key: Key = ("number", float(formula))
        else:
            key = formula.value if formula.op == "symbol" and formula.value in self.parameters else formula
        if key not in self._indices:
            self._indices[key] = self.size
            self._formulas.append(formula)
        return self._indices[key]

    def depends(self) -> Bool[np.ndarray, "numbers parameters"]:
        """Return which values depend on each parameter."""
        names = [frozenset({name}) for name in self.parameters] + [names_in(formula) for formula in self._formulas]
        depends = [[name in used for name in self.parameters] for used in names]
        return np.array(depends, bool).reshape(len(names), len(self.parameters))

    def calls(self, functions: Collection[str]) -> Bool[np.ndarray, " numbers"]:
        """Return which values depend on some functions."""
        calls = [not {*functions}.isdisjoint(called_by(formula)) for formula in self._formulas]
        return np.array([*[False] * len(self.parameters), *calls], bool)

    def values(self, known: Named) -> Float[Array, " numbers"]:
        """Return all values.

        Args:
            known: The parameters in their order, and the functions.
        """
        if not any(isinstance(formula, Expression) for formula in self._formulas):
            return jnp.concatenate([known.numbers, jnp.asarray(self._formulas, float)])
        if called_by(*self._formulas):
            return jnp.concatenate([known.numbers, self._each(known.numbers, known.functions)])
        return jnp.concatenate([known.numbers, self._computed(known.numbers)])

    @functools.cached_property
    def _computed(self) -> Native[Float[Array, " formulas"]]:
        """How the values of formulas are computed that call no function."""
        return Native(lambda parameters: self._each(parameters, {}))

    def _each(
        self, parameters: Float[Array, " parameters"], functions: Mapping[str, Callable]
    ) -> Float[Array, " formulas"]:
        names = names_in(*self._formulas)
        numbers = {name: parameters[i] for i, name in enumerate(self.parameters) if name in names}
        known = {**self.defaults, **numbers, **functions}
        return jnp.stack([jnp.asarray(value_of(formula, known), float) for formula in self._formulas])
