"""PEtab SciML: neural networks in files, and their places in calibration problems."""

from qspjax.io.petab.sciml._embedding import embedded as embedded
from qspjax.io.petab.sciml._hybrid import read_hybrid as read_hybrid
from qspjax.io.petab.sciml._read import read_neural_network as read_neural_network
