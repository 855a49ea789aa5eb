"""The catalogue of models: pharmacokinetics, effects, target-mediated disposition, tumours, networks.

Every model is an equinox module: parameters are its attributes, `print(model)` and `qspjax.names(model)` list them with
units. `Coupled` joins a model of the drug and one of its effect; `Network` is written as reactions, or read from SBML.

Example:
    >>> import qspjax as qsp
    >>> print(qsp.models.OneCompartment(CL=3.0, V=30.0))
    OneCompartment  value  unit
    CL                  3  L/h   clearance
    V                  30  L     volume of distribution
    >>> binding = qsp.models.Network(
    ...     species={"L": 10.0, "R": 5.0, "LR": 0.0},
    ...     parameters={"kon": 0.1, "koff": 0.2},
    ...     reactions={"bind": qsp.models.Reaction("L + R <-> LR", qsp.models.MassAction("kon", "koff"))},
    ... )
    >>> qsp.simulate(binding, qsp.no_doses(), [50.0]).observed["LR"].round(3)
    Array([3.783], dtype=float64)
"""

from qspjax.models._absorption import (
    SavicAbsorption as SavicAbsorption,
    TransitAbsorption as TransitAbsorption,
)
from qspjax.models._coupled import Coupled as Coupled
from qspjax.models._fractional import (
    FractionalOneCompartment as FractionalOneCompartment,
    FractionalTwoCompartment as FractionalTwoCompartment,
)
from qspjax.models._omalizumab import Omalizumab as Omalizumab
from qspjax.models._pd import (
    AbstractEffect as AbstractEffect,
    AbstractResponse as AbstractResponse,
    EffectCompartment as EffectCompartment,
    Emax as Emax,
    InhibitionOfLoss as InhibitionOfLoss,
    InhibitionOfProduction as InhibitionOfProduction,
    SigmoidEmax as SigmoidEmax,
    StimulationOfLoss as StimulationOfLoss,
    StimulationOfProduction as StimulationOfProduction,
)
from qspjax.models._pk import (
    OneCompartment as OneCompartment,
    OneCompartmentOral as OneCompartmentOral,
    ThreeCompartment as ThreeCompartment,
    ThreeCompartmentOral as ThreeCompartmentOral,
    TwoCompartment as TwoCompartment,
    TwoCompartmentOral as TwoCompartmentOral,
)
from qspjax.models._tmdd import TMDD as TMDD, TMDDSubcutaneous as TMDDSubcutaneous
from qspjax.models._tumour import TumourGrowthInhibition as TumourGrowthInhibition
from qspjax.models.hybrid import (
    LatentHybrid as LatentHybrid,
    LowDimensionalNeuralODE as LowDimensionalNeuralODE,
    PiecewiseConstant as PiecewiseConstant,
    RecurrentEncoder as RecurrentEncoder,
    TimeVarying as TimeVarying,
    UniversalDifferentialEquation as UniversalDifferentialEquation,
)
from qspjax.models.learned import (
    AbstractRange as AbstractRange,
    AbstractTerm as AbstractTerm,
    Bounded as Bounded,
    GaussianProcessRate as GaussianProcessRate,
    Input as Input,
    NeuralRate as NeuralRate,
    Positive as Positive,
    SplineRate as SplineRate,
    Unbounded as Unbounded,
    learned_curve as learned_curve,
)
from qspjax.models.network import (
    AbstractLaw as AbstractLaw,
    Compartment as Compartment,
    Definition as Definition,
    Equations as Equations,
    Hill as Hill,
    MassAction as MassAction,
    MichaelisMenten as MichaelisMenten,
    Moiety as Moiety,
    Network as Network,
    NetworkEvent as NetworkEvent,
    NetworkProblems as NetworkProblems,
    Parameter as Parameter,
    Participant as Participant,
    Problem as Problem,
    Reaction as Reaction,
    Species as Species,
)
