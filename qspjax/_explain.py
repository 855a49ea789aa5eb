"""How a model is compiled."""

from dataclasses import dataclass

import equinox as eqx

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


def explain(
    model: AbstractModel,
    regimen: Regimen | None = None,
    ts: ArrayInput = (0.0, 1.0),
    *,
    method: AbstractMethod | None = None,
) -> Explanation:
    """Return how a model would be solved and compiled, natively or by XLA, and the reason for XLA.

    Solves run in code that is compiled for this processor, several patients in the lanes of a vector, unless
    something in the model or the machine is in the way; `QSPJAX_BACKEND=xla` in the environment asks for XLA.

    Args:
        model: The model.
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
    regimen = no_doses() if regimen is None else regimen
    with compilations() as solves:
        lower = eqx.filter_jit(simulate).lower  # pyright: ignore[reportFunctionMemberAccess] (its type says less)
        lower(model, regimen, ts, method=method, throw=False)
    chosen = default_method(model) if method is None else method
    return Explanation(chosen.describe(), tuple(solves))
