"""``python -m wirecap`` and the ``wirecap`` command."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # a script's question that comes too early must not be the end
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _too_early)
    # What was ignored at the start stays so until the run begins (signals.Interrupts): a script's background job starts
    # with SIGINT ignored, and nohup(1) with SIGHUP.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    from wirecap.cli.main import run

    sys.exit(run(sys.argv[1:], own_process=True))


def _interrupted(number: int, frame: FrameType | None) -> None:
    """A signal while modules are imported and kernels compiled, when nothing that others could see is half done.

    A KeyboardInterrupt could get lost: imports turn it into another error, destructors and C callbacks swallow it.
    """
    os.write(2, b"wirecap: interrupted\n")
    if number != signal.SIGINT:  # a service manager wants to see which signal it was
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # still here: the first process of a container has no default actions
    os._exit(1)


def _too_early(number: int, frame: FrameType | None) -> None:
    """SIGUSR1 or SIGUSR2 before packets are captured: there are no counters yet, no file, and nothing to save."""


if __name__ == "__main__":
    main()
