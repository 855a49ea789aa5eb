"""From irregular observations of a patient to where his states begin."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class RecurrentEncoder(eqx.Module):
    """A gated recurrent unit that reads observations backwards in time and returns where the states begin.

    $$ h_i = GRU(h_{i+1}, (x_i m_i, m_i, u_i, (t_{i+1} - t_i) / horizon)), \\quad (mean, log sd) = W h_0 + b $$

    Backwards, so that what it reads last is nearest to the start. A value that was not observed counts as 0 and is
    masked; the gaps between times are an input, so that times may be irregular.

    Args:
        values: The number of observed values at a time.
        inputs: The number of other inputs at a time, such as the dose that was given.
        states: The number of values to return, such as `LatentHybrid.starting` takes.
        hidden: The number of units.
        horizon: What scales time.
        key: The key for the weights.

    Reference: Qian et al. 2021, arXiv:2106.02875, after Chung et al. 2014, arXiv:1412.3555.

    Example:
        >>> import jax, jax.numpy as jnp, qspjax as qsp
        >>> encoder = qsp.models.RecurrentEncoder(2, 1, states=3, hidden=8, key=jax.random.key(0))
        >>> values, seen = jnp.ones((4, 2)), jnp.ones((4, 2), bool)
        >>> mean, log_sd = encoder(jnp.array([0.0, 1.0, 1.5, 4.0]), values, seen, jnp.zeros((4, 1)))
        >>> mean.shape, log_sd.shape
        ((3,), (3,))
    """

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear
    horizon: float = eqx.field(static=True)

    def __init__(
        self, values: int, inputs: int, states: int, hidden: int, key: PRNGKeyArray, horizon: float = 1.0
    ) -> None:
        first, second = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(2 * values + inputs + 1, hidden, key=first)
        self.head = eqx.nn.Linear(hidden, 2 * states, key=second)
        self.horizon = float(horizon)

    def __call__(
        self,
        times: Float[Array, " times"],
        values: Float[Array, "times values"],
        seen: Bool[Array, "times values"],
        inputs: Float[Array, "times inputs"],
    ) -> tuple[Float[Array, " states"], Float[Array, " states"]]:
        """Return the means and the logarithms of the standard deviations of where the states begin.

        Args:
            times: Times, increasing; trailing inf is padding, which is not read.
            values: What was observed; anything, nan too, where it was not.
            seen: Whether it was observed.
            inputs: Other inputs.
        """
        real = jnp.isfinite(times)
        gaps = jnp.where(real[1:], jnp.diff(jnp.where(real, times, 0.0)), 0.0) / self.horizon
        gaps = jnp.concatenate([gaps, jnp.zeros(1)])
        known = jnp.where(seen, values, 0.0)
        rows = jnp.concatenate([known, seen.astype(known.dtype), inputs, gaps[:, None]], axis=1)

        def read(hidden: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            what, is_real = row
            return jnp.where(is_real, self.cell(what, hidden), hidden), None

        hidden, _ = jax.lax.scan(read, jnp.zeros(self.cell.hidden_size), (rows, real), reverse=True)
        mean, log_sd = jnp.split(self.head(hidden), 2)
        return mean, log_sd
