"""SBML: models of other programs, read and written."""

from qspjax.io.sbml._read import Reading as Reading, read_definition as read_definition, read_sbml as read_sbml
from qspjax.io.sbml._write import write_sbml as write_sbml
