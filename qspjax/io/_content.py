"""The contents of files, with limits: size, compression, archives, encoding and ends of lines.

Everything that goes to a parser (libsbml, libantimony, YAML, TOML, CSV) comes through here, so that all of them see the
same text of a file.
"""

import bz2
import codecs
import gzip
import io
import lzma
import posixpath
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NoReturn
from xml.parsers import expat

from qspjax.io._issues import FileIssues, Issue

PACKED = (".gz", ".bz2", ".xz")
"""Endings of one compressed file."""
ARCHIVES = (".zip", ".omex")
"""Endings of archives that hold a model."""

MOST_MEMBERS = 10_000
"""The maximum number of files of an archive."""
MOST_MANIFEST = 2**20
"""The maximum number of bytes of the list of contents of a COMBINE archive."""

_OPENERS: tuple[tuple[re.Pattern[bytes], str, Callable[[io.BytesIO], io.BufferedIOBase]], ...] = (
    (re.compile(rb"\x1f\x8b"), "gzip", lambda content: gzip.GzipFile(fileobj=content)),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", bz2.BZ2File),
    (re.compile(rb"\xfd7zXZ\x00"), "xz", lzma.LZMAFile),
)
"""The beginnings of compressed files."""
_BROKEN = (
    *(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError),
    RuntimeError,  # of zipfile, where a password is needed
)
_ZIP = b"PK\x03\x04"
_OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".ods")
_MANIFEST = "manifest.xml"
_ROOT = re.compile(rb"<(\w+:)?sbml\b")
_BYTE_ORDER = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def stop(name: str, message: str, line: int | None = None) -> NoReturn:
    """Raise one issue of a file."""
    raise FileIssues([Issue(name, (), message, line)])


def unpacked_name(path: str | Path) -> str:
    """Return the name of a file without the ending that says how it is compressed.

    Example:
        >>> unpacked_name("models/tmdd.xml.gz"), unpacked_name("tmdd.ant")
        ('tmdd.xml', 'tmdd.ant')
    """
    name = Path(path).name
    while Path(name).suffix.lower() in PACKED:
        name = Path(name).stem
    return name


def in_archive(path: Path) -> tuple[Path, str] | None:
    """Return the archive and the name in it, if a path leads into one, as `models.omex/tmdd.xml` does."""
    try:
        archive = None if path.exists() else next((parent for parent in path.parents if parent.is_file()), None)
    except OSError:  # such as a name too long
        return None
    return None if archive is None else (archive, path.relative_to(archive).as_posix())


def content_of(path: Path, name: str, most: int, *, archives: bool = False) -> bytes:
    """Return the bytes of a file, unpacked if it is compressed (gzip, bzip2, xz).

    Nothing is written to a disk, and nothing is unpacked beyond the size that a file may have.

    Args:
        path: The file; with `archives`, also a file in an archive, `models.omex/tmdd.xml`.
        name: Its name in messages.
        most: The maximum number of bytes, packed and unpacked.
        archives: Whether to read the model in SBML of a zip or COMBINE archive; otherwise archives are refused.

    Raises:
        FileIssues: If it cannot be read, is too large or damaged, or the archive has no model or several.
    """
    inner = in_archive(path) if archives else None
    content = _read(path if inner is None else inner[0], name, most)
    if content.startswith(_ZIP):
        if _is_workbook(path, content):
            stop(name, "must be text, but looks like Excel: save it as CSV.")
        if not archives:
            stop(name, "must be a file, but is an archive (zip) of files.")
        content = _model_of(content, name, None if inner is None else inner[1], most)
    elif content.startswith(_OLD_WORKBOOK):
        stop(name, "must be text, but looks like Excel: save it as CSV.")
    elif inner is not None:
        stop(name, f"must be a file, but {inner[0].name} is no archive.")
    for magic, kind, opener in _OPENERS:
        if magic.match(content):
            return _limited(opener(io.BytesIO(content)), name, kind, most)
    return content


def text_of(content: bytes, name: str) -> str:
    """Return content as text: UTF-8, or UTF-16 with a mark of byte order; see `plain`.

    Raises:
        FileIssues: If it is in another encoding, or binary.
    """
    try:
        text = content.decode("utf-16" if content.startswith(_BYTE_ORDER) else "utf-8-sig")
    except UnicodeDecodeError as error:
        stop(name, "must be text in UTF-8, but is not.", content[: error.start].count(b"\n") + 1)
    return plain(text, name)


def plain(text: str, name: str) -> str:
    """Return text in which every line, including the last one, ends with a line feed and nothing else.

    libantimony misreads a number at the very end; a lone carriage return is no end of line to libsbml and YAML.

    Raises:
        FileIssues: If it has a NUL, at which parsers in C would stop.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        stop(name, "must be text, but is binary.", text[: text.index("\0")].count("\n") + 1)
    return text if text.endswith("\n") or not text else text + "\n"


def _read(path: Path, name: str, most: int) -> bytes:
    try:
        if not path.is_file():
            state = "is a directory" if path.is_dir() else "is none" if path.exists() else "does not exist"
            stop(name, f"must be a file, but {state}.")
        size = path.stat().st_size
        if size > most:
            stop(name, f"must have at most {most} bytes, but has {size}.")
        return path.read_bytes()
    except OSError as error:
        stop(name, f"must be a file that can be read, but is not ({error.strerror}).")


def _is_workbook(path: Path, content: bytes) -> bool:
    """Whether an archive is a workbook, by its ending or by the folder that Excel puts into it."""
    return path.suffix.lower() in _WORKBOOKS or b"xl/workbook." in content


def _limited(stream: IO[bytes] | io.BufferedIOBase, name: str, kind: str, most: int) -> bytes:
    """Unpack no more bytes than a file may have."""
    try:
        with stream:
            content = stream.read(most + 1)
    except _BROKEN as error:
        stop(name, f"must be compressed with {kind} as its beginning says, but is damaged ({error}).")
    if len(content) > most:
        stop(name, f"must have at most {most} bytes when it is unpacked, but has more.")
    return content


def _model_of(content: bytes, name: str, member: str | None, most: int) -> bytes:
    """Return the model of an archive: the named one, the master, or the only one."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = [member for member in archive.infolist() if not member.is_dir()]
    except _BROKEN as error:
        stop(name, f"must be an archive (zip) as its beginning says, but is damaged ({error}).")
    if len(members) > MOST_MEMBERS:
        stop(name, f"must be an archive of at most {MOST_MEMBERS} files, but has {len(members)}.")
    by_name = {_location(info.filename): info for info in members}

    def read(file: str, most: int) -> bytes:
        if file not in by_name:
            stop(name, f"must hold the file {file[:80]}, but has {_listed(by_name)}.")
        try:
            stream = archive.open(by_name[file])
        except _BROKEN as error:
            stop(name, f"must be an archive whose files can be read, but {file} cannot be ({error}).")
        return _limited(stream, name, "zip", most)

    if member is not None:
        return read(_location(member), most)
    models, master = _listed_models(read(_MANIFEST, MOST_MANIFEST), name) if _MANIFEST in by_name else ([], None)
    if master is not None:
        models = [master]
    if not models:
        endings = (".xml", ".sbml")
        models = [file for file in by_name if file.lower().endswith(endings) and not file.startswith(("__", "."))]
        if len(models) > 1:
            models = [file for file in models if _ROOT.search(read(file, most)[:4096])]
    if len(models) != 1:
        example = f"; {name}/{models[0]} names one" if models else ""
        stop(name, f"must be an archive with one model in SBML, but has {_listed(models)}{example}.")
    return read(models[0], most)


def _listed_models(manifest: bytes, name: str) -> tuple[list[str], str | None]:
    """Return the models in SBML that a COMBINE archive lists, and the one that is its master."""
    is_master: dict[str, bool] = {}

    def start(element: str, attributes: dict[str, str]) -> None:
        if element.rpartition(" ")[2] == "content" and "sbml" in attributes.get("format", "").lower():
            location = _location(urllib.parse.unquote(attributes.get("location", "")))
            is_master[location] = attributes.get("master", "").strip().lower() in ("true", "1")

    def refuse(*_: object) -> None:
        stop(name, "must have no document type (<!DOCTYPE ...>) in its manifest, but has one.")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    try:
        parser.Parse(manifest, True)
    except expat.ExpatError as error:
        stop(name, f"must have a manifest in XML, but it is not: {expat.ErrorString(error.code)}.")
    masters = [location for location, master in is_master.items() if master]
    return list(is_master), masters[0] if len(masters) == 1 else None


def _location(name: str) -> str:
    return posixpath.normpath(name.strip().replace("\\", "/")).lstrip("/")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"
