"""How a command puts a file where other programs look for it: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def put_in_place(path: Path, text: str, mode: int) -> None:
    """Write a file beside its place, then move it there over what was there.  Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
