# %% [markdown]
# # A NONMEM data set: does kidney function explain the troughs, and would a dose rule have helped?
#
# Six patients of an intensive care unit got infusions of an antibiotic that the kidneys eliminate. Their records are a
# NONMEM-style table: loading doses, additional doses (ADDL, II), one patient at steady state from elsewhere (SS), one
# whose treatment begins anew (EVID 4), and a creatinine clearance that changes from day to day. Troughs should lie
# between 10 and 20 mg/L. The data are simulated for this example.

# %%
from pathlib import Path

import numpy as np

import qspjax as qsp

data = qsp.io.read_nonmem(Path(__file__).parent / "data" / "infusions.csv", interpolation=qsp.LOCF())
print(data)

# %% [markdown]
# ## Clearance follows the kidneys, volumes the weight
#
# A parameter may be a column or a function of the covariates; creatinine clearance varies, so clearance follows it over
# time. All patients, each with records of his own, are one table of doses and one compiled program.

# %%
typical = qsp.models.TwoCompartment(CL=4.0, V1=22.0, Q=4.0, V2=30.0)  # L/h, L, L/h, L
parameters = {
    "CL": lambda covariate: 0.045 * covariate["CRCL"],  # L/h for mL/min
    "V1": lambda covariate: 0.3 * covariate["WT"],
    "V2": lambda covariate: 0.4 * covariate["WT"],
}
cohort, regimen = data.patients(typical, parameters)

at_records = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order).observed["concentration"]
hours = np.linspace(0.0, 119.9, 481)
curves = qsp.simulate_cohort(cohort, regimen, hours).observed["concentration"]

ratio = data.dv / np.asarray(at_records)  # NaN where a record is no observation
print(f"measured over predicted, median of a patient: {np.nanmedian(ratio, axis=1).round(2)}")

# %% [markdown]
# ## The same patients under a rule
#
# From the second day on the trough before the morning dose decides about the doses that follow: they are scaled to a
# trough of 13 mg/L, at most by half or double at once. The decision is on the predicted value here; on a ward it is a
# measured one.

# %%
rule = qsp.TreatToTarget("concentration", 13.0, at_most=3.0)
plain = qsp.infusion(1000.0, to="central", over=1.0).every(12.0, doses=10)
follows = qsp.varying("CL", data.ts, 0.045 * data.varying["CRCL"], interpolation=qsp.LOCF())
adapted = plain.adapted(rule, at=[23.9, 47.9, 71.9, 95.9]) + follows
fixed = plain + follows

before = qsp.simulate_cohort(cohort, fixed, [119.9]).observed["concentration"]
solution = qsp.simulate_cohort(cohort, adapted, hours)
course = np.asarray(solution.observed["concentration"])
for name, troughs in (("1000 mg twice a day", np.asarray(before)[:, 0]), ("adapted", course[:, -1])):
    inside = (troughs > 10.0) & (troughs < 20.0)
    print(f"{name}: {inside.sum()} of {data.subjects} last troughs between 10 and 20 mg/L")
print("factors of the dose at the end:", np.asarray(solution.stats["factors"])[:, -1].round(2))

# %% [markdown]
# ## Data, prediction, and the adapted course

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(11, 6.5), layout="constrained")
for i, axes in enumerate(figure.subplots(2, 3, sharex=True, sharey=True).flat):
    axes.axhspan(10.0, 20.0, color="tab:green", alpha=0.12, linewidth=0)
    axes.plot(hours, curves[i], color="tab:blue", label="predicted from the records")
    axes.plot(hours, course[i], color="tab:orange", linewidth=0.9, label="1000 mg, adapted")
    axes.plot(data.ts[i], data.dv[i], "o", color="black", markersize=4, label="measured")
    axes.set_title(f"patient {data.ids[i]}", fontsize=10)
figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
figure.supxlabel("time (h)")
figure.supylabel("antibiotic (mg/L)")
figure.savefig("infusions.png", dpi=150)

# %% [markdown]
# Creatinine clearance explains most of the differences; single patients lie up to 40 % off. The rule brings
# the troughs into the range within two or three decisions, whatever the clearance of the patient is.
