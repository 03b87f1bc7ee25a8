"""The capture files of an archive: those that are named, and those in folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.decompression import is_compressed
from wirecap.files.rotation import INDEX_SUFFIX, TABLE_SUFFIX
from wirecap.files.stored import Stored

CAPTURE_SUFFIXES = (".pcapng", ".pcap", ".cap", ".dmp", ".ntar")

_Identity = tuple[int, int]
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


@dataclass
class Archive:
    """``files``: captures, as paths and URLs; ``stored``: those behind URLs; ``tables``: of blocks, and their bytes;
    ``problems``: what could not be looked at; ``notes``: what was not, on purpose; lines."""

    files: list[str] = field(default_factory=list)
    stored: dict[str, Stored] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, paths: Iterable[str]) -> None:
        """Raise UsageError if there is no file in it; the lines were printed."""
        if not self.files:
            named = ", ".join(paths)
            if self.problems or self.notes:
                raise UsageError(f"no capture file that can be read in {named}", "the lines above say why")
            raise UsageError(f"no capture file in {named}", "name a folder that has pcap or pcapng files")


def files_of(paths: Iterable[str], output: str = "", hint: str = "name capture files, and folders of them") -> Archive:
    """The files among the paths; of a folder, with those in it, whatever is a capture.

    output: a file that will be written.  Raises UsageError if it is one of them, and, with the hint, for a path that
    is not there.
    """
    found: dict[_Identity, str] = {}
    archive = Archive()
    overwritten = _identity(output) if output not in ("", "-") else None
    for path in paths:
        for name in _named(path, archive, hint):
            identity = _identity(name)
            if identity and name.endswith(TABLE_SUFFIX):
                archive.tables[name] = Path(name).stat().st_size
                continue
            if identity is None or not (name == path or _is_capture(name, archive)):
                continue
            if identity == overwritten:
                raise UsageError(
                    f"-w {output}: this file is to be searched, and would be overwritten", "write to another file"
                )
            found.setdefault(identity, name)
    archive.files = list(found.values())
    return archive


def _named(path: str, archive: Archive, hint: str) -> Iterable[str]:
    """What a path that the user gave stands for: itself, or the files below."""
    if not path:
        raise UsageError("a file or folder has an empty name", hint)
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and (_is_link(path) or error.errno not in _NOT_THERE):
            archive.problems.append(_unreadable(path, error))
            return ()
        shown = path if len(path) < 100 else f"{path[:50]}...{path[-30:]}"
        raise UsageError(f"{shown}: no such file or folder", hint) from None
    if stat.S_ISDIR(status.st_mode):
        return _walk(path, archive)
    return () if path.endswith(INDEX_SUFFIX) else (path,)  # F/* names indexes too


def _unreadable(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT and _is_link(path):
        return f"{path}: a link to a file that is not there"
    return f"{path}: {os.strerror(error.errno or 0)}"


def _is_link(path: str) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - False also where a name cannot be one


def _identity(path: str) -> _Identity | None:
    """None for what is not there, or no longer."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _walk(folder: str, archive: Archive) -> Iterator[str]:
    """The files below.  A folder behind a link is not entered: it may lead anywhere, and round in circles."""

    def tell(error: OSError) -> None:
        if error.errno != errno.ENOENT:  # a folder that has just been removed hides nothing
            archive.problems.append(_unreadable(str(error.filename), error))

    for root, folders, names in os.walk(folder, onerror=tell):
        folders.sort()
        for name in folders:
            inside = os.path.join(root, name)  # noqa: PTH118
            if _is_link(inside):
                archive.notes.append(f"{inside}: a link to a folder, which is not entered; name it to have it read")
        for name in sorted(names):
            inside = os.path.join(root, name)  # noqa: PTH118
            if not name.endswith(INDEX_SUFFIX) and not _dangles(inside, archive):
                yield inside


def _dangles(path: str, archive: Archive) -> bool:
    """Whether it is a link to nothing; that is told of those that are called like captures."""
    if not _is_link(path) or _identity(path) is not None:
        return False
    if _is_named_so(path):
        archive.notes.append(f"{path}: a link to a file that is not there, or not to be read")
    return True


def _is_named_so(path: str) -> bool:
    return any(suffix in Path(path).name.lower() for suffix in CAPTURE_SUFFIXES)


def _is_capture(path: str, archive: Archive) -> bool:
    """Whether a file of a folder is a capture: by its first bytes, and by its name too if it is compressed."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with Path(path).open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        return False
    except OSError as error:
        archive.problems.append(_unreadable(path, error))
        return False
    return headers.is_section_header(start) or headers.is_pcap(start) or (_is_named_so(path) and is_compressed(start))
