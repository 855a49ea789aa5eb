"""The checks and the flattening of libsbml, in a process of their own, as it may crash or take too long.

Run as a script, which imports nothing but libsbml. It reads its task from its standard input, `{"text": ...,
"location": ..., "checks": [...], "flatten": ...}`, and writes `{"errors": [...], "text": ...}` to its standard output,
both in JSON; the text is that of the flattened model, null if there is none.
"""

import json
import sys
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import libsbml


class Error(TypedDict):
    """An error or a warning of libsbml."""

    id: int
    severity: int
    category: int
    package: str
    short: str
    text: str
    line: int
    place: int


class Report(TypedDict):
    """The errors that libsbml found in a text, and the text of the flattened model if there is one."""

    errors: list[Error]
    text: str | None


def main() -> None:
    """Read, check, flatten, write."""
    import libsbml

    task = json.load(sys.stdin)
    document = libsbml.readSBMLFromString(task["text"])
    if task["location"]:
        document.setLocationURI(task["location"])
    for category in range(libsbml.LIBSBML_CAT_SBML, libsbml.LIBSBML_CAT_STRICT_UNITS_CONSISTENCY + 1):
        document.setConsistencyChecks(category, category in task["checks"])
    document.checkConsistency()
    wrong = document.getNumErrors(libsbml.LIBSBML_SEV_ERROR) + document.getNumErrors(libsbml.LIBSBML_SEV_FATAL)
    text = None
    if task["flatten"] and not wrong:
        options = libsbml.ConversionProperties()
        options.addOption("flatten comp", True)
        options.addOption("performValidation", False)
        options.addOption("leavePorts", False)
        options.addOption("abortIfUnflattenable", "requiredOnly")
        if document.convert(options) == libsbml.LIBSBML_OPERATION_SUCCESS:
            text = libsbml.writeSBMLToString(document)
    json.dump({"errors": errors(document), "text": text}, sys.stdout)


def errors(document: "libsbml.SBMLDocument") -> list[Error]:
    """Return the errors and warnings of a document."""
    return [
        {
            "id": error.getErrorId(),
            "severity": error.getSeverity(),
            "category": error.getCategory(),
            "package": error.getPackage(),
            "short": error.getShortMessage(),
            "text": error.getMessage(),
            "line": error.getLine(),
            "place": error.getColumn(),
        }
        for error in (document.getError(i) for i in range(document.getNumErrors()))
    ]


if __name__ == "__main__":
    main()
