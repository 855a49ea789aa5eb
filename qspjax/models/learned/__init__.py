"""Terms: parts of a model that are learned from data."""

from qspjax.models.learned._contract import AbstractTerm as AbstractTerm
from qspjax.models.learned._curve import learned_curve as learned_curve
from qspjax.models.learned._gaussian_process import GaussianProcessRate as GaussianProcessRate
from qspjax.models.learned._neural import NeuralRate as NeuralRate
from qspjax.models.learned._scaling import (
    AbstractRange as AbstractRange,
    Bounded as Bounded,
    Input as Input,
    Positive as Positive,
    Unbounded as Unbounded,
)
from qspjax.models.learned._spline import SplineRate as SplineRate
