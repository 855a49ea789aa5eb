"""A folder of results: equal to a simulation in memory to the last bit, however often it was interrupted."""

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.execute import Chunked, Stored, Vmap

pytest.importorskip("zarr", reason="needs the extra `data`")
pytest.importorskip("pyarrow", reason="needs the extra `data`")

TS = np.linspace(0.0, 48.0, 9)
TYPICAL = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
METHOD = qsp.solve.Rosenbrock()


def last(solution):
    return solution.observed["concentration"][-1]


def simulated(executor, *, size=100, typical=TYPICAL, regimen=None, ts=TS, **options):
    """Simulate patients with one that fails among them."""
    clearances = np.linspace(1.0, 9.0, size)
    cohort = qsp.Cohort.of(typical, {"CL": clearances})
    clearances[size // 3] = np.nan
    cohort = eqx.tree_at(lambda c: c.model.CL, cohort, jax.numpy.asarray(clearances))
    regimen = qsp.bolus(200.0, to="depot").every(24.0, doses=2) if regimen is None else regimen
    options = {"reduce": last, "method": METHOD} | options
    return qsp.simulate_cohort(cohort, regimen, ts, executor=executor, **options)


def bits(solution):
    parts = (solution.observed, solution.states, solution.result, solution.stats, solution.reduced)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(parts)]


@pytest.fixture(scope="module")
def whole():
    return simulated(Vmap())


@pytest.mark.parametrize("chunk", [32, 100])
def test_what_is_stored_is_what_is_simulated_to_the_last_bit(whole, tmp_path, chunk):
    first = simulated(Stored(tmp_path / "new" / "store", Chunked(chunk)))
    assert bits(first) == bits(whole)
    assert [failure.patient for failure in first.failures()] == [33]
    assert first.to_dataframe().equals(whole.to_dataframe())
    assert str(first) == str(whole)


def test_what_is_stored_is_not_computed_again(whole, tmp_path):
    computed, reported = [], []

    def executor():
        chunks = Chunked(32, progress=lambda done, chunk: computed.append(done))
        return Stored(tmp_path, chunks, progress=reported.append)

    simulated(executor())
    assert computed == [32, 64, 96, 100]
    assert [(p.done, p.total, p.figures["found"]) for p in reported[-2:]] == [(96, 100, 0), (100, 100, 0)]
    assert reported[-1].figures["rate"] > reported[-1].figures["left"] == 0
    computed.clear()
    assert bits(simulated(executor())) == bits(whole)
    assert computed == []
    (tmp_path / "tables" / "00002.parquet").unlink()
    assert bits(simulated(executor())) == bits(whole)
    assert computed == [32]
    assert (reported[-1].done, reported[-1].figures["found"]) == (100, 68)


def test_only_what_is_kept_is_stored(tmp_path):
    solution = simulated(Stored(tmp_path), save=(), reduce=lambda s: s.observed["concentration"][-3:])
    assert solution.observed == {}
    assert sorted(path.name for path in (tmp_path / "trajectories").iterdir()) == ["reduced", "zarr.json"]
    assert solution.reduced.shape == (100, 3)
    expected = simulated(Vmap(), save=["concentration"]).observed["concentration"][:, -3:]
    np.testing.assert_array_equal(solution.reduced[:], expected)


def test_patients_who_are_all_alike(tmp_path):
    cohort = qsp.Cohort.of(TYPICAL, {}, size=5)
    for executor in (Vmap(), Chunked(2), Stored(tmp_path, Chunked(2)), Stored(tmp_path, Chunked(2))):
        solution = qsp.simulate_cohort(cohort, qsp.bolus(200.0, to="depot"), TS, executor=executor)
        assert np.unique(np.asarray(solution.observed["concentration"]), axis=0).shape == (1, 9)
        assert solution.failed.shape == (5,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": qsp.solve.Rosenbrock(rtol=1e-5)}, "the method, or what is kept or reduced:"),
        ({"reduce": qsp.endpoints.Cmin("concentration")}, "the method, or what is kept or reduced:"),
        ({"size": 96}, "the patients, or what differs between them and the number of patients:"),
        ({"ts": TS + 1.0}, "the model, regimen or times:"),
        ({"regimen": qsp.bolus(201.0, to="depot").every(24.0, doses=2)}, "the model, regimen or times:"),
        ({"typical": dataclasses.replace(TYPICAL, V=31.0)}, "the model, regimen or times:"),
    ],
)
def test_the_store_of_something_else_is_refused(stored, change, words):
    before = sorted(stored.rglob("*"))
    with pytest.raises(ValueError, match="must be the results store of this simulation, but is that of another") as e:
        simulated(Stored(stored, Chunked(32)), **change)
    assert f"differs in {words} name another folder, or remove this one." in str(e.value)
    assert sorted(stored.rglob("*")) == before


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    simulated(Stored(folder, Chunked(32)))
    return folder


def test_chunks_of_another_size_are_refused(stored):
    with pytest.raises(ValueError, match="differs in the number of patients in a chunk:"):
        simulated(Stored(stored, Chunked(48)))


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a results store or an empty folder, but holds something else"):
        simulated(Stored(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="must be the manifest of a results store, but cannot be read as one"):
        simulated(Stored(tmp_path))


def test_a_damaged_table_is_named(whole, tmp_path):
    simulated(Stored(tmp_path, Chunked(32)))
    table = tmp_path / "tables" / "00001.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"00001.parquet must be a table of the results store, but is damaged \(.*"):
        simulated(Stored(tmp_path, Chunked(32)))
    table.unlink()
    assert bits(simulated(Stored(tmp_path, Chunked(32)))) == bits(whole)


@pytest.mark.parametrize("suffix", [".parquet", "trajectories"])
def test_a_full_disk_ends_with_one_sentence_and_what_was_stored_intact(whole, tmp_path, monkeypatch, suffix):
    """The disk is full when the third chunk is written: its table, or its trajectories before that."""
    import zarr.storage._local as local

    written = []

    def full(path):
        if path.suffix == suffix or suffix in path.parts and "c" in path.parts:
            written.append(path)
            if len(written) > (2 if suffix == ".parquet" else 2 * len(jax.tree.leaves((whole.observed, whole.states)))):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write_bytes(path, data, original=Path.write_bytes):
        full(path)
        return original(path, data)

    def put(path, *arguments, original=local._put, **options):
        full(path)
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        patch.setattr(local, "_put", put)
        with pytest.raises(
            OSError, match=r"cannot be written to \(No space left on device\); 2 of 4 chunks are stored"
        ):
            simulated(Stored(tmp_path, Chunked(32)))
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["00000.parquet", "00001.parquet"]
    found = []
    assert bits(simulated(Stored(tmp_path, Chunked(32), progress=found.append))) == bits(whole)
    assert found[0].figures["found"] == 64


def test_a_disk_that_is_full_at_the_beginning_leaves_a_folder_to_go_on_with(whole, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=r"0 of 4 chunks are stored intact, and the same call goes on from there"):
            simulated(Stored(tmp_path / "new", Chunked(32)))
    assert bits(simulated(Stored(tmp_path / "new", Chunked(32)))) == bits(whole)


def test_a_folder_that_cannot_be_made_ends_with_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written to \(Not a directory\); 0 of 1 chunks are stored intact"):
        simulated(Stored(tmp_path / "file" / "store"))


def test_a_store_that_cannot_be_written_to_is_read_where_it_is_complete(whole, stored, tmp_path, monkeypatch):
    def read_only(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_text", "mkdir", "touch"):
            patch.setattr(Path, name, read_only)
        assert bits(simulated(Stored(stored, Chunked(32)))) == bits(whole)
        with pytest.raises(OSError, match=r"cannot be written to \(Read-only file system\); 0 of 4 chunks"):
            simulated(Stored(tmp_path / "new", Chunked(32)))


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_ends_with_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot be written to \(Permission denied\); 0 of 1 chunks are stored intact"):
        simulated(Stored(tmp_path / "store"))


def test_inside_jit_there_is_nothing_to_store(tmp_path):
    def last(V):
        typical = dataclasses.replace(TYPICAL, V=V)
        return simulated(Stored(tmp_path), typical=typical).observed["concentration"][0, -1]

    with pytest.raises(ValueError, match="Argument `executor` must be another one inside `jit`, `grad` and `vmap`"):
        jax.jit(last)(30.0)
    assert not any(tmp_path.iterdir())


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`folder` must be the path of a folder"):
        Stored(3)
    with pytest.raises(ValueError, match="`executor` must be an executor of chunks, such as"):
        Stored("folder", Vmap())


MANY = {"size": 3200}
SCRIPT = """
import sys
from tests.test_stored import MANY, Chunked, Stored, simulated
simulated(Stored(sys.argv[1], Chunked(32)), **MANY)
"""


def test_killed_at_three_random_moments(tmp_path):
    """Processes are killed when they have stored some chunks; what the last one leaves is finished here."""
    root, folder = Path(__file__).parents[1], tmp_path / "store"
    generator, tables = random.Random(), folder / "tables"
    kept = {"QSPJAX_CACHE": str(tmp_path / "programs"), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    for goal in (generator.randint(1, 25), generator.randint(26, 50), generator.randint(51, 75)):
        child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=root, env=os.environ | kept)
        while child.poll() is None and len([*tables.glob("[0-9]*")] if tables.exists() else ()) < goal:
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.02))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    found = []
    resumed = simulated(Stored(folder, Chunked(32), progress=found.append), **MANY)
    assert 51 * 32 <= found[0].figures["found"] < 3200
    assert bits(resumed) == bits(simulated(Chunked(32), **MANY)) == bits(simulated(Vmap(), **MANY))
