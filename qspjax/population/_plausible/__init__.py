"""Plausible patients: those of a population whose statistics stay within bounds, and ways to find them."""

from qspjax.population._plausible._bound import Bound as Bound
from qspjax.population._plausible._contract import AbstractPatientSearch as AbstractPatientSearch
from qspjax.population._plausible._langevin import Langevin as Langevin
from qspjax.population._plausible._metropolis import MetropolisHastings as MetropolisHastings
from qspjax.population._plausible._optimised import Optimised as Optimised
from qspjax.population._plausible._plausible import plausible as plausible
from qspjax.population._plausible._rejection import Rejection as Rejection
from qspjax.population._plausible._result import PlausiblePopulation as PlausiblePopulation
from qspjax.population._plausible._screened import Screened as Screened
