"""Ctrl-C while a native solve runs: heard at once, unless the program handles it itself."""

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import os, signal, sys, threading, time
import jax, jax.numpy as jnp
import qspjax as qsp

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell

class Spinning(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="frequency")

    def initial(self):
        return {"a": 1.0, "b": 0.0}

    def vector_field(self, t, y):
        return {"a": self.k * y["b"], "b": -self.k * jnp.sin(y["a"])}

    def observe(self, t, y):
        return y

model = Spinning(k=1e5)
method = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-9, max_steps=100_000_000)

def solve(end):
    return qsp.simulate(model, qsp.no_doses(), jnp.array([end]), method=method, throw=False)

cohort = qsp.Cohort.of(model, {"k": jnp.linspace(1e5, 2e5, 300)})
calls = {
    "one": solve,
    "jit": jax.jit(lambda end: solve(end).observed["a"]),
    "cohort": lambda end: qsp.simulate_cohort(cohort, qsp.no_doses(), jnp.array([end]), method=method),
}
call = calls[sys.argv[1]]
END = float(sys.argv[2])
jax.block_until_ready(call(1e-4))

def interrupt():
    time.sleep(0.5)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

def interrupted(end):
    threading.Thread(target=interrupt, daemon=True).start()
    return jax.block_until_ready(call(end))

sent, heard = [], []
"""
HEARD = """
for _ in range(2):  # and again
    try:
        interrupted(END)
        print("not interrupted")
    except KeyboardInterrupt:
        print("late" if time.monotonic() - sent[-1] > 1.0 else "heard")
print(bool(jnp.isfinite(jax.tree.leaves(call(1e-4))[-1]).all()))
"""
HANDLED = """
signal.signal(signal.SIGINT, lambda *_: heard.append(time.monotonic()))
solution = interrupted(END)
print(len(heard), solution.result == qsp.RESULTS.successful, time.monotonic() - sent[0] > 0.0)
"""


def outcome(program, *arguments):
    """Return what a program prints."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM + program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ)
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("call", ["one", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jit", "cohort"))])
def test_a_long_solve_hears_an_interrupt(call):
    assert outcome(HEARD, call, "1e4") == ["heard", "heard", "True"]


@pytest.mark.slow
def test_a_solve_ends_well_where_the_program_handles_interrupts():
    assert outcome(HANDLED, "one", "1.0") == ["1", "True", "True"]
