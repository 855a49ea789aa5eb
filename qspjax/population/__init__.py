"""Virtual populations, trials, endpoints of simulations, and noncompartmental analysis of measured data.

Example:
    >>> import jax, qspjax as qsp
    >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    >>> cohort = qsp.Population(patient, between={"CL": qsp.LogNormal(cv=0.3)}).sample(key=jax.random.key(0), size=20)
    >>> arms = [qsp.Arm(f"{dose:g} mg", qsp.bolus(dose, to="depot")) for dose in (100.0, 200.0)]
    >>> trial = qsp.Trial(arms, [0.0, 2.0, 24.0], endpoints={"C24": qsp.endpoints.Value("concentration", at=24.0)})
    >>> result = qsp.simulate_trial(trial, cohort)
    >>> low, high = (row.median for row in qsp.summarise(result))
    >>> round(float(high / low), 6)
    2.0
"""

from qspjax._baseline import AbstractBaseline as AbstractBaseline, Baselines as Baselines, baselines as baselines
from qspjax.population import endpoints as endpoints
from qspjax.population._attainment import (
    Attained as Attained,
    Attainment as Attainment,
    target_attainment as target_attainment,
)
from qspjax.population._biomarkers import ROC as ROC, roc as roc, subgroups as subgroups
from qspjax.population._comparison import (
    Difference as Difference,
    PowerCurve as PowerCurve,
    difference as difference,
    power as power,
)
from qspjax.population._conduct import (
    Adherence as Adherence,
    Dropout as Dropout,
    Enrolment as Enrolment,
    Visits as Visits,
    follow_up as follow_up,
)
from qspjax.population._covariates import (
    AbstractCovariateEffect as AbstractCovariateEffect,
    Allometric as Allometric,
    ByCategory as ByCategory,
    Categorical as Categorical,
    Power as Power,
    SetBy as SetBy,
)
from qspjax.population._do import do as do
from qspjax.population._event_times import (
    ArmEvents as ArmEvents,
    Events as Events,
    event_times as event_times,
    progression_free as progression_free,
)
from qspjax.population._growth import GrowUntil as GrowUntil
from qspjax.population._hazard_ratio import HazardRatio as HazardRatio, hazard_ratio as hazard_ratio
from qspjax.population._noncompartmental import (
    NCA as NCA,
    AbstractTerminal as AbstractTerminal,
    BelowLimit as BelowLimit,
    BestFit as BestFit,
    LastPoints as LastPoints,
    Window as Window,
    nca as nca,
)
from qspjax.population._partial_dependence import (
    PartialDependence as PartialDependence,
    partial_dependence as partial_dependence,
)
from qspjax.population._plausible import (
    AbstractPatientSearch as AbstractPatientSearch,
    Bound as Bound,
    Langevin as Langevin,
    MetropolisHastings as MetropolisHastings,
    Optimised as Optimised,
    PlausiblePopulation as PlausiblePopulation,
    Rejection as Rejection,
    Screened as Screened,
    plausible as plausible,
)
from qspjax.population._population import Population as Population
from qspjax.population._prevalence import (
    MAPEL as MAPEL,
    SD as SD,
    AbstractSelection as AbstractSelection,
    AbstractTarget as AbstractTarget,
    AbstractWeighting as AbstractWeighting,
    Correlation as Correlation,
    DensityRatio as DensityRatio,
    EntropyBalancing as EntropyBalancing,
    Exchange as Exchange,
    Histogram as Histogram,
    LeastViolation as LeastViolation,
    Mean as Mean,
    Prevalence as Prevalence,
    Quantile as Quantile,
    Shares as Shares,
    SurvivalCurve as SurvivalCurve,
    select as select,
    weights as weights,
)
from qspjax.population._recist import (
    RECIST as RECIST,
    Assessment as Assessment,
    Response as Response,
    assess as assess,
)
from qspjax.population._responses import (
    ArmResponses as ArmResponses,
    PatientResponse as PatientResponse,
    TumourResponses as TumourResponses,
    tumour_responses as tumour_responses,
)
from qspjax.population._shares import share as share
from qspjax.population._summary import Row as Row, summarise as summarise, summary_text as summary_text
from qspjax.population._survival import (
    Interval as Interval,
    KaplanMeier as KaplanMeier,
    LogRank as LogRank,
    kaplan_meier as kaplan_meier,
    log_rank as log_rank,
)
from qspjax.population._trial import (
    AbstractAllocation as AbstractAllocation,
    Arm as Arm,
    ArmResult as ArmResult,
    Randomised as Randomised,
    SamePatients as SamePatients,
    Stratified as Stratified,
    Trial as Trial,
    TrialResult as TrialResult,
    simulate_trial as simulate_trial,
)
