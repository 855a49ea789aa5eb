"""How the covariance of estimates is computed from the derivatives of the log-likelihood.

With R the second derivative of -log L at the estimate, and S the sum over subjects of the outer products of its slopes:

| class | matrix | NONMEM |
|---|---|---|
| `Sandwich` | R^-1 S R^-1 | the default of $COVARIANCE |
| `Hessian` | R^-1 | MATRIX=R |
| `OuterProducts` | S^-1 | MATRIX=S |
"""

import abc
from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "names names"]


class AbstractCovariance(eqx.Module):
    """How the covariance of estimates is computed.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.fit.Sandwich(), qsp.fit.AbstractCovariance)
        True
    """

    @abc.abstractmethod
    def matrix(self, slopes: Float[np.ndarray, "subjects names"], hessian: Callable[[], Matrix]) -> Matrix:
        """Return the covariance on the scale of the search.

        Args:
            slopes: The slopes of the -log L of each subject.
            hessian: Returns R, which takes time to compute.
        """


class Sandwich(AbstractCovariance):
    """The covariance R^-1 S R^-1: valid even if the model is wrong, given many more subjects than estimates.

    Reference: White, Econometrica 1982;50:1, doi:10.2307/1912526.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> float(qsp.fit.Sandwich().matrix(np.array([[1.0], [-2.0]]), lambda: np.array([[4.0]]))[0, 0])
        0.3125
    """

    def matrix(self, slopes: Float[np.ndarray, "subjects names"], hessian: Callable[[], Matrix]) -> Matrix:
        inverse = np.linalg.inv(hessian())
        return inverse @ (slopes.T @ slopes) @ inverse


class Hessian(AbstractCovariance):
    """The covariance R^-1.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> float(qsp.fit.Hessian().matrix(np.array([[1.0], [-2.0]]), lambda: np.array([[4.0]]))[0, 0])
        0.25
    """

    def matrix(self, slopes: Float[np.ndarray, "subjects names"], hessian: Callable[[], Matrix]) -> Matrix:
        del slopes
        return np.linalg.inv(hessian())


class OuterProducts(AbstractCovariance):
    """The covariance S^-1: the fastest, since it needs no second derivatives.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> float(qsp.fit.OuterProducts().matrix(np.array([[1.0], [-2.0]]), lambda: np.array([[4.0]]))[0, 0])
        0.2
    """

    def matrix(self, slopes: Float[np.ndarray, "subjects names"], hessian: Callable[[], Matrix]) -> Matrix:
        del hessian
        return np.linalg.inv(slopes.T @ slopes)


SANDWICH = Sandwich()
