"""The `[networks.NAME]` of a fit file: parts of a model that neural networks learn from the data.

inputs                     by name, the nominal size of each input; or a table: size, log, increasing, decreasing, zero
output                     "unbounded" or "positive" (with size), or "bounded" (with low and high)
unit                       the unit of the output
width, depth, activation   of the network: units of a layer, layers, "tanh", "softplus", "silu" or "relu"
seed                       of the weights with which the search begins
prior                      the standard deviation of each weight about 0; by default there is none
laws                       by name, the rates of reactions of the model with calls of the network:
                           elimination = "uptake(drug, target) * drug"
rules                      by name, formulas of what follows from others in the model

Without laws and rules the network is called by formulas of `[set]` and of outputs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._distribution import Normal
from qspjax.fit import Fit, Problem, Weights
from qspjax.fit._types import Point
from qspjax.io.toml._model import ModelInfo, info_of
from qspjax.io.toml._table import Table, present, shown
from qspjax.models import Bounded, Input, Network, NeuralRate, Positive, Unbounded, learned_curve

ACTIVATIONS: dict[str, Callable] = {
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


class Learned(NamedTuple):
    """What networks learn, as a file states it.

    Attributes:
        functions: The terms that formulas of the fit call, by name.
        weights: The weights of all terms, by the name of the term.
        info: The model, with those that its own formulas call.
    """

    functions: dict[str, NeuralRate]
    weights: dict[str, Weights]
    info: ModelInfo | None


def read_networks(table: Table, info: ModelInfo | None) -> Learned:
    """Read the networks of a fit file, and put those with laws or rules into its model.

    Args:
        table: The networks by name.
        info: The model, None where it is wrong.
    """
    functions, weights = {}, {}
    for name, part in table.children().items():
        term, prior = _term(part), part.number("prior", default=None, above=0)
        changes = {
            "rate": _formulas(part.table("laws"), "a reaction"),
            "rule": _formulas(part.table("rules"), "what is determined"),
        }
        part.close()
        if part.bad or term is None:
            continue
        weights[name] = Weights(None if prior is None else Normal(0.0, sd=prior))
        if not any(changes.values()):
            functions[name] = term
        elif info is not None:
            info = _within(part, info, name, term, changes)
    return Learned(functions, weights, info)


Curves: TypeAlias = dict[tuple[str, str], dict[str, np.ndarray]]
"""By the names of a network and of one of its inputs, the columns of `learned_curve`."""


def learned_curves(fit: Fit, points: int = 100) -> Curves:
    """Return what each network of a fit learned against each of its inputs, the others at their nominal size.

    An input that a solution has goes as far as it did; any other from a tenth of its nominal size to ten times that.

    Args:
        fit: The result of a fit with networks.
        points: The number of points.
    """
    observed = fit.problem.simulate(jnp.asarray(fit.x)).observed
    curves: Curves = {}
    for name, term in fit.networks.items():
        for input, scale in zip(term.names, term.scales, strict=True):
            seen = np.asarray(observed[input]).ravel() if input in observed else scale.size * np.array([0.1, 10.0])
            seen = seen[np.isfinite(seen)]
            low, high = max(seen.min(), 0.0), seen.max()
            first = max(low, 1e-3 * high)
            over = np.geomspace(first, high, points) if scale.logarithmic else np.linspace(low, high, points)
            curves[name, input] = learned_curve(term, {input: over})
    return curves


def given_networks(problem: Problem, x: Point) -> Problem:
    """Return the problem of the numbers alone, in which networks have the weights of a point."""
    weights = problem.split(jnp.asarray(x, float))[1]
    model, functions = problem.weights.placed(problem.model, weights), problem.weights.callables(weights)
    numbers = {name: value for name, value in problem.parameters.items() if not isinstance(value, Weights)}
    return dataclasses.replace(problem, model=model, parameters=numbers, functions=functions, penalties=())


def _term(table: Table) -> NeuralRate | None:
    inputs = table.table("inputs", required=True)
    scales = {name: _input(inputs, name) for name in inputs.values}
    kind = table.name("output", ("unbounded", "positive", "bounded"), "a range", default="unbounded")
    if kind == "bounded":
        low, high = table.number("low"), table.number("high")
        output = None if low is None or high is None else (lambda: Bounded(low, high))
    else:
        size, ranges = table.number("size", default=1.0, above=0), {"positive": Positive, "unbounded": Unbounded}
        output = None if size is None or kind is None else (lambda: ranges[kind](size))
    unit = table.unit("unit")
    width, depth = table.integer("width", default=8, minimum=1), table.integer("depth", default=2, minimum=0)
    activation = table.name("activation", ACTIVATIONS, "an activation", default="tanh")
    seed = table.integer("seed", default=0)
    if not scales and not table.bad:
        table.issue("inputs", "must have at least one input, but has none.")
    if table.bad or output is None or activation is None or width is None or depth is None or seed is None:
        return None
    try:
        return NeuralRate.mlp(
            present(scales),
            key=jax.random.key(seed),
            width=width,
            depth=depth,
            activation=ACTIVATIONS[activation],
            output=output(),
            unit=unit or "",
        )
    except ValueError as error:
        table.issue("", str(error))
        return None


def _input(table: Table, name: str) -> Input | None:
    if not isinstance(table.values[name], dict):
        size = table.number(name, above=0)
        return None if size is None else Input(size)
    part = table.table(name)
    size = part.number("size", default=1.0, above=0)
    logarithmic = part.flag("log", default=False)
    shape = {key: part.flag(key, default=False) for key in ("increasing", "decreasing", "zero")}
    return part.make(Input, size, logarithmic=logarithmic, **shape)


def _formulas(table: Table, what: str) -> dict[str, str]:
    """Read formulas by the names of what they belong to."""

    def text(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be the formula of {what}, in quotes, but is {shown(value)}.")
        return value

    return {name: formula for name in table.values if (formula := table.read(name, None, text)) is not None}


def _within(
    table: Table, info: ModelInfo, name: str, term: NeuralRate, changes: Mapping[str, Mapping[str, str]]
) -> ModelInfo:
    """Return a model whose laws and rules call a term."""
    network = info.model
    if not isinstance(network, Network):
        must = "must be those of a network of reactions, such as one in SBML; elsewhere formulas of [set] call it."
        table.issue("laws" if changes["rate"] else "rules", must)
        return info
    try:
        network = network.add(functions={name: term})
        for kind, formulas in changes.items():
            for id, formula in formulas.items():
                network = network.replace(id, **{kind: formula})
    except ValueError as error:
        table.issue("laws" if changes["rate"] else "rules", str(error))
        return info
    return info_of(network)
