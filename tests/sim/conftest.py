from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True, scope="session")
def compiled():
    """Every simulated engine, ahead of what is measured or bounded in time."""
    from wirecap.kernels.base import jit
    from wirecap.sim.models import TABLE

    jit.prepare([kernel for engine in TABLE.values() for kernel in engine.kernels])
