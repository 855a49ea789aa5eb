"""Pharmacokinetics and effect of warfarin together: are the published estimates found?

    python benchmarks/warfarin.py FILE [--methods saem focei] [--pictures FOLDER]

FILE is the data set `warfarin` of the package nlmixr2data: 32 subjects, concentrations and prothrombin complex activity
(PCA). One compartment with lag and first-order absorption; PCA is made at R0 kout (1 - C / (IC50 + C)) and lost at
kout. All seven parameters are log-normal, the errors combined (concentrations) and additive (PCA). The table has the
published estimates of O'Reilly's data beside ours, shrinkage and standard errors; pictures are visual predictive
checks of both outputs.

References: O'Reilly and Aggeler, Circulation 1968;38:169, doi:10.1161/01.CIR.38.1.169; Holford, Clin Pharmacokinet
1986;11:483, doi:10.2165/00003088-198611060-00005.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd

import qspjax as qsp
from qspjax import fit, plot

KEY = jax.random.key(0)

PUBLISHED = {"CL": 0.132, "V": 7.96, "ka": 1.46, "tlag": 0.76, "R0": 97.0, "kout": 0.054, "IC50": 1.2}
WITHIN = {"CL": 5, "V": 5, "ka": 30, "tlag": 30, "R0": 20, "kout": 20, "IC50": 20}
"""How many percent of them estimates should be within."""
METHODS = {"saem": fit.SAEM(key=KEY), "focei": fit.FOCEI()}


class State(NamedTuple):
    """Amounts, mg, and activity, %."""

    depot: Any
    central: Any
    pca: Any


class Warfarin(qsp.AbstractDelivered):
    """One compartment with lag, and an activity whose production the drug inhibits."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="Clearance.")
    V: jax.Array = qsp.parameter(unit="L", doc="Volume.")
    ka: jax.Array = qsp.parameter(unit="1/h", doc="Absorption.")
    tlag: jax.Array = qsp.parameter(unit="h", doc="Time until absorption begins.", minimum=0.0)
    R0: jax.Array = qsp.parameter(unit="%", doc="Activity without drug.")
    kout: jax.Array = qsp.parameter(unit="1/h", doc="Loss of activity.")
    IC50: jax.Array = qsp.parameter(unit="mg/L", doc="Concentration that halves production.")

    def initial(self):
        return State(0.0, 0.0, self.R0)

    def deliveries(self):
        return {"depot": qsp.Delivery("depot", lag=self.tlag)}

    def vector_field(self, t, y):
        concentration = y.central / self.V
        absorbed = self.ka * y.depot
        made = self.R0 * self.kout * (1.0 - concentration / (self.IC50 + concentration))
        return State(-absorbed, absorbed - self.CL * concentration, made - self.kout * y.pca)

    def observe(self, t, y):
        return {"concentration": y.central / self.V, "activity": y.pca}


def problem_of(path: Path) -> fit.MixedModel:
    """Return the problem; starts are off the published estimates."""
    table = pd.read_csv(path).rename(columns=str.upper)
    people = {}
    for number, rows in table.groupby("ID"):
        dose, seen = rows[rows.EVID != 0].iloc[0], rows[rows.EVID == 0]
        kinds = ["cp" if str(kind) in ("cp", "1") else "pca" for kind in seen.DVID]
        measured = fit.Measurements(seen.TIME.to_numpy(float), seen.DV.to_numpy(float), output=kinds)
        people[f"{number}"] = fit.Experiment(measured, qsp.bolus(float(dose.AMT), to="depot", at=float(dose.TIME)))
    starts = {"CL": 0.1, "V": 10.0, "ka": 1.0, "tlag": 0.6, "R0": 100.0, "kout": 0.04, "IC50": 1.0}
    variances = {"CL": 0.1, "V": 0.1, "ka": 0.3, "tlag": 0.1, "R0": 0.02, "kout": 0.05, "IC50": 0.1}
    parameters = {f"t{name}": fit.Free(value) for name, value in starts.items()}
    # no drug is seen at 0.5 h, some at 1 h
    parameters["ttlag"] = fit.Free(starts["tlag"], bounds=(0.01, 0.99))
    return fit.MixedModel(
        Warfarin(**PUBLISHED),
        people,
        {
            "cp": fit.Output("concentration", fit.Combined("a", "b")),
            "pca": fit.Output("activity", fit.Additive("sigma")),
        },
        parameters=parameters | {"a": fit.Free(0.3), "b": fit.Free(0.1), "sigma": fit.Free(5.0)},
        individual={name: f"t{name} * exp(eta_{name})" for name in PUBLISHED},
        random=[fit.RandomEffects({f"eta_{name}": variance for name, variance in variances.items()})],
        method=qsp.solve.Rosenbrock(rtol=1e-6, atol=1e-8),
    )


def main() -> None:
    """Estimate by each method, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    mixed = problem_of(arguments.file)
    for name in arguments.methods:
        began = time.process_time()
        found = fit.nlme(mixed, method=METHODS[name])
        print(f"\n{name}: {found.status}, {time.process_time() - began:.0f} CPU s with compilation\n{found}")
        print("epsilon shrinkage, %:", {key: round(value, 1) for key, value in found.epsilon_shrinkage.items()})
        for one, value in PUBLISHED.items():
            ours = found.parameters[f"t{one}"]
            off = 100.0 * (ours / value - 1.0)
            print(
                f"{one:5} {ours:8.4g}, published {value:g}: {off:+.1f} % (should be within {WITHIN[one]})", flush=True
            )
        if arguments.pictures is not None:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            for output in mixed.outputs:
                axes = plot.vpc(fit.visual_predictive_check(found, output=output, replicates=300, key=KEY))
                axes.figure.savefig(arguments.pictures / f"warfarin_{name}_{output}.png", dpi=120)


if __name__ == "__main__":
    main()
