"""Differentiable quantitative systems pharmacology in JAX.

A model is equations and numbers, doses are a table, and one verb joins them: `simulate` for a patient,
`simulate_cohort` for thousands, `simulate_trial` for arms. `jit`, `vmap` and `grad` go through all of it.

    models       the catalogue, and networks of reactions       solve        how a model is integrated
    population   virtual patients, trials, endpoints, NCA       execute      where patients are computed
    fit          calibration, mixed effects, posteriors         equilibrium  where a system comes to rest
    sensitivity  which inputs matter                            io, plot     files, pictures

Example:
    >>> import qspjax as qsp
    >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)  # L/h, L, 1/h
    >>> solution = qsp.simulate(patient, qsp.bolus(200.0, to="depot"), [0.0, 2.0, 24.0])
    >>> solution.observed["concentration"].round(3)
    Array([0.   , 5.295, 0.66 ], dtype=float64)
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from qspjax import _precision as _precision, _threads as _threads  # isort: skip  (these are decided first)
from qspjax import (
    equilibrium as equilibrium,
    execute as execute,
    fit as fit,
    models as models,
    population as population,
    sensitivity as sensitivity,
    solve as solve,
)
from qspjax._cohort import Cohort as Cohort
from qspjax._declared import (
    AbstractAlgebraic as AbstractAlgebraic,
    AbstractDelivered as AbstractDelivered,
    AbstractEventful as AbstractEventful,
    AbstractSized as AbstractSized,
    Delivery as Delivery,
)
from qspjax._distribution import (
    AbstractDistribution as AbstractDistribution,
    LogNormal as LogNormal,
    Normal as Normal,
    Truncated as Truncated,
    Uniform as Uniform,
)
from qspjax._dosing._adaptive import (
    AbstractRule as AbstractRule,
    ReduceAbove as ReduceAbove,
    StopOnProgression as StopOnProgression,
    TreatToTarget as TreatToTarget,
)
from qspjax._dosing._amounts import (
    AbstractAmount as AbstractAmount,
    Banded as Banded,
    Computed as Computed,
    Limited as Limited,
    PerSurfaceArea as PerSurfaceArea,
    Proportional as Proportional,
    Rounded as Rounded,
    RoundedUp as RoundedUp,
)
from qspjax._dosing._covariates import (
    LOCF as LOCF,
    NOCB as NOCB,
    AbstractInterpolation as AbstractInterpolation,
    LinearInterpolation as LinearInterpolation,
    set_parameter as set_parameter,
    varying as varying,
)
from qspjax._dosing._doses import (
    MODELLED as MODELLED,
    bolus as bolus,
    infusion as infusion,
    no_doses as no_doses,
    reset as reset,
    scale as scale,
)
from qspjax._dosing._regimen import Regimen as Regimen
from qspjax._events import Event as Event
from qspjax._model import AbstractModel as AbstractModel, Units as Units
from qspjax._names import at as at, names as names
from qspjax._parameters import parameter as parameter
from qspjax._simulate import simulate as simulate, simulate_cohort as simulate_cohort
from qspjax._solution import RESULTS as RESULTS, Solution as Solution
from qspjax._transform import (
    AbstractTransform as AbstractTransform,
    Identity as Identity,
    Log as Log,
    Logit as Logit,
)
from qspjax.population import (
    Allometric as Allometric,
    Arm as Arm,
    ByCategory as ByCategory,
    Categorical as Categorical,
    Population as Population,
    Power as Power,
    Randomised as Randomised,
    SamePatients as SamePatients,
    SetBy as SetBy,
    Trial as Trial,
    TrialResult as TrialResult,
    endpoints as endpoints,
    simulate_trial as simulate_trial,
    summarise as summarise,
    summary_text as summary_text,
)

if _TYPE_CHECKING:
    from qspjax import io as io, plot as plot  # imported when they are first asked for, see below


def __getattr__(name: str) -> object:
    """Import `io` and `plot`, which need optional packages, when they are first asked for; look the version up."""
    if name in ("io", "plot"):
        import importlib

        return importlib.import_module(f"qspjax.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("qspjax")
    raise AttributeError(f"module 'qspjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported later, too."""
    return sorted({*globals(), "__version__", "io", "plot"})
