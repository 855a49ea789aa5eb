"""The checks of the package petab: requirements of the standard beyond those of a fit."""

import logging
import warnings
from pathlib import Path

from qspjax._extras import require
from qspjax.io._issues import Issue
from qspjax.io.petab._tables import read_yaml


class _Messages(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a message."""
        self.messages.append(record.getMessage())


def lint(path: str | Path) -> tuple[Issue, ...]:
    """Return the issues that the package petab finds in a problem, an empty tuple if there are none.

    The package does not know extensions such as PEtab SciML: problems with one have no further issues here.

    Raises:
        FileIssues: If the YAML file cannot be read.
        ImportError: If the extra `petab` is not installed.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> loss = {"loss": qsp.models.Reaction("drug ->", "k * drug")}
        >>> network = qsp.models.Network(species={"drug": 9.0}, parameters={"k": 0.1}, reactions=loss)
        >>> data = Experiment(Measurements([1.0, 4.0], [8.1, 5.2], output="drug"))
        >>> problem = Problem(network, data, {"drug": Output("drug", Additive(0.5))}, {"k": Free(0.1)})
        >>> path = qsp.io.write_petab(problem, pathlib.Path(tempfile.mkdtemp()) / "petab")
        >>> lint(path)
        ()
    """
    path = Path(path)
    content = read_yaml(path)
    if content.get("extensions"):
        return ()
    version = str(content.get("format_version", "")).split(".")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        messages = _second(path) if version == "2" else _first(path)
    return tuple(Issue(path.name, (), _sentence(message)) for message in dict.fromkeys(messages))


def _first(path: Path) -> list[str]:
    petab, linter = require("petab.v1", extra="petab"), require("petab.v1.lint", extra="petab")
    handler, logger = _Messages(), logging.getLogger("petab")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        linter.lint_problem(petab.Problem.from_yaml(str(path)))
    except Exception as error:  # noqa: BLE001  (whatever the package trips over is wrong with the files)
        handler.messages.append(f"petab: {error}")
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
    return handler.messages


def _second(path: Path) -> list[str]:
    linter = require("petab.v2.lint", extra="petab")
    try:
        issues = linter.lint_problem(path)
    except Exception as error:  # noqa: BLE001  (whatever the package trips over is wrong with the files)
        return [f"petab: {error}"]
    return [str(issue.message) for issue in issues if issue.level >= linter.ValidationIssueSeverity.ERROR]


def _sentence(message: str) -> str:
    text = " ".join(message.split())
    return text if text.endswith(".") else f"{text}."
