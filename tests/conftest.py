"""What all tests share: the marker of kernel tests, live testbeds (live.py), and traces of mixed traffic."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import mixed_trace as mixed_trace_file  # noqa: E402
from live import fresh_name, pytest_runtest_setup, testbed  # noqa: E402

__all__ = ["fresh_name", "pytest_runtest_setup", "testbed"]

# A loaded machine takes any time for an example, and that says nothing about what is tested.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    # A script's job in the background, or nohup: we go on ignoring it, programs that tests start inherit no handler.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE / "kernels"):
            item.add_marker(pytest.mark.kernel)


TRACES = Path(os.environ.get("WIRECAP_TRACES") or HERE.parent.parent / "shared" / "traces")
REAL_TRACE = TRACES / mixed_trace_file.NAME
_real = [pytest.param("real", marks=pytest.mark.real_trace)] if REAL_TRACE.exists() else []


@pytest.fixture(scope="session", params=["made", *_real])
def mixed_trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traffic of many kinds in a pcap file: made by mixed_trace.py, and real where WIRECAP_TRACES or ../shared/traces
    beside the checkout has it."""
    if request.param == "real":
        return REAL_TRACE
    return mixed_trace_file.write(tmp_path_factory.mktemp("trace") / mixed_trace_file.NAME)
