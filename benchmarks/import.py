"""How long from an SBML file to the first curve, and to a thousand patients? Beside libroadrunner.

    python benchmarks/import.py [--peers PYTHON] [--species 10 100 500] [--patients 1000] [--markdown]

The networks are generated: a chain of reversible bindings, Michaelis-Menten turnover and elimination, 1.4 reactions a
species, written as SBML by `io.write_sbml`. Each program runs in a fresh process of one thread: it imports the file,
compiles it and simulates 51 points at rtol 1e-6, atol 1e-9, then as many patients whose five first rate constants
differ. Figures are CPU seconds of the process, without the start of Python and its imports, which stand apart, and the
largest error of the first simulation against both programs' common reference at rtol 1e-11, relative to the value, or
to 1e-4 of the peak of the species where that is larger.

`--peers` names the Python of an environment with libroadrunner (see README.md).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

END, POINTS = 100.0, 51
VARIED = 5


def network(size):
    """Return a network of so many species and 1.4 times as many reactions."""
    import qspjax as qsp

    rng = np.random.default_rng(size)
    species = {f"S{i}": float(rng.uniform(0.5, 5.0)) for i in range(size)}
    parameters, reactions = {}, {}

    def constant(name, low, high):
        parameters[name] = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        return name

    for i in range(size):
        if i % 5 < 3:
            near, far = (int(x) for x in rng.integers(0, size, 2))
            kon, koff = constant(f"kon{i}", 0.05, 2.0), constant(f"koff{i}", 0.01, 1.0)
            equation = f"S{i} + S{near} -> S{far}"
            reactions[f"binding{i}"] = qsp.models.Reaction(equation, qsp.models.MassAction(kon, koff))
        else:
            Vmax, Km = constant(f"Vmax{i}", 0.1, 2.0), constant(f"Km{i}", 0.5, 20.0)
            law = qsp.models.MichaelisMenten(Vmax, Km)
            reactions[f"turnover{i}"] = qsp.models.Reaction(f"S{i} -> S{(i + 1) % size}", law)
        if i % 5 == 0:
            reactions[f"loss{i}"] = qsp.models.Reaction(f"S{i} ->", f"{constant(f'kel{i}', 0.02, 0.5)} * S{i}")
        if i % 5 == 1:
            reactions[f"gain{i}"] = qsp.models.Reaction(f"-> S{i}", constant(f"kin{i}", 0.02, 0.5))
    return qsp.models.Network(species=species, parameters=parameters, reactions=reactions)


def factors(patients):
    """Return what multiplies the first rate constants of each patient."""
    return np.exp(0.3 * np.random.default_rng(0).standard_normal((patients, VARIED)))


def run_qspjax(path, patients, rtol):
    """Return what was measured, and the first curves."""
    marks = [time.process_time()]
    import jax
    import jax.numpy as jnp

    import qspjax as qsp

    assert qsp.io.read_sbml is not None
    import libsbml  # noqa: F401

    marks.append(time.process_time())
    model = qsp.io.read_sbml(path)
    marks.append(time.process_time())
    method = qsp.solve.Rosenbrock(rtol=rtol, atol=1e-3 * rtol)
    ts = jnp.linspace(0.0, END, POINTS)
    names = tuple(name for name in model.definition.species)
    solution = qsp.simulate(model, qsp.no_doses(), ts, method=method, save=names)
    curves = np.stack([np.asarray(solution.observed[name]) for name in names])
    marks.append(time.process_time())
    result = {"start": marks[1] - marks[0], "import": marks[2] - marks[1], "first": marks[3] - marks[2]}
    if patients:
        varied = list(model.definition.parameters)[:VARIED]
        base = np.array([float(model.values[name]) for name in varied])
        values = base * factors(patients)
        cohort = qsp.Cohort.of(model, {name: values[:, k] for k, name in enumerate(varied)})

        def last():
            seen = qsp.simulate_cohort(cohort, qsp.no_doses(), ts, method=method, save=(names[0],))
            return jax.block_until_ready(seen.observed[names[0]])

        begun = time.process_time()
        last()
        middle = time.process_time()
        cohort_curves = last()
        result["cohort_first"], result["cohort"] = middle - begun, time.process_time() - middle
        result["check"] = float(np.asarray(cohort_curves)[:, -1].mean())
    return result, curves


def run_roadrunner(path, patients, rtol):
    """Return what was measured, and the first curves."""
    marks = [time.process_time()]
    import roadrunner

    marks.append(time.process_time())
    runner = roadrunner.RoadRunner(path)
    marks.append(time.process_time())
    runner.integrator.relative_tolerance = rtol
    runner.integrator.absolute_tolerance = 1e-3 * rtol
    names = runner.model.getFloatingSpeciesIds()
    runner.timeCourseSelections = [f"[{name}]" for name in names]
    curves = np.array(runner.simulate(0.0, END, POINTS)).T
    marks.append(time.process_time())
    result = {"start": marks[1] - marks[0], "import": marks[2] - marks[1], "first": marks[3] - marks[2]}
    if patients:
        varied = list(runner.model.getGlobalParameterIds())[:VARIED]
        base = np.array([runner[name] for name in varied])
        values = base * factors(patients)
        runner.timeCourseSelections = [f"[{names[0]}]"]
        begun = time.process_time()
        ends = []
        for row in values:
            runner.reset()
            for name, value in zip(varied, row, strict=True):
                runner[name] = value
            ends.append(np.array(runner.simulate(0.0, END, POINTS))[-1, 0])
        result["cohort_first"], result["cohort"] = 0.0, time.process_time() - begun
        result["check"] = float(np.mean(ends))
    return result, curves


RUNNERS = {"qspjax": run_qspjax, "libroadrunner": run_roadrunner}


def fresh(python, program, path, patients, rtol, folder):
    """Run a program in a fresh process of one thread."""
    out = Path(folder) / f"{program}-{rtol:g}"
    command = [python, __file__, "--worker", program, path, str(patients), str(rtol), str(out)]
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    subprocess.run(command, check=True, env={**os.environ, "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"})
    return json.loads(out.with_suffix(".json").read_text()), np.load(out.with_suffix(".npy"))


def error(curves, exact):
    """Return the largest error, relative to the value, or to 1e-4 of the peak."""
    scale = np.maximum(np.abs(exact), 1e-4 * np.abs(exact).max(axis=1, keepdims=True))
    return float((np.abs(curves - exact) / scale).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the Python of an environment with libroadrunner")
    parser.add_argument("--species", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        program, path, patients, rtol, out = arguments.worker
        result, curves = RUNNERS[program](path, int(patients), float(rtol))
        Path(out).with_suffix(".json").write_text(json.dumps(result))
        np.save(Path(out).with_suffix(".npy"), curves)
        return
    import qspjax as qsp

    programs = {"qspjax": sys.executable} | ({"libroadrunner": arguments.peers} if arguments.peers else {})
    line = "| {} |" if arguments.markdown else "{}"
    join = " | " if arguments.markdown else "  "
    head = ("species", "program", "start s", "import s", "compile and first s", "error", "patients first s",
            "ms a patient", "mean end")  # fmt: skip
    print(line.format(join.join(head)), flush=True)
    if arguments.markdown:
        print("|" + "---|" * len(head))
    for size in arguments.species:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "network.xml")
            qsp.io.write_sbml(network(size), path)
            exact = [fresh(python, name, path, 0, 1e-11, folder)[1] for name, python in programs.items()]
            print(f"the references of {size} species agree to {error(exact[0], exact[-1]):.0e}", file=sys.stderr)
            rows = {}
            for name, python in programs.items():
                result, curves = fresh(python, name, path, arguments.patients, 1e-6, folder)
                rows[name] = result
                cells = (str(size), name, f"{result['start']:.2f}", f"{result['import']:.2f}",
                         f"{result['first']:.2f}", f"{error(curves, exact[-1]):.0e}", f"{result['cohort_first']:.1f}",
                         f"{1000.0 * result['cohort'] / arguments.patients:.2f}", f"{result['check']:.6f}")  # fmt: skip
                print(line.format(join.join(cells)), flush=True)
            if len(rows) == 2:
                ours, theirs = rows["qspjax"], rows["libroadrunner"]
                first = [row["import"] + row["first"] for row in (ours, theirs)]
                cells = (str(size), "ratio, ours to theirs", "", "", f"{first[0] / first[1]:.1f}", "",
                         "", f"{ours['cohort'] / theirs['cohort']:.2f}", "")  # fmt: skip
                print(line.format(join.join(cells)), flush=True)


if __name__ == "__main__":
    main()
