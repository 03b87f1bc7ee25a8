"""What all tests share: the marker of kernel tests, live testbeds (live.py), and the real traces."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from live import fresh_name, pytest_runtest_setup, testbed  # noqa: E402

__all__ = ["fresh_name", "pytest_runtest_setup", "testbed"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE / "kernels"):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def mixed_trace() -> Path:
    """Real traffic: WIRECAP_TRACES or ../shared/traces beside the checkout."""
    folder = Path(os.environ.get("WIRECAP_TRACES") or HERE.parent.parent / "shared" / "traces")
    trace = folder / "mixed-30s.pcap"
    if not trace.exists():
        pytest.skip(f"no trace at {trace}: set WIRECAP_TRACES to the folder that has mixed-30s.pcap")
    return trace
