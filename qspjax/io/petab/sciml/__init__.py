"""PEtab SciML: neural networks in files, and their places in calibration problems."""

from qspjax.io.petab.sciml._read import read_neural_network as read_neural_network
