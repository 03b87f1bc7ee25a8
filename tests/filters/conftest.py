"""The packets that the filter tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from filter_corpus import Trace, read_trace


@pytest.fixture(scope="session")
def trace(mixed_trace: Path) -> Trace:
    """The real trace: its bytes, and the four rows of its packets."""
    return read_trace(mixed_trace)
