"""Rodas5P: order 5 in eight stages, the default."""

from typing import ClassVar

from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau, Coefficients, closed, last_stage


class Rodas5P(AbstractRosenbrockTableau):
    """The Rosenbrock method Rodas5P: order 5 in eight stages, with an estimate of order 4; the default.

    Reference: Steinebach, BIT Numer Math 2023;63:27, doi:10.1007/s10543-023-00967-x.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Rosenbrock(qsp.solve.Rodas5P(), rtol=1e-8).describe()
        'Rodas5P at rtol 1e-08, atol 1e-09'
    """

    order: ClassVar[int] = 5
    gamma: ClassVar[float] = 0.21193756319429014
    a: ClassVar[Coefficients] = closed(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
        extra=2,
    )
    c: ClassVar[Coefficients] = (
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
    )
    error: ClassVar[tuple[float, ...]] = last_stage(a)
