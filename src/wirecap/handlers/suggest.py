"""What was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(written: str, known: Iterable[str]) -> str:
    """``did you mean count?``, or nothing where no name comes close."""
    close = get_close_matches(written, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
