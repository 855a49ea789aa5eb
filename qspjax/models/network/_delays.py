"""Values of the past: `delay(x, d)`, the value of x a constant time d ago.

What is delayed is a formula over states and numbers. Each of its states x gets a copy that follows d later,

$$ x_d(t) = x(t - d), \\quad x_d'(t) = x'(t - d) \\text{ for } t \\ge d, \\quad x_d(t) = x(0) \\text{ before} $$

whose slope is that of x over copies of the states and numbers that it depends on; so the past is integrated once more,
exactly and with its derivatives, and no history has to be stored. An event that changes x has a copy that changes x_d,
and whatever else changes x or a number, a dose or `set_parameter`, is repeated d later (`AbstractEchoing`). This works
as long as no state depends on its own past, and time begins at 0.

Reference: SBML Level 3 Version 2, section 3.4.6, doi:10.1515/jib-2019-0021.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from qspjax._expression import TIME, Expression, call, nodes, piecewise, symbol, symbols
from qspjax._expression._tree import rebuilt
from qspjax.models.network._definition import NetworkEvent
from qspjax.models.network._problems import Problem
from qspjax.models.network._terms import ZERO, Unresolvable, minus, plus


def held_still(expression: Expression) -> Expression:
    """Return an expression in which a rate of change within a delay is 0 before time 0."""

    def still(node: Expression) -> Expression | None:
        return piecewise(node, call("geq", TIME, ZERO), ZERO) if node.op == "rate" else None

    def change(node: Expression) -> Expression | None:
        return call("delay", rebuilt(node.args[:1], still)[0], node.args[1]) if node.op == "delay" else None

    return rebuilt([expression], change)[0]


class Jump(NamedTuple):
    """What an event changes, and when: formulas over states, numbers and the time.

    Attributes:
        event: The event.
        assign: The new states.
        trigger: Its trigger.
        timing: Its delay and priority.
    """

    event: NetworkEvent
    assign: dict[str, Expression]
    trigger: Expression
    timing: tuple[Expression | None, ...]


class Past:
    """The copies of states, numbers and events that delays need.

    Args:
        slope: The slope of a state, over states and numbers; it may hold delays.
        start: A state at time 0.
        before: A state before time 0 over states, numbers and the time, None where it equals that at time 0.
        closed: States that cannot be copied: those that algebraic rules determine.
        jumps: The events; their formulas may hold delays.

    Attributes:
        copies: By the name of a copy, its slope and its value at time 0.
        echoes: By the name of a state or a number, its copies, each with its delay.
        jumps: The events without delays, and then their copies.
    """

    def __init__(
        self,
        slope: Callable[[str], Expression],
        start: Callable[[str], Expression],
        before: Callable[[str], Expression | None],
        closed: Collection[str],
        jumps: Sequence[Jump],
    ) -> None:
        self._slope = slope
        self._start = start
        self._before = before
        self._closed = frozenset(closed)
        self._originals = jumps
        self._spans: dict[Expression, int] = {}
        self._in_progress: set[str] = set()
        self._shifts: dict[tuple[int, Expression], int] = {}
        self.copies: dict[str, tuple[Expression, Expression]] = {}
        self.echoes: dict[str, dict[str, Expression]] = {}
        self.jumps: list[Jump | None] = [None] * len(jumps)

    def replaced(self, expression: Expression) -> Expression:
        """Return an expression over states, numbers and the time, in which delays are copies of states.

        Raises:
            Unresolvable: If a delay is not of the kind that is supported.
        """
        if not any(node.op == "delay" for node in nodes(expression)):
            return expression
        return rebuilt([expression], lambda node: self._past(*node.args) if node.op == "delay" else None)[0]

    def finished(self) -> list[Jump]:
        """Return the events, and their copies."""
        return [self._jump(number) for number in range(len(self.jumps))]

    def _past(self, expression: Expression, span: Expression) -> Expression:
        if any(node is TIME for node in nodes(span)) or any(not name.endswith("#v") for name in symbols(span)):
            raise Unresolvable(Problem("delay", "not supported: delay whose length changes with time."))
        if span is ZERO:
            return expression
        self._spans.setdefault(span, len(self._spans) + 1)
        return self._shifted(expression, span)

    def _shifted(self, expression: Expression, span: Expression) -> Expression:
        """Return an expression a time `span` ago."""

        def change(node: Expression) -> Expression | None:
            if node is TIME:
                return minus(TIME, span)
            if node.op != "symbol":
                return None
            id, kind = str(node.value)[:-2], str(node.value)[-2:]
            if kind == "#v":
                return symbol(f"{self._echo(id, span)}#v")
            copy, before = symbol(f"{self._copy(id, span)}#y"), None if "@" in id else self._before(id)
            return copy if before is None else piecewise(copy, call("geq", TIME, span), self._shifted(before, span))

        return rebuilt([expression], change)[0]

    def _echo(self, id: str, span: Expression) -> str:
        """Return the name of the copy of a state or a number."""
        name, base, total = f"{id}@{self._spans[span]}", id.partition("@")[0], span
        if id != base:
            total = plus([self.echoes[base][id], span])
        self.echoes.setdefault(base, {})[name] = total
        return name

    def _copy(self, id: str, span: Expression) -> str:
        """Return the name of the copy of a state; make it if there is none."""
        name = self._echo(id, span)
        if name in self.copies:
            return name
        if id.partition("@")[0] in self._closed:
            raise Unresolvable(Problem(id, "not supported: delay of what an algebraic rule determines."))
        if id in self._in_progress:
            raise Unresolvable(Problem(id.partition("@")[0], "not supported: delay of what depends on its own past."))
        self._in_progress.add(id)
        slope, start = self.copies[id] if id in self.copies else (self.replaced(self._slope(id)), self._start(id))
        changing = [number for number, jump in enumerate(self.jumps) if id in (jump or self._originals[number]).assign]
        changing = [(number, self._jump(number)) for number in changing]
        self._in_progress.remove(id)
        self.copies[name] = (ZERO, start)  # known before its slope, which may need it
        self._in_progress.add(name)
        late = self._shifted(slope, span)
        self.copies[name] = (piecewise(late, call("geq", TIME, span), ZERO) if late is not ZERO else ZERO, start)
        for number, jump in changing:
            self._jump_later(number, jump, span).assign[name] = self._shifted(jump.assign[id], span)
        self._in_progress.remove(name)
        return name

    def _jump(self, number: int) -> Jump:
        """Return an event without delays."""
        jump = self.jumps[number]
        if jump is None:
            event, assign, trigger, timing = self._originals[number]
            new = {id: self.replaced(value) for id, value in assign.items()}
            times = tuple(None if part is None else self.replaced(part) for part in timing)
            jump = Jump(event, new, self.replaced(trigger), times)
            self.jumps[number] = jump
        return jump

    def _jump_later(self, number: int, jump: Jump, span: Expression) -> Jump:
        """Return the copy of an event a time `span` later, without its assignments; it never fires before `span`."""
        if (number, span) not in self._shifts:
            self._shifts[number, span] = len(self.jumps)
            begun = call("geq", TIME, span)
            late = Jump(jump.event, {}, begun, ())
            self.jumps.append(late)
            trigger = self._shifted(jump.trigger, span)
            timing = tuple(None if part is None else self._shifted(part, span) for part in jump.timing)
            waits = call("or", call("not", begun), trigger) if jump.event.initial_value else call("and", begun, trigger)
            self.jumps[self._shifts[number, span]] = late._replace(trigger=waits, timing=timing)
        return self._jump(self._shifts[number, span])
