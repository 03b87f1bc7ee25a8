"""What is told of each file that is complete: its name, to a list, and to a command that does something with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

from wirecap.errors import UsageError, WirecapError
from wirecap.files.shared import open_for_writing

STANDARD_OUTPUT = ("-", "stdout")
STANDARD_ERROR = "stderr"


class FinishedNames:
    """One line for each file that is closed, on the standard output, the standard error or in a file."""

    HINT = "-b printname: takes a file that can be written"

    def __init__(self, where: str) -> None:
        """``where`` is emptied.  Raises UsageError if it cannot be written."""
        self._file: BinaryIO | None = None
        if where in STANDARD_OUTPUT:
            self._stream: BinaryIO = sys.stdout.buffer
        elif where == STANDARD_ERROR:
            self._stream = sys.stderr.buffer
        else:
            try:
                self._stream = self._file = os.fdopen(open_for_writing(where, os.O_TRUNC), "wb")
            except OSError as error:
                raise UsageError(f"{where}: {error.strerror}", self.HINT) from None

    def add(self, path: str) -> None:
        """In one write: several queues' threads may tell at once."""
        self._stream.write(os.fsencode(path) + b"\n")
        self._stream.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


PATIENCE_S = 10.0
"""How long the end of a capture waits for the commands that are still to run."""


class FinishedCommands:
    """A command for each file, run by a process of its own, which has no privileges and is nobody's bottleneck."""

    def __init__(self, command: str, jobs: int, path: str) -> None:
        """jobs: how many may run at once; path: where the files are, whose owner the commands run as.

        Raises WirecapError if no process can be started.
        """
        asked = [str(jobs), str(Path(path).parent), command]
        runner = [sys.executable, "-P", "-m", "wirecap.files.command_runner", *asked]
        try:
            self._process = subprocess.Popen(
                runner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise WirecapError(f"--on-file: the process that runs the commands cannot be started: {reason}") from None
        assert self._process.stdin
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._told = 0
        self.notes: list[str] = []

    @staticmethod
    def check(command: str) -> None:
        """Raise UsageError for a command that cannot be run."""
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--on-file {command!r}: {error}", "quote it as for a shell") from None
        if not words:
            raise UsageError("--on-file: the command is empty", "write it as --on-file 'zstd -q --rm'")
        if not shutil.which(words[0]):
            raise UsageError(f"--on-file: {words[0]}: no such program", "give a program on the PATH, or its path")

    def add(self, path: str) -> None:
        """A file is complete.  Never waits."""
        with self._lock:
            self._told += 1
            self._waiting.append(os.fsencode(Path(path).absolute()) + b"\0")
            self._pass_on()

    def _pass_on(self) -> None:
        try:
            while self._waiting:
                sent = os.write(self._pipe, self._waiting[0])
                self._waiting[0] = self._waiting[0][sent:]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._waiting.clear()

    def close(self) -> None:
        """Wait for the commands, but not for ever: what is left goes on by itself."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            os.set_blocking(self._pipe, True)
            self._pass_on()
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.notes.append(f"--on-file: commands still run after {PATIENCE_S:g} s, and go on by themselves")
            return
        finally:
            os.set_blocking(self._process.stdout.fileno(), False)
            answer = self._process.stdout.read() or b""
            self._process.stdout.close()
        try:
            failed, last, gone = json.loads(answer)
        except (ValueError, TypeError):  # none, or none of the runner's
            self.notes.append(f"--on-file: the process that ran the commands for {self._told} files ended early")
            return
        if gone:
            self.notes.append(f"--on-file: {gone} of {self._told} files were removed before their command ran")
        if failed:
            self.notes.append(f"--on-file: the command failed for {failed} of {self._told} files ({last})")
