"""Are populations recovered? Simulated sets whose subjects are known, by FOCEI and by SAEM.

    python benchmarks/simulated_sets.py FOLDER [--sets NAME ...] [--methods focei saem]

FOLDER holds the simulated sets of the package nlmixr2data: 120 subjects each, doses at 0 h and from 72 h on, the last
one at steady state in the linear sets. The truth is the geometric mean of the columns of individual values, and the
variance of their logarithms. A row says how many of the typical values and variances lie within their 95 % interval,
and the greatest relative standard error of a typical value. Starts are 30 % off. Seconds are CPU
seconds of the process.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

import qspjax as qsp
from qspjax import fit, io


class State(NamedTuple):
    """Amounts, mg."""

    depot: Any
    central: Any
    peripheral: Any


class Saturable(qsp.AbstractModel):
    """One or two compartments with absorption and saturable elimination (no second compartment: Q = 0)."""

    V: float = qsp.parameter(unit="L", doc="Central volume.")
    VM: float = qsp.parameter(unit="mg/h", doc="Greatest rate of elimination.")
    KM: float = qsp.parameter(unit="mg/L", doc="Concentration at half of it.")
    Q: float = qsp.parameter(unit="L/h", doc="Flow between compartments.", above=None)
    V2: float = qsp.parameter(unit="L", doc="Peripheral volume.")
    KA: float = qsp.parameter(unit="1/h", doc="Absorption.")

    def initial(self):
        return State(0.0, 0.0, 0.0)

    def vector_field(self, t, y):
        absorbed = self.KA * y.depot
        concentration = y.central / self.V
        exchanged = self.Q * (concentration - y.peripheral / self.V2)
        eliminated = self.VM * concentration / (self.KM + concentration)
        return State(-absorbed, absorbed - exchanged - eliminated, exchanged)

    def observe(self, t, y):
        return {"concentration": y.central / self.V}


SETS = {
    "Bolus_1CPT": (qsp.models.OneCompartment, {"V": "V", "CL": "CL"}),
    "Infusion_1CPT": (qsp.models.OneCompartment, {"V": "V", "CL": "CL"}),
    "Oral_1CPT": (qsp.models.OneCompartmentOral, {"V": "V", "CL": "CL", "ka": "KA"}),
    "Bolus_2CPT": (qsp.models.TwoCompartment, {"V1": "V1", "CL": "CL", "Q": "Q", "V2": "V2"}),
    "Infusion_2CPT": (qsp.models.TwoCompartment, {"V1": "V1", "CL": "CL", "Q": "Q", "V2": "V2"}),
    "Oral_2CPT": (
        qsp.models.TwoCompartmentOral,
        {"V1": "V1", "CL": "CL", "Q": "Q", "V2": "V2", "ka": "KA"},
    ),
    "Bolus_1CPTMM": (Saturable, {"V": "V", "VM": "VM", "KM": "KM"}),
    "Infusion_1CPTMM": (Saturable, {"V": "V", "VM": "VM", "KM": "KM"}),
    "Oral_1CPTMM": (Saturable, {"V": "V", "VM": "VM", "KM": "KM", "KA": "KA"}),
    "Bolus_2CPTMM": (Saturable, {"V": "V|V1", "VM": "VM", "KM": "KM", "Q": "Q", "V2": "V2"}),
    "Infusion_2CPTMM": (Saturable, {"V": "V|V1", "VM": "VM", "KM": "KM", "Q": "Q", "V2": "V2"}),
    "Oral_2CPTMM": (
        Saturable,
        {"V": "V|V1", "VM": "VM", "KM": "KM", "Q": "Q", "V2": "V2", "KA": "KA"},
    ),
}
"""The model of each set, and its parameters with their columns."""
METHODS = {"focei": fit.FOCEI(), "saem": fit.SAEM(key=jax.random.key(0))}
OFF = 1.3


def problem_of(path: Path) -> tuple[fit.MixedModel, dict[str, tuple[float, float]]]:
    """Return the problem of a set, and the typical value and variance of each parameter."""
    kind, columns = SETS[path.stem]
    table = pd.read_csv(path)
    if "SS" in table:  # 99 is no code of NONMEM
        table["SS"] = table["SS"].replace(99, 0)
    if kind is Saturable and "KA" not in columns:
        table["CMT"] = 2  # its first compartment is the depot
    truth = {}
    for name, either in columns.items():
        column = next(one for one in either.split("|") if one in table)
        logs = np.log(table.groupby("ID")[column].first())
        truth[name] = (float(np.exp(logs.mean())), float(logs.var()))
    names = [one.strip("_") for one in kind.__dataclass_fields__]
    filled = {"V2": 1.0, "KA": 1.0, "Q": 0.0}
    values = {name: truth[name][0] if name in truth else filled.get(name) for name in names}
    model = kind(**{name: value for name, value in values.items() if value is not None})
    kept = [one for one in ("ID", "TIME", "DV", "AMT", "RATE", "EVID", "MDV", "SS", "II", "CMT") if one in table]
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / path.name
        table[kept].to_csv(clean, index=False)
        data = io.read_nonmem(clean)
    mixed = fit.MixedModel(
        model,
        qsp.io.experiments(data, "concentration"),
        {"concentration": fit.Output("concentration", fit.Proportional("cv"))},
        parameters={f"t{name}": fit.Free(OFF * value) for name, (value, _) in truth.items()} | {"cv": fit.Free(0.3)},
        individual={name: f"t{name} * exp(eta_{name})" for name in truth},
        random=[fit.RandomEffects({f"eta_{name}": 0.2 for name in truth})],
        method=qsp.solve.Rosenbrock(rtol=1e-6, atol=1e-4) if kind is Saturable else None,
    )
    return mixed, truth


def measured(path: Path, method: str) -> str:
    """Fit a set; return a row."""
    began = time.process_time()
    mixed, truth = problem_of(path)
    found = fit.nlme(mixed, method=METHODS[method])
    spent = time.process_time() - began
    table = found.to_dataframe().set_index("name")
    expected = {f"t{name}": value for name, (value, _) in truth.items()}
    expected |= {f"var(eta_{name})": variance for name, (_, variance) in truth.items()}
    missed = [name for name, value in expected.items() if not table.lower[name] <= value <= table.upper[name]]
    error = max(table.rse[f"t{name}"] for name in truth)
    named = ", ".join(f"{name} {table.estimate[name]:.4g}, true {expected[name]:.4g}" for name in missed)
    print(table.assign(truth=pd.Series(expected)).to_string(float_format="%.4g"), found.status, flush=True)
    inside = f"{len(expected) - len(missed)} of {len(expected)}"
    return f"| {path.stem} | {method} | {found.objective:.2f} | {inside} | {error:.1f} | {spent:.0f} | {named} |"


def main() -> None:
    """Fit the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        path = arguments.folder / f"{name}.csv"
        if not path.exists():
            print(f"{path} is not there: left out")
            continue
        for method in arguments.methods:
            rows.append(measured(path, method))
            print(rows[-1], flush=True)
    print("| set | method | objective | inside | greatest RSE % | CPU s | missed |\n|---|---|--:|--:|--:|--:|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
