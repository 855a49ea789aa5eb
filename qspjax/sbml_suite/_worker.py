"""A process that runs cases of the suite: folders and tags come in, results go out, one line of JSON each."""

import json
import os
import sys

from qspjax.io._issues import FileIssues
from qspjax.sbml_suite._suite import REFUSED, CaseResult, run_case


def serve() -> None:
    """Run the cases that stdin names until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        folder, tags = json.loads(line)
        try:
            result = run_case(folder, tags)
        except FileIssues as error:
            result = _refused(folder, tags, str(error).partition("\n")[0])
        except Exception as error:  # noqa: BLE001 - a defect is reported with its case, and the run goes on
            result = _refused(folder, tags, f"defect: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        answers.write(json.dumps(result) + "\n")
        answers.flush()


def _refused(folder: str, tags: list[str], reason: str) -> CaseResult:
    return CaseResult(os.path.basename(folder), REFUSED, reason, tuple(tags), 0.0, float("nan"))  # noqa: PTH119


if __name__ == "__main__":
    serve()
