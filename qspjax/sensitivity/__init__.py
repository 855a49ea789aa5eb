"""Which inputs matter: derivatives at a point (`local`), and effects over whole ranges (`sobol`, `morris`, ...).

Example:
    >>> import jax, qspjax as qsp
    >>> inputs = qsp.sensitivity.Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
    >>> found = qsp.sensitivity.sobol(lambda x: x[:, 0] + 2.0 * x[:, 1], inputs, key=jax.random.key(0), samples=512)
    >>> found.total[:, 0].round(2)
    array([0.2, 0.8])
"""

from qspjax.sensitivity._design import Inputs as Inputs
from qspjax.sensitivity._fast import Fast as Fast, efast as efast
from qspjax.sensitivity._local import Local as Local, local as local
from qspjax.sensitivity._morris import Morris as Morris, morris as morris
from qspjax.sensitivity._rank import Ranks as Ranks, prcc as prcc
from qspjax.sensitivity._sobol import Sobol as Sobol, sobol as sobol
from qspjax.sensitivity._target import OfModel as OfModel
