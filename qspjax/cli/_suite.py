"""`qspjax sbml-suite` and `qspjax sbml-case`: the SBML Test Suite."""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._extras import require
from qspjax.cli._console import BAD_INPUT, FAILED, ProgressBar, say

if TYPE_CHECKING:
    from qspjax.sbml_suite import CaseResult

_MOST_LISTED = 6
"""The maximum number of cases that are listed for a reason."""


def run_suite(arguments: argparse.Namespace) -> int:
    """Run cases of the SBML Test Suite and print the report; return the exit code."""
    from qspjax.sbml_suite import WRONG, case_folders, run_suite

    require("libsbml", extra="sbml")
    folders = case_folders(arguments.cases, arguments.wanted)
    results = []
    with ProgressBar(len(folders), things="cases", bad="wrong", first="starting") as bar:
        for done, result in enumerate(run_suite(folders, workers=arguments.workers, limit=arguments.limit), 1):
            results.append(result)
            bar.update(done, bad=result.outcome == WRONG, description=result.case)
    print(_report(sorted(results)))
    return FAILED if any(result.outcome == WRONG for result in results) else 0


def run_case(arguments: argparse.Namespace) -> int:
    """Run one case for the SBML Test Runner; return the exit code."""
    from qspjax.sbml_suite import Refused, write_case

    number = arguments.number.zfill(5)
    if not re.fullmatch(r"\d{5}", number):
        raise ValueError(f"argument NUMBER: must be the number of a case, but is {arguments.number}")
    folder = Path(arguments.directory) / number
    try:
        write_case(folder, arguments.out, level=arguments.level, version=arguments.version)
    except Refused as refusal:
        return say(f"{number}: {refusal}.", BAD_INPUT)
    return 0


def _report(results: "Sequence[CaseResult]") -> str:
    """Return the report: wrong cases, reasons for refusal, outcomes by tag, and totals."""
    from qspjax.sbml_suite import OUTCOMES, REFUSED, WRONG

    parts = []
    wrong = [result for result in results if result.outcome == WRONG]
    if wrong:
        parts.append("\n".join(["Wrong", *(f"{case.case}  {case.reason} (error {case.ratio:.3g})" for case in wrong)]))
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.outcome == REFUSED:
            reasons.setdefault(result.reason, []).append(result.case)
    if reasons:
        ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
        parts.append("\n".join(["Refused", *(f"{len(cases):5}  {why} ({_listed(cases)})" for why, cases in ordered)]))
    tags = Counter((tag, result.outcome) for result in results for tag in result.tags)
    if tags:
        names = sorted({tag for tag, _ in tags})
        width = max(map(len, names))
        rows = [f"{'Tag':{width}}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
        rows += [f"{name:{width}}" + "".join(f"{tags[name, outcome]:9}" for outcome in OUTCOMES) for name in names]
        parts.append("\n".join(rows))
    counts = Counter(result.outcome for result in results)
    parts.append(", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
    return "\n\n".join(parts)


def _listed(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_MOST_LISTED]) + (", ..." if len(cases) > _MOST_LISTED else "")
