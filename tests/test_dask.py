"""A cluster that loses a worker half-way computes what one process does, to the last bit."""

import os
import pickle
import signal

import jax
import pytest

import qspjax as qsp
from qspjax.execute import Chunked, Dask, Quantiles, Stored, Vmap
from tests.test_sketch import parts
from tests.test_stored import bits, last, simulated

distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
pytest.importorskip("zarr", reason="needs the extra `data`")
pytest.importorskip("pyarrow", reason="needs the extra `data`")
SIZE = 800


@pytest.fixture(scope="module")
def client():
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_what_was_pickled_is_no_other_program():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [20.0, 30.0]})
    again = pickle.loads(pickle.dumps(cohort.model))
    assert jax.tree.structure(again) == jax.tree.structure(cohort.model)


@pytest.mark.slow
def test_a_lost_worker_changes_nothing(client, tmp_path):
    workers = client.run(os.getpid)
    assert len(workers) == 2
    done = []

    def progress(patients, chunk):
        done.append(patients)
        if patients == SIZE // 2:
            os.kill(min(workers.values()), signal.SIGKILL)

    executor = Dask(client, 50, progress=progress)
    whole = simulated(Vmap(), size=SIZE)
    assert bits(simulated(executor, size=SIZE)) == bits(whole)
    assert done == list(range(50, SIZE + 1, 50))
    assert set(client.run(os.getpid).values()) != set(workers.values())

    stored = simulated(Stored(tmp_path, Dask(client, 50)), size=SIZE)
    assert bits(stored) == bits(whole)
    again = simulated(Stored(tmp_path, Chunked(50)), size=SIZE)
    assert bits(again) == bits(whole)
    sketch = Quantiles(last)
    there, here = (simulated(e, size=SIZE, save=(), reduce=sketch).reduced for e in (Dask(client, 48), Chunked(64)))
    assert parts(there) == parts(here)


@pytest.mark.slow
def test_a_client_need_not_be_the_default_one():
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        assert bits(simulated(Dask(client, 50))) == bits(simulated(Vmap()))


def test_a_client_is_asked_for():
    with pytest.raises(ValueError, match=r"Argument `client` must be a client of Dask \(a `distributed.Client`\)"):
        Dask("localhost:8786")
