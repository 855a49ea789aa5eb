"""Formulas for the individual parameters of patients, over parameters, random effects and covariates.

    P_i = f_P(theta, eta_i, x_i),   eta_i = sd z_i,  z_i ~ N(0, R)

Effects of an occasion are drawn again on each: kappa is that of the first, kappa@2 and kappa@3 are those of later ones.
"""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qspjax._checks import ArgumentError, check_above, check_instance, check_number, check_one_of, refuse
from qspjax._expression import Expression, as_formula, as_number, check_constants, evaluate, misuses, symbols
from qspjax._model import AbstractModel
from qspjax._names import names
from qspjax._parameters import as_parameter
from qspjax._types import ArrayInput
from qspjax.models.learned import AbstractTerm


class Individual(eqx.Module):
    """Formulas of parameters of the model, and the numbers and effects that they use besides covariates.

    Args:
        formulas: By name of the parameter of the model: text, expressions or numbers.
        parameters: Numbers that formulas use, by name.
        random: The variance of each random effect, by name.
        occasional: The effects that are drawn again on each occasion.
        functions: Terms that formulas call, by name.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    formulas: tuple[Expression | float, ...] = eqx.field(static=True)
    parameters: dict[str, jax.Array]
    effects: tuple[str, ...] = eqx.field(static=True)
    variances: tuple[jax.Array, ...]
    occasional: tuple[str, ...] = eqx.field(static=True)
    functions: dict[str, AbstractTerm]

    def __init__(
        self,
        formulas: Mapping[str, Expression | str | float],
        parameters: Mapping[str, ArrayInput],
        random: Mapping[str, ArrayInput],
        occasional: Sequence[str],
        functions: Mapping[str, AbstractTerm],
    ) -> None:
        """Read the formulas and check the numbers."""
        for argument, value in (("individual", formulas), ("parameters", parameters), ("random", random)):
            check_instance(argument, value, Mapping, "a mapping of names")
        self.names, self.effects, self.occasional = tuple(formulas), tuple(random), tuple(occasional)
        self.functions = dict(functions)
        for name, function in self.functions.items():
            check_instance(f'functions["{name}"]', function, AbstractTerm, "a term, derived from models.AbstractTerm")
        self.formulas = tuple(as_formula(f'individual["{name}"]', text, functions) for name, text in formulas.items())
        for name, formula in zip(self.names, self.formulas, strict=True):
            for wrong in misuses(formula, functions) if isinstance(formula, Expression) else ():
                raise ArgumentError(f'individual["{name}"]', wrong)
        for argument, numbers in (("parameters", parameters), ("random", random)):
            for name, value in numbers.items():
                check_number(f'{argument}["{name}"]', value)
        for name, value in random.items():
            check_above(f'random["{name}"]', value, 0.0)
        self.parameters = {name: as_parameter(value) for name, value in parameters.items()}
        self.variances = tuple(as_parameter(value) for value in random.values())
        for name in self.occasional:
            check_one_of("occasional", name, self.effects, "a random effect")

    def check(self, model: AbstractModel, covariates: Sequence[str]) -> None:
        """Check that formulas are those of parameters of the model and use names that have one meaning each."""
        leaves = [parameter.name for parameter in names(model)]
        for name in self.names:
            check_one_of("individual", name, leaves, "a parameter of the model")
        kinds = {"a parameter": self.parameters, "a covariate": covariates, "a parameter of the model": leaves}
        for name in self.effects:
            for kind, others in kinds.items():
                if name in others:
                    refuse("random", f"have names that mean nothing else, and not that of {kind}", name)
        known = sorted({*self.parameters, *self.effects, *covariates, *leaves})
        check_constants("individual", known, self.formulas)
        for name, formula in zip(self.names, self.formulas, strict=True):
            for used in sorted(symbols(formula)) if isinstance(formula, Expression) else ():
                expected = f"a parameter, a random effect or a covariate, in the formula of `{name}`"
                check_one_of("individual", used, known, expected)

    def effects_of(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return the random effects for standard normal numbers of shape (effects,)."""
        return {name: jnp.sqrt(self.variances[k]) * z[k] for k, name in enumerate(self.effects)}

    def values(self, model: AbstractModel, known: Mapping[str, ArrayLike], only: Sequence[str] | None = None) -> dict:
        """Return the values of the parameters of the model.

        Args:
            model: The model, whose numbers formulas may use.
            known: Random effects, covariates and individual parameters by name.
            only: The names of the parameters; by default all.
        """
        numbers = {parameter.name: parameter.value for parameter in names(model) if jnp.ndim(parameter.value) == 0}
        used = {**numbers, **self.parameters, **known, **self.functions}
        return {
            name: as_number(evaluate([formula], used, 0.0)[0]) if isinstance(formula, Expression) else formula
            for name, formula in zip(self.names, self.formulas, strict=True)
            if only is None or name in only
        }

    def changing(self) -> tuple[str, ...]:
        """Return the parameters of the model that depend on effects of the occasion."""
        pairs = zip(self.names, self.formulas, strict=True)
        return tuple(
            name for name, formula in pairs if isinstance(formula, Expression) and symbols(formula) & {*self.occasional}
        )


def on_occasion(name: str, number: int) -> str:
    """Return the name of an effect on an occasion, counted from 1."""
    return name if number == 1 else f"{name}@{number}"
