"""Equilibria: where a system comes to rest without doses, differentiably.

Example:
    >>> import qspjax as qsp
    >>> response = qsp.io.read_antimony("-> R; kin; R ->; kout*R; R = 1; kin = 6; kout = 2")
    >>> float(qsp.equilibrium.steady_state(response).state["R"].round(6))
    3.0
"""

from qspjax.equilibrium._baseline import SteadyState as SteadyState
from qspjax.equilibrium._steady_state import Equilibrium as Equilibrium, steady_state as steady_state
