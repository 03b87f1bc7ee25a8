"""Where the name of each finished file is told: dumpcap's ``-b printname:FILE``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from wirecap.errors import UsageError

STANDARD_OUTPUT = ("-", "stdout")


class Names:
    """One line for each file that is closed, on the standard output, the standard error or in a file."""

    def __init__(self, where: str) -> None:
        """``where`` is emptied.  Raises UsageError if it cannot be written."""
        self._file: BinaryIO | None = None
        if where in STANDARD_OUTPUT:
            self._stream: BinaryIO = sys.stdout.buffer
        elif where == "stderr":
            self._stream = sys.stderr.buffer
        else:
            try:
                self._stream = self._file = Path(where).open("wb")  # noqa: SIM115
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise UsageError(f"{where}: {reason}", "-b printname: takes a file that can be written") from None

    def add(self, path: str) -> None:
        """In one write: several queues' threads may tell at once."""
        self._stream.write(os.fsencode(path) + b"\n")
        self._stream.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
