"""Whether XLA still compiles the loops of the kernel as a whole, with what it is asked for in `kernel._fusion`."""

import re
import time

import jax
import jax.numpy as jnp
import pytest
from jax._src import compiler

import qspjax as qsp
from qspjax.solve.kernel import _fusion

PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
METHOD = qsp.solve.Rosenbrock(qsp.solve.Rodas3(), rtol=1e-4)


@pytest.fixture(scope="module")
def compiled():
    """Return the program of a few patients as XLA has compiled it, afresh: no cache knows its number."""
    number = float(time.time_ns())

    def concentration(CL):
        patient = qsp.at(PATIENT, "CL").set(CL)
        doses = qsp.bolus(300.0, to="central")
        return number * qsp.simulate(patient, doses, [1.0, 5.0], method=METHOD, throw=False).observed["concentration"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSPJAX_BACKEND", "xla")
        return jax.jit(jax.vmap(concentration)).lower(jnp.linspace(2.0, 4.0, 16)).compile().as_text()


def test_the_loops_are_compiled_as_a_whole(compiled):
    """A loop that is compiled as a whole is the root of a computation that a small call calls."""
    loops = [line for line in compiled.splitlines() if " while(" in line]
    assert len(loops) >= 2
    assert all(line.lstrip().startswith("ROOT") for line in loops), loops
    assert compiled.count('xla_cpu_small_call="true"') >= len(loops)


def test_fusions_share_values_between_their_results(compiled):
    assert re.search(r"= \(f64.*\) fusion\(", compiled)


def test_a_warning_where_jax_has_no_such_function(monkeypatch):
    monkeypatch.delattr(compiler, "backend_compile_and_load")
    with pytest.warns(RuntimeWarning, match="two to three times slower"):
        assert not _fusion._wrap_compilation.__wrapped__()
