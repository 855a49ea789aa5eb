"""Noncompartmental analysis of measured data."""

from qspjax.population._noncompartmental._analysis import (
    NCA as NCA,
    Analysed as Analysed,
    Summary as Summary,
    nca as nca,
)
from qspjax.population._noncompartmental._profile import Curve as Curve
from qspjax.population._noncompartmental._rules import (
    AbstractTerminal as AbstractTerminal,
    BelowLimit as BelowLimit,
    BestFit as BestFit,
    LastPoints as LastPoints,
    Window as Window,
)
