"""Calibration: data and likelihood, parameters, and their estimation.

`Problem` and `estimate` for one or several experiments, `MixedModel` and `nlme` for populations, `sample` for
posteriors; `save` and `load` store results, whose `predict` simulates a new regimen.

Example:
    >>> import qspjax as qsp
    >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
    >>> data = Measurements([1.0, 5.0, 10.0], [3.02, 2.02, 1.22], output="c")
    >>> problem = Problem(
    ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
    ...     Experiment(data, qsp.bolus(100.0, to="central")),
    ...     outputs={"c": Output("concentration", Additive("sigma"))},
    ...     parameters={"CL": Free(2.0), "sigma": 0.05},
    ... )
    >>> round(qsp.fit.estimate(problem).parameters["CL"], 1)
    3.0
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from qspjax._progress import Progress as Progress
from qspjax._renamed import renamed_in as _renamed_in
from qspjax.fit._cost import Costs as Costs
from qspjax.fit._counterfactual import Counterfactual as Counterfactual
from qspjax.fit._explained import MixedExplanation as MixedExplanation, ProblemExplanation as ProblemExplanation
from qspjax.fit._free import Free as Free
from qspjax.fit._gradient import (
    AbstractGradient as AbstractGradient,
    Adjoint as Adjoint,
    ForwardSensitivities as ForwardSensitivities,
)
from qspjax.fit._penalty import AbstractPenalty as AbstractPenalty
from qspjax.fit._problem import Evaluation as Evaluation, Problem as Problem
from qspjax.fit._profile import Profile as Profile, profiles as profiles
from qspjax.fit._saved import load as load, save as save
from qspjax.fit._uncertainty import (
    Uncertainty as Uncertainty,
    fisher_information as fisher_information,
    observed_information as observed_information,
)
from qspjax.fit._weights import Weights as Weights
from qspjax.fit.bayes import (
    NUTS as NUTS,
    SMC as SMC,
    AbstractSampler as AbstractSampler,
    Calibration as Calibration,
    Posterior as Posterior,
    sample as sample,
    simulation_based_calibration as simulation_based_calibration,
)
from qspjax.fit.data._measurements import (
    Change as Change,
    Experiment as Experiment,
    Measurements as Measurements,
    Output as Output,
)
from qspjax.fit.errors._box_cox import BoxCoxError as BoxCoxError
from qspjax.fit.errors._categories import Ordinal as Ordinal
from qspjax.fit.errors._censoring import M1 as M1, M3 as M3, M4 as M4, AbstractCensoring as AbstractCensoring
from qspjax.fit.errors._continuous import (
    Additive as Additive,
    Combined as Combined,
    LogNormalError as LogNormalError,
    Proportional as Proportional,
)
from qspjax.fit.errors._contract import AbstractErrorModel as AbstractErrorModel, Information as Information
from qspjax.fit.errors._correlated import Correlated as Correlated
from qspjax.fit.errors._counts import Binary as Binary, Poisson as Poisson
from qspjax.fit.errors._distributions import (
    AbstractResidualDistribution as AbstractResidualDistribution,
    DoubleExponential as DoubleExponential,
    Gaussian as Gaussian,
    StudentT as StudentT,
)
from qspjax.fit.errors._events import TimeToEvent as TimeToEvent
from qspjax.fit.errors._location_scale import AbstractLocationScale as AbstractLocationScale
from qspjax.fit.errors._logit_normal import LogitNormalError as LogitNormalError
from qspjax.fit.mixed import (
    FO as FO,
    FOCE as FOCE,
    FOCEI as FOCEI,
    SAEM as SAEM,
    AbstractApproximation as AbstractApproximation,
    AbstractCovariance as AbstractCovariance,
    AbstractIntegral as AbstractIntegral,
    AbstractSampleSize as AbstractSampleSize,
    Bootstrap as Bootstrap,
    Comparison as Comparison,
    Hessian as Hessian,
    ImportanceSampling as ImportanceSampling,
    Laplace as Laplace,
    Marginal as Marginal,
    MeasurementCount as MeasurementCount,
    MixedFit as MixedFit,
    MixedModel as MixedModel,
    Mixture as Mixture,
    OuterProducts as OuterProducts,
    Quadrature as Quadrature,
    RandomEffects as RandomEffects,
    Sandwich as Sandwich,
    SubjectCount as SubjectCount,
    VisualPredictiveCheck as VisualPredictiveCheck,
    bootstrap as bootstrap,
    compare as compare,
    curves as curves,
    diagnostics as diagnostics,
    marginal as marginal,
    nlme as nlme,
    simulated as simulated,
    visual_predictive_check as visual_predictive_check,
)
from qspjax.fit.search._analytic import Analytic as Analytic
from qspjax.fit.search._estimate import Fit as Fit, estimate as estimate
from qspjax.fit.search._evolution import DifferentialEvolution as DifferentialEvolution
from qspjax.fit.search._first_order import LBFGS as LBFGS, Adam as Adam
from qspjax.fit.search._gauss_newton import LevenbergMarquardt as LevenbergMarquardt, TrustRegion as TrustRegion
from qspjax.fit.search._search import AbstractSearch as AbstractSearch
from qspjax.fit.search._starts import AbstractStarts as AbstractStarts, MultiStart as MultiStart
from qspjax.fit.training._collocation import Collocation as Collocation
from qspjax.fit.training._curriculum import (
    AbstractCurriculum as AbstractCurriculum,
    Emphasis as Emphasis,
    Horizon as Horizon,
    Minibatches as Minibatches,
)
from qspjax.fit.training._descent import Descent as Descent
from qspjax.fit.training._ensemble import Ensemble as Ensemble, LastLayer as LastLayer, Members as Members
from qspjax.fit.training._extrapolation import extrapolation as extrapolation
from qspjax.fit.training._held_out import HeldOut as HeldOut
from qspjax.fit.training._penalties import Magnitude as Magnitude, Orthogonal as Orthogonal
from qspjax.fit.training._shooting import MultipleShooting as MultipleShooting
from qspjax.fit.training._turns import AbstractTurns as AbstractTurns, After as After, Alternating as Alternating
from qspjax.fit.twin import (
    AbstractAim as AbstractAim,
    BestDose as BestDose,
    Near as Near,
    Particles as Particles,
    Risk as Risk,
    Twin as Twin,
    Within as Within,
)

if not _TYPE_CHECKING:
    __getattr__ = _renamed_in(
        __name__,
        {
            "AbstractTails": "AbstractResidualDistribution",
            "Laplacian": "Laplace",
            "Mixed": "MixedModel",
            "Random": "RandomEffects",
        },
    )
