"""Plots of results: every function takes results and returns matplotlib Axes or a Figure; none saves or shows it.

Example:
    >>> import qspjax as qsp
    >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    >>> solution = qsp.simulate(patient, qsp.bolus(100.0, to="central"), [0.0, 1.0, 2.0, 4.0])
    >>> axes = qsp.plot.trajectory(solution, "concentration")
    >>> axes.figure.savefig("/dev/null", format="png")
"""

from qspjax.plot._bayes import posteriors as posteriors, ranks as ranks, traces as traces
from qspjax.plot._fit import (
    diagnostics as diagnostics,
    fits as fits,
    observed_vs_predicted as observed_vs_predicted,
    optimiser_history as optimiser_history,
    parameter_agreement as parameter_agreement,
    profile as profile,
    residuals as residuals,
    waterfall as waterfall,
)
from qspjax.plot._learned import learned_rate as learned_rate, learned_rates as learned_rates
from qspjax.plot._mixed import (
    bootstrap as bootstrap,
    convergence as convergence,
    covariates as covariates,
    goodness_of_fit as goodness_of_fit,
    individual_fits as individual_fits,
    random_effects as random_effects,
)
from qspjax.plot._nca import nca as nca
from qspjax.plot._populations import (
    coverage as coverage,
    partial_dependence as partial_dependence,
    targets as targets,
)
from qspjax.plot._prediction import prediction as prediction
from qspjax.plot._sensitivity import sensitivities as sensitivities, sobol as sobol, tornado as tornado
from qspjax.plot._surrogate import learning_curve as learning_curve, surrogate as surrogate
from qspjax.plot._survival import (
    forest as forest,
    kaplan_meier as kaplan_meier,
    power as power,
    roc as roc,
    spider as spider,
    swimmer as swimmer,
)
from qspjax.plot._training import extrapolation as extrapolation, training as training
from qspjax.plot._trajectories import trajectories as trajectories
from qspjax.plot._trajectory import quantiles as quantiles, trajectory as trajectory
from qspjax.plot._trial import Panel as Panel, bands as bands, trial as trial
from qspjax.plot._vpc import vpc as vpc, vpc_panels as vpc_panels
