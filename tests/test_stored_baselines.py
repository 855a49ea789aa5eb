"""Baselines in the results store: computed once for all arms, and the same after any interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.execute import Chunked, Stored, Vmap
from qspjax.population import GrowUntil

pytest.importorskip("zarr", reason="needs the extra `data`")
pytest.importorskip("pyarrow", reason="needs the extra `data`")

GROWTH = qsp.models.Network(
    parameters={"V": 1.0, "k": 0.05, "K": 1e5, "kill": 0.0}, rates={"V": "k * V * (1 - V / K) - kill * V"}
)
FOUND = GrowUntil("V", 4000.0, at_most=1000.0)


def simulated(executor, *, size=100, baseline=FOUND):
    """Run a trial of two arms; the slowest patients are never diagnosed."""
    cohort = qsp.Cohort.of(GROWTH, {"k": np.geomspace(0.004, 0.1, size)})
    arms = [qsp.Arm("watch", qsp.no_doses()), qsp.Arm("treat", qsp.set_parameter("kill", 0.1, at=0.0))]
    endpoints = {"day 30": qsp.endpoints.Value("V", at=30.0)}
    trial = qsp.Trial(arms, [0.0, 30.0], endpoints=endpoints, baseline=baseline)
    return qsp.simulate_trial(trial, cohort, executor=executor)


def bits(result):
    arms = [(arm.solution.observed, arm.solution.result, arm.solution.stats, arm.endpoints) for arm in result.arms]
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((result.baselines, arms))]


def test_baselines_are_computed_once(tmp_path):
    computed = []

    def stored():
        return Stored(tmp_path, Chunked(32, progress=lambda done, chunk: computed.append(done)))

    whole, first = simulated(Vmap()), simulated(stored())
    assert bits(first) == bits(whole)
    assert computed == 3 * [32, 64, 96, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baseline", "treat", "watch"]
    assert bits(simulated(stored())) == bits(whole)
    (tmp_path / "treat" / "tables" / "00001.parquet").unlink()
    computed.clear()
    assert bits(simulated(stored())) == bits(whole)
    assert computed == [32]  # of the arm alone
    failed = whole.baselines.failures()
    assert 0 < len(failed) < 50
    for arm in whole.arms:
        reasons = [(failure.patient, failure.reason) for failure in arm.solution.failures()]
        assert reasons == [(failure.patient, failure.reason) for failure in failed]


def test_other_baselines_are_refused(tmp_path):
    simulated(Stored(tmp_path, Chunked(32)))
    with pytest.raises(ValueError, match="baseline must be the results store of this simulation, but is that of anoth"):
        simulated(Stored(tmp_path, Chunked(32)), baseline=GrowUntil("V", 3000.0, at_most=1000.0))
    with pytest.raises(ValueError, match="baseline must be .* differs in the patients"):
        simulated(Stored(tmp_path, Chunked(32)), size=90)


MANY = {"size": 1600}
SCRIPT = """
import sys
from tests.test_stored_baselines import MANY, Chunked, Stored, simulated
simulated(Stored(sys.argv[1], Chunked(32)), **MANY)
"""


def test_killed_while_baselines_are_computed(tmp_path):
    root, tables = Path(__file__).parents[1], tmp_path / "store" / "baseline" / "tables"
    kept = {"QSPJAX_CACHE": str(tmp_path / "programs"), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "store")], cwd=root, env=os.environ | kept)
    while child.poll() is None and len([*tables.glob("[0-9]*")] if tables.exists() else ()) < 5:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = len([*tables.glob("*.parquet")])
    computed = []
    chunks = Chunked(32, progress=lambda done, chunk: computed.append(done))
    resumed = simulated(Stored(tmp_path / "store", chunks), **MANY)
    assert 5 <= left < 50
    assert len(computed) == 150 - left
    assert bits(resumed) == bits(simulated(Chunked(32), **MANY))
