"""What benchmarks need to know of the files that are written."""

from __future__ import annotations

import re
from pathlib import Path

from wirecap.lab.process import find, run

RECORD_BYTES = 40
"""What a file takes for a packet besides its bytes, at the most: pcapng's enhanced packet block with padding."""


def in_file(file: Path) -> int | None:
    """The packets in a capture file, by a program that is not ours; None where it is not installed."""
    if not find("capinfos"):
        return None
    found = re.search(r"Number of packets:\s*=?\s*(\d+)", run(["capinfos", "-M", "-c", str(file)]).output)
    return int(found[1]) if found else None
