# %% [markdown]
# # Causal questions: what would another regimen do, and what would it do to kidneys that fail?
#
# A drug that the kidneys clear lowers a biomarker. In the trial physicians chose the dose, and gave less where renal
# function Z was poor: exposure hardly differed between patients, whatever they got. A regression of the change on dose
# and Z describes that trial well. We ask both it and a mechanism, fitted to the same patients, what happens where
# somebody else chooses: a new regimen, and the full dose in renal impairment.

# %%
import jax
import numpy as np
from matplotlib.figure import Figure

import qspjax as qsp
from qspjax.fit import Experiment, Free, Measurements, MixedModel, Output, Proportional, RandomEffects

response = qsp.models.InhibitionOfProduction(kin=10.0, kout=0.1, Imax=0.9, IC50=5.0)  # mg/L
typical = qsp.models.Coupled(qsp.models.OneCompartmentOral(CL=3.0, V=40.0, ka=1.0), response)
individual = {"pk.CL": "(CLnr + CLr * Z) * exp(eta_CL)", "pk.V": "V", "pd.kin": "kin * exp(eta_kin)", "pd.IC50": "IC50"}
truth = qsp.Population(
    typical,
    individual=individual,
    parameters={"CLnr": 0.3, "CLr": 3.0, "V": 40.0, "kin": 10.0, "IC50": 5.0},
    random={"eta_CL": 0.02, "eta_kin": 0.02},
    covariates={"Z": qsp.Uniform(0.4, 1.25)},  # renal function, 1 is normal
)

# %% [markdown]
# ## The trial
#
# Forty patients, a dose a day for two weeks; concentrations on the last day, and the biomarker on three days.

# %%
noise = np.random.default_rng(1)
patients = truth.sample(key=jax.random.key(1), size=40)
Z = np.asarray(patients.covariates["Z"])
doses = np.round(200.0 * Z * np.exp(0.15 * noise.standard_normal(Z.size)), -1)  # mg, chosen by renal function
pk, pd = np.array([313.0, 316.0, 324.0, 336.0]), np.array([0.0, 24.0, 72.0, 336.0])  # h
every = qsp.bolus(doses, to="depot").every(24.0, doses=14)
observed = qsp.simulate_cohort(patients, every, np.unique([*pd, *pk])).observed


def measured(name, times, cv):
    exact = np.asarray(observed[name])[:, np.searchsorted(np.unique([*pd, *pk]), times)]
    return exact * (1.0 + cv * noise.standard_normal(exact.shape))


concentration, biomarker = measured("concentration", pk, 0.1), measured("response", pd, 0.05)

# %% [markdown]
# ## The regression, and the mechanism
#
# dB = b0 + b1 dose + b2 Z by least squares, and the mixed-effects model of the same forty patients by FOCEI.

# %%
dB = biomarker[:, -1] - biomarker[:, 0]
b = np.linalg.lstsq(np.column_stack([np.ones_like(Z), doses, Z]), dB, rcond=None)[0]
print(f"regression: dB = {b[0]:.1f} {b[1]:+.4f} dose {b[2]:+.1f} Z")

times, outputs = [*pk, *pd], ["concentration"] * pk.size + ["response"] * pd.size
subjects = {}
for i, dose in enumerate(doses):
    data = Measurements(times, [*concentration[i], *biomarker[i]], output=outputs)
    subjects[f"{i}"] = Experiment(data, qsp.bolus(dose, to="depot").every(24.0, doses=14), set={"Z": Z[i]})
mixed = MixedModel(
    typical,
    subjects,
    {"concentration": Output("concentration", Proportional(0.1)), "response": Output("response", Proportional(0.05))},
    parameters={"CLnr": Free(1.0), "CLr": Free(2.0), "V": Free(30.0), "kin": Free(8.0), "IC50": Free(2.0)},
    individual=individual,
    random=[RandomEffects({"eta_CL": 0.1}), RandomEffects({"eta_kin": 0.1})],
)
fit = qsp.fit.nlme(mixed)
print(f"mechanism: {', '.join(f'{name} {value:.3g}' for name, value in fit.parameters.items())}")

# %% [markdown]
# ## Somebody else chooses
#
# An intervention sets dose and renal function, whatever determined them: `do(population, Z=0.15)`. First what the trial
# saw; then the dose of a week at once, the same a day to the regression; then the full dose where kidneys fail.

# %%
daily, weekly = qsp.bolus(200.0, to="depot").every(24.0, doses=14), qsp.bolus(1400.0, to="depot").every(168.0, doses=2)
questions = {"200 mg a day, Z = 1": (daily, 1.0), "1400 mg a week, Z = 1": (weekly, 1.0)}
questions["200 mg a day, Z = 0.15"] = daily, 0.15
days = np.linspace(0.0, 336.0, 85)


def responses(population, regimen, Z):
    cohort = qsp.do(population, Z=Z).sample(key=jax.random.key(2), size=500)
    return np.asarray(qsp.simulate_cohort(cohort, regimen, days, save=["response"]).observed["response"])


figure = Figure(figsize=(11, 3.4), layout="constrained")
for axes, (title, (regimen, value)) in zip(figure.subplots(1, 3, sharey=True), questions.items(), strict=True):
    true, mechanism = responses(truth, regimen, value), responses(fit.population(), regimen, value)
    exact, predicted = ((x[:, -1] - x[:, 0]).mean() for x in (true, mechanism))
    regressed = b @ [1.0, 200.0, value]
    print(f"{title}: truth {exact:.1f}, regression {regressed:.1f}, mechanism {predicted:.1f}")
    assert abs(predicted - exact) < 3.0
    axes.fill_between(days / 24.0, *np.quantile(mechanism, [0.05, 0.95], axis=0), alpha=0.3, label="mechanism, 90 %")
    axes.plot(days / 24.0, true.mean(axis=0), "k--", label="truth, mean")
    axes.plot(14.0, true[:, 0].mean() + regressed, "rx", label="regression")
    axes.set_title(title, fontsize=10)
figure.axes[0].legend(frameon=False, fontsize=8)
figure.axes[0].set_ylabel("biomarker")
figure.supxlabel("time (d)")
figure.savefig("causal_questions.png", dpi=150)

# %% [markdown]
# ## One patient of the trial
#
# Had he had the dose of a week at once? What is known of him after his measurements is simulated as he was treated, and
# as he was not.

# %%
twin = qsp.fit.Twin(fit, method=qsp.fit.Laplace(), covariates={"Z": Z[0]})
twin = twin.update(subjects["0"].measurements, subjects["0"].regimen)
at_once = qsp.bolus(7.0 * doses[0], to="depot").every(168.0, doses=2)
print(twin.counterfactual([336.0], instead=at_once, key=jax.random.key(3)))
