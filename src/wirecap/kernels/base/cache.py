"""Where compiled code is kept, and by what digest it is found again.

The digest is of everything that goes into compiled code: the text of all kernels, Numba, LLVM, Python and NumPy, the
processor, and the variables that Numba reads.  It names the folder, so what is found there fits.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = next(folder for folder in Path(__file__).parents if folder.name == "kernels")
"""The folder that contains all kernels, at any depth."""

_IRRELEVANT = ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")


def cache_root() -> Path | None:
    """The folder of compiled kernels: WIRECAP_CACHE_DIR, else XDG_CACHE_HOME/wirecap, else ~/.cache/wirecap.

    None for a user without a home.
    """
    own = os.environ.get("WIRECAP_CACHE_DIR")
    if own:
        return Path(own).absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # others are to be ignored (XDG Base Directory Specification)
        return shared / "wirecap"
    try:
        home = Path(os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir).absolute()
    except KeyError:
        return None
    return home / ".cache" / "wirecap" if home.is_dir() else None


def texts_of(package: str, *names: str) -> Iterator[bytes]:
    """Those files of a package that are there, without importing it."""
    spec = find_spec(package)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    for name in names:
        with suppress(OSError):
            if folder:
                yield (folder / name).read_bytes()


def _versions() -> Iterator[bytes]:
    """What identifies Numba, llvmlite and NumPy."""
    for package in ("numba", "llvmlite", "numpy"):
        yield from texts_of(package, "_version.py", "version.py")


def processor_lines() -> list[bytes]:
    """What /proc/cpuinfo says of the first processor; nothing where there is no /proc."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:  # noqa: PTH123  all of it takes long with many CPUs
            first, *_ = file.read(1 << 14).partition(b"\n\n")
    except OSError:
        return []
    return first.split(b"\n")


def _processor() -> bytes:
    """What identifies the kind of processor: LLVM makes code for its model and its features."""
    wanted = (b"vendor_id", b"cpu family", b"model", b"stepping", b"flags", b"Features", b"CPU ")
    lines = processor_lines()
    if not lines:  # LLVM has its own way, which takes longer
        llvm = import_module("llvmlite.binding")
        return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}".encode()
    return b"".join(line for line in lines if line.startswith(wanted))


def settings() -> list[str]:
    """The variables by which Numba makes other code than by default."""
    own = (f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    return sorted(one for one in own if one.partition("=")[0] not in _IRRELEVANT)


def text_of(root: Path) -> bytes:
    """The digest of the text of all kernels under a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.digest()


def digest_of(text: bytes) -> str:
    """The digest of kernels, given their ``text_of``, and of what compiles them here."""
    digest = hashlib.sha256(f"{sys.version} {os.uname().machine} {' '.join(settings())}".encode())
    for part in (*_versions(), _processor(), text):
        digest.update(part)
    return digest.hexdigest()[:16]


def _make(folder: Path, mode: int) -> None:
    """Make a folder, and with the same mode those above it, which Path.mkdir would make with the umask's."""
    if not folder.is_dir():
        _make(folder.parent, mode)
        folder.mkdir(mode, exist_ok=True)


def _is_usable(folder: Path, mode: int = 0o700) -> bool:
    """Whether this process can keep files in the folder, and in those in it, which another user may have made."""
    try:
        _make(folder, mode)
        folders = (folder, *(inner for inner in folder.iterdir() if inner.is_dir()))
        return all(os.access(one, os.R_OK | os.W_OK | os.X_OK) for one in folders)
    except OSError:
        return False


def _is_own(status: os.stat_result, allowed: int = 0) -> bool:
    """Whether nobody but this user and root can write to a file or folder: what is in it is run.

    allowed: bits that may let others write all the same.
    """
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) & ~allowed
    return status.st_uid in (0, os.geteuid()) and not writable


def _is_safe(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and _is_own(status)


def _leads_there(status: os.stat_result) -> bool:
    """Whether others cannot put something else in the place of what is in a folder.

    In a sticky one (/tmp) only its owner can.  A group with the user's own number has nobody else in it.
    """
    allowed = stat.S_IWGRP | stat.S_IWOTH if status.st_mode & stat.S_ISVTX else 0
    allowed |= stat.S_IWGRP if status.st_gid == status.st_uid else 0
    return stat.S_ISDIR(status.st_mode) and _is_own(status, allowed)


def _unsafe(root: Path, folder: Path) -> str:
    """Why compiled code in a folder of the root is not run; "" if it is safe, or not there yet.

    They are real paths, looked at from above: what is below a safe folder stays what it was found to be, so that
    names can be used from then on.
    """
    for one in (*reversed(folder.parents), folder):
        try:
            status = one.lstat()
        except OSError:
            return ""
        if not (_is_safe(status) if one.is_relative_to(root) else _leads_there(status)):
            return f"{one} belongs to another user, or others can write to it"
    return ""


def _private_root() -> Path | None:
    """A folder for temporary files that nobody but this user can write to."""
    import tempfile  # takes a while to load, and is rarely needed

    try:
        folder = Path(tempfile.gettempdir()).resolve() / f"wirecap-{os.geteuid()}"
        if _unsafe(folder, folder):
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    return folder if _is_safe(status) and status.st_uid == os.geteuid() else None


class Cache(NamedTuple):
    """Where compiled kernels are."""

    folder: Path | None
    """Where they are kept; None for nowhere."""
    note: str
    """What the user should know if that is not in ``cache_root``."""
    filled: Path | None = None
    """Where another user has kept them, to be looked at first; it cannot be written to."""


def find_cache() -> Cache:
    """Find a folder that this user can write to, and one to read from.  A WIRECAP_CACHE_DIR is trusted as it is."""
    wanted, name = cache_root(), digest_of(TEXT)
    chosen, filled, problem = bool(os.environ.get("WIRECAP_CACHE_DIR")), None, "this user has no home"
    if wanted:
        wanted = wanted if chosen else wanted.resolve()
        problem = "" if chosen else _unsafe(wanted, wanted / name)
        if not problem:
            if _is_usable(wanted / name, 0o777 if chosen else 0o700):
                return Cache(wanted / name, "")
            problem = f"{wanted} cannot be written to"
            filled = wanted / name if os.access(wanted / name, os.R_OK | os.X_OK) else None
    private = _private_root()
    if private and _is_usable(private / name):
        return Cache(private / name, f"{problem}: compiled code is kept in {private}", filled)
    return Cache(None, f"{problem}: compiled code is not kept, and each run compiles it again", filled)


TEXT = text_of(ROOT)
CACHE_DIR, CACHE_NOTE, FILLED = find_cache()
CACHE_HINT = "set WIRECAP_CACHE_DIR to a folder of your own"


def _say(line: str) -> None:
    if sys.stderr:  # None under 2>&-
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


say = _say
"""What prints the line; a program that logs in another form puts its own here."""


def tell() -> None:
    """Say once, before the first wait for the compiler, why the next run may have to wait again."""
    global CACHE_NOTE
    if CACHE_NOTE:
        say(f"wirecap: {CACHE_NOTE} ({CACHE_HINT})")
        CACHE_NOTE = ""


def folders() -> list[Path]:
    """Where to look for code that was compiled here, for this processor."""
    return [folder for folder in (FILLED, CACHE_DIR) if folder]


def content_of(path: Path) -> bytes:
    """A kept file.  Raises OSError without one, PermissionError for one in whose place others could put another.

    What a WIRECAP_CACHE_DIR holds, or the package brings, is trusted as it is.
    """
    own = os.environ.get("WIRECAP_CACHE_DIR")
    chosen = own and path.is_relative_to(Path(own).absolute())
    if chosen or not any(path.is_relative_to(folder) for folder in folders()):
        return path.read_bytes()
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(opened, "rb") as file:  # noqa: PTH123  what is read is what is looked at
        status = os.fstat(opened)
        if not (stat.S_ISREG(status.st_mode) and _is_own(status)):
            raise PermissionError(errno.EPERM, "it belongs to another user, or others can write to it", str(path))
        return file.read()
