"""Endpoints of a trial, as functions of one patient's solution."""

from qspjax.population._endpoints import (
    AbstractEndpoint as AbstractEndpoint,
    ChangeFromBaseline as ChangeFromBaseline,
    Cmax as Cmax,
    Cmin as Cmin,
    RelativeChange as RelativeChange,
    Responder as Responder,
    TimeAbove as TimeAbove,
    TimeBelow as TimeBelow,
    Tmax as Tmax,
    Value as Value,
)
from qspjax.population._nca import (
    AUC as AUC,
    Accumulation as Accumulation,
    AUCInfinity as AUCInfinity,
    Average as Average,
    ExtrapolatedShare as ExtrapolatedShare,
    HalfLife as HalfLife,
    Trough as Trough,
)
from qspjax.population._responses import BestResponse as BestResponse
