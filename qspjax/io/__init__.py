"""Files: models, data sets, trials and fits to read, results and data sets to write; `validate` checks any of them.

The mistakes of a file are a list of issues (`FileIssues`), each with its line.

Example:
    >>> import pathlib, tempfile, qspjax as qsp
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.csv"
    >>> _ = path.write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n")
    >>> data = qsp.io.read_nonmem(path)
    >>> data.dv
    array([[nan, 3.1]])
"""

import typing as _typing

from qspjax._lazily import imported_when_used as _imported_when_used

if _typing.TYPE_CHECKING:
    from qspjax.io._issues import FileIssues as FileIssues, Issue as Issue
    from qspjax.io._validate import validate as validate
    from qspjax.io.antimony._antimony import read_antimony as read_antimony, write_antimony as write_antimony
    from qspjax.io.fit._file import FitFile as FitFile, read_fit as read_fit
    from qspjax.io.fit._mixed_file import MixedFile as MixedFile
    from qspjax.io.nonmem._data import NonmemData as NonmemData
    from qspjax.io.nonmem._experiments import experiments as experiments
    from qspjax.io.nonmem._read import read_nonmem as read_nonmem
    from qspjax.io.nonmem._write import write_nonmem as write_nonmem
    from qspjax.io.petab import (
        read_neural_network as read_neural_network,
        read_petab as read_petab,
        write_petab as write_petab,
    )
    from qspjax.io.population._file import (
        PopulationFile as PopulationFile,
        bundled_population as bundled_population,
        read_population_file as read_population_file,
    )
    from qspjax.io.sbml import read_sbml as read_sbml, write_sbml as write_sbml
    from qspjax.io.trial._file import TrialFile as TrialFile, bundled_trial as bundled_trial, read_trial as read_trial

_NAMES = {
    "_issues": "FileIssues Issue",
    "_validate": "validate",
    "antimony._antimony": "read_antimony write_antimony",
    "fit._file": "FitFile read_fit",
    "fit._mixed_file": "MixedFile",
    "nonmem._data": "NonmemData",
    "nonmem._experiments": "experiments",
    "nonmem._read": "read_nonmem",
    "nonmem._write": "write_nonmem",
    "petab": "read_neural_network read_petab write_petab",
    "population._file": "PopulationFile bundled_population read_population_file",
    "sbml": "read_sbml write_sbml",
    "trial._file": "TrialFile bundled_trial read_trial",
}
"""The public names by the modules that hold them; a test compares them with the imports above."""

if not _typing.TYPE_CHECKING:  # to type checkers, any name but those above is a mistake
    __getattr__, __dir__, __all__ = _imported_when_used(
        __name__, _NAMES, "antimony fit nonmem petab population sbml toml trial"
    )
