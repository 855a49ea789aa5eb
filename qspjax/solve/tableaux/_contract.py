"""The tableau of a Rosenbrock method: its coefficients.

All methods here are stiffly accurate and L-stable, in the form with W = M/gamma - h J, in which a step of length zero
is exact:

    W u_i = h f(t + c_i h, y + sum_j a_ij u_j) + M sum_j C_ij u_j + h^2 d_i f_t,   y_1 = y + sum_j a_sj u_j + u_s

with s stages, M the mass matrix (the identity for ordinary differential equations) and the error estimate
sum_j e_j u_j. With Gamma = (I/gamma - C)^-1 the classical coefficients are alpha = a Gamma, c_i = sum_j alpha_ij,
d_i = sum_j Gamma_ij and k = Gamma^-1 u.

Reference: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7, doi:10.1007/978-3-642-05221-7.
"""

import equinox as eqx
import numpy as np
from jaxtyping import Float

Coefficients = tuple[tuple[float, ...], ...]
"""The rows of a strictly lower triangular matrix, row i with its first i entries."""


class AbstractRosenbrockTableau(eqx.Module):
    """The coefficients of a stiffly accurate Rosenbrock method: for `Rosenbrock` and, by diffrax, for `Diffrax`.

    $$ W u_i = h f(t + c_i h, y + \\sum_j a_{ij} u_j) + M \\sum_j C_{ij} u_j + h^2 d_i f_t, \\quad
       y_1 = y + \\sum_j a_{sj} u_j + u_s, \\quad W = M / \\gamma - h J $$

    A further method is a subclass with these five constants.

    Attributes:
        order: The order of the solution; its error estimate is that of a method of one order less.
        gamma: The diagonal of Gamma.
        a: The weights a_ij of the stages in the state, one row per stage.
        c: The weights C_ij of the stages in the right-hand side, one row per stage.
        error: The weights e_j of the stages in the error estimate.

    Example:
        >>> import qspjax as qsp
        >>> tableau = qsp.solve.Rodas4()
        >>> tableau.order, tableau.stages, tableau.times.round(3).tolist()
        (4, 6, [0.0, 0.386, 0.21, 0.63, 1.0, 1.0])
    """

    order: eqx.AbstractClassVar[int]
    gamma: eqx.AbstractClassVar[float]
    a: eqx.AbstractClassVar[Coefficients]
    c: eqx.AbstractClassVar[Coefficients]
    error: eqx.AbstractClassVar[tuple[float, ...]]

    @property
    def name(self) -> str:
        """The name of the method."""
        return type(self).__name__

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.a)

    @property
    def A(self) -> Float[np.ndarray, "stages stages"]:
        """The weights of the stages in the state."""
        return _square(self.a)

    @property
    def C(self) -> Float[np.ndarray, "stages stages"]:
        """The weights of the stages in the right-hand side."""
        return _square(self.c)

    @property
    def Gamma(self) -> Float[np.ndarray, "stages stages"]:
        """The classical weights of the stages in the linear part."""
        return np.linalg.inv(np.eye(self.stages) / self.gamma - self.C)

    @property
    def times(self) -> Float[np.ndarray, " stages"]:
        """The c_i, row sums of alpha: the times of the stages within a step."""
        return _cleared((self.A @ self.Gamma).sum(1))

    @property
    def slopes(self) -> Float[np.ndarray, " stages"]:
        """The d_i, row sums of Gamma: the weights of the derivative with respect to time."""
        return _cleared(self.Gamma.sum(1))


def closed(*rows: tuple[float, ...], extra: int) -> Coefficients:
    """Append the last stages of a method, where each of them starts from the state at which the previous one ends."""
    for _ in range(extra):
        rows = (*rows, (*rows[-1], 1.0))
    return rows


def last_stage(a: Coefficients) -> tuple[float, ...]:
    """Return the weights of an error estimate that is the last stage, as it is where the last stages are `closed`."""
    return (*[0.0] * (len(a) - 1), 1.0)


def _square(rows: Coefficients) -> Float[np.ndarray, "stages stages"]:
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def _cleared(x: Float[np.ndarray, " stages"]) -> Float[np.ndarray, " stages"]:
    """Return the row sums, exactly zero where they are zero up to rounding."""
    return np.where(np.abs(x) < 1e-12, 0.0, x)
