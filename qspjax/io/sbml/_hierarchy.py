"""Hierarchical models (package comp): other files are looked through, what they grow to is counted, all is made one.

Reference: Smith et al., J Integr Bioinform 2015;12:268, doi:10.2390/biecoll-jib-2015-268.
"""

import re
from collections.abc import Callable
from typing import Any

from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import MOST_ISSUES
from qspjax.io.sbml._library import apart, gather, libsbml, read
from qspjax.io.sbml._text import Source, source_of

MOST_FILES = 100
"""The most files that a hierarchical model may consist of."""

MOST_ELEMENTS = 200_000
"""The most elements that a model may have when all its submodels are in it."""

_FILE = re.compile(r"\w[\w. -]*")
Model = tuple[str, str]
"""A model: the name of its file, and its id ("" for the model of the file that is no definition)."""


def flattened(document: Any, source: Source, issues: IssueCollector) -> Any:
    """Return the document in which all submodels are part of its model; it has no lines.

    Raises:
        FileIssues: If a file of a model is not in the same folder or has issues, a model contains itself, all together
            is too large, or libsbml finds an error or cannot do it.
    """
    _check_growth(_files(document, source, issues), source.name, issues)
    library = libsbml()
    checks = library.LIBSBML_CAT_IDENTIFIER_CONSISTENCY, library.LIBSBML_CAT_MATHML_CONSISTENCY
    location = "" if source.folder is None else f"file:{source.folder / source.name}"
    result = apart(source.text, checks, location=location, flatten=True)
    gather(result["errors"] if result else (), issues)
    issues.close()
    if not result or result["text"] is None:
        issues.stop("must be a hierarchy of models that can be made one, but libsbml could not.", "sbml")
    issues.has_lines = False
    return read(result["text"], issues)


def _files(document: Any, source: Source, issues: IssueCollector) -> dict[str, Any]:
    """Return the documents of all files that the models come from, by name."""
    files, waiting = {source.name: document}, [source.name]
    while waiting:
        plugin = files[waiting.pop()].getPlugin("comp")
        for i in range(plugin.getNumExternalModelDefinitions() if plugin is not None else 0):
            item = plugin.getExternalModelDefinition(i)
            name, element = item.getSource(), f"externalModelDefinition {item.getId()}"
            if name in files:
                continue
            files[name] = _other(name, element, item.getLine(), source, issues)
            waiting.append(name)
            if len(files) > MOST_FILES:
                issues.stop(f"must consist of at most {MOST_FILES} files, but has more.", element)
    return files


def _other(name: str, element: str, line: int, source: Source, issues: IssueCollector) -> Any:
    if source.folder is None:
        issues.stop(
            "not supported: models of other files in an archive, or in a text that is of no file.", element, line=line
        )
    if not _FILE.fullmatch(name):
        issues.stop(f"must be the name of a file in the same folder, but is {name[:80]}.", element, line=line)
    path = source.folder / name
    if not path.is_file():
        issues.stop(f"must be a file in the same folder, but there is no {name[:80]}.", element, line=line)
    if path.resolve().parent != source.folder:
        issues.stop(f"must be a file in the same folder, but {name[:80]} lies elsewhere.", element, line=line)
    return read(source_of(path).text, IssueCollector(name, most=MOST_ISSUES))


def _check_growth(files: dict[str, Any], main: str, issues: IssueCollector) -> None:
    """Check that no model contains itself, and how many elements all submodels together have."""
    models = {name: _models(document) for name, document in files.items()}
    sizes: dict[Model, int] = {}
    path: dict[Model, None] = {}
    stack: list[Model] = [(main, "")]
    while stack:
        key = stack[-1]
        if key in sizes:
            stack.pop()
            continue
        path[key] = None
        own, parts = models.get(key[0], {}).get(key[1], (0, ()))
        inner = [(part[0] or key[0], part[1]) for part in parts]
        again = next((part for part in inner if part in path), None)
        if again is not None:
            issues.stop("must not contain itself, but does.", f"model {again[1] or files[again[0]].getModel().getId()}")
        missing = [part for part in inner if part not in sizes]
        if missing:
            stack.extend(missing[:1])
            continue
        sizes[key] = own + sum(sizes[part] for part in inner)
        if sizes[key] > MOST_ELEMENTS:
            issues.stop(f"must grow to at most {MOST_ELEMENTS} elements, but does to {sizes[key]}.", f"model {key[1]}")
        path.pop(key)
        stack.pop()


def _models(document: Any) -> dict[str, tuple[int, tuple[Model, ...]]]:
    """Return the size of each model of a file and the models that it refers to (file "" for the same one), by id."""
    found: dict[str, tuple[int, tuple[Model, ...]]] = {}
    plugin = document.getPlugin("comp")
    model = document.getModel()
    if model is not None:
        found[""] = found[model.getIdAttribute()] = _size(model), _submodels(model)
    if plugin is not None:
        for definition in _each(plugin.getModelDefinition, plugin.getNumModelDefinitions):
            found[definition.getIdAttribute()] = _size(definition), _submodels(definition)
        for external in _each(plugin.getExternalModelDefinition, plugin.getNumExternalModelDefinitions):
            found[external.getId()] = 0, ((external.getSource(), external.getModelRef()),)
    return found


def _size(model: Any) -> int:
    counts = (
        *(model.getNumFunctionDefinitions(), model.getNumUnitDefinitions(), model.getNumCompartments()),
        *(model.getNumSpecies(), model.getNumParameters(), model.getNumInitialAssignments(), model.getNumRules()),
        *(model.getNumReactions(), model.getNumEvents()),
    )
    return 1 + sum(counts)


def _submodels(model: Any) -> tuple[Model, ...]:
    plugin = model.getPlugin("comp")
    if plugin is None:
        return ()
    return tuple(("", submodel.getModelRef()) for submodel in _each(plugin.getSubmodel, plugin.getNumSubmodels))


def _each(get: Callable[[int], Any], count: Callable[[], int]) -> list[Any]:
    return [get(i) for i in range(count())]
