"""The rows of the table of parameters that are weights: their values, which are estimated, and their priors."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._distribution import AbstractDistribution
from qspjax._transform import Identity
from qspjax._types import Numeric
from qspjax.fit import Weights
from qspjax.io._issues import Issue
from qspjax.io.petab._distributions import Bounds, prior_in
from qspjax.io.petab._priors import PetabPrior, quantile
from qspjax.io.petab._tables import Row, TableIssues
from qspjax.io.petab.sciml._arrays import Arrays
from qspjax.io.petab.sciml._neural_network import NeuralNetwork
from qspjax.io.petab.sciml._read import set_weight, unknown_arrays, with_weight
from qspjax.io.petab.sciml._references import Part

ARRAY = "array"
"""Says that values come from a file of arrays."""


class WeightPrior(AbstractDistribution):
    """The distribution of each weight by its name in PEtab, within bounds; without a name all weights there are alike.

    Attributes:
        prior: The density, None if all weights within the bounds are alike.
        low: The least weight.
        high: The greatest weight.
    """

    prior: PetabPrior | None
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        from scipy import special

        return jnp.asarray(quantile(*self._named(), self.low, self.high)(special.ndtr(np.asarray(z))))

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        """Return the variate, by bisection."""
        low, high = np.full(np.shape(x), -40.0), np.full(np.shape(x), 40.0)
        for _ in range(80):
            middle = 0.5 * (low + high)
            below = np.asarray(self.from_normal(middle)) < np.asarray(x)
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return jnp.asarray(0.5 * (low + high))

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        inside = (jnp.asarray(x) >= self.low) & (jnp.asarray(x) <= self.high)
        density = jnp.zeros(jnp.shape(x)) if self.prior is None else self.prior(jnp.asarray(x))
        return jnp.where(inside, density, -jnp.inf)

    def _named(self) -> tuple[str, tuple[float, ...]]:
        return ("uniform", (self.low, self.high)) if self.prior is None else (self.prior.kind, self.prior.parameters)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a row of the table says of weights.

    Attributes:
        part: The weights.
        row: The row.
        value: A number for each of them, `array` if a file has them, None if nothing is said.
        estimated: Whether they are estimated.
        prior: Their distribution.
    """

    part: Part
    row: Row
    value: float | str | None
    estimated: bool
    prior: AbstractDistribution | None

    @property
    def kind(self) -> tuple:
        """What must be the same for weights to be one parameter."""
        return self.estimated, self.prior


def settings_of(
    rows: Sequence[Row], parts: Mapping[str, Part], issues: TableIssues, *, implicit: bool
) -> list[Setting]:
    """Return what rows of the table of parameters say of weights.

    Args:
        rows: The rows.
        parts: The weights of each, by id.
        issues: Collects the issues.
        implicit: Whether a prior is uniform between finite bounds where none is given.
    """
    settings = []
    for row in rows:
        text = row.get("nominalValue")
        value = text if text == ARRAY else issues.number(row, "nominalValue")
        value = None if isinstance(value, float) and math.isnan(value) else value
        estimated = {"true": True, "false": False}.get(row.get("estimate").lower())
        if estimated is None:
            issues.add(row, "estimate", f"must be true or false, but is {row.get('estimate') or 'empty'}.")
        if not estimated and value is None:
            issues.add(
                row, "nominalValue", "must be array or a number for weights that are not estimated, but is empty."
            )
        if isinstance(value, float) and not math.isfinite(value):
            issues.add(row, "nominalValue", f"must be array or a finite number, but is {text}.")
        lower, upper = issues.number(row, "lowerBound", -math.inf), issues.number(row, "upperBound", math.inf)
        if not lower < upper:
            issues.add(row, "lowerBound", f"must be less than the upper bound {upper:g}, but is {lower:g}.")
            continue
        prior = _prior(row, issues, lower, upper, implicit) if estimated else None
        settings.append(Setting(parts[row.get("parameterId")], row, value, bool(estimated), prior))
    return settings


def _prior(row: Row, issues: TableIssues, lower: float, upper: float, implicit: bool) -> AbstractDistribution | None:
    bounded = math.isfinite(lower) or math.isfinite(upper)
    if implicit and not row.get("priorDistribution") and math.isfinite(lower) and math.isfinite(upper):
        return WeightPrior(PetabPrior("uniform", (lower, upper)), lower, upper)
    if row.get("priorDistribution").lower() == "uniform" and not row.get("priorParameters") and not bounded:
        issues.add(row, "priorParameters", "must be two numbers where there are no bounds, but is empty.")
        return None
    prior, _ = prior_in(row, issues, "2", Bounds(lower, upper, Identity()))
    return WeightPrior(prior, lower, upper) if prior is not None or bounded else None


@dataclasses.dataclass
class Filled:
    """A network with the weights of its problem.

    Attributes:
        network: The network.
        parameters: What is estimated of it, by names of parts of the term that holds it.
    """

    network: NeuralNetwork
    parameters: dict[str, Weights]


def filled(
    id: str, network: NeuralNetwork, settings: Sequence[Setting], arrays: Arrays, file: str, issues: TableIssues
) -> Filled:
    """Return a network with its weights, and what is estimated; the most special setting of an array holds.

    Args:
        id: The id of the network.
        network: The network.
        settings: What the table of parameters says of weights of any network.
        arrays: The arrays of all files.
        file: The name of the file of the problem.
        issues: Collects the issues.
    """
    own = [setting for setting in settings if setting.part.network == id]
    issues.issues.extend(unknown_arrays(network, id, arrays))
    weights = network.weights()
    for setting in own:
        if setting.part.layer and setting.part.layer not in weights:
            issues.add(setting.row, "parameterId", f"must be a layer with weights, but {setting.part.layer} is none.")
        elif setting.part.array and setting.part.array not in weights[setting.part.layer]:
            issues.add(setting.row, "parameterId", f"must be an array of a layer, but {setting.part.array} is none.")
    layers = dict(network.layers)
    chosen: dict[tuple[str, str], Setting] = {}
    for layer, array, value in _leaves(weights):
        holding = [setting for setting in own if setting.part.holds(layer, array)]
        if not holding:
            issues.of_file(
                file, f"must have a row in the table of parameters for {array} of {layer} of {id}, but has none."
            )
            continue
        setting = chosen[layer, array] = max(holding, key=lambda setting: setting.part.depth)
        given = next((s.value for s in sorted(holding, key=lambda s: -s.part.depth) if s.value is not None), None)
        stored = arrays.parameters.get((id, layer, array))
        if given == ARRAY and stored is None:
            message = f"must have the array parameters/{id}/{layer}/{array} of shape {value.shape}, but has not."
            issues.issues.append(Issue(", ".join(arrays.files) or file, (), message))
        elif given == ARRAY and stored is not None:
            layers[layer] = with_weight(layers[layer], array, stored, issues.issues)
        elif isinstance(given, float):
            layers[layer] = set_weight(layers[layer], array, np.full(value.shape, given))
    network = eqx.tree_at(lambda network: network.layers, network, layers)
    return Filled(network, {name: Weights(prior=setting.prior) for name, setting in _together(id, chosen)})


def _leaves(weights: Mapping[str, Mapping[str, Array]]) -> Iterator[tuple[str, str, Array]]:
    for layer, arrays in weights.items():
        for array, value in arrays.items():
            yield layer, array, value


def _together(id: str, chosen: Mapping[tuple[str, str], Setting]) -> Iterator[tuple[str, Setting]]:
    """Yield the names of weights that are estimated alike: of a whole network, of layers, of arrays."""
    if len({setting.kind for setting in chosen.values()}) == 1:
        setting = next(iter(chosen.values()))
        if setting.estimated:
            yield id, setting
        return
    for layer in dict.fromkeys(layer for layer, _ in chosen):
        own = {array: setting for (owner, array), setting in chosen.items() if owner == layer}
        alike = len({setting.kind for setting in own.values()}) == 1
        for array, setting in [*own.items()][: 1 if alike else None]:
            if setting.estimated:
                yield f"{id}.layers.{layer}" + ("" if alike else f".{array}"), setting
