"""A tumour, the immune system and pembrolizumab: 20 states, 20 free parameters, 10 bounds, for `plausible.py`.

Written for that benchmark from published parts; it is no published model. Cells are counted in millions (M), volumes of
tumour and lymph nodes are in mL, times in days; day 0 is that of the first dose, and the tumour is a nodule of 10 mm
half a year before. The parts, with the symbols of `vector_field`:

- Pembrolizumab: two compartments, Ahamadi et al., CPT Pharmacometrics Syst Pharmacol 2017;6:49,
  doi:10.1002/psp4.12139 (values and variability of CL, V1, Q, V2); exchange with the tumour as in Sove et al. below.
- PD-1: binding, and turnover of the receptor, in blood and tumour, Lindauer et al., CPT Pharmacometrics Syst Pharmacol
  2017;6:11, doi:10.1002/psp4.12130, as the occupied share o: do/dt = kon A (1 - o) - (koff + kdeg) o.
- Cancer cells, dead cells, volume, killing, dendritic cells, priming, checkpoint and exhaustion: Sove et al., CPT
  Pharmacometrics Syst Pharmacol 2020;9:484, doi:10.1002/psp4.12546. Immature dendritic cells and activated T cells are
  at rest with what makes them; what dying cells release stands for their antigen, too.
- Myeloid-derived suppressor cells: Wang et al., Front Bioeng Biotechnol 2020;8:141, doi:10.3389/fbioe.2020.00141;
  PD-L1 induced by interferon, TGF-beta, regulatory T cells that it induces: Wang et al., J Immunother Cancer
  2021;9:e002100, doi:10.1136/jitc-2020-002100. Ranges of the parameters surround the values of these.
- Memory: Hardiansyah and Ng, Clin Transl Sci 2019;12:343, doi:10.1111/cts.12636.
- Secretion of cytokines by a T cell: Han et al., Proc Natl Acad Sci USA 2012;109:1607, doi:10.1073/pnas.1117194109.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import qspjax as qsp
from qspjax.population import Bound

START, END = -180.0, 168.0  # d
NODULE = 10.0  # mm, the diameter at the start
DOSE = 200.0  # mg every three weeks


class State(NamedTuple):
    central: jax.Array  # nM
    peripheral: jax.Array  # nM
    interstitial: jax.Array  # nM, the drug in the tumour
    blood_occupancy: jax.Array
    tumour_occupancy: jax.Array
    dendritic: jax.Array  # M, mature, in the tumour
    dendritic_node: jax.Array  # M
    naive: jax.Array  # M, of the tumour's clones, in its lymph nodes
    effector_node: jax.Array  # M
    effector_blood: jax.Array  # M
    memory: jax.Array  # M, in blood
    effector: jax.Array  # M, in the tumour
    exhausted: jax.Array  # M
    regulatory: jax.Array  # M
    suppressor: jax.Array  # M
    IL2: jax.Array  # nM, in lymph nodes
    IFN: jax.Array  # pM, in the tumour
    TGF: jax.Array  # pM, in the tumour
    cancer: jax.Array  # M
    dead: jax.Array  # M


def part(x, half):
    return x / (x + half)


class Tumour(qsp.AbstractDelivered):
    """One patient: what is free comes first, with the value around which it varies."""

    CL: jax.Array = qsp.parameter(unit="L/d", doc="clearance", default=0.22)
    V1: jax.Array = qsp.parameter(unit="L", doc="central volume", default=3.48)
    V2: jax.Array = qsp.parameter(unit="L", doc="peripheral volume", default=4.06)
    uptake: jax.Array = qsp.parameter(unit="1/d", doc="exchange of drug with the tumour", default=0.3)
    growth: jax.Array = qsp.parameter(unit="1/d", doc="growth of cancer cells", default=0.012)
    kill: jax.Array = qsp.parameter(unit="1/d", doc="killing by T cells", default=4.0)
    clear: jax.Array = qsp.parameter(unit="1/d", doc="clearance of dead cells", default=0.07)
    entry: jax.Array = qsp.parameter(unit="1/mL/d", doc="entry of T cells into the tumour", default=1e-3)
    exhaust: jax.Array = qsp.parameter(unit="1/d", doc="exhaustion by PD-L1", default=0.3)
    suppress: jax.Array = qsp.parameter(unit="1/d", doc="inactivation by regulatory T cells", default=0.2)
    checkpoint: jax.Array = qsp.parameter(unit="", doc="PD-1 bound to PD-L1, over that of half effect", default=5.0)
    clones: jax.Array = qsp.parameter(unit="M", doc="naive T cells of the tumour's clones", default=0.06)
    prime: jax.Array = qsp.parameter(unit="1/d", doc="priming of naive T cells", default=5.0)
    divisions: jax.Array = qsp.parameter(unit="", doc="divisions that IL-2 adds", default=5.0)
    mature: jax.Array = qsp.parameter(unit="M/mL/d", doc="dying cells that mature half of the DCs", default=0.1)
    loss: jax.Array = qsp.parameter(unit="1/d", doc="death of effector T cells", default=0.1)
    treg: jax.Array = qsp.parameter(unit="M", doc="regulatory T cells of these clones in blood", default=10.0)
    halved: jax.Array = qsp.parameter(unit="M/mL", doc="suppressor cells that halve killing", default=0.1)
    TGF0: jax.Array = qsp.parameter(unit="pM", doc="TGF-beta from cancer cells", default=80.0)
    release: jax.Array = qsp.parameter(unit="pmol/M/d", doc="release of interferon", default=0.3)
    Q: jax.Array = qsp.parameter(unit="L/d", doc="distribution clearance", default=0.795)
    kon: jax.Array = qsp.parameter(unit="1/nM/d", doc="binding to PD-1", default=69.12)
    koff: jax.Array = qsp.parameter(unit="1/d", doc="dissociation from PD-1", default=3.456)
    kdeg: jax.Array = qsp.parameter(unit="1/d", doc="turnover of PD-1", default=0.059)
    receptors: jax.Array = qsp.parameter(unit="nmol/M", doc="PD-1 of T cells (10,000 each)", default=1.66e-5)
    reach: jax.Array = qsp.parameter(unit="", doc="drug in the tumour's interstitium over plasma", default=0.15)
    capacity: jax.Array = qsp.parameter(unit="M", doc="the most cancer cells", default=4.2e6)
    death: jax.Array = qsp.parameter(unit="1/d", doc="death of cancer cells", default=1e-4)

    def initial(self):
        cancer = 0.37 * jnp.pi / 6.0 * (NODULE / 10.0) ** 3 / 2.57e-3
        empty = dict.fromkeys(State._fields, 0.0)
        return State(**empty | {"naive": self.clones, "TGF": self.TGF0, "cancer": cancer})

    def volume(self, y):
        """Return the volume in mL: cells of 17 and of 7 um diameter fill 37 % of it."""
        lymphocytes = y.effector + y.exhausted + y.regulatory
        return 1e-6 + (2.57e-3 * (y.cancer + y.dead) + 1.76e-4 * lymphocytes) / 0.37

    def checked(self, y):
        """Return by how much PD-1 that is not occupied inhibits a T cell; interferon induces PD-L1 six times."""
        ligand = (1.0 + 5.0 * part(y.IFN, 2.96)) / 6.0
        s = self.checkpoint * (1.0 - y.tumour_occupancy) * ligand
        return s**2 / (1.0 + s**2)

    def vector_field(self, t, y):
        V = self.volume(y)
        active = 1.0 - self.checked(y)

        # killing, and what becomes of killers
        among = y.effector / (y.effector + y.cancer + 1e-6)
        unhindered = active * (1.0 - part(y.suppressor / V, self.halved)) * (1.0 - part(y.TGF, 280.0))
        killed = self.kill * among * y.cancer * unhindered
        died = self.death * y.cancer
        exhausted = self.exhaust * y.effector * (1.0 - active)
        inactivated = self.suppress * y.effector * y.regulatory / (y.regulatory + y.effector + 1e-6)
        met = part(y.cancer, 4.5e-3)

        # dendritic cells and priming
        signal = part((killed + died) / V, self.mature)
        matured = 1.5 * signal * 0.4 * V * 0.01 / (0.01 + 1.5 * signal)
        migrated = 4.0 * y.dendritic
        primed = self.prime * part(10.0 * y.dendritic_node, y.effector_node + 1.0) * y.naive
        generations = 5.0 + self.divisions * part(y.IL2, 0.32)
        left_node = 24.0 * y.effector_node
        left_blood = self.entry * V * met * y.effector_blood
        recalled = 0.1 * met * y.memory - 0.01 * (1.0 - met) * y.effector_blood

        # drug
        distributed = self.Q * (y.central - y.peripheral)
        binding = self.kon * y.interstitial * (1.0 - y.tumour_occupancy)
        PD1 = self.receptors * (y.effector + y.exhausted) / (0.55e-3 * V)

        return State(
            central=-(self.CL * y.central + distributed) / self.V1,
            peripheral=distributed / self.V2,
            interstitial=self.uptake * (self.reach * y.central - y.interstitial)
            - PD1 * (binding - self.koff * y.tumour_occupancy),
            blood_occupancy=self.kon * y.central * (1.0 - y.blood_occupancy)
            - (self.koff + self.kdeg) * y.blood_occupancy,
            tumour_occupancy=binding - (self.koff + self.kdeg) * y.tumour_occupancy,
            dendritic=matured - migrated - 0.02 * y.dendritic,
            dendritic_node=migrated - 0.02 * y.dendritic_node,
            naive=1.8 * (self.clones - y.naive) - primed,
            effector_node=2.0**generations * primed - left_node,
            effector_blood=left_node + recalled - left_blood - self.loss * y.effector_blood,
            memory=-recalled - 0.002 * y.memory,
            effector=left_blood - exhausted - inactivated - self.loss * y.effector,
            exhausted=exhausted + inactivated - 0.1 * y.exhausted,
            regulatory=self.entry * V * met * self.treg * (1.0 + part(y.TGF, 140.0)) - 0.05 * y.regulatory,
            suppressor=0.05 * (0.164 * V - y.suppressor) * met - 0.015 * y.suppressor,
            IL2=(0.02 * generations * primed - 0.004 * y.effector_node * part(y.IL2, 0.32)) / 1.1e-3 - 288.0 * y.IL2,
            IFN=1e3 * self.release * y.effector * active / V - 11.0 * y.IFN,
            TGF=14.3 * (self.TGF0 - y.TGF) + 120.0 * y.regulatory / V,
            cancer=self.growth * y.cancer * (1.0 - y.cancer / self.capacity) - died - killed,
            dead=killed + died - self.clear * y.dead,
        )

    def observe(self, t, y):
        V = self.volume(y)
        return {
            "diameter": 10.0 * jnp.cbrt(6.0 * V / jnp.pi),  # mm
            "CD8": 1e3 * (y.effector + y.exhausted) / V,  # 1/mm3
            "Treg": 1e3 * y.regulatory / V,  # 1/mm3
            "blood": y.effector_blood,
            "IFN": y.IFN,
            "drug": 0.149 * y.central,  # ug/mL
            "occupancy": y.tumour_occupancy,
        }

    def deliveries(self):
        return {"central": qsp.Delivery("central", scale=1e3 / 149.0 / self.V1)}  # mg of 149 kDa as nM


def population():
    around = {
        "growth": 2.0,
        "kill": 5.0,
        "clear": 3.0,
        "uptake": 3.0,
        "entry": 10.0,
        "exhaust": 3.0,
        "suppress": 3.0,
        "checkpoint": 3.0,
        "clones": 5.0,
        "prime": 4.0,
        "divisions": 2.0,
        "mature": 10.0,
        "loss": 3.0,
        "treg": 5.0,
        "halved": 5.0,
        "TGF0": 3.0,
        "release": 10.0,
    }
    patient = Tumour()
    between = {name: qsp.LogNormal(cv=cv) for name, cv in {"CL": 0.38, "V1": 0.21, "V2": 0.3}.items()}
    for name, fold in around.items():
        value = float(qsp.at(patient, name).get())
        between[name] = qsp.LogUniform(value / fold, value * fold)
    return qsp.Population(patient, between=between)


def arms():
    every = qsp.bolus(DOSE, to="central").every(21.0, doses=8)
    return [qsp.Arm("untreated", qsp.no_doses()), qsp.Arm("treated", every)]


def bounds():
    """Return the bounds: a growing, infiltrated tumour of 15 to 40 mm, and what pembrolizumab does in the clinic."""
    value, change = qsp.endpoints.Value, qsp.endpoints.RelativeChange
    first, peak = (0.0, 20.0), qsp.endpoints.Cmax("IFN", between=(0.0, 42.0))
    return {
        "diameter, day 0, mm": Bound(value("diameter", at=0.0), 15.0, 40.0, arm="untreated"),
        "growth in 12 weeks": Bound(change("diameter", at=84.0, baseline=0.0), 0.1, 0.5, arm="untreated"),
        "CD8, day 0, 1/mm3": Bound(value("CD8", at=0.0), 50.0, 800.0, arm="untreated"),
        "Treg, day 0, 1/mm3": Bound(value("Treg", at=0.0), 20.0, 400.0, arm="untreated"),
        "interferon, day 0, pM": Bound(value("IFN", at=0.0), 0.1, 2.0, arm="untreated"),
        "drug, peak of cycle 1": Bound(qsp.endpoints.Cmax("drug", between=first), 45.0, 80.0, arm="treated"),
        "drug, trough": Bound(value("drug", at=END), 15.0, 45.0, arm="treated"),
        "interferon, peak": Bound(peak, 3.0, 40.0, arm="treated", over="untreated"),
        "change, week 8": Bound(change("diameter", at=56.0, baseline=0.0), -0.4, 0.1, arm="treated"),
        "change, week 24": Bound(change("diameter", at=END, baseline=0.0), -0.7, 0.2, arm="treated"),
    }


def case():
    """Return the population, its bounds, the arms, and the times that a simulation spans."""
    return population(), bounds(), arms(), (START, END)
