"""What libsbml does in a process of its own, because it may crash or take too long: its checks, and flattening.

Run as a script, which imports nothing but libsbml. It reads what is to be done from its standard input, `{"text": ...,
"location": ..., "checks": [...], "flatten": ...}`, and writes `{"errors": [...], "text": ...}` to its standard output,
both in JSON; the text is that of the flattened model, null if there is none.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Read, check, flatten, write."""
    import libsbml

    given = json.load(sys.stdin)
    document = libsbml.readSBMLFromString(given["text"])
    if given["location"]:
        document.setLocationURI(given["location"])
    for category in range(libsbml.LIBSBML_CAT_SBML, libsbml.LIBSBML_CAT_STRICT_UNITS_CONSISTENCY + 1):
        document.setConsistencyChecks(category, category in given["checks"])
    document.checkConsistency()
    wrong = document.getNumErrors(libsbml.LIBSBML_SEV_ERROR) + document.getNumErrors(libsbml.LIBSBML_SEV_FATAL)
    text = None
    if given["flatten"] and not wrong:
        wanted = libsbml.ConversionProperties()
        wanted.addOption("flatten comp", True)
        wanted.addOption("performValidation", False)
        wanted.addOption("leavePorts", False)
        wanted.addOption("abortIfUnflattenable", "requiredOnly")
        if document.convert(wanted) == libsbml.LIBSBML_OPERATION_SUCCESS:
            text = libsbml.writeSBMLToString(document)
    json.dump({"errors": errors(document), "text": text}, sys.stdout)


def errors(document: Any) -> list[dict[str, Any]]:
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
