"""Rodas4P2: order 4 in six stages, for stiff problems."""

from typing import ClassVar

from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau, Coefficients, closed, last_stage


class Rodas4P2(AbstractRosenbrockTableau):
    """The Rosenbrock method Rodas4P2: order 4 in six stages, with an estimate of order 3; for loose tolerances.

    On Prothero and Robinson's stiff problem its error falls with the cube of the step, that of `Rodas4` with the step.

    Reference: Steinebach, in Progress in Differential-Algebraic Equations II, 2020, p. 165,
    doi:10.1007/978-3-030-53905-4_6.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Rosenbrock(qsp.solve.Rodas4P2(), rtol=1e-4).describe()
        'Rodas4P2 at rtol 0.0001, atol 1e-09'
    """

    order: ClassVar[int] = 4
    gamma: ClassVar[float] = 0.25
    a: ClassVar[Coefficients] = closed(
        (),
        (3.0,),
        (0.906377755268814, -0.189707390391685),
        (3.758617027739064, 1.161741776019525, -0.849258085312803),
        (7.089566927282776, 4.573591406461604, -8.423496976860259, -0.959280113459775),
        extra=1,
    )
    c: ClassVar[Coefficients] = (
        (),
        (-12.0,),
        (-6.354581592719008, 0.338972550544623),
        (-8.575016317114033, -7.606483992117508, 12.22499765012482),
        (-5.888975457523102, -8.157396617841821, 24.805546872612922, 12.790401512796979),
        (-4.408651676063871, -6.692003137674639, 24.625568527593117, 16.627521966636085, -5.714285714285718),
    )
    error: ClassVar[tuple[float, ...]] = last_stage(a)
