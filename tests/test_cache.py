"""What was compiled is kept on disk: found by another process, bounded, whole or not there, and nobody else's."""

import copy
import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax import _cache, _identity
from qspjax._identity import identity
from qspjax._programs import program

PROGRAM = """
import json, sys
import jax, numpy as np
import qspjax as qsp
import llvmlite.binding as binding
compiled, texts = [], []
ends = "mlir_module_duration", "backend_compile_duration"
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: compiled.append(event) if event.endswith(ends) else None
)
parse = binding.parse_assembly
binding.parse_assembly = lambda text: (texts.append(text) if text else None, parse(text))[1]
patient = qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)
solution = qsp.simulate(patient, qsp.bolus(150.0, to="central").every(7.0, doses=3), np.linspace(0.0, 28.0, 9))
bits = np.stack([np.asarray(x) for x in solution.observed.values()]).tobytes().hex()
steady = qsp.bolus(300.0, to="central").every(12.0, doses=2).at_steady_state()  # by LAPACK
solution_of_another = qsp.simulate(qsp.models.OneCompartment(CL=3.0, V=30.0), steady, [0.0, 5.0])
bits += np.asarray(solution_of_another.states.central).tobytes().hex()
assert float(solution.source.value.model.CL) == 0.2
print(json.dumps([len(compiled), len(texts), bits, jax.config.jax_compilation_cache_dir]))
"""


def started(folder, **settings):
    environment = {**os.environ, "QSPJAX_CACHE": str(folder), "QSPJAX_BACKEND": ""}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, env={**environment, **settings}, stdout=subprocess.PIPE, text=True)


def finished(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_another_process_compiles_nothing_and_has_the_same_bits(tmp_path):
    folder = tmp_path / "kept"
    programs, texts, bits, jaxs = finished(started(folder))
    assert programs > 0
    assert texts > 0
    assert folder.stat().st_mode & 0o777 == 0o700
    assert finished(started(folder, PYTHONHASHSEED="5")) == [0, 0, bits, jaxs]  # nor does it trace or lower anything
    assert jaxs is None  # what the user has set for JAX's own cache stands


@pytest.mark.slow
def test_processes_at_once_and_damaged_entries_give_the_same_bits(tmp_path):
    folder, jaxs = tmp_path / "kept", str(tmp_path / "jaxs")
    jaxs = {"JAX_COMPILATION_CACHE_DIR": jaxs, "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    several = [started(folder, **jaxs) for _ in range(3)]
    bits = {finished(process)[2] for process in several}
    assert len(bits) == 1
    assert not [path for path in folder.iterdir() if path.name.startswith(_cache.PARTIAL)]
    for number, path in enumerate(sorted(folder.iterdir())):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?" if number % 2 else content[: len(content) // 2])
    assert {finished(started(folder, **jaxs))[2]} == bits  # JAX finds programs in its own cache
    _, texts, again, _ = finished(started(folder))
    assert texts == 0
    assert {again} == bits
    assert finished(started(folder))[:3] == [0, 0, again]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QSPJAX_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_is_kept_is_found_under_its_key_until_it_is_damaged(folder):
    key = _cache.key_of("text", 1)
    assert key != _cache.key_of("text1")
    assert key == _cache.key_of("text", 1)
    assert _cache.find(key) is None
    _cache.keep(key, b"machine code")
    assert _cache.find(key) == b"machine code"
    (folder / key).write_bytes(b"x" + (folder / key).read_bytes()[1:])
    assert _cache.find(key) is None
    assert not (folder / key).exists()


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    monkeypatch.setattr(_cache, "MAX_BYTES", 1000)
    for number in range(3):
        _cache.keep(f"key{number}", b"x" * 250)
        os.utime(folder / f"key{number}", (number, number))
    assert _cache.find("key0") is not None  # and so it was used now
    _cache.keep("key3", b"x" * 250)
    assert sorted(path.name for path in folder.iterdir()) == ["key0", "key2", "key3"]
    _cache.keep("large", b"x" * 1000)
    assert _cache.find("large") is None


def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("QSPJAX_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="must be yours, and one that nobody else can write to, but has mode 777"):
        _cache.keep("key", b"x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", ["off", "OFF", "0", ""])
def test_nothing_is_kept_where_it_is_off(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSPJAX_CACHE", choice)
    _cache.keep("key", b"x")
    assert _cache.find("key") is None
    assert not _cache.is_on()
    assert not list(tmp_path.iterdir())


OWN = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import constants
import qspjax as qsp
from qspjax.solve.native import compilations
class Decay(qsp.models.OneCompartment):
    def vector_field(self, t, y):
        return type(y)(-constants.RATE * y.central)
with compilations() as solves:  # what is looked at is not skipped
    method = qsp.solve.Rosenbrock(rtol=1e-9)
    one = qsp.simulate(Decay(CL=3.0, V=30.0), qsp.bolus(30.0, to="central"), [1.0], method=method)
    qsp.simulate(qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.no_doses(), [1.0], method=method)
print(len(solves), float(one.observed["concentration"][0]))
"""


def test_a_class_of_the_users_is_traced_whatever_it_reads(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    environment = {**os.environ, "QSPJAX_CACHE": str(tmp_path / "kept"), "PYTHONDONTWRITEBYTECODE": "1"}
    for rate in (0.25, 0.75):
        (tmp_path / "constants.py").write_text(f"RATE = {rate}")
        command = [sys.executable, str(tmp_path / "own.py")]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        count, value = output.split()
        assert count == "2"
        assert float(value) == pytest.approx(np.exp(-rate), rel=1e-7)


class Own(qsp.models.OneCompartment):
    pass


def test_what_a_program_depends_on_has_one_name_in_all_processes(monkeypatch):
    def oral(**changes):
        return qsp.models.OneCompartmentOral(**{"CL": 3.0, "V": 30.0, "ka": 1.2} | changes)

    network = qsp.models.Network(species={"A": 1.0}, parameters={"k": 2.0}, rates={"A": "-k * A"})
    for model in (oral(), network, qsp.solve.Rosenbrock(), qsp.bolus(1.0, to="depot")):
        known = identity("name", model)
        assert known is not None
        assert identity("name", copy.deepcopy(model)) == known != identity("other name", model)
    known = identity(oral())
    assert len({known, identity(oral(CL=2.0)), identity(oral(), 1), identity(oral(), True), identity(network)}) == 5
    with jax.default_matmul_precision("float32"):
        assert identity(oral()) != known
    with monkeypatch.context() as patched:
        patched.setenv("QSPJAX_BACKEND", "xla")
        assert identity(oral()) != known
    with monkeypatch.context() as patched:
        patched.setattr(qsp.models.OneCompartmentOral, "LIMIT", 3, raising=False)
        assert identity(oral()) != known
    assert identity(oral()) == known


def test_what_is_not_known_has_no_name(monkeypatch):
    oral = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    assert identity(Own(CL=3.0, V=30.0)) is None
    assert identity({"models": (oral, Own(CL=3.0, V=30.0))}) is None
    assert identity(qsp.bolus(qsp.Computed(lambda covariates: 1.0), to="depot")) is None
    assert identity(functools.partial(started, "x")) is None
    with monkeypatch.context() as patched:
        patched.setattr(qsp.models.OneCompartmentOral, "observe", lambda self, t, y: {"x": t})
        assert identity(oral) is None
    with monkeypatch.context() as patched:
        patched.setattr(_identity, "BEGUN", 0.0)  # all sources are newer
        assert identity(oral) is None
    assert identity(oral) is not None


FIT = """
import hashlib
import jax, numpy as np
import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
data = Measurements([1.0, 4.0, 1.0], [3.9, 4.4, 9.0], output=["C", "C", "A"])
outputs = {
    "C": Output("slope * concentration + base + central * tilt", Additive("sdC")),
    "A": Output("central", Additive("sdA")),
}
free = {name: Free(0.2) for name in ("CL", "V", "slope", "base", "tilt", "sdC", "sdA")}
dose = qsp.bolus(200.0, to="central")
problem = Problem(patient, {"one": Experiment(data, dose), "two": Experiment(data, dose)}, outputs, free)
print(hashlib.sha256(jax.jit(problem.log_density).lower(np.zeros(7)).as_text().encode()).hexdigest())
"""


@pytest.mark.slow
def test_the_program_of_a_fit_does_not_depend_on_the_order_of_sets():
    def printed(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, check=True)

    assert printed("1").stdout == printed("2").stdout == printed("3").stdout


@pytest.mark.usefixtures("folder")
def test_programs_of_one_text_that_use_different_arguments_are_told_apart():
    def twice(of):
        def scaled(first, second):
            return 2.0 * (first, second)[of]

        return program(scaled)

    numbers = np.float64(3.0), np.float64(5.0)
    assert [float(twice(of)(*numbers)) for of in (0, 1, 0)] == [6.0, 10.0, 6.0]
