"""Which inputs matter: derivatives at a point, and what happens over whole ranges."""

from qspjax.sensitivity._design import Inputs as Inputs
from qspjax.sensitivity._fast import Fast as Fast, efast as efast
from qspjax.sensitivity._local import Local as Local, local as local
from qspjax.sensitivity._morris import Morris as Morris, morris as morris
from qspjax.sensitivity._rank import Ranks as Ranks, prcc as prcc
from qspjax.sensitivity._sobol import Sobol as Sobol, sobol as sobol
from qspjax.sensitivity._target import OfModel as OfModel
