"""Write what was read and read it again: the trajectories of both must be the same to 1e-9.

    python benchmarks/sbml_round_trip.py CASES [--cases N-M] [--workers N] [--antimony]

Every case of the SBML Test Suite that can be read is read, written, read again, and both networks are simulated, with
the tolerances of `qspjax sbml-suite`. The error is the greatest difference of a variable, relative to its greatest size
over time. Where both definitions are the same nothing is simulated, and the error is 0. With `--antimony` the network
goes through Antimony, which writes numbers in 15 digits.
"""

import argparse
import dataclasses
import math
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

ALLOWED = 1e-9
ALLOWED_OF_ANTIMONY = 1e-7


def plain(value):
    """Return a definition in which brackets within sums and products do not matter, nor what things are called."""
    from qspjax._expression import Expression, call
    from qspjax._expression._tree import rebuilt

    def flat(node):
        if node.op not in ("+", "*"):
            return None
        return call(node.op, *(part for arg in node.args for part in (arg.args if arg.op == node.op else (arg,))))

    if isinstance(value, Expression):
        return rebuilt([value], flat)[0]
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value) if field.name not in ("doc", "unit", "name"))
        return type(value).__name__, *(plain(getattr(value, name)) for name in names)
    return {key: plain(own) for key, own in value.items()} if isinstance(value, dict) else _table(value)


def _table(value):
    from qspjax.models.network._definition import Table

    return {key: plain(own) for key, own in value.items()} if isinstance(value, Table) else value


def trip(folder, antimony=False):
    """Return what became of a case, and the error."""
    from qspjax import io
    from qspjax.sbml_suite import _suite

    try:
        first = io.read_sbml(_suite.model_of(folder))
    except (io.FileIssues, _suite.Refused):
        return folder.name, "refused", math.nan
    again = io.read_antimony(io.write_antimony(first)) if antimony else io.read_sbml(io.write_sbml(first))
    if plain(first.definition) == plain(again.definition):
        return folder.name, "same definition", 0.0
    settings = _suite.read_settings(folder / f"{folder.name}-settings.txt")
    shared = tuple(name for name in settings.variables if name in again.definition.ids())  # Antimony renames its words
    settings = dataclasses.replace(settings, relative=min(settings.relative, 1e-8), variables=shared)
    try:
        own = _suite.computed(first, settings)
    except _suite.Refused:
        return folder.name, "not solved", math.nan
    found = _suite.computed(again, settings)
    return folder.name, "same trajectories", max(_error(own[name], found[name]) for name in settings.variables)


def _error(own, found):
    if not np.array_equal(np.isfinite(own), np.isfinite(found)):
        return math.inf
    fine = np.isfinite(own)
    size = np.abs(own[fine]).max(initial=0.0)
    return (
        float(np.abs(own - found)[fine].max(initial=0.0) / size)
        if size
        else float(np.abs(found[fine]).max(initial=0.0))
    )


def _safely(task):
    folder, antimony = task
    try:
        return trip(folder, antimony)
    except Exception as error:  # noqa: BLE001 - a defect is counted and told
        return folder.name, f"{type(error).__name__}: {str(error)[:100]}", math.inf


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("--cases", dest="wanted", help="N-M")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--antimony", action="store_true")
    arguments = parser.parse_args()
    from qspjax import sbml_suite

    wanted = None
    if arguments.wanted:
        first, _, last = arguments.wanted.partition("-")
        wanted = range(int(first), int(last or first) + 1)
    tasks = [(folder, arguments.antimony) for folder in sbml_suite.case_folders(arguments.cases, wanted)]
    allowed = ALLOWED_OF_ANTIMONY if arguments.antimony else ALLOWED
    counts, wrong, greatest, begun = Counter(), 0, 0.0, time.perf_counter()
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn"), max_tasks_per_child=300) as pool:
        for number, (case, what, error) in enumerate(pool.map(_safely, tasks, chunksize=4), 1):
            counts[what] += 1
            greatest = max(greatest, error if math.isfinite(error) else 0.0)
            if not error <= allowed and not math.isnan(error):
                wrong += 1
                print(f"{case}: {what}, error {error:.3g}", flush=True)
            if number % 100 == 0:
                print(f"{number} cases, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()))
    print(f"greatest error {greatest:.2g}, {wrong} of {len(tasks)} above {allowed:g}")


if __name__ == "__main__":
    main()
