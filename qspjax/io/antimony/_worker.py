"""What antimony does, in a process of its own: it keeps what it is given, also after a mistake, and may crash.

Run as a script, which imports nothing but antimony. It reads `{"file": ...}` (a model in Antimony, in the directory of
the process) or `{"sbml": ...}` from its standard input, and writes `{"text": ..., "error": ...}` to its standard
output, both in JSON; the text is in SBML or Antimony, null if there is none.
"""

import json
import sys


def main() -> None:
    """Read, convert, write."""
    import antimony

    given = json.load(sys.stdin)
    if "file" in given:
        loaded, convert = antimony.loadAntimonyFile(given["file"]), antimony.getSBMLString
    else:
        loaded, convert = antimony.loadSBMLString(given["sbml"]), antimony.getAntimonyString
    text = convert(antimony.getMainModuleName()) if loaded != -1 else None
    json.dump({"text": text or None, "error": None if text else antimony.getLastError()}, sys.stdout)


if __name__ == "__main__":
    main()
