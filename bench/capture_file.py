"""What benchmarks need to know about the files that are written."""

from __future__ import annotations

import re
from pathlib import Path

from wirecap.lab.process import find, run

RECORD_BYTES = 40
"""The most that a file needs for a packet besides its bytes: pcapng's enhanced packet block with padding."""


def in_file(file: Path) -> int | None:
    """The packets in a capture file, counted by a program that is not ours; None if it is not installed."""
    if not find("capinfos"):
        return None
    found = re.search(r"Number of packets:\s*=?\s*(\d+)", run(["capinfos", "-M", "-c", str(file)]).output)
    return int(found[1]) if found else None
