"""The peer of `multistart.py` from its own environment: AMICI with the optimiser fides, by pyPESTO, start after start.

    PYTHON -P benchmarks/multistart_amici.py PROBLEM.yaml STARTS.json

STARTS holds `names` of parameters and `points` on the scale of the search. Prints, as JSON, CPU seconds of the building
of the model (with the compilers) and of the search, milliseconds of an evaluation with gradient and curvature, and the
log densities that were reached (-inf where a search failed). PYTHON is that of an environment made by

    pip install swig cmake "amici[petab]" pypesto fides
"""

import json
import logging
import os
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np


def seconds():
    """Return the CPU seconds of this process and of those that it has started."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main():
    import petab.v1 as petab
    import pypesto.optimize
    import pypesto.petab

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where swig is
    logging.disable(logging.CRITICAL)
    yaml, starts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    began = seconds()
    with tempfile.TemporaryDirectory() as folder:
        read = petab.Problem.from_yaml(yaml)
        petab.flatten_timepoint_specific_output_overrides(read)
        importer = pypesto.petab.PetabImporter(read, output_folder=folder, simulator_type="amici")
        problem = importer.create_problem()
    problem.objective.amici_solver.set_relative_tolerance(1e-8)
    built = seconds() - began
    names = [problem.x_names[i] for i in problem.x_free_indices]
    points = np.array(starts["points"])[:, [starts["names"].index(name) for name in names]]
    began, evaluated = seconds(), 0
    for point in points[:8]:
        problem.objective(point, sensi_orders=(0, 1, 2))
        evaluated += 1
    each = (seconds() - began) / evaluated
    guesses = np.array([problem.get_full_vector(point, problem.x_fixed_vals) for point in points])
    problem.set_x_guesses(guesses)
    began = seconds()
    result = pypesto.optimize.minimize(
        problem=problem,
        optimizer=pypesto.optimize.FidesOptimizer(verbose=logging.CRITICAL),
        n_starts=len(points),
        engine=pypesto.engine.SingleCoreEngine(),
        progress_bar=False,
    )
    found = [-value if np.isfinite(value) else -np.inf for value in result.optimize_result.fval]
    print(json.dumps({"build": built, "search": seconds() - began, "evaluation": 1e3 * each, "reached": found}))


if __name__ == "__main__":
    main()
