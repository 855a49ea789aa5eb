"""Elementary effects: which inputs matter at all, from few evaluations.

EE_i = (Y(x + delta e_i) - Y(x)) / delta,  mu* = mean |EE_i|,  sigma = SD(EE_i)
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_whole
from qspjax._random import generator
from qspjax._text import by_output
from qspjax._types import Key
from qspjax.sensitivity._design import Function, Inputs, by_input, evaluated, without_failures

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Morris:
    """Elementary effects of each input, on the unit cube, shape (inputs, outputs).

    Attributes:
        names: The inputs.
        mu: Their mean.
        mu_star: The mean of their absolute values: how much the input matters.
        sigma: Their standard deviation: how much the effect depends on the point, and on other inputs.
        failed: Trajectories that were left out because an evaluation failed.

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, morris
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = morris(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0))
        >>> found.mu_star[:, 0].round(6)
        array([1., 2.])
    """

    names: tuple[str, ...]
    mu: np.ndarray
    mu_star: np.ndarray
    sigma: np.ndarray
    failed: int

    def __str__(self) -> str:
        return by_output(self.names, mu=self.mu, mu_star=self.mu_star, sigma=self.sigma)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per input and output."""
        return by_input(self.names, mu=self.mu, mu_star=self.mu_star, sigma=self.sigma)


def morris(function: Function, inputs: Inputs, *, key: Key, trajectories: int = 20, levels: int = 4) -> Morris:
    """Screen inputs by their elementary effects.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs).
        inputs: The inputs that vary.
        trajectories: Number of random paths through the grid, each with one step per input.
        levels: Number of points of the grid in each direction, even.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If `levels` is not even, or no path succeeds.

    Reference: Morris, Technometrics 1991;33:161, doi:10.2307/1269043; Campolongo et al., Environ Model Softw
    2007;22:1509, doi:10.1016/j.envsoft.2006.10.004 (mu*).

    Example:
        >>> import jax
        >>> from qspjax.sensitivity import Inputs, morris
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = morris(lambda x: x[:, 0] + 2 * x[:, 1], inputs, key=jax.random.key(0))
        >>> found.mu_star[:, 0].round(3), found.sigma[:, 0].round(3)
        (array([1., 2.]), array([0., 0.]))
    """
    check_whole("trajectories", trajectories, 1)
    check_whole("levels", levels, 2)
    if levels % 2:
        raise ValueError(f"Argument `levels` must be even, but is {levels}.")
    unit, order, delta = paths(len(inputs.names), trajectories, levels, key)
    values = evaluated(function, inputs.from_unit(unit.reshape(-1, unit.shape[2])))
    return morris_of(values.reshape(*unit.shape[:2], -1), order, delta, inputs.names)


def paths(count: int, trajectories: int, levels: int, key: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths on the unit cube (paths, inputs + 1, inputs), the input that each step changes, and by how much."""
    rng = generator(key)
    jump = levels / (2 * (levels - 1))
    start = rng.integers(0, levels, (trajectories, count)) / (levels - 1)
    delta = np.where(start + jump <= 1 + 1e-12, jump, -jump)
    order = np.argsort(rng.random((trajectories, count)), axis=1)
    unit = np.repeat(start[:, None], count + 1, axis=1)
    for path in range(trajectories):
        for step, changed in enumerate(order[path]):
            unit[path, step + 1 :, changed] += delta[path, changed]
    return np.clip(unit, 0.0, 1.0), order, delta


def morris_of(values: np.ndarray, order: np.ndarray, delta: np.ndarray, names: tuple[str, ...]) -> Morris:
    """Return the effects from outputs along paths, shape (paths, inputs + 1, outputs).

    Raises:
        ValueError: If no path succeeds.
    """
    succeeded = without_failures(values)
    if not succeeded.any():
        raise ValueError(f"At least one trajectory must succeed, but none of {succeeded.size} does.")
    steps = np.diff(values, axis=1)
    effects = np.empty_like(steps)
    for path, changed in enumerate(order):
        effects[path, changed] = steps[path] / delta[path, changed][:, None]
    finite = effects[succeeded]
    spread = finite.std(axis=0, ddof=1) if len(finite) > 1 else np.full(finite.shape[1:], np.nan)
    return Morris(names, finite.mean(axis=0), np.abs(finite).mean(axis=0), spread, int((~succeeded).sum()))
