"""How does a population grow? Patients a second and memory from 1,000 to 1,000,000 patients of `tmdd`, on all cores.

    python benchmarks/population.py [--most 1000000]

Each size runs in a process of its own: two chunks are computed to compile, then the cohort is computed
in chunks of 4,096, and of each patient the least and the last free drug and the whole course (85 times) are kept as
quantiles (`execute.Quantiles`). The claim is that the time a patient does not depend on the number of patients (to
10 %), and that a million fit in 2 GB. Peak memory is that of the process, of which Python, JAX and the compiler need
what the first row says. The rows `stored` write trajectories of all states to a folder in place of quantiles.

The last line is the time that a chunk costs on a cluster of Dask beyond its computation: chunks of eight patients, by
two local workers, against the same chunks in this process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import equations
import jax
import problems

import qspjax as qsp

CHUNK = 4096
SIZES = (1_000, 10_000, 100_000, 1_000_000)
STORED = (10_000, 100_000)
TINY, CHUNKS = 8, 100


def kept(solution):
    free = solution.observed["free"]
    return {"least": free.min(), "last": free[-1], "course": free}


def measured(patients, stored):
    """Simulate so many patients; return seconds, CPU seconds, peak memory in MB, and the number that failed."""
    cohort, regimen, ts = problems.cohort(equations.problem("tmdd"), patients)
    few, few_doses, _ = problems.cohort(equations.problem("tmdd"), min(2 * CHUNK, patients))
    options = {} if stored else {"save": (), "reduce": qsp.execute.Quantiles(kept)}
    jax.block_until_ready(
        qsp.simulate_cohort(few, few_doses, ts, executor=qsp.execute.Chunked(CHUNK), **options).result
    )
    with tempfile.TemporaryDirectory(dir=stored or None) as folder:
        chunks = qsp.execute.Chunked(CHUNK)
        executor = qsp.execute.Stored(folder, chunks) if stored else chunks
        wall, cpu = time.perf_counter(), time.process_time()
        solution = qsp.simulate_cohort(cohort, regimen, ts, executor=executor, **options)
        jax.block_until_ready(solution.result)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall, "cpu": cpu, "peak": peak, "failed": int(solution.failed.sum())}


def dask_overhead():
    """Return the seconds that a chunk takes on two local workers, and in this process."""
    import distributed

    cohort, regimen, ts = problems.cohort(equations.problem("pk2"), TINY * CHUNKS)
    seconds = []
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        for executor in (qsp.execute.Dask(client, TINY), qsp.execute.Chunked(TINY)):
            for _ in range(2):  # the first compiles
                start = time.perf_counter()
                jax.block_until_ready(qsp.simulate_cohort(cohort, regimen, ts, executor=executor).result)
                last = time.perf_counter() - start
            seconds.append(last / CHUNKS)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the greatest number of patients")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the rows `stored` write")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stored", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments.stored)))
        return
    print("| patients | kept | wall, s | patients a second | CPU ms a patient | peak memory, MB | failed |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    rows = [(n, None) for n in SIZES] + [(n, arguments.folder) for n in STORED]
    for patients, folder in rows:
        if patients > arguments.most:
            continue
        command = [sys.executable, __file__, "--one", str(patients), *(["--stored", folder] if folder else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        what = "trajectories, stored" if folder else "quantiles"
        times = f"{row['wall']:.2f} | {patients / row['wall']:,.0f} | {1e3 * row['cpu'] / patients:.3f}"
        print(f"| {patients:,} | {what} | {times} | {row['peak']:,.0f} | {row['failed']} |", flush=True)
    there, here = dask_overhead()
    print(f"\nDask: {1e3 * there:.1f} ms a chunk on two workers, {1e3 * here:.1f} ms a chunk in this process.")


if __name__ == "__main__":
    main()
