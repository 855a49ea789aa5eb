"""A cohort: one model, and the names of the leaves that differ between patients."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_one_of, refuse
from qspjax._model import AbstractModel
from qspjax._names import at, names


class Cohort(eqx.Module):
    """Virtual patients: a model whose named leaves have a leading axis of patients; all other leaves are shared.

    Attributes:
        model: The model; each leaf in `varying` has shape (patients, ...).
        covariates: What is known of the patients, by name, each of shape (patients,).
        varying: The dotted names of the leaves that differ.
        size: Number of patients.

    Raises:
        ValueError: If a varying name is no parameter of the model, or a leaf has another number of patients.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> cohort = qsp.Cohort.of(patient, {"CL": jnp.array([2.0, 3.0, 4.0])})
        >>> cohort.size, float(cohort.patient(2).CL)
        (3, 4.0)
    """

    model: AbstractModel
    covariates: dict[str, Any]
    varying: tuple[str, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        model: AbstractModel,
        values: Mapping[str, Any],
        *,
        covariates: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> "Cohort":
        """Return the cohort in which the named parameters of a model take one value a patient.

        Args:
            model: The typical patient.
            values: By dotted name, arrays of shape (patients, ...).
            covariates: By name, arrays of shape (patients,).
            size: Number of patients, where neither values nor covariates tell.
        """
        arrays = {name: jnp.asarray(value) for name, value in (*values.items(), *(covariates or {}).items())}
        sizes = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
        size = size if size is not None else next(iter(sizes.values()), 1)
        for name, found in sizes.items():
            if found != size:
                refuse(name, f"have one element a patient ({size})", f"of shape {arrays[name].shape}")
        for name, value in values.items():
            model = at(model, name).set(value)
        covariates = {name: jnp.asarray(value) for name, value in (covariates or {}).items()}
        return cls(model=model, covariates=covariates, varying=tuple(values), size=size)

    def __check_init__(self) -> None:
        known = [name.name for name in names(self.model)]
        for name in self.varying:
            check_one_of("varying", name, known, "a parameter of the model")

    def axes_mask(self) -> Any:
        """Return a tree like the model: true for the leaves that vary, false for those that are shared."""
        tree = jax.tree.map(lambda _: False, self.model)
        leaves = [_getter(name) for name in self.varying]
        return eqx.tree_at(lambda m: [get(m) for get in leaves], tree, [True] * len(leaves))

    def patient(self, i: int) -> AbstractModel:
        """Return the model of one patient."""
        return self._each(lambda leaf: leaf[i])

    def take(self, indices: Any) -> "Cohort":
        """Return the cohort of some of the patients."""
        indices = jnp.asarray(indices)
        covariates = {name: value[indices] for name, value in self.covariates.items()}
        return Cohort(
            model=self._each(lambda leaf: leaf[indices]), covariates=covariates, varying=self.varying, size=indices.size
        )

    def _each(self, function: Any) -> AbstractModel:
        return jax.tree.map(lambda varies, leaf: function(leaf) if varies else leaf, self.axes_mask(), self.model)


def _getter(name: str) -> Any:
    def get(model: Any) -> Any:
        for attribute in name.split("."):
            model = getattr(model, attribute)
        return model

    return get
