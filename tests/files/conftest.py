"""Capture files made byte by byte, without the product, and a plain way to read them with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from wirecap.kernels.base import jit


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    import wirecap.kernels.file.read
    import wirecap.kernels.file.write

    jit.prepare([wirecap.kernels.file.read.scan])
    jit.prepare([wirecap.kernels.file.write.whole_records])
