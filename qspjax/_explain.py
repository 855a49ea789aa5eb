"""How a model, or a problem, is computed and compiled."""

import abc
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import equinox as eqx

from qspjax._checks import ArgumentError, check_instance
from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._model import AbstractModel
from qspjax._simulate import default_method, simulate
from qspjax._types import ArrayInput
from qspjax.solve import AbstractMethod
from qspjax.solve.native import Compiled, compilations


@dataclass(frozen=True)
class Explanation:
    """How a model is solved and compiled; `print` says it in words.

    Attributes:
        method: The method, in words.
        solves: How each solve was compiled; empty for methods that only XLA compiles.
    """

    method: str
    solves: tuple[Compiled, ...]

    @property
    def native(self) -> bool:
        """Whether all solves are compiled natively."""
        return bool(self.solves) and all(solve.reason is None for solve in self.solves)

    def __str__(self) -> str:
        if not self.solves:
            return f"{self.method}: compiled by XLA, since the method has no other form."
        parts = [
            f"{solve.states} states: " + ("native code." if solve.reason is None else f"by XLA ({solve.reason}).")
            for solve in self.solves
        ]
        return f"{self.method}; {' '.join(dict.fromkeys(parts))}"


Explained = TypeVar("Explained", covariant=True)


class AbstractExplainable(abc.ABC, Generic[Explained]):
    """What can be explained beside models: problems of `qspjax.fit`."""

    @abc.abstractmethod
    def explained(self) -> Explained:
        """Return how it is computed and compiled; `print` says it in words."""


@overload
def explain(
    subject: AbstractModel,
    regimen: Regimen | None = None,
    ts: ArrayInput = (0.0, 1.0),
    *,
    method: AbstractMethod | None = None,
) -> Explanation: ...
@overload
def explain(subject: AbstractExplainable[Explained]) -> Explained: ...


def explain(
    subject: AbstractModel | AbstractExplainable,
    regimen: Regimen | None = None,
    ts: ArrayInput = (0.0, 1.0),
    *,
    method: AbstractMethod | None = None,
) -> object:
    """Return how a model or a problem would be solved and compiled, natively or by XLA, and the reason for XLA.

    Solves run in code that is compiled for this processor, several patients in the lanes of a vector, unless
    something in the model or the machine is in the way; `QSPJAX_BACKEND=xla` in the environment asks for XLA. Of a
    problem it says besides how its gradient is computed, what that costs, and why.

    Args:
        subject: The model; or a `Problem`, a `MixedModel` or a `Mixture`, with nothing else.
        regimen: The doses; by default none.
        ts: Times to report, shape (times,).
        method: How to solve; by default as `simulate` chooses.

    Raises:
        ValueError: As `simulate` does.

    Example:
        >>> import qspjax as qsp
        >>> print(qsp.explain(qsp.models.OneCompartment(CL=3.0, V=30.0)))
        MatrixExponential, exact; 1 states: native code.
    """
    if isinstance(subject, AbstractExplainable):
        for argument, given in (("regimen", regimen), ("method", method)):
            if given is not None:
                raise ArgumentError(argument, "must not be given with a problem, which has its own, but is.")
        return subject.explained()
    check_instance("subject", subject, AbstractModel, "a model or a problem")
    regimen = no_doses() if regimen is None else regimen
    with compilations() as solves:
        lower = eqx.filter_jit(simulate).lower  # pyright: ignore[reportFunctionMemberAccess] (its type says less)
        lower(subject, regimen, ts, method=method, throw=False)
    chosen = default_method(subject) if method is None else method
    return Explanation(chosen.describe(), tuple(solves))
