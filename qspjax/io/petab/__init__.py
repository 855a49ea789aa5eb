"""PEtab: calibration problems as a model in SBML with tables of measurements, conditions, observables, parameters."""

from qspjax.io.petab._lint import lint as lint
from qspjax.io.petab._read import read_petab as read_petab
from qspjax.io.petab._write import write_petab as write_petab
from qspjax.io.petab.sciml import read_neural_network as read_neural_network
