# %% [markdown]
# # A bispecific antibody: which rate bridges most cells, and what does a pause on cytokines cost?
#
# A bispecific antibody binds CD3 on T cells with one arm and an antigen on tumour cells with the other. Only the
# complex of all three, the trimer, kills. Too much of the drug fills both targets with separate molecules, so that the
# trimer has a maximum over the dose. Bridged T cells release interleukin 6, and the infusion is paused while it is
# high. The drug and its numbers are invented for this example.

# %%
import jax
import numpy as np
from matplotlib.figure import Figure

import qspjax as qsp
from qspjax.models import MassAction, Network, NetworkEvent, Reaction, Species

network = Network(
    name="bispecific",
    compartments={"blood": 3.0},  # L
    species={name: Species(start, is_amount=False) for name, start in {"drug": 0.0, "CD3": 1.5, "antigen": 0.8}.items()}
    | {"on_cd3": 0.0, "on_antigen": 0.0, "trimer": 0.0},  # nM; amounts are nmol
    parameters={"kon": 5.0, "koff_cd3": 50.0, "koff_antigen": 5.0}  # 1/(nM day), 1/day
    | {"CL": 40.0, "planned": 100.0, "rate": 100.0}  # L/day, nmol/day
    | {"kout": 4.0, "release": 250.0, "high": 12.0, "low": 4.0},  # 1/day, pg/mL per nM of trimer, pg/mL
    reactions={
        "infusion": Reaction("-> drug", "rate"),
        "elimination": Reaction("drug ->", "CL * drug"),
        "cd3_first": Reaction("drug + CD3 -> on_cd3", MassAction("kon", reverse="koff_cd3")),
        "antigen_first": Reaction("drug + antigen -> on_antigen", MassAction("kon", reverse="koff_antigen")),
        "cd3_second": Reaction("on_antigen + CD3 -> trimer", MassAction("kon", reverse="koff_cd3")),
        "antigen_second": Reaction("on_cd3 + antigen -> trimer", MassAction("kon", reverse="koff_antigen")),
    },
    rates={"IL6": "kout * (release * trimer - IL6)"},
    initial={"IL6": "0", "rate": "planned"},
    events=[
        NetworkEvent("IL6 > high", {"rate": "0"}, name="pause"),
        NetworkEvent("IL6 < low", {"rate": "planned"}, name="resume"),
    ],
)
print(network.equations())
print("kept for ever:", *network.conserved(), sep="\n  ")

# %% [markdown]
# ## The bell
#
# Sixty rates of infusion, one program. The pause is left out: its threshold is a number like all others.

# %%
planned = np.geomspace(1.0, 1e5, 60)  # nmol/day
unpaused = qsp.at(network, "high").set(1e9)
doses = qsp.Cohort.of(unpaused, {"planned": planned})
bell = np.asarray(qsp.simulate_cohort(doses, qsp.no_doses(), [7.0]).observed["trimer"])[:, 0]
best = planned[bell.argmax()]
print(f"most trimer, {bell.max():.2f} nM, at {best:.0f} nmol/day")

# %% [markdown]
# ## The pause, in two hundred patients
#
# Patients differ in their antigen and in how much interleukin 6 a trimer releases. The times of the pauses are events
# of the model: they are found where interleukin 6 crosses its threshold, and gradients go through them.


# %%
typical = qsp.at(network, "planned").set(30.0)
population = qsp.Population(typical, between={"release": qsp.LogNormal(cv=0.6), "CL": qsp.LogNormal(cv=0.3)})
cohort = population.sample(key=jax.random.key(4), size=200)
days = np.linspace(0.0, 7.0, 169)
week = qsp.simulate_cohort(cohort, qsp.no_doses(), days)
infusing = np.asarray(week.observed["rate"]) > 0.0
paused = ~infusing.all(axis=1)
print(
    f"{paused.sum()} of {len(paused)} patients have a pause; they are infused {infusing[paused].mean():.0%} of the week"
)

# %% [markdown]
# ## As SBML, for those who work elsewhere

# %%
qsp.io.write_sbml(typical, "bispecific.xml")
again = qsp.io.read_sbml("bispecific.xml")
own, other = (qsp.simulate(one, qsp.no_doses(), days).observed["IL6"] for one in (typical, again))
print(f"written and read again: interleukin 6 differs by {np.abs(own - other).max():.1e} pg/mL at most")

# %% [markdown]
# ## Pictures

# %%
figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2)
left.semilogx(planned, bell, color="tab:blue")
left.axvline(best, color="grey", linewidth=0.8, linestyle=":")
left.set(xlabel="rate of infusion (nmol/day)", ylabel="trimer after a week (nM)")
shown = np.flatnonzero(paused)[:3]
for i in shown:
    course = np.asarray(week.observed["IL6"])[i]
    (line,) = right.plot(days, course, linewidth=0.8, linestyle="--")
    right.plot(days, np.where(infusing[i], course, np.nan), color=line.get_color(), linewidth=2.0, label=f"patient {i}")
right.axhline(float(typical.values["high"]), color="grey", linewidth=0.8, linestyle=":")
right.set(xlabel="time (days)", ylabel="interleukin 6 (pg/mL)", ylim=(0.0, 24.0))
right.legend(frameon=False, ncols=3, loc="upper center", title="dashed: infusion paused")
figure.savefig("bispecific.png", dpi=150)

# %% [markdown]
# The trimer has its maximum where the free drug is near the geometric mean of both dissociation constants, 3.2 nM. The
# pause keeps interleukin 6 in bounds, but most patients who need it are infused less than half of the time: 40 % of the
# rate, without a pause, would give them as much trimer and most of them no interleukin 6 above the threshold.
