"""libsbml: its import, its processes, and its errors as issues."""

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from qspjax._collection import seldom_collected
from qspjax._extras import require
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml import _worker
from qspjax.io.sbml._worker import Error, Report, errors

if TYPE_CHECKING:
    import libsbml

LONGEST = 120.0
"""The maximum time of libsbml in a process of its own, in seconds."""

_DRAWINGS = re.compile(r"\b(layout|render)", re.IGNORECASE)
_SCHEMA = (10102, 10103)
_READ = ("", "core", "comp", "l3v2extendedmath")
"""The packages that are read; errors of others are only warnings."""

_WARNING, _ERROR = 1, 2


def library() -> ModuleType:
    """Import libsbml.

    Raises:
        ImportError: If it is missing.
    """
    loaded = sys.modules.get("libsbml")
    if loaded is not None:
        return loaded
    with _without_source(), seldom_collected():
        return require("libsbml", extra="sbml")


@contextmanager
def _without_source() -> Iterator[None]:
    """Leave out lines where the file of a frame is asked for, as libsbml does: else all modules are looked through."""
    whole = inspect.getframeinfo
    inspect.getframeinfo = functools.partial(whole, context=0)
    try:
        yield
    finally:
        inspect.getframeinfo = whole


def read(text: str, issues: IssueCollector) -> "libsbml.SBMLDocument":
    """Return the document that libsbml makes of a text.

    Only the checks that it makes while it reads are used. The others inline functions, which never ends for a function
    that calls itself and grows exponentially for others, or look for cycles in a time that grows with the third power
    of the rules; the reader makes these checks itself.

    Raises:
        FileIssues: If it finds an error.
    """
    document = library().readSBMLFromString(text)
    gather(errors(document), issues)
    if document.getModel() is None:
        issues.add("must have a model, but has none.", "sbml", line=document.getLine())
    issues.close()
    return document


def run_in_subprocess(text: str, checks: Sequence[int], *, location: str = "", flatten: bool = False) -> Report | None:
    """Let libsbml check, and flatten, a text in a process of its own; return its report, None if that fails."""
    task = json.dumps({"text": text, "location": location, "checks": list(checks), "flatten": flatten})
    command = [sys.executable, "-P", str(Path(_worker.__file__))]
    try:
        done = subprocess.run(command, input=task, capture_output=True, encoding="utf-8", timeout=LONGEST, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, UnicodeDecodeError, json.JSONDecodeError):
        return None


def gather(reported: Iterable[Error], issues: IssueCollector) -> None:
    """Add the errors of libsbml; only warn of errors of drawings."""
    for error in reported:
        if error["severity"] < _ERROR:
            continue
        drawing = error["id"] in _SCHEMA and _DRAWINGS.search(_detail(error))
        if drawing or error["package"] not in _READ:
            issues.warn(_message(error), line=error["line"])
        else:
            issues.add(_message(error), line=error["line"], place=error["place"])


def gather_warnings(reported: Iterable[Error], category: int, issues: IssueCollector) -> None:
    """Warn of the warnings and errors of one category."""
    for error in reported:
        if error["severity"] >= _WARNING and error["category"] == category:
            issues.warn(_message(error), line=error["line"])


def _message(error: Error) -> str:
    short, detail = error["short"].strip().rstrip("."), _detail(error)
    package = f" of the package {error['package']}" if error["package"] not in ("", "core") else ""
    return f"must keep rule {error['id']} of SBML{package}, but does not: {short}. {detail}".strip()


def _detail(error: Error) -> str:
    """Return the part of an error that is about this file, which follows the text of the rule, in one line."""
    _, reference, after = error["text"].partition("\nReference:")
    lines = after.splitlines()[1:] if reference else error["text"].splitlines()
    return " ".join(" ".join(lines).split())[:300]
