"""Write a network as SBML Level 3 Version 2.

Specification: Hucka et al., J Integr Bioinform 2019;16:20190021, doi:10.1515/jib-2019-0021.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._checks import ArgumentError, check_instance
from qspjax._expression import Expression, functions_in, symbols
from qspjax._files import write_text
from qspjax.io.sbml._library import library
from qspjax.io.sbml._write_ids import Ids, is_legal
from qspjax.io.sbml._write_math import Mathematics, Numbers
from qspjax.io.sbml._write_units import UnitDefinitions
from qspjax.models import Network
from qspjax.models.network import Compartment, Definition, NetworkEvent, Parameter, Participant, Reaction, Species
from qspjax.models.network._problems import mathematics

if TYPE_CHECKING:
    import libsbml

    from qspjax.io.sbml._math import WithMath

MOST_CHECKED = 200
"""The number of rules and reactions up to which libsbml checks everything; the time grows with its third power."""


def write_sbml(network: Network, path: str | Path | None = None) -> str:
    """Write a network as SBML Level 3 Version 2, with the numbers that it has now.

    Ids that SBML does not allow are changed: parameters of one reaction alone (`binding.kon`) become its local
    parameters, and other characters underscores. Units become unit definitions where pint can read them (extra
    `cli`). Numbers keep all their digits. An existing file is replaced at the very end.

    Args:
        network: The network; any other model has no reactions to write.
        path: The file to write, None for none.

    Returns:
        The text.

    Raises:
        ValueError: If the model is not a network, or SBML cannot express it.
        OSError: If the file cannot be written. Nothing is left half-written.

    Example:
        >>> import qspjax as qsp
        >>> network = qsp.models.Network(
        ...     species={"drug": 100.0},
        ...     parameters={"k": 0.1},
        ...     reactions={"loss": qsp.models.Reaction("drug ->", "k * drug")},
        ... )
        >>> text = qsp.io.write_sbml(network)
        >>> qsp.io.read_sbml(text).values["k"]
        Array(0.1, dtype=float64)
    """
    check_instance("network", network, Network, "a network (models.Network)")
    text = sbml_of(network.definition)
    if path is not None:
        write_text(Path(path), text)
    return text


def sbml_of(definition: Definition) -> str:
    """Return a definition as SBML.

    Raises:
        ValueError: If SBML cannot express it.
    """
    check_no_learned(definition, "SBML")
    numbers = Numbers()
    return numbers.filled(with_placeholders(definition, numbers))


def check_no_learned(definition: Definition, language: str) -> None:
    """Check that no formula calls a function that is learned, which no file of equations holds.

    Raises:
        ValueError: If one does.
    """
    for id, formula in mathematics(definition):
        for name in functions_in(formula):
            problem = f"`{id}` calls `{name}`, which is learned: replace it by a formula, network.replace({id!r}, ...)"
            raise ArgumentError("network", f"must consist of formulas to be written as {language}, but {problem}.")


def with_placeholders(definition: Definition, numbers: Numbers) -> str:
    """Return a definition as SBML with placeholders for numbers that need one, which are kept in `numbers`."""
    package = library()
    document = package.SBMLDocument(3, 2)
    model = document.createModel()
    _Model(model, definition, numbers).write()
    _check(document, model)
    return package.writeSBMLToString(document)


def _check(document: "libsbml.SBMLDocument", model: "libsbml.Model") -> None:
    """Check the consistency of the document with libsbml; units need not agree, as in the network."""
    package = library()
    formulas = model.getNumRules() + model.getNumInitialAssignments() + model.getNumReactions()
    for category, enabled in (
        (package.LIBSBML_CAT_UNITS_CONSISTENCY, False),
        (package.LIBSBML_CAT_MODELING_PRACTICE, False),
        (package.LIBSBML_CAT_GENERAL_CONSISTENCY, formulas <= MOST_CHECKED),
    ):
        document.setConsistencyChecks(category, enabled)
    document.checkConsistency()
    errors = [document.getError(i) for i in range(document.getNumErrors())]
    wrong = [error for error in errors if error.getSeverity() >= package.LIBSBML_SEV_ERROR]
    if wrong:
        messages = "\n".join(dict.fromkeys(" ".join(error.getMessage().split()) for error in wrong))
        raise ValueError(f"Argument `network` must be what SBML can express, but is not:\n{messages}")


class _Model:
    """The model of libsbml to which a definition is written, part by part."""

    def __init__(self, model: "libsbml.Model", definition: Definition, numbers: Numbers):
        """Assign the ids."""
        self.model, self.d, self.numbers = model, definition, numbers
        self.local = _local_parameters(definition)
        local = {parameter for names in self.local.values() for parameter in names}
        events = [event.name for event in definition.events if event.name]
        self.ids = Ids([*(id for id in definition.ids() if id not in local), *events])
        self.mathematics = Mathematics(self.ids, numbers)
        self.units = UnitDefinitions(model)
        self.compartment = self._implicit_compartment()
        varied = (*definition.assignments, *definition.rates, *(id for e in definition.events for id in e.assign))
        self.varied = frozenset(varied)

    def write(self) -> None:
        """Write everything."""
        d = self.d
        self._head()
        for id, compartment in d.compartments.items():
            self._compartment(id, compartment)
        for id, species in d.species.items():
            self._species(id, species)
        for id, parameter in d.parameters.items():
            if id in self.ids:
                self._parameter(id, parameter)
        for id, expression in d.initial.items():
            self._formula(self.model.createInitialAssignment(), expression, symbol=id)
        for id, expression in d.assignments.items():
            self._formula(self.model.createAssignmentRule(), expression, variable=id)
        for id, expression in d.rates.items():
            self._formula(self.model.createRateRule(), expression, variable=id)
        for expression in d.algebraic:
            self._formula(self.model.createAlgebraicRule(), expression)
        for id, reaction in d.reactions.items():
            self._reaction(id, reaction)
        for event in d.events:
            self._event(event)

    def _head(self) -> None:
        d, model = self.d, self.model
        if d.name:
            id = self.ids.new(d.name, "model")
            model.setId(id)
            if id != d.name:
                model.setName(d.name)
        if d.conversion is not None:
            model.setConversionFactor(self.ids[d.conversion])
        # the unit of substance of a model is that of every species without one
        substance = d.dose_unit if all(species.unit for species in d.species.values()) else ""
        for unit, set_unit in ((d.time_unit, model.setTimeUnits), (substance, model.setSubstanceUnits)):
            id = self.units.of(unit)
            if id is not None:
                set_unit(id)

    def _implicit_compartment(self) -> str | None:
        """Create the compartment of species that name none; None if it is not needed."""
        d = self.d
        if all(d.compartment_of(id) in d.compartments for id in d.species):
            return None
        compartment = self.model.createCompartment()
        compartment.setId(self.ids.new("compartment"))
        compartment.setSpatialDimensions(3)
        compartment.setSize(1.0)
        compartment.setConstant(True)
        return compartment.getId()

    def _compartment(self, id: str, compartment: Compartment) -> None:
        element = self.model.createCompartment()
        self._name(element, id, compartment.doc)
        element.setSpatialDimensions(compartment.dimensions)
        if compartment.size is not None:
            element.setSize(self.numbers.place(compartment.size))
        element.setConstant(compartment.constant and id not in self.varied)
        self._unit(element, element.setUnits, compartment.unit)

    def _species(self, id: str, species: Species) -> None:
        element, compartment = self.model.createSpecies(), self.d.compartment_of(id)
        self._name(element, id, species.doc)
        element.setCompartment(self.ids[compartment] if compartment in self.d.compartments else self.compartment)
        if species.initial is not None:
            (element.setInitialAmount if species.is_amount else element.setInitialConcentration)(
                self.numbers.place(species.initial)
            )
        element.setHasOnlySubstanceUnits(species.only_substance)
        element.setBoundaryCondition(species.boundary)
        element.setConstant(species.constant)
        if species.conversion is not None:
            element.setConversionFactor(self.ids[species.conversion])
        self._unit(
            element,
            element.setSubstanceUnits,
            species.unit if species.is_amount else self._substance(species.unit, compartment),
        )

    def _substance(self, unit: str, compartment: str) -> str:
        """Return the unit of the amount of a species whose concentration has a unit, `""` if it is not known."""
        size = self.d.compartments[compartment].unit if compartment in self.d.compartments else ""
        return f"({unit})*({size})" if unit and size else ""

    def _parameter(self, id: str, parameter: Parameter) -> None:
        element = self.model.createParameter()
        self._name(element, id, parameter.doc)
        if parameter.value is not None:
            element.setValue(self.numbers.place(parameter.value))
        element.setConstant(parameter.constant and id not in self.varied)
        self._unit(element, element.setUnits, parameter.unit)

    def _formula(self, element: "WithMath", expression: Expression, **attributes: str) -> None:
        for name, id in attributes.items():
            getattr(element, f"set{name.capitalize()}")(self.ids[id])
        element.setMath(self.mathematics.tree(expression))

    def _reaction(self, id: str, reaction: Reaction) -> None:
        element = self.model.createReaction()
        self._name(element, id, reaction.name)
        element.setReversible(reaction.reversible)
        for participant in reaction.reactants:
            self._participant(element.createReactant(), participant, id)
        for participant in reaction.products:
            self._participant(element.createProduct(), participant, id)
        taking_part = {participant.species for _, participant in reaction.participants()}
        used = sorted(name for name in symbols(reaction.rate) if name in self.d.species and name not in taking_part)
        for name in dict.fromkeys((*reaction.modifiers, *used)):
            element.createModifier().setSpecies(self.ids[name])
        law, local = element.createKineticLaw(), self.local.get(id, {})
        for parameter_id, name in local.items():
            parameter, item = self.d.parameters[parameter_id], law.createLocalParameter()
            item.setId(name)
            if parameter.doc:
                item.setName(parameter.doc)
            if parameter.value is not None:
                item.setValue(self.numbers.place(parameter.value))
            self._unit(item, item.setUnits, parameter.unit)
        law.setMath(self.mathematics.tree(reaction.rate, local))

    def _participant(self, element: "libsbml.SpeciesReference", participant: Participant, reaction: str) -> None:
        element.setSpecies(self.ids[participant.species])
        count = participant.stoichiometry
        if isinstance(count, Expression) and isinstance(count.value, float):
            count = count.value
        is_formula = isinstance(count, Expression)
        id = self.ids[participant.name] if participant.name else ""
        if is_formula and not id:
            id = self.ids.new(f"{reaction}_{participant.species}")
        if id:
            element.setId(id)
        if isinstance(count, Expression):
            rule = self.model.createAssignmentRule()
            rule.setVariable(id)
            rule.setMath(self.mathematics.tree(count))
        elif count is not None:
            element.setStoichiometry(self.numbers.place(count))
        element.setConstant(participant.constant and not is_formula and participant.name not in self.varied)

    def _event(self, event: NetworkEvent) -> None:
        element = self.model.createEvent()
        if event.name:
            element.setId(self.ids[event.name])
        element.setUseValuesFromTriggerTime(event.from_trigger_time)
        trigger = element.createTrigger()
        trigger.setPersistent(event.persistent)
        trigger.setInitialValue(event.initial_value)
        trigger.setMath(self.mathematics.tree(event.trigger))
        for expression, create in ((event.priority, element.createPriority), (event.delay, element.createDelay)):
            if expression is not None:
                create().setMath(self.mathematics.tree(expression))
        for id, expression in event.assign.items():
            self._formula(element.createEventAssignment(), expression, variable=id)

    def _name(self, element: "libsbml.SBase", id: str, doc: str) -> None:
        element.setId(self.ids[id])
        if doc or self.ids[id] != id:
            element.setName(doc or id)

    def _unit(self, element: "libsbml.SBase", set_unit: Callable[[str], object], unit: str) -> None:
        """Set the unit of an element; one that SBML cannot express becomes a note."""
        id = self.units.of(unit)
        if id is not None:
            set_unit(id)
        elif unit:
            text = unit.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            element.setNotes(f'<body xmlns="http://www.w3.org/1999/xhtml"><p>Unit: {text}</p></body>')


def _local_parameters(d: Definition) -> Mapping[str, Mapping[str, str]]:
    """Return the parameters that can be written as local parameters of reactions, `{reaction: {id: name}}`.

    They are called `reaction.name`, are constant numbers, and are used only in the rate of that reaction, in which
    nothing else has that name, nor a species that takes part in it.
    """
    candidates: dict[str, dict[str, str]] = {}
    for id, parameter in d.parameters.items():
        reaction, dot, name = id.partition(".")
        if dot and reaction in d.reactions and is_legal(name) and parameter.constant and parameter.value is not None:
            candidates.setdefault(reaction, {})[id] = name
    if not candidates:
        return {}
    elsewhere = _used_outside_rates(d)
    names_in_use: dict[str, set[str]] = {}
    users: dict[str, set[str]] = {}
    for id, reaction in d.reactions.items():
        used, participants = symbols(reaction.rate), reaction.participants()
        names_in_use[id] = {*used, *reaction.modifiers, *(participant.species for _, participant in participants)}
        for name in used:
            users.setdefault(name, set()).add(id)

    def fits(reaction: str, id: str, name: str) -> bool:
        return id not in elsewhere and users.get(id, set()) <= {reaction} and name not in names_in_use[reaction]

    return {
        reaction: {id: name for id, name in names.items() if fits(reaction, id, name)}
        for reaction, names in candidates.items()
    }


def _used_outside_rates(d: Definition) -> frozenset[str]:
    factors = [d.conversion, *(species.conversion for species in d.species.values())]
    determined = (*d.assignments, *d.rates, *d.initial, *(id for event in d.events for id in event.assign))
    formulas = dict.fromkeys(_formulas_outside_rates(d))
    return frozenset().union(filter(None, factors), determined, *map(symbols, formulas))


def _formulas_outside_rates(d: Definition) -> Iterable[Expression]:
    yield from (*d.assignments.values(), *d.rates.values(), *d.initial.values(), *d.algebraic)
    for reaction in d.reactions.values():
        counts = (participant.stoichiometry for _, participant in reaction.participants())
        yield from (count for count in counts if isinstance(count, Expression))
    for event in d.events:
        parts = (event.trigger, event.delay, event.priority, *event.assign.values())
        yield from (part for part in parts if part is not None)
