"""How fast is an ensemble, and how accurate? Our methods at several tolerances beside the programs people use.

    python benchmarks/ensemble.py [--problems pk2 tmdd] [--patients N] [--peers PYTHON] [--markdown] [--save FILE.json]
    python benchmarks/ensemble.py --scaling        cost from 1 to 100,000 patients, tmdd
    python benchmarks/ensemble.py --operations     operations a step, and the distance to what the core can do

Everything runs on one core, in turn: each repetition runs every row once, ours and the peers', so that a noisy minute
meets all of them. Every row has the CPU time of its process and the wall time a patient (best and median of three,
after a warm-up), and its error: the largest over patients, times and states against a reference at rtol 1e-12, relative
to the value, or to 1e-4 of the trajectory's peak where that is larger. Peers run at rtol 1e-6, atol 1e-9, on fewer
patients where they are slow. The ratios compare at equal error: our fastest row that is no less accurate.

`--peers` names the Python of an environment with numba, numbalsoda, scipy, libroadrunner and antimony (see README.md);
without it the only peer is diffrax, and the reference is our own at rtol 1e-12.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffrax
import equations
import jax
import jax.numpy as jnp
import numpy as np
import operations
import optimistix as optx
import peers
import problems

import qspjax as qsp
from qspjax.solve.kernel._lanes import BLOCK

REPETITIONS = 3
TOLERANCES = (1e-4, 3e-5, 1e-5, 5e-6, 3e-6, 1e-6)
ABSOLUTE = 1e-3
"""atol as a part of rtol, for our rows."""

METHODS = {
    "Diffrax": lambda rtol: qsp.solve.Diffrax(rtol=rtol, atol=ABSOLUTE * rtol),
    "Rosenbrock": lambda rtol: qsp.solve.Rosenbrock(rtol=rtol, atol=ABSOLUTE * rtol),
    "Explicit": lambda rtol: qsp.solve.Explicit(rtol=rtol, atol=ABSOLUTE * rtol),
    "MatrixExponential": lambda _: qsp.solve.MatrixExponential(),
}
OURS = {
    "pk2": ("MatrixExponential", "Explicit", "Rosenbrock"),
    "tmdd": ("Rosenbrock",),
    "qsp30": ("Rosenbrock",),
    "qsp150": ("Rosenbrock",),
    "qsp500": ("Rosenbrock",),
}
"""The methods of our rows for each problem."""

EXACT = ("MatrixExponential",)
"""Methods without a tolerance: one row."""

STEPS_A_PASS = {"Diffrax": 1, "Rosenbrock": BLOCK, "Explicit": BLOCK}
"""Steps that one pass of a method's loop takes in each lane."""

DIFFRAX = {
    "pk2": ((diffrax.Tsit5, False, 1024),),
    "tmdd": ((diffrax.Kvaerno5, False, 256), (diffrax.Kvaerno5, True, 256)),
}
"""diffrax's own loop under vmap: solver, whether tuned (Newton, steps clipped at outputs), patients. The larger
problems take too long."""

CHUNK = 256


@dataclasses.dataclass
class Row:
    """One line of the table. `run` does one repetition and returns its CPU and wall seconds and failures."""

    program: str
    rtol: float | None
    patients: int
    first: float
    """Seconds of the first call: tracing, compilation and one run."""
    run: Callable
    states: Callable
    """Returns the states of the first patients after a run, or NaN where there are none."""
    ours: bool
    steps: float | None = None
    failed: int = 0
    cpu: list = dataclasses.field(default_factory=list)
    wall: list = dataclasses.field(default_factory=list)
    error: float = float("nan")

    def repeat(self):
        cpu, wall, self.failed = self.run()
        self.cpu.append(1e3 * cpu / self.patients)
        self.wall.append(1e3 * wall / self.patients)

    def numbers(self):
        """Return what is known of the row as a dict of plain numbers: times in milliseconds a patient."""
        return {
            "program": self.program,
            "ours": self.ours,
            "rtol": self.rtol,
            "patients": self.patients,
            "cpu": min(self.cpu),
            "cpu_median": float(np.median(self.cpu)),
            "wall": min(self.wall),
            "wall_median": float(np.median(self.wall)),
            "error": self.error,
            "steps": self.steps,
            "failed": int(self.failed),
            "first_call": self.first,
        }


def method(name, rtol):
    """Return a method by its name in `METHODS`; `Diffrax` in place of one that this version does not have."""
    return METHODS[name if hasattr(qsp.solve, name) else "Diffrax"](rtol)


def clocks():
    return np.array([time.process_time(), time.perf_counter()])


def own_row(problem, name, rtol, patients):
    """Simulate the cohort as a user does, all states kept."""
    cohort, regimen, ts = problems.cohort(problem, patients)
    keep, chosen = problems.state_names(problem), method(name, rtol)
    found = {}

    def run():
        start = clocks()
        solution = qsp.simulate_cohort(cohort, regimen, ts, save=keep, method=chosen)
        jax.block_until_ready((solution.states, solution.stats))
        cpu, wall = clocks() - start
        found["solution"] = solution
        return cpu, wall, int(np.sum(solution.failed))

    _, first, _ = run()
    row = Row(
        program=f"qspjax {name}" if hasattr(qsp.solve, name) else f"qspjax Diffrax (no {name} yet)",
        rtol=None if name in EXACT else rtol,
        patients=patients,
        first=first,
        run=run,
        states=lambda: problems.states(
            dataclasses.replace(
                found["solution"],
                states=jax.tree.map(lambda leaf: leaf[: problem.referenced], found["solution"].states),
            )
        ),
        ours=True,
    )
    row.steps = float(np.mean(found["solution"].stats["steps"]))
    return row


def diffrax_row(problem, solver, tuned, patients):
    """Solve with diffrax as its users write it: one `diffeqsolve` a dose interval, scanned, vmapped in chunks."""
    rhs, start = problem.functions(inplace=False)
    segments, size = problem.segments(), len(problem.states)
    width = max(len(outputs) for _, _, outputs in segments)
    starts, ends = (jnp.array(column, dtype=float) for column in list(zip(*segments, strict=True))[:2])
    grids = jnp.array([[*problem.ts[outputs], *[end] * (width - len(outputs))] for _, end, outputs in segments])
    kept = np.concatenate([i * width + np.arange(len(outputs)) for i, (_, _, outputs) in enumerate(segments)])
    dosed = problem.states.index(problem.dose_to)
    options = {"root_finder": diffrax.with_stepsize_controller_tols(optx.Newton)()} if tuned else {}
    term = diffrax.ODETerm(lambda t, y, p: jnp.stack(rhs(t, [y[i] for i in range(size)], p)))
    controller = diffrax.PIDController(rtol=peers.RTOL, atol=peers.ATOL)

    def patient(parameters, dose):
        def interval(carry, inputs):
            y, steps = carry
            t0, t1, grid = inputs
            solution = diffrax.diffeqsolve(
                term,
                solver(**options),
                t0,
                t1,
                None,
                y.at[dosed].add(dose),
                args=parameters,
                stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=grid) if tuned else controller,
                saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=grid), diffrax.SubSaveAt(t1=True)]),
                max_steps=16384,
                throw=False,
            )
            return (solution.ys[1][0], steps + solution.stats["num_steps"]), solution.ys[0]

        y = jnp.stack([jnp.asarray(value, dtype=float) for value in start(parameters)])
        (_, steps), ys = jax.lax.scan(interval, (y, 0), (starts, ends, grids))
        return jnp.concatenate([y.at[dosed].add(dose)[None], ys.reshape(-1, size)[kept]]), steps

    chunk = jax.jit(jax.vmap(patient))
    parameters, doses = problem.population(patients)
    found = {}

    def run():
        begun = clocks()
        solved = [
            jax.block_until_ready(chunk(parameters[i : i + CHUNK], doses[i : i + CHUNK]))
            for i in range(0, patients, CHUNK)
        ]
        cpu, wall = clocks() - begun
        parts = zip(*solved, strict=True)
        found["states"], found["steps"] = (np.concatenate([np.asarray(x) for x in part]) for part in parts)
        return cpu, wall, int((~np.isfinite(found["states"])).any(axis=(1, 2)).sum())

    _, first, _ = run()
    name = f"vmap(diffrax), {solver.__name__}{', Newton, clipped at outputs' if tuned else ''}"
    row = Row(name, peers.RTOL, patients, first, run, lambda: found["states"], ours=False)
    row.steps = float(np.mean(found["steps"]))
    return row


def peer_row(problem, name, python, patients, folder, stack):
    """Start a program in the environment of the peers; it waits for a line before every repetition."""
    script = Path(__file__).with_name("peers.py")
    command = [python, str(script), name, problem.name, "--patients", str(patients), "--serve"]
    process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    stack.callback(process.stdin.close)

    def ask(line):
        print(line, file=process.stdin, flush=True)
        return answer()

    def answer():
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} ended while it computed {problem.name}.")
        return json.loads(line)

    def run():
        times = ask("run")
        return times["cpu"], times["wall"], times["failed"]

    def states():
        file = folder / f"{name}-{problem.name}.npy"
        ask(f"states {file}")
        return np.load(file)

    first = answer()["first"]
    return Row(peers.LABELS[name], peers.RTOL, patients, first, run, states, ours=False)


def reference(problem, folder, python):
    """Return the states of the first patients at rtol 1e-12: by LSODA of the peers' environment, else by our own."""
    said = repr((problem.rhs, problem.parameters, problem.initial, problem.dose, problem.dose_times, problem.vary))
    known = hashlib.sha256(said.encode()).hexdigest()[:12]
    file = folder / f"{problem.name}-{known}-{'lsoda' if python else 'own'}.npy"
    if not file.exists():
        print(f"{problem.name}: reference for {problem.referenced} patients ...", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        if python:
            script = Path(__file__).with_name("peers.py")
            subprocess.run([python, script, "reference", problem.name, "--write", file], check=True)
        else:
            exact = qsp.solve.Rosenbrock(rtol=1e-12, atol=1e-14, max_steps=10**6)
            solution = qsp.simulate_cohort(*problems.cohort(problem, problem.referenced), method=exact)
            np.save(file, problems.states(solution))
    return np.load(file)


def measure(problem, arguments, folder):
    """Return the rows of one problem, measured in turn."""
    exact = reference(problem, arguments.cache, arguments.peers)

    def at_most(n):
        return min(n, arguments.patients or n)

    with contextlib.ExitStack() as stack:
        rows = [
            own_row(problem, name, rtol, at_most(problem.patients))
            for name in OURS[problem.name]
            for rtol in (arguments.tolerances[:1] if name in EXACT else arguments.tolerances)
        ]
        for solver, tuned, patients in DIFFRAX.get(problem.name, ()):
            rows.append(diffrax_row(problem, solver, tuned, at_most(patients)))
        for name, patients in peers.PATIENTS.items() if arguments.peers else ():
            if problem.name in patients:
                count = at_most(patients[problem.name])
                rows.append(peer_row(problem, name, arguments.peers, count, folder, stack))
        for _ in range(REPETITIONS):
            for row in rows:
                row.repeat()
        for row in rows:
            row.error = problem.error(row.states(), exact)
    return rows


def ratios(rows):
    """Return for each peer how many times less CPU and wall time we need to be no less accurate; None if we are not."""
    numbers, found = [row.numbers() for row in rows], []
    if not any(row["ours"] for row in numbers):
        return found
    for peer in (row for row in numbers if not row["ours"]):
        able = [row for row in numbers if row["ours"] and row["error"] <= peer["error"] and not row["failed"]]
        ours = min(able, key=lambda row: row["cpu"], default=None)
        found.append(
            {
                "peer": peer["program"],
                "error": peer["error"],
                "row": ours and _named(ours),
                "cpu": ours and peer["cpu"] / ours["cpu"],
                "wall": ours and peer["wall"] / ours["wall"],
            }
        )
    return found


def _named(row):
    return row["program"] + (f", rtol {row['rtol']:.0e}" if row["rtol"] else "")


def table(head, lines, *, markdown):
    """Print a table: in Markdown, or in columns."""
    lines = [[str(cell) for cell in line] for line in lines]
    if markdown:
        print("| " + " | ".join(head) + " |")
        print("|---" + "|--:" * (len(head) - 1) + "|")
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    else:
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        for first, *rest in (head, *lines):
            cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]
            print("  ".join(cells))
    print(flush=True)


def show(problem, rows, *, markdown):
    head = ["program", "rtol", "patients", "CPU ms", "median", "wall ms", "error", "steps", "failed", "first call, s"]
    lines = [
        [
            row["program"],
            f"{row['rtol']:.0e}" if row["rtol"] else "-",
            row["patients"],
            f"{row['cpu']:.3g}",
            f"{row['cpu_median']:.3g}",
            f"{row['wall']:.3g}",
            f"{row['error']:.0e}",
            f"{row['steps']:.0f}" if row["steps"] else "",
            row["failed"],
            f"{row['first_call']:.1f}",
        ]
        for row in (row.numbers() for row in rows)
    ]
    print(f"{problem.name}: {len(problem.states)} states, {len(problem.ts)} outputs; milliseconds a patient\n")
    table(head, lines, markdown=markdown)
    lines = [
        [
            ratio["peer"],
            f"{ratio['error']:.0e}",
            ratio["row"] or "none is as accurate",
            f"{ratio['cpu']:.1f}" if ratio["cpu"] else "",
            f"{ratio['wall']:.1f}" if ratio["wall"] else "",
        ]
        for ratio in ratios(rows)
    ]
    if lines:
        table(["peer", "its error", "our row", "CPU, times less", "wall, times less"], lines, markdown=markdown)


def scaling(arguments):
    """Print the cost a patient of `tmdd` from 1 to 100,000 patients, at rtol 1e-6."""
    problem = equations.problem("tmdd")
    lines, numbers = [], []
    for patients in (1, 10, 100, 1000, 10_000, 100_000):
        if patients > (arguments.patients or patients):
            break
        row = own_row(problem, OURS["tmdd"][-1], 1e-6, patients)
        for _ in range(REPETITIONS):
            row.repeat()
        found = row.numbers()
        numbers.append(found)
        lines.append(
            [
                patients,
                f"{found['cpu']:.3g}",
                f"{found['wall']:.3g}",
                f"{found['wall'] * patients / 1e3:.3g}",
                f"{found['first_call']:.1f}",
                found["failed"],
            ]
        )
    print("tmdd: cost by the number of patients, rtol 1e-6\n")
    head = ["patients", "CPU ms a patient", "wall ms a patient", "wall s in all", "first call, s", "failed"]
    table(head, lines, markdown=arguments.markdown)
    return numbers


def counted(arguments):
    """Print the operations a step of our rows, their rate, and the most that this core does."""
    limit = operations.limit()
    print(f"limit: {limit / 1e9:.1f} billion operations a second, a chain of multiply-adds on this core\n")
    lines, numbers = [], []
    for name in arguments.problems:
        problem = equations.problem(name)
        patients = min(problem.patients, arguments.patients or 1024)
        own = OURS[name][-1]
        cohort, regimen, ts = problems.cohort(problem, patients)
        keep, chosen = problems.state_names(problem), method(own, 1e-6)

        def solve(cohort, regimen, keep=keep, chosen=chosen, ts=ts):
            solution = qsp.simulate_cohort(cohort, regimen, ts, save=keep, method=chosen)
            return solution.states, solution.stats

        compiled = jax.jit(solve).lower(cohort, regimen).compile()
        if not hasattr(qsp.solve, own):
            own = "Diffrax"
        each, lanes = operations.per_step(compiled, STEPS_A_PASS[own])
        cpu = []
        for _ in range(REPETITIONS):
            start = time.process_time()
            _, stats = jax.block_until_ready(compiled(cohort, regimen))
            cpu.append(time.process_time() - start)
        steps = float(np.mean(stats["steps"]))
        rate = each * steps * patients / min(cpu)
        raw = (compiled.cost_analysis() or {}).get("flops", float("nan"))
        lines.append(
            [
                f"{name}, {own}",
                lanes,
                f"{each:.0f}",
                f"{steps:.0f}",
                f"{each * steps / 1e6:.2f}",
                f"{1e3 * min(cpu) / patients:.3g}",
                f"{rate / 1e9:.2f}",
                f"{100 * rate / limit:.0f} %",
                f"{raw / 1e6:.3g}",
            ]
        )
        numbers.append({"problem": name, "method": own, "step": each, "steps": steps, "rate": rate, "limit": limit})
    head = ["problem, method", "lanes", "operations a step", "steps", "million a patient", "CPU ms a patient"]
    head += ["billion a second", "of the limit", "cost_analysis, million (loops once)"]
    table(head, lines, markdown=arguments.markdown)
    return numbers


def pin(core=None):
    """Keep this process, and what it starts, on one core; to be called before jax makes its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})


def machine():
    """Return what the numbers depend on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "diffrax": diffrax.__version__,
        "numpy": np.__version__,
        "device": jax.devices()[0].device_kind,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=equations.NAMES, default=list(equations.NAMES))
    parser.add_argument("--patients", type=int, help="at most so many patients in each row")
    parser.add_argument("--tolerances", nargs="*", type=float, default=TOLERANCES, help="of our rows; none: peers only")
    parser.add_argument("--peers", metavar="PYTHON", help="the Python of the environment of the peers")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "qspjax-benchmarks")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    parser.add_argument("--core", type=int, help="the core to run on; by default the last that there is")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--operations", action="store_true")
    arguments = parser.parse_args()
    pin(arguments.core)
    described = machine()
    print(", ".join(f"{key} {value}" for key, value in described.items()), end="\n\n")
    saved = {"machine": described}
    if arguments.scaling:
        saved["scaling"] = scaling(arguments)
    if arguments.operations:
        saved["operations"] = counted(arguments)
    if not arguments.scaling and not arguments.operations:
        for name in arguments.problems:
            problem = equations.problem(name)
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(problem, arguments, Path(folder))
            show(problem, rows, markdown=arguments.markdown)
            saved[name] = {"rows": [row.numbers() for row in rows], "ratios": ratios(rows)}
    if arguments.save:
        arguments.save.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
