"""The file in which a capture shows its counters to other processes of its user, and to root.

    magic, 8 bytes | version | process id | start, ns since the epoch | sequence | bytes of JSON | their CRC-32 | JSON

Whoever reads it stops nobody: a copy that was being written does not fit its CRC-32, and is read again.  The capture
holds a lock (flock(2)) as long as it lives, however it ends.  So a file without a lock is what a dead one left behind.
Readers copy it and do not map it: a user who cuts a mapped file short would end root's reader.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wirecap.errors import WirecapError
from wirecap.observe.counters import Counters

MAGIC = b"WIRECAP\0"
VERSION = 1
HEADER = struct.Struct("<8sIIQQII")
FOLDER = "/dev/shm"
"""In memory, and open to every user: so each sees that there are others' captures, and nothing of them."""
LARGEST = 1 << 24
MAKING_S = 60
"""A file that is still being made after this time is that of a capture that was killed meanwhile."""
_TRIES = 20


def folder() -> Path:
    """Where captures put these files: WIRECAP_RUNTIME_DIR, if that is set."""
    return Path(os.environ.get("WIRECAP_RUNTIME_DIR") or FOLDER)


class CountersFile:
    """A capture's own file, of mode 0600.  Raises OSError if there can be none."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns, self._sequence = started_ns, 0
        self.path, self._fd = _new()

    def put(self, counters: Counters) -> None:
        """Replace what the file says.  Raises OSError."""
        if os.fstat(self._fd).st_nlink == 0:  # some systems clear a user's files away at logout
            before = self._fd
            self.path, self._fd = _new()
            os.close(before)
        data, self._sequence = counters.to_json(), self._sequence + 1
        head = HEADER.pack(
            MAGIC, VERSION, os.getpid(), self._started_ns, self._sequence, len(data), zlib.crc32(data)
        )  # fmt: skip
        os.pwrite(self._fd, head + data, 0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._fd)


def _new() -> tuple[Path, int]:
    """A file of this process, open and locked."""
    name = f"wirecap-{os.getpid()}-{os.urandom(4).hex()}"
    path, making = folder() / name, folder() / f".{name}"
    fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        making.rename(path)  # nobody finds it without its lock
    except BaseException:
        os.close(fd)
        making.unlink(missing_ok=True)
        raise
    return path, fd


@dataclass(frozen=True)
class Found:
    """A file of a running capture: its counters, or a sentence that says why there are none.

    closed: it is another user's.
    """

    path: Path
    counters: Counters | None = None
    problem: str = ""
    closed: bool = False


class DeadError(WirecapError):
    """The capture has died: nothing holds its file any more."""


def scan(where: Path, died: Callable[[Path], None] = lambda path: None) -> Iterator[Found]:
    """Every running capture, in order of process id.  A dead one's file is removed, and ``died`` told."""
    for path in where.glob(".wirecap-[0-9]*-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > MAKING_S:
                path.unlink()
    for path in sorted(where.glob("wirecap-[0-9]*-*"), key=_order):
        try:
            yield Found(path, read(path))
        except DeadError:
            died(path)
            with contextlib.suppress(OSError):  # another reader was faster
                path.unlink()
        except PermissionError:
            yield Found(path, problem=f"{path}: another user's", closed=True)
        except FileNotFoundError:
            continue  # it has ended just now
        except OSError as error:
            yield Found(path, problem=f"{path}: {(error.strerror or str(error)).lower()}")
        except WirecapError as error:
            yield Found(path, problem=error.message)


def _order(path: Path) -> tuple[int, str]:
    return int(path.name.split("-")[1]) if path.name.split("-")[1].isdecimal() else 0, path.name


def read(path: Path) -> Counters:
    """The counters in a file.  Raises DeadError, OSError, and WirecapError for what cannot be understood."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if os.geteuid() not in (0, status.st_uid):  # whoever lets everybody read a file may have made it up
            raise PermissionError(path)
        if not stat.S_ISREG(status.st_mode):
            raise WirecapError(f"{path}: no file of counters")
        if not _is_held(fd):
            raise DeadError(f"{path}: its capture has died")
        return _read(fd, path)
    finally:
        os.close(fd)


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(fd: int, path: Path) -> Counters:
    for _ in range(_TRIES):
        data = os.pread(fd, LARGEST, 0)
        if len(data) < HEADER.size:
            time.sleep(0.001)  # it has just been made
            continue
        magic, version, pid, _, _, size, check = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise WirecapError(f"{path}: no file of counters")
        if version != VERSION:
            raise WirecapError(
                f"process {pid} counts in version {version}, and this wirecap reads version {VERSION}"
            )  # fmt: skip
        content = data[HEADER.size : HEADER.size + size]
        if zlib.crc32(content) == check:
            return _parsed(content, path)
        time.sleep(0.001)
    raise WirecapError(f"{path}: damaged")


def _parsed(content: bytes, path: Path) -> Counters:
    try:
        return Counters.from_json(content)
    except ValueError:
        raise WirecapError(f"{path}: damaged") from None
