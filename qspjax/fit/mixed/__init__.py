"""Nonlinear mixed effects: whole populations estimated at once."""

from qspjax.fit.mixed._approximations import (
    FO as FO,
    FOCE as FOCE,
    FOCEI as FOCEI,
    AbstractApproximation as AbstractApproximation,
    Laplace as Laplace,
)
from qspjax.fit.mixed._bootstrap import Bootstrap as Bootstrap, bootstrap as bootstrap
from qspjax.fit.mixed._compare import (
    AbstractSampleSize as AbstractSampleSize,
    Comparison as Comparison,
    MeasurementCount as MeasurementCount,
    SubjectCount as SubjectCount,
    compare as compare,
)
from qspjax.fit.mixed._covariance import (
    AbstractCovariance as AbstractCovariance,
    Hessian as Hessian,
    OuterProducts as OuterProducts,
    Sandwich as Sandwich,
)
from qspjax.fit.mixed._diagnostics import curves as curves, diagnostics as diagnostics, simulated as simulated
from qspjax.fit.mixed._marginal import (
    AbstractIntegral as AbstractIntegral,
    ImportanceSampling as ImportanceSampling,
    Marginal as Marginal,
    Quadrature as Quadrature,
    marginal as marginal,
)
from qspjax.fit.mixed._mixed import MixedModel as MixedModel
from qspjax.fit.mixed._mixture import Mixture as Mixture
from qspjax.fit.mixed._nlme import nlme as nlme
from qspjax.fit.mixed._random import RandomEffects as RandomEffects
from qspjax.fit.mixed._result import MixedFit as MixedFit
from qspjax.fit.mixed._settings import SAEM as SAEM
from qspjax.fit.mixed._vpc import (
    VisualPredictiveCheck as VisualPredictiveCheck,
    visual_predictive_check as visual_predictive_check,
)
