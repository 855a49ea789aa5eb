"""Bayesian inference: posteriors of single problems and of whole populations, and checks of samplers."""

from qspjax.fit.bayes._calibration import (
    Calibration as Calibration,
    simulation_based_calibration as simulation_based_calibration,
)
from qspjax.fit.bayes._nuts import NUTS as NUTS
from qspjax.fit.bayes._posterior import Posterior as Posterior
from qspjax.fit.bayes._sample import sample as sample
from qspjax.fit.bayes._sampler import AbstractSampler as AbstractSampler
from qspjax.fit.bayes._smc import SMC as SMC
