"""The model of mrgsolve/nmtests: NONMEM's ADVAN2 with F, lag, modelled duration and rate on the central compartment."""

from typing import NamedTuple

import jax

import qspjax as qsp


class Amounts(NamedTuple):
    depot: jax.Array
    central: jax.Array


class Advan2(qsp.AbstractDelivered):
    """One compartment with first-order absorption; CP is in ug/L for doses in mg."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance", default=1.1)
    V: jax.Array = qsp.parameter(unit="L", doc="volume", default=20.0)
    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption rate constant", default=1.5)
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability", default=1.0)
    tlag: jax.Array = qsp.parameter(unit="h", doc="lag", minimum=0.0, default=0.0)
    D2: jax.Array = qsp.parameter(unit="h", doc="modelled duration", default=2.0)
    R2: jax.Array = qsp.parameter(unit="mg/h", doc="modelled rate", default=10.0)

    def initial(self):
        return Amounts(0.0, 0.0)

    def vector_field(self, t, y):
        absorbed = self.ka * y.depot
        return Amounts(-absorbed, absorbed - self.CL / self.V * y.central)

    def observe(self, t, y):
        return {"CP": y.central / (self.V / 1000.0)}

    def deliveries(self):
        central = qsp.Delivery("central", lag=self.tlag, bioavailability=self.F, duration=self.D2, rate=self.R2)
        return {"depot": qsp.Delivery("depot"), "central": central}


COLUMNS = {"F": "BIOAV", "tlag": "LAGT", "D2": "DUR2", "R2": "RAT2"}
"""The columns of the data set that give parameters."""
