"""Capture files made byte by byte, without the product, and a plain way to read them with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from wirecap.kernels import jit


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    import wirecap.kernels.pcap_read
    import wirecap.kernels.pcap_write

    jit.prepare([wirecap.kernels.pcap_read.scan])
    jit.prepare([wirecap.kernels.pcap_write.put_chunk, wirecap.kernels.pcap_write.whole_records])
