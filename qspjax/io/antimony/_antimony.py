"""Antimony: models as text that people write, read and written through SBML by the package antimony.

antimony looks for the files that a text imports first in the directory of its process, opens any path, and follows
circular imports until no more files can be opened. So imports are resolved here: each must be a file of the same
folder, and is checked in the same way; antimony is given copies, in a folder that holds nothing else.

Reference: Smith et al., Bioinformatics 2009;25:2452, doi:10.1093/bioinformatics/btp401.
"""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from qspjax._checks import check_instance
from qspjax._extras import require
from qspjax._files import write_text
from qspjax.io._content import content_of, plain, stop, text_of, unpacked_name
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.antimony import _worker
from qspjax.io.antimony._formulas import as_antimony, with_placeholders
from qspjax.io.antimony._worker import Result, Task
from qspjax.io.sbml import read_definition
from qspjax.io.sbml._read import warn_of_reactions
from qspjax.io.sbml._text import source_of
from qspjax.io.sbml._write import check_no_learned, with_placeholders as sbml_with_placeholders
from qspjax.io.sbml._write_math import Numbers
from qspjax.models import Network
from qspjax.models.network import Definition
from qspjax.models.network._rewriting import rewritten

MOST_BYTES = 8 * 2**20
"""The maximum number of bytes of a file."""

MOST_FILES = 50
"""The maximum number of files of a model."""

MOST_DEEP = 200
"""The maximum depth of nested brackets."""

ENDINGS = (".ant", ".antimony", ".sb")
"""Endings of files in Antimony."""

LONGEST = 60.0
"""The maximum time of a conversion by antimony, in seconds."""

_ASIDE = re.compile(r'//[^\n]*|\#[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_IMPORT = re.compile(r'\bimport\b(\s*)(?:"([^"\n]*)"|(\S*))')
_FAILURE = re.compile(r"Error in (?:model string|file '([^']*)'), line (\d+):\s*(.*)", re.DOTALL)
_UNNAMED = "__main"


def read_antimony(path_or_text: str | Path) -> Network:
    """Read a model in Antimony.

    Nothing in a file is executed. A model may import files of the same folder, but not if it is given as text.

    Args:
        path_or_text: The file, or text, recognised by several lines, or by a `;`, `=` or `->` in it.

    Returns:
        The network.

    Raises:
        FileIssues: If the file has mistakes or something that is not supported: a list of all, with lines.
        ImportError: If antimony or libsbml is missing (extra `antimony`).

    Example:
        >>> import qspjax as qsp
        >>> print(qsp.io.read_antimony("drug -> ; k * drug; drug = 100; k = 0.1").equations())
        (default_compartment * drug)' = -_J0
        _J0 = k * drug
    """
    sbml, name = sbml_of_antimony(path_or_text), _name_of(path_or_text)
    try:
        reading = read_definition(sbml)
    except FileIssues as error:  # their lines are those of the SBML
        raise FileIssues([Issue(name, (), issue.message, element=issue.element) for issue in error.issues]) from None
    warn_of_reactions(dataclasses.replace(issue, file=name, line=None, place=None) for issue in reading.warnings)
    definition = reading.definition
    if definition.name == _UNNAMED:
        definition = dataclasses.replace(
            definition, name="" if _is_text(path_or_text) else Path(unpacked_name(name)).stem
        )
    return Network.of(definition)


def write_antimony(network: Network, path: str | Path | None = None) -> str:
    """Write a network as Antimony, with the numbers that it has now, to the last bit.

    Antimony appends an underscore to ids that are its keywords (`compartment_`), and knows only compartments of three
    dimensions: a species in one of no dimension becomes one whose symbol is its amount.

    Args:
        network: The network.
        path: The file to write, None for none. An existing file is replaced at the very end.

    Returns:
        The text.

    Raises:
        ValueError: If the model is not a network, or Antimony cannot express it.
        OSError: If the file cannot be written. Nothing is left half-written.
        ImportError: If antimony or libsbml is missing (extra `antimony`).

    Example:
        >>> import qspjax as qsp
        >>> network = qsp.io.read_antimony("drug -> ; k * drug; drug = 100; k = 0.1")
        >>> print(qsp.io.write_antimony(network)[:20])
        // Created by libAnt
    """
    check_instance("network", network, Network, "a network (models.Network)")
    check_no_learned(network.definition, "Antimony")
    numbers = Numbers(negative=True)
    definition = rewritten(_in_three_dimensions(network.definition), as_antimony)
    result = run_in_subprocess({"sbml": sbml_with_placeholders(definition, numbers)})
    if result["text"] is None:
        raise ValueError(
            f"Argument `network` must be what Antimony can express, but is not: {_one_line(result['error'])}"
        )
    text = numbers.filled_bare(plain(result["text"], "text"))
    if path is not None:
        write_text(Path(path), text)
    return text


def _in_three_dimensions(d: Definition) -> Definition:
    """Return an equivalent network without compartments of no dimension."""
    points = {id for id, compartment in d.compartments.items() if compartment.dimensions == 0}
    sized = {*d.assignments, *d.rates, *d.initial}
    compartments = {
        id: dataclasses.replace(
            compartment,
            dimensions=3.0,
            size=1.0 if compartment.size is None and id not in sized else compartment.size,
        )
        for id, compartment in d.compartments.items()
    }
    species = {
        id: dataclasses.replace(item, only_substance=item.only_substance or d.compartment_of(id) in points)
        for id, item in d.species.items()
    }
    return dataclasses.replace(d, compartments=compartments, species=species) if points else d


def sbml_of_antimony(path_or_text: str | Path) -> str:
    """Return a model in Antimony as SBML.

    Raises:
        FileIssues: If antimony cannot read it, or it is too large.
    """
    check_instance("path_or_text", path_or_text, (str, Path), "a path, or text")
    path, name = None if _is_text(path_or_text) else Path(path_or_text), _name_of(path_or_text)
    with tempfile.TemporaryDirectory(prefix="qspjax-antimony-") as copies:
        files = _Files(Path(copies), None if path is None else path.resolve().parent)
        files.add(name, plain(str(path_or_text), name) if path is None else _content(path, name))
        result = run_in_subprocess({"file": name}, copies)
    if result["text"] is not None:
        return files.numbers.filled(result["text"])
    failure = _FAILURE.match(result["error"] or "")
    file, line, message = failure.groups() if failure else (name, None, result["error"])
    message = f"must be Antimony, but is not: {_one_line(message)}"
    raise FileIssues([Issue(Path(file).name, (), message, int(line) if line else None)])


def _is_text(path_or_text: str | Path) -> bool:
    return isinstance(path_or_text, str) and re.search(r"\n|;|=|->", path_or_text) is not None


def _name_of(path_or_text: str | Path) -> str:
    return "text" if _is_text(path_or_text) else Path(path_or_text).name


class _Files:
    """The files of a model, checked and copied to the folder in which antimony reads them."""

    def __init__(self, copies: Path, folder: Path | None):
        self.copies, self.folder, self.numbers = copies, folder, Numbers()

    def add(self, name: str, text: str) -> None:
        """Check and copy a file, and before it the files that it imports."""
        done: dict[str, bool] = {name: False}
        todo = [(name, text, self._imports(name, text), set())]
        while todo:
            name, text, imports, firsts = todo[-1]
            unread = next(((file, line) for file, line in imports if file not in done), None)
            if unread is not None:
                file, line = unread
                if len(done) >= MOST_FILES:
                    stop(name, f"must import at most {MOST_FILES} files, but imports more.", line)
                inside = self._imported(name, file, line)
                firsts.add(file)
                done[file] = False
                todo.append((file, inside, self._imports(file, inside), set()))
                continue
            circular = next(((file, line) for file, line in imports if not done[file]), None)
            if circular is not None:
                file, line = circular
                stop(name, f"must not import itself, but does through {file}.", line)
            self._copy(name, text, firsts)
            done[name] = True
            todo.pop()

    def _copy(self, name: str, text: str, firsts: set[str]) -> None:
        """Copy a file, without imports of files that were imported before, as antimony reads a file once."""

        def once(match: re.Match[str]) -> str:
            if match[2] in firsts:
                firsts.remove(match[2])
                return match[0]
            return match[0] if match[2] is None else ""

        if not _is_sbml(text):
            text = _IMPORT.sub(once, with_placeholders(name, text, _bare(text), self.numbers))
        (self.copies / name).write_text(text, encoding="utf-8", newline="\n")

    def _imports(self, name: str, text: str) -> list[tuple[str, int]]:
        """Return the files that a text imports, each with its line.

        Text in a comment or a string that looks like an import is checked too, as antimony might read it as one.
        """
        if len(text) > MOST_BYTES:
            stop(name, f"must have at most {MOST_BYTES} bytes, but has more.")
        if _is_sbml(text):
            try:
                source_of(text)
            except FileIssues as error:
                raise FileIssues([dataclasses.replace(issue, file=name) for issue in error.issues]) from None
            if "externalModelDefinition" in text:
                stop(name, "not supported: models from other files in an imported file in SBML.")
            return []
        _check_depth(name, text)
        bare = _bare(text)
        foreign = re.search(r"[^\x00-\x7f]", bare)
        if foreign:
            line = text[: foreign.start()].count("\n") + 1
            stop(name, f"must have only letters of ASCII outside comments and quotations, but has {foreign[0]}.", line)
        imports = []
        for match in _IMPORT.finditer(text):
            line = text[: match.start()].count("\n") + 1
            file = match[2]
            in_code = bare.startswith("import", match.start())
            if file is None and not in_code:
                continue
            if file is None:
                stop(name, "must import a file in quotation marks, but does not.", line)
            if not re.fullmatch(r"[\w][\w. -]*", file):
                stop(name, f"must import files of the same folder, but imports {file[:80]}.", line)
            if in_code or (self.folder is not None and (self.folder / file).is_file()):
                imports.append((file, line))
        return imports

    def _imported(self, name: str, file: str, line: int) -> str:
        if self.folder is None:
            stop(name, f"must import no file, because it is from no folder, but imports {file}.", line)
        path = self.folder / file
        if not path.is_file() or path.resolve().parent != self.folder:
            stop(name, f"must import files of the same folder, but there is no {file}.", line)
        return _content(path, file)


def run_in_subprocess(task: Task, folder: str | None = None) -> Result:
    """Let antimony convert a model in a process of its own, in a folder; return the text, or the error."""
    require("antimony", extra="antimony")
    command = [sys.executable, "-P", str(Path(_worker.__file__))]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task),
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST,
            check=False,
            cwd=folder,
        )
        return json.loads(done.stdout) if done.returncode == 0 else {"text": None, "error": "antimony gives up"}
    except subprocess.TimeoutExpired:
        return {"text": None, "error": f"antimony takes longer than {LONGEST:g} s"}
    except (UnicodeDecodeError, json.JSONDecodeError):
        return {"text": None, "error": "antimony gives up"}


def _content(path: Path, name: str) -> str:
    return text_of(content_of(path, name, MOST_BYTES), name)


def _bare(text: str) -> str:
    """Return a text with blanks in place of comments and quotations."""
    return _ASIDE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _check_depth(name: str, text: str) -> None:
    depth = 0
    for bracket in re.finditer(r"[()\[\]{}]", text):
        depth = max(0, depth + (1 if bracket[0] in "([{" else -1))
        if depth > MOST_DEEP:
            line = text[: bracket.start()].count("\n") + 1
            stop(name, f"must have at most {MOST_DEEP} nested brackets, but has more.", line)


def _is_sbml(text: str) -> bool:
    return text.lstrip("\ufeff \t\n").startswith("<")


def _one_line(text: str | None) -> str:
    words = " ".join((text or "no reason given").split())
    return words if len(words) <= 300 else words[:297] + "..."
