"""How ``wirecap trigger`` reaches a running capture: a socket named after its process, which only its user may use."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from wirecap.errors import UsageError, WirecapError

SUFFIX = ".trigger"
_DONE = b"ok"
_PATIENCE_S, _PAUSE_S = 15.0, 0.1
_MOST_BYTES = 4096


def runtime_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a capture of this user has its socket: systemd's folder, /run for root, the session's, or one in /tmp."""
    if given := environment.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/wirecap")
    session = environment.get("XDG_RUNTIME_DIR")
    return Path(session) / "wirecap" if session else Path(f"/tmp/wirecap-{os.geteuid()}")


def _make(folder: Path) -> None:
    """Make a folder that only this user can enter; OSError if somebody else has its name."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "it belongs to somebody else", str(folder))


class TriggerSocket:
    """Listens until it is closed; ``fire`` gets each name, in a thread of its own, and raises UsageError for a bad one.

    Raises OSError if there can be no socket.
    """

    def __init__(self, fire: Callable[[str], None], folder: Path | None = None) -> None:
        folder = folder or runtime_folder()
        _make(folder)
        self._fire = fire
        self._closed = threading.Event()
        self.path = folder / f"{os.getpid()}{SUFFIX}"
        self.path.unlink(missing_ok=True)  # of an earlier process with this number
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self.path))
            self._listener.listen(16)
        except BaseException:
            self._listener.close()
            raise
        finally:
            os.umask(before)
        self._thread = threading.Thread(target=self._serve, name="wirecap triggers", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                if self._closed.wait(_PAUSE_S):
                    return
                continue  # out of descriptors, for instance: the next one may be heard
            with channel, contextlib.suppress(OSError):
                channel.sendall(self._answer(_all_of(channel)))

    def _answer(self, name: bytes) -> bytes:
        try:
            self._fire(name.decode())
        except (UsageError, UnicodeDecodeError) as error:
            return str(error).encode()
        return _DONE

    def close(self) -> None:
        self._closed.set()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE_S)


def _all_of(channel: socket.socket) -> bytes:
    """What comes until its end, or _MOST_BYTES.  Raises OSError if that takes longer than _PATIENCE_S in all."""
    data, deadline = b"", time.monotonic() + _PATIENCE_S
    while len(data) < _MOST_BYTES:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        more = channel.recv(_MOST_BYTES)
        if not more:
            break
        data += more
    return data


def _folders() -> Iterator[Path]:
    yield runtime_folder()
    if os.geteuid() == 0:
        yield from Path("/run").glob("wirecap-*")
        yield from Path("/run/user").glob("*/wirecap")
        yield from Path("/tmp").glob("wirecap-*")


def running() -> dict[int, Path]:
    """The sockets of captures that this user can reach, by process; those of processes that are gone are left out."""
    found: dict[int, Path] = {}
    for folder in _folders():
        with contextlib.suppress(OSError):
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                if path.stem.isdecimal() and _listens(path):
                    found[int(path.stem)] = path
    return found


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(_PATIENCE_S)
        try:
            channel.connect(str(path))
        except ConnectionRefusedError:  # a capture that was killed
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError:
            return False
    return True


def send(path: Path, name: str) -> None:
    """Have a capture save what it keeps.  Raises WirecapError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(_PATIENCE_S)
        try:
            channel.connect(str(path))
            channel.sendall(name.encode())
            channel.shutdown(socket.SHUT_WR)
            answer = _all_of(channel)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise WirecapError(f"the capture {path.stem} does not answer: {reason}", "kill -USR2 saves too") from None
    if answer != _DONE:
        raise WirecapError(f"the capture {path.stem}: {answer.decode(errors='replace') or 'it has ended'}")
