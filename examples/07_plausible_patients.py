# %% [markdown]
# # Plausible patients: who could the next trial enrol, given what the last one saw?
#
# Of an antibody against a soluble target we know ranges of eight parameters, the lowest and highest values that anybody
# had, and the mean and the spread of the trough in the last trial. We look for patients within the bounds, weigh them
# so that they agree with that trial, and ask what a lower dose would do in them.

# %%
import jax
import numpy as np

import qspjax as qsp
from qspjax.population import SD, Bound, Mean, plausible, select, weights

typical = qsp.models.TMDD(CL=0.25, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.5, kdeg=0.5, kint=0.2, R0=10.0)
ranges = {
    "CL": qsp.LogUniform(0.1, 0.6),  # L/d
    "V1": qsp.LogUniform(2.0, 5.0),  # L
    "Q": qsp.LogUniform(0.2, 1.0),  # L/d
    "V2": qsp.LogUniform(1.5, 6.0),  # L
    "kdeg": qsp.LogUniform(0.2, 1.5),  # 1/d
    "kint": qsp.LogUniform(0.1, 0.6),  # 1/d
    "R0": qsp.LogUniform(3.0, 30.0),  # nM
}
population = qsp.Population(typical, between=ranges)
arms = [qsp.Arm(f"{dose:g} mg", qsp.bolus(dose, to="central").every(21.0, doses=3)) for dose in (100.0, 300.0)]

# %% [markdown]
# ## Within the bounds
#
# The drug just before the third dose of 300 mg, and the free target three weeks after one of 100 mg.


# %%
def value(output, at):
    return qsp.endpoints.Value(output, at=at)


bounds = {
    "trough": Bound(value("free", 41.9), 30.0, 400.0, arm="300 mg"),  # nM
    "peak": Bound(value("free", 42.1), 400.0, 1500.0, arm="300 mg"),
    "target": Bound(value("target_free", 20.9), 0.02, 8.0, arm="100 mg"),
    "suppression": Bound(value("target_free", 20.9), 0.01, 0.9, arm="300 mg", over="100 mg"),
}
found = plausible(population, bounds, arms=arms, size=1000, key=jax.random.key(0))
print(found)

# %% [markdown]
# ## As in the last trial
#
# Weights as equal as the targets allow; or fifty different patients of equal weight.

# %%
targets = [Mean("trough", 140.0), SD("trough", 60.0, mean=140.0), Mean("peak", 750.0)]
weighed = weights(found, targets)
chosen = select(found, targets, size=50, key=jax.random.key(1))
print(weighed)
print(chosen)

# %% [markdown]
# ## A lower dose in these fifty

# %%
assert found.cohort is not None
half = qsp.bolus(50.0, to="central").every(21.0, doses=3)
solution = qsp.simulate_cohort(found.cohort.take(chosen.members), half, np.array([41.9]))
occupied = np.asarray(solution.observed["occupancy"])[:, 0]
print(f"50 mg: median occupancy {np.median(occupied):.0%}, over 90 % in {np.mean(occupied > 0.9):.0%} of patients")

figure = qsp.plot.coverage(found, chosen, names=["CL", "V1", "kdeg", "R0"])
figure.savefig("plausible_patients.png", dpi=120)
