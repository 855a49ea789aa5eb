"""A start for the weights of networks without simulations: smooth the data, then regress their rates.

    least squares of   d/dt h(y(t)) - dc/dt   over the weights,   d/dt h(y(t)) = dh/dy f(t, y; w)

with c the smooth curve through the measurements of an output h, and y the states that come closest to the ones that are
simulated at the start of the problem, of all those which agree with the smooth curves.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import ArgumentError, check_above, check_whole
from qspjax.fit._problem import Problem
from qspjax.fit.search._starts import AbstractStarts
from qspjax.fit.training._curves import Curves


class Collocation(AbstractStarts):
    """A start by gradient matching: the weights with which the model explains the slopes of smoothed data.

    Measurements of each output are smoothed between doses by a Gaussian process, where there are at least three. States
    that are not observed are those of a simulation at the start of the problem, moved as little as the smooth curves
    ask. The weights, and if so asked the numbers, are then regressed on the slopes, without a simulation. It is only a
    start: what the smoothing gets wrong, the solver corrects in the search that follows.

    Args:
        numbers: Whether the free numbers of the mechanism are regressed, too; by default they begin where they are.
        steps: The greatest number of iterations of the regression.
        shrinkage: The weight of the priors in the regression.

    Raises:
        ValueError: From `estimate`, if no output has three measurements between two doses.

    Reference: Varah, SIAM J Sci Stat Comput 1982;3:28, doi:10.1137/0903003; Brunel, Electron J Stat 2008;2:1242,
    doi:10.1214/07-EJS132; Roesch et al., arXiv:2107.08398 (2021) (neural ordinary differential equations).

    Example:
        >>> from qspjax.fit import Collocation
        >>> Collocation(numbers=True).steps
        500
    """

    numbers: bool = eqx.field(default=False, static=True, kw_only=True)
    steps: int = eqx.field(default=500, static=True, kw_only=True)
    shrinkage: float = eqx.field(default=0.01, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("steps", self.steps, 1)
        check_above("shrinkage", self.shrinkage, 0.0)

    def points(self, problem: Problem) -> np.ndarray:
        from scipy.optimize import minimize

        curves = Curves.of(problem)
        if not any(np.isfinite(slope).any() for slope in curves.slopes):
            must = "have three measurements of an output between doses in some experiment"
            raise ArgumentError("problem", f"must {must}, but there are none to be smoothed.")
        moving = np.arange(len(problem.names)) >= (0 if self.numbers else len(problem.free))
        start = jnp.asarray(problem.start)

        def loss(moved: Array) -> Array:
            x = start.at[np.flatnonzero(moving)].set(moved)
            return 0.5 * jnp.mean(curves.residuals(x) ** 2) - self.shrinkage * problem.log_prior(x) / len(start)

        sloped = eqx.filter_jit(jax.value_and_grad(loss))

        def evaluated(moved: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = sloped(jnp.asarray(moved))
            good = bool(jnp.isfinite(value)) and bool(jnp.isfinite(gradient).all())
            return (float(value), np.asarray(gradient)) if good else (1e300, np.zeros(moved.size))

        bounds = np.stack([np.asarray(edge)[moving] for edge in problem.bounds], axis=1)
        first = np.asarray(start)[moving]
        found = minimize(evaluated, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": self.steps})
        return np.asarray(start.at[np.flatnonzero(moving)].set(jnp.asarray(found.x)))[None]
