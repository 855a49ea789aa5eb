"""The five reference problems in words that every program understands: equations as strings, numbers, doses, times.

Needs numpy alone, so that `peers.py` can import it in an environment without jax; `problems.py` holds the same
problems as qspjax models. The right-hand sides use + - * / only.

- `pk2`: two compartments and oral absorption, 7 daily doses, 169 hourly outputs; linear and smooth.
- `tmdd`: full target-mediated disposition, 4 doses every 3 weeks, daily outputs over 84 days; stiff.
- `qsp30`: 30 states: drug, receptor, kinase cascade with feedback, cytokines, cells, tumour; stiff.
- `qsp150`, `qsp500`: generated networks with the sparsity of large models, rate constants over four decades; stiff.
"""

import dataclasses
import functools
import math

import numpy as np

FLOOR = 1e-4
"""Errors are relative to the value, or to this part of the trajectory's peak where the value is smaller."""

HALF = 0.5
"""The Michaelis constant of every saturable reaction of the generated networks."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A generated reaction network: which species each reaction takes (`first`, `second`) and makes (`made`).

    The rate constants lie in one vector, in the order synthesis, loss, conversion, binding, saturable conversion; each
    list of species has one entry a reaction of that form.
    """

    size: int
    synthesis_of: tuple[int, ...]
    loss_of: tuple[int, ...]
    conversion: tuple[tuple[int, int], ...]
    binding: tuple[tuple[int, int, int], ...]
    saturable: tuple[tuple[int, int], ...]
    constants: tuple[float, ...]

    def stoichiometry(self):
        """Return (species, reaction, -1 or 1) of every change, as three arrays."""
        changes, reaction = [], 0
        for species in self.synthesis_of:
            changes += [(species, reaction, 1)]
            reaction += 1
        for species in self.loss_of:
            changes += [(species, reaction, -1)]
            reaction += 1
        for *taken, made in (*self.conversion, *self.binding, *self.saturable):
            changes += [(species, reaction, -1) for species in taken] + [(made, reaction, 1)]
            reaction += 1
        return tuple(np.array(column) for column in zip(*changes, strict=True))

    def rates(self):
        """Return the rate of every reaction as a string in the species `S0, S1, ...` and constants `k0, k1, ...`."""
        forms = ["k{q}"] * len(self.synthesis_of)
        forms += [f"k{{q}}*S{a}" for a in self.loss_of]
        forms += [f"k{{q}}*S{a}" for a, _ in self.conversion]
        forms += [f"k{{q}}*S{a}*S{b}" for a, b, _ in self.binding]
        forms += [f"k{{q}}*S{a}/({HALF}+S{a})" for a, _ in self.saturable]
        return [form.format(q=q) for q, form in enumerate(forms)]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One reference problem. `rhs` and `initial` are strings in the states and parameters; `initial` is 0 if absent."""

    name: str
    parameters: dict[str, float]
    rhs: dict[str, str]
    initial: dict[str, str]
    dose_to: str
    dose_times: tuple[float, ...]
    dose: float
    ts: np.ndarray
    vary: dict[str, float]
    """Coefficient of variation of each parameter that differs between patients, in the order they are drawn."""
    unchecked: tuple[str, ...] = ()
    """States left out of the comparison (emptied depots, which are nothing but rounding)."""
    patients: int = 10_000
    referenced: int = 64
    """How many patients have a reference at 1e-12."""
    network: Network | None = None

    @property
    def states(self):
        return tuple(self.rhs)

    def population(self, n):
        """Return parameters, shape (n, parameters), and doses, shape (n,); beyond `patients` they come again."""
        rng = np.random.default_rng(20240)
        names = list(self.parameters)
        values = np.tile(np.array([self.parameters[name] for name in names]), (self.patients, 1))
        for name, cv in self.vary.items():
            drawn = math.sqrt(math.log(1.0 + cv * cv)) * rng.standard_normal(self.patients)
            values[:, names.index(name)] *= np.exp(drawn)
        doses = np.full(self.patients, self.dose)
        if self.name == "tmdd":  # 0.1 to 10 mg/kg in 70 kg, of 150 kDa, as nM in the central volume
            column = {name: values[:, i] for i, name in enumerate(names)}
            values[:, names.index("KSYN")] = column["KDEG"] * column["R0"]
            dose = np.exp(rng.uniform(np.log(0.1), np.log(10.0), self.patients))
            doses = dose * 70.0 / 150e3 * 1e6 / column["V"]
        which = np.arange(n) % self.patients
        return values[which], doses[which]

    def compared(self):
        """Return which times and which states are compared: neither dose times nor `unchecked` states."""
        times = ~np.isin(self.ts, self.dose_times)
        return np.flatnonzero(times), [i for i, state in enumerate(self.states) if state not in self.unchecked]

    def error(self, states, reference):
        """Return the largest relative error of the patients that have a reference; NaN counts as infinite."""
        times, checked = self.compared()
        n = min(len(states), len(reference))
        got, exact = (np.asarray(y)[:n][:, times][:, :, checked] for y in (states, reference))
        peak = np.abs(exact).max(axis=1, keepdims=True)
        relative = np.abs(got - exact) / (np.abs(exact) + FLOOR * peak + 1e-300)
        return float(np.where(np.isfinite(relative), relative, np.inf).max())

    def segments(self):
        """Return (start, end, numbers of the outputs in (start, end]) for every dose interval."""
        edges = [*self.dose_times, float(self.ts[-1])]
        return [
            (a, b, np.flatnonzero((self.ts > a + 1e-12) & (self.ts <= b + 1e-12)))
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]

    def functions(self, *, inplace):
        """Compile the strings: `rhs(t, y, p)`, or `rhs(t, y, dy, p)` if in place, and `initial(p)`, in plain Python."""
        lines = [f"    {name} = y[{i}]" for i, name in enumerate(self.states)]
        given = [f"    {name} = p[{i}]" for i, name in enumerate(self.parameters)]
        if inplace:
            head = "def rhs(t, y, dy, p):"
            lines += [*given, *(f"    dy[{i}] = {text}" for i, text in enumerate(self.rhs.values()))]
        else:
            head = "def rhs(t, y, p):"
            lines += [*given, f"    return [{', '.join(self.rhs.values())}]"]
        start = ", ".join(self.initial.get(name, "0.0") for name in self.states)
        source = "\n".join([head, *lines, "def initial(p):", *given, f"    return [{start}]"])
        scope = {}
        exec(compile(source, self.name, "exec"), scope)
        return scope["rhs"], scope["initial"]


def _pk2():
    return Problem(
        name="pk2",
        parameters={"CL": 5.0, "V": 50.0, "KA": 1.0, "Q": 8.0, "VP": 100.0},
        rhs={
            "DEPOT": "-KA*DEPOT",
            "AC": "KA*DEPOT - (CL/V)*AC - (Q/V)*AC + (Q/VP)*AP",
            "AP": "(Q/V)*AC - (Q/VP)*AP",
            "AUC": "AC/V",
        },
        initial={},
        dose_to="DEPOT",
        dose_times=tuple(24.0 * day for day in range(7)),
        dose=100.0,
        ts=np.arange(169.0),
        vary={"CL": 0.3, "V": 0.3, "KA": 0.3},
        unchecked=("DEPOT",),
    )


def _tmdd():
    return Problem(
        name="tmdd",
        parameters={
            "CL": 0.2,
            "V": 3.0,
            "Q": 0.5,
            "VP": 3.0,
            "KON": 10.0,
            "KOFF": 1.0,
            "KDEG": 10.0,
            "KINT": 5.0,
            "KSYN": 10.0,
            "R0": 1.0,
        },
        rhs={
            "D": "-(CL/V)*D - (Q/V)*D + (Q/V)*P - KON*D*R + KOFF*C",
            "P": "(Q/VP)*D - (Q/VP)*P",
            "R": "KSYN - KDEG*R - KON*D*R + KOFF*C",
            "C": "KON*D*R - KOFF*C - KINT*C",
        },
        initial={"R": "R0"},
        dose_to="D",
        dose_times=(0.0, 21.0, 42.0, 63.0),
        dose=100.0,
        ts=np.arange(85.0),
        vary={"CL": 0.3, "V": 0.2, "KDEG": 0.3, "R0": 0.3, "KINT": 0.3},
    )


def _qsp30():
    raf = "V1*STIM*(RF/(0.3+RF))/(1.0+PHO/KI)*RAF/(KM+RAF)"
    raf_back = "V2*RAFP/(KM+RAFP)"
    mek, mek_back = "V3*RAFP*MEK/(KM+MEK)", "V4*MEKP/(KM+MEKP)"
    mekp, mekp_back = "V5*RAFP*MEKP/(KM+MEKP)", "V6*MEKPP/(KM+MEKPP)"
    erk, erk_back = "V7*MEKPP*ERK/(KM+ERK)", "V8*ERKP/(KM+ERKP)"
    erkp, erkp_back = "V9*MEKPP*ERKP/(KM+ERKP)", "V10*ERKPP/(KM+ERKPP)"
    primed, matured = "ACT*TN*DCM/(1.0+DCM)", "MAT*DCI*(TNF+IFN)/(0.5+TNF+IFN)"
    to_m1, to_m2 = "POL*M2*TNF/(1.0+TNF)", "POL*M1*IL10/(1.0+IL10)"
    return Problem(
        name="qsp30",
        parameters={
            **{"KA": 2.0, "CLD": 3.0, "VD": 10.0, "QD": 4.0, "VPD": 20.0},
            **{"KON": 50.0, "KOFF": 5.0, "KDEG": 2.0, "KINT": 4.0, "KSYN": 2.0},
            **{"V1": 800.0, "V2": 300.0, "V3": 600.0, "V4": 200.0, "V5": 600.0},
            **{"V6": 200.0, "V7": 600.0, "V8": 250.0, "V9": 600.0, "V10": 250.0, "KM": 0.2, "KI": 0.5},
            **{"KTX": 8.0, "KTL": 6.0, "KMD": 12.0, "KPD": 3.0},
            **{"KCY": 4.0, "KCD": 6.0, "KTN": 0.3, "DTN": 0.02, "ACT": 0.4, "DTE": 0.2, "PRO": 0.8, "DTR": 0.1},
            **{"DDC": 0.2, "MAT": 0.6, "DMP": 0.15, "POL": 0.5},
            **{"RT": 0.25, "KT": 20.0, "KILL": 0.3, "KCRP": 1.5, "DCRP": 0.7, "STIM": 1.0},
        },
        rhs={
            "XA": "-KA*XA",
            "XC": "KA*XA/VD - (CLD/VD)*XC - (QD/VD)*XC + (QD/VD)*XP - KON*XC*RF + KOFF*RB",
            "XP": "(QD/VPD)*XC - (QD/VPD)*XP",
            "RF": "KSYN - KDEG*RF - KON*XC*RF + KOFF*RB",
            "RB": "KON*XC*RF - KOFF*RB - KINT*RB",
            "RAF": f"-({raf}) + {raf_back}",
            "RAFP": f"{raf} - {raf_back}",
            "MEK": f"-{mek} + {mek_back}",
            "MEKP": f"{mek} - {mek_back} - {mekp} + {mekp_back}",
            "MEKPP": f"{mekp} - {mekp_back}",
            "ERK": f"-{erk} + {erk_back}",
            "ERKP": f"{erk} - {erk_back} - {erkp} + {erkp_back}",
            "ERKPP": f"{erkp} - {erkp_back}",
            "FOSM": "KTX*ERKPP*ERKPP/(0.25+ERKPP*ERKPP) - KMD*FOSM",
            "FOS": "KTL*FOSM - KPD*FOS",
            "PHOM": "KTX*FOS/(0.5+FOS) - KMD*PHOM",
            "PHO": "KTL*PHOM - KPD*PHO",
            "IL6": "KCY*(0.1+FOS)*(0.2+M1/(1.0+M1))/(1.0+IL10) - KCD*IL6",
            "IL10": "KCY*(M2/(1.0+M2)+TREG/(1.0+TREG)) - KCD*IL10",
            "TNF": "KCY*(M1/(1.0+M1))*(0.5+FOS)/(1.0+IL10) - KCD*TNF",
            "IFN": "KCY*TEFF/(1.0+TEFF)/(1.0+0.5*IL10) - KCD*IFN",
            "TN": f"KTN - DTN*TN - {primed}",
            "TEFF": f"{primed} + PRO*TEFF*TUM/(10.0+TUM)/(1.0+TREG) - DTE*TEFF",
            "TREG": "0.05*TN + 0.2*TEFF*IL10/(1.0+IL10) - DTR*TREG",
            "DCI": f"0.3 - DDC*DCI - {matured}",
            "DCM": f"{matured} - DDC*DCM",
            "M1": f"0.2*(0.1+IFN)/(0.5+IFN) + {to_m1} - {to_m2} - DMP*M1",
            "M2": f"0.1 + {to_m2} - {to_m1} - DMP*M2",
            "TUM": "RT*TUM*(1.0-TUM/KT)*(0.2+ERKPP/(0.3+ERKPP)) - KILL*TEFF*TUM/(1.0+TUM)",
            "CRP": "KCRP*IL6 - DCRP*CRP",
        },
        initial={
            **{"RF": "1.0", "RAF": "1.0", "MEK": "1.2", "ERK": "1.2", "TN": "10.0", "TEFF": "0.1", "TREG": "0.5"},
            **{"DCI": "1.0", "M1": "0.5", "M2": "0.5", "TUM": "2.0"},
        },
        dose_to="XA",
        dose_times=(0.0, 14.0, 28.0, 42.0),
        dose=60.0,
        ts=np.arange(100.0),
        vary={
            **{"CLD": 0.3, "VD": 0.2, "KON": 0.3, "V1": 0.2, "V4": 0.2},
            **{"KTL": 0.3, "KCY": 0.3, "ACT": 0.3, "RT": 0.3, "KILL": 0.3},
        },
        unchecked=("XA",),
        patients=1000,
        referenced=32,
    )


def generated(size, seed):
    """Generate a network: modules of 10 species, 93 % of the partners in the same module.

    Every species is lost at first order and converted to another; 60 % bind a partner, 30 % are converted by a
    saturable enzyme, and 30 %, with all that no reaction makes, are made at a constant rate. No reaction makes more
    molecules than it takes, so the total stays bounded. The constants of conversion, binding and enzymes spread over
    four decades.
    """
    rng = np.random.default_rng(seed)

    def partner(species):
        module = species // 10 * 10
        while True:
            local = rng.random() < 0.93
            other = int(module + rng.integers(min(10, size - module)) if local else rng.integers(size))
            if other != species:
                return other

    conversion = [(a, partner(a)) for a in range(size)]
    binding = [(a, partner(a), partner(a)) for a in range(size) if rng.random() < 0.6]
    binding = [(a, b, made) for a, b, made in binding if made not in (a, b)]
    saturable = [(a, partner(a)) for a in range(size) if rng.random() < 0.3]
    made = {reaction[-1] for reaction in (*conversion, *binding, *saturable)}
    synthesis_of = [a for a in range(size) if rng.random() < 0.3 or a not in made]
    spread = 10.0 ** rng.uniform(-2.0, 2.0, len(conversion) + len(binding) + len(saturable))
    constants = np.concatenate([rng.uniform(0.2, 2.0, len(synthesis_of)), rng.uniform(0.05, 0.5, size), spread])
    columns = (synthesis_of, range(size), conversion, binding, saturable)
    return Network(size, *map(tuple, columns), constants=tuple(float(f"{k:.4g}") for k in constants))


def _generated_problem(size, *, seed, patients, referenced):
    network = generated(size, seed)
    species, reactions, signs = network.stoichiometry()
    rates = network.rates()
    terms = {f"S{i}": "" for i in range(size)}
    for i, q, sign in zip(species, reactions, signs, strict=True):
        terms[f"S{i}"] += f" {'+' if sign > 0 else '-'} {rates[q]}"
    terms = {name: text.removeprefix(" + ").lstrip() for name, text in terms.items()}
    varied = np.random.default_rng(seed + 1).choice(len(rates), 12, replace=False)
    return Problem(
        name=f"qsp{size}",
        parameters={f"k{q}": k for q, k in enumerate(network.constants)},
        rhs=terms,
        initial={f"S{i}": "1.0" for i in range(size)},
        dose_to="S0",
        dose_times=(0.0, 7.0, 14.0, 21.0),
        dose=50.0,
        ts=np.arange(31.0),
        vary={f"k{q}": 0.3 for q in sorted(int(q) for q in varied)},
        patients=patients,
        referenced=referenced,
        network=network,
    )


_MAKERS = {
    "pk2": _pk2,
    "tmdd": _tmdd,
    "qsp30": _qsp30,
    "qsp150": functools.partial(_generated_problem, 150, seed=150, patients=200, referenced=16),
    "qsp500": functools.partial(_generated_problem, 500, seed=500, patients=20, referenced=4),
}
NAMES = tuple(_MAKERS)


@functools.cache
def problem(name):
    """Return one of the problems in `NAMES`."""
    return _MAKERS[name]()
