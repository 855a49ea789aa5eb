"""A one-compartment patient whose elimination a network learns, with data of a saturable one, for tests of training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp
from qspjax.fit import Experiment, Free, LogNormalError, Measurements, Output, Problem, Weights

V, VMAX, KM = 10.0, 20.0, 3.0
DOSES = (30.0, 100.0, 300.0)
FAILS = 1e3


class Learned(qsp.AbstractModel):
    """dA/dt = -(k + rate(c)) A, c = A / V; a trap makes it NaN above a concentration."""

    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    rate: eqx.Module
    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant", minimum=0.0, default=0.0)
    trap: jax.Array = qsp.parameter(unit="mg/L", doc="concentration above which it fails", default=FAILS)

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        c = y["central"] / self.V
        rate = jnp.where(c > self.trap, jnp.nan, self.rate(c))
        return {"central": -(self.k + rate) * y["central"]}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


class Rate(eqx.Module):
    """A positive rate of a concentration, by a small network."""

    network: eqx.nn.MLP

    def __init__(self, seed):
        self.network = eqx.nn.MLP("scalar", "scalar", 5, 1, activation=jnp.tanh, key=jax.random.key(seed))

    def __call__(self, c):
        return 0.5 * jax.nn.softplus(3.0 * self.network(jnp.log1p(jnp.maximum(c, 0.0)) - 1.5))


class Constant(eqx.Module):
    """A rate that does not depend on anything."""

    value: jax.Array = eqx.field(converter=jnp.asarray)

    def __call__(self, c):
        return self.value + 0.0 * c


class Saturable(qsp.AbstractModel):
    """The truth: dA/dt = -Vmax c / (Km + c)."""

    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        c = y["central"] / self.V
        return {"central": -VMAX * c / (KM + c)}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


def true_rate(c):
    return VMAX / V / (KM + c)


def experiments(subjects=6, times=4, noise=0.05, seed=0, traps=()):
    """Return sparse, noisy data of subjects at three doses; those in `traps` fail."""
    random, found = np.random.default_rng(seed), {}
    for i in range(subjects):
        ts = np.sort(random.uniform(0.5, 20.0, times))
        regimen = qsp.bolus(DOSES[i % 3], to="central")
        truth = np.asarray(qsp.simulate(Saturable(V=V), regimen, ts).observed["concentration"])
        data = Measurements(ts, truth * np.exp(noise * random.normal(size=times)), output="c")
        found[f"s{i}"] = Experiment(data, regimen, set={"trap": 1e-3 if i in traps else FAILS})
    return found


def problem(rate=None, prior=True, volume=Free(V), model=None, **settings):
    """Return the problem of learning the rate from such data."""
    data = {name: settings.pop(name) for name in ("subjects", "times", "noise", "seed", "traps") if name in settings}
    model = Learned(V=V, rate=Rate(0) if rate is None else rate) if model is None else model
    weights = Weights(prior=qsp.Normal(0.0, sd=1.0) if prior else None)
    outputs = {"c": Output("concentration", LogNormalError(0.2))}
    return Problem(model, experiments(**data), outputs, {"V": volume, "rate": weights}, **settings)
