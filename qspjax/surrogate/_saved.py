"""Surrogates in files: a zip archive of a JSON text and of arrays, as `fit.save` writes it."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from qspjax._checks import check_instance, refuse
from qspjax.fit import _archive
from qspjax.population._plausible._features import Features
from qspjax.surrogate._ensemble import Networks
from qspjax.surrogate._process import Process
from qspjax.surrogate._scale import OutputScale
from qspjax.surrogate._surrogate import Lessons, Surrogate

_CLASSES = {made.__name__: made for made in (Features, Lessons, Networks, OutputScale, Process, Surrogate)}


def save(path: str | Path, surrogate: Surrogate) -> None:
    """Write a surrogate to a file, whole or not at all.

    Args:
        path: The file.
        surrogate: The surrogate.

    Raises:
        ValueError: If its predictor is of a class from outside qspjax.

    Example:
        >>> import tempfile, jax, qspjax as qsp
        >>> function = qsp.surrogate.Function(lambda x: np.sin(x), {"x": (0.0, 3.0)}, ["y"])
        >>> emulated = qsp.surrogate.fit(function, qsp.surrogate.Sobol(32), key=jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     qsp.surrogate.save(Path(folder) / "sine.surrogate", emulated)
        ...     again = qsp.surrogate.load(Path(folder) / "sine.surrogate")
        >>> bool(again.mean([[0.3]]) == emulated.mean([[0.3]]))
        True
    """
    check_instance("surrogate", surrogate, Surrogate, "a Surrogate")
    arrays: dict[str, np.ndarray] = {}
    record = _described(surrogate, "surrogate", arrays)
    _archive.write(Path(path), {"kind": "Surrogate", "versions": _archive.versions(), "result": record}, arrays)


def load(path: str | Path) -> Surrogate:
    """Read a surrogate that `save` has written: the same to the last bit.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another kind of file.

    Example:
        >>> import qspjax as qsp
        >>> emulated = qsp.surrogate.load("trial.surrogate")  # doctest: +SKIP
    """
    record, arrays = _archive.read(Path(path))
    if record["kind"] != "Surrogate":
        raise ValueError(f"{path} must be a saved surrogate, but is a {record['kind']}.")
    return _made(record["result"], arrays)


def _described(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return what JSON can hold of a value, and put its arrays aside by name."""
    if isinstance(value, eqx.Module):
        kind = type(value).__name__
        if _CLASSES.get(kind) is not type(value):
            refuse("surrogate", "have parts of classes of qspjax", f"one with a {kind}")
        fields = {key: _described(part, f"{name}.{key}", arrays) for key, part in vars(value).items()}
        return {"class": kind, "fields": fields}
    if isinstance(value, (np.ndarray, jax.Array)):
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, tuple):
        return {"tuple": [_described(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]}
    if isinstance(value, dict):
        return {"items": [[key, _described(part, f"{name}.{key}", arrays)] for key, part in value.items()]}
    return {"value": value}


def _made(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """Return the value again."""
    if "class" in record:
        return _CLASSES[record["class"]](**{key: _made(part, arrays) for key, part in record["fields"].items()})
    if "array" in record:
        return arrays[record["array"]]
    if "tuple" in record:
        return tuple(_made(part, arrays) for part in record["tuple"])
    if "items" in record:
        return {key: _made(part, arrays) for key, part in record["items"]}
    return record["value"]
