# %% [markdown]
# # Theophylline: what do twelve subjects say about absorption and clearance?
#
# Each of the twelve subjects is fitted alone, all of them side by side in one program; then all together ("naive
# pooled"), as if they were one subject. The spread of the single fits is what a population model describes.
#
# Data: Boeckmann, Sheiner and Beal, NONMEM Users Guide Part V, 1994 (R's `Theoph`). The dose is in mg per kg of body
# weight.

# %%
from pathlib import Path

import numpy as np

import qspjax as qsp

table = np.genfromtxt(
    Path(__file__).parent / "data" / "theophylline.csv", delimiter=",", names=True, comments="#", skip_header=2
)
model = qsp.models.OneCompartmentOral(CL=2.75, V=31.8, ka=1.59)  # L/h, L, 1/h; apparent, so F = 1
experiments = {}
for subject in np.unique(table["subject"]):
    rows = table[table["subject"] == subject]
    data = qsp.fit.Measurements(rows["time_h"], rows["concentration_mg_per_L"], output="concentration")
    dose = float(rows["dose_mg_per_kg"][0] * rows["weight_kg"][0])  # mg
    experiments[f"{subject:.0f}"] = (data, qsp.bolus(dose, to="depot"))

# %% [markdown]
# ## Everyone together
#
# The pooled fit: one ka, CL and V for all, and an additive error whose size is estimated too.

# %%
outputs = {"concentration": qsp.fit.Output("concentration", qsp.fit.Additive("sigma"))}
free = {
    "ka": qsp.fit.Free(1.5, bounds=(0.1, 15.0)),  # 1/h
    "CL": qsp.fit.Free(3.0, bounds=(0.3, 30.0)),  # L/h
    "V": qsp.fit.Free(30.0, bounds=(3.0, 300.0)),  # L
    "sigma": qsp.fit.Free(1.0, bounds=(0.01, 10.0)),  # mg/L
}
everyone = {name: qsp.fit.Experiment(data, regimen) for name, (data, regimen) in experiments.items()}
pooled = qsp.fit.Problem(model, everyone, outputs, free)
fit = qsp.fit.estimate(pooled)
information = qsp.fit.fisher_information(pooled, fit.x)
uncertainty = qsp.fit.Uncertainty(pooled, fit.x, information)
print(uncertainty.to_dataframe().round(3).to_string(index=False))

# %% [markdown]
# ## One by one
#
# One problem again, in which each subject has parameters of his own. Parameters of different subjects share their
# sensitivities, so that thirty-six cost as much as three.

# %%
own = {
    name: qsp.fit.Experiment(data, regimen, set={one: f"{one}_{name}" for one in ("ka", "CL", "V")})
    for name, (data, regimen) in experiments.items()
}
each = {f"{one}_{name}": free[one] for name in experiments for one in ("ka", "CL", "V")} | {"sigma": free["sigma"]}
single = qsp.fit.Problem(model, own, outputs, each)
print(single)
singles = qsp.fit.estimate(single)
found = {one: [singles.parameters[f"{one}_{name}"] for name in experiments] for one in ("ka", "CL", "V")}
for one, values in found.items():
    middle, spread = np.exp(np.mean(np.log(values))), np.std(np.log(values), ddof=1)
    print(f"{one:<3} {middle:6.2f}  (pooled {fit.parameters[one]:5.2f}), SD of the log {spread:.2f}")
print(f"residual SD {singles.parameters['sigma']:.2f} mg/L one by one, {fit.parameters['sigma']:.2f} mg/L pooled")

# %% [markdown]
# ## How well is each parameter known?
#
# Profile likelihoods of the pooled fit, and data against both fits.

# %%
profiles = qsp.fit.profiles(pooled, fit.x)
for name, profile in profiles.items():
    print(f"{name:<6} 95 % interval {profile.interval[0]:.2f} to {profile.interval[1]:.2f}")
qsp.plot.profile(profiles).savefig("theophylline_profiles.png", dpi=150)
qsp.plot.fits(single, singles.x, experiments=list(experiments)).savefig("theophylline_fits.png", dpi=150)
qsp.plot.diagnostics(fit).savefig("theophylline_pooled.png", dpi=150)

# %% [markdown]
# Clearance and volume differ little between subjects, absorption a good deal: the residual SD falls to less than half
# once each subject has his own parameters.
