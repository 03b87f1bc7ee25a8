"""``python -m wirecap`` and the ``wirecap`` command."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    # A script's background job ignores SIGINT until its run begins, which that ends in any case (run.Interrupts).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    from wirecap.cli.main import run

    sys.exit(run(sys.argv[1:]))


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while modules are imported and kernels compiled, when nothing is half done that others could see.

    A KeyboardInterrupt could get lost: imports make another error of it, destructors and C callbacks none at all.
    """
    os.write(2, b"wirecap: interrupted\n")
    os._exit(1)


if __name__ == "__main__":
    main()
