"""Parameters to estimate: their starts, bounds, scales of the search and priors."""

from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import ArgumentError, check_finite, check_instance, check_number, described, refuse
from qspjax._distribution import AbstractDistribution
from qspjax._expression import Expression, as_formula
from qspjax._parameters import AbstractChecked
from qspjax._transform import AbstractTransform, Identity, Log, Logit
from qspjax._types import Scalar
from qspjax.fit._types import Point, Vector
from qspjax.fit._weights import Weights


class Free(AbstractChecked):
    """A parameter to estimate.

    Args:
        start: Where the search begins, on the natural scale.
        bounds: The least and the greatest value, on the natural scale; every method keeps to them. By default 1e-6 and
            1e6 times the start on a logarithmic scale, and none otherwise.
        transform: The scale of the search; by default `Log()`, and `Identity()` if the start or a bound is not
            positive.
        prior: A distribution of the natural value, or a function that gives its log density.
        prior_scaled: Whether the prior is that of the transformed value.
        quantile: The quantile function of random starts: it takes probabilities and returns natural values, both of
            shape (starts,); by default starts are uniform between the bounds, on the scale of the search.

    Raises:
        ValueError: If the start lies outside the bounds, or the bounds outside the domain of the transform.

    Example:
        >>> Free(3.0, bounds=(0.1, 100.0)).searched_bounds()[1].round(3)
        Array(4.605, dtype=float64)
    """

    start: float = eqx.field(static=True)
    lower: float = eqx.field(static=True)
    upper: float = eqx.field(static=True)
    transform: AbstractTransform
    prior: AbstractDistribution | Callable[[Scalar], Scalar] | None
    prior_scaled: bool = eqx.field(static=True)
    quantile: Callable[[Float[np.ndarray, " starts"]], Float[np.ndarray, " starts"]] | None = eqx.field(static=True)

    def __init__(
        self,
        start: float,
        *,
        bounds: tuple[float, float] | None = None,
        transform: AbstractTransform | None = None,
        prior: AbstractDistribution | Callable[[Scalar], Scalar] | None = None,
        prior_scaled: bool = False,
        quantile: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Check everything."""
        check_number("start", start)
        check_finite("start", start)
        if prior is not None and not isinstance(prior, AbstractDistribution) and not callable(prior):
            refuse("prior", "be a distribution such as LogNormal(3.0, cv=0.5), or a function", described(prior))
        if bounds is not None and (not isinstance(bounds, Sequence | np.ndarray) or len(bounds) != 2):
            refuse("bounds", "be the least and the greatest value, such as (0.1, 10.0)", bounds)
        positive = start > 0 and (bounds is None or bounds[0] > 0)
        self.transform = (Log() if positive else Identity()) if transform is None else transform
        check_instance("transform", self.transform, AbstractTransform, "a transform such as Log()")
        if not jnp.isfinite(self.transform.forward(start)):
            kind = type(self.transform).__name__
            raise ArgumentError("start", f"must lie in the domain of its transform {kind}, but is {start:g}.")
        if bounds is None:
            bounds = (1e-6 * start, 1e6 * start) if isinstance(self.transform, Log) else (-jnp.inf, jnp.inf)
        if not bounds[0] < bounds[1]:
            refuse("bounds", "be the least and the greatest value, in this order", bounds)
        if not bounds[0] <= start <= bounds[1]:
            refuse("start", f"lie within the bounds {bounds[0]:g} to {bounds[1]:g}", start)
        self.start, self.lower, self.upper = float(start), float(bounds[0]), float(bounds[1])
        self.prior, self.prior_scaled, self.quantile = prior, prior_scaled, quantile

    def __check_init__(self) -> None:
        if jnp.isnan(jnp.asarray(self.searched_bounds())).any():
            kind = type(self.transform).__name__
            refuse("bounds", f"lie in the domain of the transform {kind}", (self.lower, self.upper))

    def searched_bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the bounds on the scale of the search."""
        return self.transform.forward(self.lower), self.transform.forward(self.upper)

    def scale(self, value: float) -> AbstractTransform:
        """Return the scale on which uncertainty about a value is symmetric.

        The scale of the search; if that is the natural one, the logarithm for a parameter that cannot be negative and
        the logit for one between 0 and 1.
        """
        scale = self.transform
        if isinstance(scale, Identity) and self.lower >= 0.0:
            scale = Logit() if (self.lower, self.upper) == (0.0, 1.0) else Log()
        return scale if np.isfinite(float(scale.forward(value))) else Identity()

    def drawn(self, probability: Float[np.ndarray, " starts"]) -> Float[np.ndarray, " starts"]:
        """Return starts on the scale of the search, within the bounds.

        Args:
            probability: Uniformly distributed numbers between 0 and 1.
        """
        lower, upper = (float(edge) for edge in self.searched_bounds())
        if self.quantile is not None:
            return np.clip(np.asarray(self.transform.forward(self.quantile(probability))), lower, upper)
        return lower + (upper - lower) * probability

    def log_prior(self, natural: Scalar) -> Scalar:
        """Return the log density of the prior, 0 if there is none."""
        if self.prior is None:
            return 0.0
        value = self.transform.forward(natural) if self.prior_scaled else natural
        return self.prior.log_prob(value) if isinstance(self.prior, AbstractDistribution) else self.prior(value)


def natural_values(free: Sequence[Free], x: Point) -> Vector:
    """Return the natural values of parameters at a point."""
    x = jnp.asarray(x, float)
    scale = np.array([np.log(f.transform.base) if isinstance(f.transform, Log) else 0.0 for f in free])
    values = jnp.where(scale > 0, jnp.exp(jnp.where(scale > 0, x * scale, 0.0)), x)
    for i, parameter in enumerate(free):
        if not isinstance(parameter.transform, (Log, Identity)):
            values = values.at[i].set(parameter.transform.inverse(x[i]))
    return values


def log_priors(free: Sequence[Free], natural: Vector) -> Float[Array, ""]:
    """Return the log density of all priors."""
    return jnp.sum(jnp.stack([jnp.asarray(parameter.log_prior(natural[i]), float) for i, parameter in enumerate(free)]))


def free_of(parameters: Mapping[str, Free | Weights | float]) -> dict[str, Free]:
    """Return the parameters that are estimated, by name."""
    return {name: value for name, value in parameters.items() if isinstance(value, Free)}


def fixed_of(parameters: Mapping[str, Free | Weights | float]) -> dict[str, float]:
    """Return the numbers of parameters that are not estimated, by name.

    Raises:
        ValueError: If a value is neither `Free(...)` nor a number.
    """
    fixed = {}
    for name, value in parameters.items():
        if not isinstance(value, (Free, Weights)):
            number = as_formula(name, value)
            if isinstance(number, Expression):
                refuse("parameters", "be Free(...), Weights(...) or numbers", name)
            fixed[name] = number
    return fixed


def starts_of(free: Mapping[str, Free]) -> Vector:
    """Return where a search begins, on its scale."""
    if not free:
        return jnp.zeros(0)
    return jnp.stack([parameter.transform.forward(parameter.start) for parameter in free.values()])


def bounds_of(free: Mapping[str, Free]) -> tuple[Vector, Vector]:
    """Return the least and the greatest point."""
    if not free:
        return jnp.zeros(0), jnp.zeros(0)
    edges = [parameter.searched_bounds() for parameter in free.values()]
    return jnp.stack([lower for lower, _ in edges]), jnp.stack([upper for _, upper in edges])
