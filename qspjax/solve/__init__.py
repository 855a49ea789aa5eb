"""How a dosed model is solved over time."""

from qspjax.solve._diffrax import Diffrax as Diffrax
from qspjax.solve._ensemble import Automatic as Automatic, Explicit as Explicit, Rosenbrock as Rosenbrock
from qspjax.solve._exponential import MatrixExponential as MatrixExponential
from qspjax.solve._method import AbstractMethod as AbstractMethod, Trajectory as Trajectory
from qspjax.solve._rodas5p import Rodas5P as Rodas5P
