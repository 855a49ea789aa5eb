"""How a dosed model is solved over time: a method is a value, given as `method=` of `simulate`.

Without one, a linear model is solved exactly (`MatrixExponential`) and every other by `Rosenbrock`; `Explicit` is for
models that are not stiff, `Automatic` for those that sometimes are, `Diffrax` is the independent path. The coefficients
of a method are an object too: `Rosenbrock(Rodas5P())`, `Diffrax(Rodas5P())`, `Explicit(diffrax.Tsit5())`.

Example:
    >>> import qspjax as qsp
    >>> patient, dose = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(100.0, to="central")
    >>> method = qsp.solve.Rosenbrock(rtol=1e-9)
    >>> qsp.simulate(patient, dose, [10.0], method=method).observed["concentration"].round(6)
    Array([1.226265], dtype=float64)
"""

import typing as _typing

from qspjax.solve._ensemble import Automatic as Automatic, Explicit as Explicit, Rosenbrock as Rosenbrock
from qspjax.solve._exponential import MatrixExponential as MatrixExponential
from qspjax.solve._method import AbstractMethod as AbstractMethod, Trajectory as Trajectory
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau as AbstractRosenbrockTableau
from qspjax.solve.tableaux._rodas3 import Rodas3 as Rodas3
from qspjax.solve.tableaux._rodas4 import Rodas4 as Rodas4
from qspjax.solve.tableaux._rodas4p2 import Rodas4P2 as Rodas4P2
from qspjax.solve.tableaux._rodas5p import Rodas5P as Rodas5P
from qspjax.solve.tableaux._ros3prl import ROS3PRL as ROS3PRL

if _typing.TYPE_CHECKING:
    from qspjax.solve._diffrax import Diffrax as Diffrax
    from qspjax.solve._rosenbrock_solver import RosenbrockSolver as RosenbrockSolver
else:

    def __getattr__(name: str) -> object:
        """Import what needs diffrax when it is first used: that takes half a second."""
        if name == "Diffrax":
            from qspjax.solve._diffrax import Diffrax as value
        elif name == "RosenbrockSolver":
            from qspjax.solve._rosenbrock_solver import RosenbrockSolver as value
        else:
            raise AttributeError(f"module 'qspjax.solve' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List what is imported later, too."""
    return sorted({*globals(), "Diffrax", "RosenbrockSolver"})
