"""Linear compartmental pharmacokinetics in closed form: exact amounts, concentrations and gradients.

Every response is a sum of exponentials whose rates are roots of a quadratic or cubic and whose coefficients are partial
fractions (derived in README.md). All of it is holomorphic in every parameter, amount, time, duration and rate, so that
the complex step df/dx = Im f(x + ih) / h, which subtracts nothing, gives derivatives to rounding. Nothing of qspjax is
used here.

    doses = [Dose(100.0, 0.0), Dose(100.0, 12.0, duration=3.0)]
    concentration(ONE_COMPARTMENT, {"CL": 3.7, "V": 12.5}, doses, ts)
    gradient(ONE_COMPARTMENT, {"CL": 3.7, "V": 12.5}, doses, ts, "CL")
    gradient(ONE_COMPARTMENT, {"CL": 3.7, "V": 12.5}, doses, ts, ("duration", 1))

The rates of one response (the eigenvalues, and ka for the depot) must be distinct, and CL > 0 if there is an infusion.
Where a derivative jumps (an output at a dose's or an infusion's end) it is that of the side after the event. Steady
state is many doses at negative times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class System:
    """A central compartment with peripheral ones around it, fed by a depot when `oral`; the fields name parameters."""

    name: str
    volume: str
    peripherals: tuple[tuple[str, str], ...] = ()  # (intercompartmental clearance, volume) of each
    oral: bool = False

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the amounts: depot (oral), central, peripheral, peripheral2."""
        names = ("central", "peripheral", "peripheral2")[: 1 + len(self.peripherals)]
        return ("depot", *names) if self.oral else names


ONE_COMPARTMENT = System("OneCompartment", "V")
TWO_COMPARTMENT = System("TwoCompartment", "V1", (("Q", "V2"),))
THREE_COMPARTMENT = System("ThreeCompartment", "V1", (("Q2", "V2"), ("Q3", "V3")))
ONE_COMPARTMENT_ORAL = replace(ONE_COMPARTMENT, name="OneCompartmentOral", oral=True)
TWO_COMPARTMENT_ORAL = replace(TWO_COMPARTMENT, name="TwoCompartmentOral", oral=True)
THREE_COMPARTMENT_ORAL = replace(THREE_COMPARTMENT, name="ThreeCompartmentOral", oral=True)


@dataclass(frozen=True)
class Dose:
    """A bolus, or an infusion with either `duration` or `rate`, into the depot if there is one (or `to="central"`)."""

    amount: complex
    time: complex
    duration: complex | None = None
    rate: complex | None = None
    to: str | None = None

    def __post_init__(self):
        if self.duration is not None and self.rate is not None:
            raise ValueError("Argument `duration` must be left out when `rate` is given, but both were given.")
        if self.to not in (None, "depot", "central"):
            raise ValueError(f"Argument `to` must be 'depot' or 'central', but it is {self.to!r}.")


def concentration(system: System, parameters: dict, doses: Sequence[Dose], ts) -> np.ndarray:
    """Concentration in the central compartment at `ts`, C = A_central / V."""
    return amounts(system, parameters, doses, ts)["central"] / parameters[system.volume]


def amounts(system: System, parameters: dict, doses: Sequence[Dose], ts) -> dict[str, np.ndarray]:
    """Amount in each state at `ts`, A(t) = sum over doses of A_dose(t - t_dose - tlag); complex if an input is."""
    ts = np.asarray(ts)
    values = {"F": 1.0, "tlag": 0.0, **parameters}
    transfers = {to: transfer(system, values, to) for to in ("depot", "central") if to in system.states}
    totals = {state: np.zeros(ts.shape, complex) for state in system.states}
    for dose in doses:
        to = dose.to or ("depot" if system.oral else "central")
        first_pass = to == "depot" or not system.oral  # beside a depot, a dose to central has no lag and F = 1
        fraction, lag = (values["F"], values["tlag"]) if first_pass else (1.0, 0.0)
        for state, (poles, residues) in transfers[to].items():
            totals[state] += response(poles, residues, dose, fraction, ts - (dose.time + lag))
    inputs = [ts, *parameters.values(), *(x for d in doses for x in (d.amount, d.time, d.duration, d.rate))]
    return totals if any(map(np.iscomplexobj, inputs)) else {state: total.real for state, total in totals.items()}


def gradient(system: System, parameters: dict, doses: Sequence[Dose], ts, wrt, *, state: str | None = None):
    """Derivative of each concentration (or amount in `state`) by a parameter's name or by (field, i) of dose i."""

    def output(x):
        changed, moved = dict(parameters), list(doses)
        if isinstance(wrt, str):
            changed[wrt] = x
        else:
            moved[wrt[1]] = replace(doses[wrt[1]], **{wrt[0]: x})
        if state is None:
            return concentration(system, changed, moved, ts)
        return amounts(system, changed, moved, ts)[state]

    if isinstance(wrt, str):
        return complex_step(output, {"F": 1.0, "tlag": 0.0, **parameters}[wrt])
    return complex_step(output, getattr(doses[wrt[1]], wrt[0]))


def complex_step(function: Callable, x: float, h: float = 1e-30) -> np.ndarray:
    """Derivative of a holomorphic function that is real on the real axis, f'(x) = Im f(x + ih) / h + O(h^2)."""
    return np.imag(function(complex(x, h))) / h


def response(poles, residues, dose: Dose, fraction, elapsed) -> np.ndarray:
    """Amount a time `elapsed` after a dose: sum A r exp(-p s), or its integral over the infusion; 0 before the dose."""
    given = np.real(elapsed) >= 0  # right-continuous: the state after the dose
    s = np.where(given, elapsed, 0.0)
    if dose.duration is None and dose.rate is None:
        terms = (fraction * dose.amount * r * np.exp(-p * s) for p, r in zip(poles, residues, strict=True))
    else:
        rate, duration = infusion(dose, fraction)
        during = np.where(np.real(s) < np.real(duration), s, duration)
        terms = (
            rate * r / p * -np.expm1(-p * during) * np.exp(-p * (s - during))
            for p, r in zip(poles, residues, strict=True)
        )
    return np.where(given, sum(terms), 0.0)


def infusion(dose: Dose, fraction) -> tuple:
    """Rate and duration of the bioavailable dose: R = F A / T if T is fixed, T = F A / R if R is fixed."""
    if dose.duration is not None:
        return fraction * dose.amount / dose.duration, dose.duration
    return dose.rate, fraction * dose.amount / dose.rate


def transfer(system: System, parameters: dict, to: str) -> dict[str, tuple[list, list]]:
    """Poles and residues by state of a unit bolus, A(s) = sum r / (s + p) in the Laplace domain."""
    k10, outward, inward = rate_constants(system, parameters)
    poles, gain, transfers = eigenvalues(k10, outward, inward), 1.0, {}
    if to == "depot":
        gain = parameters["ka"]
        transfers["depot"] = [gain], [1.0]
        poles = [*poles, gain]
    elif system.oral:
        transfers["depot"] = [], []
    transfers["central"] = poles, partial_fractions(gain, inward, poles)
    for j, name in enumerate(("peripheral", "peripheral2")[: len(inward)]):
        others = inward[:j] + inward[j + 1 :]
        transfers[name] = poles, partial_fractions(gain * outward[j], others, poles)
    return transfers


def rate_constants(system: System, parameters: dict) -> tuple:
    """Micro-constants k10 = CL / V, k1j = Qj / V, kj1 = Qj / Vj."""
    volume = parameters[system.volume]
    outward = [parameters[q] / volume for q, _ in system.peripherals]
    inward = [parameters[q] / parameters[v] for q, v in system.peripherals]
    return parameters["CL"] / volume, outward, inward


def partial_fractions(gain, zeros: list, poles: list) -> list:
    """Residues of gain prod (s + z) / prod (s + p): r_i = gain prod_j (z_j - p_i) / prod_{m != i} (p_m - p_i)."""
    return [
        gain * np.prod([z - p for z in zeros]) / np.prod([q - p for m, q in enumerate(poles) if m != i])
        for i, p in enumerate(poles)
    ]


def eigenvalues(k10, outward: list, inward: list) -> list:
    """The decay rates of central and its peripherals, fastest first: the roots of det(lambda I + A) = 0."""
    if len(outward) == 0:
        return [k10]
    if len(outward) == 1:
        return _quadratic(k10, *outward, *inward)
    return _cubic(k10, *outward, *inward)


def _quadratic(k10, k12, k21) -> list:
    """Roots of x^2 - (k10 + k12 + k21) x + k10 k21, by a discriminant and a product without cancellation."""
    root = np.sqrt((k10 + k12 - k21) ** 2 + 4 * k12 * k21)
    fast = (k10 + k12 + k21 + root) / 2
    return [fast, k10 * k21 / fast]


def _cubic(k10, k12, k13, k21, k31) -> list:
    """Roots of x^3 - a2 x^2 + a1 x - a0: the outer two by monotone Newton steps, then the middle one from a1."""
    a2 = k10 + k12 + k13 + k21 + k31
    a1 = k10 * (k21 + k31) + k21 * k31 + k12 * k31 + k13 * k21
    a0 = k10 * k21 * k31
    fast, slow = _newton(a2, a1, a0, start=a2), _newton(a2, a1, a0, start=0.0)
    return [fast, (a1 - fast * slow) / (fast + slow), slow]  # fast slow <= a1 / 2: no cancellation


def _newton(a2, a1, a0, start, steps: int = 64):
    """A root of x^3 - a2 x^2 + a1 x - a0: the nearest, for a start outside all (real) roots."""
    x = start
    for _ in range(steps):
        x = x - (((x - a2) * x + a1) * x - a0) / ((3 * x - 2 * a2) * x + a1)
    return x
