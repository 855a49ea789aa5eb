"""A cohort: one model, and the names of the leaves that differ between patients."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from qspjax._arrays import namespace, taken
from qspjax._checks import ArgumentError, check_instance, check_no_unit, check_one_of, described, refuse
from qspjax._interventions import Interventions, interventions_of, without_record
from qspjax._made import made
from qspjax._model import AbstractModel
from qspjax._names import at, follow, names, path_of
from qspjax._types import ArrayInput


def as_array(argument: str, value: ArrayInput) -> jax.Array:
    """Return numbers as an array; anything else is refused."""
    check_no_unit(argument, value)
    try:
        return jnp.asarray(value) if namespace(value) is jnp else jax.device_put(np.asarray(value))
    except (TypeError, ValueError):
        refuse(argument, "hold numbers", value if isinstance(value, str) else described(value))


class Cohort(eqx.Module):
    """Virtual patients: a model whose named leaves have a leading axis of patients; all other leaves are shared.

    Attributes:
        model: The model; each leaf in `varying` has shape (patients, ...).
        covariates: Covariates of the patients, by name, each of shape (patients,).
        varying: The dotted names of the leaves that differ.
        size: Number of patients.
        held: The names of covariates that `do` set in their population.

    Raises:
        ValueError: If a varying name is not a parameter of the model, or a leaf has another number of patients.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> cohort = qsp.Cohort.of(patient, {"CL": jnp.array([2.0, 3.0, 4.0])})
        >>> cohort.size, float(cohort.patient(2).CL)
        (3, 4.0)
    """

    model: AbstractModel
    covariates: dict[str, PyTree]
    varying: tuple[str, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)
    held: tuple[str, ...] = eqx.field(default=(), static=True)

    @classmethod
    def of(
        cls,
        model: AbstractModel,
        values: Mapping[str, ArrayInput],
        *,
        covariates: Mapping[str, ArrayInput] | None = None,
        size: int | None = None,
        held: tuple[str, ...] = (),
    ) -> "Cohort":
        """Return the cohort in which the named parameters of a model take one value per patient.

        Args:
            model: The typical patient.
            values: By dotted name, arrays of shape (patients, ...); an array of the model varies as a whole.
            covariates: By name, arrays of shape (patients,).
            size: Number of patients, if neither values nor covariates give it.
            held: The names of covariates that `do` set.
        """
        check_instance("model", model, AbstractModel, "a model")
        values, covariates = _arrays("values", values), _arrays("covariates", covariates or {})
        arrays = (*values.items(), *covariates.items())
        if size is None:
            size = next((array.shape[0] for _, array in arrays if array.ndim), 1)
        if not size:
            raise ArgumentError("size", "must be at least 1, but there are no patients.")
        for name, array in arrays:
            if array.shape[:1] != (size,):
                refuse(name, f"have one element per patient ({size})", f"of shape {array.shape}")
        for name, array in values.items():
            _check_whole_leaf(model, name)
            model = at(model, name).set(array)
        return cls(model=model, covariates=covariates, varying=tuple(values), size=size, held=held)

    def __check_init__(self) -> None:
        parameters = [name.name for name in names(self.model)]
        for name in self.varying:
            check_one_of("varying", name, parameters, "a parameter of the model")

    def axes_mask(self) -> PyTree:
        """Return a tree like the model: true for the leaves that vary, false for those that are shared."""
        tree = jax.tree.map(lambda _: False, self.model)
        paths = [path_of(self.model, name) for name in self.varying]
        return eqx.tree_at(lambda m: [follow(m, path) for path in paths], tree, [True] * len(paths))

    def interventions(self) -> Interventions | None:
        """Return what `do` set of the patients; None if nothing."""
        return interventions_of(self.model, {name: self.covariates[name] for name in self.held})

    def unrecorded(self) -> "Cohort":
        """Return the patients without the record of what `do` set, so that they share the programs of others."""
        return made(Cohort, {**vars(self), "model": without_record(self.model)})

    def patient(self, i: int) -> AbstractModel:
        """Return the model of one patient."""
        if not isinstance(i, Tracer):
            index = np.asarray(i)
            if index.dtype.kind not in "iu" or index.ndim or not -self.size <= index < self.size:
                refuse("i", f"be the number of a patient (0 to {self.size - 1})", i)
        return self._map_varying(lambda leaf: taken(leaf, i))

    def take(self, indices: ArrayInput) -> "Cohort":
        """Return the cohort of some of the patients, by their numbers, a mask of true and false, or a slice."""
        indices = self._checked(indices)
        covariates = {name: taken(value, indices) for name, value in self.covariates.items()}
        return Cohort(
            model=self._map_varying(lambda leaf: taken(leaf, indices)),
            covariates=covariates,
            varying=self.varying,
            size=indices.size,
            held=self.held,
        )

    def _map_varying(self, function: Callable[[jax.Array], jax.Array]) -> AbstractModel:
        return jax.tree.map(lambda varies, leaf: function(leaf) if varies else leaf, self.axes_mask(), self.model)

    def _checked(self, indices: ArrayInput) -> jax.Array:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(indices)):
            return jnp.asarray(indices)
        must = f"be numbers of patients (0 to {self.size - 1}) or a mask of {self.size}"
        try:
            chosen = np.arange(self.size)[indices if isinstance(indices, slice) else np.asarray(indices)]
        except IndexError as error:
            raise ArgumentError("indices", f"must {must}, but: {error}.") from error
        if not chosen.size:
            refuse("indices", must, "an empty selection")
        return jnp.atleast_1d(chosen)


def _arrays(argument: str, values: Mapping[str, ArrayInput]) -> dict[str, jax.Array]:
    check_instance(argument, values, Mapping, "a mapping of names to arrays")
    return {name: as_array(name, value) for name, value in values.items()}


def _check_whole_leaf(model: AbstractModel, name: str) -> None:
    at(model, name)
    if name not in [parameter.name for parameter in names(model)]:
        refuse(name, f"vary as a whole array (`{name.partition('[')[0]}`)", "a single element")
