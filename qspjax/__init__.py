"""Differentiable quantitative systems pharmacology in JAX.

A model is equations and numbers, doses are a table, and one verb joins them: `simulate` for a patient,
`simulate_cohort` for thousands, `simulate_trial` for arms. `jit`, `vmap` and `grad` go through all of it.

    models       the catalogue, and networks of reactions       solve        how a model is integrated
    population   virtual patients, trials, endpoints, NCA       execute      where patients are computed
    fit          calibration, mixed effects, posteriors         equilibrium  where a system comes to rest
    sensitivity  which inputs matter                            surrogate    emulators, their inference
    discover     formulas and edges from data                   io, plot     files, pictures

Example:
    >>> import qspjax as qsp
    >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)  # L/h, L, 1/h
    >>> solution = qsp.simulate(patient, qsp.bolus(200.0, to="depot"), [0.0, 2.0, 24.0])
    >>> solution.observed["concentration"].round(3)
    Array([0.   , 5.295, 0.66 ], dtype=float64)
"""

import sys as _sys
import typing as _typing
from importlib import import_module as _import_module

from qspjax import _begun as _begun  # isort: split

from qspjax import _alarms as _alarms, _precision as _precision, _threads as _threads  # before JAX is first used
from qspjax._collection import seldom_collected as _seldom_collected

if _typing.TYPE_CHECKING:
    from qspjax import (
        discover as discover,
        equilibrium as equilibrium,
        execute as execute,
        fit as fit,
        io as io,
        models as models,
        plot as plot,
        population as population,
        sensitivity as sensitivity,
        solve as solve,
        surrogate as surrogate,
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
        LogUniform as LogUniform,
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
    from qspjax._explain import explain as explain
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
        do as do,
        endpoints as endpoints,
        simulate_trial as simulate_trial,
        summarise as summarise,
        summary_text as summary_text,
    )

    __version__: str

_PACKAGES = (
    "discover",
    "equilibrium",
    "execute",
    "fit",
    "io",
    "models",
    "plot",
    "population",
    "sensitivity",
    "solve",
    "surrogate",
)
_NAMES = {
    "_cohort": "Cohort",
    "_declared": "AbstractAlgebraic AbstractDelivered AbstractEventful AbstractSized Delivery",
    "_distribution": "AbstractDistribution LogNormal LogUniform Normal Truncated Uniform",
    "_dosing._adaptive": "AbstractRule ReduceAbove StopOnProgression TreatToTarget",
    "_dosing._amounts": "AbstractAmount Banded Computed Limited PerSurfaceArea Proportional Rounded RoundedUp",
    "_dosing._covariates": "LOCF NOCB AbstractInterpolation LinearInterpolation set_parameter varying",
    "_dosing._doses": "MODELLED bolus infusion no_doses reset scale",
    "_dosing._regimen": "Regimen",
    "_events": "Event",
    "_explain": "explain",
    "_model": "AbstractModel Units",
    "_names": "at names",
    "_parameters": "parameter",
    "_simulate": "simulate simulate_cohort",
    "_solution": "RESULTS Solution",
    "_transform": "AbstractTransform Identity Log Logit",
    "population": "Allometric Arm ByCategory Categorical Population Power Randomised SamePatients SetBy Trial "
    "TrialResult do endpoints simulate_trial summarise summary_text",
}
"""The other public names by the modules that hold them; a test compares both with the imports above."""

_MODULES = {name: f"qspjax.{module}" for module, names in _NAMES.items() for name in names.split()}
_MODULES |= {name: f"qspjax.{name}" for name in _PACKAGES}
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]  (it reads the imports above)


if not _typing.TYPE_CHECKING:  # to type checkers, any name but those above is a mistake

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used; look the version up."""
        if name == "__version__":
            from importlib.metadata import version

            return version("qspjax")
        if name not in _MODULES:
            module = _sys.modules[__name__]  # from it and the name Python says what may have been meant
            raise AttributeError(f"module 'qspjax' has no attribute {name!r}", name=name, obj=module)
        with _seldom_collected():
            module = _import_module(_MODULES[name])
        globals()[name] = value = module if name in _PACKAGES else getattr(module, name)
        return value


def __dir__() -> list[str]:
    """List what is imported later, too."""
    return sorted({*globals(), *__all__, "__version__"})
