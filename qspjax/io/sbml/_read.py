"""Read SBML, a file or text, as a network."""

import dataclasses
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._checks import check_instance, warn
from qspjax.io._content import unpacked_name
from qspjax.io._issues import FileIssues, Issue, IssueCollector
from qspjax.io.sbml._document import check_units, document_of
from qspjax.io.sbml._issues import MOST_ISSUES, add_at
from qspjax.io.sbml._math import Mathematics
from qspjax.io.sbml._parts import (
    Ids,
    check_participants,
    compartments,
    each,
    local_parameters,
    parameters,
    reaction,
    species,
)
from qspjax.io.sbml._rules import Rules, changed_in_level_1, events
from qspjax.io.sbml._text import Source, source_of
from qspjax.io.sbml._units import Units
from qspjax.models import Network
from qspjax.models.network import Definition, Parameter, problems

if TYPE_CHECKING:
    import libsbml

MOST_MESSAGE = 400
"""The maximum number of characters of a message: a cycle may be long."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A model that was read from a file.

    Attributes:
        definition: The network as data.
        level: Level of SBML.
        version: Version of the level.
        warnings: Remarks that leave the file usable: units that do not agree, parts that were ignored.

    Example:
        >>> import qspjax as qsp
        >>> decay = qsp.models.Reaction("A ->", "k * A")
        >>> network = qsp.models.Network(species={"A": 1.0}, parameters={"k": 0.1}, reactions={"decay": decay})
        >>> reading = read_definition(qsp.io.write_sbml(network))
        >>> reading.level, reading.version, list(reading.definition.reactions)
        (3, 2, ['decay'])
    """

    definition: Definition
    level: int
    version: int
    warnings: tuple[Issue, ...]


def read_sbml(path_or_text: str | Path) -> Network:
    """Read a model in SBML, Level 1 to 3, with the package comp.

    Nothing in a file is executed, no entity is expanded, and no other file is opened, except that a hierarchical model
    may use models from files of the same folder. Archives are read in memory. Reactions whose rate uses species that
    they do not declare, or that have no participants where SBML asks for them, are read as they are, with a warning.

    Args:
        path_or_text: The file, or text that begins with `<`. The file may be compressed (`.xml.gz`, `.xml.bz2`,
            `.xml.xz`, `.zip`), or a COMBINE archive (`.omex`), whose master is read, or its only model;
            `"archive.omex/model.xml"` names one of several.

    Returns:
        The network; local parameters of reactions are called `reaction.parameter`.

    Raises:
        FileIssues: If the file has mistakes or something that is not supported: a list of all, with lines and elements.
        ImportError: If libsbml is missing (extra `sbml`).

    Example:
        >>> import qspjax as qsp
        >>> network = qsp.io.read_sbml('''
        ...     <sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2">
        ...       <model timeUnits="second">
        ...         <listOfParameters><parameter id="x" value="8" constant="false"/></listOfParameters>
        ...         <listOfRules>
        ...           <rateRule variable="x">
        ...             <math xmlns="http://www.w3.org/1998/Math/MathML">
        ...               <apply><minus/><apply><divide/><ci> x </ci><cn> 2 </cn></apply></apply>
        ...             </math>
        ...           </rateRule>
        ...         </listOfRules>
        ...       </model>
        ...     </sbml>''')
        >>> print(network.equations())
        x' = -(x / 2)
    """
    reading = read_definition(path_or_text)
    warn_of_reactions(reading.warnings)
    return Network.of(reading.definition)


def warn_of_reactions(warnings: Iterable[Issue]) -> None:
    """Warn once of the reactions among the warnings of a reading: their participants are not what SBML asks for."""
    doubtful = [issue for issue in warnings if issue.element.startswith("reaction ")]
    if doubtful:
        warn("Reactions are read as they are, but some break rules of SBML:\n" + str(FileIssues(doubtful)))


def read_definition(path_or_text: str | Path, *, units: bool = False) -> Reading:
    """Read a model in SBML as data.

    Args:
        path_or_text: The file, or text that begins with `<`.
        units: Whether to warn of units that do not agree.

    Raises:
        FileIssues: If the file has mistakes or something that is not supported.
        ImportError: If libsbml is missing (extra `sbml`).

    Example:
        >>> import qspjax as qsp
        >>> decay = qsp.models.Reaction("A ->", "k * A")
        >>> network = qsp.models.Network(species={"A": 1.0}, parameters={"k": 0.1}, reactions={"decay": decay})
        >>> print(read_definition(qsp.io.write_sbml(network)).definition.species["A"].initial)
        1.0
    """
    check_instance("path_or_text", path_or_text, (str, Path), "a path, or text that begins with <")
    source = source_of(path_or_text)
    issues = IssueCollector(source.name, most=MOST_ISSUES)
    document = document_of(source, issues)
    model = document.getModel()
    assert model is not None  # else it was refused
    definition = _definition(model, source, issues)
    if units:
        check_units(source, issues)
    return Reading(definition, document.getLevel(), document.getVersion(), tuple(issues.warnings))


def _definition(model: "libsbml.Model", source: Source, issues: IssueCollector) -> Definition:
    ids, units = Ids(model, issues), Units(model)
    mathematics = Mathematics(model, ids.__contains__, issues)
    local: dict[str, Parameter] = {}
    reactions = {}
    for item in each(model.getListOfReactions()):
        local |= local_parameters(item, units, issues)
        reactions[item.getIdAttribute()] = read = reaction(item, mathematics, issues)
        check_participants(item, read, model, issues)
    rules = Rules(model, ids, mathematics, issues)
    changed = changed_in_level_1(rules)
    definition = Definition(
        name=model.getName() or model.getIdAttribute() or Path(unpacked_name(source.name)).stem,
        time_unit=units.time,
        compartments=compartments(model, units, changed, rules),
        species=species(model, units),
        parameters=parameters(model, units, changed) | local,
        reactions=reactions,
        assignments=rules.assignments,
        rates=rules.rates,
        algebraic=tuple(rules.algebraic),
        initial=rules.initial,
        events=tuple(events(model, ids, mathematics, issues)),
        conversion=model.getConversionFactor() if model.isSetConversionFactor() else None,
        dose_unit=units.substance,
    )
    if model.getNumConstraints():
        issues.warn(f"ignored: {model.getNumConstraints()} constraints.", "model", line=model.getLine())
    issues.close()
    for problem in problems(definition):
        item = ids.items.get(problem.id)
        message = textwrap.shorten(problem.message, MOST_MESSAGE, placeholder=" ...")
        if item is not None:
            add_at(issues, item, message)
        else:
            issues.add(message, problem.id)
    issues.close()
    return definition
