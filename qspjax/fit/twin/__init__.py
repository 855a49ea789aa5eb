"""The digital twin of a patient: its posterior, measurement by measurement."""

from qspjax.fit.twin._dose import (
    AbstractAim as AbstractAim,
    BestDose as BestDose,
    Near as Near,
    Risk as Risk,
    Within as Within,
)
from qspjax.fit.twin._particles import Particles as Particles
from qspjax.fit.twin._twin import Twin as Twin
