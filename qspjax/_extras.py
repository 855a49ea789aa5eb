"""Optional packages: imported where they are used, with an error that names the extra to install."""

import importlib
import importlib.metadata
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: If it is missing; the message says which extra of qspjax provides it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"This needs the package {package}. Install it with: pip install 'qspjax[{extra}]'"
        ) from error


def version(package: str = "qspjax") -> str:
    """Return the version of a package as it is installed.

    Example:
        >>> version("no-such-package")
        '(not installed)'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
