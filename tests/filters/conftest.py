"""The packets that the filter tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from filter_corpus import Trace, read_trace

from wirecap.filters import expression


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine looks for the wrong word as long as it takes; what is bounded is the wait for the DNS."""
    monkeypatch.setattr(expression, "_PATIENCE_S", 60.0)


@pytest.fixture(scope="session")
def trace(mixed_trace: Path) -> Trace:
    """The real trace: its bytes, and the four rows of its packets."""
    return read_trace(mixed_trace)
