"""An ensemble of neural networks, which disagree where they know little.

    s(u) = 1/M sum_m f_m(u),   sd(u)^2 = c^2 + 1/M sum_m (f_m(u) - s(u))^2

Each network begins at other weights and sees the simulations in another order. One simulation in `left_out` is kept
back: its errors give the constant c, what no disagreement says.

Reference: Lakshminarayanan, Pritzel and Blundell, arXiv:1612.01474.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import check_whole
from qspjax._random import generator
from qspjax._types import Key
from qspjax.population._plausible._network import Training, network_of
from qspjax.surrogate._contract import AbstractEmulator, AbstractPredictor, Learnt


class Ensemble(AbstractEmulator):
    """An ensemble of networks: for thousands of simulations, or outputs that are not smooth.

    Args:
        members: The number of networks.
        training: How each is fitted: width, hidden layers, and steps, batch and rate of Adam.
        left_out: One simulation of so many is kept back, to measure errors by.

    Reference: Lakshminarayanan, Pritzel and Blundell, arXiv:1612.01474.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.Ensemble(members=3, training=qsp.surrogate.Training(width=32)).left_out
        4
    """

    members: int = eqx.field(default=5, static=True)
    training: Training = eqx.field(default_factory=Training)
    left_out: int = eqx.field(default=4, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("members", self.members, 2)
        check_whole("left_out", self.left_out, 2)

    def learn(self, points: np.ndarray, values: np.ndarray, even: np.ndarray, key: Key) -> Learnt:
        for_choice, key = jax.random.split(key)
        known = np.flatnonzero(even)
        known = np.sort(generator(for_choice).permutation(known)[: -(-len(known) // self.left_out)])
        told = np.setdiff1d(np.arange(len(points)), known)
        centre, size = values[told].mean(axis=0), np.maximum(values[told].std(axis=0), 1e-9)
        rows = np.resize(told, 1 << (len(told) - 1).bit_length())  # one program serves several numbers of points
        inputs = jnp.asarray(2.0 * points[rows] - 1.0, jnp.float32)
        targets = jnp.asarray((values[rows] - centre) / size, jnp.float32)
        members = [network_of(inputs, targets, each, self.training) for each in jax.random.split(key, self.members)]
        layers = [[member.layers[i] for member in members] for i in range(len(members[0].layers))]
        weights = tuple(np.stack([np.asarray(layer.weight) for layer in each]) for each in layers)
        biases = tuple(np.stack([np.asarray(layer.bias) for layer in each]) for each in layers)
        without = Networks(weights, biases, centre, size, np.zeros(len(centre)))
        mean, spread = (np.asarray(part) for part in _predicted(without, jnp.asarray(points[known])))
        errors = values[known] - mean
        rest = np.sqrt(np.maximum((errors**2 - spread**2).mean(axis=0), 1e-12 * size**2))
        predictor = Networks(weights, biases, centre, size, rest)
        return Learnt(predictor, errors, np.sqrt(spread**2 + rest**2), known)


class Networks(AbstractPredictor):
    """Fitted networks.

    Attributes:
        weights: Those of each layer, shape (members, outputs, inputs).
        biases: Those of each layer, shape (members, outputs).
        centre: The mean of the values that they were fitted to, shape (outputs,).
        size: Their standard deviation.
        rest: c.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    centre: np.ndarray
    size: np.ndarray
    rest: np.ndarray

    def mean(self, points: Array) -> Array:
        return self.each(points).mean(axis=0)

    def deviation(self, points: Array) -> Array:
        each = self.each(points)
        return jnp.sqrt(self.rest**2 + jnp.mean((each - each.mean(axis=0)) ** 2, axis=0) + 1e-18 * self.size**2)

    def each(self, points: Array) -> Array:
        """Return the predictions of all members, shape (members, points, outputs)."""
        inputs = (2.0 * points - 1.0).astype(jnp.float32)
        return jnp.stack([self._member(m, inputs) for m in range(len(self.weights[0]))])

    def _member(self, m: int, inputs: Array) -> Array:
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            inputs = jnp.tanh(inputs @ weight[m].T + bias[m])
        outputs = inputs @ last[0][m].T + last[1][m]
        return self.centre + self.size * outputs.astype(self.centre.dtype)


@eqx.filter_jit
def _predicted(networks: Networks, points: Array) -> tuple[Array, Array]:
    return networks.mean(points), networks.deviation(points)
