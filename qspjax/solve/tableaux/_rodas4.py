"""Rodas4: order 4 in six stages."""

from typing import ClassVar

from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau, Coefficients, closed, last_stage


class Rodas4(AbstractRosenbrockTableau):
    """The Rosenbrock method Rodas4: order 4 in six stages, with an estimate of order 3.

    Reference: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7, doi:10.1007/978-3-642-05221-7.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Rosenbrock(qsp.solve.Rodas4(), rtol=1e-4).describe()
        'Rodas4 at rtol 0.0001, atol 1e-09'
    """

    order: ClassVar[int] = 4
    gamma: ClassVar[float] = 0.25
    a: ClassVar[Coefficients] = closed(
        (),
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
        extra=1,
    )
    c: ClassVar[Coefficients] = (
        (),
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
        (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
    )
    error: ClassVar[tuple[float, ...]] = last_stage(a)
