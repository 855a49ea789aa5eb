"""How long does it take to estimate a population of thousands whose drug disposition its target rules?

    python benchmarks/nlme.py [--subjects 5000] [--methods saem focei] [--rtol 1e-4]

Full target-mediated disposition (free drug L, target R, complex P, amounts in nmol; a bolus of 100 or 10 nmol at 0 and
12 h), log concentrations every 3 h to 24 h with additive error, and three log-normal parameters: the benchmark that
Nova In Silico published for nlmixr2 and a surrogate (QSPC 2026), where nlmixr2's SAEM with 100 + 100 iterations and
without the likelihood takes 221 s on its authors' machine for 5,000 subjects. Starts and iterations are theirs. Rows
have wall and CPU seconds of the layout, of the compilation (what the first of two runs takes longer) and of the
estimation, and estimates beside the truth.
"""

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import qspjax as qsp
from qspjax import fit

TIMES = np.arange(3.0, 24.1, 3.0)
TRUTH = {"kel": np.exp(-0.5), "R0": 1.0, "Vc": np.exp(1.0)}
VARIANCE, NOISE = 0.25, 0.5
METHODS = {
    "saem": fit.SAEM(exploration=100, smoothing=100, chains=1, sweeps=1, samples=0, key=jax.random.key(0)),
    "focei": fit.FOCEI(),
}


class State(NamedTuple):
    """Amounts, nmol."""

    drug: Any
    target: Any
    complex: Any


class FullTMDD(qsp.AbstractModel):
    """A drug that binds its target; both, and their complex, are eliminated."""

    kel: jax.Array = qsp.parameter(unit="1/h", doc="Elimination of the free drug.")
    R0: jax.Array = qsp.parameter(unit="nmol", doc="Target without drug.")
    Vc: jax.Array = qsp.parameter(unit="L", doc="Volume.")
    koff: jax.Array = qsp.parameter(unit="1/h", doc="Dissociation.")
    KD: jax.Array = qsp.parameter(unit="nM", doc="Dissociation constant.")
    kdeg: jax.Array = qsp.parameter(unit="1/h", doc="Elimination of the target.")
    kint: jax.Array = qsp.parameter(unit="1/h", doc="Elimination of the complex.")

    def initial(self):
        return State(0.0, self.R0, 0.0)

    def vector_field(self, t, y):
        bound = self.koff / self.KD * y.drug * y.target / self.Vc - self.koff * y.complex
        return State(
            -self.kel * y.drug - bound, self.kdeg * (self.R0 - y.target) - bound, bound - self.kint * y.complex
        )

    def observe(self, t, y):
        return {"log_concentration": jnp.log(jnp.maximum(y.drug, 1e-12) / self.Vc)}


MODEL = FullTMDD(**TRUTH, koff=1.0, KD=0.5, kdeg=0.5, kint=0.2)


def problem_of(subjects: int, rtol: float) -> fit.MixedModel:
    """Simulate a population and return its estimation."""
    rng = np.random.default_rng(1)
    own = {name: value * np.exp(np.sqrt(VARIANCE) * rng.normal(size=subjects)) for name, value in TRUTH.items()}
    arms = [qsp.bolus(dose, to="drug").every(12.0, doses=2) for dose in (100.0, 10.0)]
    half, values = subjects // 2, []
    for arm, part in zip(arms, (slice(None, half), slice(half, None)), strict=True):
        mine = {name: jnp.asarray(value[part]) for name, value in own.items()}

        def once(mine: dict[str, jax.Array], arm: qsp.Regimen = arm) -> jax.Array:
            patient = FullTMDD(**mine, koff=1.0, KD=0.5, kdeg=0.5, kint=0.2)
            return qsp.simulate(patient, arm, TIMES).observed["log_concentration"]

        values.append(jax.jit(jax.vmap(once))(mine))
    measured = np.concatenate(values) + NOISE * rng.normal(size=(subjects, TIMES.size))
    people = {
        f"{i}": fit.Experiment(fit.Measurements(TIMES, row, output="log"), arms[i >= half])
        for i, row in enumerate(measured)
    }
    return fit.MixedModel(
        MODEL,
        people,
        {"log": fit.Output("log_concentration", fit.Additive("sigma"))},
        parameters={f"t{name}": fit.Free(np.e) for name in TRUTH} | {"sigma": fit.Free(0.1)},
        individual={name: f"t{name} * exp(eta_{name})" for name in TRUTH},
        random=[fit.RandomEffects({f"eta_{name}": 0.1 for name in TRUTH})],
        method=qsp.solve.Rosenbrock(rtol=rtol, atol=1e-2 * rtol),
    )


def main() -> None:
    """Estimate, twice by each method, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=5000)
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--rtol", type=float, default=1e-4)
    arguments = parser.parse_args()
    began, spent = time.perf_counter(), time.process_time()
    mixed = problem_of(arguments.subjects, arguments.rtol)
    print(f"layout with simulation: {time.perf_counter() - began:.1f} s, {time.process_time() - spent:.1f} CPU s")
    truth = {f"t{name}": value for name, value in TRUTH.items()} | {"sigma": NOISE}
    truth |= {f"var(eta_{name})": VARIANCE for name in TRUTH}
    for name in arguments.methods:
        walls, cpus = [], []
        for _ in range(2):
            began, spent = time.perf_counter(), time.process_time()
            found = fit.nlme(mixed, method=METHODS[name])
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - spent)
        print(f"\n{name}: {found.status}, {len(found.path) - 1} iterations, objective {found.objective:.3f}")
        print(f"compilation {walls[0] - walls[1]:.1f} s ({cpus[0] - cpus[1]:.1f} CPU s); ", end="")
        print(f"estimation {walls[1]:.1f} s ({cpus[1]:.1f} CPU s)")
        began = time.perf_counter()
        table = found.to_dataframe(fit.OuterProducts()).set_index("name").assign(truth=truth)
        table["z"] = (table.estimate - table.truth) / table.se
        print(table.to_string(float_format="%.4g"))
        print(f"standard errors in {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
