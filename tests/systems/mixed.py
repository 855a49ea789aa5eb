"""Populations with a known likelihood, or at least a small one."""

import jax
import numpy as np
from scipy import stats

import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, Proportional, RandomEffects

TIMES = np.array([1.0, 3.0, 8.0])


class Level(qsp.AbstractModel):
    """A level that stays: linear in everything."""

    base: jax.Array = qsp.parameter(unit="mg", doc="The level.", above=None)
    slope: jax.Array = qsp.parameter(unit="mg/h", doc="Its slope.", above=None)

    def initial(self):
        return {"level": self.base}

    def vector_field(self, t, y):
        return {"level": self.slope}

    def observe(self, t, y):
        return {"level": y["level"]}


def levels(subjects=6, **settings):
    """Return a linear mixed-effects model with correlated effects, and its measurements, shape (subjects, times)."""
    rng = np.random.default_rng(1)
    values = 5.0 + 0.3 * TIMES + rng.normal(size=(subjects, 1)) + 0.3 * rng.normal(size=(subjects, 1)) * TIMES
    values = values + 0.2 * rng.normal(size=values.shape)
    people = {f"{i}": Experiment(Measurements(TIMES, row, output="level")) for i, row in enumerate(values)}
    random = [RandomEffects(["eta_base", "eta_slope"], [[1.0, 0.1], [0.1, 0.08]])]
    mixed = MixedModel(
        Level(base=5.0, slope=0.3),
        people,
        {"level": Output("level", Additive("sigma"))},
        parameters={"mu": Free(4.5, transform=qsp.Identity()), "slope": Free(0.25), "sigma": Free(0.3)},
        individual={"base": "mu + eta_base", "slope": "slope + eta_slope"},
        random=random,
        **settings,
    )
    return mixed, values


def exact(mixed, values, x):
    """Return the objective of the linear model: normal with covariance A Omega A^T + sigma^2."""
    known = mixed.values(x)
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    V = A @ np.asarray(mixed.covariance(x)) @ A.T + float(known["sigma"]) ** 2 * np.eye(3)
    law = stats.multivariate_normal(float(known["mu"]) + float(known["slope"]) * TIMES, V)
    return -2.0 * law.logpdf(values).sum() - values.size * np.log(2.0 * np.pi)


def curve(CL, V, times=TIMES):
    return 300.0 / V * np.exp(-CL / V * times)


def decays(method=None, below=None, sd=0.1, **settings):
    """Return a nonlinear model with proportional error, and a covariate."""
    rng = np.random.default_rng(3)
    people = {}
    for i in range(5):
        weight = 50.0 + 10.0 * i
        values = curve(3.0 * np.exp(0.3 * rng.normal()) * (weight / 70.0), 30.0) * (1.0 + sd * rng.normal(size=3))
        data = Measurements(TIMES, values, output="concentration")
        people[f"{i}"] = Experiment(data, qsp.bolus(300.0, to="central"), set={"WT": weight})
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        {"concentration": Output("concentration", Proportional("cv"), below=below)},
        **{
            "parameters": {"tCL": Free(2.5), "V": Free(28.0), "power": 1.0, "cv": Free(0.15)},
            "individual": {"CL": "tCL * exp(eta_CL) * (WT / 70)^power"},
            "random": [RandomEffects({"eta_CL": 0.05})],
            "method": method,
        }
        | settings,
    )
