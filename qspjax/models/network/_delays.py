"""Values of the past: `delay(x, d)`, the value of x a constant time d ago.

What is delayed is a formula over states. Each of its states x gets a copy that follows d later,

$$ x_d(t) = x(t - d), \\quad x_d'(t) = x'(t - d) \\text{ for } t \\ge d, \\quad x_d(t) = x(0) \\text{ before} $$

whose slope is that of x over copies of the states that it depends on; so the past is integrated once more, exactly and
with its derivatives, and nothing has to be remembered. This works as long as no state depends on its own past.

Reference: SBML Level 3 Version 2, section 3.4.6, doi:10.1515/jib-2019-0021.
"""

from collections.abc import Callable, Collection

from qspjax._expression import TIME, Expression, call, nodes, piecewise, symbol, symbols
from qspjax._expression._tree import rebuilt
from qspjax.models.network._problems import Problem
from qspjax.models.network._terms import ZERO, Unresolvable, minus


def held_still(expression: Expression) -> Expression:
    """Return an expression in which a rate of change within a delay is 0 before time 0."""

    def still(node: Expression) -> Expression | None:
        return piecewise(node, call("geq", TIME, ZERO), ZERO) if node.op == "rate" else None

    def change(node: Expression) -> Expression | None:
        return call("delay", rebuilt(node.args[:1], still)[0], node.args[1]) if node.op == "delay" else None

    return rebuilt([expression], change)[0]


def _later(span: Expression) -> Callable[[Expression], Expression | None]:
    return lambda node: minus(TIME, span) if node is TIME else None


class Past:
    """The copies of states that delays need.

    Args:
        slope: The slope of a state, over states and numbers; it may hold delays.
        start: A state at time 0.
        before: A state before time 0 over numbers and the time, None where it is what it is at 0.
        closed: States that cannot be copied: those that events change, or algebraic rules determine.
    """

    def __init__(
        self,
        slope: Callable[[str], Expression],
        start: Callable[[str], Expression],
        before: Callable[[str], Expression | None],
        closed: Collection[str],
    ) -> None:
        self._slope = slope
        self._start = start
        self._before = before
        self._closed = frozenset(closed)
        self._spans: dict[Expression, int] = {}
        self._open: set[str] = set()
        self.copies: dict[str, tuple[Expression, Expression]] = {}

    def replaced(self, expression: Expression) -> Expression:
        """Return an expression over states, numbers and the time, in which delays are copies of states.

        Raises:
            Unresolvable: If a delay is not of the kind that is supported.
        """
        if not any(node.op == "delay" for node in nodes(expression)):
            return expression
        return rebuilt([expression], lambda node: self._past(*node.args) if node.op == "delay" else None)[0]

    def _past(self, what: Expression, span: Expression) -> Expression:
        if any(node is TIME for node in nodes(span)) or any(not name.endswith("#v") for name in symbols(span)):
            raise Unresolvable(Problem("delay", "not supported: delay whose length changes with time."))
        if span is ZERO:
            return what
        self._spans.setdefault(span, len(self._spans) + 1)
        return self._shifted(what, span)

    def _shifted(self, what: Expression, span: Expression) -> Expression:
        """Return an expression a time `span` ago."""

        def change(node: Expression) -> Expression | None:
            if node is TIME:
                return minus(TIME, span)
            if node.op == "symbol" and str(node.value).endswith("#y"):
                id = str(node.value)[:-2]
                copy, before = symbol(f"{self._copy(id, span)}#y"), self._before(id)
                if before is None:
                    return copy
                return piecewise(copy, call("geq", TIME, span), rebuilt([before], _later(span))[0])
            return None

        return rebuilt([what], change)[0]

    def _copy(self, id: str, span: Expression) -> str:
        """Return the name of the copy of a state; make it if there is none."""
        name = f"{id}@{self._spans[span]}"
        if name in self.copies:
            return name
        if id.partition("@")[0] in self._closed:
            raise Unresolvable(Problem(id, "not supported: delay of what an event or an algebraic rule changes."))
        if id in self._open:
            raise Unresolvable(Problem(id, "not supported: delay of what depends on its own past."))
        self._open.add(id)
        slope, start = self.copies[id] if id in self.copies else (self.replaced(self._slope(id)), self._start(id))
        self._open.remove(id)
        self.copies[name] = (ZERO, start)  # known before its slope, which may need it
        late = self._shifted(slope, span)
        self.copies[name] = (piecewise(late, call("geq", TIME, span), ZERO) if late is not ZERO else ZERO, start)
        return name
