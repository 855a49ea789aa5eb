"""Interventions: what would be if a parameter or a mechanism were another one."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._arrays import device_floats
from qspjax._checks import check_instance, check_number, check_one_of, refuse
from qspjax._cohort import Cohort
from qspjax._expression import Expression
from qspjax._interventions import with_record
from qspjax._made import made
from qspjax._model import AbstractModel
from qspjax._names import at, in_full, names
from qspjax._types import ArrayInput
from qspjax.models import Network
from qspjax.models.network import AbstractLaw, Reaction
from qspjax.models.network._editing import formula_of
from qspjax.population._covariates import Categorical
from qspjax.population._individual import Individual
from qspjax.population._population import Population

Subject = TypeVar("Subject", bound=AbstractModel | Cohort | Population)
M = TypeVar("M", bound=AbstractModel)
Mechanism: TypeAlias = str | Expression | AbstractLaw | Reaction | Callable[..., Expression]
"""What may replace a rate law or a rule of a network."""


def do(subject: Subject, /, **values: ArrayInput | Mechanism) -> Subject:
    """Return a model, a cohort or a population in which something is set from outside, whatever determined it before.

    $$ p(x \\mid do(X_k = x_k)) = \\prod_{j \\ne k} p(x_j \\mid parents_j) $$

    Of a model a number is replaced, or in a `Network` a mechanism: a formula (text, a function of symbols, or a rate
    law such as `MassAction("k")`) is the rate of a reaction, or the value of a species or a parameter at all times; a
    species is then cut off from its reactions, as by a clamp. A number is that of a parameter, which follows no rule
    any more, the initial value of a species, or the rate of a reaction (0 stops it).

    In a cohort all patients have the value, or each has its own, and everything else of them stays: what they do with
    and without is paired. In a population the parameter is no longer varied by its distribution, its formula, or
    covariates, while all other draws stay as they are; a covariate may be set as well, and parameters follow it.

    Results say what was set (`solution.interventions`). The derivative by what was cut is 0, that by the value is that
    of the outcome. Another value is no other program, unless a mechanism changes.

    Args:
        subject: The model, cohort or population.
        **values: By name: a number (of patients, one or one for each), or a formula. The name of a parameter in a part
            is dotted, `**{"pk.CL": 2.0}`, or its last part, `CL`, if no other has it.

    Raises:
        ValueError: If there is no such name, or the value cannot be set.

    Reference: Pearl, Causality, 2nd edition 2009, section 3.2, doi:10.1017/CBO9780511803161.

    Example:
        >>> import jax, qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> population = qsp.Population(patient, between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)})
        >>> cohort = population.sample(key=jax.random.key(0), size=50)
        >>> dose, impaired = qsp.bolus(100.0, to="central"), qsp.do(cohort, CL=0.5 * cohort.model.CL)
        >>> with_, without = (qsp.simulate_cohort(each, dose, [24.0]) for each in (impaired, cohort))
        >>> bool((with_.observed["concentration"] > without.observed["concentration"]).all())
        True
        >>> qsp.do(population, CL=2.0).sample(key=jax.random.key(0), size=50).interventions()
        do(CL=2)
        >>> from qspjax.models import Network, Reaction
        >>> loss = {"loss": Reaction("drug ->", "k * drug")}
        >>> network = Network(species={"drug": 10.0}, parameters={"k": 0.1}, reactions=loss)
        >>> qsp.simulate(qsp.do(network, loss="k * drug / (1 + drug)"), qsp.no_doses(), [1.0]).interventions
        do(loss: k * drug / (1 + drug))
    """
    if not values:
        raise ValueError("`do` must be given what to set, such as `do(model, CL=2.0)`, but is not.")
    check_instance("subject", subject, (AbstractModel, Cohort, Population), "a model, a cohort or a population")
    done: Any = subject
    for name, value in values.items():
        if isinstance(done, Population):
            done = _of_population(done, name, value)
        elif isinstance(done, Cohort):
            done = _of_cohort(done, name, value)
        else:
            done = _of_model(done, name, value)
    return done


def _of_population(population: Population, name: str, value: ArrayInput | Mechanism) -> Population:
    covariates = dict(zip(population.covariate_names, population.covariates, strict=True)) | population.observed
    numbers = _numbers(population.model)
    if name in covariates and name not in numbers:
        held = {**population.held, name: _covariate(name, value, covariates[name])}
        return made(Population, {**vars(population), "held": held})
    model, individual = _of_model(population.model, name, value), population.individual
    full = in_full(name, _numbers(model))
    if full in individual.parameters:  # other formulas follow it
        parameters = {**individual.parameters, full: at(model, full).get()}
        individual = made(Individual, {**vars(individual), "parameters": parameters})
    done = made(Population, {**vars(population), "model": model, "individual": individual})
    Population.__check_init__(done)
    return done


def _covariate(name: str, value: ArrayInput | Mechanism, covariate: object) -> jax.Array:
    """Return the number of a covariate, for one with categories that of a category."""
    if isinstance(covariate, Categorical):
        check_one_of(name, value, covariate.categories, "a category")
        return jnp.asarray(covariate.categories.index(str(value)))
    return _number(name, value, ())


def _of_cohort(cohort: Cohort, name: str, value: ArrayInput | Mechanism) -> Cohort:
    model, full = cohort.model, in_full(name, _numbers(cohort.model))
    varying = cohort.varying
    if _is_number(value):
        own = jnp.shape(at(model, full).get())[full in varying :] if full in _numbers(model) else ()
        value = _number(full, value, own, (cohort.size, *own))
        if full in varying:  # as before, so that the program is the same
            value = jnp.broadcast_to(value, (cohort.size, *own))
        elif value.shape != own:
            varying = (*varying, full)
    model = _replaced(model, full, value)
    varying = tuple(name for name in varying if name in _numbers(model))
    return made(Cohort, {**vars(cohort), "model": model, "varying": varying})


def _of_model(model: AbstractModel, name: str, value: ArrayInput | Mechanism) -> AbstractModel:
    full = in_full(name, _numbers(model))
    if _is_number(value):
        value = _number(full, value, jnp.shape(at(model, full).get()) if full in _numbers(model) else ())
    return _replaced(model, full, value)


def _replaced(model: M, name: str, value: Any) -> M:
    """Return a model with a number or a mechanism replaced, recorded."""
    if _is_number(value) and name in _numbers(model):
        return with_record(at(model, name).set(value), {name: ""})
    new, formula = _with_mechanism(model, name, value)
    return with_record(new, {name: formula})


def _with_mechanism(model: Any, name: str, value: Any) -> tuple[Any, str]:
    """Return a model with a mechanism replaced in it or in its parts, and the formula, "" if it is a number now."""
    if isinstance(model, Network):
        return _in_network(model, name, value)
    head, _, rest = name.partition(".")
    part = getattr(model, head, None)
    if not rest or not isinstance(part, AbstractModel):
        at(model, name)  # is there such a name?
        refuse(name, "be a number, since formulas replace mechanisms of a `Network` alone", value)
    new, formula = _with_mechanism(part, rest, value)
    return eqx.tree_at(lambda whole: getattr(whole, head), model, new, is_leaf=lambda x: x is part), formula


def _in_network(network: Network, id: str, value: Any) -> tuple[Network, str]:
    definition = network.definition
    if id in definition.reactions:
        new = network.replace(id, value) if isinstance(value, Reaction) else network.replace(id, rate=value)
    elif _is_number(value):
        new = network.replace(id, value, rule=None)
    else:
        new = network.replace(id, rule=value, rate=None, **({"boundary": True} if id in definition.species else {}))
    return new, formula_of(new.definition, id)


def _numbers(model: AbstractModel) -> tuple[str, ...]:
    """Return the names of the numbers of a model."""
    return tuple(parameter.name for parameter in names(model))


def _is_number(value: object) -> bool:
    return not isinstance(value, (str, Expression, AbstractLaw, Reaction)) and not callable(value)


def _number(name: str, value: Any, *shapes: tuple[int, ...]) -> jax.Array:
    """Return a number, or an array of one of these shapes."""
    check_number(name, value)
    number = device_floats(value)
    if number.shape not in shapes:
        refuse(name, f"have shape {' or '.join(map(str, shapes))}", f"of shape {number.shape}")
    return number
