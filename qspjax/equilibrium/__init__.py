"""Equilibria: where a system comes to rest."""

from qspjax.equilibrium._steady_state import Equilibrium as Equilibrium, steady_state as steady_state
