"""What was compiled before, on disk: machine code of programs, found again by other processes and on other days.

It is in the folder for caches of the user, or in the one that the environment variable `QSPJAX_CACHE` names; with
`QSPJAX_CACHE=off` nothing is kept. Since machine code is loaded from it, nobody but the user may write there: else
nothing is read from it, and a warning says so. What is found has the key of all that it was compiled from, by what and
for which processor, and a checksum: a damaged entry is compiled again.
"""

import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qspjax._checks import warn

MAX_BYTES = 512 * 2**20
"""How large the folder may become; what was not used for longest goes first."""
KEPT = 0.9
"""The part of it that is kept then."""
CHECKSUM = hashlib.sha256().digest_size
PARTIAL = ".partial-"
"""How the names of files begin that are being written."""


def key_of(*parts: object) -> str:
    """Return the key of what is compiled from some parts, on this machine, by these versions."""
    digest = hashlib.sha256()
    for part in (*parts, *_circumstances()):
        text = str(part).encode()
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return digest.hexdigest()


def is_on() -> bool:
    """Whether anything is kept."""
    return _folder(os.environ.get("QSPJAX_CACHE")) is not None


def find(key: str) -> bytes | None:
    """Return what is kept under a key, None if nothing is or it is damaged."""
    folder = _folder(os.environ.get("QSPJAX_CACHE"))
    if folder is None:
        return None
    path = folder / key
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    payload = content[CHECKSUM:]
    if hashlib.sha256(payload).digest() == content[:CHECKSUM]:
        return payload
    forget(key)
    return None


def keep(key: str, payload: bytes) -> None:
    """Keep something under a key; other processes see all of it or nothing."""
    folder = _folder(os.environ.get("QSPJAX_CACHE"))
    if folder is None or len(payload) > MAX_BYTES * KEPT:
        return
    try:
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        Path(partial).replace(folder / key)
        _bound(folder)
    except OSError:  # a full disk, or one that cannot be written to: it is compiled again next time
        return


def forget(key: str) -> None:
    """Remove what is kept under a key."""
    folder = _folder(os.environ.get("QSPJAX_CACHE"))
    if folder is not None:
        _remove(folder / key)


def _bound(folder: Path) -> None:
    """Remove what was not used for longest if there is too much, as other processes may do at the same time."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # another process removed it
                continue
            files.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= MAX_BYTES:
        return
    for _, size, path in sorted(files):
        if total <= MAX_BYTES * KEPT:
            break
        _remove(Path(path))
        total -= size


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # on Windows, while another process reads it
        return


@functools.cache
def _folder(choice: str | None) -> Path | None:
    """Return the folder, made if there is none; None if nothing is kept."""
    if choice is not None and choice.strip().lower() in ("off", "0", "no", "false", ""):
        return None
    try:
        folder = _default() if choice is None else Path(choice).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # a home that is not there, or cannot be written to
        if choice is not None:
            warn(f"The folder of QSPJAX_CACHE, {choice}, cannot be made: compiled programs are not kept.")
        return None
    user = getattr(os, "getuid", None)  # not on Windows
    if user is not None and (status.st_uid != user() or status.st_mode & 0o022):
        warn(
            f"The folder for compiled programs, {folder}, must be yours, and one that nobody else can write to, but "
            f"has mode {status.st_mode & 0o777:o} and owner {status.st_uid}: nothing is read from it or kept there. "
            f"Write `chmod 700 {folder}`, or set QSPJAX_CACHE to another folder, or to `off`."
        )
        return None
    return folder


def _default() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("qspjax", appauthor=False)


@functools.cache
def _circumstances() -> tuple[str, ...]:
    """Return the versions, and what distinguishes this processor from others."""
    versions = (f"{name} {version_of(name)}" for name in ("qspjax", "jax", "jaxlib", "llvmlite"))
    return (*versions, platform.system(), platform.machine(), *_processor())


def version_of(name: str) -> str:
    """Return the version of a package, "none" without."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _processor() -> Iterable[str]:
    """Return the name of the processor and what it can do, or else of the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor(), platform.node()
    about = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    return sorted({line for line in lines if line.startswith(about)})
