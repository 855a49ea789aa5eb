"""The SBML Test Suite: its cases run and compared, each in a process that may fail."""

from qspjax.sbml_suite._run import run_suite as run_suite
from qspjax.sbml_suite._suite import (
    OUTCOMES as OUTCOMES,
    REFUSED as REFUSED,
    WRONG as WRONG,
    CaseResult as CaseResult,
    Refused as Refused,
    case_folders as case_folders,
    run_case as run_case,
    write_case as write_case,
)
