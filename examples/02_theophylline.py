# %% [markdown]
# # Theophylline: do published estimates predict twelve real subjects?
#
# Twelve subjects took one oral dose of theophylline and gave eleven blood samples each. We simulate each of them with
# his own dose and sampling times at published population estimates, and look at data against prediction.
#
# Data: Boeckmann, Sheiner and Beal, NONMEM Users Guide Part V, 1994 (R's `Theoph`). The dose is in mg per kg of body
# weight. Estimates: ka 1.59 /h, CL/F 2.75 L/h, V/F 31.8 L.

# %%
from pathlib import Path

import numpy as np

import qspjax as qsp

table = np.genfromtxt(
    Path(__file__).parent / "data" / "theophylline.csv", delimiter=",", names=True, comments="#", skip_header=2
)
subjects = np.unique(table["subject"])
rows = [table[table["subject"] == subject] for subject in subjects]
ts = np.stack([row["time_h"] for row in rows])  # shape (12, 11): each subject has times of his own
measured = np.stack([row["concentration_mg_per_L"] for row in rows])
covariates = {"WT": [row["weight_kg"][0] for row in rows], "dose": [row["dose_mg_per_kg"][0] for row in rows]}

# %% [markdown]
# ## Twelve subjects at the population estimates

# %%
typical = qsp.models.OneCompartmentOral(CL=2.75, V=31.8, ka=1.59)  # L/h, L, 1/h; apparent, so F = 1
cohort = qsp.Cohort.of(typical, {}, covariates=covariates)
regimen = qsp.bolus(qsp.Proportional(1.0, by=("dose", "WT")), to="depot")  # mg/kg times kg

at_samples = qsp.simulate_cohort(cohort, regimen, ts).observed["concentration"]
curves = qsp.simulate_cohort(cohort, regimen, np.linspace(0.0, 25.0, 251))

residual = measured - at_samples
print(f"{measured.size} concentrations; mean residual {residual.mean():+.2f} mg/L, SD {residual.std():.2f} mg/L")

# %% [markdown]
# ## Data against prediction, subject by subject

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(11, 7), layout="constrained")
for i, (axes, subject) in enumerate(zip(figure.subplots(3, 4, sharex=True, sharey=True).flat, subjects, strict=True)):
    axes.plot(curves.ts, curves.observed["concentration"][i], color="tab:blue", label="predicted")
    axes.plot(ts[i], measured[i], "o", color="black", markersize=4, label="measured")
    axes.set_title(f"subject {subject:.0f}, {covariates['WT'][i] * covariates['dose'][i]:.0f} mg", fontsize=10)
figure.axes[0].legend(frameon=False)
figure.supxlabel("time after the dose (h)")
figure.supylabel("theophylline (mg/L)")
figure.savefig("theophylline.png", dpi=150)

# %% [markdown]
# The estimates describe the middle of the group, without bias; single subjects lie up to 4 mg/L off, most of all in
# the first two hours: that is the difference between patients, which a population with `between=` describes.
