"""Calibration: data and likelihood, parameters, and how they are found."""

from qspjax.fit._censoring import AbstractCensoring as AbstractCensoring, M1 as M1, M3 as M3, M4 as M4
from qspjax.fit._error_models import (
    AbstractErrorModel as AbstractErrorModel,
    Additive as Additive,
    Binary as Binary,
    Combined as Combined,
    LogNormalError as LogNormalError,
    Ordinal as Ordinal,
    Poisson as Poisson,
    Proportional as Proportional,
    TimeToEvent as TimeToEvent,
)
from qspjax.fit._free import Free as Free
from qspjax.fit._measurements import (
    Change as Change,
    Experiment as Experiment,
    Measurements as Measurements,
    Output as Output,
)
from qspjax.fit._problem import Evaluation as Evaluation, Problem as Problem
from qspjax.fit._tails import (
    AbstractTails as AbstractTails,
    Gaussian as Gaussian,
    Laplace as Laplace,
    StudentT as StudentT,
)
