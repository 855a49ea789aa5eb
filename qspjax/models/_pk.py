"""Mammillary compartment models: linear distribution and elimination, given into the central compartment or a depot.

Reference: Gibaldi and Perrier, Pharmacokinetics, second edition, 1982, doi:10.1201/b14095.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from qspjax._declared import AbstractDelivered, Delivery
from qspjax._model import AbstractModel, Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar


class OneCompartmentState(NamedTuple):
    """Amount of drug in mg."""

    central: Scalar


class OneCompartmentOralState(NamedTuple):
    """Amounts of drug in mg."""

    depot: Scalar
    central: Scalar


class TwoCompartmentState(NamedTuple):
    """Amounts of drug in mg."""

    central: Scalar
    peripheral: Scalar


class TwoCompartmentOralState(NamedTuple):
    """Amounts of drug in mg."""

    depot: Scalar
    central: Scalar
    peripheral: Scalar


class ThreeCompartmentState(NamedTuple):
    """Amounts of drug in mg."""

    central: Scalar
    peripheral: Scalar
    peripheral2: Scalar


class ThreeCompartmentOralState(NamedTuple):
    """Amounts of drug in mg."""

    depot: Scalar
    central: Scalar
    peripheral: Scalar
    peripheral2: Scalar


def units_of_amounts(state: type) -> Units:
    """Return the units of a model whose states are amounts in mg and whose concentration is in mg/L."""
    states = dict.fromkeys(state._fields, "mg")
    return Units(time="h", dose="mg", states=states, observed={"concentration": "mg/L"})


class OneCompartment(AbstractModel):
    """One compartment with linear elimination.

    $$ central' = -(CL / V) central, \\quad concentration = central / V $$

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([10.  ,  3.68], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(OneCompartmentState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V: Scalar = parameter(unit="L", doc="volume of distribution")

    def initial(self) -> OneCompartmentState:
        return OneCompartmentState(central=0.0)

    def vector_field(self, t: Scalar, y: OneCompartmentState) -> OneCompartmentState:
        return OneCompartmentState(central=-self.CL / self.V * y.central)

    def observe(self, t: Scalar, y: OneCompartmentState) -> Observed:
        return {"concentration": y.central / self.V}


class OneCompartmentOral(AbstractDelivered):
    """One compartment with first-order absorption from a depot, a lag and a bioavailability.

    $$ depot' = -ka depot, \\quad central' = ka depot - (CL / V) central, \\quad concentration = central / V $$

    A dose to `depot` adds F times its amount after `tlag`; a dose to `central` is intravenous.

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="depot"), [0.0, 2.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([0.  , 7.94, 4.01], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(OneCompartmentOralState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V: Scalar = parameter(unit="L", doc="volume of distribution")
    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant")
    tlag: Scalar = parameter(unit="h", doc="lag of absorption", minimum=0.0, default=0.0)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)

    def initial(self) -> OneCompartmentOralState:
        return OneCompartmentOralState(depot=0.0, central=0.0)

    def vector_field(self, t: Scalar, y: OneCompartmentOralState) -> OneCompartmentOralState:
        absorbed = self.ka * y.depot
        return OneCompartmentOralState(depot=-absorbed, central=absorbed - self.CL / self.V * y.central)

    def observe(self, t: Scalar, y: OneCompartmentOralState) -> Observed:
        return {"concentration": y.central / self.V}

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"depot": Delivery("depot", lag=self.tlag, bioavailability=self.F)}


class TwoCompartment(AbstractModel):
    """Two compartments with linear elimination from the central one.

    $$ central' = -(CL / V1) central - q, \\quad peripheral' = q, \\quad q = Q (central / V1 - peripheral / V2) $$

    with concentration = central / V1.

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.TwoCompartment(CL=3.0, V1=30.0, Q=6.0, V2=60.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([10.  ,  1.81], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(TwoCompartmentState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q: Scalar = parameter(unit="L/h", doc="intercompartmental clearance")
    V2: Scalar = parameter(unit="L", doc="peripheral volume")

    def initial(self) -> TwoCompartmentState:
        return TwoCompartmentState(central=0.0, peripheral=0.0)

    def vector_field(self, t: Scalar, y: TwoCompartmentState) -> TwoCompartmentState:
        eliminated, q = _two_compartments(self, y)
        return TwoCompartmentState(central=-eliminated - q, peripheral=q)

    def observe(self, t: Scalar, y: TwoCompartmentState) -> Observed:
        return {"concentration": y.central / self.V1}


class TwoCompartmentOral(AbstractDelivered):
    """Two compartments with first-order absorption from a depot, a lag and a bioavailability.

    $$ depot' = -ka depot, \\quad central' = ka depot - (CL / V1) central - q, \\quad peripheral' = q $$

    with q = Q (central / V1 - peripheral / V2) and concentration = central / V1. A dose to `depot` adds F times its
    amount after `tlag`; a dose to `central` is intravenous.

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.TwoCompartmentOral(CL=3.0, V1=30.0, Q=6.0, V2=60.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="depot"), [0.0, 2.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([0.  , 6.24, 1.93], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(TwoCompartmentOralState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q: Scalar = parameter(unit="L/h", doc="intercompartmental clearance")
    V2: Scalar = parameter(unit="L", doc="peripheral volume")
    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant")
    tlag: Scalar = parameter(unit="h", doc="lag of absorption", minimum=0.0, default=0.0)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)

    def initial(self) -> TwoCompartmentOralState:
        return TwoCompartmentOralState(depot=0.0, central=0.0, peripheral=0.0)

    def vector_field(self, t: Scalar, y: TwoCompartmentOralState) -> TwoCompartmentOralState:
        absorbed = self.ka * y.depot
        eliminated, q = _two_compartments(self, y)
        return TwoCompartmentOralState(depot=-absorbed, central=absorbed - eliminated - q, peripheral=q)

    def observe(self, t: Scalar, y: TwoCompartmentOralState) -> Observed:
        return {"concentration": y.central / self.V1}

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"depot": Delivery("depot", lag=self.tlag, bioavailability=self.F)}


class ThreeCompartment(AbstractModel):
    """Three compartments with linear elimination from the central one.

    $$ central' = -(CL / V1) central - q2 - q3, \\quad peripheral' = q2, \\quad peripheral2' = q3 $$

    with q2 = Q2 (central / V1 - peripheral / V2), q3 = Q3 (central / V1 - peripheral2 / V3) and concentration =
    central / V1.

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.ThreeCompartment(CL=3.0, V1=30.0, Q2=6.0, V2=60.0, Q3=1.0, V3=100.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([10.  ,  1.48], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(ThreeCompartmentState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q2: Scalar = parameter(unit="L/h", doc="intercompartmental clearance of the first peripheral compartment")
    V2: Scalar = parameter(unit="L", doc="first peripheral volume")
    Q3: Scalar = parameter(unit="L/h", doc="intercompartmental clearance of the second peripheral compartment")
    V3: Scalar = parameter(unit="L", doc="second peripheral volume")

    def initial(self) -> ThreeCompartmentState:
        return ThreeCompartmentState(central=0.0, peripheral=0.0, peripheral2=0.0)

    def vector_field(self, t: Scalar, y: ThreeCompartmentState) -> ThreeCompartmentState:
        eliminated, q2, q3 = _three_compartments(self, y)
        return ThreeCompartmentState(central=-eliminated - q2 - q3, peripheral=q2, peripheral2=q3)

    def observe(self, t: Scalar, y: ThreeCompartmentState) -> Observed:
        return {"concentration": y.central / self.V1}


class ThreeCompartmentOral(AbstractDelivered):
    """Three compartments with first-order absorption from a depot, a lag and a bioavailability.

    $$ depot' = -ka depot, \\quad central' = ka depot - (CL / V1) central - q2 - q3, \\quad peripheral' = q2, \\quad
    peripheral2' = q3 $$

    with q2 = Q2 (central / V1 - peripheral / V2), q3 = Q3 (central / V1 - peripheral2 / V3) and concentration =
    central / V1. A dose to `depot` adds F times its amount after `tlag`; a dose to `central` is intravenous.

    Reference: Gibaldi and Perrier 1982, doi:10.1201/b14095.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.ThreeCompartmentOral(CL=3.0, V1=30.0, Q2=6.0, V2=60.0, Q3=1.0, V3=100.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="depot"), [0.0, 2.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([0.  , 5.98, 1.59], dtype=float64)
    """

    units: ClassVar[Units] = units_of_amounts(ThreeCompartmentOralState)

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V1: Scalar = parameter(unit="L", doc="central volume")
    Q2: Scalar = parameter(unit="L/h", doc="intercompartmental clearance of the first peripheral compartment")
    V2: Scalar = parameter(unit="L", doc="first peripheral volume")
    Q3: Scalar = parameter(unit="L/h", doc="intercompartmental clearance of the second peripheral compartment")
    V3: Scalar = parameter(unit="L", doc="second peripheral volume")
    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant")
    tlag: Scalar = parameter(unit="h", doc="lag of absorption", minimum=0.0, default=0.0)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)

    def initial(self) -> ThreeCompartmentOralState:
        return ThreeCompartmentOralState(depot=0.0, central=0.0, peripheral=0.0, peripheral2=0.0)

    def vector_field(self, t: Scalar, y: ThreeCompartmentOralState) -> ThreeCompartmentOralState:
        absorbed = self.ka * y.depot
        eliminated, q2, q3 = _three_compartments(self, y)
        return ThreeCompartmentOralState(
            depot=-absorbed, central=absorbed - eliminated - q2 - q3, peripheral=q2, peripheral2=q3
        )

    def observe(self, t: Scalar, y: ThreeCompartmentOralState) -> Observed:
        return {"concentration": y.central / self.V1}

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"depot": Delivery("depot", lag=self.tlag, bioavailability=self.F)}


def _two_compartments(
    p: TwoCompartment | TwoCompartmentOral, y: TwoCompartmentState | TwoCompartmentOralState
) -> tuple[Scalar, Scalar]:
    """Return the flow eliminated, and the net flow from the central to the peripheral compartment."""
    concentration = y.central / p.V1
    return p.CL * concentration, p.Q * (concentration - y.peripheral / p.V2)


def _three_compartments(
    p: ThreeCompartment | ThreeCompartmentOral, y: ThreeCompartmentState | ThreeCompartmentOralState
) -> tuple[Scalar, Scalar, Scalar]:
    """Return the flow eliminated, and the net flows from the central to the two peripheral compartments."""
    concentration = y.central / p.V1
    return (
        p.CL * concentration,
        p.Q2 * (concentration - y.peripheral / p.V2),
        p.Q3 * (concentration - y.peripheral2 / p.V3),
    )
