"""An emulator of statistics for many simulations: a neural network with two hidden layers.

    s(u) = W3 tanh(W2 tanh(W1 u + b1) + b2) + b3

It is fitted by Adam to seven eighths of the points; the others say how far it errs near the bounds. What it costs does
not grow with the number of points, where a Gaussian process (`_emulator.py`) takes their number cubed.

Reference: Kingma and Ba, arXiv:1412.6980.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_LEFT_OUT = 8
"""One point of so many is left out, to measure errors by."""
_NEAR = 4
"""Errors are those of one in so many of the points left out: those nearest to the bounds."""
_SIZE = 1 << 15
"""The greatest number of points to learn from; fewer come several times, so that one program serves all numbers."""
_LEVEL, _NORMAL = 0.98, 2.326
"""A quantile of the absolute errors, and what it is in standard deviations where they are normal."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A fitted network, with the interface of `Emulator`.

    Attributes:
        known: The indices of the points that were left out.
        left_out: What it predicts for these, shape (points, statistics).
        left_out_sd: The standard deviations of these predictions.
        spread: The standard deviation of all predictions, shape (statistics,).

    Example:
        >>> points = np.random.default_rng(0).random((2048, 2))
        >>> network = trained(points, np.exp(points[:, :1] * points[:, 1:]), np.zeros(2048))
        >>> bool(abs(network.mean(np.array([[0.5, 0.4]]))[0, 0] - 1.221) < 0.02)
        True
    """

    known: np.ndarray
    left_out: np.ndarray
    spread: np.ndarray
    _predict: Callable[[np.ndarray], np.ndarray]

    @property
    def left_out_sd(self) -> np.ndarray:
        """The standard deviations of what is predicted for the points left out."""
        return np.broadcast_to(self.spread, self.left_out.shape)

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Return the predictions, shape (points, statistics)."""
        return self._predict(points)

    def deviation(self, points: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the predictions, shape (points, statistics)."""
        return np.broadcast_to(self.spread, (len(points), len(self.spread)))


def trained(points: np.ndarray, values: np.ndarray, score: np.ndarray) -> Network:
    """Fit a network to statistics, shape (points, statistics); by their scores, some points are near the bounds."""
    order = np.random.default_rng(0).permutation(len(points))  # of a Sobol sequence, every eighth lies in one octant
    known = np.sort(order[: -(-len(points) // _LEFT_OUT)])
    learnt = np.setdiff1d(np.arange(len(points)), known)[-_SIZE:]
    centre, size = values[learnt].mean(axis=0), np.maximum(values[learnt].std(axis=0), 1e-9)
    chosen = np.resize(learnt, _SIZE)
    targets = jnp.asarray((values[chosen] - centre) / size, jnp.float32)
    weights = network_of(_inputs(points[chosen]), targets, jax.random.key(0), Training())

    def predict(points: np.ndarray) -> np.ndarray:
        return centre + size * np.asarray(_evaluated(weights, _inputs(points)), float)

    left_out = predict(points[known])
    nearest = np.argsort(score[known], kind="stable")[: max(len(known) // _NEAR, 16)]
    errors = np.abs(left_out - values[known])[nearest]
    spread = np.maximum(np.sqrt((errors**2).mean(axis=0)), np.quantile(errors, _LEVEL, axis=0) / _NORMAL)
    return Network(known, left_out, np.maximum(spread, 1e-9), predict)


def _inputs(points: np.ndarray) -> jax.Array:
    return jnp.asarray(2.0 * points - 1.0, jnp.float32)


@eqx.filter_jit
def _evaluated(network: eqx.nn.MLP, inputs: jax.Array) -> jax.Array:
    return jax.vmap(network)(inputs)


class Training(eqx.Module):
    """How a network is fitted.

    Attributes:
        width: The number of units of each hidden layer.
        depth: The number of hidden layers.
        steps: The number of steps of Adam.
        batch: The number of points of each step.
        rate: The first rate, which falls to zero along half a cosine.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.Training(width=32, steps=500).depth
        2
    """

    width: int = eqx.field(default=96, static=True)
    depth: int = eqx.field(default=2, static=True)
    steps: int = eqx.field(default=3000, static=True)
    batch: int = eqx.field(default=512, static=True)
    rate: float = eqx.field(default=5e-3, static=True)


@eqx.filter_jit
def network_of(inputs: jax.Array, values: jax.Array, key: jax.Array, training: Training) -> eqx.nn.MLP:
    """Return the network with the least squares of errors, after a fixed number of steps."""
    import optax

    first, draws = jax.random.split(key)
    network = eqx.nn.MLP(
        inputs.shape[1], values.shape[1], training.width, training.depth, jnp.tanh, dtype=jnp.float32, key=first
    )
    weights, fixed = eqx.partition(network, eqx.is_array)
    rule = optax.adam(optax.cosine_decay_schedule(training.rate, training.steps))

    def loss(weights: eqx.nn.MLP, rows: jax.Array) -> jax.Array:
        errors = jax.vmap(eqx.combine(weights, fixed))(inputs[rows]) - values[rows]
        return jnp.mean(errors**2)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        weights, state = carry
        slopes = jax.grad(loss)(weights, jax.random.randint(key, (training.batch,), 0, len(inputs)))
        updates, state = rule.update(slopes, state)
        return (eqx.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(step, (weights, rule.init(weights)), jax.random.split(draws, training.steps))
    return eqx.combine(weights, fixed)
