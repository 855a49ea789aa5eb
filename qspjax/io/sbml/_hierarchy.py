"""Hierarchical models (package comp): their files are checked, their size is limited, and they are flattened into one.

Reference: Smith et al., J Integr Bioinform 2015;12:268, doi:10.2390/biecoll-jib-2015-268.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import MOST_ISSUES
from qspjax.io.sbml._library import gather, library, read, run_in_subprocess
from qspjax.io.sbml._text import Source, source_of

if TYPE_CHECKING:
    import libsbml

MOST_FILES = 100
"""The maximum number of files of a hierarchical model."""

MOST_ELEMENTS = 200_000
"""The maximum number of elements of a model with all its submodels."""

_FILE = re.compile(r"\w[\w. -]*")
T = TypeVar("T")
Model: TypeAlias = tuple[str, str]
"""A model: the name of its file, and its id ("" for the model of the file that is not a definition)."""


def flattened(document: "libsbml.SBMLDocument", source: Source, issues: IssueCollector) -> "libsbml.SBMLDocument":
    """Return the document in which all submodels are part of its model; it has no lines.

    Raises:
        FileIssues: If a file of a model is not in the same folder or has issues, a model contains itself, the result is
            too large, or libsbml finds an error or cannot flatten it.
    """
    _check_growth(_files(document, source, issues), source.name, issues)
    package = library()
    checks = package.LIBSBML_CAT_IDENTIFIER_CONSISTENCY, package.LIBSBML_CAT_MATHML_CONSISTENCY
    location = "" if source.folder is None else f"file:{source.folder / source.name}"
    report = run_in_subprocess(source.text, checks, location=location, flatten=True)
    gather(report["errors"] if report else (), issues)
    issues.close()
    if not report or report["text"] is None:
        issues.stop("must be a hierarchy of models that can be flattened, but libsbml could not.", "sbml")
    issues.has_lines = False
    return read(report["text"], issues)


def _files(
    document: "libsbml.SBMLDocument", source: Source, issues: IssueCollector
) -> "dict[str, libsbml.SBMLDocument]":
    """Return the documents of all files from which the models come, by name."""
    files, waiting = {source.name: document}, [source.name]
    while waiting:
        plugin = files[waiting.pop()].getPlugin("comp")
        if plugin is None:
            continue
        for item in _each(plugin.getExternalModelDefinition, plugin.getNumExternalModelDefinitions):
            name, element = item.getSource(), f"externalModelDefinition {item.getId()}"
            if name in files:
                continue
            files[name] = _external_document(name, element, item.getLine(), source, issues)
            waiting.append(name)
            if len(files) > MOST_FILES:
                issues.stop(f"must consist of at most {MOST_FILES} files, but has more.", element)
    return files


def _external_document(
    name: str, element: str, line: int, source: Source, issues: IssueCollector
) -> "libsbml.SBMLDocument":
    if source.folder is None:
        issues.stop(
            "not supported: models of other files in an archive, or in a text that is not from a file.",
            element,
            line=line,
        )
    if not _FILE.fullmatch(name):
        issues.stop(f"must be the name of a file in the same folder, but is {name[:80]}.", element, line=line)
    path = source.folder / name
    if not path.is_file():
        issues.stop(f"must be a file in the same folder, but there is no {name[:80]}.", element, line=line)
    if path.resolve().parent != source.folder:
        issues.stop(f"must be a file in the same folder, but {name[:80]} lies elsewhere.", element, line=line)
    return read(source_of(path).text, IssueCollector(name, most=MOST_ISSUES))


def _check_growth(files: "Mapping[str, libsbml.SBMLDocument]", main: str, issues: IssueCollector) -> None:
    """Check that no model contains itself, and that all submodels together are not too large."""
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
        size, parts = models.get(key[0], {}).get(key[1], (0, ()))
        inner = [(part[0] or key[0], part[1]) for part in parts]
        circular = next((part for part in inner if part in path), None)
        if circular is not None:
            model = files[circular[0]].getModel()
            name = circular[1] or ("" if model is None else model.getId())
            issues.stop("must not contain itself, but does.", f"model {name}".strip())
        unknown = [part for part in inner if part not in sizes]
        if unknown:
            stack.extend(unknown[:1])
            continue
        sizes[key] = size + sum(sizes[part] for part in inner)
        if sizes[key] > MOST_ELEMENTS:
            issues.stop(f"must grow to at most {MOST_ELEMENTS} elements, but grows to {sizes[key]}.", f"model {key[1]}")
        path.pop(key)
        stack.pop()


def _models(document: "libsbml.SBMLDocument") -> dict[str, tuple[int, tuple[Model, ...]]]:
    """Return the size of each model of a file and the models to which it refers (file "" for the same one), by id."""
    models: dict[str, tuple[int, tuple[Model, ...]]] = {}
    plugin = document.getPlugin("comp")
    model = document.getModel()
    if model is not None:
        models[""] = models[model.getIdAttribute()] = _size(model), _submodels(model)
    if plugin is not None:
        for definition in _each(plugin.getModelDefinition, plugin.getNumModelDefinitions):
            models[definition.getIdAttribute()] = _size(definition), _submodels(definition)
        for external in _each(plugin.getExternalModelDefinition, plugin.getNumExternalModelDefinitions):
            models[external.getId()] = 0, ((external.getSource(), external.getModelRef()),)
    return models


def _size(model: "libsbml.Model") -> int:
    counts = (
        *(model.getNumFunctionDefinitions(), model.getNumUnitDefinitions(), model.getNumCompartments()),
        *(model.getNumSpecies(), model.getNumParameters(), model.getNumInitialAssignments(), model.getNumRules()),
        *(model.getNumReactions(), model.getNumEvents()),
    )
    return 1 + sum(counts)


def _submodels(model: "libsbml.Model") -> tuple[Model, ...]:
    plugin = model.getPlugin("comp")
    if plugin is None:
        return ()
    return tuple(("", submodel.getModelRef()) for submodel in _each(plugin.getSubmodel, plugin.getNumSubmodels))


def _each(get: Callable[[int], T], count: Callable[[], int]) -> list[T]:
    return [get(i) for i in range(count())]
