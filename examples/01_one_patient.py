# %% [markdown]
# # One patient: what does a loading dose buy, and which parameter decides the trough?
#
# An oral drug with a half-life of 7 hours, 100 mg once a day. We compare starting with and without a doubled first
# dose, then ask by gradient what the trough on day 7 depends on.

# %%
import equinox as eqx
import jax.numpy as jnp

import qspjax as qsp

patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)  # L/h, L, 1/h
daily = qsp.bolus(100.0, to="depot").every(24.0, doses=7)
loaded = qsp.bolus(200.0, to="depot") + qsp.bolus(100.0, to="depot", at=24.0).every(24.0, doses=6)
ts = jnp.linspace(0.0, 168.0, 337)  # h

plain = qsp.simulate(patient, daily, ts)
with_load = qsp.simulate(patient, loaded, ts)
print(with_load)

# %% [markdown]
# ## Exposure day by day

# %%
for day in (1, 2, 7):
    exposure = qsp.endpoints.AUC("concentration", between=(24.0 * (day - 1), 24.0 * day))
    print(f"AUC on day {day}: {exposure(plain):.1f} mg h/L without, {exposure(with_load):.1f} with a loading dose")

# %% [markdown]
# ## A gradient is a value shaped like the patient
#
# d log(trough) / d log(parameter): how many per cent the trough on day 7 moves for one per cent of each parameter.


# %%
def trough(patient):
    return qsp.simulate(patient, daily, jnp.array([168.0])).observed["concentration"][0]


gradient = eqx.filter_grad(trough)(patient)
for parameter in qsp.names(patient):
    slope = qsp.at(gradient, parameter.name).get() * parameter.value / trough(patient)
    print(f"{parameter.name:>5}  {slope:+.2f} % per %   {parameter.doc}")

# %% [markdown]
# ## The picture

# %%
from matplotlib.figure import Figure

axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
qsp.plot.trajectory(plain, "concentration", ax=axes, label="100 mg a day")
qsp.plot.trajectory(with_load, "concentration", ax=axes, label="with 200 mg on the first day")
axes.legend()
axes.figure.savefig("one_patient.png", dpi=150)

# %% [markdown]
# With a half-life of 7 hours little accumulates: the loading dose is forgotten within two days, and the trough is
# decided by clearance and volume, hardly by absorption.
