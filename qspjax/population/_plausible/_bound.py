"""A bound on a statistic of a patient: an endpoint in one arm, or its ratio between two."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_instance, check_number, concrete, refuse
from qspjax._parameters import as_parameter
from qspjax._types import Scalar
from qspjax.population._endpoints import AbstractEndpoint


class Bound(eqx.Module):
    """The range in which a statistic of a plausible patient lies.

    $$ \\text{low} \\le s \\le \\text{high}, \\quad s = e(\\text{arm}) \\text{ or } e(\\text{arm}) / e(\\text{over}) $$

    A statistic with a positive `low` is compared on the scale of logarithms wherever distances count.

    Args:
        statistic: The endpoint e of one patient, such as `endpoints.Value("concentration", at=24.0)`.
        low: The smallest value, in the unit of the endpoint.
        high: The greatest value.
        arm: The name of the arm; it may be left out where there is one arm only.
        over: The name of the arm whose value of the same endpoint divides that of `arm`.

    Raises:
        ValueError: If there is no finite bound, or `low` is not below `high`.

    Example:
        >>> import qspjax as qsp
        >>> trough = qsp.endpoints.Value("concentration", at=24.0)
        >>> qsp.population.Bound(trough, 1.0, 4.0).holds([0.5, 2.0]).tolist()
        [False, True]
    """

    statistic: AbstractEndpoint
    low: Scalar = eqx.field(default=-jnp.inf, converter=as_parameter)
    high: Scalar = eqx.field(default=jnp.inf, converter=as_parameter)
    arm: str | None = eqx.field(default=None, static=True, kw_only=True)
    over: str | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_instance("statistic", self.statistic, AbstractEndpoint, "an endpoint, such as endpoints.Value(...)")
        for name, value in (("low", self.low), ("high", self.high)):
            check_number(name, value)
            number = concrete(value)
            if number is not None and number.ndim:
                refuse(name, "be one number", f"of shape {number.shape}")
            if number is not None and np.isnan(number).any():
                refuse(name, "be a number or infinite", number)
        low, high = concrete(self.low), concrete(self.high)
        if low is not None and high is not None:
            if not (low < high).all():
                refuse("high", f"be greater than `low` ({float(low):g})", high)
            if not (np.isfinite(low) | np.isfinite(high)).all():
                refuse("low", "be finite where `high` is not", low)

    def holds(self, values: object) -> np.ndarray:
        """Return whether the bound holds for each of some values; it does not for NaN."""
        values = np.asarray(values, float)
        return (values >= np.asarray(self.low)) & (values <= np.asarray(self.high))
