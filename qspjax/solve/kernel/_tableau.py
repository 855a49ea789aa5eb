"""Coefficients of the Rosenbrock methods of the kernel.

All are stiffly accurate and L-stable, in the form with W = M/gamma - h J, in which a step of length zero is exact:

    W u_i = h f(t + c_i h, y + sum_j a_ij u_j) + M sum_j C_ij u_j + h^2 d_i f_t,   y_1 = y + sum_j a_sj u_j + u_s

and u_s, the last of s stages, is the error estimate. M is the mass matrix, the identity for ordinary differential
equations.

References: Steinebach, BIT Numer Math 2023;63:27, doi:10.1007/s10543-023-00967-x (Rodas5P); Hairer and Wanner, Solving
Ordinary Differential Equations II, IV.7, doi:10.1007/978-3-642-05221-7 (Rodas4); Sandu et al., Atmos Environ
1997;31:3459, doi:10.1016/S1352-2310(97)83212-8 (Rodas3).
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Tableau:
    """A Rosenbrock method: `a` and `c` hold one row a stage, `order` is that of the solution."""

    name: str
    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    c: tuple[tuple[float, ...], ...]

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.a)

    @functools.cached_property
    def A(self) -> np.ndarray:
        """The weights of the stages in the state, shape (stages, stages)."""
        return _square(self.a)

    @functools.cached_property
    def C(self) -> np.ndarray:
        """The weights of the stages in the right-hand side, shape (stages, stages)."""
        return _square(self.c)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """The c_i, row sums of alpha = A Gamma, with Gamma^-1 = I/gamma - C."""
        return _clean((self.A @ self._inverse).sum(1))

    @functools.cached_property
    def slopes(self) -> np.ndarray:
        """The d_i, row sums of Gamma."""
        return _clean(self._inverse.sum(1))

    @functools.cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(np.eye(self.stages) / self.gamma - self.C)


def _square(rows: tuple[tuple[float, ...], ...]) -> np.ndarray:
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def _clean(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-12, 0.0, x)


def _closed(*rows: tuple[float, ...], extra: int) -> tuple[tuple[float, ...], ...]:
    """Append the last stages of a stiffly accurate method, each at the state that the one before it arrives at."""
    for _ in range(extra):
        rows = (*rows, (*rows[-1], 1.0))
    return rows


RODAS5P = Tableau(
    "Rodas5P",
    order=5,
    gamma=0.21193756319429014,
    a=_closed(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
        extra=2,
    ),
    c=(
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    ),
)

RODAS4 = Tableau(
    "Rodas4",
    order=4,
    gamma=0.25,
    a=_closed(
        (),
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
        extra=1,
    ),
    c=(
        (),
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
        (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
    ),
)

RODAS3 = Tableau(
    "Rodas3",
    order=3,
    gamma=0.5,
    a=((), (0.0,), (2.0, 0.0), (2.0, 0.0, 1.0)),
    c=((), (4.0,), (1.0, -1.0), (1.0, -1.0, -8.0 / 3.0)),
)
