"""`qspjax sbml-suite` and `qspjax sbml-case`: the SBML Test Suite."""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._extras import require
from qspjax.cli._console import BAD_INPUT, FAILED, ProgressBar, say
from qspjax.cli._options import Commands, at_least, positive

if TYPE_CHECKING:
    from qspjax.sbml_suite import CaseResult

_MOST_LISTED = 6
"""The maximum number of cases that are listed for a reason."""


def add_suite(commands: Commands) -> None:
    """Add both commands to the parser."""
    suite = commands.add_parser(
        "sbml-suite",
        help="run the SBML Test Suite",
        description="Run the semantic cases of the SBML Test Suite, each in the newest level of SBML that it has. "
        "Prints what was wrong, the reasons of refusal counted, a table by tag, and last `N pass, N refused, N wrong`. "
        "Exit status 0 only if none is wrong.",
    )
    suite.add_argument("cases", metavar="CASES", help="the folder of the suite, or one with folders 00001, 00002, ...")
    suite.add_argument(
        "--cases", dest="wanted", metavar="N-M", type=_ranges, help="numbers of cases, such as 1-100,205"
    )
    suite.add_argument("--workers", metavar="N", type=at_least(1, 256), default=2, help="processes (2)")
    suite.add_argument("--limit", metavar="S", type=positive, default=60.0, help="seconds that a case may take (60)")
    suite.set_defaults(run=_suite)
    case = commands.add_parser(
        "sbml-case",
        help="run one case for the SBML Test Runner",
        description="The wrapper that the SBML Test Runner calls, with the arguments %%d %%n %%o %%l %%v: writes "
        "OUTDIR/NUMBER.csv. A case that is not supported writes no file, says why on stderr and exits with 2.",
    )
    case.add_argument("directory", metavar="DIR", help="the folder of the cases")
    case.add_argument("number", metavar="NUMBER", help="number of the case")
    case.add_argument("out", metavar="OUTDIR", help="where to write")
    case.add_argument("level", metavar="LEVEL", type=at_least(0, 9), help="level of SBML, 0 for the newest")
    case.add_argument("version", metavar="VERSION", type=at_least(0, 9), help="version of the level")
    case.set_defaults(run=_case)


def _suite(arguments: argparse.Namespace) -> int:
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


def _case(arguments: argparse.Namespace) -> int:
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


def _ranges(text: str) -> frozenset[int]:
    """Read numbers such as `1-100,205`."""
    numbers: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise argparse.ArgumentTypeError(f"must be numbers of cases such as 1-100,205, but is {text}")
        numbers.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(numbers)
