"""Tells a script that packets are being captured: a file or pipe that it waits for."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from wirecap.errors import UsageError
from wirecap.files.shared import open_for_writing


class Ready:
    """Readiness, to be told once.  path: gets the process id and a newline; None for no file.

    A file appears only then and is removed by ``close``; one that is there before is removed, too.  A FIFO is opened at
    once and kept open, so that neither side waits for the other, and the line waits for its reader, who gets no end
    of file before ``close``.  Raises UsageError if the path cannot be written, or holds more than a process id.
    """

    def __init__(self, path: str | None) -> None:
        self._path, self._fifo = Path(path or ""), -1
        self._made: tuple[int, int, int] | None = None
        if path is None:
            return
        try:
            if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
                self._fifo = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            else:
                _check_unused(self._path)
                _replace(self._path, b"")  # whether it can be
                self._path.unlink()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UsageError(f"--ready-file {path}: {reason}", "name a file or FIFO that can be written") from None

    def tell(self) -> None:
        """Write the process id."""
        line = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):  # nobody listens: no reason to end a capture
            if self._fifo >= 0:
                os.write(self._fifo, line)
            elif self._path.name:
                self._made = _replace(self._path, line)

    def close(self) -> None:
        if self._fifo >= 0:
            os.close(self._fifo)
            self._fifo = -1
        with contextlib.suppress(OSError):
            if self._made and self._made == _identity(self._path):  # not if another capture has put its own there
                self._path.unlink()


def _check_unused(path: Path) -> None:
    """Refuse a file that this run would remove although no run like it has made it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(32)
    if start and not start.strip().isdigit():  # a capture that was killed leaves its process id
        raise UsageError(f"--ready-file {path}: the file holds something else", "name a new file or a FIFO")


def _replace(path: Path, line: bytes) -> tuple[int, int, int]:
    """Make the file whole: who sees it can read it.  Returns its identity."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(open_for_writing(temporary, os.O_TRUNC, 0o644), "wb") as file:
            file.write(line)
        identity = _identity(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return identity


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mtime_ns
