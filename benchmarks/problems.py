"""The five reference problems as qspjax models; `equations.py` holds the same as strings, for other programs.

    python benchmarks/problems.py

checks that both forms are the same: slopes and initial states at random points, to 1e-12.
"""

from typing import NamedTuple

import equations
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp


class TwoCompartment(NamedTuple):
    depot: jax.Array
    central: jax.Array
    peripheral: jax.Array
    auc: jax.Array


class PK2(qsp.AbstractModel):
    """Two compartments, oral absorption; amounts in mg, the area under the concentration in mg h/L."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance")
    V: jax.Array = qsp.parameter(unit="L", doc="central volume")
    KA: jax.Array = qsp.parameter(unit="1/h", doc="absorption rate constant")
    Q: jax.Array = qsp.parameter(unit="L/h", doc="intercompartmental clearance")
    VP: jax.Array = qsp.parameter(unit="L", doc="peripheral volume")

    def initial(self):
        return TwoCompartment(depot=0.0, central=0.0, peripheral=0.0, auc=0.0)

    def vector_field(self, t, y):
        absorbed = self.KA * y.depot
        distributed = self.Q / self.V * y.central - self.Q / self.VP * y.peripheral
        return TwoCompartment(
            depot=-absorbed,
            central=absorbed - self.CL / self.V * y.central - distributed,
            peripheral=distributed,
            auc=y.central / self.V,
        )

    def observe(self, t, y):
        return {"concentration": y.central / self.V}


class Binding(NamedTuple):
    central: jax.Array
    peripheral: jax.Array
    target: jax.Array
    complex: jax.Array


class TMDD(qsp.AbstractModel):
    """Target-mediated drug disposition, full binding; concentrations in nM."""

    CL: jax.Array = qsp.parameter(unit="L/d", doc="linear clearance of the free drug")
    V: jax.Array = qsp.parameter(unit="L", doc="central volume")
    Q: jax.Array = qsp.parameter(unit="L/d", doc="intercompartmental clearance")
    VP: jax.Array = qsp.parameter(unit="L", doc="peripheral volume")
    KON: jax.Array = qsp.parameter(unit="1/nM/d", doc="association rate constant")
    KOFF: jax.Array = qsp.parameter(unit="1/d", doc="dissociation rate constant")
    KDEG: jax.Array = qsp.parameter(unit="1/d", doc="degradation rate constant of the free target")
    KINT: jax.Array = qsp.parameter(unit="1/d", doc="internalisation rate constant of the complex")
    KSYN: jax.Array = qsp.parameter(unit="nM/d", doc="synthesis of the target")
    R0: jax.Array = qsp.parameter(unit="nM", doc="target at the start")

    def initial(self):
        return Binding(central=0.0, peripheral=0.0, target=self.R0, complex=0.0)

    def vector_field(self, t, y):
        bound = self.KON * y.central * y.target - self.KOFF * y.complex
        flow = self.Q * (y.central - y.peripheral)
        return Binding(
            central=-(self.CL * y.central + flow) / self.V - bound,
            peripheral=flow / self.VP,
            target=self.KSYN - self.KDEG * y.target - bound,
            complex=bound - self.KINT * y.complex,
        )

    def observe(self, t, y):
        return {"free": y.central}


class Tumour(NamedTuple):
    depot: jax.Array
    central: jax.Array
    peripheral: jax.Array
    receptor: jax.Array
    occupied: jax.Array
    RAF: jax.Array
    RAFP: jax.Array
    MEK: jax.Array
    MEKP: jax.Array
    MEKPP: jax.Array
    ERK: jax.Array
    ERKP: jax.Array
    ERKPP: jax.Array
    FOS_mRNA: jax.Array
    FOS: jax.Array
    phosphatase_mRNA: jax.Array
    phosphatase: jax.Array
    IL6: jax.Array
    IL10: jax.Array
    TNF: jax.Array
    IFN: jax.Array
    naive: jax.Array
    effector: jax.Array
    regulatory: jax.Array
    dendritic: jax.Array
    dendritic_mature: jax.Array
    M1: jax.Array
    M2: jax.Array
    tumour: jax.Array
    CRP: jax.Array


def saturation(x, half=1.0):
    """Return x / (half + x)."""
    return x / (half + x)


class QSP30(qsp.AbstractModel):
    """A drug against a receptor upstream of RAF, MEK and ERK, in a tumour with T cells, macrophages and cytokines.

    Time in days, amounts and concentrations arbitrary: a model of the size and stiffness of the field's, and no more.
    """

    KA: jax.Array = qsp.parameter(unit="1/d", doc="absorption rate constant")
    CLD: jax.Array = qsp.parameter(unit="L/d", doc="clearance of the drug")
    VD: jax.Array = qsp.parameter(unit="L", doc="central volume")
    QD: jax.Array = qsp.parameter(unit="L/d", doc="intercompartmental clearance")
    VPD: jax.Array = qsp.parameter(unit="L", doc="peripheral volume")
    KON: jax.Array = qsp.parameter(unit="1/d", doc="association with the receptor")
    KOFF: jax.Array = qsp.parameter(unit="1/d", doc="dissociation from the receptor")
    KDEG: jax.Array = qsp.parameter(unit="1/d", doc="degradation of the free receptor")
    KINT: jax.Array = qsp.parameter(unit="1/d", doc="internalisation of the occupied receptor")
    KSYN: jax.Array = qsp.parameter(unit="1/d", doc="synthesis of the receptor")
    V1: jax.Array = qsp.parameter(unit="1/d", doc="RAF activated by the receptor")
    V2: jax.Array = qsp.parameter(unit="1/d", doc="RAF inactivated")
    V3: jax.Array = qsp.parameter(unit="1/d", doc="MEK phosphorylated once")
    V4: jax.Array = qsp.parameter(unit="1/d", doc="MEK dephosphorylated")
    V5: jax.Array = qsp.parameter(unit="1/d", doc="MEK phosphorylated twice")
    V6: jax.Array = qsp.parameter(unit="1/d", doc="MEK dephosphorylated once")
    V7: jax.Array = qsp.parameter(unit="1/d", doc="ERK phosphorylated once")
    V8: jax.Array = qsp.parameter(unit="1/d", doc="ERK dephosphorylated")
    V9: jax.Array = qsp.parameter(unit="1/d", doc="ERK phosphorylated twice")
    V10: jax.Array = qsp.parameter(unit="1/d", doc="ERK dephosphorylated once")
    KM: jax.Array = qsp.parameter(unit="", doc="Michaelis constant of the kinases and phosphatases")
    KI: jax.Array = qsp.parameter(unit="", doc="phosphatase that halves the activation of RAF")
    KTX: jax.Array = qsp.parameter(unit="1/d", doc="transcription")
    KTL: jax.Array = qsp.parameter(unit="1/d", doc="translation")
    KMD: jax.Array = qsp.parameter(unit="1/d", doc="loss of mRNA")
    KPD: jax.Array = qsp.parameter(unit="1/d", doc="loss of protein")
    KCY: jax.Array = qsp.parameter(unit="1/d", doc="secretion of cytokines")
    KCD: jax.Array = qsp.parameter(unit="1/d", doc="loss of cytokines")
    KTN: jax.Array = qsp.parameter(unit="1/d", doc="influx of naive T cells")
    DTN: jax.Array = qsp.parameter(unit="1/d", doc="death of naive T cells")
    ACT: jax.Array = qsp.parameter(unit="1/d", doc="priming of naive T cells")
    DTE: jax.Array = qsp.parameter(unit="1/d", doc="death of effector T cells")
    PRO: jax.Array = qsp.parameter(unit="1/d", doc="proliferation of effector T cells")
    DTR: jax.Array = qsp.parameter(unit="1/d", doc="death of regulatory T cells")
    DDC: jax.Array = qsp.parameter(unit="1/d", doc="death of dendritic cells")
    MAT: jax.Array = qsp.parameter(unit="1/d", doc="maturation of dendritic cells")
    DMP: jax.Array = qsp.parameter(unit="1/d", doc="death of macrophages")
    POL: jax.Array = qsp.parameter(unit="1/d", doc="polarisation of macrophages")
    RT: jax.Array = qsp.parameter(unit="1/d", doc="growth of the tumour")
    KT: jax.Array = qsp.parameter(unit="", doc="capacity of the tumour")
    KILL: jax.Array = qsp.parameter(unit="1/d", doc="killing by effector T cells")
    KCRP: jax.Array = qsp.parameter(unit="1/d", doc="synthesis of CRP")
    DCRP: jax.Array = qsp.parameter(unit="1/d", doc="loss of CRP")
    STIM: jax.Array = qsp.parameter(unit="", doc="growth factor")

    def initial(self):
        start = dict.fromkeys(Tumour._fields, 0.0)
        start |= {"receptor": 1.0, "RAF": 1.0, "MEK": 1.2, "ERK": 1.2, "naive": 10.0, "effector": 0.1}
        start |= {"regulatory": 0.5, "dendritic": 1.0, "M1": 0.5, "M2": 0.5, "tumour": 2.0}
        return Tumour(**start)

    def vector_field(self, t, y):
        # drug and receptor
        absorbed = self.KA * y.depot
        distributed = self.QD * (y.central - y.peripheral)
        bound = self.KON * y.central * y.receptor - self.KOFF * y.occupied

        # kinase cascade: each step on and off; phosphatase is the feedback
        stimulus = self.STIM * saturation(y.receptor, 0.3) / (1.0 + y.phosphatase / self.KI)
        raf = self.V1 * stimulus * saturation(y.RAF, self.KM) - self.V2 * saturation(y.RAFP, self.KM)
        mek = self.V3 * y.RAFP * saturation(y.MEK, self.KM) - self.V4 * saturation(y.MEKP, self.KM)
        mekp = self.V5 * y.RAFP * saturation(y.MEKP, self.KM) - self.V6 * saturation(y.MEKPP, self.KM)
        erk = self.V7 * y.MEKPP * saturation(y.ERK, self.KM) - self.V8 * saturation(y.ERKP, self.KM)
        erkp = self.V9 * y.MEKPP * saturation(y.ERKP, self.KM) - self.V10 * saturation(y.ERKPP, self.KM)

        # cells
        danger = saturation(y.TNF + y.IFN, 0.5)
        primed = self.ACT * y.naive * saturation(y.dendritic_mature)
        matured = self.MAT * y.dendritic * danger
        proliferated = self.PRO * y.effector * saturation(y.tumour, 10.0) / (1.0 + y.regulatory)
        induced = 0.2 * y.effector * saturation(y.IL10)
        to_m1 = self.POL * y.M2 * saturation(y.TNF)
        to_m2 = self.POL * y.M1 * saturation(y.IL10)
        recruited = 0.2 * (0.1 + y.IFN) / (0.5 + y.IFN)
        grown = self.RT * y.tumour * (1.0 - y.tumour / self.KT) * (0.2 + saturation(y.ERKPP, 0.3))
        killed = self.KILL * y.effector * saturation(y.tumour)

        # cytokines, damped by IL10
        secreted = self.KCY / (1.0 + y.IL10)
        return Tumour(
            depot=-absorbed,
            central=(absorbed - self.CLD * y.central - distributed) / self.VD - bound,
            peripheral=distributed / self.VPD,
            receptor=self.KSYN - self.KDEG * y.receptor - bound,
            occupied=bound - self.KINT * y.occupied,
            RAF=-raf,
            RAFP=raf,
            MEK=-mek,
            MEKP=mek - mekp,
            MEKPP=mekp,
            ERK=-erk,
            ERKP=erk - erkp,
            ERKPP=erkp,
            FOS_mRNA=self.KTX * saturation(y.ERKPP * y.ERKPP, 0.25) - self.KMD * y.FOS_mRNA,
            FOS=self.KTL * y.FOS_mRNA - self.KPD * y.FOS,
            phosphatase_mRNA=self.KTX * saturation(y.FOS, 0.5) - self.KMD * y.phosphatase_mRNA,
            phosphatase=self.KTL * y.phosphatase_mRNA - self.KPD * y.phosphatase,
            IL6=secreted * (0.1 + y.FOS) * (0.2 + saturation(y.M1)) - self.KCD * y.IL6,
            IL10=self.KCY * (saturation(y.M2) + saturation(y.regulatory)) - self.KCD * y.IL10,
            TNF=secreted * saturation(y.M1) * (0.5 + y.FOS) - self.KCD * y.TNF,
            IFN=self.KCY * saturation(y.effector) / (1.0 + 0.5 * y.IL10) - self.KCD * y.IFN,
            naive=self.KTN - self.DTN * y.naive - primed,
            effector=primed + proliferated - self.DTE * y.effector,
            regulatory=0.05 * y.naive + induced - self.DTR * y.regulatory,
            dendritic=0.3 - self.DDC * y.dendritic - matured,
            dendritic_mature=matured - self.DDC * y.dendritic_mature,
            M1=recruited + to_m1 - to_m2 - self.DMP * y.M1,
            M2=0.1 + to_m2 - to_m1 - self.DMP * y.M2,
            tumour=grown - killed,
            CRP=self.KCRP * y.IL6 - self.DCRP * y.CRP,
        )

    def observe(self, t, y):
        return {"tumour": y.tumour}


class Species(NamedTuple):
    species: jax.Array


class ReactionNetwork(qsp.AbstractModel):
    """A generated network, by form of reaction: one vector of species, one of rate constants."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="rate constants: synthesis, loss, conversion, binding, saturable")
    network: equations.Network = eqx.field(static=True)

    def initial(self):
        return Species(species=np.ones(self.network.size))

    def vector_field(self, t, y):
        network, s = self.network, y.species
        first, _ = np.array(network.conversion).T
        left, right, _ = np.array(network.binding).T
        substrate, _ = np.array(network.saturable).T
        forms = [
            jnp.ones(len(network.synthesis_of)),
            s[np.array(network.loss_of)],
            s[first],
            s[left] * s[right],
            saturation(s[substrate], equations.HALF),
        ]
        rates = self.k * jnp.concatenate(forms)
        species, reaction, sign = network.stoichiometry()
        return Species(species=jnp.zeros(network.size).at[species].add(sign * rates[reaction]))

    def observe(self, t, y):
        return {"dosed": y.species[0]}


MODELS = {"pk2": PK2, "tmdd": TMDD, "qsp30": QSP30}
DOSED = {"pk2": "depot", "tmdd": "central", "qsp30": "depot"}


def typical(problem):
    """Return the model of a problem at its nominal parameters."""
    if problem.network is not None:
        return ReactionNetwork(k=list(problem.parameters.values()), network=problem.network)
    return MODELS[problem.name](**problem.parameters)


def values(problem, patients):
    """Return by name every parameter of every patient, shape (patients,), or (patients, constants) for a network."""
    table, _ = problem.population(patients)
    if problem.network is not None:
        return {"k": table}
    return {name: table[:, i] for i, name in enumerate(problem.parameters)}


def regimen(problem, patients):
    """Return the doses of the first patients; amounts differ between patients in `tmdd` alone."""
    _, amounts = problem.population(patients)
    interval = problem.dose_times[1] - problem.dose_times[0]
    amount = amounts if np.ptp(amounts) else problem.dose
    return qsp.bolus(amount, to=DOSED.get(problem.name, "species[0]")).every(interval, doses=len(problem.dose_times))


def cohort(problem, patients):
    """Return the cohort of the first patients, their regimen and the output times.

    Only what differs between patients has an axis of patients, as `Population.sample` would give it.
    """
    table = values(problem, patients)
    each = {name: column for name, column in table.items() if np.ptp(column, axis=0).any()} or table
    return qsp.Cohort.of(typical(problem), each), regimen(problem, patients), problem.ts


def state_names(problem):
    """Return the names of the states of the qspjax model, in the order of `problem.states`."""
    if problem.network is not None:
        return tuple(f"species[{i}]" for i in range(problem.network.size))
    return typical(problem).initial()._fields


def states(solution):
    """Return the states of a solution as one array, shape (patients, times, states)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(solution.states)]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


def main():
    rng = np.random.default_rng(0)
    for name in equations.NAMES:
        problem = equations.problem(name)
        rhs, initial = problem.functions(inplace=False)
        patients = 4
        members, _, _ = cohort(problem, patients)
        table, _ = problem.population(patients)
        worst = 0.0
        for i in range(patients):
            model = members.patient(i)
            start = jax.tree.map(jnp.asarray, model.initial())
            flat, unravel = jax.flatten_util.ravel_pytree(start)
            assert np.array_equal(flat, initial(table[i])), name
            y = rng.uniform(0.05, 3.0, flat.size)
            slope = np.asarray(jax.flatten_util.ravel_pytree(model.vector_field(0.0, unravel(jnp.asarray(y))))[0])
            expected = np.array(rhs(0.0, y, table[i]))
            worst = max(worst, np.abs(slope - expected).max() / np.abs(expected).max())
        assert worst < 1e-12, (name, worst)
        print(f"{name}: {len(problem.states)} states, {len(problem.parameters)} parameters, differ by {worst:.0e}")


if __name__ == "__main__":
    main()
