"""Networks of reactions."""

from qspjax.models.network._definition import (
    Compartment as Compartment,
    Definition as Definition,
    LearnedFunction as LearnedFunction,
    NetworkEvent as NetworkEvent,
    Parameter as Parameter,
    Participant as Participant,
    Reaction as Reaction,
    Species as Species,
)
from qspjax.models.network._laws import (
    AbstractLaw as AbstractLaw,
    Hill as Hill,
    MassAction as MassAction,
    MichaelisMenten as MichaelisMenten,
)
from qspjax.models.network._moieties import Moiety as Moiety
from qspjax.models.network._network import Network as Network
from qspjax.models.network._plan import problems as problems
from qspjax.models.network._printing import Equations as Equations
from qspjax.models.network._problems import NetworkProblems as NetworkProblems, Problem as Problem
