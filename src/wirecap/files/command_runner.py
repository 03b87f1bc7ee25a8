"""Runs a command for each capture file: a program of its own, since the capture has privileges and no time.

    python -m wirecap.files.command_runner JOBS FOLDER COMMAND

File names come on the standard input, each ended by a zero byte.  The commands run as the folder's owner, without
capabilities, at low priority, JOBS at a time.  At the end the standard output gets [how many failed, which was the last
and why, how many files had been removed before their turn] as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from queue import SimpleQueue

from wirecap.linux.privileges import give_up_privileges

NICENESS = 10


def words_for(command: str, path: str) -> list[str]:
    """The command for a file: its name in place of each {}, or behind the rest."""
    words = shlex.split(command)
    if any("{}" in word for word in words):
        return [word.replace("{}", path) for word in words]
    return [*words, path]


class Runner:
    """Threads that run commands; each waits for one at a time."""

    def __init__(self, command: str, jobs: int) -> None:
        self._command = command
        self._paths: SimpleQueue[str | None] = SimpleQueue()
        self.failures: list[str] = []
        self.gone = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    def add(self, path: str) -> None:
        self._paths.put(path)

    def finish(self) -> None:
        """Wait for what is to be done."""
        for _ in self._threads:
            self._paths.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        # what a command prints is for the user's eyes: the capture's standard output may be data, ours is the answer
        shown = sys.stderr or subprocess.DEVNULL
        while (path := self._paths.get()) is not None:
            if not os.path.lexists(path):  # the bounds on all files come first
                self.gone += 1
                continue
            try:
                status = subprocess.run(
                    words_for(self._command, path), stdin=subprocess.DEVNULL, stdout=shown, stderr=shown, check=False
                ).returncode
                reason = f"exit status {status}" if status > 0 else f"killed by signal {-status}" if status else ""
            except OSError as error:
                reason = os.strerror(error.errno or 0)
            if reason:
                self.failures.append(f"{path}: {reason}")


def main(jobs: str, folder: str, command: str) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    give_up_privileges(folder)
    runner, rest = Runner(command, int(jobs)), b""
    while data := os.read(0, 65536):
        *paths, rest = (rest + data).split(b"\0")
        for path in paths:
            runner.add(os.fsdecode(path))
    runner.finish()
    answer = json.dumps([len(runner.failures), "".join(runner.failures[-1:]), runner.gone]).encode()
    with contextlib.suppress(OSError):  # the capture has ended, and nobody waits for it
        while answer:
            answer = answer[os.write(1, answer) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
