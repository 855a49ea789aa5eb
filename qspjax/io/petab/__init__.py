"""PEtab: calibration problems of a model in SBML, with tables of measurements, conditions, observables and parameters."""

from qspjax.io.petab._read import read_petab as read_petab
