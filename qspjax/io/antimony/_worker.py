"""The conversions of antimony, in a process of their own, as it keeps its input, also after a mistake, and may crash.

Run as a script, which imports nothing but antimony. It reads `{"file": ...}` (a model in Antimony, in the directory of
the process) or `{"sbml": ...}` from its standard input, and writes `{"text": ..., "error": ...}` to its standard
output, both in JSON; the text is in SBML or Antimony, null if there is none.
"""

import json
import sys
from typing import TypedDict


class Task(TypedDict, total=False):
    """The input of a conversion: the name of a file in Antimony, or a text in SBML."""

    file: str
    sbml: str


class Result(TypedDict):
    """The text, or the error."""

    text: str | None
    error: str | None


def main() -> None:
    """Read, convert, write."""
    import antimony

    task: Task = json.load(sys.stdin)
    if "file" in task:
        loaded, convert = antimony.loadAntimonyFile(task["file"]), antimony.getSBMLString
    else:
        loaded, convert = antimony.loadSBMLString(task.get("sbml", "")), antimony.getAntimonyString
    text = convert(antimony.getMainModuleName()) if loaded != -1 else None
    json.dump({"text": text or None, "error": None if text else antimony.getLastError()}, sys.stdout)


if __name__ == "__main__":
    main()
