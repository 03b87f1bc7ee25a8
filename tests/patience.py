"""Filters are compiled, and their faults found, however long a thread stands still meanwhile."""

from __future__ import annotations

import pytest

from wirecap.filters import expression, libpcap


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what is bounded is the wait for the DNS, and for libpcap's optimiser."""
    monkeypatch.setattr(expression, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(libpcap, "PATIENCE_S", 60.0)
