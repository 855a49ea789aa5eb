"""Conditions on records, as in IGNORE=(DVID.EQ.2) and ACCEPT=(TIME>24): read by a pattern, never evaluated as code."""

import dataclasses
import operator
import re
from collections.abc import Callable, Sequence

from qspjax._checks import refuse

_OPERATORS = {
    **dict.fromkeys(("EQ", "EQN", "==", "="), operator.eq),
    **dict.fromkeys(("NE", "NEN", "/=", "!="), operator.ne),
    **dict.fromkeys(("GT", ">"), operator.gt),
    **dict.fromkeys(("GE", ">="), operator.ge),
    **dict.fromkeys(("LT", "<"), operator.lt),
    **dict.fromkeys(("LE", "<="), operator.le),
}
_CONDITION = re.compile(
    r"\s*(?P<column>[A-Za-z_]\w*?)\s*"
    r"(?:\.(?P<word>EQN|NEN|EQ|NE|GT|GE|LT|LE)\.|(?P<sign>==|/=|!=|>=|<=|=|>|<))"
    r"\s*(?P<quote>['\"]?)(?P<value>[^'\"]+?)(?P=quote)\s*",
    re.IGNORECASE,
)
_EXAMPLE = 'such as "DVID.EQ.2" or "TIME>24"'


@dataclasses.dataclass(frozen=True)
class Condition:
    """A comparison of a column with a value.

    Attributes:
        text: The condition as it was written.
        column: The name of the column.
        compare: The comparison, a function of two numbers or two texts.
        value: The value with which the column is compared.
    """

    text: str
    column: str
    compare: Callable[[object, object], bool]
    value: str

    def holds(self, field: str, number: Callable[[str], float | None]) -> bool | None:
        """Return whether it holds for a field, None if that must be a number but is not."""
        equality = self.compare in (operator.eq, operator.ne)
        value, bound = number(field), number(self.value)
        if value is not None and bound is not None:
            return self.compare(value, bound)
        if equality:
            return self.compare(field or ".", self.value)
        return False if field in ("", ".") else None


def read_conditions(
    argument: str, entries: str | Sequence[str], *, marks: bool = True
) -> tuple[str | None, tuple[Condition, ...]]:
    """Return the character that marks ignored lines (None if there is none) and the conditions.

    Raises:
        ValueError: If an entry is neither, or compares the order of texts.
    """
    mark, conditions = None, []
    for entry in [entries] if isinstance(entries, str) else entries:
        if not isinstance(entry, str):
            refuse(argument, f"hold conditions {_EXAMPLE}", entry)
        if marks and len(entry) == 1 and not entry.isspace():
            mark = entry
            continue
        inner = entry.strip()
        inner = inner[1:-1] if inner.startswith("(") and inner.endswith(")") else inner
        conditions += [_condition(argument, part, marks) for part in inner.split(",") if part.strip()]
    return mark, tuple(conditions)


def _condition(argument: str, text: str, marks: bool) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        refuse(argument, f"be {'one character or ' if marks else ''}conditions {_EXAMPLE}", text)
    compare = _OPERATORS[(match["word"] or match["sign"]).upper()]
    if compare not in (operator.eq, operator.ne) and not re.fullmatch(r"[+-]?[\d.]+([eEdD][+-]?\d+)?", match["value"]):
        refuse(argument, "compare by order with a number", text)
    return Condition(text.strip(), match["column"], compare, match["value"])


def find(name: str, names: Sequence[str]) -> str | None:
    """Return a name as it is written in `names`: exactly, or else in either case if that is unique."""
    if name in names:
        return name
    near = [other for other in names if other.lower() == name.lower()]
    return near[0] if len(near) == 1 else None
