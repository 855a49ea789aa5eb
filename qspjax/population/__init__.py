"""Virtual populations, trials and endpoints."""

from qspjax.population import endpoints as endpoints
from qspjax.population._covariates import (
    AbstractCovariateEffect as AbstractCovariateEffect,
    Allometric as Allometric,
    ByCategory as ByCategory,
    Categorical as Categorical,
    Power as Power,
    SetBy as SetBy,
)
from qspjax.population._noncompartmental import (
    NCA as NCA,
    AbstractTerminal as AbstractTerminal,
    BelowLimit as BelowLimit,
    BestFit as BestFit,
    LastPoints as LastPoints,
    Window as Window,
    nca as nca,
)
from qspjax.population._population import Population as Population
from qspjax.population._summary import Row as Row, summarise as summarise, summary_text as summary_text
from qspjax.population._trial import (
    AbstractAllocation as AbstractAllocation,
    Arm as Arm,
    ArmResult as ArmResult,
    Randomised as Randomised,
    SamePatients as SamePatients,
    Trial as Trial,
    TrialResult as TrialResult,
    simulate_trial as simulate_trial,
)
