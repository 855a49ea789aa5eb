"""What a gradient costs, in units of the value it is the gradient of, and how accurate it is.

    python benchmarks/gradient.py [--problems tmdd] [--patients N] [--rtol 1e-6] [--markdown] [--save FILE.json]

The value is the weighted sum of squares of every state of every patient against fixed synthetic data; the gradient is
with respect to *all* parameters of every patient, each patient having its own. Rows: the value, value and gradient in
reverse mode, derivatives in one and in ten directions in forward mode (a direction moves every patient at once, so ten
directions are ten columns of the gradient), and central differences, which cost two values a parameter.

CPU time on one core, best of three after a warm-up; trace and compile seconds apart. The error is the largest over
patients of |g - g*| / |g*|, in the logarithms of the parameters, against the gradient at rtol 1e-10; that gradient is
itself compared with central differences at rtol 1e-10.
"""

import argparse
import json
import time
from pathlib import Path

import equations
import jax
import jax.numpy as jnp
import numpy as np
import problems
from ensemble import ABSOLUTE, OURS, machine, method, pin, table

import qspjax as qsp

PATIENTS = {"pk2": 1000, "tmdd": 1000, "qsp30": 50, "qsp150": 16}
COMPARED = 16
"""How many patients the accurate gradient and the differences are computed for."""

DIRECTIONS = 10
TIGHT = 1e-10


def squares(problem, chosen, patients, data):
    """Return the function from the parameters, shape (patients, parameters), to each patient's sum of squares."""
    model, doses, keep = problems.typical(problem), problems.regimen(problem, patients), problems.state_names(problem)
    _, checked = problem.compared()
    weight = 1.0 / (0.1 * data + 0.01 * data.max(axis=1, keepdims=True))

    def function(parameters):
        if problem.network is not None:
            values = {"k": parameters}
        else:
            values = {name: parameters[:, i] for i, name in enumerate(problem.parameters)}
        cohort = qsp.Cohort.of(model, values)
        solution = qsp.simulate_cohort(cohort, doses, problem.ts, save=keep, method=chosen)
        leaves = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(solution.states)]
        states = jnp.concatenate(leaves, axis=-1)[:, :, np.array(checked)]
        return jnp.sum((weight * (states - data)) ** 2, axis=(1, 2))

    return function


def synthetic(problem, patients):
    """Return data: every patient's doses given to the nominal patient, and 10 % of fixed noise."""
    nominal = np.tile(list(problem.parameters.values()), (patients, 1))
    values = {"k": nominal} if problem.network is not None else dict(zip(problem.parameters, nominal.T, strict=True))
    cohort = qsp.Cohort.of(problems.typical(problem), values)
    solution = qsp.simulate_cohort(
        cohort, problems.regimen(problem, patients), problem.ts, method=method(OURS[problem.name][-1], 1e-8)
    )
    states = problems.states(solution)[:, :, problem.compared()[1]]
    return states * np.exp(0.1 * np.random.default_rng(1).standard_normal(states.shape))


def measured(function, *arguments):
    """Return the result, the CPU seconds of the best of three runs, and the seconds to trace and to compile."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    result = jax.block_until_ready(compiled(*arguments))
    best = np.inf
    for _ in range(3):
        begun = time.process_time()
        result = jax.block_until_ready(compiled(*arguments))
        best = min(best, time.process_time() - begun)
    return jax.tree.map(np.asarray, result), best, traced - start, ready - traced


def differences(function, parameters, columns, step):
    """Return central differences with a relative step, shape (patients, columns), in the logarithms."""
    compiled = jax.jit(function)

    def moved(column, by):
        changed = np.array(parameters)
        changed[:, column] *= np.exp(by)
        return np.asarray(compiled(changed))

    return np.stack([(moved(c, step) - moved(c, -step)) / (2.0 * step) for c in columns], axis=1)


def error(got, exact):
    """Return the largest relative error of a patient's vector."""
    return float((np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)).max())


def rows_of(problem, patients, rtol):
    own = OURS[problem.name][-1]
    parameters, _ = problem.population(patients)
    data = synthetic(problem, patients)
    few = min(COMPARED, patients)
    size = parameters.shape[1]
    columns = np.unique(np.linspace(0, size - 1, DIRECTIONS).round().astype(int))
    function = squares(problem, method(own, rtol), patients, data)
    tight = method(own, TIGHT)
    if own == "Rosenbrock":
        tight = qsp.solve.Rosenbrock(rtol=TIGHT, atol=ABSOLUTE * TIGHT, max_steps=10**6)
    accurate = squares(problem, tight, few, data[:few])
    coarse = squares(problem, method(own, rtol), few, data[:few])

    def total(parameters):
        return jnp.sum(function(parameters))

    def forward(parameters, tangents):
        return jax.vmap(lambda tangent: jax.jvp(function, (parameters,), (tangent,))[1])(tangents)

    exact = np.asarray(jax.jit(jax.grad(lambda p: jnp.sum(accurate(p))))(parameters[:few])) * parameters[:few]
    basis = np.zeros((columns.size, *parameters.shape))
    for i, column in enumerate(columns):
        basis[i, :, column] = parameters[:, column]

    value = measured(total, parameters)
    gradient = measured(jax.value_and_grad(total), parameters)
    one = measured(forward, parameters, basis.sum(axis=0)[None])
    ten = measured(forward, parameters, basis)
    found = gradient[0][1][:few] * parameters[:few]
    directed = exact[:, columns]

    def row(what, timing, wrong):
        _, cpu, traced, compiled = timing
        return {
            "what": what,
            "cpu": 1e3 * cpu / patients,
            "values": cpu / value[1],
            "error": wrong,
            "trace": traced,
            "compile": compiled,
        }

    rows = [
        row("value", value, None),
        row(f"value and gradient, {size} parameters", gradient, error(found, exact)),
        row("forward, 1 direction", one, error(one[0].T[:few], directed.sum(axis=1, keepdims=True))),
        row(f"forward, {columns.size} directions", ten, error(ten[0].T[:few], directed)),
    ]
    for step in (1e-2, 1e-3, 1e-4):
        wrong = error(differences(coarse, parameters[:few], columns, step), directed)
        cost = {"cpu": 2 * size * rows[0]["cpu"], "values": 2.0 * size, "error": wrong, "trace": None, "compile": None}
        rows.append({"what": f"central differences, step {step:g} (cost computed)", **cost})
    check = error(differences(accurate, parameters[:few], columns, 1e-5), directed)
    return rows, check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PATIENTS), default=["pk2", "tmdd", "qsp30"])
    parser.add_argument("--patients", type=int, help="at most so many patients")
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    parser.add_argument("--core", type=int, help="the core to run on; by default the last that there is")
    arguments = parser.parse_args()
    pin(arguments.core)
    saved = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in saved["machine"].items()), end="\n\n")
    for name in arguments.problems:
        problem = equations.problem(name)
        patients = min(PATIENTS[name], arguments.patients or PATIENTS[name])
        rows, check = rows_of(problem, patients, arguments.rtol)
        print(
            f"{name}: {patients} patients, rtol {arguments.rtol:g}, atol {ABSOLUTE * arguments.rtol:g}; "
            f"differences at rtol {TIGHT:g} agree with the accurate gradient to {check:.0e}\n"
        )
        head = ["", "CPU ms a patient", "in values", "error", "trace s", "compile s"]
        lines = [
            [
                row["what"],
                f"{row['cpu']:.3g}",
                f"{row['values']:.1f}",
                "" if row["error"] is None else f"{row['error']:.0e}",
                "" if row["trace"] is None else f"{row['trace']:.1f}",
                "" if row["compile"] is None else f"{row['compile']:.1f}",
            ]
            for row in rows
        ]
        table(head, lines, markdown=arguments.markdown)
        saved[name] = {"rows": rows, "differences": check}
    if arguments.save:
        arguments.save.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
