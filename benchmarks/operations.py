"""Count the floating-point operations of a compiled program, and measure how many this core can do.

XLA's own `cost_analysis` counts the body of every loop once, so the text of the compiled program is walked instead:
loops of a known length count as often as they run, loops of unknown length once, each listed by itself. Every
element of an elementwise result is one operation, a fused multiply-add two, a division, a root or an exponential one.
Work that fusions duplicate is counted, because it is done. Calls to libraries (LAPACK) are not counted.
"""

import collections
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

ARITHMETIC = """
add subtract multiply divide remainder negate abs sign maximum minimum floor ceil round-nearest-even power sqrt rsqrt
cbrt exponential exponential-minus-one log log-plus-one logistic tanh sine cosine tan atan2 erf
"""
ELEMENTWISE = frozenset(ARITHMETIC.split())
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\((.*)$")
SHAPE = re.compile(r"\b(f64|f32)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Counted:
    """The operations of each computation of a compiled program, by the text of the program."""

    def __init__(self, text):
        self.computations, name = collections.defaultdict(list), None
        for line in text.splitlines():
            if start := COMPUTATION.match(line):
                name = start[1]
                if line.startswith("ENTRY"):
                    self.entry = name
            elif found := INSTRUCTION.match(line):
                self.computations[name].append(found.groups())
        self.counts, self.loops = {}, {}

    def of(self, name):
        """Return the operations of a computation; `loops` collects the bodies of unknown length on the way."""
        if name not in self.counts:
            self.counts[name] = sum(self._instruction(*line) for line in self.computations[name])
        return self.counts[name]

    def _instruction(self, result, kind, rest):
        shapes = [math.prod(int(n) for n in dims.split(",") if n) for _, dims in SHAPE.findall(result)]
        if kind in ELEMENTWISE:
            return sum(shapes)
        called = sum(self.of(name) for name in CALLED.findall(rest))
        if kind == "while":
            known = TRIPS.search(rest)
            if known:
                return int(known[1]) * called
            self.loops[re.search(r"body=%?([\w.\-]+)", rest)[1]] = called
            return called
        if kind in ("reduce", "map", "reduce-window", "scatter"):
            return called * max([math.prod(int(n) for n in d.split(",") if n) for _, d in SHAPE.findall(rest)] or [1])
        if kind == "dot":
            return 2 * sum(shapes) * _contracted(rest)
        if kind == "conditional":
            names = [name.strip(" %") for pair in BRANCHES.findall(rest) for name in ",".join(pair).split(",") if name]
            return max(self.of(name) for name in names)
        return called

    def width(self, name):
        """Return the dimension that most elementwise results in a computation, and what it calls, have: the lanes."""
        votes, seen, todo = collections.Counter(), set(), [name]
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            for result, kind, rest in self.computations[current]:
                todo += CALLED.findall(rest)
                if kind in ELEMENTWISE:
                    votes.update({int(n) for _, dims in SHAPE.findall(result) for n in dims.split(",") if n})
        return votes.most_common(1)[0][0]


def _contracted(rest):
    dims = [[int(n) for n in dims.split(",") if n] for _, dims in SHAPE.findall(rest)]
    numbers = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
    return math.prod(dims[0][int(i)] for i in numbers[1].split(",") if i) if dims and numbers else 1


def per_step(compiled, steps_a_pass):
    """Return the operations of one step of one lane and the number of lanes.

    The loop over the steps is the loop of unknown length that does most without holding another such loop; one pass of
    it takes `steps_a_pass` steps in every lane.
    """
    counted = Counted(compiled.as_text())
    counted.of(counted.entry)
    body = max(counted.loops, key=lambda name: (not _holds_another(counted, name), counted.loops[name]))
    lanes = counted.width(body)
    return counted.loops[body] / steps_a_pass / lanes, lanes


def _holds_another(counted, name):
    """Return whether most of a loop's work lies in another loop of unknown length."""
    todo, seen = [name], set()
    while todo:
        for _, _, rest in counted.computations[todo.pop()]:
            inner = set(CALLED.findall(rest)) - seen
            if any(counted.loops.get(one, 0) > 0.5 * counted.loops[name] for one in inner):
                return True
            seen |= inner
            todo += inner
    return False


def limit(size=512, chain=32, turns=20_000):
    """Return the most floating-point operations a second that this core did in a chain of multiply-adds.

    The array stays in the nearest cache and each element takes `chain` multiply-adds in registers; the best of a few
    lengths, so that neither latency nor the loads are what is measured.
    """
    best = 0.0
    for length in (chain // 4, chain // 2, chain, 2 * chain):

        @jax.jit
        def loop(x, a, b, length=length):
            def body(_, x):
                for _ in range(length):
                    x = x * a + b
                return x

            return jax.lax.fori_loop(0, turns, body, x)

        x = jnp.asarray(np.linspace(0.5, 1.0, size))
        loop(x, 0.999, 1e-3).block_until_ready()
        for _ in range(3):
            start = time.process_time()
            loop(x, 0.999, 1e-3).block_until_ready()
            best = max(best, 2.0 * length * size * turns / (time.process_time() - start))
    return best
