"""A population of an antibody against PCSK9: plausible patients, made as prevalent as observed, and a trial predicted.

    python benchmarks/pcsk9.py FOLDER [--size 2000]

FOLDER is the case study `pcsk9` of gQSPSim (https://github.com/feng-gao/gQSPSim, BSD-3): parameter ranges
(`parameter_ranges.csv`), acceptance bounds of six dose groups (`acceptance.csv`), mean and SD of LDL cholesterol and
PCSK9 before treatment (`targets.csv`), and 36 subjects of the trial (`subjects_single_dose.csv`).

Patients are searched within the bounds, and weighted by the four numbers before treatment alone. What they then say of
LDL two weeks after each dose is compared with the subjects. Seconds are CPU seconds of the process, with compilation.
"""

import argparse
import csv
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp
from qspjax.population import SD, Bound, Mean, plausible, weights

KEY = jax.random.key(9)
OUTPUTS = {"PK": "antibody_ugml", "TotalPCSK9": "pcsk9_ngml", "LDL": "LDL"}
"""Outputs of the model, by what the tables call them."""
TARGETS = {"LDLch": "LDL, 10 mg, day 0", "total_pcsk9": "TotalPCSK9, 10 mg, day 0"}
"""Statistics before treatment, the same in all arms, by what the table calls them."""
PARAMETERS = {
    "pcsk9SynthesisRate": "ksyn",
    "pcsk9ClearanceRate": "kdeg",
    "LDLrClearance": "kr",
    "PK_Ka": "ka",
    "PK_Kel_F": "kel",
    "PK_V2_F": "V2",
    "PK_V3": "V3",
    "PK_Q": "Q",
    "PK_kon": "kon",
    "PK_koff": "koff",
    "PK_ComplexClearanceRate": "kint",
}
"""Parameters of the model, by what the table calls them."""
LIPIDS = {"LDL0": qsp.Uniform(62.5, 330.0), "fcr": qsp.Uniform(0.15, 0.5), "effect": qsp.Uniform(0.5, 0.75)}
"""Ranges that are not of the table: LDL before treatment (the widest bound), and those of `PCSK9`'s references."""


class PCSK9(qsp.AbstractDelivered):
    r"""An antibody, PCSK9, receptors of LDL and LDL cholesterol: turnover of each, regulated by the one before.

    $$ R' = k_r (1 + a - (1 + a P / P_0) R), \quad L' = f (L_0 - (1 - s + s R) L), \quad s a = E / (1 - E) $$

    PCSK9 has receptors degraded (Lagace et al. 2006, doi:10.1172/JCI29383), which clear the share s of LDL (two thirds
    to three quarters; Brown and Goldstein 1986, doi:10.1126/science.3513311). Without PCSK9, LDL falls by E (50 to 70 %
    by antibodies; Zhang et al. 2015, doi:10.1186/s12916-015-0358-8). LDL is renewed at f (0.31 a day in health, 0.14 to
    0.28 in heterozygous familial hypercholesterolaemia; Janus et al. 1980, Eur J Clin Invest 10, 161-172). The antibody
    binds PCSK9 in full (Mager and Jusko 2001, doi:10.1023/A:1014414520282), after absorption, in two compartments, with
    the rate constants of the case study (Gadkar et al. 2014, doi:10.1038/psp.2014.47).
    """

    ka: jax.Array = qsp.parameter(unit="1/d", doc="absorption rate constant")
    kel: jax.Array = qsp.parameter(unit="1/d", doc="elimination rate constant")
    V2: jax.Array = qsp.parameter(unit="mL", doc="central volume over bioavailability")
    V3: jax.Array = qsp.parameter(unit="mL", doc="peripheral volume")
    Q: jax.Array = qsp.parameter(unit="mL/d", doc="distribution clearance")
    kon: jax.Array = qsp.parameter(unit="1/nM/d", doc="association rate constant")
    koff: jax.Array = qsp.parameter(unit="1/d", doc="dissociation rate constant")
    kint: jax.Array = qsp.parameter(unit="1/d", doc="clearance of the complex")
    ksyn: jax.Array = qsp.parameter(unit="nM/d", doc="synthesis of PCSK9")
    kdeg: jax.Array = qsp.parameter(unit="1/d", doc="clearance of PCSK9")
    kr: jax.Array = qsp.parameter(unit="1/d", doc="turnover of receptors without PCSK9")
    fcr: jax.Array = qsp.parameter(unit="1/d", doc="fractional catabolic rate of LDL")
    effect: jax.Array = qsp.parameter(unit="1", doc="reduction of LDL without PCSK9")
    LDL0: jax.Array = qsp.parameter(unit="mg/dL", doc="LDL cholesterol before treatment")
    share: float = qsp.parameter(default=0.7, unit="1", doc="share of LDL cleared by receptors")

    def initial(self):
        return {"depot": 0.0, "A": 0.0, "A2": 0.0, "P": self.ksyn / self.kdeg, "C": 0.0, "R": 1.0, "L": self.LDL0}

    def vector_field(self, t, y):
        absorbed, distributed = self.ka * y["depot"], self.Q * (y["A"] - y["A2"])
        bound = self.kon * y["A"] * y["P"] - self.koff * y["C"]
        gain = self.effect / (1.0 - self.effect) / self.share
        degraded = (1.0 + gain * y["P"] * self.kdeg / self.ksyn) * y["R"]
        return {
            "depot": -absorbed,
            "A": (absorbed - distributed) / self.V2 - self.kel * y["A"] - bound,
            "A2": distributed / self.V3,
            "P": self.ksyn - self.kdeg * y["P"] - bound,
            "C": bound - self.kint * y["C"],
            "R": self.kr * (1.0 + gain - degraded),
            "L": self.fcr * (self.LDL0 - (1.0 - self.share + self.share * y["R"]) * y["L"]),
        }

    def observe(self, t, y):
        return {
            "antibody_ugml": 0.15 * y["A"],
            "pcsk9_ngml": 74.0 * (y["P"] + y["C"]),
            "LDL": y["L"],
            "LDL_percent": 100.0 * y["L"] / self.LDL0,
        }

    def deliveries(self):
        return {"depot": qsp.Delivery("depot", scale=1e6 / 150.0)}  # mg of 150 kDa as pmol, a mL of which is an nM


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def acceptance(folder):
    """Return the bounds of the single doses; group 9999 had a statin, which the model does not know."""
    return [row for row in rows(folder / "acceptance.csv") if row["Group"] != "9999"]


def population(folder):
    table = {PARAMETERS[row["Name"]]: row for row in rows(folder / "parameter_ranges.csv") if row["Name"] in PARAMETERS}
    values, between = {}, {}
    for name, row in table.items():
        values[name] = float(row["P0_1"])
        if row["Include"] == "Yes" and row["Dist"] == "uniform":
            between[name] = qsp.Uniform(float(row["LB"]), float(row["UB"]))
        elif row["Include"] == "Yes":
            normal = qsp.Normal(values[name], sd=values[name] * float(row["CV"]))
            between[name] = qsp.Truncated(normal, float(row["LB"]), float(row["UB"]))
    return qsp.Population(PCSK9(**values, LDL0=165.0, fcr=0.3, effect=0.6), between=between | LIPIDS)


def arms(folder):
    doses = sorted({float(row["Group"]) for row in acceptance(folder)})
    return [qsp.Arm(f"{dose:g}", qsp.bolus(dose, to="depot")) for dose in doses]


def bounds(folder):
    found = {}
    for row in acceptance(folder):
        statistic = qsp.endpoints.Value(OUTPUTS[row["Data"]], at=float(row["Time"]))
        name = f"{row['Data']}, {row['Group']} mg, day {row['Time']}"
        found[name] = Bound(statistic, float(row["LB"]), float(row["UB"]), arm=row["Group"])
    return found


def targets(folder):
    found = []
    for row in rows(folder / "targets.csv"):
        name, mean, sd = TARGETS[row["Species"]], float(row["Value1"]), float(row["Value2"])
        found += [Mean(name, mean), SD(name, sd, mean=mean)]
    return found


def observed(folder, day=14.0):
    """Return the mean LDL of each dose group, in percent of that before treatment, within a day of a day."""
    found = {}
    for row in rows(folder / "subjects_single_dose.csv"):
        if row["LDLp"].strip() and abs(float(row["Time"]) - day) < 1.0:
            found.setdefault(row["Group"], []).append(float(row["LDLp"]))
    return {group: float(np.mean(values)) for group, values in found.items()}


def predicted(cohort, folder, weights, day=14.0):
    """Return the weighted mean of LDL in each arm, in percent of that before treatment."""
    found = {}
    for arm in arms(folder):
        solution = qsp.simulate_cohort(cohort, arm.regimen, jnp.array([0.0, day]), save=("LDL_percent",))
        found[arm.name] = float(weights @ np.asarray(solution.observed["LDL_percent"][:, 1]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the case study `pcsk9` of gQSPSim")
    parser.add_argument("--size", type=int, default=2000, help="plausible patients")
    arguments = parser.parse_args()
    folder, start = arguments.folder, time.process_time()
    found = plausible(population(folder), bounds(folder), arms=arms(folder), size=arguments.size, key=KEY)
    print(found)
    agreed = weights(found, targets(folder))
    print(agreed)
    equal = np.full(found.size, 1.0 / found.size)
    weighted, alike = (predicted(found.cohort, folder, each) for each in (agreed.weights, equal))
    print("| dose, mg | LDL on day 14, % | observed | all plausible patients alike |\n|--:|--:|--:|--:|")
    for dose, seen in sorted(observed(folder).items(), key=lambda item: float(item[0])):
        print(f"| {dose} | {weighted[dose]:.1f} | {seen:.0f} | {alike[dose]:.1f} |")
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
