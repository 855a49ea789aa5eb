"""The document that libsbml makes of a text: read, its hierarchy flattened."""

from typing import Any

from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._hierarchy import flattened
from qspjax.io.sbml._library import apart, gather_warnings, libsbml, read
from qspjax.io.sbml._text import Source


def document_of(source: Source, issues: IssueCollector) -> Any:
    """Return the document of a text, flattened.

    Raises:
        FileIssues: If libsbml finds an error, or the document needs a package that is not supported.
    """
    document = read(source.text, issues)
    for package in source.ignored:
        issues.warn(f"ignored: the package {package}.", "sbml")
    return document if document.getPlugin("comp") is None else flattened(document, source, issues)


def notice_units(source: Source, issues: IssueCollector) -> None:
    """Notice units that do not agree; SBML allows them."""
    category = libsbml().LIBSBML_CAT_UNITS_CONSISTENCY
    found = apart(source.text, [category])
    if found is None:
        issues.warn("ignored: the units, because libsbml could not check them.", "sbml")
    else:
        gather_warnings(found["errors"], category, issues)
