"""Prevalence: from plausible patients to a population that agrees with what was observed, by weights or by choice."""

from qspjax.population._prevalence._contract import (
    AbstractSelection as AbstractSelection,
    AbstractWeighting as AbstractWeighting,
)
from qspjax.population._prevalence._density_ratio import DensityRatio as DensityRatio
from qspjax.population._prevalence._entropy import EntropyBalancing as EntropyBalancing
from qspjax.population._prevalence._exchange import Exchange as Exchange
from qspjax.population._prevalence._linear_programme import LeastViolation as LeastViolation
from qspjax.population._prevalence._mapel import MAPEL as MAPEL
from qspjax.population._prevalence._result import Prevalence as Prevalence
from qspjax.population._prevalence._targets import (
    SD as SD,
    AbstractTarget as AbstractTarget,
    Correlation as Correlation,
    Histogram as Histogram,
    Mean as Mean,
    Moments as Moments,
    Quantile as Quantile,
    Shares as Shares,
    SurvivalCurve as SurvivalCurve,
)
from qspjax.population._prevalence._weights import select as select, weights as weights
