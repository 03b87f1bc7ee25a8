"""Capture files to find packets in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "filters")]

from archive_rig import first_packets  # noqa: E402


@pytest.fixture(scope="session")
def part(mixed_trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 2,500 packets of mixed traffic, in pcap: fragments, tunnels, cut packets and lies among them."""
    return first_packets(mixed_trace, tmp_path_factory.mktemp("find") / "part.pcap", 2500)
