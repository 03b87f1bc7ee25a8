"""``--print``: tcpdump or tshark as a child that is fed with what a writer writes, and never slows it.

The writer offers each of its blocks.  What fits into a bounded buffer is copied there, and a thread feeds the child
from it; the rest is skipped and counted.  Only a capture file that is read waits for the child: nobody loses anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wirecap.config import printing
from wirecap.config.printing import PrintConfig
from wirecap.errors import UsageError, WirecapError
from wirecap.files.headers import Interface
from wirecap.kernels.file.write import whole_of
from wirecap.linux.capabilities import effective
from wirecap.linux.privileges import ordinary_user, without_privileges
from wirecap.signals import Flag

BUFFER_BYTES = 4 << 20
"""How much waits for the child, beside a pipe of a quarter of that: some 40,000 short packets, or a fifth of a second
of its work."""
_PIPE_BYTES = 1 << 20
_NICENESS = 19  # what the capture leaves of the processors is for printing
_WAIT_S = 0.1
_FOLDERS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/sbin", "/sbin"))
_CHATTER = (
    "reading from file -", "dropped privs to ", "tcpdump: Unable to write output: Broken pipe",
    "Warning: interface names might be incorrect",
)  # fmt: skip
"""What the programs say in any case, or what the live capture makes untrue."""

BUSY, ENDED, NO_READER = "printer_busy", "printer_ended", "output_closed"


class _Part(NamedTuple):
    """Whole records on their way to the child."""

    data: bytes
    packets: int


class Printer:
    """The child, and what waits for it.  ``waits``: whether a full buffer makes the writer wait."""

    def __init__(self, config: PrintConfig, waits: bool) -> None:
        self._config, self._waits = config, waits
        self.messages: deque[str] = deque()
        """Lines for the user, to be told by whoever talks to him."""
        self.unwanted = False
        """Whether nobody reads the output any more: then tcpdump ends, and so does the capture."""
        self.failure = ""
        """How the child ended, if not as it should."""
        self.not_printed: Counter[str] = Counter()
        """Packets by why they were skipped."""
        self._accepted = 0
        self._program = self._path = self._why = ""
        self._links: set[tuple[int, int]] = set()
        self._parts: deque[_Part] = deque()
        self._waiting = 0  # bytes
        self._changed = threading.Condition()
        self._closed = self._dead = False
        self._stopped = False  # on our own accord
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []

    @property
    def printed(self) -> int:
        """Packets that the child was given, or will be."""
        return self._accepted

    def choose(self, interfaces: Iterable[Interface]) -> None:
        """Find the program that prints packets of these interfaces; UsageError if there is none."""
        self._links = {(interface.linktype, interface.snaplen) for interface in interfaces}
        there = {name: path for name in printing.PROGRAMS if (path := shutil.which(name, path=_FOLDERS))}
        if not there:
            raise UsageError(
                "tcpdump or tshark prints the packets, and neither is installed",
                "apt install tcpdump, or dnf install tcpdump",
            )
        if len(self._links) > 1 and "tshark" not in there:
            raise UsageError(
                "the packets have several link types or snap lengths, and tcpdump prints one only",
                "apt install tshark, which prints them all, or name one interface",
            )
        self._program = "tshark" if len(self._links) > 1 else next(iter(there))
        self._path = there[self._program]
        self._why = "tcpdump prints one link type only" if "tcpdump" in there else "tcpdump is not installed"

    def meet(self, interfaces: Iterable[Interface]) -> None:
        """Tell of the interfaces whose packets come next: a file may name more of them half-way."""
        links = self._links | {(interface.linktype, interface.snaplen) for interface in interfaces}
        if len(links) > 1 and self._program == "tcpdump" and not self._stopped:
            self._stopped = True
            self.messages.append(
                "wirecap: the next packets have another link type or snap length, and tcpdump prints one only: printing"
                " ends here (wirecap convert FILE --split interface makes a file of each interface)"
            )
            self.close()

    def start(self, header: bytes) -> None:
        """Start the program with what a file starts with.  Raises WirecapError if that is impossible."""
        if self._program == "tcpdump":
            words = printing.tcpdump(self._config, not self._waits)
        else:
            words, unknown = printing.tshark(self._config, not self._waits)
            lacking = f", and has nothing for {' '.join(unknown)}" if unknown else ""
            self.messages.append(f"wirecap: tshark prints the packets ({self._why}){lacking}")
        try:
            self._process = self._spawn([self._path, *words, "-r", "-"])
        except OSError as error:
            raise WirecapError(f"{self._path}: it cannot be started: {os.strerror(error.errno or 0)}") from None
        assert self._process.stdin
        self._pipe = self._process.stdin.fileno()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if not self._waits:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)
        self.insert(header)
        for name, run in (("feed printer", self._feed), ("watch printer", self._watch)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """tcpdump needs its rights to become its own user; tshark, which has none, dissects strangers' packets."""
        stays = self._program == "tcpdump" or {"CAP_SETUID", "CAP_SETGID"} - effective()
        user = None if stays else ordinary_user()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                process_group=0,  # Ctrl-C is for us: the child ends when it has printed what was captured
                user=user.uid if user else None, group=user.gid if user else None, extra_groups=[] if user else None,
                env={**kept, "HOME": user.home} if user else None,
                cwd="/" if user else None,  # ours may not be for others, and tshark looks for files there
            )  # fmt: skip

        return start() if self._program == "tcpdump" else without_privileges(start)

    def offer(
        self, layout: int, records: NDArray[np.uint8], packets: int, swapped: bool, given_up: Callable[[], bool]
    ) -> None:
        """Print these whole records with so many packets, as far as there is room for them.

        ``layout`` is kernels/file/write.py's; ``given_up`` tells that it is no use to wait for room any more.
        """
        if not packets:
            return
        end, taken, why = len(records), packets, BUSY
        room = self._room(given_up)
        if self._dead or self._closed:
            end, taken, why = 0, 0, self._reason
        elif room < len(records) and not self._waits:
            end, taken, _ = whole_of(layout, records, 0, max(room, 0), swapped)
        if end:
            self._add(_Part(records[:end].tobytes(), taken))
        if taken < packets:
            self.not_printed[why] += packets - taken

    def insert(self, blocks: bytes) -> None:
        """Give the child something that is no packet."""
        self._add(_Part(blocks, 0))

    def close(self) -> None:
        """Let the child end once it has printed everything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, give_up: Flag | threading.Event) -> None:
        """Close, and return once the child has ended; ``give_up`` ends it at once."""
        self.close()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_WAIT_S)
                if give_up.is_set():
                    self.kill()

    def kill(self) -> None:
        """End the child at once."""
        self._stopped = True
        if self._process:
            self._process.kill()

    @property
    def _reason(self) -> str:
        return NO_READER if self.unwanted else ENDED

    def _room(self, given_up: Callable[[], bool]) -> int:
        with self._changed:
            while self._waits and self._waiting >= BUFFER_BYTES and not (self._dead or self._closed or given_up()):
                self._changed.wait(_WAIT_S)
            return BUFFER_BYTES - self._waiting

    def _add(self, part: _Part) -> None:
        with self._changed:
            if self._dead or self._closed:
                self.not_printed[self._reason] += part.packets
                return
            self._parts.append(part)
            self._waiting += len(part.data)
            self._accepted += part.packets
            self._changed.notify_all()

    def _feed(self) -> None:
        """The thread that writes to the child."""
        process = self._process
        assert process
        assert process.stdin
        part = None
        try:
            while part := self._next():
                data = memoryview(part.data)
                while data:
                    data = data[os.write(self._pipe, data) :]
        except OSError:  # it has ended
            self._threads[1].join()  # until it is known why
            with self._changed:
                self._accepted -= part.packets if part else 0
                self.not_printed[self._reason] += part.packets if part else 0
                self._forget()
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _next(self) -> _Part | None:
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._closed or self._dead)
            if self._dead or not self._parts:
                return None
            part = self._parts.popleft()
            self._waiting -= len(part.data)
            self._changed.notify_all()
            return part

    def _watch(self) -> None:
        """The thread that reads what the child complains of, and sees it end."""
        process = self._process
        assert process
        assert process.stderr
        for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            if text and not text.startswith(_CHATTER):
                self.messages.append(text)
        process.stderr.close()
        status = process.wait()
        with self._changed:
            early = not self._closed
            self.unwanted = not self._stopped and (early or status != 0) and _nobody_reads(1)
            self._forget()
        if self._stopped or self.unwanted or (status == 0 and not early):
            return
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self.failure = f"{self._program} {how}"
        goes_on = ": packets are no longer printed, the capture goes on" if early else ""
        self.messages.append(f"wirecap: {self.failure}{goes_on}")

    def _forget(self) -> None:
        """Count what waits for a child that is no more."""
        self._dead = True
        left = sum(part.packets for part in self._parts)
        self._accepted -= left
        if left:
            self.not_printed[self._reason] += left
        self._parts.clear()
        self._waiting = 0
        self._changed.notify_all()


def _nobody_reads(fd: int) -> bool:
    """Whether the other end of a pipe, a socket or a terminal has gone."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
