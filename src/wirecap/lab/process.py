"""A child process in a network namespace and on chosen CPUs, with its output watched and its run time bounded."""

from __future__ import annotations

import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from wirecap.errors import WirecapError
from wirecap.linux import netns
from wirecap.signals import postponed

TOOLS_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""PATH with the folders of root's tools, which not every user has on it."""


def find(program: str) -> str | None:
    """The program's path, or None."""
    return shutil.which(program, path=TOOLS_PATH)


@dataclass(frozen=True)
class Ended:
    """A child that has ended."""

    status: int
    """The exit status, or minus the number of the signal that killed it."""
    output: str
    duration_s: float
    cpu_s: float
    """User plus system time."""


class Child:
    """A running program.  Its output, on both streams, is collected; ``wait_for`` waits for a line of it.

    ``terminal`` gives it a pseudo-terminal to print on, for programs that buffer their output on a pipe.
    """

    def __init__(
        self,
        command: list[str],
        namespace: str | None = None,
        cpus: set[int] | None = None,
        terminal: bool = False,
    ) -> None:
        self.command = command
        self._text = bytearray()
        self._began = time.monotonic()
        try:
            with postponed():
                self._start(namespace, cpus, terminal)
        except KeyboardInterrupt:
            if "_process" in vars(self):
                self.end(signal.SIGKILL)
            raise

    def _start(self, namespace: str | None, cpus: set[int] | None, terminal: bool) -> None:
        reader, writer = pty.openpty() if terminal else os.pipe()
        try:
            self._process = netns.call(namespace, self._spawn, writer, cpus) if namespace else self._spawn(writer, cpus)
        except FileNotFoundError:
            os.close(reader)
            name = self.command[0]
            raise WirecapError(f"program not found: {name}", "install it, or add its folder to PATH") from None
        finally:
            os.close(writer)
        self._collector = threading.Thread(target=self._collect, args=(reader,), name="child-output", daemon=True)
        self._collector.start()

    def _spawn(self, writer: int, cpus: set[int] | None) -> subprocess.Popen[bytes]:
        before = os.sched_getaffinity(0)
        if cpus:
            os.sched_setaffinity(0, cpus)  # for this thread; the child inherits it
        try:
            command = [find(self.command[0]) or self.command[0], *self.command[1:]]
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=writer, stderr=writer, start_new_session=True
            )
        finally:
            if cpus:
                os.sched_setaffinity(0, before)

    def _collect(self, reader: int) -> None:
        try:
            while data := os.read(reader, 65536):
                self._text += data
        except OSError:
            pass  # a pseudo-terminal ends with EIO
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return bytes(self._text).decode(errors="replace").replace("\r\n", "\n")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """Wait until the output matches; WirecapError with the last lines if the program ends or time runs out."""
        limit = time.monotonic() + timeout_s
        while True:
            ended = not self.running
            if ended:
                self._collector.join(10.0)
            found = re.search(pattern, self.output, re.MULTILINE)
            if found:
                return found
            if ended or time.monotonic() > limit:
                self.end(signal.SIGKILL)
                how = f"exited with status {self._process.returncode}" if ended else f"was not ready in {timeout_s:g} s"
                last = " | ".join(self.output.strip().splitlines()[-4:])
                raise WirecapError(f"{self.command[0]} {how}: {last}")
            time.sleep(0.01)

    def end(self, number: int | None = signal.SIGINT, timeout_s: float = 60.0) -> Ended:
        """Send a signal (None: let it finish on its own) and wait; kill it if it does not end in time."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if number is not None and self.running:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if self._process.stdin:
            self._process.stdin.close()
        self._collector.join(10.0)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Ended(self._process.returncode, self.output, time.monotonic() - self._began, cpu_s)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


def run(command: list[str], namespace: str | None = None, cpus: set[int] | None = None, timeout_s: float = 60) -> Ended:
    """Run a program to its end, for at most ``timeout_s``."""
    with Child(command, namespace, cpus) as child:
        return child.end(None, timeout_s)
