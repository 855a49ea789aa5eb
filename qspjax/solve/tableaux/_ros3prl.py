"""ROS3PRL: order 3 in four stages, for stiff problems."""

from typing import ClassVar

from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau, Coefficients


class ROS3PRL(AbstractRosenbrockTableau):
    """The Rosenbrock method ROS3PRL: order 3 in four stages, with an estimate of order 2; for loose tolerances.

    On Prothero and Robinson's stiff problem its error falls with the cube of the step, that of `Rodas3` with the step.

    Reference: Rang, J Comput Appl Math 2015;286:128, doi:10.1016/j.cam.2015.03.010.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Rosenbrock(qsp.solve.ROS3PRL(), rtol=1e-3).describe()
        'ROS3PRL at rtol 0.001, atol 1e-09'
    """

    order: ClassVar[int] = 3
    gamma: ClassVar[float] = 0.435866521508459
    a: ClassVar[Coefficients] = (
        (),
        (1.147140180139521,),
        (2.4630707730300534, 1.147140180139521),
        (2.4630707730300534, 1.147140180139521, 0.0),
    )
    c: ClassVar[Coefficients] = (
        (),
        (-2.631861185781065,),
        (-2.038451402734394, 1.8551577240019121),
        (-1.8050630466729911, 3.411439279441918, -1.7057196397209593),
    )
    error: ClassVar[tuple[float, ...]] = (
        0.14188781262114447,
        0.9677841576948438,
        -0.06855321332716582,
        0.26131506383377634,
    )
