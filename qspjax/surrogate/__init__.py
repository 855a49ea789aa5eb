"""Surrogates: emulators of simulations with calibrated error bars, and inference that uses them.

`fit` learns outputs of a simulator from a design and from the simulations that it asks for itself.

Example:
    >>> import jax, qspjax as qsp
    >>> function = qsp.surrogate.Function(lambda x: x[:, 0] ** 2, {"x": (0.0, 3.0)}, ["y"])
    >>> emulated = qsp.surrogate.fit(function, qsp.surrogate.Sobol(32), key=jax.random.key(0))
    >>> emulated.mean(function.points(x=2.0)).round(2)
    Array([[4.]], dtype=float64)
"""

from qspjax.population._plausible._network import Training as Training
from qspjax.surrogate._acquisition import (
    AbstractAcquisition as AbstractAcquisition,
    Boundary as Boundary,
    Variance as Variance,
)
from qspjax.surrogate._contract import (
    AbstractEmulator as AbstractEmulator,
    AbstractPredictor as AbstractPredictor,
    Learnt as Learnt,
)
from qspjax.surrogate._delayed import DelayedAcceptance as DelayedAcceptance
from qspjax.surrogate._designs import (
    AbstractDesign as AbstractDesign,
    LatinHypercube as LatinHypercube,
    Sobol as Sobol,
)
from qspjax.surrogate._ensemble import Ensemble as Ensemble
from qspjax.surrogate._fit import fit as fit
from qspjax.surrogate._posterior import (
    AmortisedPosterior as AmortisedPosterior,
    Flow as Flow,
    posterior as posterior,
)
from qspjax.surrogate._process import GaussianProcess as GaussianProcess
from qspjax.surrogate._saved import load as load, save as save
from qspjax.surrogate._screen import Screening as Screening, screen as screen
from qspjax.surrogate._simulators import (
    AbstractSimulator as AbstractSimulator,
    Function as Function,
    Patients as Patients,
    Plausibility as Plausibility,
)
from qspjax.surrogate._summaries import (
    AbstractSummary as AbstractSummary,
    Measured as Measured,
    SubjectMoments as SubjectMoments,
)
from qspjax.surrogate._surrogate import Surrogate as Surrogate
