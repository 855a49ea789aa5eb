"""Measurements known only by bounds: beyond a limit of quantification, or between two numbers.

A record that is censored says that y lies above `lower` and at or below `upper`, one of which may be infinite; its
likelihood is the probability of that. The bounds are those of the record, such as CENS, DV and LIMIT of a data set, or
the limit of its output. The treatment of measurements below a limit is chosen for each output, by the names M1, M3 and
M4 of pharmacometrics.

Reference: Beal, J Pharmacokinet Pharmacodyn 2001;28:481, doi:10.1023/A:1012299115260.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx

from qspjax._checks import check_above, check_number


class AbstractCensoring(eqx.Module):
    """The treatment of measurements of an output that lie below a limit.

    Attributes:
        limit: The lower limit of quantification of all measurements that have none of their own, None if there is none.
        least: The least value that a measurement can have: every likelihood is conditional on y above it.

    Example:
        >>> from qspjax.fit import Additive, Output
        >>> Output("concentration", Additive("sd"), below=M3(0.5)).below.limit
        0.5
    """

    limit: eqx.AbstractVar[float | None]
    least: eqx.AbstractClassVar[float]

    @abc.abstractmethod
    def keeps(self) -> bool:
        """Return whether measurements below the limit stay in the likelihood."""


class M1(AbstractCensoring):
    """Leave measurements below the limit out.

    Args:
        limit: The lower limit of quantification; by default that of each record.

    Example:
        >>> from qspjax.fit import Additive, Output
        >>> Output("concentration", Additive("sd"), below=M1(0.5)).below
        M1(limit=0.5)
    """

    limit: float | None = eqx.field(default=None, static=True)
    least: ClassVar[float] = -math.inf

    def __check_init__(self) -> None:
        _check(self.limit)

    def keeps(self) -> bool:
        return False


class M3(AbstractCensoring):
    """A measurement below the limit has the likelihood P(y < limit), for a normal error Phi((limit - f) / sd).

    Args:
        limit: The lower limit of quantification; by default that of each record.

    Example:
        >>> from qspjax.fit import Additive, Output
        >>> Output("concentration", Additive("sd"), below=M3(0.5)).below
        M3(limit=0.5)
    """

    limit: float | None = eqx.field(default=None, static=True)
    least: ClassVar[float] = -math.inf

    def __check_init__(self) -> None:
        _check(self.limit)

    def keeps(self) -> bool:
        return True


class M4(AbstractCensoring):
    """As M3, given that measurements are positive: every likelihood is conditional on y > 0.

    $$ P(0 < y < limit) / P(y > 0), \\quad p(y) / P(y > 0) $$

    Args:
        limit: The lower limit of quantification, positive; by default that of each record.

    Example:
        >>> from qspjax.fit import Additive, Output
        >>> Output("concentration", Additive("sd"), below=M4(0.5)).below
        M4(limit=0.5)
    """

    limit: float | None = eqx.field(default=None, static=True)
    least: ClassVar[float] = 0.0

    def __check_init__(self) -> None:
        _check(self.limit, above=0.0)

    def keeps(self) -> bool:
        return True


def _check(limit: float | None, above: float = -math.inf) -> None:
    if limit is not None:
        check_number("limit", limit)
        check_above("limit", limit, above)
