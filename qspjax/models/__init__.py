"""The catalogue of models."""

from qspjax.models._absorption import TransitAbsorption as TransitAbsorption
from qspjax.models._coupled import Coupled as Coupled
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
