"""Rodas3: order 3 in four stages."""

from typing import ClassVar

from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau, Coefficients, last_stage


class Rodas3(AbstractRosenbrockTableau):
    """The Rosenbrock method Rodas3: order 3 in four stages, with an estimate of order 2; for loose tolerances.

    Reference: Sandu et al., Atmos Environ 1997;31:3459, doi:10.1016/S1352-2310(97)83212-8.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Rosenbrock(qsp.solve.Rodas3(), rtol=1e-3).describe()
        'Rodas3 at rtol 0.001, atol 1e-09'
    """

    order: ClassVar[int] = 3
    gamma: ClassVar[float] = 0.5
    a: ClassVar[Coefficients] = ((), (0.0,), (2.0, 0.0), (2.0, 0.0, 1.0))
    c: ClassVar[Coefficients] = ((), (4.0,), (1.0, -1.0), (1.0, -1.0, -8.0 / 3.0))
    error: ClassVar[tuple[float, ...]] = last_stage(a)
