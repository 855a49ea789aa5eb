"""The document that libsbml makes of a text, with its hierarchy flattened."""

from typing import TYPE_CHECKING

from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._hierarchy import flattened
from qspjax.io.sbml._library import gather_warnings, library, read, run_in_subprocess
from qspjax.io.sbml._text import Source

if TYPE_CHECKING:
    import libsbml


def document_of(source: Source, issues: IssueCollector) -> "libsbml.SBMLDocument":
    """Return the document of a text, flattened.

    Raises:
        FileIssues: If libsbml finds an error, or the document needs a package that is not supported.
    """
    document = read(source.text, issues)
    for package in source.ignored:
        issues.warn(f"ignored: the package {package}.", "sbml")
    return document if document.getPlugin("comp") is None else flattened(document, source, issues)


def check_units(source: Source, issues: IssueCollector) -> None:
    """Warn of units that do not agree; SBML allows them."""
    category = library().LIBSBML_CAT_UNITS_CONSISTENCY
    report = run_in_subprocess(source.text, [category])
    if report is None:
        issues.warn("ignored: the units, because libsbml could not check them.", "sbml")
    else:
        gather_warnings(report["errors"], category, issues)
