"""SBML: models of other programs, read and written."""

from qspjax.io.sbml._read import Reading as Reading, read_definition as read_definition, read_sbml as read_sbml
from qspjax.io.sbml._suite import (
    OUTCOMES as OUTCOMES,
    REFUSED as REFUSED,
    WRONG as WRONG,
    CaseResult as CaseResult,
    Refused as Refused,
    case_folders as case_folders,
    run_case as run_case,
    write_case as write_case,
)
from qspjax.io.sbml._suite_run import run_suite as run_suite
from qspjax.io.sbml._write import write_sbml as write_sbml
