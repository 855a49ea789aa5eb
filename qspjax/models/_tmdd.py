"""Target-mediated drug disposition: binding to a target that is itself made and lost.

Reference: Mager and Jusko 2001, doi:10.1023/A:1014414520282.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import equinox as eqx

from qspjax._checks import check_one_of
from qspjax._declared import AbstractDelivered, Delivery
from qspjax._model import Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar


class TMDDState(NamedTuple):
    """Concentrations in nM: free drug in the central and the peripheral volume, free target, complex."""

    central: Scalar
    peripheral: Scalar
    target: Scalar
    complex: Scalar


class TMDDSubcutaneousState(NamedTuple):
    """Amount in the depot in nmol, and the concentrations of `TMDDState` in nM."""

    depot: Scalar
    central: Scalar
    peripheral: Scalar
    target: Scalar
    complex: Scalar


_OBSERVED: dict[str, str] = dict.fromkeys(("concentration", "free", "total", "target_free", "target_total"), "nM")


class TMDD(AbstractDelivered):
    """Target-mediated drug disposition, the full binding model, with an intravenous dose.

    With the free drug L (state `central`), its peripheral concentration P, the free target R and the complex C:

    $$ L' = -(CL / V1) L - (Q / V1) (L - P) - kon L R + koff C, \\quad P' = (Q / V2) (L - P) $$

    $$ R' = kdeg (R0 - R) - kon L R + koff C, \\quad C' = kon L R - (koff + kint) C $$

    The target starts at its baseline R0, so it is made at ksyn = kdeg R0. A dose to `central` is in mg. The observed
    values are `free` (L), `total` (L + C), `target_free` (R), `target_total` (R + C), `occupancy` (C / (R + C)) and, as
    `concentration`, what the assay measures: `assayed`, either `free` or `total`.

    Reference: Mager and Jusko 2001, doi:10.1023/A:1014414520282.

    Raises:
        ValueError: If a parameter is out of range or `assayed` is neither `free` nor `total`.

    Example:
        >>> import qspjax as qsp
        >>> antibody = qsp.models.TMDD(
        ...     CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0
        ... )
        >>> solution = qsp.simulate(antibody, qsp.bolus(150.0, to="central"), [0.0, 14.0])
        >>> solution.observed["free"].round(2), solution.observed["occupancy"].round(4)
        (Array([333.33,  55.81], dtype=float64), Array([0.   , 0.996], dtype=float64))
    """

    units: ClassVar[Units] = Units(
        time="d", dose="mg", states=dict.fromkeys(TMDDState._fields, "nM"), observed=_OBSERVED
    )

    CL: Scalar = parameter(unit="L/d", doc="linear clearance of the free drug")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q: Scalar = parameter(unit="L/d", doc="intercompartmental clearance")
    V2: Scalar = parameter(unit="L", doc="peripheral volume")
    kon: Scalar = parameter(unit="1/nM/d", doc="association rate constant")
    koff: Scalar = parameter(unit="1/d", doc="dissociation rate constant")
    kdeg: Scalar = parameter(unit="1/d", doc="degradation rate constant of the free target")
    kint: Scalar = parameter(unit="1/d", doc="internalisation rate constant of the complex")
    R0: Scalar = parameter(unit="nM", doc="baseline of the target")
    molar_mass: Scalar = parameter(unit="kDa", doc="molar mass of the drug", source="an IgG antibody", default=150.0)
    assayed: str = eqx.field(static=True, default="total")

    def __check_init__(self) -> None:
        check_one_of("assayed", self.assayed, ("free", "total"), "what the assay measures")

    def initial(self) -> TMDDState:
        return TMDDState(central=0.0, peripheral=0.0, target=self.R0, complex=0.0)

    def vector_field(self, t: Scalar, y: TMDDState) -> TMDDState:
        return _binding(self, y, absorbed=0.0)

    def observe(self, t: Scalar, y: TMDDState) -> Observed:
        return _observed(y, self.assayed)

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"central": Delivery("central", scale=_nmol_per_mg(self.molar_mass) / self.V1)}


class TMDDSubcutaneous(AbstractDelivered):
    """Target-mediated drug disposition, the full binding model, with a subcutaneous depot.

    With the depot D in nmol, the free drug L (state `central`), its peripheral concentration P, the free target R and
    the complex C:

    $$ D' = -ka D, \\quad L' = (ka D - CL L - Q (L - P)) / V1 - kon L R + koff C, \\quad P' = (Q / V2) (L - P) $$

    $$ R' = kdeg (R0 - R) - kon L R + koff C, \\quad C' = kon L R - (koff + kint) C $$

    A dose to `depot`, in mg, adds F times its amount after `tlag`; a dose to `central`, in mg, is intravenous. The
    observed values are those of `TMDD`.

    Reference: Mager and Jusko 2001, doi:10.1023/A:1014414520282.

    Raises:
        ValueError: If a parameter is out of range or `assayed` is neither `free` nor `total`.

    Example:
        >>> import qspjax as qsp
        >>> antibody = qsp.models.TMDDSubcutaneous(
        ...     CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0, ka=0.3, F=0.7
        ... )
        >>> solution = qsp.simulate(antibody, qsp.bolus(150.0, to="depot"), [0.0, 14.0])
        >>> solution.observed["free"].round(2)
        Array([ 0.  , 39.59], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="d",
        dose="mg",
        states={"depot": "nmol", **dict.fromkeys(TMDDState._fields, "nM")},
        observed=_OBSERVED,
    )

    CL: Scalar = parameter(unit="L/d", doc="linear clearance of the free drug")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q: Scalar = parameter(unit="L/d", doc="intercompartmental clearance")
    V2: Scalar = parameter(unit="L", doc="peripheral volume")
    kon: Scalar = parameter(unit="1/nM/d", doc="association rate constant")
    koff: Scalar = parameter(unit="1/d", doc="dissociation rate constant")
    kdeg: Scalar = parameter(unit="1/d", doc="degradation rate constant of the free target")
    kint: Scalar = parameter(unit="1/d", doc="internalisation rate constant of the complex")
    R0: Scalar = parameter(unit="nM", doc="baseline of the target")
    ka: Scalar = parameter(unit="1/d", doc="absorption rate constant")
    tlag: Scalar = parameter(unit="d", doc="lag of absorption", minimum=0.0, default=0.0)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)
    molar_mass: Scalar = parameter(unit="kDa", doc="molar mass of the drug", source="an IgG antibody", default=150.0)
    assayed: str = eqx.field(static=True, default="total")

    def __check_init__(self) -> None:
        check_one_of("assayed", self.assayed, ("free", "total"), "what the assay measures")

    def initial(self) -> TMDDSubcutaneousState:
        return TMDDSubcutaneousState(depot=0.0, central=0.0, peripheral=0.0, target=self.R0, complex=0.0)

    def vector_field(self, t: Scalar, y: TMDDSubcutaneousState) -> TMDDSubcutaneousState:
        absorbed = self.ka * y.depot
        return TMDDSubcutaneousState(-absorbed, *_binding(self, y, absorbed))

    def observe(self, t: Scalar, y: TMDDSubcutaneousState) -> Observed:
        return _observed(y, self.assayed)

    def deliveries(self) -> Mapping[str, Delivery]:
        nmol = _nmol_per_mg(self.molar_mass)
        return {
            "depot": Delivery("depot", scale=nmol, lag=self.tlag, bioavailability=self.F),
            "central": Delivery("central", scale=nmol / self.V1),
        }


def _nmol_per_mg(molar_mass: Scalar) -> Scalar:
    """Return how many nmol a mg is, for a molar mass in kDa."""
    return 1e3 / molar_mass


def _binding(p: TMDD | TMDDSubcutaneous, y: TMDDState | TMDDSubcutaneousState, absorbed: Scalar) -> TMDDState:
    """Return the derivatives of the concentrations, with a flow absorbed into the central volume in nmol/d."""
    L, P, R, C = y.central, y.peripheral, y.target, y.complex
    bound = p.kon * L * R - p.koff * C
    distributed = p.Q * (L - P)
    return TMDDState(
        central=(absorbed - p.CL * L - distributed) / p.V1 - bound,
        peripheral=distributed / p.V2,
        target=p.kdeg * (p.R0 - R) - bound,
        complex=bound - p.kint * C,
    )


def _observed(y: TMDDState | TMDDSubcutaneousState, assayed: str) -> Observed:
    L, R, C = y.central, y.target, y.complex
    drug = {"free": L, "total": L + C}
    return {
        "concentration": drug[assayed],
        **drug,
        "target_free": R,
        "target_total": R + C,
        "occupancy": C / (R + C),
    }
