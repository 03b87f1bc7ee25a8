from __future__ import annotations

import pytest

from rig import time_limit

__all__ = ["time_limit"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where captures show themselves: nobody else's are there."""
    monkeypatch.setenv("WIRECAP_RUNTIME_DIR", str(tmp_path))
    return tmp_path
