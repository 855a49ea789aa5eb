# %% [markdown]
# # A mechanism with a gap: how is this antibody eliminated?
#
# An antibody leaves the plasma by two routes. One is known, a slow linear clearance. The other goes through its target,
# and nobody has written it down. Twelve animals got four doses. We let a neural network stand for the unknown clearance
# inside an ordinary model, fit it like any other parameter, look at what it learned, ask it about doses that were not
# in the study, and write it as a formula.

# %%
import equinox as eqx
import jax
import numpy as np
from matplotlib.figure import Figure

import qspjax as qsp
from qspjax.fit import LBFGS, Experiment, Free, LogNormalError, Measurements, Output, Problem, Weights
from qspjax.models import Input, NeuralRate, Positive, learned_curve

# %% [markdown]
# ## The data
#
# In truth the second route saturates: a clearance of $V_{max} / (K_m + C)$, 4 mL/d/kg at most. The errors are 10 %.

# %%
VMAX, KM = 8.0, 2.0  # ug/d/kg, ug/mL
TIMES = np.array([0.1, 1.0, 3.0, 7.0, 14.0, 21.0, 28.0])  # d


class Antibody(qsp.AbstractModel):
    V: jax.Array = qsp.parameter(unit="mL/kg", doc="plasma volume")
    CL: jax.Array = qsp.parameter(unit="mL/d/kg", doc="clearance of the linear route")
    through_target: qsp.models.AbstractTerm  # clearance of the other one, mL/d/kg, by concentration

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        concentration = y["central"] / self.V
        return {"central": -(self.CL + self.through_target(concentration)) * concentration}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


class Saturable(qsp.models.AbstractTerm):
    inputs: int = eqx.field(default=1, static=True)

    def __call__(self, concentration):
        return VMAX / (KM + concentration)


def animals(doses, seed):
    """Measure one animal for each dose (ug/kg), with log-normal errors."""
    noise, truth = np.random.default_rng(seed), Antibody(V=50.0, CL=3.0, through_target=Saturable())
    measured = {}
    for number, dose in enumerate(doses, start=1):
        regimen = qsp.bolus(dose, to="central")
        exact = np.asarray(qsp.simulate(truth, regimen, TIMES).observed["concentration"])
        values = exact * np.exp(0.1 * noise.standard_normal(TIMES.size))
        measured[f"animal {number}, {dose:g} ug/kg"] = Experiment(Measurements(TIMES, values, output="C"), regimen)
    return measured


study = animals([50.0, 200.0, 800.0, 3000.0] * 3, seed=1)

# %% [markdown]
# ## The fit
#
# The network sees the concentration on a logarithmic scale, and is positive. Its weights are one parameter of the
# problem, with a prior that keeps them small; all else is as in any fit. Four networks are searched side by side, which
# shows how sure they can be; and a model without the second route, for comparison.

# %%
outputs = {"C": Output("concentration", LogNormalError("sd"))}
numbers = {"V": Free(60.0), "sd": Free(0.2)}
inputs = {"concentration": Input(5.0, logarithmic=True)}
keys = jax.random.split(jax.random.key(0), 4)
networks = [NeuralRate.mlp(inputs, width=5, depth=1, output=Positive(2.0), key=key) for key in keys]
model = Antibody(V=60.0, CL=3.0, through_target=networks[0])
hybrid = Problem(model, study, outputs, {**numbers, "through_target": Weights(qsp.Normal(0.0, sd=2.0))})
linear = Problem(qsp.models.OneCompartment(CL=5.0, V=60.0), study, outputs, {**numbers, "CL": Free(5.0)})
starts = np.stack([hybrid.point({"through_target": network}) for network in networks])
fit = qsp.fit.estimate(hybrid, method=LBFGS(max_steps=150), starts=starts)
without = qsp.fit.estimate(linear)
print(fit)

# %% [markdown]
# ## What it learned, and doses that were not in the study

# %%
concentrations = np.geomspace(0.05, 100.0, 60)
curve = learned_curve([hybrid.networks(x)["through_target"] for x in fit.points], {"concentration": concentrations})
for dose in (10.0, 6000.0):
    (new,) = animals([dose], seed=7).values()
    for name, model in (("with the network", fit.fitted_model), ("linear", without.fitted_model)):
        predicted = qsp.simulate(model, new.regimen, TIMES).observed["concentration"]
        off = np.sqrt(np.mean(np.log(np.maximum(predicted, 1e-6) / new.measurements.value) ** 2))
        print(f"{dose:g} ug/kg, {name}: typical error {100 * np.expm1(off):.0f} %")

# %% [markdown]
# ## A formula
#
# The data tell the clearance to about 0.3 mL/d/kg; of the formulas that agree with the network to that, the likeliest.

# %%
seen = np.concatenate([experiment.measurements.value for experiment in study.values()])
found = qsp.discover.distil(fit.networks["through_target"], {"concentration": np.sort(seen)}, deviation=0.3)
print(found.best)

figure = Figure(figsize=(6.0, 4.0), layout="constrained")
axes = figure.add_subplot()
truth = VMAX / (KM + concentrations)
qsp.plot.learned_rate(
    curve, axes, support=seen, truth=truth, label="clearance (mL/d/kg)", unit="ug/mL", logarithmic=True
)
figure.savefig("09_learned_clearance.png", dpi=150)
