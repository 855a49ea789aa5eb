"""What `do` changed of a model, so that results can say it.

A model keeps the names alone, a static part; the values are its own numbers. So another value is no other program.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import Array

from qspjax._checks import concrete
from qspjax._made import made
from qspjax._model import AbstractModel
from qspjax._names import at

M = TypeVar("M", bound=AbstractModel)


class Interventions(eqx.Module):
    """What was set by `do` before a simulation; `str` says it.

    Attributes:
        values: Values by name, each as in the model: one number, or one for each patient.
        mechanisms: Names and the formulas that replaced what had determined them.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> solution = qsp.simulate(qsp.do(patient, CL=2.0), qsp.bolus(100.0, to="central"), [0.0, 10.0])
        >>> solution.interventions
        do(CL=2)
    """

    values: dict[str, Array]
    mechanisms: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __str__(self) -> str:
        parts = [f"{name}={_in_words(value)}" for name, value in self.values.items()]
        return f"do({', '.join(parts + [f'{name}: {formula}' for name, formula in self.mechanisms])})"

    __repr__ = __str__


def _in_words(value: Array) -> str:
    """Return a number, or from where to where those of patients are; `?` for what is traced."""
    known = concrete(value)
    if known is None or not known.size:
        return "?"
    low, high = np.min(known), np.max(known)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def recorded(model: AbstractModel, prefix: str = "") -> dict[str, str]:
    """Return what was set of a model and of models in it: by dotted name the formula, "" where it is a number."""
    names = {prefix + name: formula for name, formula in model.interventions}
    for field in fields(model):
        part = getattr(model, field.name)
        if isinstance(part, AbstractModel):
            names |= recorded(part, f"{prefix}{field.name}.")
    return names


def without_record(model: M) -> M:
    """Return a model with nothing recorded, so that it shares the programs of those of which nothing was set."""
    if not recorded(model):
        return model
    values = {name: value for name, value in vars(model).items() if name != "interventions"}
    parts = {name: without_record(part) for name, part in values.items() if isinstance(part, AbstractModel)}
    return made(type(model), values | parts)


def with_record(model: M, names: Mapping[str, str]) -> M:
    """Return a model that records what was set of it, besides what it has recorded."""
    done = {**dict(model.interventions), **names}
    return made(type(model), {**vars(model), "interventions": tuple(done.items())}) if done else model


def interventions_of(model: AbstractModel, covariates: Mapping[str, Array] | None = None) -> Interventions | None:
    """Return what was set of a model, and of covariates of patients; None if nothing was."""
    names, covariates = recorded(model), covariates or {}
    if not names and not covariates:
        return None
    values = {name: at(model, name).get() for name, formula in names.items() if not formula}
    return Interventions({**values, **covariates}, tuple((name, text) for name, text in names.items() if text))
